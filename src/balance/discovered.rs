//! How the endpoints of a pool were found by name: what is counted, and how old the answer is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::{Counter, Exposition};

/// Lives as long as the name of its pool.
#[derive(Debug, Default)]
pub struct Discovered {
    lookups: [Counter; LookupResult::ALL.len()],
    ignored: [Counter; Ignored::ALL.len()],
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// When the answer came that is used now.
    answered: Option<Instant>,
    /// Why there was none since.
    failure: Option<String>,
}

/// How a lookup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupResult {
    Answered,
    /// There is no such name, or it has no records that can be used.
    Empty,
    Failed,
    Timeout,
}

impl LookupResult {
    pub const ALL: [Self; 4] = [Self::Answered, Self::Empty, Self::Failed, Self::Timeout];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Empty => "empty",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }
}

/// Why a record of an answer is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// A loopback, unspecified or multicast address.
    Special,
    /// There are more than a pool may have.
    Excess,
}

impl Ignored {
    pub const ALL: [Self; 2] = [Self::Special, Self::Excess];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Special => "special_address",
            Self::Excess => "excess",
        }
    }
}

impl Discovered {
    pub fn answered(&self, now: Instant) {
        self.lookups[LookupResult::Answered as usize].increment();
        *self.last() = Last { answered: Some(now), failure: None };
    }

    /// The last answer stays.
    pub fn failed(&self, result: LookupResult, failure: String) {
        self.lookups[result as usize].increment();
        self.last().failure = Some(failure);
    }

    pub fn ignored(&self, why: Ignored, records: usize) {
        self.ignored[why as usize].add(records as u64);
    }

    /// How old the answer is that is used.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let answered = self.last().answered?;
        Some(now.saturating_duration_since(answered))
    }

    /// Why there was no other answer since.
    pub fn failure(&self) -> Option<String> {
        self.last().failure.clone()
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the series of the pool called `pool`.
    pub(super) fn collect(&self, pool: &str, now: Instant, out: &mut Exposition) {
        let pool = ("pool", pool);
        for result in LookupResult::ALL {
            out.counter("headwater_dns_lookups_total", "Lookups of names of endpoints.").series(
                &[pool, ("result", result.as_str())],
                self.lookups[result as usize].value() as f64,
            );
        }
        for why in Ignored::ALL {
            out.counter("headwater_dns_records_ignored_total", "Records that were not used.")
                .series(
                    &[pool, ("reason", why.as_str())],
                    self.ignored[why as usize].value() as f64,
                );
        }
        if let Some(age) = self.age(now) {
            out.gauge("headwater_dns_answer_age_seconds", "Age of the last answer that was good.")
                .series(&[pool], age.as_secs_f64());
        }
    }
}
