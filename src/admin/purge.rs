//! `POST /api/cache/purge`: which URLs are meant, in the normal form of requests.

use std::collections::HashSet;

use http::{StatusCode, Uri};
use serde::Deserialize;

use super::reply::Refusal;
use crate::cache::key::{KeyBuffer, KeyHasher, primary};
use crate::cache::{Cache, PathTarget, Target};
use crate::route::{host, path};

/// URLs with `?*` in one request: each takes a walk over the whole cache.
const PATHS_MAX: usize = 256;
/// The query that stands for every query.
const ANY_QUERY: &str = "*";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    urls: Vec<String>,
    tags: Vec<String>,
    prefixes: Vec<String>,
    hosts: Vec<String>,
    all: bool,
    soft: bool,
}

/// Removes what the body of a request names; how many stored variants it were. It may walk over
/// the whole cache: not for the thread of the control plane.
pub(super) fn purge(cache: &Cache, body: &[u8]) -> Result<u64, Refusal> {
    let targets = read(body)
        .and_then(|order| targets(&order, cache.hasher()))
        .map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, why))?;
    let purged = targets.iter().map(|target| cache.purge(target)).sum();
    tracing::info!(targets = targets.len(), purged, "cache purged");
    Ok(purged)
}

fn read(body: &[u8]) -> Result<Order, String> {
    // The deserializer would take an array for a struct as well.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("the body is not a JSON object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let order: Order =
        serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    let unsupported = [
        ("tags", !order.tags.is_empty()),
        ("prefixes", !order.prefixes.is_empty()),
        ("hosts", !order.hosts.is_empty()),
        ("soft", order.soft),
    ];
    match unsupported.iter().find(|(_, asked)| *asked) {
        Some((name, _)) => Err(format!("`{name}` is not supported yet")),
        None => Ok(order),
    }
}

fn targets(order: &Order, hasher: &KeyHasher) -> Result<Vec<Target>, String> {
    if order.urls.is_empty() && !order.all {
        return Err("nothing is asked for: name `urls`, or set `all`".to_owned());
    }
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    let mut paths = 0;
    for url in order.urls.iter().filter(|url| seen.insert(url.as_str())) {
        let target = target(url, hasher).map_err(|why| format!("`urls`: {url:?} {why}"))?;
        paths += usize::from(matches!(target, Target::Path(_)));
        targets.push(target);
    }
    if paths > PATHS_MAX {
        return Err(format!("`urls`: more than {PATHS_MAX} end in `?*`; send several requests"));
    }
    // With everything gone nothing else is left to remove, but every URL must be correct.
    Ok(if order.all { vec![Target::All] } else { targets })
}

/// What an absolute URL means to the cache.
fn target(url: &str, hasher: &KeyHasher) -> Result<Target, String> {
    let uri: Uri = url.parse().map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("is not an absolute http or https URL".to_owned());
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = host::normalize(authority).map_err(|error| format!("is refused: {error}"))?.name;
    let path = path::normalize(uri.path()).map_err(|error| format!("is refused: {error}"))?;
    if uri.query() == Some(ANY_QUERY) {
        let (host, path) = (host.into_owned(), path.into_owned());
        return Ok(Target::Path(PathTarget { host, path }));
    }
    let mut buffer = KeyBuffer::default();
    Ok(Target::Url(primary(&host, &path, uri.query(), &mut buffer, hasher).to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::testing::snapshot;
    use super::*;
    use crate::cache::Join;
    use crate::cache::testing::head;

    #[track_caller]
    fn assert_refused(body: &str, part: &str) {
        let hasher = KeyHasher::default();
        let why = read(body.as_bytes()).and_then(|order| targets(&order, &hasher)).unwrap_err();
        assert!(why.contains(part), "{body}: {why}");
    }

    fn url(hasher: &KeyHasher, host: &str, path: &str, query: Option<&str>) -> Target {
        Target::Url(primary(host, path, query, &mut KeyBuffer::default(), hasher).to_owned())
    }

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        assert_refused("", "not a JSON object");
        assert_refused("[]", "not a JSON object");
        assert_refused("{\"all\":true", "EOF");
        assert_refused("{\"all\":true} x", "trailing characters");
        assert_refused("{}", "nothing is asked for");
        assert_refused("{\"urls\":[],\"all\":false}", "nothing is asked for");
        assert_refused("{\"url\":\"http://a/\"}", "`url`");
        assert_refused("{\"urls\":\"http://a/\"}", "urls");
        assert_refused("{\"all\":1}", "all");
    }

    #[test]
    fn what_is_not_built_yet_is_named() {
        assert_refused("{\"tags\":[\"x\"]}", "`tags` is not supported yet");
        assert_refused("{\"all\":true,\"prefixes\":[\"a/b\"]}", "`prefixes` is not supported yet");
        assert_refused("{\"hosts\":[\"a\"]}", "`hosts` is not supported yet");
        assert_refused("{\"all\":true,\"soft\":true}", "`soft` is not supported yet");
        assert!(read(b"{\"all\":true,\"tags\":[],\"soft\":false}").is_ok());
    }

    #[test]
    fn a_url_must_be_absolute_and_correct() {
        for url in ["/a", "a.test/a", "ftp://a/", "http://", "http://u@a/", "http://a/%zz", "a b"] {
            assert_refused(&format!("{{\"urls\":[\"{url}\"]}}"), "urls");
        }
        assert_refused("{\"all\":true,\"urls\":[\"nonsense\"]}", "nonsense");
    }

    #[test]
    fn a_url_is_brought_to_the_form_of_requests() {
        let hasher = KeyHasher::default();
        let expected = url(&hasher, "a.test", "/x/y", Some("b=%7e"));
        for raw in ["http://a.test/x/y?b=%7e", "https://A.Test.:8443/x/./z/../%79?b=%7e"] {
            assert_eq!(target(raw, &hasher), Ok(expected.clone()), "{raw}");
        }
        assert_eq!(target("http://a.test", &hasher), Ok(url(&hasher, "a.test", "/", None)));
        let empty = url(&hasher, "a.test", "/", Some(""));
        assert_eq!(target("http://a.test/?", &hasher), Ok(empty));
    }

    #[test]
    fn a_star_as_the_query_means_every_query() {
        let any = Target::Path(PathTarget { host: "a.test".into(), path: "/x".into() });
        assert_eq!(target("http://a.test/x?*", &KeyHasher::default()), Ok(any));
    }

    #[test]
    fn walks_over_the_cache_are_bounded() {
        let hasher = KeyHasher::default();
        let urls = |count: usize| Order {
            urls: (0..count).map(|n| format!("http://a/{n}?*")).collect(),
            ..Order::default()
        };
        assert_eq!(targets(&urls(PATHS_MAX), &hasher).map(|it| it.len()), Ok(PATHS_MAX));
        assert!(targets(&urls(PATHS_MAX + 1), &hasher).is_err());
    }

    /// Stores an answer for a URL, its parts in normal form.
    async fn store(cache: &Arc<Cache>, host: &str, path: &str, query: Option<&str>) {
        let mut buffer = KeyBuffer::default();
        let key = primary(host, path, query, &mut buffer, cache.hasher());
        let Join::Lead(lead) = cache.join(key, &HeaderMap::new()) else {
            unreachable!("nobody else fetches")
        };
        let filled = lead.fill(head(60), Some(2), &HeaderMap::new());
        let mut fill = filled.map_err(|(_, refusal)| refusal).unwrap();
        assert!(fill.push(Bytes::from_static(b"ok")).await);
        fill.finish();
    }

    #[tokio::test]
    async fn what_is_stored_is_removed_by_its_url_by_its_path_or_with_everything() {
        let cache = snapshot("").cache;
        for (path, query) in [("/x", None), ("/x", Some("a=1")), ("/x", Some("b")), ("/y", None)] {
            store(&cache, "a.test", path, query).await;
        }
        store(&cache, "b.test", "/x", None).await;
        let purged = |body: &str| purge(&cache, body.as_bytes()).unwrap();
        assert_eq!(purged(r#"{"urls":["https://A.test:443/%78?a=1","http://a.test/z"]}"#), 1);
        assert_eq!(purged(r#"{"urls":["http://a.test/x?*"]}"#), 2);
        assert_eq!(purged(r#"{"urls":["http://a.test/x?*"]}"#), 0);
        assert_eq!(cache.objects(), 2);
        assert_eq!(purged(r#"{"all":true,"urls":["http://a.test/y"]}"#), 2);
        assert_eq!(cache.objects(), 0);
    }
}
