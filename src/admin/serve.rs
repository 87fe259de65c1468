//! Accepting connections and answering their requests, each within bounds.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::places::{CLIENT_TIMEOUT, Place, Places};
use super::reply::{Refusal, Reply};
use super::socket::{Acceptor, AdminSocket, Reach, Stream};
use super::{Context, router};
use crate::shutdown::{Phase, Tasks};
use crate::upstream::{is_ours, tell};

const HEAD_BYTES_MAX: usize = 16 << 10;
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// From the head of a request to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Long works on threads of their own at the same time.
const WORKS_MAX: usize = 4;
/// Scrapes at the same time: other works do not keep them waiting.
const SCRAPES_MAX: usize = 2;

/// What every request of the API is answered from.
pub(super) struct Service {
    pub(super) context: Rc<Context>,
    pub(super) reach: Reach,
    works: Arc<Semaphore>,
    scrapes: Arc<Semaphore>,
}

/// Answers requests until the process aborts, or this is dropped: probes and scrapes go on while
/// connections drain.
pub async fn serve(socket: AdminSocket, context: Rc<Context>, tasks: Tasks) {
    let (address, reach) = (socket.address().clone(), socket.reach());
    let acceptor = match socket.into_acceptor() {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(%address, %error, "the admin API cannot accept");
            return;
        }
    };
    let mut stop = context.stop.clone();
    let works = Arc::new(Semaphore::new(WORKS_MAX));
    let scrapes = Arc::new(Semaphore::new(SCRAPES_MAX));
    let service = Rc::new(Service { context, reach, works, scrapes });
    let places = Rc::new(Places::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.reached(Phase::Aborting) => return,
            accepted = next(&acceptor, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let service = service.clone();
                tasks.spawn("admin connection", drive(stream, place, service));
            }
            Err(error) => {
                if is_ours(&error) {
                    tell(&error, "the admin API cannot accept");
                } else {
                    tracing::warn!(%error, "the admin API failed to accept");
                }
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Waits for a connection, then for a place.
async fn next(
    acceptor: &Acceptor,
    places: &Rc<Places>,
) -> std::io::Result<(Box<dyn Stream>, Place)> {
    let stream = acceptor.accept().await?;
    Ok((stream, places.take().await))
}

/// One connection to its end.
async fn drive(stream: Box<dyn Stream>, place: Place, service: Rc<Service>) {
    let mut stop = service.context.stop.clone();
    let answer = service_fn({
        let place = place.clone();
        move |request| {
            let (service, place) = (service.clone(), place.clone());
            async move { Ok::<_, Infallible>(service.answer(request, &place).await) }
        }
    });
    let stream = Watched { stream, place: place.clone() };
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let http = pin!(http);
    tokio::select! {
        biased;
        () = stop.reached(Phase::Aborting) => {}
        result = http => if let Err(error) = result {
            tracing::debug!(%error, "admin connection ended");
        },
        reason = place.over() => tracing::debug!(reason, "admin connection closed"),
    }
}

/// A stream that notes when its client takes something.
struct Watched {
    stream: Box<dyn Stream>,
    place: Place,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.place.progress();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>, place: &Place) -> Reply {
        if !place.begin(router::is_public(request.uri().path())) {
            place.answered();
            let message = "too many calls at the same time";
            let mut reply = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).into_reply();
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return reply;
        }
        let answer = timeout(REQUEST_TIMEOUT, router::answer(self, request)).await;
        let mut reply = match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => refusal.into_reply(),
            Err(_) => {
                let message = "not done within 30 s; what was begun goes on";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).into_reply()
            }
        };
        if self.is_stopping() {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        place.answered();
        reply
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.context.stop.phase() > Phase::Running
    }

    /// Runs what nobody waits for on a thread of its own.
    pub(super) fn later(&self, work: impl FnOnce() + Send + 'static) {
        drop(tokio::task::spawn_blocking(work));
    }

    /// Runs what takes long on a thread of its own. Once begun it ends, even if its client leaves.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        Self::in_turn(&self.works, work).await
    }

    /// The same for a scrape.
    pub(super) async fn scrape<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        Self::in_turn(&self.scrapes, work).await
    }

    async fn in_turn<T: Send + 'static>(
        turns: &Arc<Semaphore>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the work was broken off");
        let turn = turns.clone().acquire_owned().await.map_err(|_| failed())?;
        let worked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        worked.await.map_err(|error| {
            tracing::error!(%error, "work of the admin API broke off");
            failed()
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use tokio::time::Instant;

    use super::super::testing::{Running, run};
    use super::*;

    #[test]
    fn a_silent_connection_is_closed_after_the_head_timeout() {
        run(async {
            let running = Running::start("");
            tokio::time::pause();
            let start = Instant::now();
            let mut silent = TcpStream::connect(running.address).await.unwrap();
            let mut rest = Vec::new();
            silent.read_to_end(&mut rest).await.unwrap();
            assert_eq!(start.elapsed().as_secs(), CLIENT_TIMEOUT.as_secs());
        });
    }

    #[test]
    fn probes_are_answered_beside_silent_connections() {
        run(async {
            let running = Running::start("");
            let mut silent = Vec::new();
            for _ in 0..300 {
                silent.push(TcpStream::connect(running.address).await.unwrap());
            }
            for path in ["/livez", "/readyz", "/metrics", "/api/status"] {
                assert_ne!(running.get(path).await.head, "", "{path}");
            }
        });
    }

    #[test]
    fn probes_are_answered_beside_bodies_that_do_not_come() {
        run(async {
            let running = Running::start("");
            let mut slow = Vec::new();
            for _ in 0..300 {
                let mut stream = TcpStream::connect(running.address).await.unwrap();
                let head = "POST /api/cache/purge HTTP/1.1\r\nHost: localhost\r\n\
                            Content-Type: application/json\r\nContent-Length: 9\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                slow.push(stream);
            }
            assert_eq!(running.get("/livez").await.status, 200);
            assert_eq!(running.get("/metrics").await.status, 200);
        });
    }

    #[test]
    fn answers_close_their_connection_once_the_process_stops() {
        run(async {
            let running = Running::start("");
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            running.shutdown.enter(Phase::Draining);
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        });
    }

    #[test]
    fn everything_ends_when_the_process_aborts() {
        run(async {
            let running = Running::start("");
            let mut idle = TcpStream::connect(running.address).await.unwrap();
            running.get("/livez").await;
            running.shutdown.enter(Phase::Aborting);
            let mut rest = Vec::new();
            idle.read_to_end(&mut rest).await.unwrap();
            assert!(running.tasks.ended(Duration::from_secs(5)).await);
        });
    }
}
