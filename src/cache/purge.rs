//! Purges, and what they mean for fetches that began before them.
//!
//! A purge first takes its place in the log, with the next epoch, and then removes what is
//! stored. Whatever is published afterwards compares the epoch at which it began with the log, so
//! that an acknowledged purge can never be undone by a slower fetch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::key::{Key, KeyRef};

/// Purges that are remembered; a fetch that began before the oldest of them is taken to be hit.
const LOG_MAX: usize = 4096;

/// What to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One URL with all its variants.
    Url(Key),
    /// A host and path, with every query.
    Path(PathTarget),
    All,
}

/// The parts of a key up to the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTarget {
    pub host: String,
    pub path: String,
}

/// Purges by their epochs.
#[derive(Debug, Default)]
pub(super) struct PurgeLog {
    /// Of the last purge.
    epoch: AtomicU64,
    recent: Mutex<VecDeque<(u64, Target)>>,
}

impl PurgeLog {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Enters a purge; from now on it condemns what began earlier.
    pub(super) fn enter(&self, target: Target) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        if recent.len() == LOG_MAX {
            recent.pop_front();
        }
        recent.push_back((epoch, target));
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Whether a purge that came after `began` covers the URL of `key`.
    pub(super) fn condemns(&self, began: u64, key: KeyRef<'_>) -> bool {
        if self.epoch() == began {
            return false;
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.front().is_none_or(|(oldest, _)| *oldest > began + 1) {
            return true;
        }
        recent
            .iter()
            .rev()
            .take_while(|(epoch, _)| *epoch > began)
            .any(|(_, target)| target.covers(key))
    }
}

impl Target {
    /// Whether the URL of a primary key is meant.
    pub(super) fn covers(&self, key: KeyRef<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Url(url) => equivalent::Equivalent::equivalent(&key, url),
            Self::Path(target) => {
                key.begins_with(&[target.host.as_bytes(), target.path.as_bytes()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::{KeyBuffer, KeyHasher};
    use super::*;

    fn key(hasher: &KeyHasher, host: &str, path: &str, query: Option<&str>) -> Key {
        let mut buffer = KeyBuffer::default();
        buffer.part(host.as_bytes()).part(path.as_bytes()).optional(query.map(str::as_bytes));
        buffer.key(hasher).to_owned()
    }

    #[test]
    fn a_purge_condemns_what_began_before_it_and_nothing_later() {
        let log = PurgeLog::default();
        let hasher = KeyHasher::default();
        let (a, b) = (key(&hasher, "h", "/a", None), key(&hasher, "h", "/b", None));
        let began = log.epoch();
        log.enter(Target::Url(a.clone()));
        assert!(log.condemns(began, a.as_ref()));
        assert!(!log.condemns(began, b.as_ref()));
        assert!(!log.condemns(log.epoch(), a.as_ref()));
        log.enter(Target::All);
        assert!(log.condemns(began, b.as_ref()));
    }

    #[test]
    fn a_path_covers_every_query_of_exactly_that_path() {
        let hasher = KeyHasher::default();
        let target = Target::Path(PathTarget { host: "h".into(), path: "/a".into() });
        assert!(target.covers(key(&hasher, "h", "/a", None).as_ref()));
        assert!(target.covers(key(&hasher, "h", "/a", Some("x=1")).as_ref()));
        assert!(!target.covers(key(&hasher, "h", "/ab", None).as_ref()));
        assert!(!target.covers(key(&hasher, "i", "/a", None).as_ref()));
    }

    #[test]
    fn what_began_before_the_memory_of_the_log_is_condemned() {
        let log = PurgeLog::default();
        let hasher = KeyHasher::default();
        let (a, b) = (key(&hasher, "h", "/a", None), key(&hasher, "h", "/b", None));
        for _ in 0..=LOG_MAX {
            log.enter(Target::Url(a.clone()));
        }
        assert!(log.condemns(0, b.as_ref()));
        assert!(!log.condemns(1, b.as_ref()));
    }
}
