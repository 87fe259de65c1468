//! One HTTP/1.1 connection to an endpoint, driven by its user.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Deadlines;
use super::gate::Gate;
use super::io::UpstreamIo;
use super::request_body::RequestBody;
use crate::balance::{Endpoint, OpenConnection};
use crate::error::Kind;
use crate::timer::LazyTimer;

/// The largest response head that is accepted, in bytes.
const RESPONSE_HEAD_BYTES_MAX: usize = 128 << 10;
/// Fields of a response head that are accepted.
const RESPONSE_FIELDS_MAX: usize = 256;

/// An open connection, in use or idle.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<UpstreamIo>, RequestBody>,
    io: UpstreamIo,
    endpoint: Arc<Endpoint>,
    open: OpenConnection,
    /// The driver has ended: nothing more can be sent or received.
    ended: bool,
    /// It has carried a request before.
    pub(super) reused: bool,
    came: Instant,
    gate: Gate,
}

/// Why a request brought no response head.
#[derive(Debug)]
pub struct SendError {
    pub kind: Kind,
    /// The request, if not a byte of it was written: it may go elsewhere whatever it is.
    pub unwritten: Option<Request<RequestBody>>,
    pub source: Option<hyper::Error>,
}

/// A response head, and the connection that its body comes from.
#[derive(Debug)]
pub struct Sent {
    pub response: Response<Incoming>,
    pub connection: Box<Connection>,
}

/// A connection that has changed its protocol.
#[derive(Debug)]
pub struct Tunnel {
    pub io: UpstreamIo,
    /// What the endpoint sent behind its response head.
    pub early: Bytes,
    pub open: OpenConnection,
}

impl Connection {
    pub(super) async fn establish(
        io: UpstreamIo,
        endpoint: Arc<Endpoint>,
        open: OpenConnection,
    ) -> Result<Box<Self>, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_headers(RESPONSE_FIELDS_MAX)
            .max_header_size(RESPONSE_HEAD_BYTES_MAX)
            .handshake(TokioIo::new(io.clone()))
            .await?;
        Ok(Box::new(Self {
            sender,
            driver,
            io,
            endpoint,
            open,
            ended: false,
            reused: false,
            came: Instant::now(),
            gate: Gate::new(),
        }))
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When the head of its last response came.
    pub fn came(&self) -> Instant {
        self.came
    }

    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Lets hyper read and write as far as it can. Errors reach the user through the response or
    /// its body; all that counts here is whether it goes on.
    fn drive(&mut self) {
        if self.ended {
            return;
        }
        let driver = &mut self.driver;
        self.ended = self.gate.poll(|cx| driver.poll_without_shutdown(cx)).is_ready();
    }

    /// Whether it could carry another request now, by what has been read so far. Nobody is woken
    /// for it from now on.
    pub(super) fn is_ready(&mut self) -> bool {
        self.gate.clear_task();
        self.drive();
        !self.ended && self.sender.is_ready()
    }

    /// The same for one at rest, at no cost where nothing has happened since.
    pub(super) fn is_still_ready(&mut self) -> bool {
        match self.gate.is_woken() {
            true => self.is_ready(),
            false => !self.ended && self.sender.is_ready(),
        }
    }

    /// The next part of the body that this connection feeds.
    pub(super) fn poll_body(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        self.gate.set_task(cx.waker());
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        self.gate.poll(|cx| {
            // Asking first tells the driver that there is room.
            let body = Pin::new(&mut *incoming).poll_frame(cx);
            if body.is_ready() || *ended {
                return body;
            }
            *ended = driver.poll_without_shutdown(cx).is_ready();
            Pin::new(&mut *incoming).poll_frame(cx)
        })
    }

    /// Whether the endpoint has neither closed nor sent anything, by asking the kernel.
    pub(super) fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        deadlines: &Deadlines,
        started: Instant,
        timer: &mut LazyTimer,
    ) -> Result<Sent, SendError> {
        let upload = match request.body() {
            RequestBody::None => None,
            RequestBody::Upload(upload) => Some(upload.clone()),
        };
        if self.ended || !self.sender.is_ready() && !self.is_ready() {
            return Err(SendError { kind: Kind::Reset, unwritten: Some(request), source: None });
        }
        let result = {
            let Self { sender, driver, gate, ended, .. } = &mut *self;
            let mut response = pin!(sender.try_send_request(request));
            poll_fn(|cx| {
                gate.set_task(cx.waker());
                let polled = gate.poll(|cx| {
                    if !*ended {
                        *ended = driver.poll_without_shutdown(cx).is_ready();
                    }
                    response.as_mut().poll(cx)
                });
                if let Poll::Ready(result) = polled {
                    return Poll::Ready(Ok(result));
                }
                let turn_since = match &upload {
                    None => Some(started),
                    Some(upload) => upload.endpoint_has_turn_since(),
                };
                let first_byte = turn_since.map(|since| since + deadlines.first_byte);
                let deadline = [first_byte, deadlines.total].into_iter().flatten().min();
                let Some(deadline) = deadline else { return Poll::Pending };
                let now = Instant::now();
                timer.poll_until(deadline, now, cx).map(|()| {
                    let total_passed = deadlines.total.is_some_and(|total| now >= total);
                    Err(if total_passed { Kind::Deadline } else { Kind::FirstByteTimeout })
                })
            })
            .await
        };
        match result {
            Ok(Ok(response)) => {
                self.came = Instant::now();
                Ok(Sent { response, connection: self })
            }
            Ok(Err(mut error)) => {
                let unwritten = error.take_message();
                let source = error.into_error();
                let kind = upload
                    .and_then(|upload| upload.failure())
                    .unwrap_or_else(|| failure_before_head(&source));
                Err(SendError { kind, unwritten, source: Some(source) })
            }
            Err(kind) => Err(SendError { kind, unwritten: None, source: None }),
        }
    }

    /// Takes the bare stream after a 101. `None` if hyper has not let go of it.
    pub fn into_tunnel(mut self: Box<Self>) -> Option<Tunnel> {
        self.drive();
        if !self.ended {
            return None;
        }
        let this = *self;
        let parts = this.driver.into_parts();
        Some(Tunnel { io: this.io, early: parts.read_buf, open: this.open })
    }
}

/// Whose fault it is that a connection ended without a response head.
fn failure_before_head(error: &hyper::Error) -> Kind {
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        Kind::BadResponse
    } else {
        Kind::Reset
    }
}

impl Sent {
    /// Whether the endpoint has switched protocols.
    pub fn is_upgrade(&self) -> bool {
        self.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }
}
