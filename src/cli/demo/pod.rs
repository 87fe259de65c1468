//! A pod of the demo: a small HTTP server that can be slow, flaky, or away for a while.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::shutdown::Tasks;

/// How long a stopped pod stays away.
const AWAY: Duration = Duration::from_secs(15);
/// How long answers under way may still take when it stops.
const LAST_ANSWER: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
pub(super) struct Pod {
    pub(super) name: &'static str,
    /// Added to every answer.
    pub(super) delay: Duration,
}

/// What its requests share.
struct Running {
    pod: Pod,
    served: Cell<u64>,
    flaky: Cell<bool>,
    /// Counts how often it was stopped.
    stops: watch::Sender<u64>,
}

impl Pod {
    /// Starts the pod on a thread of its own, which ends with the process.
    pub(super) fn start(self) -> io::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime =
            || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            if let Ok(runtime) = runtime() {
                runtime.block_on(self.serve(listener, address));
            }
        })?;
        Ok(address)
    }

    async fn serve(self, first: std::net::TcpListener, address: SocketAddr) {
        let (stops, mut stopped) = watch::channel(0);
        let running =
            Rc::new(Running { pod: self, served: Cell::new(0), flaky: Cell::new(false), stops });
        let tasks = Tasks::default();
        let mut listener = TcpListener::from_std(first);
        loop {
            if let Ok(open) = &listener {
                loop {
                    tokio::select! {
                        accepted = open.accept() => if let Ok((stream, _)) = accepted {
                            tasks.spawn("pod connection", running.clone().connection(stream));
                        },
                        _ = stopped.changed() => break,
                    }
                }
            }
            drop(listener);
            sleep(AWAY).await;
            listener = TcpListener::bind(address).await;
        }
    }
}

impl Running {
    /// Serves one connection until its end or the pod's.
    async fn connection(self: Rc<Self>, stream: TcpStream) {
        let mut stopped = self.stops.subscribe();
        let answer = service_fn(move |request| self.clone().answer(request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        let mut connection = pin!(connection);
        tokio::select! {
            // A client that leaves is no news.
            _ = &mut connection => return,
            _ = stopped.changed() => {}
        }
        // The answer to the request to stop.
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }

    async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let name = self.pod.name;
        let (status, text) = match request.uri().path() {
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/stop" => {
                self.stops.send_modify(|stops| *stops += 1);
                (StatusCode::OK, format!("{name} stops for {} s\n", AWAY.as_secs()))
            }
            "/flaky/on" => {
                self.flaky.set(true);
                (StatusCode::OK, format!("{name} fails every other request\n"))
            }
            "/flaky/off" => {
                self.flaky.set(false);
                (StatusCode::OK, format!("{name} works\n"))
            }
            path => {
                sleep(self.pod.delay).await;
                self.served.set(self.served.get() + 1);
                let served = self.served.get();
                match self.flaky.get() && served.is_multiple_of(2) {
                    true => (StatusCode::SERVICE_UNAVAILABLE, format!("{name} fails\n")),
                    false => (StatusCode::OK, format!("{name} answers {path}, its no. {served}\n")),
                }
            }
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if request.uri().path().starts_with("/cached/") && status == StatusCode::OK {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=30"));
        }
        Ok(response)
    }
}
