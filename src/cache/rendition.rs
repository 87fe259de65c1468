//! The codings of a stored body (RFC 9110 §8.4): each is made once, when it is first asked for, and
//! goes with the last entry that has this body.
//!
//! Whoever makes one does it in slices; what is not worth it, or finds no room, is not tried again.
//! Coded bytes are charged to the memory of the cache like all that it holds. The slices begin at
//! the same places however the body came, and so the result is the same each time it is made, as a
//! strong entity tag demands.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::ETAG;
use tokio::sync::Notify;

use super::Cache;
use super::entry::Entry;
use crate::body::StoredBody;
use crate::compress::Coding;
use crate::compress::encode::{Effort, Encoder, SLICE_BYTES, worth_bytes_max};
use crate::compress::fields::KeptFields;
use crate::compress::turns::Ticket;
use crate::fields::Named;
use crate::memory::Charge;

/// Coded bodies are kept in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// What is kept about the codings of a body, without the codings themselves.
pub(super) const RENDITIONS_BYTES: u64 = 128;

/// What is known about the codings of one body.
#[derive(Debug)]
pub struct Renditions {
    /// By [`Coding::index`]; `None` inside where it was not to be.
    made: [OnceLock<Option<Arc<Coded>>>; Coding::ALL.len()],
    /// Codings that somebody is making, a bit for each.
    making: AtomicU8,
    changed: Notify,
    _charge: Charge,
}

/// A body in a coding, and what its head says of it.
#[derive(Debug)]
pub struct Coded {
    pub fields: KeptFields,
    pub body: StoredBody,
}

/// One coding of a body.
#[derive(Debug)]
pub enum Rendition {
    Made(Arc<Coded>),
    /// It is not worth it, or there was no room.
    Declined,
    Absent,
}

/// The right, and the duty, to make a coding. Dropped without that, it passes on.
#[derive(Debug)]
pub struct Making {
    renditions: Arc<Renditions>,
    coding: Coding,
}

impl Renditions {
    pub(super) fn new(charge: Charge) -> Self {
        Self {
            made: Default::default(),
            making: AtomicU8::new(0),
            changed: Notify::new(),
            _charge: charge,
        }
    }

    pub fn get(&self, coding: Coding) -> Rendition {
        match self.made[coding.index()].get() {
            Some(Some(coded)) => Rendition::Made(coded.clone()),
            Some(None) => Rendition::Declined,
            None => Rendition::Absent,
        }
    }

    /// `None` while somebody else makes it, or once it is decided.
    pub fn begin(self: &Arc<Self>, coding: Coding) -> Option<Making> {
        let bit = bit(coding);
        if self.making.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return None;
        }
        let making = Making { renditions: self.clone(), coding };
        self.made[coding.index()].get().is_none().then_some(making)
    }

    /// Waits while somebody makes it.
    pub async fn settled(&self, coding: Coding) {
        loop {
            let changed = self.changed.notified();
            if self.making.load(Ordering::Acquire) & bit(coding) == 0 {
                return;
            }
            changed.await;
        }
    }
}

fn bit(coding: Coding) -> u8 {
    1 << coding.index()
}

impl Making {
    /// Makes it in one go, for bodies of at most one slice.
    pub fn make_now(self, cache: &Cache, entry: &Entry) {
        let mut work = Work::begin(self.coding, cache, &entry.body);
        while work.as_mut().is_some_and(|work| work.step(&entry.body)) {}
        self.decide(work, entry);
    }

    /// Makes it slice by slice, each in a turn of its own.
    pub async fn make(self, cache: &Cache, entry: &Entry, ticket: &Ticket) {
        let mut work = Work::begin(self.coding, cache, &entry.body);
        loop {
            ticket.turn().await;
            let has_more = work.as_mut().is_some_and(|work| work.step(&entry.body));
            ticket.end();
            if !has_more {
                break;
            }
        }
        self.decide(work, entry);
    }

    fn decide(self, work: Option<Work>, entry: &Entry) {
        let coded = work.and_then(Work::finish).map(|body| {
            let fields = KeptFields::new(entry.head.fields.value(&ETAG), self.coding, body.bytes());
            Arc::new(Coded { fields, body })
        });
        // Only the one who makes it decides, so the place is empty.
        let _ = self.renditions.made[self.coding.index()].set(coded);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.renditions.making.fetch_and(!bit(self.coding), Ordering::AcqRel);
        self.renditions.changed.notify_waiters();
    }
}

/// A coding on its way.
struct Work {
    /// `None` at the end, or after a failure.
    encoder: Option<Encoder>,
    charge: Charge,
    /// Bytes of the plain body that were taken.
    taken: u64,
    out: Pieces,
    bytes_max: u64,
    is_whole: bool,
}

impl Work {
    /// `None` where there is no room for the result.
    fn begin(coding: Coding, cache: &Cache, body: &StoredBody) -> Option<Self> {
        let bytes_max = worth_bytes_max(body.bytes());
        Some(Self {
            charge: cache.store.reserve(bytes_max)?,
            encoder: Some(Encoder::new(coding, Effort::Kept).ok()?),
            taken: 0,
            out: Pieces::default(),
            bytes_max,
            is_whole: false,
        })
    }

    /// Encodes one slice; whether there is more to do.
    fn step(&mut self, body: &StoredBody) -> bool {
        let Some(mut encoder) = self.encoder.take() else { return false };
        let slice = slice(body.chunks(), self.taken);
        self.taken += slice.len() as u64;
        let is_last = self.taken >= body.bytes();
        let mut encode = || -> io::Result<()> {
            self.out.push(&encoder.write(&slice)?);
            if !is_last {
                // What a slice leaves behind would make a later one take longer.
                self.out.push(&encoder.flush()?);
            }
            Ok(())
        };
        if encode().is_err() {
            return false;
        }
        if is_last {
            self.is_whole = encoder.finish().is_ok_and(|end| {
                self.out.push(&end);
                self.out.bytes <= self.bytes_max
            });
            return false;
        }
        self.encoder = Some(encoder);
        self.out.bytes <= self.bytes_max
    }

    fn finish(mut self) -> Option<StoredBody> {
        if !self.is_whole {
            return None;
        }
        self.charge.shrink_to(self.out.bytes);
        Some(StoredBody::new(self.out.finish(), self.charge))
    }
}

/// The bytes of a slice that begins at `from`; copied where it lies in several chunks.
fn slice(chunks: &[Bytes], from: u64) -> Cow<'_, [u8]> {
    let mut skip = usize::try_from(from).unwrap_or(usize::MAX);
    let mut slice: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    for chunk in chunks {
        let Some(rest) = chunk.get(skip..) else {
            skip -= chunk.len();
            continue;
        };
        skip = 0;
        let rest = &rest[..rest.len().min(SLICE_BYTES - slice.len())];
        if slice.is_empty() {
            slice = Cow::Borrowed(rest);
        } else {
            slice.to_mut().extend_from_slice(rest);
        }
        if slice.len() == SLICE_BYTES {
            break;
        }
    }
    slice
}

/// Bytes gathered into pieces of one size; the last is as long as it needs to be.
#[derive(Debug, Default)]
struct Pieces {
    full: Vec<Bytes>,
    last: Vec<u8>,
    bytes: u64,
}

impl Pieces {
    fn push(&mut self, mut data: &[u8]) {
        self.bytes += data.len() as u64;
        while !data.is_empty() {
            let (take, rest) = data.split_at(data.len().min(PIECE_BYTES - self.last.len()));
            self.last.extend_from_slice(take);
            if self.last.len() == PIECE_BYTES {
                self.last.shrink_to_fit();
                self.full.push(Bytes::from(std::mem::take(&mut self.last)));
            }
            data = rest;
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.full.push(Bytes::from(self.last.into_boxed_slice()));
        }
        self.full
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::entry::Head;
    use super::super::testing::{config, head};
    use super::*;
    use crate::compress::encode::tests::decode;
    use crate::compress::turns::Turns;
    use crate::memory::Memory;

    fn cache() -> Arc<Cache> {
        Cache::new(&config(8 << 20, 2 << 20), 1)
    }

    fn text(bytes: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|line: u32| format!("line {line} of many\n").into_bytes());
        lines.take(bytes).collect()
    }

    /// An entry with a body in chunks of this size; it charges nothing.
    fn entry(bytes: &[u8], chunk: usize) -> Entry {
        let chunks = bytes.chunks(chunk).map(Bytes::copy_from_slice).collect();
        let charge = Memory::new(0).charge(0).expect("nothing");
        Entry::new(Head { may_code: true, ..head(60) }, StoredBody::new(chunks, ()), charge)
    }

    async fn made(cache: &Cache, entry: &Entry, coding: Coding) -> Rendition {
        let renditions = entry.renditions(cache).expect("it may be coded");
        renditions
            .begin(coding)
            .expect("nobody makes it")
            .make(cache, entry, &Rc::new(Turns::default()).ticket())
            .await;
        renditions.get(coding)
    }

    #[tokio::test]
    async fn a_rendition_is_charged_for_and_the_same_however_the_body_came() {
        let cache = cache();
        let text = text(300_000);
        for coding in Coding::ALL {
            let in_chunks = async |bytes| match made(&cache, &entry(&text, bytes), coding).await {
                Rendition::Made(coded) => coded,
                other => unreachable!("text gets smaller, not {other:?}"),
            };
            let whole = in_chunks(64 << 10).await;
            assert_eq!(cache.bytes(), whole.body.bytes());
            let bytes = whole.body.chunks().concat();
            assert_eq!(decode(coding, &bytes).expect("decodes"), text);
            let other = in_chunks(1001).await;
            assert!(bytes == other.body.chunks().concat(), "{coding:?}");
            drop((whole, other));
            assert_eq!(cache.bytes(), 0);
        }
    }

    #[tokio::test]
    async fn what_does_not_get_smaller_is_declined_for_good_and_costs_nothing() {
        let cache = cache();
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(100_000).collect();
        let entry = entry(&noise, 4096);
        for coding in Coding::ALL {
            assert!(matches!(made(&cache, &entry, coding).await, Rendition::Declined));
            assert!(entry.renditions(&cache).is_some_and(|all| all.begin(coding).is_none()));
        }
        assert_eq!(cache.bytes(), RENDITIONS_BYTES);
        drop(entry);
        assert_eq!(cache.bytes(), 0);
    }

    #[tokio::test]
    async fn one_makes_it_while_others_wait_and_a_maker_that_goes_is_replaced() {
        let cache = cache();
        let entry = entry(&text(5000), 5000);
        let renditions = entry.renditions(&cache).cloned().expect("it may be coded");
        let making = renditions.begin(Coding::Gzip).expect("the first");
        assert!(renditions.begin(Coding::Gzip).is_none());
        let other = renditions.begin(Coding::Zstd).expect("another coding");
        let waiting = tokio::time::timeout(
            std::time::Duration::from_millis(1),
            renditions.settled(Coding::Gzip),
        );
        assert!(waiting.await.is_err());
        drop(making);
        renditions.settled(Coding::Gzip).await;
        assert!(matches!(renditions.get(Coding::Gzip), Rendition::Absent));
        renditions.begin(Coding::Gzip).expect("free again").make_now(&cache, &entry);
        renditions.settled(Coding::Gzip).await;
        assert!(matches!(renditions.get(Coding::Gzip), Rendition::Made(_)));
        drop(other);
    }

    #[test]
    fn slices_begin_where_they_would_in_one_piece() {
        let text = text(SLICE_BYTES * 2 + 100);
        for chunk in [1, 100, SLICE_BYTES, SLICE_BYTES + 1, text.len()] {
            let chunks: Vec<Bytes> = text.chunks(chunk).map(Bytes::copy_from_slice).collect();
            let mut from = 0;
            for expected in text.chunks(SLICE_BYTES) {
                assert!(*slice(&chunks, from) == *expected, "{chunk}");
                from += expected.len() as u64;
            }
            assert!(slice(&chunks, from).is_empty());
        }
    }
}
