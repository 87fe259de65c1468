//! The parts of a request body that have been read and are kept: for the first try, where they came
//! before it, and for others after it.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::oneshot;

use crate::memory::{LocalCharge, LocalMemory};

/// Memory that a part takes beside its content, in bytes.
const PART_OVERHEAD_BYTES: usize = 128;
/// Parts that are kept of one body.
const PARTS_MAX: usize = 1024;
/// Small parts are joined up to this size, in bytes: a client may send one byte at a time.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// A part of a body.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// A body that was kept to its end.
#[derive(Debug)]
pub struct Whole {
    pub(super) parts: VecDeque<Part>,
    pub(super) length: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Kept {
    parts: VecDeque<Part>,
    /// The number of the first of them: those before were let go.
    first: usize,
    /// Of their content.
    bytes: usize,
    bytes_max: usize,
    charge: LocalCharge,
    /// Who wants all of it.
    wanted: Option<oneshot::Sender<Whole>>,
    /// Each part is read once more at most.
    is_passing: bool,
}

impl Kept {
    pub(super) fn new(bytes_max: usize, memory: &Rc<LocalMemory>) -> Self {
        Self::of(VecDeque::new(), bytes_max, memory)
    }

    /// Parts that are charged for elsewhere.
    pub(super) fn of(parts: VecDeque<Part>, bytes_max: usize, memory: &Rc<LocalMemory>) -> Self {
        let charge = LocalCharge::new(memory);
        Self { parts, first: 0, bytes: 0, bytes_max, charge, wanted: None, is_passing: false }
    }

    pub(super) fn raise_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = self.bytes_max.max(bytes);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a reader can begin at the beginning.
    pub(super) fn has_all(&self) -> bool {
        self.first == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn want(&mut self, wanted: oneshot::Sender<Whole>) {
        self.wanted = Some(wanted);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// From here on a part is let go once it was read.
    pub(super) fn pass(&mut self) {
        self.is_passing = true;
    }

    /// Adds a part that its only reader has just read. False if there is no room, or no use, for
    /// another one.
    pub(super) fn push(&mut self, part: &Part) -> bool {
        let bytes = part.bytes();
        if self.is_passing
            || self.bytes + bytes > self.bytes_max
            || self.parts.len() >= PARTS_MAX
            || !self.count(bytes, PART_OVERHEAD_BYTES)
        {
            return false;
        }
        self.parts.push_back(part.clone());
        true
    }

    /// Adds a part that nobody has read yet, whatever it takes. False if there is no room or no
    /// memory for another one.
    pub(super) fn push_ahead(&mut self, part: Part) -> bool {
        let has_memory = self.append(part);
        let is_over = self.bytes > self.bytes_max;
        if is_over {
            // It can be read once, and not again.
            self.is_passing = true;
            self.wanted = None;
        }
        has_memory && !is_over && self.parts.len() < PARTS_MAX
    }

    fn append(&mut self, part: Part) -> bool {
        let part = match part {
            Part::Data(data) if data.is_empty() => return true,
            Part::Data(data) => match self.join(data) {
                Ok(joined) => return self.count(joined, 0),
                Err(data) => Part::Data(data),
            },
            trailers @ Part::Trailers(_) => trailers,
        };
        let bytes = part.bytes();
        self.parts.push_back(part);
        self.count(bytes, PART_OVERHEAD_BYTES)
    }

    fn count(&mut self, bytes: usize, overhead: usize) -> bool {
        self.bytes += bytes;
        self.charge.grow((bytes + overhead) as u64)
    }

    /// Appends bytes to the last part, if both are small; how many.
    fn join(&mut self, data: Bytes) -> Result<usize, Bytes> {
        let Some(Part::Data(last)) = self.parts.back_mut() else { return Err(data) };
        if last.len() + data.len() > JOINED_BYTES_MAX {
            return Err(data);
        }
        let mut joined = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
            let mut own = BytesMut::with_capacity(2 * (shared.len() + data.len()));
            own.extend_from_slice(&shared);
            own
        });
        joined.extend_from_slice(&data);
        *last = joined.freeze();
        Ok(data.len())
    }

    /// The part with this number, for a reader that is the only one or not.
    pub(super) fn take(&mut self, number: usize, is_only: bool) -> Option<Part> {
        let part = self.parts.get(number.checked_sub(self.first)?)?.clone();
        if self.is_passing && is_only {
            while self.first <= number
                && let Some(read) = self.parts.pop_front()
            {
                self.first += 1;
                self.bytes = self.bytes.saturating_sub(read.bytes());
                self.charge.shrink((read.bytes() + PART_OVERHEAD_BYTES) as u64);
            }
        }
        Some(part)
    }

    /// Hands the whole to whoever wants it; the body has come to its end.
    pub(super) fn hand_over(&mut self, length: Option<u64>) {
        if let Some(wanted) = self.wanted.take() {
            // Fails if it is not wanted any more.
            let _ = wanted.send(Whole { parts: self.parts.clone(), length });
        }
    }
}

impl Part {
    pub(super) fn of(frame: Frame<Bytes>) -> Option<Self> {
        match frame.into_data() {
            Ok(data) => Some(Self::Data(data)),
            Err(frame) => frame.into_trailers().ok().map(Self::Trailers),
        }
    }

    pub(super) fn data_bytes(&self) -> usize {
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

    pub(super) fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(fields) => Frame::trailers(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &'static str) -> Part {
        Part::Data(Bytes::from_static(text.as_bytes()))
    }

    fn text(part: Option<Part>) -> String {
        match part {
            Some(Part::Data(data)) => String::from_utf8_lossy(&data).into_owned(),
            _ => "nothing".to_owned(),
        }
    }

    #[test]
    fn single_bytes_cost_no_more_than_they_are() {
        let memory = LocalMemory::new(1 << 20);
        let mut kept = Kept::new(64 << 10, &memory);
        for _ in 0..40_000 {
            assert!(kept.push_ahead(data("x")));
        }
        assert_eq!(kept.parts.len(), 3);
        assert_eq!(memory.used(), 40_000 + 3 * PART_OVERHEAD_BYTES as u64);
        drop(kept);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_came_ahead_is_kept_though_the_memory_is_spent() {
        let memory = LocalMemory::new(PART_OVERHEAD_BYTES as u64 + 1);
        let mut kept = Kept::new(64 << 10, &memory);
        assert!(kept.push_ahead(data("a")));
        assert!(!kept.push_ahead(data("b")));
        assert_eq!(text(kept.take(0, true)), "ab");
        assert!(!kept.push(&data("c")));
    }

    #[test]
    fn a_passing_part_is_let_go_when_its_only_reader_has_it() {
        let memory = LocalMemory::new(1 << 20);
        let mut kept = Kept::new(64 << 10, &memory);
        assert!(kept.push(&data("a")) && kept.push(&data("b")) && kept.push(&data("c")));
        kept.pass();
        assert_eq!(text(kept.take(1, false)), "b");
        assert!(kept.has_all());
        assert_eq!(text(kept.take(1, true)), "b");
        assert!(!kept.has_all());
        assert_eq!(text(kept.take(0, true)), "nothing");
        assert_eq!(text(kept.take(2, true)), "c");
        assert_eq!((memory.used(), text(kept.take(3, true))), (0, "nothing".to_owned()));
    }
}
