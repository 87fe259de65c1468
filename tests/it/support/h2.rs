//! An HTTP/2 client.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{HOST, PATIENCE, Tls};

/// Runs a test that waits.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, test).await.unwrap() })
}

/// One connection.
pub struct Session {
    pub sender: SendRequest<Upload>,
    /// Ends with the connection.
    pub driver: JoinHandle<hyper::Result<()>>,
}

/// A response that came in full.
#[derive(Debug)]
pub struct Full {
    pub head: Response<()>,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// The body of a request: the frames that its sender sends.
#[derive(Debug)]
pub struct Upload(Option<mpsc::Receiver<Frame<Bytes>>>);

impl Upload {
    pub fn empty() -> Self {
        Self(None)
    }

    /// A body and where its frames are put in.
    pub fn channel() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(Some(receiver)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(receiver) => receiver.poll_recv(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

impl Session {
    /// Connects; `tls` must offer `h2`.
    pub async fn open(address: SocketAddr, tls: &Tls) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(tls.name.clone()).unwrap();
        let stream = TlsConnector::from(tls.config.clone()).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        Self { sender, driver: Handle::current().spawn(connection) }
    }

    /// Connects without TLS, with prior knowledge.
    pub async fn open_plain(address: SocketAddr) -> Self {
        Self::open_plain_after(address, b"").await
    }

    /// The same, with settings of its own.
    pub async fn open_plain_with(
        address: SocketAddr,
        set: impl FnOnce(&mut http2::Builder<TokioExecutor>),
    ) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        set(&mut builder);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, driver: Handle::current().spawn(connection) }
    }

    /// The same, after bytes of a proxy in front.
    pub async fn open_plain_after(address: SocketAddr, before: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(before).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        Self { sender, driver: Handle::current().spawn(connection) }
    }

    pub async fn send(&mut self, request: Request<Upload>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Asks for a tunnel (RFC 8441), once the SETTINGS that offer it have come.
    pub async fn ask_for_tunnel(&mut self, protocol: &'static str) -> Response<Incoming> {
        // The answer to a request is behind them.
        let _ = self.send(get("/settings")).await;
        let mut request = request("CONNECT", "/socket?a=b", Upload::empty());
        request.extensions_mut().insert(Protocol::from_static(protocol));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        self.send(request).await.unwrap()
    }

    /// Opens one.
    pub async fn tunnel(&mut self) -> TokioIo<Upgraded> {
        let response = self.ask_for_tunnel("websocket").await;
        assert_eq!(response.status(), 200);
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    }

    pub async fn get(&mut self, path: &str) -> Full {
        full(self.send(get(path)).await.unwrap()).await.unwrap()
    }
}

/// A GET for [`HOST`].
pub fn get(path: &str) -> Request<Upload> {
    request("GET", path, Upload::empty())
}

pub fn request(method: &str, path: &str, body: Upload) -> Request<Upload> {
    let uri = format!("https://{HOST}{path}");
    Request::builder().method(method).uri(uri).body(body).unwrap()
}

/// Reads a response to its end.
pub async fn full(response: Response<Incoming>) -> hyper::Result<Full> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Full { head: Response::from_parts(parts, ()), body: collected.to_bytes(), trailers })
}
