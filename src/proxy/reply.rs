//! What hyper is given: a response now or later, and its body with the counts of its exchange.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};

use super::client::Protocol;
use super::exchange::Exchange;
use super::grpc;
use super::local::StreamEvent;
use crate::body::Body;
use crate::error::{Kind, Origin};
use crate::upstream::why_failed;

/// Parts of HTTP/2 bodies are no larger than this, so that a stalled reader of one stream shows,
/// in bytes.
const STREAM_PART_BYTES: usize = 16 << 10;
/// Rounds of the worker that an answer gets to leave before its stream is reset.
const RESET_ROUNDS: u8 = 8;

/// The answer to one request. A cached hit is there at once and costs no allocation for waiting.
#[expect(
    clippy::large_enum_variant,
    reason = "a cached hit costs no allocation; hyper keeps one for each connection or stream"
)]
pub enum Reply {
    /// `None` once taken.
    Now(Option<Response<ReplyBody>>),
    Later(Pin<Box<dyn Future<Output = Response<ReplyBody>>>>),
}

impl Reply {
    /// The response, once there is one.
    pub(super) async fn response(self) -> Response<ReplyBody> {
        match self {
            Self::Now(Some(response)) => response,
            Self::Now(None) => std::future::pending().await,
            Self::Later(response) => response.await,
        }
    }
}

impl Future for Reply {
    type Output = Result<Response<ReplyBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            // hyper polls no future again that was ready.
            Self::Now(response) => response.take().map_or(Poll::Pending, |r| Poll::Ready(Ok(r))),
            Self::Later(response) => response.as_mut().poll(cx).map(Ok),
        }
    }
}

/// Why a body breaks off, as hyper is told: it takes the reason of a reset from an error of h2.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// A response body that ends its exchange with its last byte, or when it is given up.
#[derive(Debug)]
pub struct ReplyBody {
    body: Body,
    /// The rest of a part that was too large for an HTTP/2 stream.
    rest: Bytes,
    exchange: Option<Exchange>,
    is_h2: bool,
    /// Its client reads in trailers how a call has ended.
    ends_in_trailers: bool,
    /// The stream is an error (RFC 9113 §8.1.1), and is reset when so many polls have found the
    /// answer sent.
    reset_after: Option<u8>,
}

impl ReplyBody {
    pub fn new(body: Body, exchange: Exchange) -> Self {
        let is_h2 = exchange.connection.protocol == Protocol::H2;
        Self {
            body,
            rest: Bytes::new(),
            exchange: Some(exchange),
            is_h2,
            ends_in_trailers: false,
            reset_after: None,
        }
    }

    /// Notes whether this answers a call of gRPC.
    pub(super) fn set_ends_in_trailers(&mut self, is_so: bool) {
        self.ends_in_trailers = is_so;
    }

    /// A body whose exchange goes on elsewhere.
    pub(super) fn bare(body: Body) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            exchange: None,
            is_h2: false,
            ends_in_trailers: false,
            reset_after: None,
        }
    }

    /// Resets the stream once the answer has left.
    pub(super) fn reset_at_end(&mut self) {
        self.reset_after = Some(RESET_ROUNDS);
    }

    /// The end, or first a few rounds of the worker: h2 drops what a stream has not sent when that
    /// is reset.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(rounds) = &mut self.reset_after else { return Poll::Ready(None) };
        match rounds.checked_sub(1) {
            Some(fewer) => {
                *rounds = fewer;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.reset_after = None;
                let error = h2::Error::from(h2::Reason::PROTOCOL_ERROR);
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    /// Whether an endpoint has answered.
    pub(super) fn is_from_endpoint(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.endpoint.is_some())
    }

    /// The exchange, whose answer shall be another.
    pub(super) fn into_exchange(mut self) -> Option<Exchange> {
        self.exchange.take()
    }

    fn count(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.response_bytes += bytes as u64;
        }
    }

    fn note(&self, event: StreamEvent) {
        if self.is_h2
            && let Some(exchange) = &self.exchange
        {
            exchange.local.note(event);
        }
    }

    /// Splits off what an HTTP/2 stream takes at once.
    fn part(&mut self, mut data: Bytes) -> Bytes {
        if self.is_h2 && data.len() > STREAM_PART_BYTES {
            self.rest = data.split_off(STREAM_PART_BYTES);
        }
        self.count(data.len());
        self.note(StreamEvent::Part);
        data
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let is_whole = http_body::Body::is_end_stream(self)
            || http_body::Body::size_hint(self).exact() == Some(0);
        if let Some(exchange) = &mut self.exchange
            && !is_whole
        {
            // A page that tells of an error is not read in answer to HEAD.
            let why = exchange.local.take_cut().unwrap_or(Kind::ClientGone);
            exchange.error.get_or_insert(why);
        }
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(Frame::data(this.part(rest)))));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(Ok(Frame::data(this.part(data))))),
                Err(other) => Poll::Ready(Some(Ok(other))),
            },
            Poll::Ready(Some(Err(error))) => {
                if let Some(exchange) = &mut this.exchange {
                    tracing::debug!(%error, "response broken off");
                    exchange.error = Some(error.kind());
                    exchange.reason = why_failed(&error).map(Into::into);
                }
                this.exchange = None;
                if this.ends_in_trailers && error.origin() != Origin::Client {
                    this.body = Body::Empty;
                    return Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(error.kind())))));
                }
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.exchange = None;
                this.poll_reset(cx)
            }
            Poll::Pending => {
                this.note(StreamEvent::Nothing);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.reset_after.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if rest > 0 {
            match hint.exact() {
                Some(exact) => hint.set_exact(exact + rest),
                None => hint.set_lower(hint.lower() + rest),
            }
        }
        hint
    }
}
