//! What the requests themselves say against an endpoint: failures in a row, and being much slower
//! than its peers.
//!
//! Slow is what took several times the pool's median latency and at least a tenth of a second
//! more. One slow answer proves nothing, since requests differ; many in a row do, while the peers
//! are quick.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::model;

/// Slow answers in a row that eject.
pub(super) const SLOW_IN_A_ROW: u32 = 20;
/// What is not at least this much slower than the median is not slow.
const EXCESS_MIN: Duration = Duration::from_millis(100);
/// Endpoints with a latency that it takes to tell what is usual.
pub(super) const PEERS_MIN: usize = 3;
/// How long a typical latency is used before it is worked out again.
const TYPICAL_AGE_MILLIS: u32 = 500;

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Failures,
    Timeouts,
    Errors,
    Slow,
}

impl Reason {
    /// Whether a good check speaks against it: one that is answered in time and well while requests
    /// are not says nothing.
    pub(super) fn yields_to_checks(self) -> bool {
        matches!(self, Self::Failures | Self::Slow)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "too many failures in a row",
            Self::Timeouts => "its requests time out",
            Self::Errors => "fails far more often than the others",
            Self::Slow => "much slower than the others",
        }
    }
}

/// Whether an answer that took so long was slow. `median` is asked for only if it may have been.
#[inline]
pub(super) fn is_slow(
    outlier: &model::Outlier,
    took: Duration,
    median: impl FnOnce() -> Option<Duration>,
) -> bool {
    let Some(factor) = outlier.slow_factor.filter(|_| took > EXCESS_MIN) else { return false };
    median().is_some_and(|median| took > (median * factor).max(median + EXCESS_MIN))
}

/// Whether one more of `members` may be ejected when `ejected` are, and so many others are usable.
pub(super) fn may_eject(
    outlier: &model::Outlier,
    members: usize,
    ejected: usize,
    others_usable: usize,
) -> bool {
    others_usable > 0 && (ejected + 1) as f64 <= members as f64 * outlier.eject_max
}

/// A typical latency of a pool, worked out now and then: nanoseconds (an `f32`) in the high
/// half, when in milliseconds of the process clock in the low one.
#[derive(Debug, Default)]
pub(super) struct Typical(AtomicU64);

impl Typical {
    /// As it was worked out last.
    pub(super) fn last(&self) -> Option<f32> {
        let packed = self.0.load(Ordering::Relaxed);
        (packed != 0).then(|| f32::from_bits((packed >> 32) as u32))
    }

    pub(super) fn get(
        &self,
        now_millis: u32,
        work_out: impl FnOnce() -> Option<f32>,
    ) -> Option<Duration> {
        let packed = self.0.load(Ordering::Relaxed);
        let (known, at) = (f32::from_bits((packed >> 32) as u32), packed as u32);
        if packed != 0 && now_millis.wrapping_sub(at) < TYPICAL_AGE_MILLIS {
            return Some(Duration::from_nanos(known as u64));
        }
        let nanos = work_out()?;
        let packed = (u64::from(nanos.max(1.0).to_bits()) << 32) | u64::from(now_millis);
        self.0.store(packed, Ordering::Relaxed);
        Some(Duration::from_nanos(nanos as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlier(slow_factor: Option<u32>) -> model::Outlier {
        let eject_for = Duration::from_secs(30);
        model::Outlier { failures: 5, eject_for, eject_max: 0.5, slow_factor }
    }

    #[test]
    fn slow_is_several_times_the_median_and_a_tenth_of_a_second_more() {
        let is_slow = |took, median| {
            let median = Some(Duration::from_millis(median));
            is_slow(&outlier(Some(5)), Duration::from_millis(took), || median)
        };
        assert!(is_slow(251, 50));
        assert!(!is_slow(250, 50));
        assert!(!is_slow(99, 1));
        assert!(!is_slow(101, 1));
        assert!(is_slow(102, 1));
        let long = Duration::from_secs(9);
        assert!(!super::is_slow(&outlier(None), long, || Some(Duration::from_millis(1))));
        assert!(!super::is_slow(&outlier(Some(5)), long, || None));
    }

    #[test]
    fn ejections_are_bounded_by_their_share_and_never_take_the_last() {
        assert!(may_eject(&outlier(None), 4, 1, 2));
        assert!(!may_eject(&outlier(None), 4, 2, 1));
        assert!(!may_eject(&outlier(None), 1, 0, 0));
        let all = model::Outlier { eject_max: 1.0, ..outlier(None) };
        assert!(may_eject(&all, 2, 0, 1));
        assert!(!may_eject(&all, 2, 1, 0));
    }

    #[test]
    fn a_median_is_used_for_a_while() {
        let median = Typical::default();
        assert_eq!(median.get(1000, || None), None);
        assert_eq!(median.get(1000, || Some(5e6)), Some(Duration::from_millis(5)));
        assert_eq!(median.get(1499, || Some(9e6)), Some(Duration::from_millis(5)));
        assert_eq!(median.get(1500, || Some(9e6)), Some(Duration::from_millis(9)));
    }
}
