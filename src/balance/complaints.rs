//! What last went wrong with the requests of an endpoint, and how often the log tells it.
//!
//! An answer that breaks a rule is a 502 for its client, who is not told why: the operator must
//! be, and not by a line for each request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two lines about one endpoint.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two lines with the same reason.
const SAME_INTERVAL: Duration = Duration::from_secs(60);

/// An error of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The word that the access log has for it.
    pub kind: &'static str,
    /// In plain words.
    pub reason: Arc<str>,
    pub at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// The name of the endpoint's pool.
    pub(super) pool: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<LastError>,
    /// When a line was written last, and with which reason.
    told: Option<(Instant, Arc<str>)>,
    /// Errors since then.
    untold: u64,
}

impl Complaints {
    pub(super) fn last(&self) -> Option<LastError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// Keeps an error.
    pub(super) fn keep(&self, kind: &'static str, reason: String, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = Some(LastError { kind, reason: reason.into(), at: now });
    }

    /// Keeps an error, and logs it unless that was done lately.
    pub(super) fn tell(&self, endpoint: &str, kind: &'static str, reason: String, now: Instant) {
        self.keep(kind, reason, now);
        // The line is written without the lock.
        if let Some((reason, untold)) = self.next_line(now) {
            let pool = &*self.pool;
            tracing::warn!(%pool, %endpoint, error = kind, %reason, untold, "bad answer");
        }
    }

    /// The reason to tell now, if there is one, and how many errors were not told before it.
    fn next_line(&self, now: Instant) -> Option<(Arc<str>, u64)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = state.last.as_ref()?.reason.clone();
        let is_due = state.told.as_ref().is_none_or(|(at, told)| {
            let interval = if *told == reason { SAME_INTERVAL } else { LINE_INTERVAL };
            now.saturating_duration_since(*at) >= interval
        });
        if !is_due {
            state.untold += 1;
            return None;
        }
        state.told = Some((now, reason.clone()));
        Some((reason, std::mem::take(&mut state.untold)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_at_once_and_then_rarely_with_a_count() {
        let complaints = Complaints::default();
        let begun = Instant::now();
        let said = |after: u64, reason: &str| {
            let now = begun + Duration::from_millis(after);
            complaints.keep("bad_response", reason.to_owned(), now);
            complaints.next_line(now).map(|(reason, untold)| (reason.to_string(), untold))
        };
        assert_eq!(said(0, "a"), Some(("a".to_owned(), 0)));
        assert_eq!(said(10, "a"), None);
        assert_eq!(said(20, "b"), None, "one line a second");
        assert_eq!(said(1000, "b"), Some(("b".to_owned(), 2)));
        assert_eq!(said(30_000, "b"), None, "the same reason");
        assert_eq!(said(61_000, "b"), Some(("b".to_owned(), 1)));
        assert_eq!(complaints.last().map(|last| last.reason.to_string()), Some("b".to_owned()));
    }
}
