//! One request of a probe on a connection of its own, over HTTP/1.1 or HTTP/2.
//!
//! What drives the connection runs beside the request in one task, so that all of it is gone with
//! the probe, however that ends: by its answer, its timeout or its schedule.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;

use crate::config::model::Protocol;
use crate::upstream::UpstreamIo;
use crate::upstream::why_io_failed;

/// The largest head of an answer, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;
/// Fields in the head of an answer.
const FIELDS_MAX: usize = 100;
/// How much of a body may be under way, in bytes.
const WINDOW_BYTES: u32 = 64 << 10;

/// Sends a request and has its answer read; fails with the reason in words.
pub(super) async fn converse<T>(
    io: UpstreamIo,
    protocol: Protocol,
    request: Request<Full<Bytes>>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, hyper::Error>,
) -> Result<T, String> {
    let beside = Beside::default();
    let asking = async {
        let io = TokioIo::new(io);
        match protocol {
            Protocol::H1 => {
                let (mut sender, connection) = http1::Builder::new()
                    .max_headers(FIELDS_MAX)
                    .max_header_size(HEAD_BYTES_MAX)
                    .handshake(io)
                    .await?;
                beside.add(connection);
                read(sender.send_request(request).await?).await
            }
            Protocol::H2 => {
                let (mut sender, connection) = http2::Builder::new(beside.clone())
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .max_header_list_size(HEAD_BYTES_MAX as u32)
                    .handshake(io)
                    .await?;
                beside.add(connection);
                read(sender.send_request(request).await?).await
            }
        }
    };
    beside.run(asking).await.map_err(|error| why_unanswered(&error, protocol))
}

/// Futures that run beside the one that is waited for.
#[derive(Clone, Default)]
pub(super) struct Beside(Rc<RefCell<Vec<Task>>>);

type Task = Pin<Box<dyn Future<Output = ()>>>;

impl Beside {
    fn add<F: Future + 'static>(&self, future: F) {
        self.0.borrow_mut().push(Box::pin(async {
            // What goes wrong is told to the request as well.
            let _ = future.await;
        }));
    }

    /// Waits for `main`; then the others are dropped.
    pub(super) async fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let mut tasks: Vec<Task> = Vec::new();
        poll_fn(|cx| {
            if let Poll::Ready(value) = main.as_mut().poll(cx) {
                return Poll::Ready(value);
            }
            // New ones may come while these are polled.
            loop {
                tasks.append(&mut self.0.borrow_mut());
                tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
                if self.0.borrow().is_empty() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Beside {
    fn execute(&self, future: F) {
        self.add(future);
    }
}

fn why_unanswered(error: &hyper::Error, protocol: Protocol) -> String {
    if error.is_parse_too_large() {
        return "the head of the answer is too large".to_owned();
    }
    if error.is_parse() || error.is_parse_status() {
        return "the answer is not HTTP/1.1".to_owned();
    }
    if error.is_incomplete_message() {
        return "connection closed without an answer".to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(io) = source.downcast_ref::<io::Error>() {
            return why_io_failed(io);
        }
        text = format!("{text}: {source}");
        cause = source.source();
    }
    if protocol == Protocol::H2 { format!("no answer over HTTP/2: {text}") } else { text }
}
