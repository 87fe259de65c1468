//! A word to somebody who waits for an answer, by the timer that its deadline has anyway.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// After so long without an answer whoever drives the exchange is told, once.
#[derive(Debug, Default)]
pub struct Nudge {
    after: Cell<Option<Duration>>,
    is_due: Cell<bool>,
}

impl Nudge {
    /// Sets it to so long after the endpoint had all of the request.
    pub fn set(&self, after: Option<Duration>) {
        self.after.set(after);
        self.is_due.set(false);
    }

    /// Whether it has become due since it was set. True once.
    pub fn take(&self) -> bool {
        self.is_due.take()
    }

    /// When it becomes due, for an endpoint that has all of the request `since` then.
    pub(super) fn at(&self, since: Option<Instant>) -> Option<Instant> {
        self.after.get().and_then(|after| since?.checked_add(after))
    }

    pub(super) fn fire(&self) {
        self.after.set(None);
        self.is_due.set(true);
    }
}
