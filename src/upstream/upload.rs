//! The body of a request on its way to an endpoint.
//!
//! The client's body belongs to the request, not to one try of it: a try reads it through an
//! [`UploadReader`]. What was read may be kept, up to 64 KiB; as long as all of it is, another try,
//! or a copy of the request, can read it from its beginning.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::{Error, Kind};
use crate::timer::LazyTimer;

/// Bytes of a body that are kept to be sent again.
pub const REPLAY_BYTES_MAX: usize = 64 << 10;

/// Bounds on a body that a client sends.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    pub bytes_max: u64,
    /// Longest gap between two parts.
    pub gap_max: Duration,
    /// Its answer may begin long before its end: then the silence of both ways is bounded there.
    pub is_call: bool,
}

/// A body that a client sends.
#[derive(Debug)]
pub struct Upload {
    source: RefCell<Source>,
    limits: UploadLimits,
    /// Bytes that it has in all, where the client said so.
    length: Option<u64>,
    bytes: Cell<u64>,
    state: Cell<State>,
    /// When a part was last handed on.
    progress: Cell<Instant>,
    /// All that was read so far; `None` if it is not kept, or too much.
    kept: RefCell<Option<Kept>>,
    /// Tries that read it, so far.
    readers: Cell<u32>,
    is_answered: Cell<bool>,
}

#[derive(Debug)]
struct Source {
    /// `None` for a copy, which has nothing but what was kept.
    body: Option<Incoming>,
    gap: LazyTimer,
}

/// A part of a body.
#[derive(Debug, Clone)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Debug, Default)]
struct Kept {
    parts: Vec<Part>,
    bytes: usize,
    /// Who wants all of it.
    wanted: Option<oneshot::Sender<Whole>>,
}

/// A body that was kept to its end.
#[derive(Debug)]
pub struct Whole {
    parts: Vec<Part>,
    length: Option<u64>,
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
    /// How many of the kept parts it has had.
    next: usize,
}

impl Upload {
    pub fn new(body: Incoming, limits: UploadLimits) -> Rc<Self> {
        let length = body.size_hint().exact();
        Self::of(Some(body), limits, length, None, State::Untouched)
    }

    /// One that sends what another one has kept.
    pub fn copy(whole: Whole) -> Rc<Self> {
        let Whole { parts, length } = whole;
        let limits = UploadLimits { bytes_max: u64::MAX, gap_max: Duration::MAX, is_call: false };
        let kept = Kept { parts, ..Kept::default() };
        Self::of(None, limits, length, Some(kept), State::Done)
    }

    fn of(
        body: Option<Incoming>,
        limits: UploadLimits,
        length: Option<u64>,
        kept: Option<Kept>,
        state: State,
    ) -> Rc<Self> {
        Rc::new(Self {
            source: RefCell::new(Source { body, gap: LazyTimer::default() }),
            limits,
            length,
            bytes: Cell::new(0),
            state: Cell::new(state),
            progress: Cell::new(Instant::now()),
            kept: RefCell::new(kept),
            readers: Cell::new(0),
            is_answered: Cell::new(false),
        })
    }

    /// From here on what is read is kept, unless something was read already.
    pub fn keep(&self) {
        let mut kept = self.kept.borrow_mut();
        if kept.is_none() && self.state.get() == State::Untouched {
            *kept = Some(Kept::default());
        }
    }

    /// There will be no further try, so what is kept is not needed any more, unless somebody wants
    /// the whole, or a second try is just reading it.
    pub fn forget(&self) {
        let readers = self.readers.get();
        self.kept.borrow_mut().take_if(|kept| kept.wanted.is_none() && readers <= 1);
    }

    /// The whole body, once it was read to its end. Fails if it is too large, or does not come.
    pub fn whole(&self) -> oneshot::Receiver<Whole> {
        let (sender, receiver) = oneshot::channel();
        self.keep();
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.wanted = Some(sender);
        }
        self.hand_over_at_end();
        receiver
    }

    /// Whether a try can send it from the beginning.
    pub fn can_begin(&self) -> bool {
        match self.state.get() {
            State::Untouched => true,
            State::Failed(_) => false,
            _ => self.kept.borrow().is_some(),
        }
    }

    /// Whether all of it is there for another try, beside the one that has read it.
    pub fn is_kept_whole(&self) -> bool {
        self.state.get() == State::Done && self.kept.borrow().is_some()
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
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

    /// The next part that was not read yet.
    fn poll_new(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Error>>> {
        match self.state.get() {
            State::Failed(kind) => return Poll::Ready(Some(Err(kind.into()))),
            State::Done => return Poll::Ready(None),
            _ => {}
        }
        let mut source = self.source.borrow_mut();
        let Source { body, gap } = &mut *source;
        let Some(body) = body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.progress.set(Instant::now());
                let Some(part) = Part::of(frame) else { return Poll::Ready(None) };
                self.bytes.set(self.bytes.get() + part.data_bytes() as u64);
                if self.bytes.get() > self.limits.bytes_max {
                    return self.fail(Kind::BodyTooLarge);
                }
                let done = body.is_end_stream();
                self.state.set(if done { State::Done } else { State::WaitingForEndpoint });
                self.keep_part(&part);
                Poll::Ready(Some(Ok(part)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(Kind::ClientGone),
            Poll::Ready(None) => {
                self.progress.set(Instant::now());
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
                if self.limits.is_call && self.is_answered.get() {
                    return Poll::Pending;
                }
                let deadline = self.progress.get() + self.limits.gap_max;
                if gap.poll_until(deadline, now, cx).is_ready() {
                    return self.fail(Kind::BodyTimeout);
                }
                Poll::Pending
            }
        }
    }

    fn keep_part(&self, part: &Part) {
        let mut kept = self.kept.borrow_mut();
        let Some(all) = &mut *kept else { return };
        all.bytes += part.bytes();
        if all.bytes > REPLAY_BYTES_MAX {
            *kept = None;
            return;
        }
        all.parts.push(part.clone());
        drop(kept);
        self.hand_over_at_end();
    }

    fn hand_over_at_end(&self) {
        if self.state.get() != State::Done {
            return;
        }
        if let Some(kept) = &mut *self.kept.borrow_mut()
            && let Some(wanted) = kept.wanted.take()
        {
            // Fails if it is not wanted any more.
            let _ = wanted.send(Whole { parts: kept.parts.clone(), length: self.length });
        }
    }

    fn fail(&self, kind: Kind) -> Poll<Option<Result<Part, Error>>> {
        self.state.set(State::Failed(kind));
        *self.kept.borrow_mut() = None;
        Poll::Ready(Some(Err(kind.into())))
    }
}

impl Part {
    fn of(frame: Frame<Bytes>) -> Option<Self> {
        match frame.into_data() {
            Ok(data) => Some(Self::Data(data)),
            Err(frame) => frame.into_trailers().ok().map(Self::Trailers),
        }
    }

    fn data_bytes(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(fields) => {
                fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
            }
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(fields) => Frame::trailers(fields),
        }
    }
}

impl UploadReader {
    /// Notes that its answer has begun.
    pub(super) fn answered(&self) {
        self.upload.is_answered.set(true);
    }

    /// When a part of it was last handed on.
    pub(super) fn progress(&self) -> Instant {
        self.upload.progress.get()
    }

    pub fn new(upload: &Rc<Upload>) -> Self {
        upload.readers.set(upload.readers.get() + 1);
        Self { upload: upload.clone(), next: 0 }
    }

    /// The next part, to be written.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let known = match &*self.upload.kept.borrow() {
            Some(kept) => kept.parts.get(self.next).cloned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(parts: &[&'static str]) -> Rc<Upload> {
        let parts = parts.iter().map(|part| Part::Data(Bytes::from_static(part.as_bytes())));
        Upload::copy(Whole { parts: parts.collect(), length: None })
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
        let upload = copy_of(&["a"]);
        let _only = UploadReader::new(&upload);
        upload.forget();
        assert!(!upload.can_begin());
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept_and_not_handed_over() {
        let upload = copy_of(&[]);
        upload.state.set(State::WaitingForEndpoint);
        let mut whole = upload.whole();
        let half = Part::Data(Bytes::from(vec![0; REPLAY_BYTES_MAX / 2]));
        upload.keep_part(&half);
        upload.keep_part(&half);
        assert!(upload.can_begin());
        upload.keep_part(&Part::Data(Bytes::from_static(b"x")));
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
        upload.keep_part(&Part::Data(Bytes::from_static(b"b")));
        assert_eq!(whole.try_recv().expect("the whole").parts.len(), 2);
    }
}
