//! An origin that speaks HTTP/2, stream by stream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A call: its request, and where its answer goes.
pub struct Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    /// Which call of its connection it is, counted from 0.
    pub number: usize,
    calm: Arc<Calm>,
}

/// What becomes of a connection behind a call.
pub enum Then {
    Continue,
    /// GOAWAY, once what is under way has ended.
    GoAway,
    /// The connection is broken off.
    Break,
}

pub struct H2Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    totals: Arc<Totals>,
    _runtime: tokio::runtime::Runtime,
}

/// How many resets an origin takes on a connection before it protects itself.
struct Calm {
    resets_max: usize,
    resets: AtomicUsize,
    exceeded: Notify,
    totals: Arc<Totals>,
}

#[derive(Default)]
struct Totals {
    resets: AtomicUsize,
    goaways: AtomicUsize,
}

impl Calm {
    fn note_reset(&self) {
        self.totals.resets.fetch_add(1, Ordering::SeqCst);
        if self.resets.fetch_add(1, Ordering::SeqCst) >= self.resets_max {
            self.exceeded.notify_one();
        }
    }
}

impl fmt::Display for H2Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl H2Origin {
    /// Answers calls by `script`, which may go on in a task of its own.
    pub fn scripted(
        streams_max: u32,
        script: impl Fn(Call) -> Then + Send + Sync + 'static,
    ) -> Self {
        let mut builder = Builder::new();
        builder.max_concurrent_streams(streams_max);
        Self::with(builder, script)
    }

    /// One that offers extended CONNECT.
    pub fn tunnelling(script: impl Fn(Call) -> Then + Send + Sync + 'static) -> Self {
        let mut builder = Builder::new();
        builder.enable_connect_protocol();
        Self::with(builder, script)
    }

    /// The same, with at most so many streams on a connection.
    pub fn tunnelling_at_most(
        streams_max: u32,
        script: impl Fn(Call) -> Then + Send + Sync + 'static,
    ) -> Self {
        let mut builder = Builder::new();
        builder.enable_connect_protocol().max_concurrent_streams(streams_max);
        Self::with(builder, script)
    }

    /// One that answers more than `resets_max` resets, which its script [waits for](Call::reset),
    /// by ENHANCE_YOUR_CALM on the connection that they came on.
    pub fn calm(resets_max: usize, script: impl Fn(Call) -> Then + Send + Sync + 'static) -> Self {
        let mut builder = Builder::new();
        builder.max_concurrent_streams(100).enable_connect_protocol();
        Self::calm_with(resets_max, builder, script)
    }

    fn with(builder: Builder, script: impl Fn(Call) -> Then + Send + Sync + 'static) -> Self {
        Self::calm_with(usize::MAX, builder, script)
    }

    fn calm_with(
        resets_max: usize,
        builder: Builder,
        script: impl Fn(Call) -> Then + Send + Sync + 'static,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let totals = Arc::new(Totals::default());
        let (count, script, counted) = (connections.clone(), Arc::new(script), totals.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (script, builder) = (script.clone(), builder.clone());
                let calm = Arc::new(Calm {
                    resets_max,
                    resets: AtomicUsize::new(0),
                    exceeded: Notify::new(),
                    totals: counted.clone(),
                });
                Handle::current().spawn(async move {
                    let Ok(mut session) = builder.handshake(stream).await else { return };
                    let mut number = 0;
                    loop {
                        let accepted = tokio::select! {
                            biased;
                            accepted = session.accept() => accepted,
                            () = calm.exceeded.notified() => {
                                calm.totals.goaways.fetch_add(1, Ordering::SeqCst);
                                session.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                                continue;
                            }
                        };
                        let Some(Ok((request, respond))) = accepted else { return };
                        match script(Call { request, respond, number, calm: calm.clone() }) {
                            Then::Continue => {}
                            Then::GoAway => session.graceful_shutdown(),
                            Then::Break => return,
                        }
                        number += 1;
                    }
                });
            }
        });
        Self { address, connections, totals, _runtime: runtime }
    }

    /// Calls that were reset, of those whose script waited for that.
    pub fn resets(&self) -> usize {
        self.totals.resets.load(Ordering::SeqCst)
    }

    /// Connections that were ended for it.
    pub fn goaways(&self) -> usize {
        self.totals.goaways.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Call {
    pub fn path(&self) -> String {
        self.request.uri().path().to_owned()
    }

    pub fn answer(mut self, body: impl Into<Bytes>) -> Then {
        let mut stream = self.respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(body.into(), true).unwrap();
        Then::Continue
    }

    /// Waits for its reset, and counts it.
    pub async fn reset(&mut self) {
        if std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await.is_ok() {
            self.calm.note_reset();
        }
    }

    pub fn refuse(mut self) -> Then {
        self.respond.send_reset(Reason::REFUSED_STREAM);
        Then::Continue
    }

    /// Sends every part of the request back as it comes, and its trailers at the end.
    pub fn echo(mut self) -> Then {
        Handle::current().spawn(async move {
            let mut answer = Response::new(());
            let kind = self.request.headers().get("content-type").cloned();
            answer.headers_mut().extend(kind.map(|kind| (http::header::CONTENT_TYPE, kind)));
            let mut stream = self.respond.send_response(answer, false).unwrap();
            let body = self.request.body_mut();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                let _ = stream.send_data(data, false);
            }
            let trailers = body.trailers().await.ok().flatten().unwrap_or_else(HeaderMap::new);
            let _ = stream.send_trailers(trailers);
        });
        Then::Continue
    }
}
