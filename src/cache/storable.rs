//! Whether a response may be stored by a shared cache (RFC 9111 §3), and on which terms.

use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, ETAG, LAST_MODIFIED, SET_COOKIE, VARY};
use http::{HeaderMap, Method, StatusCode};

use super::control::{Qualified, ResponseControl};
use super::freshness::{self, LifetimeSource};
use crate::config::model::RouteCache;

/// The facts about a request that decide storing.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// The terms on which a response is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub lifetime: Duration,
    pub source: LifetimeSource,
    /// Stored, but never used without asking the origin.
    pub revalidate_always: bool,
    /// Never used stale, whatever else is said.
    pub must_revalidate: bool,
    /// May answer authorized requests (RFC 9111 §3.5).
    pub for_authorized: bool,
    /// How long past its end it answers while it is fetched anew (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// How long past its end it stands in for an error (RFC 5861 §4); `None` where nothing says.
    pub stale_if_error: Option<Duration>,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Method,
    Status,
    NoStore,
    Private,
    Authorization,
    SetCookie,
    VaryAny,
    /// Nothing says how long it would be fresh.
    NoLifetime,
    /// It would always be stale, and nothing could validate it.
    NoValidator,
    /// The body is larger than `object_max`, or the cache has no room.
    TooLarge,
}

impl Refusal {
    /// The word in `Cache-Status: …; detail=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::VaryAny => "vary-any",
            Self::NoLifetime => "no-lifetime",
            Self::NoValidator => "no-validator",
            Self::TooLarge => "too-large",
        }
    }
}

/// Decides whether the response to `request` may be stored.
pub fn terms(
    request: RequestFacts<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    received: SystemTime,
    route: &RouteCache,
) -> Result<Terms, Refusal> {
    if *request.method != Method::GET {
        return Err(Refusal::Method);
    }
    if status.is_informational() || is_for_one_request(status) {
        return Err(Refusal::Status);
    }
    let control = ResponseControl::of(headers);
    if control.no_store {
        return Err(Refusal::NoStore);
    }
    if control.private != Qualified::Absent {
        return Err(Refusal::Private);
    }
    // RFC 9111 §3.5.
    let for_authorized = control.public || control.must_revalidate || control.s_maxage.is_some();
    if request.headers.contains_key(AUTHORIZATION) && !for_authorized {
        return Err(Refusal::Authorization);
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(Refusal::SetCookie);
    }
    if headers.get_all(VARY).iter().any(|value| value.as_bytes().contains(&b'*')) {
        return Err(Refusal::VaryAny);
    }
    let (lifetime, source) = freshness::lifetime(status, headers, &control, received, route.ttl)
        .or_else(|| {
            // Without a lifetime a validator still makes revalidation possible, where the
            // response asks for it.
            (control.no_cache != Qualified::Absent)
                .then_some((Duration::ZERO, LifetimeSource::MaxAge))
        })
        .ok_or(Refusal::NoLifetime)?;
    let revalidate_always = control.no_cache != Qualified::Absent;
    let has_validator = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    if (revalidate_always || lifetime.is_zero()) && !has_validator {
        return Err(Refusal::NoValidator);
    }
    Ok(Terms {
        lifetime,
        source,
        revalidate_always,
        // RFC 9111 §5.2.2.10: s-maxage implies proxy-revalidate.
        must_revalidate: control.must_revalidate
            || control.proxy_revalidate
            || control.s_maxage.is_some(),
        for_authorized,
        stale_while_revalidate: control
            .stale_while_revalidate
            .map(Duration::from_secs)
            .or(route.stale_while_revalidate)
            .unwrap_or_default(),
        stale_if_error: control.stale_if_error.map(Duration::from_secs).or(route.stale_if_error),
    })
}

/// Parts of a representation, and answers to the conditions or ranges of a request, say nothing to
/// requests without them, however fresh they claim to be.
fn is_for_one_request(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, RANGE};
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn decide(
        request: &[(HeaderName, &'static str)],
        status: u16,
        response: &[(HeaderName, &'static str)],
        ttl: Option<u64>,
    ) -> Result<Terms, Refusal> {
        let map = |fields: &[(HeaderName, &'static str)]| -> HeaderMap {
            fields
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect()
        };
        terms(
            RequestFacts { method: &Method::GET, headers: &map(request) },
            StatusCode::from_u16(status).expect("a status"),
            &map(response),
            SystemTime::UNIX_EPOCH,
            &RouteCache { ttl: ttl.map(Duration::from_secs), ..RouteCache::default() },
        )
    }

    fn control(value: &'static str) -> (HeaderName, &'static str) {
        (CACHE_CONTROL, value)
    }

    #[test]
    fn any_final_status_with_explicit_freshness_is_stored() {
        for status in [200, 203, 301, 302, 404, 410, 500, 503, 299] {
            assert!(decide(&[], status, &[control("max-age=9")], None).is_ok(), "{status}");
        }
        for status in [206, 304, 412, 416] {
            assert_eq!(decide(&[], status, &[control("max-age=9")], None), Err(Refusal::Status));
        }
    }

    #[test]
    fn what_is_private_or_not_to_be_stored_is_refused() {
        let cases = [
            ("no-store, max-age=9", Refusal::NoStore),
            ("private, max-age=9", Refusal::Private),
            ("private=\"x-user\", max-age=9", Refusal::Private),
        ];
        for (value, refusal) in cases {
            assert_eq!(decide(&[], 200, &[control(value)], None), Err(refusal), "{value}");
        }
        assert_eq!(
            decide(&[], 200, &[control("max-age=9"), (SET_COOKIE, "a=b")], None),
            Err(Refusal::SetCookie)
        );
        assert_eq!(
            decide(&[], 200, &[control("max-age=9"), (VARY, "Accept, *")], None),
            Err(Refusal::VaryAny)
        );
    }

    #[test]
    fn answers_to_authorized_requests_need_permission() {
        let authorized = [(AUTHORIZATION, "Basic x")];
        assert_eq!(
            decide(&authorized, 200, &[control("max-age=9")], None),
            Err(Refusal::Authorization)
        );
        for value in ["public, max-age=9", "must-revalidate, max-age=9", "s-maxage=9"] {
            assert!(decide(&authorized, 200, &[control(value)], None).is_ok(), "{value}");
        }
    }

    #[test]
    fn without_a_lifetime_nothing_is_stored() {
        assert_eq!(decide(&[], 200, &[], None), Err(Refusal::NoLifetime));
        assert_eq!(decide(&[], 200, &[(ETAG, "\"a\"")], None), Err(Refusal::NoLifetime));
        assert_eq!(decide(&[], 200, &[control("public")], None), Err(Refusal::NoLifetime));
    }

    #[test]
    fn what_must_always_be_asked_for_is_stored_only_with_a_validator() {
        let terms = decide(&[], 200, &[control("no-cache"), (ETAG, "\"a\"")], None);
        assert!(terms.is_ok_and(|terms| terms.revalidate_always));
        assert_eq!(decide(&[], 200, &[control("no-cache")], None), Err(Refusal::NoValidator));
        assert_eq!(decide(&[], 200, &[control("max-age=0")], None), Err(Refusal::NoValidator));
    }

    #[test]
    fn s_maxage_forbids_stale_use() {
        assert!(decide(&[], 200, &[control("s-maxage=9")], None).is_ok_and(|t| t.must_revalidate));
        assert!(decide(&[], 200, &[control("max-age=9")], None).is_ok_and(|t| !t.must_revalidate));
    }

    #[test]
    fn a_response_says_how_long_it_may_be_stale_and_the_route_where_it_does_not() {
        let route = RouteCache {
            stale_while_revalidate: Some(Duration::from_secs(5)),
            stale_if_error: Some(Duration::from_secs(6)),
            ..RouteCache::default()
        };
        for (value, expected) in [
            ("max-age=9", (5, Some(6))),
            ("max-age=9, stale-while-revalidate=0, stale-if-error=0", (0, Some(0))),
            ("max-age=9, stale-while-revalidate=7, stale-if-error=8", (7, Some(8))),
        ] {
            let headers: HeaderMap =
                [(CACHE_CONTROL, HeaderValue::from_static(value))].into_iter().collect();
            let facts = RequestFacts { method: &Method::GET, headers: &HeaderMap::new() };
            let terms =
                terms(facts, StatusCode::OK, &headers, SystemTime::UNIX_EPOCH, &route).unwrap();
            let seconds = (
                terms.stale_while_revalidate.as_secs(),
                terms.stale_if_error.map(|limit| limit.as_secs()),
            );
            assert_eq!(seconds, expected, "{value}");
        }
    }

    #[test]
    fn a_range_in_the_request_does_not_make_a_full_answer_unstorable() {
        assert!(decide(&[(RANGE, "bytes=0-1")], 200, &[control("max-age=9")], None).is_ok());
    }
}
