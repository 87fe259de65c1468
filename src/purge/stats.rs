//! Counters of purges of fronts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::outcome::Outcome;
use crate::metrics::{Counter, Exposition};

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) done: Counter,
    pub(super) failed: Counter,
    /// Not taken, because too many wait.
    pub(super) refused: Counter,
    calls: [Counter; Outcome::LABELS.len()],
    /// Seconds since 1970.
    last_done: AtomicU64,
}

impl Stats {
    pub(super) fn called(&self, outcome: &Outcome) {
        if let Some(counter) = self.calls.get(outcome.label()) {
            counter.increment();
        }
    }

    pub(super) fn is_done(&self) {
        self.done.increment();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last_done.store(since_epoch.map_or(0, |since| since.as_secs()), Ordering::Relaxed);
    }

    pub(super) fn collect(&self, front: &str, waiting: usize, out: &mut Exposition) {
        let front = ("front", front);
        for (result, counter) in
            [("done", &self.done), ("failed", &self.failed), ("refused", &self.refused)]
        {
            out.counter("headwater_front_purges_total", "Purges of a front, by what came of them.")
                .series(&[front, ("result", result)], counter.value() as f64);
        }
        for (result, counter) in Outcome::LABELS.iter().zip(&self.calls) {
            out.counter("headwater_front_purge_calls_total", "Calls of a front's API.")
                .series(&[front, ("result", result)], counter.value() as f64);
        }
        out.gauge("headwater_front_purges_pending", "Purges of a front that are not done.")
            .series(&[front], waiting as f64);
        out.gauge(
            "headwater_front_purge_last_done_timestamp_seconds",
            "When a purge of a front was last done; 0 if never.",
        )
        .series(&[front], self.last_done.load(Ordering::Relaxed) as f64);
    }
}
