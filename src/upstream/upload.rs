//! The body of a request on its way to an endpoint.
//!
//! The client's body belongs to the request, not to one try of it: a try reads it through an
//! [`UploadReader`]. A small one is read before the first try, so that a slow client holds no
//! endpoint. What was read may be kept, up to 64 KiB; as long as all of it is, another try, or a
//! copy of the request, can read it from its beginning.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_body::ClientBody;
use super::kept::{Kept, Part, Whole};
use super::pace::{Pace, PaceLimits};
use crate::balance::Stalling;
use crate::error::{Error, Kind};
use crate::memory::LocalMemory;
use crate::timer::LazyTimer;

/// Bytes of a body that are kept to be sent again.
pub const REPLAY_BYTES_MAX: usize = 64 << 10;
/// How long a body that is long, or of unknown length, may pause before the request goes on with
/// what there is: its client may wait for the answer to what it has sent.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Bounds on a body that a client sends.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    pub bytes_max: u64,
    /// Longest gap between two parts.
    pub gap_max: Duration,
    pub pace: PaceLimits,
    /// Bytes that are read before the first try.
    pub ahead_bytes_max: usize,
    /// Its answer may begin long before its end: then the silence of both ways is bounded there.
    pub is_call: bool,
}

/// A body that a client sends.
#[derive(Debug)]
pub struct Upload {
    source: RefCell<Source>,
    limits: UploadLimits,
    memory: Rc<LocalMemory>,
    /// Bytes that it has in all, where the client said so.
    length: Option<u64>,
    bytes: Cell<u64>,
    state: Cell<State>,
    /// When a part was last handed on.
    progress: Cell<Instant>,
    pace: Cell<Pace>,
    /// All that was read so far; `None` if it is not kept, or too much.
    kept: RefCell<Option<Kept>>,
    /// Tries that are reading it.
    readers: Cell<u32>,
    is_answered: Cell<bool>,
    /// Its place on an endpoint, which others may ask for while it waits for its client.
    stalling: RefCell<Option<Stalling>>,
}

#[derive(Debug)]
struct Source {
    /// `None` for a copy, which has nothing but what was kept.
    body: Option<ClientBody>,
    timer: LazyTimer,
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

/// Reads a body from its beginning, for one try.
#[derive(Debug)]
pub struct UploadReader {
    upload: Rc<Upload>,
    /// How many of the parts it has had.
    next: usize,
}

impl Upload {
    pub fn new(body: ClientBody, limits: UploadLimits, memory: &Rc<LocalMemory>) -> Rc<Self> {
        let length = body.size_hint().exact();
        Self::of(Some(body), limits, length, None, State::Untouched, memory)
    }

    /// One that sends what another one has kept.
    pub fn copy(whole: Whole, memory: &Rc<LocalMemory>) -> Rc<Self> {
        let Whole { parts, length } = whole;
        let limits = UploadLimits {
            bytes_max: u64::MAX,
            gap_max: Duration::MAX,
            pace: PaceLimits { rate: 0, grace: Duration::ZERO, ahead_max: Duration::ZERO },
            ahead_bytes_max: 0,
            is_call: false,
        };
        let kept = Kept::of(parts, REPLAY_BYTES_MAX, memory);
        Self::of(None, limits, length, Some(kept), State::Done, memory)
    }

    fn of(
        body: Option<ClientBody>,
        limits: UploadLimits,
        length: Option<u64>,
        kept: Option<Kept>,
        state: State,
        memory: &Rc<LocalMemory>,
    ) -> Rc<Self> {
        Rc::new(Self {
            source: RefCell::new(Source { body, timer: LazyTimer::default() }),
            limits,
            memory: memory.clone(),
            length,
            bytes: Cell::new(0),
            state: Cell::new(state),
            progress: Cell::new(Instant::now()),
            pace: Cell::default(),
            kept: RefCell::new(kept),
            readers: Cell::new(0),
            is_answered: Cell::new(false),
            stalling: RefCell::new(None),
        })
    }

    /// From here on what is read is kept, unless something was read already.
    pub fn keep(&self) {
        let mut kept = self.kept.borrow_mut();
        if kept.is_none() && self.state.get() == State::Untouched {
            *kept = Some(Kept::new(REPLAY_BYTES_MAX, &self.memory));
        }
    }

    /// From here on it is sent to an endpoint, on a place that may be called in, or on none.
    pub fn take_place(&self, stalling: Option<Stalling>) {
        *self.stalling.borrow_mut() = stalling;
    }

    /// There will be no further try, so what is kept is needed only once more, unless somebody
    /// wants the whole.
    pub fn forget(&self) {
        self.take_place(None);
        let mut kept = self.kept.borrow_mut();
        if self.readers.get() == 0 {
            kept.take_if(|kept| !kept.is_wanted());
        } else if let Some(kept) = &mut *kept
            && !kept.is_wanted()
        {
            kept.pass();
        }
    }

    /// The whole body, once it was read to its end. Fails if it is too large, or does not come.
    pub fn whole(&self) -> oneshot::Receiver<Whole> {
        let (sender, receiver) = oneshot::channel();
        self.keep();
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.want(sender);
        }
        self.hand_over_at_end();
        receiver
    }

    /// Whether a try can send it from the beginning.
    pub fn can_begin(&self) -> bool {
        match self.state.get() {
            State::Untouched => true,
            State::Failed(_) => false,
            _ => self.kept.borrow().as_ref().is_some_and(Kept::has_all),
        }
    }

    /// Whether all of it is there for another try, beside the one that has read it.
    pub fn is_kept_whole(&self) -> bool {
        self.state.get() == State::Done && self.can_begin()
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether it has turned out to be no body at all.
    pub fn is_empty(&self) -> bool {
        self.state.get() == State::Done
            && self.bytes.get() == 0
            && self.kept.borrow().as_ref().is_none_or(Kept::is_empty)
    }

    /// Bytes that it has in all, where the client said so.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
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

    /// Reads its beginning, or all of it, before there is a try that takes it. `until` bounds the
    /// request.
    ///
    /// # Errors
    /// The client is too slow, sends too much, or has left.
    pub async fn read_ahead(&self, until: Option<Instant>) -> Result<(), Error> {
        if self.limits.ahead_bytes_max == 0 || self.state.get() != State::Untouched {
            return Ok(());
        }
        self.keep();
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.raise_bytes_max(self.limits.ahead_bytes_max);
        }
        poll_fn(|cx| self.poll_ahead(until, cx)).await
    }

    /// Whether all of it is known to be read before the first try.
    fn is_small(&self) -> bool {
        self.length.is_some_and(|length| length <= self.limits.ahead_bytes_max as u64)
    }

    fn poll_ahead(&self, until: Option<Instant>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let may_pause = !self.is_small();
            let pausing = (may_pause && self.state.get() == State::WaitingForClient)
                .then(|| self.progress.get() + PAUSE_MAX);
            let early = [until, pausing].into_iter().flatten().min();
            match self.poll_source(early, cx) {
                Poll::Ready(Some(Ok(part))) => {
                    let mut kept = self.kept.borrow_mut();
                    let Some(kept) = &mut *kept else { return Poll::Ready(Ok(())) };
                    let has_room = kept.push_ahead(part);
                    if self.state.get() == State::Done {
                        kept.hand_over(self.length);
                        return Poll::Ready(Ok(()));
                    }
                    if !has_room || kept.bytes() >= self.limits.ahead_bytes_max {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let now = Instant::now();
                    if until.is_some_and(|until| now >= until) {
                        return Poll::Ready(Err(Kind::Deadline.into()));
                    }
                    if pausing.is_some_and(|pausing| now >= pausing) {
                        return Poll::Ready(Ok(()));
                    }
                    // The pause may have begun just now.
                    if pausing.is_some() || !may_pause {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// The next part that was not read yet.
    fn poll_new(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Error>>> {
        let part = ready!(self.poll_source(None, cx));
        if let Some(Ok(part)) = &part {
            self.kept.borrow_mut().take_if(|kept| !kept.push(part));
            self.hand_over_at_end();
        }
        Poll::Ready(part)
    }

    /// The next part from the client. Wakes the task at `early` as well.
    fn poll_source(
        &self,
        early: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, Error>>> {
        match self.state.get() {
            State::Failed(kind) => return Poll::Ready(Some(Err(kind.into()))),
            State::Done => return Poll::Ready(None),
            _ => {}
        }
        let mut source = self.source.borrow_mut();
        let Source { body, timer } = &mut *source;
        let Some(body) = body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let Some(part) = Part::of(frame) else { return Poll::Ready(None) };
                self.came(part.data_bytes());
                if self.bytes.get() > self.limits.bytes_max {
                    return self.fail(Kind::BodyTooLarge);
                }
                let done = body.is_end_stream();
                self.state.set(if done { State::Done } else { State::WaitingForEndpoint });
                Poll::Ready(Some(Ok(part)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(Kind::ClientGone),
            Poll::Ready(None) => {
                self.came(0);
                self.state.set(State::Done);
                self.hand_over_at_end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let now = Instant::now();
                if self.state.get() != State::WaitingForClient {
                    self.state.set(State::WaitingForClient);
                    self.progress.set(now);
                }
                if let Some(stalling) = &mut *self.stalling.borrow_mut()
                    && stalling.is_called_in(cx)
                {
                    return self.fail(Kind::ClientShare);
                }
                let deadline = self.deadline();
                let wake = [deadline.map(|(deadline, _)| deadline), early];
                let Some(wake) = wake.into_iter().flatten().min() else { return Poll::Pending };
                ready!(timer.poll_until(wake, now, cx));
                let now = Instant::now();
                if let Some((_, kind)) = deadline.filter(|(deadline, _)| now >= *deadline) {
                    return self.fail(kind);
                }
                // Somebody else had set it.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Notes that a part came. Only time in which it was the client's turn counts for its pace.
    fn came(&self, bytes: usize) {
        let now = Instant::now();
        let waited = match self.state.get() {
            State::WaitingForClient => now - self.progress.get(),
            _ => Duration::ZERO,
        };
        if let Some(stalling) = &mut *self.stalling.borrow_mut() {
            stalling.goes_on();
        }
        let mut pace = self.pace.get();
        pace.came(bytes, waited, &self.limits.pace);
        self.pace.set(pace);
        self.progress.set(now);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// When the client, whose turn it is, has taken too long, and for what.
    fn deadline(&self) -> Option<(Instant, Kind)> {
        let since = self.progress.get();
        let is_answered = self.is_answered.get();
        if is_answered && self.limits.is_call {
            return None;
        }
        let gap = (since + self.limits.gap_max, Kind::BodyTimeout);
        let patience = self.pace.get().patience(&self.limits.pace);
        // Behind its beginning the answer and the body may be a conversation.
        match patience.filter(|_| !is_answered) {
            Some(patience) if since + patience < gap.0 => {
                Some((since + patience, Kind::BodyTooSlow))
            }
            _ => Some(gap),
        }
    }

    fn hand_over_at_end(&self) {
        if self.state.get() == State::Done
            && let Some(kept) = &mut *self.kept.borrow_mut()
        {
            kept.hand_over(self.length);
        }
    }

    fn fail(&self, kind: Kind) -> Poll<Option<Result<Part, Error>>> {
        self.state.set(State::Failed(kind));
        *self.kept.borrow_mut() = None;
        Poll::Ready(Some(Err(kind.into())))
    }
}

impl UploadReader {
    pub fn new(upload: &Rc<Upload>) -> Self {
        upload.readers.set(upload.readers.get() + 1);
        Self { upload: upload.clone(), next: 0 }
    }

    /// Notes that its answer has begun.
    pub(super) fn answered(&self) {
        self.upload.is_answered.set(true);
    }

    /// When a part of it was last handed on.
    pub(super) fn progress(&self) -> Instant {
        self.upload.progress.get()
    }

    /// The next part, to be written.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let is_only = self.upload.readers.get() == 1;
        let known = match &mut *self.upload.kept.borrow_mut() {
            Some(kept) => kept.take(self.next, is_only),
            None => None,
        };
        let part = match known {
            Some(part) => Poll::Ready(Some(Ok(part))),
            None => self.upload.poll_new(cx),
        };
        if let Poll::Ready(Some(Ok(_))) = &part {
            self.next += 1;
        }
        part.map(|part| part.map(|part| part.map(Part::into_frame)))
    }
}

impl Drop for UploadReader {
    fn drop(&mut self) {
        self.upload.readers.set(self.upload.readers.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(parts: &[&'static str]) -> Rc<Upload> {
        let parts = parts.iter().map(|part| Part::Data(Bytes::from_static(part.as_bytes())));
        let whole = Whole { parts: parts.collect(), length: None };
        Upload::copy(whole, &LocalMemory::new(1 << 20))
    }

    fn keep_part(upload: &Upload, part: &Part) {
        upload.kept.borrow_mut().take_if(|kept| !kept.push(part));
        upload.hand_over_at_end();
    }

    fn read(reader: &mut UploadReader) -> Option<String> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(frame) = reader.poll_frame(&mut cx) else {
            unreachable!("it is all there")
        };
        let data = frame?.expect("no error").into_data().expect("data");
        Some(String::from_utf8_lossy(&data).into_owned())
    }

    #[test]
    fn each_reader_begins_at_the_beginning() {
        let upload = copy_of(&["a", "b"]);
        let (mut first, mut second) = (UploadReader::new(&upload), UploadReader::new(&upload));
        assert_eq!(read(&mut first).as_deref(), Some("a"));
        assert_eq!(read(&mut second).as_deref(), Some("a"));
        assert_eq!(read(&mut first).as_deref(), Some("b"));
        assert_eq!(read(&mut first), None);
        assert_eq!(read(&mut second).as_deref(), Some("b"));
        assert!(upload.can_begin() && upload.is_kept_whole());
    }

    #[test]
    fn what_is_kept_is_let_go_unless_a_second_try_reads_it() {
        let upload = copy_of(&["a", "b"]);
        let _first = UploadReader::new(&upload);
        let mut second = UploadReader::new(&upload);
        assert_eq!(read(&mut second).as_deref(), Some("a"));
        upload.forget();
        assert_eq!(read(&mut second).as_deref(), Some("b"));
        assert!(upload.can_begin());
    }

    #[test]
    fn an_answer_before_the_end_of_the_body_loses_nothing_of_it() {
        let upload = copy_of(&["a", "b", "c"]);
        let mut only = UploadReader::new(&upload);
        assert_eq!(read(&mut only).as_deref(), Some("a"));
        upload.forget();
        assert_eq!(read(&mut only).as_deref(), Some("b"));
        assert!(!upload.can_begin());
        assert_eq!(read(&mut only).as_deref(), Some("c"));
        drop(only);
        upload.forget();
        assert!(upload.kept.borrow().is_none());
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept_and_not_handed_over() {
        let upload = copy_of(&[]);
        upload.state.set(State::WaitingForEndpoint);
        let mut whole = upload.whole();
        let half = Part::Data(Bytes::from(vec![0; REPLAY_BYTES_MAX / 2]));
        keep_part(&upload, &half);
        keep_part(&upload, &half);
        assert!(upload.can_begin());
        keep_part(&upload, &Part::Data(Bytes::from_static(b"x")));
        assert!(!upload.can_begin());
        assert!(matches!(whole.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn a_whole_body_is_handed_over_at_its_end_even_if_the_request_is_done_with_it() {
        let upload = copy_of(&["a"]);
        upload.state.set(State::WaitingForEndpoint);
        let mut whole = upload.whole();
        upload.forget();
        assert!(whole.try_recv().is_err());
        upload.state.set(State::Done);
        keep_part(&upload, &Part::Data(Bytes::from_static(b"b")));
        assert_eq!(whole.try_recv().expect("the whole").parts.len(), 2);
    }
}
