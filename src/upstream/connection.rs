//! One HTTP/1.1 connection to an endpoint, driven by its user.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use tokio::time::{Instant, timeout};
use tokio_util::io::poll_read_buf;

use super::Deadlines;
use super::h1::{
    BodyReader, HeadReader, Malformed, Part, RequestHead, RequestWriter, ResponseHead, WriteError,
    other_protocol,
};
use super::io::UpstreamIo;
use super::upload::Upload;
use crate::balance::{Endpoint, OpenConnection};
use crate::error::{Error, Kind};
use crate::timer::LazyTimer;

/// Bytes read at once at first, and at most: it doubles while reads fill the room.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 128 << 10;
/// Room in which a connection at rest is looked at for what nobody asked for, in bytes.
const RESTING_BYTES: usize = 64;
/// Informational answers to one request that are read over.
const INTERIM_ANSWERS_MAX: u32 = 32;

type Source = Box<dyn StdError + Send + Sync>;

/// An open connection, in use or idle.
#[derive(Debug)]
pub struct Connection {
    io: UpstreamIo,
    endpoint: Arc<Endpoint>,
    open: OpenConnection,
    /// It has carried a request before.
    pub(super) reused: bool,
    came: Instant,
    received: BytesMut,
    /// Room for the next read, in bytes.
    read_bytes: usize,
    writer: RequestWriter,
    body: BodyReader,
    /// The endpoint will take another request behind this one.
    is_persistent: bool,
}

/// Why a request brought no response head.
#[derive(Debug)]
pub struct SendError {
    pub kind: Kind,
    /// Not a byte of the request was written: it may go elsewhere whatever it is.
    pub is_unwritten: bool,
    /// It ended with the shared connection that it was on, as the endpoint had announced.
    pub is_dismissed: bool,
    pub source: Option<Source>,
}

/// A response head, and the connection that its body comes from.
#[derive(Debug)]
pub struct Sent {
    pub head: ResponseHead,
    pub connection: Box<Connection>,
}

/// A part of a body.
#[derive(Debug)]
pub(super) enum BodyPart {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// A connection that has changed its protocol.
#[derive(Debug)]
pub struct Tunnel {
    pub io: UpstreamIo,
    /// What the endpoint sent behind its response head.
    pub early: Bytes,
    /// Its place among the endpoint's connections; a shared one has that itself.
    pub open: Option<OpenConnection>,
}

impl Connection {
    pub(super) fn new(io: UpstreamIo, endpoint: Arc<Endpoint>, open: OpenConnection) -> Box<Self> {
        Box::new(Self {
            io,
            endpoint,
            open,
            reused: false,
            came: Instant::now(),
            received: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            writer: RequestWriter::default(),
            body: BodyReader::Length(0),
            is_persistent: true,
        })
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

    /// Prepares it for its rest. False if it cannot carry another request: an answer may end
    /// before its request is written, or be followed by what nobody asked for.
    pub(super) fn rest(&mut self) -> bool {
        if !self.is_persistent || !self.writer.is_done() || !self.body.is_at_end() {
            return false;
        }
        if self.received.capacity() > 2 * READ_BYTES_MIN {
            self.received = BytesMut::new();
        }
        self.read_bytes = READ_BYTES_MIN;
        self.received.is_empty()
    }

    /// Whether nothing has come since its last response, as far as the runtime knows.
    pub(super) fn is_ready(&mut self) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        if self.received.capacity() == 0 {
            self.received.reserve(RESTING_BYTES);
        }
        let mut nobody = Context::from_waker(Waker::noop());
        poll_read_buf(Pin::new(&mut self.io), &mut nobody, &mut self.received).is_pending()
    }

    /// Whether the endpoint has neither closed nor sent anything, by asking the kernel.
    pub(super) fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(
        mut self: Box<Self>,
        request: &RequestHead<'_>,
        upload: Option<&Rc<Upload>>,
        deadlines: &Deadlines,
        started: Instant,
        timer: &mut LazyTimer,
    ) -> Result<Sent, SendError> {
        self.writer.begin(request, upload);
        let mut reader = HeadReader::default();
        let mut interim = 0;
        let mut asked_at = Some(started);
        let head = poll_fn(|cx| {
            let to_head = *request.method == Method::HEAD;
            if let Poll::Ready(head) = self.poll_head(&mut reader, to_head, &mut interim, cx) {
                return Poll::Ready(head);
            }
            let turn_since = match upload {
                None => Some(started),
                // What was read for an earlier try says nothing about this endpoint.
                Some(upload) => upload.endpoint_has_turn_since().map(|turn| turn.max(started)),
            };
            let first_byte = turn_since.map(|since| since + deadlines.first_byte);
            let deadline = [first_byte, deadlines.total].into_iter().flatten().min();
            let Some(deadline) = deadline else { return Poll::Pending };
            let now = asked_at.take().unwrap_or_else(Instant::now);
            if let Some(at) = request.nudge.at(turn_since).filter(|at| *at < deadline) {
                ready!(timer.poll_until(at, now, cx));
                request.nudge.fire();
            }
            timer.poll_until(deadline, now, cx).map(|()| {
                let total_passed = deadlines.total.is_some_and(|total| now >= total);
                let kind = if total_passed { Kind::Deadline } else { Kind::FirstByteTimeout };
                Err(SendError { kind, is_unwritten: false, is_dismissed: false, source: None })
            })
        })
        .await?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS && !self.writer.is_done() {
            Box::pin(self.finish_request(deadlines.first_byte)).await?;
        }
        self.came = Instant::now();
        self.writer.answered();
        self.body = BodyReader::new(head.framing);
        self.is_persistent = head.is_persistent;
        Ok(Sent { head, connection: self })
    }

    /// Writes the rest of a request that was answered early. A new protocol begins behind the whole
    /// of it (RFC 9110 §7.8).
    async fn finish_request(&mut self, within: Duration) -> Result<(), SendError> {
        let failed =
            |kind| SendError { kind, is_unwritten: false, is_dismissed: false, source: None };
        let rest = poll_fn(|cx| match self.writer.poll(&mut self.io, cx) {
            Poll::Ready(Err(WriteError::Upload(kind))) => Poll::Ready(Err(failed(kind))),
            Poll::Ready(Err(WriteError::Io(_))) => Poll::Ready(Err(failed(Kind::Reset))),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        timeout(within, rest).await.unwrap_or_else(|_| Err(failed(Kind::FirstByteTimeout)))
    }

    fn poll_head(
        &mut self,
        reader: &mut HeadReader,
        to_head: bool,
        interim: &mut u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, SendError>> {
        match self.writer.poll(&mut self.io, cx) {
            Poll::Ready(Err(WriteError::Upload(kind))) => {
                return Poll::Ready(Err(SendError {
                    kind,
                    is_unwritten: false,
                    is_dismissed: false,
                    source: None,
                }));
            }
            Poll::Ready(Err(WriteError::Io(error))) if self.writer.is_untouched => {
                return Poll::Ready(Err(SendError {
                    kind: Kind::Reset,
                    is_unwritten: true,
                    is_dismissed: false,
                    source: Some(error.into()),
                }));
            }
            // An endpoint that takes no more may have answered.
            Poll::Ready(Err(WriteError::Io(_))) => self.writer.give_up(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        loop {
            match reader.read(&mut self.received, to_head) {
                Ok(Some(head)) if is_interim(&head) => {
                    *interim += 1;
                    if *interim > INTERIM_ANSWERS_MAX {
                        let error = Malformed::rule("too many informational answers");
                        return Poll::Ready(Err(malformed(error)));
                    }
                    continue;
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(malformed(error))),
            }
            let source = match ready!(self.poll_receive(cx)) {
                Ok(0) => self.ended_early(),
                Ok(_) => continue,
                Err(error) => error,
            };
            let source = Some(source.into());
            return Poll::Ready(Err(SendError {
                kind: Kind::Reset,
                is_unwritten: false,
                is_dismissed: false,
                source,
            }));
        }
    }

    /// The endpoint has closed the connection, and there is no head.
    fn ended_early(&self) -> io::Error {
        let kind = io::ErrorKind::UnexpectedEof;
        match (self.received.is_empty(), other_protocol(&self.received)) {
            (true, _) => kind.into(),
            (false, None) => io::Error::new(kind, "connection closed within the head"),
            (false, Some(protocol)) => io::Error::new(kind, protocol),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.received.capacity() - self.received.len();
        if room < READ_BYTES_MIN / 2 {
            self.received.reserve(self.read_bytes);
            room = self.received.capacity() - self.received.len();
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.received))?;
        if count == room {
            self.read_bytes = (2 * self.read_bytes).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// The whole body, if it has come with its head, or there is none.
    pub fn take_whole_body(&mut self) -> Option<Bytes> {
        let length = self.body.bytes_left()?;
        if length > self.received.len() as u64 {
            return None;
        }
        match self.body.read(&mut self.received) {
            Ok(Part::Data(data)) => Some(data),
            Ok(Part::End) => Some(Bytes::new()),
            _ => None,
        }
    }

    pub(super) fn body(&self) -> &BodyReader {
        &self.body
    }

    /// The next part of the body of the answer. What is left of the request is written meanwhile.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyPart, Error>>> {
        match self.writer.poll(&mut self.io, cx) {
            Poll::Ready(Err(WriteError::Upload(kind))) => {
                return Poll::Ready(Some(Err(kind.into())));
            }
            Poll::Ready(Err(WriteError::Io(_))) => self.writer.give_up(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        loop {
            match self.body.read(&mut self.received) {
                Ok(Part::Data(data)) => return Poll::Ready(Some(Ok(BodyPart::Data(data)))),
                Ok(Part::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(BodyPart::Trailers(fields))));
                }
                Ok(Part::End) => return Poll::Ready(None),
                Ok(Part::More) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(Error::caused(Kind::Truncated, error))));
                }
            }
            match ready!(self.poll_receive(cx)) {
                Ok(0) if self.body.close() => return Poll::Ready(None),
                Ok(0) => {
                    let error = Malformed::rule("connection closed before the end of the body");
                    return Poll::Ready(Some(Err(Error::caused(Kind::Truncated, error))));
                }
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(Error::caused(Kind::Truncated, error))));
                }
            }
        }
    }

    /// The bare stream after a 101.
    pub fn into_tunnel(self: Box<Self>) -> Tunnel {
        let this = *self;
        Tunnel { io: this.io, early: this.received.freeze(), open: Some(this.open) }
    }
}

impl Sent {
    /// Whether the endpoint has switched protocols.
    pub fn is_upgrade(&self) -> bool {
        self.head.status == StatusCode::SWITCHING_PROTOCOLS
    }
}

fn is_interim(head: &ResponseHead) -> bool {
    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
}

fn malformed(error: Malformed) -> SendError {
    SendError {
        kind: Kind::BadResponse,
        is_unwritten: false,
        is_dismissed: false,
        source: Some(error.into()),
    }
}
