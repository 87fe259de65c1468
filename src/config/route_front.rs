//! `route.front_cache`: what a route tells the cache in front of us.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::diagnostics::Invalid;
use super::model::{FrontCache, RouteCache};
use super::reader::Table;
use super::route_cache;
use super::units;

const LIFETIME: RangeInclusive<Duration> = Duration::from_secs(1)..=units::DURATION_MAX;
const STALE: RangeInclusive<Duration> = Duration::ZERO..=units::DURATION_MAX;
/// Of a route's own tags in one field, in bytes: what Cloudflare takes of one response.
const TAGS_BYTES_MAX: usize = 16 << 10;

/// A tag of either cache is one of both, so that a purge by it reaches all that is held.
pub(super) fn read(table: &Table<'_>, cache: Option<&mut RouteCache>) -> Option<FrontCache> {
    let mut front = rules(table.read("front_cache", |value| value.table())?);
    if let Some(cache) = cache {
        cache.tags.append(&mut front.tags);
        cache.tags.sort_unstable();
        cache.tags.dedup();
        front.tags.clone_from(&cache.tags);
    } else {
        front.tags.sort_unstable();
        front.tags.dedup();
    }
    let bytes: usize = front.tags.iter().map(|tag| tag.len() + 1).sum();
    if let Some(value) = table.value("front_cache")
        && bytes > TAGS_BYTES_MAX + 1
    {
        value.invalid(
            Invalid::new(format!("the tags of the route have {bytes} bytes together"))
                .help(format!("a CDN takes {TAGS_BYTES_MAX} of one response; leave some out")),
        );
    }
    Some(front)
}

fn rules(table: Table<'_>) -> FrontCache {
    let ttl = table.read("ttl", |value| value.duration(&LIFETIME));
    let stale = |key| {
        table.read(key, |value| {
            if table.value("ttl").is_none() {
                value.invalid(
                    Invalid::new("it says nothing without `ttl`").help("add ttl = \"1h\""),
                );
            }
            value.duration(&STALE)
        })
    };
    let front = FrontCache {
        ttl,
        stale_while_revalidate: stale("stale_while_revalidate"),
        stale_if_error: stale("stale_if_error"),
        tags: table.read("tags", route_cache::tags).unwrap_or_default(),
    };
    table.finish();
    front
}

#[cfg(test)]
mod tests {
    use super::super::model::Route;
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn route(lines: &str) -> Route {
        config_of(&format!("[[route]]\npool = \"app\"\n{lines}")).routes.remove(0)
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[[route]]\npool = \"app\"\n{lines}"))
    }

    #[test]
    fn a_front_is_told_a_lifetime_and_tags() {
        assert_eq!(route("").front_cache, None);
        let told = route(
            "front_cache = { ttl = \"1h\", stale_while_revalidate = \"1m\", \
             stale_if_error = \"1d\", tags = [\"Shop\", \"shop\"] }",
        );
        let expected = FrontCache {
            ttl: Some(Duration::from_secs(3600)),
            stale_while_revalidate: Some(Duration::from_secs(60)),
            stale_if_error: Some(Duration::from_secs(86400)),
            tags: vec!["shop".to_owned()],
        };
        assert_eq!(told.front_cache, Some(expected));
        assert_eq!(route("front_cache = {}").front_cache, Some(FrontCache::default()));
    }

    #[test]
    fn tags_of_one_cache_are_tags_of_both() {
        let told = route("cache.tags = [\"b\", \"c\"]\nfront_cache.tags = [\"a\", \"b\"]");
        assert_eq!(told.front_cache.unwrap().tags, ["a", "b", "c"]);
        assert_eq!(told.cache.unwrap().tags, ["a", "b", "c"]);
        let told = route("cache = false\nfront_cache.tags = [\"a\"]");
        assert_eq!(told.front_cache.unwrap().tags, ["a"]);
    }

    #[test]
    fn what_says_nothing_or_too_much_is_an_error() {
        let tag = |number: usize| format!("\"{number:0>1000}\"");
        let many = (0..17).map(tag).collect::<Vec<_>>().join(", ");
        for (lines, message) in [
            ("front_cache.stale_if_error = \"1d\"".to_owned(), "it says nothing without `ttl`"),
            ("front_cache.ttl = \"0s\"".to_owned(), "`route.front_cache.ttl`"),
            ("front_cache.s_maxage = \"1d\"".to_owned(), "unknown key `s_maxage`"),
            ("front_cache = true".to_owned(), "must be a table"),
            ("front_cache.tags = [\"a b\"]".to_owned(), "is not a tag"),
            (format!("front_cache.tags = [{many}]"), "have 17017 bytes together"),
        ] {
            let shown = said(&lines);
            assert!(shown.contains(message), "{lines}: {shown}");
        }
    }
}
