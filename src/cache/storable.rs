//! Whether a response may be stored by a shared cache (RFC 9111 §3), and on which terms.

use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, ETAG, LAST_MODIFIED, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::control::ResponseControl;
use super::freshness::{self, LifetimeSource};
use super::policy::{Policy, PolicyField};
use super::vary;
use crate::config::model::{RouteCache, SetCookie};

/// The facts about a request that decide storing.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// The facts about a response that do.
#[derive(Debug, Clone, Copy)]
pub struct ResponseFacts<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// What `Headwater-Cache-Control` said, where it is no longer among the fields.
    pub own_control: Option<&'a HeaderValue>,
    pub received: SystemTime,
}

/// The terms on which a response is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub lifetime: Duration,
    pub source: LifetimeSource,
    /// The field that decided.
    pub field: PolicyField,
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
    /// `must-understand`, with a status that is not.
    NotUnderstood,
    /// Nothing says how long it would be fresh.
    NoLifetime,
    /// It would always be stale, and nothing could validate it.
    NoValidator,
    /// It could not be purged by all of its tags.
    TooManyTags,
    /// The body is larger than `object_max`, or the cache has no room.
    TooLarge,
}

impl Refusal {
    /// The rule behind it.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Method => "only answers to GET are stored (RFC 9111 §3)",
            Self::Status => {
                "a part, or an answer to the conditions or ranges of one request (RFC 9110 §15)"
            }
            Self::NoStore => "no-store (RFC 9111 §5.2.2.5)",
            Self::Private => "private, in a shared cache (RFC 9111 §5.2.2.7)",
            Self::Authorization => {
                "the request has Authorization, and the response has none of public, \
                 must-revalidate and s-maxage (RFC 9111 §3.5)"
            }
            Self::SetCookie => "it sets a cookie, and the route's set_cookie is `bypass`",
            Self::VaryAny => "Vary: * (RFC 9111 §4.1)",
            Self::NotUnderstood => {
                "must-understand, with a status whose rules are not known (RFC 9111 §5.2.2.3)"
            }
            Self::NoLifetime => "nothing says how long it is fresh (RFC 9111 §4.2.1)",
            Self::NoValidator => {
                "it would never be fresh, and has neither ETag nor Last-Modified to confirm it by \
                 (RFC 9111 §4.3)"
            }
            Self::TooManyTags => "it has more tags than it could be purged by",
            Self::TooLarge => "its body is larger than object_max, or there is no room",
        }
    }

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
            Self::NotUnderstood => "not-understood",
            Self::NoLifetime => "no-lifetime",
            Self::NoValidator => "no-validator",
            Self::TooManyTags => "too-many-tags",
            Self::TooLarge => "too-large",
        }
    }
}

/// Decides whether the response to `request` may be stored.
pub fn terms(
    request: RequestFacts<'_>,
    response: ResponseFacts<'_>,
    route: &RouteCache,
) -> Result<Terms, Refusal> {
    let ResponseFacts { status, headers, own_control, received } = response;
    if *request.method != Method::GET {
        return Err(Refusal::Method);
    }
    if status.is_informational() || is_for_one_request(status) {
        return Err(Refusal::Status);
    }
    let policy = Policy::of(headers, own_control);
    let control = &policy.control;
    if let Some(refusal) = forbidden(status, control) {
        return Err(refusal);
    }
    // RFC 9111 §3.5.
    let for_authorized = control.public || control.must_revalidate || control.s_maxage.is_some();
    let is_authorized = request.headers.contains_key(AUTHORIZATION);
    if is_authorized && !for_authorized {
        return Err(Refusal::Authorization);
    }
    let has_cookie = headers.contains_key(SET_COOKIE)
        && !control.fields_to_omit().any(|name| *name == SET_COOKIE);
    if has_cookie && route.set_cookie == SetCookie::Bypass {
        return Err(Refusal::SetCookie);
    }
    if vary::is_any(headers) {
        return Err(Refusal::VaryAny);
    }
    let may_force = freshness::takes_ttl(status)
        && !is_authorized
        && !(has_cookie && route.set_cookie == SetCookie::Store);
    let forced = route.ttl_force.filter(|_| may_force);
    let (lifetime, source) = forced
        .map(|ttl| (ttl, LifetimeSource::TtlForce))
        .or_else(|| freshness::lifetime(status, headers, &policy, received, route))
        .ok_or(Refusal::NoLifetime)?;
    let terms = Terms {
        lifetime,
        source,
        field: policy.field,
        revalidate_always: control.no_cache.is_whole() && forced.is_none(),
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
    };
    let has_validator = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    if !has_validator && !terms.are_ever_of_use() {
        return Err(Refusal::NoValidator);
    }
    Ok(terms)
}

impl Terms {
    /// Whether nothing forbids a stale answer: `must-revalidate`, `proxy-revalidate`, `s-maxage` and
    /// `no-cache` do (RFC 9111 §4.2.4).
    pub fn may_be_stale(&self) -> bool {
        !self.must_revalidate && !self.revalidate_always
    }

    /// Whether a response without validators can answer anything.
    fn are_ever_of_use(&self) -> bool {
        let is_fresh = !self.lifetime.is_zero() && !self.revalidate_always;
        let is_served_stale = !self.stale_while_revalidate.is_zero()
            || self.stale_if_error.is_some_and(|limit| !limit.is_zero());
        is_fresh || (is_served_stale && self.may_be_stale())
    }
}

/// What the response itself rules out.
fn forbidden(status: StatusCode, control: &ResponseControl) -> Option<Refusal> {
    if control.must_understand && !is_understood(status) {
        return Some(Refusal::NotUnderstood);
    }
    // RFC 9111 §5.2.2.3: who understands the status ignores the no-store for those who do not.
    if control.no_store && !control.must_understand {
        return Some(Refusal::NoStore);
    }
    control.private.is_whole().then_some(Refusal::Private)
}

/// Whether the requirements of a status on caches are known here: all codes of RFC 9110 that are
/// final and not bound to the conditions of a request.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308 | 400..=411 | 413..=415 | 417 | 421 | 422 | 426
            | 500..=505
    )
}

/// The fields that are not stored, or are for one client only.
pub fn omitted(
    headers: &HeaderMap,
    own_control: Option<&HeaderValue>,
    route: &RouteCache,
) -> Vec<HeaderName> {
    let policy = Policy::of(headers, own_control);
    let mut names: Vec<_> = policy.control.fields_to_omit().cloned().collect();
    if route.set_cookie == SetCookie::Strip {
        names.push(SET_COOKIE);
    }
    names
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
    use http::header::{CACHE_CONTROL, RANGE, VARY};
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn decide(
        request: &[(HeaderName, &'static str)],
        status: u16,
        response: &[(HeaderName, &'static str)],
        route: &RouteCache,
    ) -> Result<Terms, Refusal> {
        let map = |fields: &[(HeaderName, &'static str)]| -> HeaderMap {
            fields
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect()
        };
        let response = ResponseFacts {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: &map(response),
            own_control: None,
            received: SystemTime::UNIX_EPOCH,
        };
        terms(RequestFacts { method: &Method::GET, headers: &map(request) }, response, route)
    }

    fn plain() -> RouteCache {
        RouteCache::default()
    }

    fn control(value: &'static str) -> (HeaderName, &'static str) {
        (CACHE_CONTROL, value)
    }

    #[test]
    fn any_final_status_with_explicit_freshness_is_stored() {
        for status in [200, 203, 301, 302, 404, 410, 500, 503, 299] {
            assert!(decide(&[], status, &[control("max-age=9")], &plain()).is_ok(), "{status}");
        }
        for status in [206, 304, 412, 416] {
            assert_eq!(
                decide(&[], status, &[control("max-age=9")], &plain()),
                Err(Refusal::Status)
            );
        }
    }

    #[test]
    fn what_is_private_or_not_to_be_stored_is_refused() {
        let cases = [
            ("no-store, max-age=9", Refusal::NoStore),
            ("private, max-age=9", Refusal::Private),
            ("private=\"a b\", max-age=9", Refusal::Private),
        ];
        for (value, refusal) in cases {
            assert_eq!(decide(&[], 200, &[control(value)], &plain()), Err(refusal), "{value}");
        }
        assert_eq!(
            decide(&[], 200, &[control("max-age=9"), (SET_COOKIE, "a=b")], &plain()),
            Err(Refusal::SetCookie)
        );
        assert_eq!(
            decide(&[], 200, &[control("max-age=9"), (VARY, "Accept, *")], &plain()),
            Err(Refusal::VaryAny)
        );
        // What cannot be read may be any field.
        assert_eq!(
            decide(&[], 200, &[control("max-age=9"), (VARY, "Cook ie")], &plain()),
            Err(Refusal::VaryAny)
        );
    }

    #[test]
    fn answers_to_authorized_requests_need_permission() {
        let authorized = [(AUTHORIZATION, "Basic x")];
        assert_eq!(
            decide(&authorized, 200, &[control("max-age=9")], &plain()),
            Err(Refusal::Authorization)
        );
        for value in ["public, max-age=9", "must-revalidate, max-age=9", "s-maxage=9"] {
            assert!(decide(&authorized, 200, &[control(value)], &plain()).is_ok(), "{value}");
        }
    }

    #[test]
    fn without_a_lifetime_nothing_is_stored() {
        assert_eq!(decide(&[], 200, &[], &plain()), Err(Refusal::NoLifetime));
        assert_eq!(decide(&[], 200, &[(ETAG, "\"a\"")], &plain()), Err(Refusal::NoLifetime));
        assert_eq!(decide(&[], 200, &[control("public")], &plain()), Err(Refusal::NoLifetime));
    }

    #[test]
    fn what_must_always_be_asked_for_is_stored_only_with_a_validator() {
        let terms = decide(&[], 200, &[control("no-cache"), (ETAG, "\"a\"")], &plain());
        assert!(terms.is_ok_and(|terms| terms.revalidate_always));
        assert_eq!(decide(&[], 200, &[control("no-cache")], &plain()), Err(Refusal::NoValidator));
        assert_eq!(decide(&[], 200, &[control("max-age=0")], &plain()), Err(Refusal::NoValidator));
    }

    #[test]
    fn s_maxage_forbids_stale_use() {
        assert!(
            decide(&[], 200, &[control("s-maxage=9")], &plain()).is_ok_and(|t| t.must_revalidate)
        );
        assert!(
            decide(&[], 200, &[control("max-age=9")], &plain()).is_ok_and(|t| !t.must_revalidate)
        );
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
            let terms = decide(&[], 200, &[control(value)], &route).unwrap();
            let seconds = (
                terms.stale_while_revalidate.as_secs(),
                terms.stale_if_error.map(|limit| limit.as_secs()),
            );
            assert_eq!(seconds, expected, "{value}");
        }
    }

    #[test]
    fn a_range_in_the_request_does_not_make_a_full_answer_unstorable() {
        assert!(decide(&[(RANGE, "bytes=0-1")], 200, &[control("max-age=9")], &plain()).is_ok());
    }

    #[test]
    fn fields_that_are_named_are_left_out_and_the_rest_is_stored() {
        let named = "private=\"x-user, set-cookie\", no-cache=\"x-b\", max-age=9";
        let response = [control(named), (SET_COOKIE, "a=b")];
        assert!(decide(&[], 200, &response, &plain()).is_ok_and(|it| !it.revalidate_always));
        let headers: HeaderMap =
            [(CACHE_CONTROL, HeaderValue::from_static(named))].into_iter().collect();
        let names: Vec<_> =
            omitted(&headers, None, &plain()).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["x-user", "set-cookie", "x-b"]);
    }

    #[test]
    fn must_understand_replaces_no_store_for_codes_that_are() {
        let both = "no-store, must-understand, max-age=9";
        assert!(decide(&[], 200, &[control(both)], &plain()).is_ok());
        assert_eq!(
            decide(&[], 299, &[control("must-understand, max-age=9")], &plain()),
            Err(Refusal::NotUnderstood)
        );
    }

    #[test]
    fn a_forced_lifetime_wins_over_the_response_but_not_over_what_forbids_sharing() {
        let route = RouteCache { ttl_force: Some(Duration::from_secs(7)), ..plain() };
        for value in ["no-cache", "max-age=0", "max-age=60, must-revalidate", "no-cache=\"x\""] {
            let terms = decide(&[], 200, &[control(value)], &route).expect(value);
            assert_eq!((terms.lifetime.as_secs(), terms.revalidate_always), (7, false), "{value}");
        }
        for (value, refusal) in [("private", Refusal::Private), ("no-store", Refusal::NoStore)] {
            assert_eq!(decide(&[], 200, &[control(value)], &route), Err(refusal));
        }
        assert_eq!(decide(&[], 200, &[(VARY, "*")], &route), Err(Refusal::VaryAny));
        assert_eq!(decide(&[], 200, &[(SET_COOKIE, "a=b")], &route), Err(Refusal::SetCookie));
        assert_eq!(decide(&[], 404, &[], &route), Err(Refusal::NoLifetime));
        let authorized = [(AUTHORIZATION, "Basic x")];
        let shared = decide(&authorized, 200, &[control("public, max-age=9")], &route);
        assert_eq!(shared.map(|terms| terms.lifetime.as_secs()), Ok(9));
    }

    #[test]
    fn cookies_keep_a_response_out_unless_the_route_says_otherwise() {
        let response = [control("max-age=9"), (SET_COOKIE, "a=b")];
        for (set_cookie, stored) in
            [(SetCookie::Bypass, false), (SetCookie::Strip, true), (SetCookie::Store, true)]
        {
            let route = RouteCache { set_cookie, ..plain() };
            assert_eq!(decide(&[], 200, &response, &route).is_ok(), stored, "{set_cookie:?}");
        }
        let strips = RouteCache { set_cookie: SetCookie::Strip, ..plain() };
        assert_eq!(omitted(&HeaderMap::new(), None, &strips), [SET_COOKIE]);
        let stores = RouteCache {
            set_cookie: SetCookie::Store,
            ttl_force: Some(Duration::from_secs(7)),
            ..plain()
        };
        assert_eq!(decide(&[], 200, &response, &stores).map(|it| it.lifetime.as_secs()), Ok(9));
    }

    #[test]
    fn what_has_expired_and_has_no_validator_is_kept_where_it_may_be_served_stale() {
        for value in ["max-age=0, stale-while-revalidate=5", "max-age=0, stale-if-error=5"] {
            assert!(decide(&[], 200, &[control(value)], &plain()).is_ok(), "{value}");
        }
        let forbidden = [control("max-age=0, stale-while-revalidate=5, must-revalidate")];
        assert_eq!(decide(&[], 200, &forbidden, &plain()), Err(Refusal::NoValidator));
    }

    #[test]
    fn a_targeted_field_is_obeyed_in_place_of_cache_control() {
        let targeted = |value| (HeaderName::from_static("cdn-cache-control"), value);
        let terms = decide(&[], 200, &[control("no-store"), targeted("max-age=5")], &plain());
        assert_eq!(terms.map(|it| (it.lifetime.as_secs(), it.field)), Ok((5, PolicyField::Cdn)));
        let refused = decide(&[], 200, &[control("max-age=5"), targeted("private")], &plain());
        assert_eq!(refused, Err(Refusal::Private));
    }
}
