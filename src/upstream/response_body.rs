//! The body of an endpoint's answer.
//!
//! It owns the connection that feeds it, and gives it back to the worker when the last byte has
//! come; dropped before that, it closes it, or its stream of one that is shared. The request's lease on the endpoint ends with it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout};

use super::connection::{BodyPart, Connection};
use super::connections::{Connections, Keep};
use super::h2::Exchange;
use super::trouble::why_failed;
use super::{Deadlines, Patience};
use crate::balance::{Lease, Outcome, Stalling};
use crate::error::{Error, Origin};
use crate::timer::SlotTimer;

#[derive(Debug)]
pub struct ResponseBody {
    /// `None` once it has been given back.
    source: Option<Source>,
    patience: Patience,
    /// A part that was taken to see whether the body comes at all.
    first: Option<Frame<Bytes>>,
}

#[derive(Debug)]
struct Source {
    wire: Wire,
    /// Dropped when the answer has ended or been given up.
    lease: Lease,
}

/// Where a body comes from.
#[derive(Debug)]
pub enum Wire {
    /// A connection of its own, and where it rests behind the body.
    H1 { connection: Box<Connection>, home: Rc<Connections>, keep: Keep },
    /// A stream of a connection that others share.
    H2(Box<Exchange>),
}

impl Wire {
    fn came(&self) -> Instant {
        match self {
            Self::H1 { connection, .. } => connection.came(),
            Self::H2(exchange) => exchange.came(),
        }
    }

    fn is_at_end(&self) -> bool {
        match self {
            Self::H1 { connection, .. } => connection.body().is_at_end(),
            Self::H2(exchange) => exchange.is_at_end(),
        }
    }

    fn bytes_left(&self) -> Option<u64> {
        match self {
            Self::H1 { connection, .. } => connection.body().bytes_left(),
            Self::H2(exchange) => exchange.bytes_left(),
        }
    }

    /// When a part of the request was last sent, where both ways stream at once.
    fn sent_at(&self) -> Option<Instant> {
        match self {
            Self::H1 { .. } => None,
            Self::H2(exchange) => exchange.sent_at(),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPart, Error>>> {
        match self {
            Self::H1 { connection, .. } => connection.poll_body(cx),
            Self::H2(exchange) => exchange.poll_body(cx),
        }
    }
}

impl ResponseBody {
    pub fn new(wire: Wire, lease: Lease, deadlines: Deadlines, timer: SlotTimer) -> Self {
        let patience = Patience::new(Some(deadlines.idle), deadlines.total, wire.came(), timer);
        let source = Some(Source { wire, lease });
        Self { source, patience, first: None }
    }

    /// Waits a moment for the first part. An endpoint that sends a head and dies has sent nothing
    /// worth forwarding, and the request may still go to another.
    ///
    /// # Errors
    /// The body broke off before its first part.
    pub async fn begin(&mut self, patience: Duration) -> Result<(), Error> {
        let came = poll_fn(|cx| match self.poll_part(cx) {
            Poll::Ready(part) => Poll::Ready(Some(part)),
            Poll::Pending => Poll::Ready(None),
        });
        let part = match came.await {
            Some(part) => part,
            None if patience.is_zero() => return Ok(()),
            None => match timeout(patience, poll_fn(|cx| self.poll_part(cx))).await {
                Ok(part) => part,
                Err(_) => return Ok(()),
            },
        };
        self.first = part.transpose()?;
        Ok(())
    }

    /// Its place on the endpoint, where that may be called in.
    pub(super) fn stalling(&self) -> Option<Stalling> {
        self.source.as_ref()?.lease.stalling()
    }

    /// The whole body, if its first part was all of it.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        if self.source.is_some() {
            return None;
        }
        self.first.take_if(|frame| frame.is_data())?.into_data().ok()
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.source.is_none()
    }

    /// What its trailers say, where they are all that has come.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::of_call(self.first.as_ref()?.trailers_ref()?)
    }

    /// Its end will tell whether the endpoint did well.
    pub fn count_end(&mut self) {
        if let Some(source) = &mut self.source {
            source.lease.begun();
        }
    }

    /// It ends here.
    fn broken_off(&mut self, error: Error) -> Error {
        if let Some(mut source) = self.source.take() {
            let is_to_blame = error.kind().origin() == Origin::Upstream;
            source.lease.ended(is_to_blame.then_some(Outcome::Failed), Instant::now().into_std());
        }
        error
    }

    fn give_back_at_end(&mut self) {
        if self.source.as_ref().is_some_and(|source| source.wire.is_at_end()) {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let wire = self.source.take().map(|source| source.wire);
        if let Some(Wire::H1 { connection, home, keep }) = wire {
            home.give_back(connection, keep, self.patience.progress());
        }
    }
}

impl ResponseBody {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self;
        let Some(source) = &mut this.source else { return Poll::Ready(None) };
        match source.wire.poll_body(cx) {
            Poll::Ready(Some(Ok(part))) => {
                if let Err(late) = this.patience.advance() {
                    return Poll::Ready(Some(Err(this.broken_off(late.into()))));
                }
                if let BodyPart::Trailers(fields) = &part
                    && let Some(outcome) = Outcome::of_call(fields)
                {
                    source.lease.ended(Some(outcome), Instant::now().into_std());
                }
                this.give_back_at_end();
                Poll::Ready(Some(Ok(match part {
                    BodyPart::Data(data) => Frame::data(data),
                    BodyPart::Trailers(fields) => Frame::trailers(fields),
                })))
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(reason) = why_failed(&error)
                    && error.origin() == Origin::Upstream
                {
                    let now = std::time::Instant::now();
                    source.lease.endpoint().complain(error.kind(), reason, now);
                }
                Poll::Ready(Some(Err(this.broken_off(error))))
            }
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let sent = source.wire.sent_at();
                this.patience.poll(sent, cx).map(|late| Some(Err(this.broken_off(late.into()))))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.poll_part(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.source.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        let left = match &self.source {
            Some(source) => source.wire.bytes_left(),
            None => Some(0),
        };
        left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + first))
    }
}
