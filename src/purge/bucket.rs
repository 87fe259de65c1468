//! A token bucket.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Tokens a second.
    pub(super) per_second: f64,
    /// Tokens that gather at most.
    pub(super) burst: f64,
}

#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: rate.burst, at: now }
    }

    /// Goes on at another rate, with what has gathered.
    pub(super) fn change(&mut self, rate: Rate) {
        self.rate = rate;
        self.level = self.level.min(rate.burst);
    }

    /// Takes tokens, at most a full bucket, or says how long to wait for them.
    pub(super) fn take(&mut self, tokens: f64, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.rate.per_second).min(self.rate.burst);
        self.at = now;
        let lacking = tokens.min(self.rate.burst) - self.level;
        // The clock counts nanoseconds: less than that is nothing.
        if lacking <= 1e-6 {
            self.level = (self.level - tokens).max(0.0);
            return Ok(());
        }
        Err(Duration::from_secs_f64(lacking / self.rate.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 0.5, burst: 3.0 }, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(1.0, start), Ok(()));
        }
        assert_eq!(bucket.take(1.0, start), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(1.0, start + Duration::from_secs(2)), Ok(()));
        let rested = start + Duration::from_secs(1000);
        assert_eq!(bucket.take(3.0, rested), Ok(()));
        assert!(bucket.take(0.1, rested).is_err());
    }

    #[test]
    fn another_plan_keeps_what_has_gathered_within_its_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 1.0, burst: 500.0 }, start);
        bucket.change(Rate { per_second: 1.0, burst: 2.0 });
        assert_eq!(bucket.take(2.0, start), Ok(()));
        assert!(bucket.take(1.0, start).is_err());
    }
}
