//! `GET /api/cache`: what the cache holds and how well it does.

use std::time::Instant;

use serde_json::{Value, json};

use crate::cache::EntrySummary;
use crate::cache::status::CacheStatus;
use crate::snapshot::Snapshot;

/// Entries shown, the largest and the hottest of all.
const SHOWN: usize = 20;

/// Looks at every entry: not for the thread of the control plane.
pub(super) fn describe(snapshot: &Snapshot) -> Value {
    let cache = &snapshot.cache;
    let requests: Vec<(CacheStatus, u64)> = CacheStatus::ALL
        .into_iter()
        .map(|status| {
            (status, snapshot.routes.iter().map(|route| route.stats.cached(status)).sum())
        })
        .collect();
    let largest = cache.largest(SHOWN, Instant::now());
    let hottest = cache.hottest(SHOWN).into_iter().map(|(key, hits)| {
        let (url, further) = shown(&key);
        json!({ "key": url, "further": further, "hits": hits })
    });
    json!({
        "bytes": cache.bytes(),
        "bytes_max": cache.bytes_max(),
        "object_bytes_max": cache.object_bytes_max(),
        "objects": cache.objects(),
        "evictions": cache.evictions(),
        "fetches": cache.fetches(),
        "requests": requests
            .iter()
            .map(|(status, count)| (status.as_str().to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>(),
        "hit_ratio": hit_ratio(&requests),
        "largest": largest.iter().map(entry).collect::<Vec<_>>(),
        "hottest": hottest.collect::<Vec<_>>(),
    })
}

/// The share of the requests of cacheable routes that caused no request to the origin; `None`
/// before the first one.
fn hit_ratio(requests: &[(CacheStatus, u64)]) -> Option<f64> {
    let all: u64 = requests.iter().map(|(_, count)| count).sum();
    let spared: u64 = requests
        .iter()
        .filter(|(status, _)| {
            matches!(status, CacheStatus::Hit | CacheStatus::Stale | CacheStatus::Collapsed)
        })
        .map(|(_, count)| count)
        .sum();
    (all > 0).then(|| spared as f64 / all as f64)
}

/// A key as a URL, and its further parts.
fn shown(key: &[Option<String>]) -> (String, &[Option<String>]) {
    let (url, further) = key.split_at(key.len().min(3));
    let part = |index: usize| url.get(index).and_then(Option::as_deref);
    let mut shown = format!("{}{}", part(0).unwrap_or_default(), part(1).unwrap_or_default());
    match part(2) {
        // What stands for a query by No-Vary-Search begins like no query does.
        Some(form) if form.starts_with('\0') => shown.push_str("?(by No-Vary-Search)"),
        Some(query) => {
            shown.push('?');
            shown.push_str(query);
        }
        None => {}
    }
    (shown, further)
}

fn entry(entry: &EntrySummary) -> Value {
    let (url, vary) = shown(&entry.key);
    json!({
        "key": url,
        "vary": vary,
        "status": entry.status.as_u16(),
        "bytes": entry.bytes,
        "ttl_seconds": entry.ttl,
        "age_seconds": entry.age.as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    #[test]
    fn the_hit_ratio_counts_what_the_origin_was_spared() {
        assert_eq!(hit_ratio(&[(CacheStatus::Hit, 0)]), None);
        let requests = [
            (CacheStatus::Hit, 5),
            (CacheStatus::Stale, 1),
            (CacheStatus::Revalidated, 1),
            (CacheStatus::Miss, 1),
        ];
        assert_eq!(hit_ratio(&requests), Some(0.75));
    }

    #[test]
    fn a_key_is_shown_as_a_url_and_what_it_varies_on() {
        let text = |text: &str| Some(text.to_owned());
        let summary = EntrySummary {
            key: vec![text("a.test"), text("/x"), text("q=1"), text("accept"), None],
            status: StatusCode::OK,
            bytes: 10,
            ttl: -1,
            age: Duration::from_secs(61),
        };
        let shown = entry(&summary);
        assert_eq!(shown["key"], json!("a.test/x?q=1"));
        assert_eq!(shown["vary"], json!(["accept", null]));
        assert_eq!(shown["ttl_seconds"], json!(-1));
    }
}
