//! The body of a request on its way to an endpoint.
//!
//! The client's body belongs to the request, not to one try of it: a try borrows it, and as long
//! as nothing was read from it another try may.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::error::{Error, Kind};
use crate::timer::LazyTimer;

/// Bounds on a body that a client sends.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    pub bytes_max: u64,
    /// Longest gap between two parts.
    pub gap_max: Duration,
}

/// A body that a client sends.
#[derive(Debug)]
pub struct Upload {
    source: RefCell<Source>,
    limits: UploadLimits,
    bytes: Cell<u64>,
    state: Cell<State>,
    /// When a part was last handed on.
    progress: Cell<Instant>,
}

#[derive(Debug)]
struct Source {
    body: Incoming,
    gap: LazyTimer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was asked of the client yet.
    Untouched,
    /// The endpoint may take more than there is: the client's turn.
    WaitingForClient,
    /// There was more than the endpoint took: its turn.
    WaitingForEndpoint,
    Done,
    Failed(Kind),
}

impl Upload {
    pub fn new(body: Incoming, limits: UploadLimits) -> Rc<Self> {
        Rc::new(Self {
            source: RefCell::new(Source { body, gap: LazyTimer::default() }),
            limits,
            bytes: Cell::new(0),
            state: Cell::new(State::Untouched),
            progress: Cell::new(Instant::now()),
        })
    }

    /// Whether a try can send it from the beginning.
    pub fn is_untouched(&self) -> bool {
        self.state.get() == State::Untouched
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Bytes that it has in all, where the client said so.
    pub(super) fn length(&self) -> Option<u64> {
        self.source.borrow().body.size_hint().exact()
    }

    /// Why it ended early, if it did: then the client is to blame, not the endpoint.
    pub fn failure(&self) -> Option<Kind> {
        match self.state.get() {
            State::Failed(kind) => Some(kind),
            _ => None,
        }
    }

    /// Since when the endpoint has had everything that the client sent; `None` while it is the
    /// client's turn.
    pub(super) fn endpoint_has_turn_since(&self) -> Option<Instant> {
        match self.state.get() {
            State::Untouched | State::WaitingForEndpoint | State::Done => Some(self.progress.get()),
            State::WaitingForClient | State::Failed(_) => None,
        }
    }

    /// The next part, to be written.
    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let State::Failed(kind) = self.state.get() {
            return Poll::Ready(Some(Err(kind.into())));
        }
        let mut source = self.source.borrow_mut();
        let source = &mut *source;
        match Pin::new(&mut source.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.progress.set(Instant::now());
                if let Some(data) = frame.data_ref() {
                    let bytes = self.bytes.get() + data.len() as u64;
                    self.bytes.set(bytes);
                    if bytes > self.limits.bytes_max {
                        return self.fail(Kind::BodyTooLarge);
                    }
                }
                let done = source.body.is_end_stream();
                self.state.set(if done { State::Done } else { State::WaitingForEndpoint });
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(Kind::ClientGone),
            Poll::Ready(None) => {
                self.progress.set(Instant::now());
                self.state.set(State::Done);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let now = Instant::now();
                if self.state.get() != State::WaitingForClient {
                    self.state.set(State::WaitingForClient);
                    self.progress.set(now);
                }
                let deadline = self.progress.get() + self.limits.gap_max;
                if source.gap.poll_until(deadline, now, cx).is_ready() {
                    return self.fail(Kind::BodyTimeout);
                }
                Poll::Pending
            }
        }
    }

    fn fail(&self, kind: Kind) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.state.set(State::Failed(kind));
        Poll::Ready(Some(Err(kind.into())))
    }
}
