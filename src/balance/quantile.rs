//! A percentile of the pool's time to the first byte, followed sample by sample.
//!
//! After Ma, Muthukrishnan and Sandler, "Frugal Streaming" (2013), in logarithms: a sample above
//! the estimate raises it by the percentile's share of a step, one below lowers it by the rest, so
//! that it rests where the shares balance. Every worker has an estimate of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::PerWorker;

/// How far the estimate moves at most with one sample.
const STEP: f32 = 0.05;
/// Samples before the estimate counts.
const SAMPLES_MIN: u32 = 100;
/// The first sample is taken times this: rather too late than too early.
const FIRST_FACTOR: f32 = 2.0;

/// Nanoseconds (an `f32`) in the high half, the number of samples up to the least in the low one.
#[derive(Debug, Default)]
pub(super) struct Quantile(PerWorker<AtomicU64>);

impl Quantile {
    /// Follows `percentile`, 1 to 99.
    pub(super) fn observe(&self, sample: Duration, percentile: u8) {
        let cell = self.0.local();
        let (estimate, samples) = unpack(cell.load(Ordering::Relaxed));
        let nanos = (sample.as_nanos() as f32).max(1.0);
        let next = if samples == 0 {
            nanos * FIRST_FACTOR
        } else {
            let share = f32::from(percentile) / 100.0;
            // The first samples find the magnitude.
            let step = STEP * (1.0 + 10.0 / samples as f32);
            let change = if nanos > estimate { share } else { share - 1.0 };
            estimate * (change * step).exp()
        };
        cell.store(pack(next, (samples + 1).min(SAMPLES_MIN)), Ordering::Relaxed);
    }

    /// The estimate of the calling worker, once it has seen enough.
    pub(super) fn estimate(&self) -> Option<Duration> {
        let (estimate, samples) = unpack(self.0.local().load(Ordering::Relaxed));
        (samples >= SAMPLES_MIN).then(|| Duration::from_nanos(estimate as u64))
    }
}

fn pack(nanos: f32, samples: u32) -> u64 {
    (u64::from(nanos.max(1.0).to_bits()) << 32) | u64::from(samples)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Rng;

    fn millis(value: f64) -> Duration {
        Duration::from_secs_f64(value / 1000.0)
    }

    #[test]
    fn it_rests_near_the_percentile_and_follows_a_change() {
        let (quantile, rng) = (Quantile::default(), Rng::seeded(4));
        // Exponential with this mean: 95 % are below three times that.
        let share_above = |mean: f64| {
            let mut above = 0;
            for number in 0..30_000 {
                let sample = millis(-mean * (1.0 - rng.unit()).ln());
                if number >= 10_000 && quantile.estimate().is_some_and(|it| sample > it) {
                    above += 1;
                }
                quantile.observe(sample, 95);
            }
            f64::from(above) / 20_000.0
        };
        for mean in [10.0, 40.0, 5.0] {
            let share = share_above(mean);
            assert!((0.035..0.065).contains(&share), "{share} above for a mean of {mean} ms");
        }
    }

    #[test]
    fn a_few_samples_are_no_estimate() {
        let quantile = Quantile::default();
        for _ in 0..SAMPLES_MIN - 1 {
            quantile.observe(millis(1.0), 95);
        }
        assert_eq!(quantile.estimate(), None);
        quantile.observe(millis(1.0), 95);
        assert!(quantile.estimate().is_some());
    }
}
