//! `POST /api/cache/purge`: what is to be purged, in the normal form of requests.

use std::collections::HashSet;

use http::header::RETRY_AFTER;
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fronts;
use super::reply::Refusal;
use crate::cache::tags::Tag;
use crate::cache::{Broad, Mode, Purged, Target};
use crate::purge::{Behind, Purges};
use crate::route::{host, path};
use crate::snapshot::Snapshot;

/// Things named in one request.
const TARGETS_MAX: usize = 10_000;
/// Of them, those that cover many URLs.
const BROAD_MAX: usize = 256;
/// The query that stands for every query.
pub(super) const ANY_QUERY: &str = "*";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Order {
    pub(super) urls: Vec<String>,
    pub(super) tags: Vec<String>,
    pub(super) prefixes: Vec<String>,
    pub(super) hosts: Vec<String>,
    pub(super) all: bool,
    pub(super) soft: bool,
}

/// What a purge has done.
#[derive(Debug)]
pub(super) struct Done {
    /// Here. What it took out of the cache is freed when this is dropped.
    pub(super) purged: Purged,
    /// Of the purge of the caches in front of us, which goes on.
    receipt: Option<String>,
}

impl Done {
    pub(super) fn shown(&self) -> Value {
        match &self.receipt {
            Some(id) => json!({ "purged": self.purged.count(), "id": id }),
            None => json!({ "purged": self.purged.count() }),
        }
    }
}

/// Purges what the body of a request names, here and then in front of us. It may walk over the
/// whole cache: not for the thread of the control plane.
pub(super) fn purge(snapshot: &Snapshot, purges: &Purges, body: &[u8]) -> Result<Done, Refusal> {
    let refused = |why| Refusal::new(StatusCode::BAD_REQUEST, why);
    let order = read(body).map_err(refused)?;
    let targets = targets(&order, snapshot).map_err(refused)?;
    let operations = fronts::operations(&order).map_err(refused)?;
    let place = purges.place(&snapshot.config, operations, order.soft).map_err(|Behind| {
        let why = "too many purges of the cache in front wait; nothing was purged, try again";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why).with(RETRY_AFTER, "5")
    })?;
    let mode = if order.soft { Mode::Expire } else { Mode::Remove };
    let purged = snapshot.cache.purge(&targets, mode).map_err(|_| {
        let why = "too many purges of prefixes, hosts or everything are under way; try again";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
    })?;
    // Ours is purged: what a front asks for from now on is new.
    let receipt = place.map(|place| place.submit(&snapshot.under_way));
    let count = purged.count();
    tracing::info!(
        targets = targets.len(),
        soft = order.soft,
        purged = count,
        receipt,
        "cache purged"
    );
    Ok(Done { purged, receipt })
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
    Ok(order)
}

fn targets(order: &Order, snapshot: &Snapshot) -> Result<Vec<Target>, String> {
    let named = [&order.urls, &order.tags, &order.prefixes, &order.hosts];
    let count: usize = named.iter().map(|names| names.len()).sum();
    if count == 0 && !order.all {
        let keys = "`urls`, `tags`, `prefixes` or `hosts`, or set `all`";
        return Err(format!("nothing is asked for: name {keys}"));
    }
    if count > TARGETS_MAX {
        return Err(format!("more than {TARGETS_MAX} things are named; send several requests"));
    }
    let mut targets = Vec::with_capacity(count);
    let mut take = |key: &str, names: &[String], read: &dyn Fn(&str) -> Result<Target, String>| {
        let mut seen = HashSet::new();
        for name in names.iter().filter(|name| seen.insert(name.as_str())) {
            targets.push(read(name).map_err(|why| format!("`{key}`: {name:?} {why}"))?);
        }
        Ok::<_, String>(())
    };
    take("urls", &order.urls, &|url| self::url(url, snapshot))?;
    take("tags", &order.tags, &|tag| self::tag(tag, snapshot))?;
    take("prefixes", &order.prefixes, &prefix)?;
    take("hosts", &order.hosts, &|name| Ok(Target::Broad(Broad::Host(self::host(name)?))))?;
    let broad = targets.iter().filter(|target| matches!(target, Target::Broad(_))).count();
    if broad > BROAD_MAX {
        return Err(format!(
            "more than {BROAD_MAX} prefixes, hosts and URLs that end in `?*`; send several requests"
        ));
    }
    // With everything gone nothing else is left to purge, but every name must be correct.
    Ok(if order.all { vec![Target::Broad(Broad::All)] } else { targets })
}

/// What an absolute URL means to the cache.
fn url(url: &str, snapshot: &Snapshot) -> Result<Target, String> {
    let uri: Uri = url.parse().map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("is not an absolute http or https URL".to_owned());
    }
    let host = host(uri.authority().map_or("", |authority| authority.as_str()))?;
    let path = self::path(uri.path())?;
    Ok(match uri.query() {
        Some(ANY_QUERY) => Target::Broad(Broad::Path { host, path }),
        query => Target::Url(snapshot.url_target(&host, &path, query)),
    })
}

fn tag(tag: &str, snapshot: &Snapshot) -> Result<Target, String> {
    let trimmed = tag.trim_ascii();
    if trimmed.is_empty() || trimmed.contains(',') || !trimmed.is_ascii() {
        return Err("is not a tag: visible ASCII characters without a comma".to_owned());
    }
    Ok(Target::Tag(Tag::new(trimmed.as_bytes(), snapshot.cache.hasher())))
}

/// A host and the beginning of a path, `example.com/shop/`.
fn prefix(prefix: &str) -> Result<Target, String> {
    if prefix.contains("://") {
        return Err("has a scheme: a prefix is host/path".to_owned());
    }
    if prefix.contains(['?', '#']) {
        return Err("has a query: a prefix is host/path".to_owned());
    }
    let at = prefix.find('/').unwrap_or(prefix.len());
    let (host, path) = prefix.split_at(at);
    let path = self::path(if path.is_empty() { "/" } else { path })?;
    Ok(Target::Broad(Broad::Prefix { host: self::host(host)?, path }))
}

pub(super) fn host(authority: &str) -> Result<String, String> {
    let host = host::normalize(authority).map_err(|error| format!("is refused: {error}"))?;
    Ok(host.name.into_owned())
}

pub(super) fn path(path: &str) -> Result<String, String> {
    let path = path::normalize(path).map_err(|error| format!("is refused: {error}"))?;
    Ok(path.into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::testing;
    use super::*;
    use crate::cache::key::{KeyBuffer, primary};
    use crate::cache::testing::{head, with_field};
    use crate::cache::{Cache, Join};

    fn snapshot() -> Arc<Snapshot> {
        Arc::new(testing::snapshot(""))
    }

    #[track_caller]
    fn assert_refused(body: &str, part: &str) {
        let snapshot = snapshot();
        let why = read(body.as_bytes()).and_then(|order| targets(&order, &snapshot)).unwrap_err();
        assert!(why.contains(part), "{body}: {why}");
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
        assert_refused("{\"tags\":[\"a,b\"]}", "`tags`: \"a,b\" is not a tag");
        assert_refused("{\"tags\":[\"\"]}", "is not a tag");
        assert_refused("{\"prefixes\":[\"http://a/x\"]}", "has a scheme");
        assert_refused("{\"prefixes\":[\"a/x?y\"]}", "has a query");
        assert_refused("{\"prefixes\":[\"/x\"]}", "is refused");
        assert_refused("{\"hosts\":[\"a b\"]}", "`hosts`: \"a b\" is refused");
    }

    #[test]
    fn a_url_must_be_absolute_and_correct() {
        for url in ["/a", "a.test/a", "ftp://a/", "http://", "http://u@a/", "http://a/%zz", "a b"] {
            assert_refused(&format!("{{\"urls\":[\"{url}\"]}}"), "urls");
        }
        assert_refused("{\"all\":true,\"urls\":[\"nonsense\"]}", "nonsense");
    }

    #[test]
    fn names_are_brought_to_the_form_of_requests() {
        let snapshot = snapshot();
        let expected = Target::Url(snapshot.url_target("a.test", "/x/y", Some("b=%7e")));
        for raw in ["http://a.test/x/y?b=%7e", "https://A.Test.:8443/x/./z/../%79?b=%7e"] {
            assert_eq!(url(raw, &snapshot), Ok(expected.clone()), "{raw}");
        }
        let root = Target::Url(snapshot.url_target("a.test", "/", None));
        assert_eq!(url("http://a.test", &snapshot), Ok(root));
        let any = Broad::Path { host: "a.test".into(), path: "/x".into() };
        assert_eq!(url("http://a.test/x?*", &snapshot), Ok(Target::Broad(any)));
        let of = |host: &str, path: &str| {
            Target::Broad(Broad::Prefix { host: host.into(), path: path.into() })
        };
        assert_eq!(prefix("A.test:80/%7ex/"), Ok(of("a.test", "/~x/")));
        assert_eq!(prefix("a.test"), Ok(of("a.test", "/")));
        assert_eq!(tag(" A-b ", &snapshot), tag("a-B", &snapshot));
    }

    #[test]
    fn what_one_request_names_is_bounded() {
        let snapshot = snapshot();
        let named = |order: &dyn Fn(Vec<String>) -> Order, count: usize| {
            targets(&order((0..count).map(|n| format!("http://a/{n}?*")).collect()), &snapshot)
        };
        let urls = |urls| Order { urls, ..Order::default() };
        assert!(named(&urls, BROAD_MAX).is_ok());
        assert!(named(&urls, BROAD_MAX + 1).is_err());
        let tags = |tags| Order { tags, ..Order::default() };
        assert!(named(&tags, TARGETS_MAX).is_ok());
        assert!(named(&tags, TARGETS_MAX + 1).is_err());
    }

    /// Stores an answer for a URL, its parts in normal form, with a tag.
    async fn store(cache: &Arc<Cache>, host: &str, path: &str, query: Option<&str>, tag: &str) {
        let mut buffer = KeyBuffer::default();
        let key = primary(host, path, query, &mut buffer, cache.hasher());
        let Join::Lead(lead) = cache.join(key, &HeaderMap::new()) else {
            unreachable!("nobody else fetches")
        };
        let mut head = head(60);
        head = with_field(head, "cache-tag", tag);
        head.tags = crate::cache::tags::tags_of(&head.fields.to_map(0), &[], cache.hasher()).into();
        let filled = lead.fill(head, Some(2), &HeaderMap::new());
        let mut fill = filled.map_err(|(_, refusal)| refusal).unwrap();
        assert!(fill.push(Bytes::from_static(b"ok")).await);
        fill.finish();
    }

    #[tokio::test]
    async fn what_is_stored_is_purged_by_each_kind_of_name() {
        let snapshot = snapshot();
        let cache = &snapshot.cache;
        for (path, query) in [("/x", None), ("/x", Some("a=1")), ("/x", Some("b")), ("/y/z", None)]
        {
            store(cache, "a.test", path, query, "t1").await;
        }
        store(cache, "b.test", "/x", None, "T2, t3").await;
        store(cache, "b.test", "/y", None, "t2").await;
        store(cache, "c.test", "/y", None, "t4").await;
        let purged = |body: &str| {
            purge(&snapshot, &Purges::default(), body.as_bytes()).unwrap().purged.count()
        };
        assert_eq!(purged(r#"{"soft":true,"tags":["t4"]}"#), 1);
        assert_eq!(purged(r#"{"soft":true,"tags":["t4"]}"#), 0);
        assert_eq!(purged(r#"{"urls":["https://A.test:443/%78?a=1","http://a.test/z"]}"#), 1);
        assert_eq!(purged(r#"{"urls":["http://a.test/x?*"]}"#), 2);
        assert_eq!(purged(r#"{"urls":["http://a.test/x?*"]}"#), 0);
        assert_eq!(purged(r#"{"prefixes":["a.test/y"]}"#), 1);
        assert_eq!(cache.objects(), 3);
        assert_eq!(purged(r#"{"tags":["t2","none"]}"#), 2);
        assert_eq!(purged(r#"{"tags":["t3"]}"#), 0);
        store(cache, "b.test", "/x", None, "t2").await;
        assert_eq!(purged(r#"{"hosts":["B.test"]}"#), 1);
        assert_eq!(purged(r#"{"all":true,"urls":["http://a.test/y"]}"#), 1);
        assert_eq!((cache.objects(), cache.bytes()), (0, 0));
    }
}
