//! When a second try beside one that takes long is worth its while.
//!
//! Three times the 99th percentile of the pool's time to the first byte, and at least a second. Kinds
//! of requests that take long by themselves, such as long polls and reports, are told apart by the
//! caller, and count by their own time and not for the pool's. That a kind is slow takes slow answers
//! of two endpoints, so that an endpoint which hangs does not pass for one. Of a kind of which nothing is
//! known one second try at a time finds out.
//!
//! Nothing is written for answers that are quick: below the least wait nothing has to be exact.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::PerWorker;

/// The least wait for a second try, and how many times the percentile it is.
const WAIT_MIN: Duration = Duration::from_secs(1);
const FACTOR: u32 = 3;
/// An answer that took less changes nothing.
pub(super) const QUICK: Duration = Duration::from_millis(333);
/// How far the percentile moves with one answer above it, and with one below: a percent of that.
const STEP: f32 = 0.05;
const KINDS: usize = 256;
/// How long what is known of a kind is believed without another slow answer.
const KNOWN_MILLIS: u32 = 600_000;
/// How long to wait for what somebody else is finding out.
const FINDING_OUT: Duration = Duration::from_millis(250);

/// What is known of the pace of a pool; it lives as long as the pool's name.
#[derive(Debug)]
pub(super) struct Pace {
    /// The percentile in nanoseconds, an `f32`; 0 where it is below [`QUICK`].
    tail: PerWorker<AtomicU32>,
    kinds: Box<[Mutex<Kind>]>,
}

/// What is known of a kind of requests.
#[derive(Debug, Default, Clone, Copy)]
struct Kind {
    known: Known,
    /// The last slow answer, and the id of its endpoint.
    last: Option<(u64, Duration)>,
    /// When it was changed.
    at: u32,
    /// Somebody is finding out.
    is_tried: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    /// A second try was quick.
    Quick,
    /// It takes so long, with several endpoints.
    Slow(Duration),
}

/// Whether it is time for a second try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Now,
    /// It is, and will tell what the kind is like.
    Probe,
    /// Not before the request has waited so long.
    After(Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self { tail: PerWorker::default(), kinds: (0..KINDS).map(|_| Mutex::default()).collect() }
    }
}

impl Pace {
    fn tail(&self) -> Duration {
        let nanos = f32::from_bits(self.tail.local().load(Ordering::Relaxed));
        Duration::from_nanos(nanos as u64)
    }

    /// How long a request waits of which nothing else is known.
    #[inline]
    pub(super) fn wait(&self) -> Duration {
        (FACTOR * self.tail()).max(WAIT_MIN)
    }

    /// An answer took less than [`QUICK`].
    #[inline]
    pub(super) fn quick(&self) {
        let tail = self.tail.local();
        let nanos = f32::from_bits(tail.load(Ordering::Relaxed));
        if nanos > 0.0 {
            let next = nanos * (1.0 - STEP / 100.0);
            let next = if next < QUICK.as_nanos() as f32 { 0.0 } else { next };
            tail.store(next.to_bits(), Ordering::Relaxed);
        }
    }

    fn kind(&self, kind: u64, now_millis: u32) -> MutexGuard<'_, Kind> {
        let mutex = &self.kinds[(kind % KINDS as u64) as usize];
        let mut known = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        if known.known != Known::Nothing && now_millis.wrapping_sub(known.at) > KNOWN_MILLIS {
            *known = Kind { is_tried: known.is_tried, ..Kind::default() };
        }
        known
    }

    /// An answer took long.
    pub(super) fn slow(&self, kind: u64, endpoint: u64, took: Duration, now_millis: u32) {
        let mut known = self.kind(kind, now_millis);
        let was_slow = matches!(known.known, Known::Slow(_));
        if let Some((other, before)) = known.last.replace((endpoint, took))
            && other != endpoint
        {
            known.learn(before.min(took), now_millis);
        }
        drop(known);
        if !was_slow {
            let tail = self.tail.local();
            let nanos = f32::from_bits(tail.load(Ordering::Relaxed)).max(QUICK.as_nanos() as f32);
            let above = took.as_nanos() as f32 > nanos;
            let next = nanos * if above { 1.0 + STEP } else { 1.0 - STEP / 100.0 };
            tail.store(next.to_bits(), Ordering::Relaxed);
        }
    }

    /// Whether a request that has `waited` so long is worth a second try now. After
    /// [`Due::Probe`] the caller says what came of it.
    pub(super) fn due(&self, kind: u64, waited: Duration, now_millis: u32) -> Due {
        let mut known = self.kind(kind, now_millis);
        let wait = match known.known {
            Known::Slow(took) => (FACTOR * took).max(WAIT_MIN),
            Known::Nothing | Known::Quick => self.wait(),
        };
        if waited < wait {
            return Due::After(wait);
        }
        match known.known {
            Known::Nothing if known.is_tried => Due::After(waited + FINDING_OUT),
            Known::Nothing => {
                known.is_tried = true;
                Due::Probe
            }
            Known::Quick | Known::Slow(_) => Due::Now,
        }
    }

    /// What came of a [`Due::Probe`]: how long the answer took that came first, if one did.
    pub(super) fn found(&self, kind: u64, took: Option<Duration>, now_millis: u32) {
        let mut known = self.kind(kind, now_millis);
        known.is_tried = false;
        match took {
            None => {}
            Some(took) if took >= WAIT_MIN / 2 => known.learn(took, now_millis),
            Some(_) => (known.known, known.at) = (Known::Quick, now_millis),
        }
    }
}

impl Kind {
    /// Several endpoints take so long.
    fn learn(&mut self, took: Duration, now_millis: u32) {
        let before = match self.known {
            Known::Slow(before) => before,
            Known::Nothing | Known::Quick => Duration::ZERO,
        };
        (self.known, self.at) = (Known::Slow(before.max(took)), now_millis);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_quick_pool_waits_a_second_and_a_slow_one_three_times_its_percentile() {
        let pace = Pace::default();
        assert_eq!(pace.wait(), SECOND);
        for round in 0..20_000 {
            // A kind of its own each: none is known to be slow.
            let took = if round % 50 == 0 { 2 * SECOND } else { SECOND / 100 };
            match took < QUICK {
                true => pace.quick(),
                false => pace.slow(round, 1, took, 0),
            }
        }
        assert!((5.0..7.0).contains(&pace.wait().as_secs_f32()), "{:?}", pace.wait());
    }

    #[test]
    fn what_takes_long_with_several_endpoints_counts_by_its_own_time() {
        let pace = Pace::default();
        // One that hangs now and then proves nothing.
        for _ in 0..9 {
            pace.slow(7, 1, 8 * SECOND, 0);
        }
        assert_eq!(pace.due(7, 2 * SECOND, 0), Due::Probe);
        pace.found(7, None, 0);
        pace.slow(7, 2, 9 * SECOND, 0);
        assert_eq!(pace.due(7, 2 * SECOND, 0), Due::After(24 * SECOND));
        assert_eq!(pace.due(7, 24 * SECOND, 0), Due::Now);
        assert_eq!(pace.due(8, 2 * SECOND, 0), Due::Probe);
        let before = pace.wait();
        pace.slow(7, 2, 9 * SECOND, 0);
        assert_eq!(pace.wait(), before);
        // Nothing is believed for ever.
        assert_eq!(pace.due(7, 4 * SECOND, KNOWN_MILLIS + 1), Due::Probe);
    }

    #[test]
    fn one_second_try_finds_out_what_a_kind_is_like() {
        let pace = Pace::default();
        assert_eq!(pace.due(7, SECOND / 2, 0), Due::After(SECOND));
        assert_eq!(pace.due(7, SECOND, 0), Due::Probe);
        assert_eq!(pace.due(7, SECOND, 0), Due::After(SECOND + FINDING_OUT));
        pace.found(7, Some(SECOND / 100), 0);
        assert_eq!([pace.due(7, SECOND, 0), pace.due(7, SECOND, 0)], [Due::Now; 2]);
        assert_eq!(pace.due(8, SECOND, 0), Due::Probe);
        pace.found(8, Some(5 * SECOND), 0);
        assert_eq!(pace.due(8, SECOND, 0), Due::After(15 * SECOND));
    }
}
