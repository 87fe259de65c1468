//! How long something is valid, and when its end is announced.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// No notice begins before the last third of the validity: certificates of six days are in regular
/// use and must not warn all their life.
const NOTICE_SHARE: i64 = 3;

/// From and until when something is valid, in Unix time, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

/// What a validity is at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    NotYet,
    Valid,
    Ending(Notice),
    Ended,
}

/// An end that comes near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    Month,
    Week,
    Day,
}

impl Notice {
    /// The most urgent first.
    const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    fn length(self) -> Duration {
        match self {
            Self::Month => DAY * 30,
            Self::Week => DAY * 7,
            Self::Day => DAY,
        }
    }
}

impl Validity {
    pub fn standing(&self, now: SystemTime) -> Standing {
        let now = unix_seconds(now);
        if now > self.not_after {
            return Standing::Ended;
        }
        if now < self.not_before {
            return Standing::NotYet;
        }
        let left = self.not_after.saturating_sub(now);
        let third = self.not_after.saturating_sub(self.not_before).max(0) / NOTICE_SHARE;
        let is_due = |notice: &Notice| {
            let length = i64::try_from(notice.length().as_secs()).unwrap_or(i64::MAX);
            left < length.min(third)
        };
        Notice::ALL.into_iter().find(is_due).map_or(Standing::Valid, Standing::Ending)
    }

    /// What is to be said of `what` at the time `now`, if anything.
    pub fn warning(&self, what: &str, now: SystemTime) -> Option<String> {
        match self.standing(now) {
            Standing::Valid => None,
            Standing::NotYet => {
                Some(format!("{what} is not valid before {}", day(self.not_before)))
            }
            Standing::Ended => Some(format!("{what} expired on {}", day(self.not_after))),
            Standing::Ending(_) => {
                let left = self.not_after.saturating_sub(unix_seconds(now));
                let left = match left / 86_400 {
                    0 => "in less than a day".to_owned(),
                    1 => "in 1 day".to_owned(),
                    days => format!("in {days} days"),
                };
                Some(format!("{what} expires on {}, {left}", day(self.not_after)))
            }
        }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs().try_into().unwrap_or(i64::MAX),
        Err(before) => before.duration().as_secs().try_into().map_or(i64::MIN, |ago: i64| -ago),
    }
}

/// The day in UTC; certificates end years, not hours, after they are read.
fn day(unix_seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_seconds)
        .map_or_else(|_| format!("day {}", unix_seconds / 86_400), |at| at.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(days: u32) -> Validity {
        Validity { not_before: 0, not_after: i64::from(days) * 86_400 }
    }

    /// The standing so many hours before the end.
    fn before_end(validity: Validity, hours: i64) -> Standing {
        let seconds = validity.not_after - hours * 3600;
        validity.standing(UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap()))
    }

    #[test]
    fn an_end_is_announced_a_month_a_week_and_a_day_ahead() {
        let year = days(398);
        for (hours, expected) in [
            (31 * 24, Standing::Valid),
            (30 * 24, Standing::Valid),
            (30 * 24 - 1, Standing::Ending(Notice::Month)),
            (7 * 24 - 1, Standing::Ending(Notice::Week)),
            (23, Standing::Ending(Notice::Day)),
            (0, Standing::Ending(Notice::Day)),
            (-1, Standing::Ended),
        ] {
            assert_eq!(before_end(year, hours), expected, "{hours}");
        }
        assert_eq!(year.standing(UNIX_EPOCH - Duration::from_secs(1)), Standing::NotYet);
    }

    #[test]
    fn a_short_life_is_announced_in_its_last_third() {
        assert_eq!(before_end(days(6), 2 * 24), Standing::Valid);
        assert_eq!(before_end(days(6), 2 * 24 - 1), Standing::Ending(Notice::Week));
        assert_eq!(before_end(days(6), 23), Standing::Ending(Notice::Day));
        assert_eq!(before_end(days(47), 16 * 24), Standing::Valid);
        assert_eq!(before_end(days(47), 15 * 24), Standing::Ending(Notice::Month));
    }

    #[test]
    fn the_days_that_are_left_are_said() {
        let at = |hours: u64| {
            let now = UNIX_EPOCH + Duration::from_secs(90 * 86_400 - hours * 3600);
            days(90).warning("it", now).unwrap()
        };
        assert_eq!(at(29 * 24 + 5), "it expires on 1970-04-01, in 29 days");
        assert_eq!(at(30), "it expires on 1970-04-01, in 1 day");
        assert_eq!(at(5), "it expires on 1970-04-01, in less than a day");
    }
}
