//! What the last fetches of a key came to: whether its answer was for everybody, how long it took,
//! and whether one has just failed.
//!
//! One word for each of a fixed number of places, by the hash of the key. A key that takes the
//! place of another makes that one unknown again, as if it had never been asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::turns::WIDTH_MAX;

/// Places; they take 256 KiB.
const PLACES: usize = 1 << 15;
/// How long a failure counts.
const FAILURE_FOR: Duration = Duration::from_secs(2);

// From the high bits on: a part of the hash, whether the last answer was for everybody, how long it
// took, what was said of failures.
const TAG_BITS: u32 = 22;
const TOOK_BITS: u32 = 16;
const WIDTH_BITS: u32 = 5;
const TICK_BITS: u32 = 20;
/// Unit of the time of a failure.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Lately {
    places: Box<[AtomicU64]>,
    base: Instant,
}

/// What is known of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    /// The last answer was for everybody.
    was_shared: bool,
    /// Milliseconds to the head of that answer.
    took: u16,
    /// Fetches that there may be at once for the failures there were; 0 for none.
    width: u8,
    /// When the last one was.
    failed: u32,
}

impl Default for Lately {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, base: Instant::now() }
    }
}

impl Lately {
    /// The answer was one for everybody, and its head took so long.
    pub(super) fn shared(&self, hash: u64, took: Duration) {
        let took = u16::try_from(took.as_millis()).unwrap_or(u16::MAX);
        self.set(hash, Known { was_shared: true, took, ..Known::default() });
    }

    /// The answer was for one request only.
    pub(super) fn refused(&self, hash: u64) {
        if self.get(hash) != Known::default() {
            self.set(hash, Known::default());
        }
    }

    /// A fetch brought no answer for anybody: twice as many may be made at once.
    pub(super) fn failed(&self, hash: u64, now: Instant) {
        let width = self.width(hash, now) * 2;
        let known = self.get(hash);
        let width = width.min(WIDTH_MAX) as u8;
        self.set(hash, Known { width, failed: self.tick(now), ..known });
    }

    /// How many fetches there may be at once.
    pub(super) fn width(&self, hash: u64, now: Instant) -> u32 {
        let known = self.get(hash);
        let ago = self.tick(now).wrapping_sub(known.failed) & ((1 << TICK_BITS) - 1);
        let counts = known.width > 0 && TICK * ago <= FAILURE_FOR;
        if counts { u32::from(known.width) } else { 1 }
    }

    /// How long the head of the last answer took, if that was for everybody.
    pub(super) fn took(&self, hash: u64) -> Option<Duration> {
        let known = self.get(hash);
        known.was_shared.then(|| Duration::from_millis(known.took.into()))
    }

    fn tick(&self, now: Instant) -> u32 {
        let ticks = now.saturating_duration_since(self.base).as_millis() / TICK.as_millis();
        ticks as u32 & ((1 << TICK_BITS) - 1)
    }

    fn place(&self, hash: u64) -> &AtomicU64 {
        &self.places[hash as usize % PLACES]
    }

    fn get(&self, hash: u64) -> Known {
        let word = self.place(hash).load(Ordering::Relaxed);
        if word >> (64 - TAG_BITS) != tag(hash) {
            return Known::default();
        }
        let take = |from: u32, bits: u32| (word >> from) & ((1 << bits) - 1);
        Known {
            failed: take(0, TICK_BITS) as u32,
            width: take(TICK_BITS, WIDTH_BITS) as u8,
            took: take(TICK_BITS + WIDTH_BITS, TOOK_BITS) as u16,
            was_shared: take(TICK_BITS + WIDTH_BITS + TOOK_BITS, 1) == 1,
        }
    }

    fn set(&self, hash: u64, known: Known) {
        let word = (tag(hash) << (64 - TAG_BITS))
            | (u64::from(known.was_shared) << (TICK_BITS + WIDTH_BITS + TOOK_BITS))
            | (u64::from(known.took) << (TICK_BITS + WIDTH_BITS))
            | (u64::from(known.width) << TICK_BITS)
            | u64::from(known.failed);
        self.place(hash).store(word, Ordering::Relaxed);
    }
}

fn tag(hash: u64) -> u64 {
    hash >> (64 - TAG_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0xfedc_ba98_7654_3210;

    #[test]
    fn what_the_last_answer_was_and_how_long_it_took_is_known_until_the_next() {
        let lately = Lately::default();
        assert_eq!(lately.took(HASH), None);
        lately.shared(HASH, Duration::from_millis(3000));
        assert_eq!(lately.took(HASH), Some(Duration::from_secs(3)));
        // Another key in the same place is not taken for it.
        let other = HASH ^ (1 << 63);
        assert_eq!(lately.took(other), None);
        lately.refused(HASH);
        assert_eq!(lately.took(HASH), None);
        lately.shared(HASH, Duration::from_secs(1000));
        assert_eq!(lately.took(HASH), Some(Duration::from_millis(u16::MAX.into())));
        lately.shared(other, Duration::ZERO);
        assert_eq!((lately.took(HASH), lately.took(other)), (None, Some(Duration::ZERO)));
    }

    #[test]
    fn a_failure_counts_for_a_moment_and_leaves_the_rest() {
        let lately = Lately::default();
        let now = Instant::now();
        assert_eq!(lately.width(HASH, now), 1);
        lately.shared(HASH, Duration::from_millis(7));
        for width in [2, 4, 8, 16, 16] {
            lately.failed(HASH, now);
            assert_eq!(lately.width(HASH, now), width);
        }
        assert_eq!(lately.took(HASH), Some(Duration::from_millis(7)));
        assert_eq!(lately.width(HASH, now + FAILURE_FOR / 2), 16);
        assert_eq!(lately.width(HASH, now + FAILURE_FOR * 2), 1);
    }
}
