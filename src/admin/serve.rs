//! Accepting connections and answering their requests, each within bounds.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::reply::{Refusal, Reply};
use super::socket::{Acceptor, AdminSocket, Reach, Stream};
use super::{Context, router};
use crate::shutdown::{Phase, Tasks};

const CONNECTIONS_MAX: usize = 64;
/// From the end of an answer, or from the accept, to the end of the next head. So it is also how
/// long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 << 10;
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// From the head of a request to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Since the last head; after this long only a client that does not read its answer is left.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Long works on threads of their own at the same time.
const WORKS_MAX: usize = 4;

/// What every request of the API is answered from.
pub(super) struct Service {
    pub(super) context: Rc<Context>,
    pub(super) reach: Reach,
    works: Arc<Semaphore>,
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
    let service = Rc::new(Service { context, reach, works: Arc::new(Semaphore::new(WORKS_MAX)) });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.reached(Phase::Aborting) => return,
            accepted = next(&acceptor, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let service = service.clone();
                tasks.spawn("admin connection", async move {
                    let _place = place;
                    drive(stream, service).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API failed to accept");
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Waits for a place among the connections, then for a connection.
async fn next(
    acceptor: &Acceptor,
    places: &Arc<Semaphore>,
) -> std::io::Result<(Box<dyn Stream>, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((acceptor.accept().await?, place))
}

/// One connection to its end.
async fn drive(stream: Box<dyn Stream>, service: Rc<Service>) {
    let last_head = Rc::new(Cell::new(Instant::now()));
    let mut stop = service.context.stop.clone();
    let answer = service_fn({
        let last_head = last_head.clone();
        move |request| {
            last_head.set(Instant::now());
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.answer(request).await) }
        }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
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
        () = overdue(&last_head) => tracing::debug!("admin client does not read its answer"),
    }
}

/// Resolves when no head has come for too long.
async fn overdue(last_head: &Cell<Instant>) {
    loop {
        let deadline = last_head.get() + EXCHANGE_TIMEOUT;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
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
        let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the work was broken off");
        let turn = self.works.clone().acquire_owned().await.map_err(|_| failed())?;
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

    use super::super::testing::{Running, run};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_further_head_is_overdue_after_a_minute() {
        let start = Instant::now();
        let last_head = Cell::new(start);
        let later = async {
            sleep(Duration::from_secs(30)).await;
            last_head.set(Instant::now());
        };
        tokio::join!(overdue(&last_head), later);
        assert_eq!(start.elapsed(), Duration::from_secs(30) + EXCHANGE_TIMEOUT);
    }

    #[test]
    fn a_silent_connection_is_closed_after_the_head_timeout() {
        run(async {
            let running = Running::start("");
            tokio::time::pause();
            let start = Instant::now();
            let mut silent = TcpStream::connect(running.address).await.unwrap();
            let mut rest = Vec::new();
            silent.read_to_end(&mut rest).await.unwrap();
            assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
        });
    }

    #[test]
    fn a_connection_above_the_limit_waits_for_a_place() {
        run(async {
            let running = Running::start("");
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                // Answered, so that each is known to have its place.
                let mut stream = TcpStream::connect(running.address).await.unwrap();
                let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
                stream.write_all(request).await.unwrap();
                stream.read_u8().await.unwrap();
                held.push(stream);
            }
            let mut waiting = pin!(running.get("/livez"));
            // The clock moves on only when nothing else is left to do.
            tokio::time::pause();
            assert!(timeout(HEAD_TIMEOUT / 2, &mut waiting).await.is_err());
            tokio::time::resume();
            held.pop();
            assert_eq!(waiting.await.status, 200);
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
