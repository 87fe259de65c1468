//! What came of the reloads so far.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Written after each attempt; read by the status and the metrics.
#[derive(Debug)]
pub struct ReloadLog(Mutex<ReloadRecord>);

#[derive(Debug, Clone)]
pub(super) struct ReloadRecord {
    /// `None` before the first attempt.
    pub(super) last: Option<Reload>,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    /// When the running configuration, or the same content again, was read.
    pub(super) succeeded_at: SystemTime,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(super) struct Reload {
    pub(super) at: SystemTime,
    /// The generation that runs since, or what was wrong.
    pub(super) result: Result<u64, String>,
}

impl Default for ReloadLog {
    /// The log of a process that has just read its first configuration.
    fn default() -> Self {
        let succeeded_at = SystemTime::now();
        Self(Mutex::new(ReloadRecord { last: None, succeeded: 0, failed: 0, succeeded_at }))
    }
}

impl ReloadLog {
    /// The configuration of `generation` runs, be it new or the same as before.
    pub fn succeeded(&self, generation: u64) {
        let at = SystemTime::now();
        let mut record = self.locked();
        record.succeeded += 1;
        record.succeeded_at = at;
        record.last = Some(Reload { at, result: Ok(generation) });
    }

    /// The configuration was refused, and the one before it goes on.
    pub fn failed(&self, why: String) {
        let at = SystemTime::now();
        let mut record = self.locked();
        record.failed += 1;
        record.last = Some(Reload { at, result: Err(why) });
    }

    pub(super) fn record(&self) -> ReloadRecord {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, ReloadRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReloadRecord {
    /// Whether the last attempt, which may be the start itself, took effect.
    pub(super) fn is_successful(&self) -> bool {
        self.last.as_ref().is_none_or(|last| last.result.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_the_time_of_the_last_success() {
        let log = ReloadLog::default();
        assert!(log.record().is_successful());
        log.succeeded(2);
        let before = log.record();
        log.failed("c.toml:1:1: error: no".to_owned());
        let after = log.record();
        assert_eq!((after.succeeded, after.failed), (1, 1));
        assert_eq!((before.is_successful(), after.is_successful()), (true, false));
        assert_eq!(after.succeeded_at, before.succeeded_at);
    }
}
