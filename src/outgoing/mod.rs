//! Calls that we make ourselves: an API, a list, a certificate authority. Never a request of a client.
//!
//! One call is one connection, HTTP/1.1, with or without TLS. It is bounded in time and in bytes.
//! Redirects are answers like others: whoever calls knows whether they are to be believed.
//!
//! Deliberately absent: connections that rest, HTTP/2, proxies, cookies, retries. Calls are rare,
//! and only the caller knows what may be sent twice.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::config::model::FileContent;
use crate::tls::{ALPN_H1, LoadError, client_trusting};

pub mod error;
#[cfg(test)]
mod tests;

pub use error::{Error, Step};

/// What we call ourselves where we are the client.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("headwater/", env!("CARGO_PKG_VERSION")));
/// Fields of an answer.
const HEADERS_MAX: usize = 100;
/// Addresses of one name that are tried, in the order of the resolver.
const ADDRESSES_MAX: usize = 8;

/// The bounds of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For the look-up of the name, the connection and the TLS handshake.
    pub connect_timeout: Duration,
    /// For everything, connecting included.
    pub total_timeout: Duration,
    /// Bytes of an answer's body.
    pub body_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            body_bytes_max: 1024 * 1024,
        }
    }
}

/// Whom to trust, and the bounds of calls. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    bounds: Bounds,
    /// The roots of the system are read with the first call that needs them.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that trusts the authorities in `ca`, or those of the system.
    ///
    /// # Errors
    /// A file without certificates, or with one that cannot be read.
    pub fn new(ca: Option<&FileContent>, bounds: Bounds) -> Result<Self, LoadError> {
        let tls = OnceLock::new();
        if let Some(ca) = ca {
            // The cell is new, so nobody was first.
            let _ = tls.set(client_trusting(Some(ca), &[ALPN_H1])?);
        }
        Ok(Self { bounds, tls: Arc::new(tls) })
    }

    /// Sends `request`, whose target is an absolute `http` or `https` URL, and reads the whole answer,
    /// whatever its status. `Host` and `User-Agent` are set here.
    ///
    /// # Errors
    /// Everything that keeps the answer from being read whole; see [`Error::step`] for whether the
    /// other side can have seen the request.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let started = Instant::now();
        let deadline = started + self.bounds.total_timeout;
        let target = Target::of(request.uri())?;
        let connect_deadline = deadline.min(started + self.bounds.connect_timeout);
        let stream = connect(&target, connect_deadline).await?;
        let request = target.origin_form(request)?;
        let exchange = async {
            if target.is_tls {
                let stream = self.handshake(&target, stream, connect_deadline).await?;
                exchange(stream, request, self.bounds.body_bytes_max).await
            } else {
                exchange(stream, request, self.bounds.body_bytes_max).await
            }
        };
        let answer = timeout_at(deadline, exchange).await;
        answer
            .unwrap_or_else(|_| Err(Error::timeout(Step::Answer)))
            .map_err(|error| error.of(&target.authority))
    }

    async fn handshake(
        &self,
        target: &Target,
        stream: TcpStream,
        deadline: Instant,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Error> {
        let config = match self.tls.get() {
            Some(config) => Arc::clone(config),
            None => {
                // The authorities of the system are files.
                let reading = tokio::task::spawn_blocking(|| client_trusting(None, &[ALPN_H1]));
                let config = match timeout_at(deadline, reading).await {
                    Ok(Ok(read)) => read.map_err(|error| Error::new(Step::Tls, error))?,
                    Ok(Err(broken)) => return Err(Error::new(Step::Tls, broken)),
                    Err(_) => return Err(Error::timeout(Step::Tls)),
                };
                Arc::clone(self.tls.get_or_init(|| config))
            }
        };
        let name = ServerName::try_from(target.bare_host().to_owned())
            .map_err(|error| Error::new(Step::Url, error))?;
        match timeout_at(deadline, TlsConnector::from(config).connect(name, stream)).await {
            Ok(done) => done.map_err(|error| Error::new(Step::Tls, error)),
            Err(_) => Err(Error::timeout(Step::Tls)),
        }
    }
}

/// Where a call goes.
struct Target {
    host: String,
    port: u16,
    is_tls: bool,
    /// As `Host` says it and as errors do.
    authority: String,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(Error::url("it must begin with http:// or https://")),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| Error::url("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(Error::url("it must not hold a user name"));
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let (host, authority) = (authority.host().to_owned(), authority.to_string());
        Ok(Self { host, port, is_tls, authority })
    }

    /// Without the brackets of IPv6.
    fn bare_host(&self) -> &str {
        let inner = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(&self.host)
    }

    fn origin_form(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.into_parts().path_and_query;
        head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        let host = HeaderValue::try_from(&self.authority);
        head.headers.insert(HOST, host.map_err(|error| Error::new(Step::Url, error))?);
        head.headers.insert(USER_AGENT, AGENT);
        Ok(Request::from_parts(head, Full::new(body)))
    }
}

/// Opens a connection to the first address that takes one. Each gets a fair share of the time that
/// is left, so that one that answers nothing does not cost the others.
async fn connect(target: &Target, deadline: Instant) -> Result<TcpStream, Error> {
    let found = timeout_at(deadline, lookup_host((target.bare_host(), target.port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => return Err(Error::new(Step::Resolve, error).of(&target.authority)),
        Err(_) => return Err(Error::timeout(Step::Resolve).of(&target.authority)),
    };
    let mut last = Error::url("its name has no address");
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        left -= 1;
        last = match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Error::new(Step::Connect, error),
            Err(_) => Error::timeout(Step::Connect),
        };
    }
    Err(last.of(&target.authority))
}

/// One request and its whole answer. The connection is driven here, and dropped at the end.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<Response<Bytes>, Error> {
    let failed = |error: hyper::Error| Error::new(Step::Answer, error);
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let answer = async {
        let (head, mut body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            if data.len() > body_bytes_max - bytes.len() {
                return Err(Error::too_large(body_bytes_max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Response::from_parts(head, bytes.freeze()))
    };
    tokio::pin!(answer, connection);
    let mut is_connected = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // What it ended with is in the answer.
            _ = &mut connection, if is_connected => is_connected = false,
        }
    }
}
