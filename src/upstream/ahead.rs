//! An answer that is taken ahead of its reader, so that a client that reads slowly holds no endpoint.
//!
//! A client that takes nothing stops hyper from asking for more, and with it the endpoint. So a body
//! leaves word in the worker's [`AheadSlot`] when it gives a part; the task that drives the client's
//! connection, or its stream, finds it there when hyper waits, and takes what the endpoint has, up to
//! a bound. With its last byte the endpoint is free, however long the client takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::response_body::ResponseBody;
use crate::balance::Stalling;
use crate::error::{Error, Kind};
use crate::memory::{LocalCharge, LocalMemory};

/// Memory that a part takes beside its content, in bytes.
const PART_OVERHEAD_BYTES: usize = 128;

/// Where the bodies of one worker leave word.
#[derive(Debug, Default)]
pub struct AheadSlot(RefCell<Word>);

#[derive(Debug, Default)]
enum Word {
    /// No body was asked.
    #[default]
    None,
    /// The one that was asked last has nothing yet: what follows waits for its endpoint.
    Waits,
    /// The one that was asked last gave a part: what follows may wait for its reader.
    Gave(Weak<RefCell<Taken>>),
}

/// What the driver of a connection, or of a stream, knows of the body that is sent on it.
#[derive(Debug, Default)]
pub struct AheadDriver(Option<Weak<RefCell<Taken>>>);

/// A body that may be taken ahead of its reader.
#[derive(Debug)]
pub struct AheadBody {
    taken: Rc<RefCell<Taken>>,
    slot: Rc<AheadSlot>,
}

#[derive(Debug)]
struct Taken {
    /// `None` once it has ended, or was given up.
    source: Option<ResponseBody>,
    parts: VecDeque<Frame<Bytes>>,
    /// Why it ended, behind the parts.
    failure: Option<Error>,
    bytes: usize,
    bytes_max: usize,
    charge: LocalCharge,
    /// Others may ask for the endpoint while it waits for the reader.
    stalling: Option<Stalling>,
}

impl AheadSlot {
    /// Forgets what was said while somebody else was driven.
    pub fn clear(&self) {
        *self.0.borrow_mut() = Word::None;
    }

    fn leave(&self, word: Word) {
        *self.0.borrow_mut() = word;
    }
}

impl AheadDriver {
    /// Takes what the endpoint has, while hyper waits for the reader.
    ///
    /// # Errors
    /// Others wait for the endpoint, and the reader has had its share of the pool.
    pub fn poll(&mut self, slot: &AheadSlot, cx: &mut Context<'_>) -> Result<(), Kind> {
        match slot.0.take() {
            Word::None => {}
            Word::Waits => self.0 = None,
            Word::Gave(taken) => self.0 = Some(taken),
        }
        let Some(known) = &self.0 else { return Ok(()) };
        let Some(taken) = known.upgrade() else {
            self.0 = None;
            return Ok(());
        };
        let result = taken.borrow_mut().poll_fill(cx);
        if taken.borrow().source.is_none() {
            self.0 = None;
        }
        result
    }
}

impl AheadBody {
    pub fn new(
        source: ResponseBody,
        bytes_max: usize,
        slot: &Rc<AheadSlot>,
        memory: &Rc<LocalMemory>,
    ) -> Self {
        let taken = Taken {
            stalling: source.stalling(),
            source: Some(source),
            parts: VecDeque::new(),
            failure: None,
            bytes: 0,
            bytes_max,
            charge: LocalCharge::new(memory),
        };
        Self { taken: Rc::new(RefCell::new(taken)), slot: slot.clone() }
    }
}

impl Taken {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Result<(), Kind> {
        while self.bytes < self.bytes_max
            && let Some(source) = &mut self.source
        {
            match Pin::new(source).poll_frame(cx) {
                Poll::Ready(Some(Ok(part))) => {
                    let bytes = part.data_ref().map_or(0, Bytes::len) + PART_OVERHEAD_BYTES;
                    self.parts.push_back(part);
                    self.bytes += bytes;
                    if !self.charge.grow(bytes as u64) {
                        // This part was on its way; no other one is.
                        self.bytes_max = 0;
                    }
                    if self.source.as_ref().is_some_and(Body::is_end_stream) {
                        self.source = None;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.source = None;
                    self.failure = Some(error);
                }
                Poll::Ready(None) => self.source = None,
                Poll::Pending => return Ok(()),
            }
        }
        if self.source.is_some()
            && let Some(stalling) = &mut self.stalling
            && stalling.is_called_in(cx)
        {
            self.source = None;
            self.failure = Some(Kind::ClientShare.into());
            return Err(Kind::ClientShare);
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Frame<Bytes>> {
        let part = self.parts.pop_front()?;
        let bytes = part.data_ref().map_or(0, Bytes::len) + PART_OVERHEAD_BYTES;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.charge.shrink(bytes as u64);
        Some(part)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(stalling) = &mut self.stalling {
            stalling.goes_on();
        }
        if let Some(part) = self.take() {
            return Poll::Ready(Some(Ok(part)));
        }
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        match &mut self.source {
            Some(source) => Pin::new(source).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Body for AheadBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let part = this.taken.borrow_mut().poll_part(cx);
        this.slot.leave(match &part {
            Poll::Ready(Some(Ok(_))) => Word::Gave(Rc::downgrade(&this.taken)),
            Poll::Ready(_) => Word::None,
            Poll::Pending => Word::Waits,
        });
        part
    }

    fn is_end_stream(&self) -> bool {
        let taken = self.taken.borrow();
        taken.parts.is_empty()
            && taken.failure.is_none()
            && taken.source.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let taken = self.taken.borrow();
        let source = taken.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let parts = taken.parts.iter().filter_map(Frame::data_ref);
        let ahead = parts.map(|data| data.len() as u64).sum::<u64>();
        match source.exact() {
            Some(exact) if taken.failure.is_none() => SizeHint::with_exact(exact + ahead),
            _ => SizeHint::default(),
        }
    }
}
