//! The body of an endpoint's answer.
//!
//! It owns the connection that feeds it, and gives it back to the worker when the last byte has
//! come; dropped before that, it closes it. The request's lease on the endpoint ends with it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Deadlines;
use super::connection::Connection;
use super::connections::{Connections, Keep};
use crate::balance::Lease;
use crate::error::{Error, Kind};
use crate::timer::SlotTimer;

#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    /// `None` once it has been given back.
    source: Option<Source>,
    deadlines: Deadlines,
    timer: SlotTimer,
    /// When the last part came.
    progress: Instant,
}

#[derive(Debug)]
struct Source {
    connection: Box<Connection>,
    home: Rc<Connections>,
    keep: Keep,
    /// Dropped when the answer has ended or been given up.
    _lease: Lease,
}

impl ResponseBody {
    pub fn new(
        incoming: Incoming,
        connection: Box<Connection>,
        home: Rc<Connections>,
        keep: Keep,
        lease: Lease,
        deadlines: Deadlines,
        timer: SlotTimer,
    ) -> Self {
        let source = Some(Source { connection, home, keep, _lease: lease });
        let mut body = Self { incoming, source, deadlines, timer, progress: Instant::now() };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(Source { connection, home, keep, .. }) = self.source.take() {
            home.give_back(connection, keep);
        }
    }

    /// The deadline of a part that has not come.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Kind> {
        let now = Instant::now();
        let idle = self.progress + self.deadlines.idle;
        let deadline = self.deadlines.total.map_or(idle, |total| total.min(idle));
        self.timer
            .poll_until(deadline, now, cx)
            .map(|()| if now >= idle { Kind::IdleTimeout } else { Kind::Deadline })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(source) = &mut this.source else { return Poll::Ready(None) };
        match source.connection.poll_body(&mut this.incoming, cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.incoming.is_end_stream() {
                    this.give_back();
                } else {
                    this.progress = Instant::now();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.source = None;
                Poll::Ready(Some(Err(Error::caused(Kind::Truncated, error))))
            }
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_deadline(cx) {
                Poll::Ready(kind) => {
                    this.source = None;
                    Poll::Ready(Some(Err(kind.into())))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
