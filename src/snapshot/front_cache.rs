//! What a route tells the cache in front of us of its answers: for how long to keep them, and the
//! tags to purge them by.
//!
//! The values are made once. An answer that the front may not keep is told nothing of; one with
//! more tags than the front takes is kept out of it, because it could not be purged.

use http::header::{AUTHORIZATION, CACHE_CONTROL, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::cache::freshness;
use crate::cache::policy::Policy;
use crate::cache::storable::RequestFacts;
use crate::config::model::{self, Front};
use crate::front::cache::{self, TagLimits, TagTally};

const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// `route.front_cache`, compiled.
#[derive(Debug)]
pub struct FrontCache {
    /// Of the field that is for the front.
    control: Option<HeaderValue>,
    /// Of the route itself.
    tags: Option<HeaderValue>,
}

/// An answer has more tags than the front takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyTags;

impl FrontCache {
    pub(super) fn new(spec: &model::FrontCache) -> Self {
        let tags = Some(spec.tags.join(",")).filter(|tags| !tags.is_empty());
        Self {
            control: control(spec).and_then(|text| HeaderValue::try_from(text).ok()),
            tags: tags.and_then(|tags| HeaderValue::try_from(tags).ok()),
        }
    }

    /// Puts on `headers`, those of an answer with this status, what is for the front.
    ///
    /// # Errors
    ///
    /// If the answer has more tags than the front takes. It is kept out of the front's cache.
    pub fn tell(
        &self,
        front: Front,
        request: RequestFacts<'_>,
        status: StatusCode,
        headers: &mut HeaderMap,
    ) -> Result<(), TooManyTags> {
        if !may_be_kept(request, headers) {
            return Ok(());
        }
        let field = cache::control_field(front);
        // As they are written for other caches than Cloudflare's.
        let converted = headers.contains_key(SURROGATE_KEY).then(|| listed(headers)).flatten();
        let mut tally = TagTally::default();
        let theirs = headers.get_all(CACHE_TAG);
        for line in theirs.iter().chain(&converted).chain(&self.tags) {
            tally.add(line.as_bytes());
        }
        if !TagLimits::of(front).hold(&tally) {
            headers.remove(CACHE_TAG);
            headers.insert(field, HeaderValue::from_static("no-store"));
            if !cache::heeds_control_field(front) {
                headers.append(CACHE_CONTROL, HeaderValue::from_static("private"));
            }
            return Err(TooManyTags);
        }
        for line in converted.into_iter().chain(self.tags.clone()) {
            headers.append(CACHE_TAG, line);
        }
        if let Some(control) = self.control.as_ref().filter(|_| takes_lifetime(status)) {
            headers.entry(field).or_insert_with(|| control.clone());
        }
        Ok(())
    }
}

/// Never `s-maxage`: with it Cloudflare does not serve stale answers.
fn control(spec: &model::FrontCache) -> Option<String> {
    let mut text = format!("max-age={}", spec.ttl?.as_secs());
    if let Some(stale) = spec.stale_while_revalidate {
        text.push_str(&format!(", stale-while-revalidate={}", stale.as_secs()));
    }
    if let Some(stale) = spec.stale_if_error {
        text.push_str(&format!(", stale-if-error={}", stale.as_secs()));
    }
    Some(text)
}

/// The statuses of `cache.ttl`, and those in their place: a part, and a confirmation.
fn takes_lifetime(status: StatusCode) -> bool {
    let stands_in = matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
    freshness::takes_ttl(status) || stands_in
}

/// Whether a shared cache that minds no `Vary` may keep an answer, whatever is said of how long
/// (RFC 9111 §3).
fn may_be_kept(request: RequestFacts<'_>, headers: &HeaderMap) -> bool {
    if !matches!(*request.method, Method::GET | Method::HEAD)
        || headers.contains_key(SET_COOKIE)
        || varies_by_user(headers)
    {
        return false;
    }
    let control = Policy::of(headers, None).control;
    if control.no_store || control.private.is_whole() {
        return false;
    }
    let for_authorized = control.public || control.must_revalidate || control.s_maxage.is_some();
    for_authorized || !request.headers.contains_key(AUTHORIZATION)
}

fn varies_by_user(headers: &HeaderMap) -> bool {
    let mut members = headers
        .get_all(VARY)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    members.any(|name| {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        is("*") || is("cookie") || is("authorization")
    })
}

/// The tags of `Surrogate-Key`, which spaces part, as a list.
fn listed(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(SURROGATE_KEY).iter();
    let words = lines.flat_map(|line| line.as_bytes().split(u8::is_ascii_whitespace));
    let tags: Vec<&[u8]> = words.filter(|tag| !tag.is_empty()).collect();
    HeaderValue::from_bytes(&tags.join(b",".as_slice())).ok().filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FIELD: &str = "cloudflare-cdn-cache-control";

    fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn told_by(
        front: Front,
        (method, request): (Method, &HeaderMap),
        status: u16,
        answer: &[(&'static str, &str)],
    ) -> (HeaderMap, Result<(), TooManyTags>) {
        let cache = FrontCache::new(&model::FrontCache {
            ttl: Some(Duration::from_secs(60)),
            stale_while_revalidate: Some(Duration::from_secs(10)),
            stale_if_error: Some(Duration::from_secs(600)),
            tags: vec!["a".to_owned(), "b".to_owned()],
        });
        let mut headers = fields(answer);
        let request = RequestFacts { method: &method, headers: request };
        let status = StatusCode::from_u16(status).unwrap();
        let result = cache.tell(front, request, status, &mut headers);
        (headers, result)
    }

    fn told(status: u16, answer: &[(&'static str, &str)]) -> HeaderMap {
        let (headers, result) =
            told_by(Front::Cloudflare, (Method::GET, &HeaderMap::new()), status, answer);
        assert_eq!(result, Ok(()));
        headers
    }

    fn tags(headers: &HeaderMap) -> Vec<&str> {
        headers.get_all(CACHE_TAG).iter().map(|line| line.to_str().unwrap()).collect()
    }

    #[test]
    fn a_front_is_told_how_long_and_by_which_tags() {
        for status in [200, 203, 204, 206, 300, 301, 304, 308] {
            let headers = told(status, &[("cache-control", "max-age=5")]);
            let control = "max-age=60, stale-while-revalidate=10, stale-if-error=600";
            assert_eq!(headers[FIELD], control, "{status}");
            assert_eq!(tags(&headers), ["a,b"]);
            assert_eq!(headers[CACHE_CONTROL], "max-age=5");
        }
        // How long others are kept is not ours to say; that they can be purged is.
        for status in [302, 404, 410, 500] {
            let headers = told(status, &[]);
            assert!(!headers.contains_key(FIELD), "{status}");
            assert_eq!(tags(&headers), ["a,b"]);
        }
    }

    #[test]
    fn tags_of_the_origin_stay_and_are_written_as_the_front_reads_them() {
        let headers = told(200, &[("cache-tag", "x, y"), ("surrogate-key", "z  w")]);
        assert_eq!(tags(&headers), ["x, y", "z,w", "a,b"]);
    }

    #[test]
    fn what_is_not_for_everybody_is_told_nothing_of() {
        for answer in [
            ("cache-control", "private"),
            ("cache-control", "max-age=9, no-store"),
            ("cdn-cache-control", "no-store"),
            ("surrogate-control", "no-store"),
            ("set-cookie", "a=b"),
            ("vary", "*"),
            ("vary", "Accept-Encoding, Cookie"),
            ("vary", "authorization"),
        ] {
            let headers = told(200, &[answer]);
            assert!(!headers.contains_key(FIELD) && tags(&headers).is_empty(), "{answer:?}");
        }
        for answer in [
            ("cache-control", "no-cache"),
            ("cache-control", "max-age=0"),
            ("cache-control", "private=\"x-a\""),
            ("vary", "accept-encoding"),
        ] {
            assert!(told(200, &[answer]).contains_key(FIELD), "{answer:?}");
        }
        let authorized = fields(&[("authorization", "Basic eA==")]);
        for (method, request, control, is_told) in [
            (Method::HEAD, HeaderMap::new(), "", true),
            (Method::POST, HeaderMap::new(), "", false),
            (Method::GET, authorized.clone(), "max-age=5", false),
            (Method::GET, authorized, "public", true),
        ] {
            let answer = [("cache-control", control)];
            let (headers, _) = told_by(Front::Cloudflare, (method, &request), 200, &answer);
            assert_eq!(headers.contains_key(FIELD), is_told, "{request:?}, {control}");
        }
    }

    #[test]
    fn what_the_origin_says_to_the_front_itself_stands() {
        let headers = told(200, &[(FIELD, "max-age=1"), ("cdn-cache-control", "max-age=2")]);
        assert_eq!(headers[FIELD], "max-age=1");
        assert_eq!(headers["cdn-cache-control"], "max-age=2");
    }

    #[test]
    fn what_could_not_be_purged_by_all_its_tags_is_kept_out() {
        let long = "x".repeat(257);
        let none = HeaderMap::new();
        let answer = [("cache-tag", long.as_str()), ("cache-control", "max-age=9")];
        let asked = || (Method::GET, &none);
        assert_eq!(told_by(Front::Cloudflare, asked(), 200, &answer).1, Ok(()));
        let (headers, result) = told_by(Front::CloudFront, asked(), 200, &answer);
        assert_eq!(result, Err(TooManyTags));
        assert_eq!(headers["cdn-cache-control"], "no-store");
        let control: Vec<_> = headers.get_all(CACHE_CONTROL).iter().collect();
        assert_eq!(control, ["max-age=9", "private"]);

        let long = "x".repeat(1025);
        let answer =
            [("cache-tag", long.as_str()), ("cache-control", "max-age=9"), (FIELD, "max-age=1")];
        let (headers, result) = told_by(Front::Cloudflare, asked(), 404, &answer);
        assert_eq!(result, Err(TooManyTags));
        assert_eq!(
            (&headers[FIELD], &headers[CACHE_CONTROL]),
            (&"no-store".parse().unwrap(), &"max-age=9".parse().unwrap())
        );
        assert!(tags(&headers).is_empty());
    }
}
