//! What tests of the cache begin with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::entry::Head;
use super::freshness::LifetimeSource;
use super::key::{Key, KeyBuffer, primary};
use super::policy::PolicyField;
use super::storable::Terms;
use super::tags::tags_of;
use super::{Cache, Join, Lead, Lookup};
use crate::config::model;
use crate::fields::Fields;

/// A head that came this moment, five seconds old.
pub(crate) fn head(lifetime_seconds: u64) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, HeaderValue::from_static("\"a\""));
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
    Head {
        status: StatusCode::OK,
        fields: Fields::from(&headers),
        own_control: None,
        terms: Terms {
            lifetime: Duration::from_secs(lifetime_seconds),
            source: LifetimeSource::MaxAge,
            field: PolicyField::CacheControl,
            revalidate_always: false,
            must_revalidate: false,
            for_authorized: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: None,
        },
        initial_age: Duration::from_secs(5),
        received: Instant::now(),
        may_code: false,
        tags: Box::default(),
    }
}

/// With these bounds in bytes.
pub(crate) fn config(memory_bytes_max: u64, object_bytes_max: u64) -> model::Cache {
    model::Cache {
        memory_bytes_max,
        object_bytes_max,
        variants_max: 16,
        status_key: false,
        name: "headwater".into(),
    }
}

/// The same head with one more field.
pub(crate) fn with_field(head: Head, name: &'static str, value: &str) -> Head {
    let mut headers = head.fields.to_map(1);
    headers.append(name, HeaderValue::from_str(value).unwrap());
    Head { fields: Fields::from(&headers), ..head }
}

pub(super) fn cache(memory_bytes_max: u64) -> Arc<Cache> {
    Cache::new(&config(memory_bytes_max, memory_bytes_max / 4), 1)
}

/// Of a URL on the host `h`.
pub(super) fn url(cache: &Cache, path: &str, query: Option<&str>) -> Key {
    primary("h", path, query, &mut KeyBuffer::default(), cache.hasher()).to_owned()
}

pub(super) fn led(cache: &Arc<Cache>, key: &Key, request: &HeaderMap) -> Lead {
    match cache.join(key.as_ref(), request) {
        Join::Lead(lead) => lead,
        other => unreachable!("nobody else fetches: {other:?}"),
    }
}

/// Brings a response with these fields.
pub(super) async fn fill(lead: Lead, request: &HeaderMap, fields: &[(&'static str, &'static str)]) {
    let mut head = head(60);
    for (name, value) in fields {
        head = with_field(head, name, value);
    }
    head.tags = tags_of(&head.fields.to_map(0), &[], lead.hasher()).into();
    let filled = lead.fill(head, Some(3), request);
    let mut fill = filled.map_err(|(_, refusal)| refusal).expect("room");
    assert!(fill.push(Bytes::from_static(b"abc")).await);
    fill.finish();
}

pub(super) async fn store(
    cache: &Arc<Cache>,
    key: &Key,
    request: &HeaderMap,
    fields: &[(&'static str, &'static str)],
) {
    fill(led(cache, key, request), request, fields).await;
}

pub(super) fn lookup(cache: &Cache, key: &Key, request: &HeaderMap) -> Lookup {
    cache.lookup(key.as_ref(), || request, &mut KeyBuffer::default(), Instant::now())
}

pub(super) fn is_hit(cache: &Cache, key: &Key, request: &HeaderMap) -> bool {
    matches!(lookup(cache, key, request), Lookup::Fresh(_))
}
