//! The retry budget: a share of the requests of the last ten seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::PerWorker;

const WINDOW_SECONDS: u64 = 10;
/// One more than the window, so that the second being written is not one being read.
const CELLS: usize = WINDOW_SECONDS as usize + 1;
/// Retries a second that are always allowed.
const RETRIES_MIN: u64 = 10;

/// Counts of the last seconds, a copy for each worker.
#[derive(Debug, Default)]
struct Window(PerWorker<Cells>);

/// Each cell holds its second in the high half and a count in the low one.
#[derive(Debug, Default)]
struct Cells([AtomicU64; CELLS]);

impl Window {
    #[inline]
    fn increment(&self, second: u64) {
        let cell = &self.0.local().0[(second % CELLS as u64) as usize];
        let packed = cell.load(Ordering::Relaxed);
        if packed >> 32 == second {
            cell.fetch_add(1, Ordering::Relaxed);
        } else {
            cell.store((second << 32) | 1, Ordering::Relaxed);
        }
    }

    fn sum(&self, second: u64) -> u64 {
        self.0
            .iter()
            .flat_map(|cells| &cells.0)
            .map(|cell| cell.load(Ordering::Relaxed))
            .filter(|packed| packed >> 32 <= second && (packed >> 32) + WINDOW_SECONDS > second)
            .map(|packed| packed & 0xffff_ffff)
            .sum()
    }
}

/// Bounds the retries of one pool.
#[derive(Debug, Default)]
pub(super) struct Budget {
    requests: Window,
    retries: Window,
}

impl Budget {
    #[inline]
    pub(super) fn request(&self, now: Duration) {
        self.requests.increment(now.as_secs());
    }

    /// Takes one retry, if `share` of the recent requests allows it. `now` is the process clock.
    pub(super) fn take(&self, now: Duration, share: f64) -> bool {
        let second = now.as_secs();
        let allowed = (self.requests.sum(second) as f64 * share) as u64;
        if self.retries.sum(second) >= allowed.max(RETRIES_MIN * WINDOW_SECONDS) {
            return false;
        }
        self.retries.increment(second);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &Budget, now: Duration, share: f64) -> usize {
        (0..10_000).take_while(|_| budget.take(now, share)).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests_of_ten_seconds() {
        let budget = Budget::default();
        for _ in 0..1000 {
            budget.request(Duration::from_secs(100));
        }
        assert_eq!(taken(&budget, Duration::from_secs(105), 0.2), 200);
        assert_eq!(taken(&budget, Duration::from_secs(105), 0.2), 0);
    }

    #[test]
    fn a_quiet_pool_may_still_retry_ten_times_a_second() {
        let budget = Budget::default();
        assert_eq!(taken(&budget, Duration::from_secs(7), 0.2), 100);
    }

    #[test]
    fn what_is_older_than_ten_seconds_no_longer_counts() {
        let budget = Budget::default();
        for _ in 0..1000 {
            budget.request(Duration::from_secs(100));
        }
        assert_eq!(taken(&budget, Duration::from_secs(110), 0.2), 100);
        assert_eq!(taken(&budget, Duration::from_secs(121), 0.2), 100);
    }
}
