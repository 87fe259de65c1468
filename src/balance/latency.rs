//! Peak-EWMA of an endpoint's time to the first byte, in one atomic word.
//!
//! After Finagle's `peak_ewma`: a sample above the average replaces it, one below pulls it down
//! with a time constant of ten seconds, and silence lets it decay, so that an endpoint that was
//! slow once is asked again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time constant of the decay, in milliseconds.
const TAU_MILLIS: f32 = 10_000.0;
/// What of the average the next sample leaves at most.
const KEEP_MAX: f32 = 0.95;
/// How far an error that is quick takes the average of an endpoint that is quicker than the median.
const ERROR_PULL: f32 = 0.05;
/// What a failed try counts at least.
pub(super) const FAILURE_MIN: Duration = Duration::from_secs(1);

/// Nanoseconds (an `f32`) in the high half, the time of the last sample in milliseconds of the
/// process clock in the low one; zero is "no sample yet".
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

impl Latency {
    /// Starts at `nanos`, unless there has been a sample.
    pub(super) fn seed(&self, nanos: f32, now_millis: u32) {
        let _ = self.0.compare_exchange(
            0,
            pack(nanos, now_millis),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    pub(super) fn observe(&self, sample: Duration, now_millis: u32) {
        let sample = sample.as_nanos() as f32;
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let (average, at) = unpack(packed);
            let next = if packed == 0 || sample > average {
                sample
            } else {
                let keep = (-(now_millis.saturating_sub(at) as f32) / TAU_MILLIS).exp();
                // Samples within one millisecond would count nothing at all otherwise, and a single
                // hiccup should not take a quick endpoint's requests away for long.
                let keep = keep.min(KEEP_MAX);
                average * keep + sample * (1.0 - keep)
            };
            Some(pack(next, now_millis))
        });
    }

    /// Knows nothing any more: it was out for a while.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// An error, which is quick because nothing was done: it counts as no faster than the `median`,
    /// in nanoseconds. The average of an endpoint that is faster goes there by and by.
    pub(super) fn observe_error(&self, sample: Duration, median: f32, now_millis: u32) {
        let at_least = Duration::from_nanos(median as u64);
        match self.nanos(now_millis) {
            Some(average) if average < median && sample < at_least => {
                let next = average + (median - average) * ERROR_PULL;
                self.0.store(pack(next, now_millis), Ordering::Relaxed);
            }
            _ => self.observe(sample.max(at_least), now_millis),
        }
    }

    /// A sample that is only a lower bound: it may raise the average, never lower it.
    pub(super) fn observe_at_least(&self, sample: Duration, now_millis: u32) {
        if self.nanos(now_millis).is_none_or(|average| sample.as_nanos() as f32 > average) {
            self.observe(sample, now_millis);
        }
    }

    /// The decayed average in nanoseconds; `None` before the first sample.
    pub(super) fn nanos(&self, now_millis: u32) -> Option<f32> {
        let packed = self.0.load(Ordering::Relaxed);
        if packed == 0 {
            return None;
        }
        let (average, at) = unpack(packed);
        let silent = now_millis.saturating_sub(at);
        // Within a second the decay is too small to be worth an exponential on every pick.
        if silent < 1000 {
            return Some(average);
        }
        Some(average * (-(silent as f32) / TAU_MILLIS).exp())
    }
}

fn pack(nanos: f32, millis: u32) -> u64 {
    (u64::from(nanos.max(1.0).to_bits()) << 32) | u64::from(millis)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(10), 0);
        latency.observe(Duration::from_millis(500), 1);
        assert_eq!(latency.nanos(1), Some(5e8));
        latency.observe(Duration::from_millis(10), 5_000);
        let after = latency.nanos(5_000).expect("sampled");
        assert!((2.5e8..3.5e8).contains(&after), "{after}");
    }

    #[test]
    fn silence_decays_the_average() {
        let latency = Latency::default();
        latency.observe(Duration::from_secs(1), 0);
        let after = latency.nanos(30_000).expect("sampled");
        assert!(after < 6e7, "{after}");
    }

    #[test]
    fn an_error_is_no_faster_than_the_median() {
        let millis = |latency: &Latency| latency.nanos(0).expect("sampled") / 1e6;
        let latency = Latency::default();
        latency.observe_error(Duration::ZERO, 2e7, 0);
        assert_eq!(millis(&latency), 20.0);
        let quick = Latency::default();
        quick.observe(Duration::from_millis(10), 0);
        quick.observe_error(Duration::ZERO, 2e7, 0);
        assert!((10.0..11.0).contains(&millis(&quick)), "{}", millis(&quick));
        for _ in 0..100 {
            quick.observe_error(Duration::ZERO, 2e7, 0);
        }
        assert!((19.0..=20.1).contains(&millis(&quick)), "{}", millis(&quick));
        quick.observe_error(Duration::from_millis(90), 2e7, 0);
        assert_eq!(millis(&quick), 90.0);
    }

    #[test]
    fn a_seed_never_replaces_a_sample() {
        let latency = Latency::default();
        assert_eq!(latency.nanos(0), None);
        latency.seed(5e6, 0);
        assert_eq!(latency.nanos(0), Some(5e6));
        latency.seed(9e9, 0);
        assert_eq!(latency.nanos(0), Some(5e6));
    }
}
