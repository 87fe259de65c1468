//! One fetch, shared by every request that waits for it.
//!
//! A [`Flight`] is what the requests see: first they wait for its outcome, then those that share
//! the answer read its pieces while they arrive. A [`Lead`] is what the fetch holds: it settles
//! the outcome once, and whatever happens to it (an error, a panic, a cancelled task) its drop
//! fails what is still waiting.
//!
//! Nobody depends on one fetch alone. Beside one that has brought nothing for a while others begin,
//! for requests that waited for it and have taken a [`Turn`]; the first that brings an answer for
//! everybody overtakes the rest. So only a request's own fetch can fail it.
//!
//! As long as the body may be stored every piece stays, and nobody waits for a slow reader; the flight
//! holds the charge for the pieces until its last reader has gone. When
//! a body of unknown length outgrows what may be stored, pieces go as the readers pass them, and
//! the fetch waits for the slowest; one that stands still for a second while others wait is cut
//! loose.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

use super::key::Key;
use super::outcome::{Marks, Outcome};
use super::storable::Refusal;
use super::turns::Turns;
use crate::error::{Error, Kind};
use crate::memory::Charge;

/// Bytes that an unstored body may be ahead of its slowest reader.
const WINDOW_BYTES: u64 = 256 << 10;
/// How long one reader of several may hold up an unstored body.
const STALL_MAX: Duration = Duration::from_secs(1);
/// How long a body may pause before requests that come then begin a fetch of their own.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A fetch that requests wait for or read from.
#[derive(Debug)]
pub struct Flight {
    /// Of the URL, without what it varies on.
    pub(super) primary: Key,
    /// The purge epoch at which it began.
    pub(super) began: u64,
    /// What its response may be purged by, once that is known.
    pub(super) marks: OnceLock<Marks>,
    state: Mutex<State>,
    /// Wakes those that wait for the outcome.
    pub(super) settled: Notify,
    /// Wakes the fetch when a reader has made room.
    room: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Those who wait are to wait no longer, for this reason, though the fetch goes on for the
    /// request that it was begun for.
    pub(super) dispersed: Option<Refusal>,
    pub(super) turns: Turns,
    /// Endpoints that were asked, by id.
    pub(super) endpoints: Vec<u64>,
    /// When the head or the last piece came.
    pub(super) progressed: Instant,
    pieces: VecDeque<Bytes>,
    /// Pieces that are gone from the front.
    passed: usize,
    /// Bytes in `pieces`.
    held: u64,
    /// For the pieces, as long as anybody may read them.
    charge: Option<Hold>,
    /// Requests that have yet to begin to read, if there will be something to read.
    pub(super) waiting: usize,
    /// By reader id.
    readers: Vec<Place>,
    /// Ids of free places.
    free: Vec<usize>,
    /// The body is no longer kept for storing.
    unstored: bool,
    end: End,
}

/// A charge on the memory of the cache.
#[derive(Debug)]
enum Hold {
    Own(Charge),
    /// Together with the entry that came of the body.
    Shared(#[expect(dead_code, reason = "held, not read")] Arc<Charge>),
}

#[derive(Debug)]
pub(super) enum Phase {
    Waiting,
    Settled(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Complete,
    Failed(Kind),
}

#[derive(Debug)]
enum Place {
    /// Its reader is gone; another one may take it.
    Free,
    Reading(Reader),
    /// Its reader stalled and has yet to notice.
    Cut,
}

impl Place {
    fn reader(&self) -> Option<&Reader> {
        match self {
            Self::Reading(reader) => Some(reader),
            Self::Free | Self::Cut => None,
        }
    }

    fn reader_mut(&mut self) -> Option<&mut Reader> {
        match self {
            Self::Reading(reader) => Some(reader),
            Self::Free | Self::Cut => None,
        }
    }
}

#[derive(Debug)]
struct Reader {
    /// Number of the next piece, counted from the first one of all.
    next: usize,
    waker: Option<Waker>,
    /// When it took its last piece, or began.
    active: Instant,
}

impl Flight {
    /// For a fetch beside which there may at once be as many as make up `width`.
    pub(super) fn new(primary: Key, began: u64, width: u32) -> Self {
        Self {
            primary,
            began,
            marks: OnceLock::new(),
            state: Mutex::new(State {
                phase: Phase::Waiting,
                dispersed: None,
                turns: Turns::new(width),
                endpoints: Vec::new(),
                progressed: Instant::now(),
                pieces: VecDeque::new(),
                passed: 0,
                held: 0,
                charge: None,
                waiting: 0,
                readers: Vec::new(),
                free: Vec::new(),
                unstored: false,
                end: End::Open,
            }),
            settled: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a reader: as long as this is held, no piece goes before it was read.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.state().waiting += 1;
        Waiting(self.clone())
    }

    /// Begins to read at the first piece. `None` once that is gone.
    pub fn read(self: &Arc<Self>, length: Option<u64>) -> Option<FlightReader> {
        let mut state = self.state();
        if state.passed > 0 {
            return None;
        }
        let reader = Place::Reading(Reader { next: 0, waker: None, active: Instant::now() });
        let id = match state.free.pop() {
            Some(id) => {
                state.readers[id] = reader;
                id
            }
            None => {
                state.readers.push(reader);
                state.readers.len() - 1
            }
        };
        Some(FlightReader { flight: self.clone(), id, bytes_left: length, done: false })
    }

    /// Whether nothing has come of its body for so long that who comes now had better not join.
    pub(super) fn has_stalled(&self) -> bool {
        let state = self.state();
        matches!(state.phase, Phase::Settled(Outcome::Streaming(_)))
            && state.end == End::Open
            && state.progressed.elapsed() >= PAUSE_MAX
    }

    /// Whether requests may still join from the beginning.
    pub(super) fn is_joinable(&self) -> bool {
        let state = self.state();
        state.passed == 0 && !state.unstored && !matches!(state.end, End::Failed(_))
    }

    /// Takes over a charge for pieces to come.
    pub(super) fn hold(&self, more: Charge) {
        let mut state = self.state();
        match &mut state.charge {
            Some(Hold::Own(charge)) => charge.absorb(more),
            charge => *charge = Some(Hold::Own(more)),
        }
    }

    /// The charge for all pieces, `bytes` in all, to be shared with what is made of them.
    pub(super) fn share_charge(&self, bytes: u64) -> Option<Arc<Charge>> {
        let mut state = self.state();
        let Some(Hold::Own(mut charge)) = state.charge.take() else { return None };
        charge.shrink_to(bytes);
        let charge = Arc::new(charge);
        state.charge = Some(Hold::Shared(charge.clone()));
        Some(charge)
    }

    /// Adds a piece for the readers.
    pub(super) fn push(&self, piece: Bytes) {
        let mut state = self.state();
        state.progressed = Instant::now();
        state.held += piece.len() as u64;
        state.pieces.push_back(piece);
        state.drop_passed();
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Gives up storing: from now on pieces go as they are read.
    pub(super) fn stop_storing(&self) {
        let mut state = self.state();
        state.unstored = true;
        state.drop_passed();
    }

    pub(super) fn pieces(&self) -> Vec<Bytes> {
        self.state().pieces.iter().cloned().collect()
    }

    pub(super) fn finish(&self, result: Result<(), Kind>) {
        let mut state = self.state();
        if state.end == End::Open {
            state.end = result.map_or_else(End::Failed, |()| End::Complete);
        }
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many requests read from it.
    #[cfg(test)]
    pub(super) fn readers(&self) -> usize {
        self.state().reading().count()
    }

    /// Waits until nobody waits for the outcome or reads.
    pub async fn deserted(&self) {
        loop {
            let room = self.room.notified();
            if self.state().is_deserted() {
                return;
            }
            room.await;
        }
    }

    /// Waits until an unstored body may go on: a reader has passed enough, or the slowest has
    /// been cut loose. False when nobody reads any more.
    pub(super) async fn room(&self) -> bool {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state();
                if state.is_deserted() {
                    return false;
                }
                if state.held < WINDOW_BYTES {
                    return true;
                }
                state.cut_loose(Instant::now());
                if state.held < WINDOW_BYTES {
                    let wakers = state.take_wakers();
                    drop(state);
                    wakers.into_iter().for_each(Waker::wake);
                    return true;
                }
            }
            // Several readers: look again when one may have stalled for too long.
            let _ = tokio::time::timeout(STALL_MAX, room).await;
        }
    }
}

impl State {
    fn reading(&self) -> impl Iterator<Item = &Reader> {
        self.readers.iter().filter_map(Place::reader)
    }

    fn is_deserted(&self) -> bool {
        self.waiting == 0 && self.reading().next().is_none()
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        let readers = self.readers.iter_mut().filter_map(Place::reader_mut);
        readers.filter_map(|reader| reader.waker.take()).collect()
    }

    /// Lets go of the pieces that every reader has passed, once nothing is to be stored.
    fn drop_passed(&mut self) {
        if !self.unstored || self.waiting > 0 {
            return;
        }
        let Some(slowest) = self.reading().map(|reader| reader.next).min() else {
            return;
        };
        while self.passed < slowest {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.held -= piece.len() as u64;
            self.passed += 1;
        }
        // The window stays charged for, as far as it was.
        let needed = self.held.max(WINDOW_BYTES);
        if let Some(Hold::Own(charge)) = &mut self.charge {
            charge.shrink_to(needed);
        }
    }

    /// Forgets readers that stand still while others have caught up.
    fn cut_loose(&mut self, now: Instant) {
        let last = self.passed + self.pieces.len();
        if !self.reading().any(|reader| reader.next == last) {
            return;
        }
        for place in &mut self.readers {
            let stalled = place.reader().is_some_and(|reader| {
                reader.next < last && now.saturating_duration_since(reader.active) >= STALL_MAX
            });
            if stalled {
                *place = Place::Cut;
            }
        }
        self.drop_passed();
    }
}

/// A request that waits for the outcome, and is going to read.
#[derive(Debug)]
pub struct Waiting(Arc<Flight>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting -= 1;
        state.drop_passed();
        drop(state);
        self.0.room.notify_one();
    }
}

/// The body of a shared answer for one of its readers.
#[derive(Debug)]
pub struct FlightReader {
    flight: Arc<Flight>,
    id: usize,
    bytes_left: Option<u64>,
    done: bool,
}

impl http_body::Body for FlightReader {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        let mut state = this.flight.state();
        let passed = state.passed;
        let State { pieces, readers, end, .. } = &mut *state;
        let end = *end;
        let Some(reader) = readers.get_mut(this.id).and_then(Place::reader_mut) else {
            this.done = true;
            return Poll::Ready(Some(Err(Kind::ReaderStalled.into())));
        };
        if let Some(piece) = pieces.get(reader.next.saturating_sub(passed)).cloned() {
            reader.next += 1;
            reader.active = Instant::now();
            state.drop_passed();
            let unstored = state.unstored;
            drop(state);
            if unstored {
                this.flight.room.notify_one();
            }
            if let Some(left) = &mut this.bytes_left {
                *left = left.saturating_sub(piece.len() as u64);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match end {
            End::Open => {
                reader.active = Instant::now();
                match &reader.waker {
                    Some(waker) if waker.will_wake(cx.waker()) => {}
                    _ => reader.waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            End::Complete => {
                drop(state);
                this.done = true;
                Poll::Ready(None)
            }
            End::Failed(kind) => {
                drop(state);
                this.done = true;
                Poll::Ready(Some(Err(kind.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.bytes_left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes_left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for FlightReader {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        if let Some(place) = state.readers.get_mut(self.id) {
            *place = Place::Free;
            state.free.push(self.id);
        }
        state.drop_passed();
        drop(state);
        self.flight.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::key::{KeyBuffer, KeyHasher};
    use super::super::reuse::Fault;
    use super::*;

    fn flight() -> Arc<Flight> {
        let mut buffer = KeyBuffer::default();
        Arc::new(Flight::new(buffer.part(b"x").key(&KeyHasher::default()).to_owned(), 0, 1))
    }

    async fn poll_once(future: &mut Pin<Box<impl Future<Output = ()>>>) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    async fn next(reader: &mut FlightReader) -> Option<Result<Bytes, Kind>> {
        let frame = poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut *reader), cx)).await?;
        Some(match frame {
            Ok(frame) => frame.into_data().map_err(|_| Kind::Internal),
            Err(error) => Err(error.kind()),
        })
    }

    #[tokio::test]
    async fn every_reader_gets_every_piece_at_its_own_pace() {
        let flight = flight();
        let (mut fast, mut slow) =
            (flight.read(None).expect("all there"), flight.read(None).expect("all there"));
        for piece in ["a", "b"] {
            flight.push(Bytes::from(piece));
            assert_eq!(next(&mut fast).await, Some(Ok(Bytes::from(piece))));
        }
        flight.finish(Ok(()));
        assert_eq!(next(&mut fast).await, None);
        for expected in [Some(Ok(Bytes::from("a"))), Some(Ok(Bytes::from("b"))), None] {
            assert_eq!(next(&mut slow).await, expected);
        }
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_replaced_by_another_without_mixing_them_up() {
        let flight = flight();
        let first = flight.read(None).expect("all there");
        drop(first);
        assert_eq!(flight.readers(), 0);
        let mut second = flight.read(None).expect("all there");
        flight.push(Bytes::from("a"));
        assert_eq!(next(&mut second).await, Some(Ok(Bytes::from("a"))));
        assert_eq!(flight.readers(), 1);
    }

    #[tokio::test]
    async fn a_failure_reaches_readers_after_the_pieces_before_it() {
        let flight = flight();
        let mut reader = flight.read(None).expect("all there");
        flight.push(Bytes::from("a"));
        flight.finish(Err(Kind::Truncated));
        assert_eq!(next(&mut reader).await, Some(Ok(Bytes::from("a"))));
        assert_eq!(next(&mut reader).await, Some(Err(Kind::Truncated)));
        assert_eq!(next(&mut reader).await, None);
    }

    #[tokio::test]
    async fn waiters_learn_the_outcome_once_and_for_all() {
        let flight = flight();
        let waiting = flight.outcome();
        flight.settle(Outcome::Alone(Refusal::Private));
        flight.settle(Outcome::Failed(Fault::Kind(Kind::Internal)));
        assert!(matches!(waiting.await, Outcome::Alone(Refusal::Private)));
        assert!(matches!(flight.outcome().await, Outcome::Alone(Refusal::Private)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unstored_body_waits_for_its_only_reader_however_slow() {
        let flight = flight();
        let mut reader = flight.read(None).expect("all there");
        flight.stop_storing();
        flight.push(Bytes::from(vec![0; WINDOW_BYTES as usize]));
        let wait = tokio::time::timeout(Duration::from_secs(60), flight.room());
        assert!(wait.await.is_err(), "it must wait");
        assert!(next(&mut reader).await.is_some());
        assert!(flight.room().await);
        assert!(flight.read(None).is_none(), "the first piece is gone");
    }

    #[tokio::test]
    async fn of_several_readers_one_that_stalls_is_cut_loose() {
        let flight = flight();
        let mut stalled = flight.read(None).expect("all there");
        let mut fast = flight.read(None).expect("all there");
        flight.stop_storing();
        flight.push(Bytes::from(vec![0; WINDOW_BYTES as usize]));
        assert!(next(&mut fast).await.is_some());
        let started = Instant::now();
        assert!(flight.room().await);
        assert!(started.elapsed() >= STALL_MAX);
        assert_eq!(next(&mut stalled).await, Some(Err(Kind::ReaderStalled)));
        assert_eq!(flight.readers(), 1);
    }

    #[tokio::test]
    async fn an_unstored_body_without_readers_has_no_future() {
        let flight = flight();
        drop(flight.read(None));
        flight.stop_storing();
        assert!(!flight.room().await);
    }

    #[tokio::test]
    async fn nothing_goes_before_those_who_wait_have_begun_to_read() {
        let flight = flight();
        let waiting = flight.wait();
        let mut first = flight.read(None).expect("all there");
        flight.stop_storing();
        flight.push(Bytes::from("a"));
        assert!(next(&mut first).await.is_some());
        drop(first);
        assert!(flight.room().await, "somebody is coming");
        let mut second = flight.read(None).expect("all there");
        drop(waiting);
        assert_eq!(next(&mut second).await, Some(Ok(Bytes::from("a"))));
    }

    #[tokio::test]
    async fn a_body_is_deserted_when_its_last_reader_leaves() {
        let flight = flight();
        let (first, last) =
            (flight.read(None).expect("all there"), flight.read(None).expect("all there"));
        flight.stop_storing();
        let mut deserted = Box::pin(flight.deserted());
        assert!(poll_once(&mut deserted).await.is_pending());
        drop(first);
        assert!(poll_once(&mut deserted).await.is_pending());
        drop(last);
        deserted.await;
    }
}
