//! What is stored, for showing to the operator.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};

use super::entry::Entry;
use super::key::{Key, KeyBuffer, KeyRef};
use super::store::Slot;
use super::{Cache, Lookup};

/// A stored response without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySummary {
    /// Host, path and query, then name and value of each field that the URL varies on.
    pub key: Vec<Option<String>>,
    pub status: StatusCode,
    /// What it holds of the cache's memory.
    pub bytes: u64,
    /// Seconds until it is stale, negative afterwards.
    pub ttl: i64,
    pub age: Duration,
}

impl EntrySummary {
    fn of(key: KeyRef<'_>, entry: &Entry, now: Instant) -> Self {
        Self {
            key: key.to_owned().parts(),
            status: entry.head.status,
            bytes: entry.weight(),
            ttl: entry.ttl(now),
            age: entry.head.age(now),
        }
    }
}

impl Cache {
    /// The `n` largest responses, the largest first. It looks at every entry and keeps `n` of
    /// them: not for a thread that serves requests.
    pub fn largest(&self, n: usize, now: Instant) -> Vec<EntrySummary> {
        let mut largest: Vec<(u64, Key, Arc<Entry>)> = Vec::with_capacity(n + 1);
        self.store.for_each(|key, slot| {
            let Slot::Entry(entry) = slot else { return };
            let bytes = entry.weight();
            let place = largest.partition_point(|(larger, ..)| *larger >= bytes);
            if place < n {
                largest.insert(place, (bytes, key.clone(), entry.clone()));
                largest.truncate(n);
            }
        });
        largest
            .into_iter()
            .map(|(_, key, entry)| EntrySummary::of(key.as_ref(), &entry, now))
            .collect()
    }

    /// The `n` keys that were hit most, the hottest first, with about how often since the start.
    pub fn hottest(&self, n: usize) -> Vec<(Vec<Option<String>>, u64)> {
        let mut counts = HashMap::default();
        self.heat.iter().for_each(|heat| heat.add_to(&mut counts));
        let mut hottest: Vec<_> = counts.into_iter().collect();
        hottest.sort_unstable_by_key(|(_, count)| Reverse(*count));
        hottest.truncate(n);
        hottest.into_iter().map(|(key, count)| (key.parts(), count)).collect()
    }

    /// What is held for a request with these fields, fresh or stale.
    pub fn held(
        &self,
        primary: KeyRef<'_>,
        request: &HeaderMap,
        now: Instant,
    ) -> Option<EntrySummary> {
        self.entry(primary, request, now).map(|entry| EntrySummary::of(primary, &entry, now))
    }

    /// The status of what is held for such a request, and the fields that it is stored with.
    pub fn held_head(
        &self,
        primary: KeyRef<'_>,
        request: &HeaderMap,
        now: Instant,
    ) -> Option<(StatusCode, HeaderMap)> {
        let entry = self.entry(primary, request, now)?;
        Some((entry.head.status, entry.head.fields.to_map(0)))
    }

    fn entry(&self, primary: KeyRef<'_>, request: &HeaderMap, now: Instant) -> Option<Arc<Entry>> {
        match self.lookup(primary, || request, &mut KeyBuffer::default(), now) {
            Lookup::Fresh(entry) | Lookup::Stale(entry) => Some(entry),
            Lookup::Absent | Lookup::Uncacheable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::primary;
    use super::super::testing::{config, head};
    use super::super::{Join, Lead};
    use super::*;
    use bytes::Bytes;

    async fn store(cache: &Arc<Cache>, path: &str, bytes: usize) {
        let mut buffer = KeyBuffer::default();
        let key = primary("h", path, None, &mut buffer, cache.hasher());
        let Join::Lead(lead) = cache.join(key, &HeaderMap::new()) else {
            unreachable!("nobody else fetches")
        };
        let filled = Lead::fill(lead, head(60), Some(bytes as u64), &HeaderMap::new());
        let mut fill = filled.map_err(|(_, refusal)| refusal).expect("room");
        assert!(fill.push(Bytes::from(vec![0; bytes])).await);
        fill.finish();
    }

    #[tokio::test]
    async fn the_largest_come_first_and_only_as_many_as_are_asked_for() {
        let cache = Cache::new(&config(16 << 20, 4 << 20), 1);
        for (path, bytes) in [("/b", 2000), ("/c", 300_000), ("/a", 10), ("/d", 2 << 20)] {
            store(&cache, path, bytes).await;
        }
        let largest = cache.largest(3, Instant::now());
        let paths: Vec<_> = largest.iter().map(|entry| entry.key[1].as_deref()).collect();
        assert_eq!(paths, [Some("/d"), Some("/c"), Some("/b")]);
        assert!(largest[0].bytes >= 2 << 20);
        assert_eq!(largest[0].key, [Some("h".to_owned()), Some("/d".to_owned()), None]);
        assert_eq!((largest[0].status, largest[0].age.as_secs()), (StatusCode::OK, 5));
    }
}
