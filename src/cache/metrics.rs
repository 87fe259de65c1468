//! What the cache counts, as Prometheus series.

use super::Cache;
use crate::metrics::{Counter, Exposition};

/// Kinds of purges, and what unsafe requests have made out of date.
const PURGES: [&str; 6] = ["url", "tag", "prefix", "host", "all", "invalidated"];

#[derive(Debug, Default)]
pub(super) struct CacheStats {
    purged: [Counter; PURGES.len()],
}

impl CacheStats {
    pub(super) fn purged(&self, kind: &str, count: u64) {
        let counters = PURGES.iter().zip(&self.purged);
        if let Some((_, counter)) = counters.into_iter().find(|(known, _)| **known == kind) {
            counter.add(count);
        }
    }
}

impl Cache {
    pub fn collect(&self, out: &mut Exposition) {
        out.gauge(
            "headwater_cache_bytes",
            "Bytes held by entries, fills, and removed entries still being sent.",
        )
        .series(&[], self.bytes() as f64);
        out.gauge("headwater_cache_bytes_max", "Bound on headwater_cache_bytes.")
            .series(&[], self.bytes_max() as f64);
        out.gauge("headwater_cache_objects", "Stored responses.")
            .series(&[], self.objects() as f64);
        out.gauge("headwater_cache_fetches_in_flight", "Fetches that requests may join.")
            .series(&[], self.fetches() as f64);
        out.counter("headwater_cache_evictions_total", "Responses that gave way to others.")
            .series(&[], self.evictions() as f64);
        for (kind, count) in PURGES.into_iter().zip(&self.stats.purged) {
            out.counter("headwater_cache_purged_total", "Responses removed by purges.")
                .series(&[("kind", kind)], count.value() as f64);
        }
    }
}
