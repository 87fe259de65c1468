//! What has had its time: found by walking over the store now and then, off the way of requests.
//!
//! The store evicts by how often things are used and knows nothing of freshness. A walk removes what
//! nobody can use any more, and, where memory is short, lists what is stale, so that the next
//! evictions take that first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::header::{ETAG, LAST_MODIFIED};

use super::Cache;
use super::entry::Entry;
use super::key::Key;
use super::reuse::DISCONNECTED_MAX;
use super::store::Slot;
use crate::fields::Named;

/// Between two walks.
const INTERVAL: Duration = Duration::from_secs(60);
/// Between two walks while memory is short and the last one found something stale.
const INTERVAL_SHORT: Duration = Duration::from_secs(5);
/// Memory is short with more than this share of the bound in use.
const SHORT_FROM: (u64, u64) = (7, 8);
/// How long past its end a response with validators is worth keeping: confirming it saves its body.
const CONFIRMABLE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Stale entries that are listed for eviction; more wait for the next walk.
const LISTED_MAX: usize = 16 << 10;

/// Stale entries that go before anything else does, those that are stale longest first.
#[derive(Debug, Default)]
pub(super) struct Listed {
    stale: Mutex<VecDeque<(Key, Weak<Entry>)>>,
    /// When the last walk began, in milliseconds of the process clock, and one.
    walked_at: AtomicU64,
    /// How many stale entries it found.
    found: AtomicU64,
}

impl Listed {
    /// The next one to go.
    pub(super) fn next(&self) -> Option<(Key, Arc<Entry>)> {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (key, entry) = stale.pop_front()?;
            if let Some(entry) = entry.upgrade() {
                return Some((key, entry));
            }
        }
    }
}

impl Cache {
    /// Whether it is time for a walk; `uptime` is that of the process.
    pub fn is_sweep_due(&self, uptime: Duration) -> bool {
        let listed = &self.store.listed;
        let short = self.is_short() && listed.found.load(Ordering::Relaxed) > 0;
        let interval = if short { INTERVAL_SHORT } else { INTERVAL };
        let walked = Duration::from_millis(listed.walked_at.load(Ordering::Relaxed));
        uptime.saturating_sub(walked) >= interval
    }

    fn is_short(&self) -> bool {
        let (share, whole) = SHORT_FROM;
        self.bytes() / share > self.bytes_max() / whole
    }

    /// Walks over the store; how many entries it removed. It looks at every entry: not for a thread
    /// that serves requests.
    pub fn sweep(&self, now: Instant, uptime: Duration) -> u64 {
        let listed = &self.store.listed;
        let millis = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        listed.walked_at.store(millis, Ordering::Relaxed);
        let is_short = self.is_short();
        let mut useless: Vec<(Key, Option<Arc<Entry>>)> = Vec::new();
        let mut stale: Vec<(Duration, Key, Weak<Entry>)> = Vec::new();
        let mut found = 0;
        self.store.for_each(|key, slot| match slot {
            Slot::Entry(entry) => {
                let past = entry.past_end(now);
                if !entry.is_live() || past.is_some_and(|past| past > useful_for(entry)) {
                    useless.push((key.clone(), Some(entry.clone())));
                } else if let Some(past) = past {
                    found += 1;
                    if is_short {
                        stale.push((past, key.clone(), Arc::downgrade(entry)));
                    }
                    if stale.len() >= 2 * LISTED_MAX {
                        keep_longest(&mut stale);
                    }
                }
            }
            Slot::Uncacheable(mark) if !mark.counts(now) => useless.push((key.clone(), None)),
            _ => {}
        });
        keep_longest(&mut stale);
        listed.found.store(found, Ordering::Relaxed);
        *listed.stale.lock().unwrap_or_else(PoisonError::into_inner) =
            stale.into_iter().map(|(_, key, entry)| (key, entry)).collect();
        let mut removed = 0;
        for (key, entry) in &useless {
            match entry {
                Some(entry) => {
                    self.store.remove_entry(key.as_ref(), entry);
                    removed += 1;
                }
                None => self.store.remove_mark(key.as_ref()),
            }
        }
        removed
    }
}

/// Keeps the ones that are stale longest, those first.
fn keep_longest(stale: &mut Vec<(Duration, Key, Weak<Entry>)>) {
    stale.sort_unstable_by_key(|(past, ..)| std::cmp::Reverse(*past));
    stale.truncate(LISTED_MAX);
}

/// How long past its end a response is of use.
fn useful_for(entry: &Entry) -> Duration {
    let terms = &entry.head.terms;
    let has_validator = [ETAG, LAST_MODIFIED].iter().any(|it| entry.head.fields.text(it).is_some());
    let confirmable = if has_validator { CONFIRMABLE_FOR } else { Duration::ZERO };
    let served = if terms.may_be_stale() {
        let on_error = terms.stale_if_error.unwrap_or(DISCONNECTED_MAX);
        terms.stale_while_revalidate.max(on_error)
    } else {
        Duration::ZERO
    };
    confirmable.max(served)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::testing::{cache, config, head, is_hit, led, lookup, url};
    use super::super::{Lookup, storable::Refusal};
    use super::*;
    use bytes::Bytes;

    async fn store(cache: &Arc<Cache>, path: &str, lifetime: u64, bytes: usize) {
        let none = HeaderMap::new();
        let filled = led(cache, &url(cache, path, None), &none).fill(
            head(lifetime),
            Some(bytes as u64),
            &none,
        );
        let mut fill = filled.map_err(|(_, refusal)| refusal).expect("room");
        assert!(fill.push(Bytes::from(vec![0; bytes])).await);
        fill.finish();
    }

    #[tokio::test]
    async fn what_nobody_can_use_any_more_is_removed() {
        let cache = cache(8 << 20);
        store(&cache, "/stale", 6, 10).await;
        led(&cache, &url(&cache, "/private", None), &HeaderMap::new()).refuse(Refusal::Private);
        let now = Instant::now();
        assert_eq!(cache.sweep(now + Duration::from_secs(30), Duration::ZERO), 0);
        let key = url(&cache, "/stale", None);
        assert!(matches!(lookup(&cache, &key, &HeaderMap::new()), Lookup::Fresh(_)));
        assert_eq!(cache.sweep(now + CONFIRMABLE_FOR, Duration::ZERO), 0);
        let late = now + CONFIRMABLE_FOR + Duration::from_secs(3);
        assert_eq!(cache.sweep(late, Duration::ZERO), 1);
        assert_eq!((cache.objects(), cache.bytes()), (0, 0), "the mark has gone, too");
    }

    #[tokio::test]
    async fn where_memory_is_short_what_is_stale_goes_first() {
        // One shard: otherwise chance decides which one is full.
        let bound = 7 << 20;
        let cache = Cache::new(&config(bound, bound / 4), 1);
        for number in 0..66 {
            // Of each pair one will be stale in a minute.
            let lifetime = if number % 2 == 0 { 10 } else { 600 };
            store(&cache, &format!("/{number}"), lifetime, 100 << 10).await;
        }
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!(cache.sweep(now, Duration::ZERO), 0);
        for number in 100..134 {
            store(&cache, &format!("/{number}"), 600, 100 << 10).await;
        }
        let fresh = (0..66).filter(|number| number % 2 == 1).chain(100..134);
        let none = HeaderMap::new();
        for number in fresh {
            let key = url(&cache, &format!("/{number}"), None);
            assert!(is_hit(&cache, &key, &none), "{number}");
        }
        assert!(cache.evictions() >= 25);
    }

    #[test]
    fn walks_keep_their_distance() {
        let cache = cache(8 << 20);
        let at = Duration::from_secs;
        assert!(!cache.is_sweep_due(at(59)));
        assert!(cache.is_sweep_due(at(60)));
        cache.sweep(Instant::now(), at(60));
        assert!(!cache.is_sweep_due(at(119)));
        assert!(cache.is_sweep_due(at(120)));
    }
}
