//! What the cache counts, as Prometheus series.

use super::Cache;
use crate::metrics::{Counter, Exposition};

#[derive(Debug, Default)]
pub(super) struct CacheStats {
    pub(super) purged_urls: Counter,
    pub(super) purged_all: Counter,
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
        out.counter("headwater_cache_evictions_total", "Responses that gave way to others.")
            .series(&[], self.evictions() as f64);
        for (kind, count) in [("url", &self.stats.purged_urls), ("all", &self.stats.purged_all)] {
            out.counter("headwater_cache_purged_total", "Responses removed by purges.")
                .series(&[("kind", kind)], count.value() as f64);
        }
    }
}
