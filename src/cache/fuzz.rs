//! What must hold for what origins and clients say to a cache, for the fuzzer.

use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::control::{RequestControl, ResponseControl};
use super::key::{Key, KeyBuffer, KeyHasher};
use super::policy::{HEADWATER_CACHE_CONTROL, Policy};
use super::search::SearchRule;
use super::storable::{RequestFacts, ResponseFacts, terms};
use super::vary::{self, VaryFields};
use super::{date, freshness};
use crate::config::model::RouteCache;

const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");
/// Ages saturate here, in seconds.
const SECONDS_MAX: u64 = 1 << 31;

fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn one(name: HeaderName, text: &[u8]) -> Option<HeaderMap> {
    let value = HeaderValue::from_bytes(text).ok()?;
    Some([(name, value)].into_iter().collect())
}

fn assert_in_bounds(control: &ResponseControl) {
    for seconds in
        [control.max_age, control.s_maxage, control.stale_while_revalidate, control.stale_if_error]
    {
        assert!(seconds.is_none_or(|seconds| seconds <= SECONDS_MAX));
    }
    assert!(control.malformed.len() <= 8);
}

/// `Cache-Control` in both directions: bounded, and the same in any case but for what is quoted in
/// notes.
pub fn cache_control(text: &[u8]) {
    let Some(headers) = one(CACHE_CONTROL, text) else { return };
    let control = ResponseControl::of(&headers);
    assert_in_bounds(&control);
    let _ = RequestControl::of(&headers);
    let shouted = one(CACHE_CONTROL, &text.to_ascii_uppercase()).expect("it was a value before");
    let shouted = ResponseControl::of(&shouted);
    assert_eq!(
        ResponseControl { malformed: Vec::new(), ..control },
        ResponseControl { malformed: Vec::new(), ..shouted },
    );
}

/// Targeted fields: structured, or as if they were not there.
pub fn targeted(text: &[u8]) {
    for name in ["headwater-cache-control", "cdn-cache-control", "surrogate-control"] {
        let Some(mut headers) = one(HeaderName::from_static(name), text) else { return };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=7"));
        let policy = Policy::of(&headers, None);
        assert_in_bounds(&policy.control);
        if !policy.field.is_targeted() {
            assert_eq!(policy.control.max_age, Some(7));
        }
        if let Some(own) = headers.get(HEADWATER_CACHE_CONTROL) {
            let apart = Policy::of(&HeaderMap::new(), Some(own));
            assert!(!policy.field.is_targeted() || policy.control == apart.control);
        }
    }
}

/// `Vary` of a response, for requests that say the same thing in one field or another.
pub fn vary(names: &[u8], value: &[u8]) {
    let Some(headers) = one(VARY, names) else { return };
    if vary::is_any(&headers) {
        return;
    }
    let Some(fields) = VaryFields::of(&headers) else { return };
    assert_eq!(fields.union(&fields), fields);
    let hasher = KeyHasher::default();
    let key = |headers: &HeaderMap| {
        let mut primary = KeyBuffer::default();
        primary.part(b"example.com");
        fields.variant_key_owned(primary.key(&hasher), headers, &hasher)
    };
    for name in ["accept", "accept-encoding", "accept-language", "cookie", "x-a"] {
        let Some(request) = one(HeaderName::from_static(name), value) else { return };
        let _ = fields.fits(&request);
        let is_named = names
            .split(|byte| *byte == b',')
            .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(name.as_bytes()));
        assert_eq!(key(&request) != key(&HeaderMap::new()), is_named);
        // White space around the value is no part of it.
        let padded = [b" ", value, b" "].concat();
        let padded = one(HeaderName::from_static(name), &padded).expect("it was a value before");
        assert!(key(&request) == key(&padded));
    }
}

/// `No-Vary-Search` on queries: what is left out of one may be left out of the other.
pub fn no_vary_search(text: &[u8], query: &[u8]) {
    let Some(headers) = one(NO_VARY_SEARCH, text) else { return };
    let Some(rule) = SearchRule::of(&headers) else { return };
    let hasher = KeyHasher::default();
    let key = |query: Option<&[u8]>| -> Key {
        let mut buffer = KeyBuffer::default();
        rule.push(query, &mut buffer);
        buffer.key(&hasher).to_owned()
    };
    let whole = key(Some(query));
    assert!(whole == key(Some(&[query, b"&"].concat())));
    assert!(whole == key(Some(&[b"&", query].concat())));
}

/// Any date that is one can be written and read again.
pub fn http_date(text: &[u8]) {
    let now = moment();
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let Some(date) = date::parse(&value, now) else { return };
    let written = HeaderValue::from_str(&httpdate::fmt_http_date(date)).expect("a value");
    assert_eq!(date::parse(&written, now), Some(date));
    let lower = HeaderValue::from_bytes(&text.to_ascii_lowercase()).expect("a value");
    assert_eq!(date::parse(&lower, now), Some(date));
}

/// A whole head: whether it may be stored, for how long, and with which words.
pub fn head(status: u16, text: &[u8]) {
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(at) = memchr::memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let received = moment();
    let asked = HeaderMap::new();
    let request = RequestFacts { method: &Method::GET, headers: &asked };
    let response = ResponseFacts { status, headers: &headers, own_control: None, received };
    let route = RouteCache::default();
    let decision = terms(request, response, &route);
    let control = Policy::of(&headers, None).control;
    assert!(decision.is_err() || !control.no_store || control.must_understand);
    assert!(decision.is_err() || !status.is_informational());
    let _ = freshness::initial_age(&headers, received, Duration::ZERO);
}
