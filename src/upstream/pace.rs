//! The pace of a client that sends a body: what came, beside the time that was waited for it.
//!
//! Time in which the client could not send, because nobody read, is not waited for. What comes
//! faster than it must counts ahead, up to a bound: else a fast beginning would pay for hours.

use std::time::Duration;

/// The least pace of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceLimits {
    /// Bytes a second; 0: any pace will do.
    pub rate: u64,
    /// How long a body is waited for before its pace counts.
    pub grace: Duration,
    /// The most time that is paid for ahead, beside the grace.
    pub ahead_max: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    waited: Duration,
    /// The time that what came is enough for.
    paid: Duration,
}

impl Pace {
    /// Notes bytes that were waited for.
    pub(super) fn came(&mut self, bytes: usize, waited: Duration, limits: &PaceLimits) {
        if limits.rate == 0 {
            return;
        }
        self.waited += waited;
        let paid = Duration::from_secs_f64(bytes as f64 / limits.rate as f64);
        let most = self.waited + limits.grace + limits.ahead_max;
        self.paid = self.paid.saturating_add(paid).min(most);
    }

    /// How long the next bytes may take; `None`: as long as they like.
    pub(super) fn patience(&self, limits: &PaceLimits) -> Option<Duration> {
        (limits.rate > 0).then(|| limits.grace.max(self.paid).saturating_sub(self.waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits {
        rate: 500,
        grace: Duration::from_secs(10),
        ahead_max: Duration::from_secs(30),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_body_that_is_slower_on_average_ends_with_the_grace() {
        let mut pace = Pace::default();
        for second in 0..10 {
            assert_eq!(pace.patience(&LIMITS), Some(seconds(10 - second)));
            pace.came(499, seconds(1), &LIMITS);
        }
        assert_eq!(pace.patience(&LIMITS), Some(Duration::ZERO));
    }

    #[test]
    fn a_body_that_is_fast_enough_may_go_on_for_ever() {
        let mut pace = Pace::default();
        for _ in 0..10_000 {
            pace.came(501, seconds(1), &LIMITS);
            assert!(pace.patience(&LIMITS).is_some_and(|patience| !patience.is_zero()));
        }
    }

    #[test]
    fn a_fast_beginning_pays_for_a_pause_and_not_for_hours() {
        let mut pace = Pace::default();
        pace.came(100 << 20, Duration::ZERO, &LIMITS);
        assert_eq!(pace.patience(&LIMITS), Some(seconds(40)));
        pace.came(1, seconds(29), &LIMITS);
        assert!(pace.patience(&LIMITS) < Some(seconds(12)));
    }

    #[test]
    fn without_a_rate_any_pace_will_do() {
        let limits = PaceLimits { rate: 0, ..LIMITS };
        let mut pace = Pace::default();
        pace.came(1, seconds(3600), &limits);
        assert_eq!(pace.patience(&limits), None);
    }
}
