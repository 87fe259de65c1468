//! A histogram of durations with fixed bounds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::per_worker::PerWorker;

const BUCKETS: usize = 16;

/// Upper bounds of all latency histograms, in seconds; above the last one is `+Inf`.
pub const LATENCY_BOUNDS: [f64; BUCKETS] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

const BOUNDS_NANOS: [u64; BUCKETS] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Counts of durations by size, one copy for each worker.
#[derive(Debug, Default)]
pub struct Histogram(PerWorker<HistogramCells>);

/// One copy, for what keeps several counts of a worker together.
#[derive(Debug, Default)]
pub struct HistogramCells {
    /// The last one counts what is above every bound.
    buckets: [AtomicU64; BUCKETS + 1],
    sum_nanos: AtomicU64,
}

/// What a histogram has counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Not cumulative; the last one is above every bound.
    pub buckets: [u64; BUCKETS + 1],
    pub sum_seconds: f64,
}

impl HistogramCells {
    #[inline]
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(BUCKETS);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Totals {
    /// The sum over copies.
    pub fn of<'a>(copies: impl Iterator<Item = &'a HistogramCells>) -> Self {
        let mut totals = Self::default();
        for cells in copies {
            for (total, cell) in totals.buckets.iter_mut().zip(&cells.buckets) {
                *total += cell.load(Ordering::Relaxed);
            }
            totals.sum_seconds += cells.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        }
        totals
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Histogram {
    #[inline]
    pub fn observe(&self, duration: Duration) {
        self.0.local().observe(duration);
    }

    pub fn totals(&self) -> Totals {
        Totals::of(self.0.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_in_seconds_and_in_nanoseconds_agree() {
        for (seconds, nanos) in LATENCY_BOUNDS.iter().zip(BOUNDS_NANOS) {
            assert_eq!((seconds * 1e9).round() as u64, nanos);
        }
    }

    #[test]
    fn a_duration_on_a_bound_belongs_to_its_bucket_and_longer_ones_to_the_last() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(100));
        histogram.observe(Duration::from_secs(60));
        let totals = histogram.totals();
        assert_eq!(totals.buckets[0], 1);
        assert_eq!(totals.buckets[BUCKETS], 1);
        assert!((totals.sum_seconds - 60.0001).abs() < 1e-9);
    }
}
