//! How long a response is fresh, and how old it is (RFC 9111 §4.2).

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::date;
use super::policy::Policy;
use crate::config::model::RouteCache;

/// RFC 9111 §1.2.2: ages saturate here.
const SECONDS_MAX: u64 = 1 << 31;
/// The share of the time since the last change that is taken as the lifetime where nothing gives
/// one (RFC 9111 §4.2.2), and the most that it may be.
const HEURISTIC_DIVISOR: u32 = 10;
const HEURISTIC_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a freshness lifetime comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeSource {
    SharedMaxAge,
    MaxAge,
    Expires,
    /// `no-cache` without a lifetime: it is asked for each time.
    NoCache,
    /// The route's `ttl`.
    Ttl,
    /// The route's `ttl_force`.
    TtlForce,
    /// The route's `status_ttl`.
    StatusTtl,
    Heuristic,
}

impl LifetimeSource {
    /// The directive or field, with the rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SharedMaxAge => "s-maxage (RFC 9111 §5.2.2.10)",
            Self::MaxAge => "max-age (RFC 9111 §5.2.2.1)",
            Self::Expires => "Expires (RFC 9111 §5.3)",
            Self::NoCache => "no-cache (RFC 9111 §5.2.2.4)",
            Self::Ttl => "the route's ttl",
            Self::TtlForce => "the route's ttl_force",
            Self::StatusTtl => "the route's status_ttl",
            Self::Heuristic => "a tenth of the time since Last-Modified (RFC 9111 §4.2.2)",
        }
    }

    /// Whether the response itself gives it.
    pub fn is_explicit(self) -> bool {
        matches!(self, Self::SharedMaxAge | Self::MaxAge | Self::Expires | Self::NoCache)
    }
}

type Lifetime = (Duration, LifetimeSource);

/// The lifetime that a shared cache gives a response, if the response or the route gives one.
pub fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    policy: &Policy,
    received: SystemTime,
    route: &RouteCache,
) -> Option<Lifetime> {
    explicit(status, headers, policy, received)
        .or_else(|| configured(status, route))
        .or_else(|| heuristic(status, headers, policy, received).filter(|_| route.heuristic))
}

/// What the response says, the strongest first. A targeted field stands in for `Expires`, too
/// (RFC 9213 §2.1).
fn explicit(
    status: StatusCode,
    headers: &HeaderMap,
    policy: &Policy,
    received: SystemTime,
) -> Option<Lifetime> {
    if let Some(seconds) = policy.control.s_maxage {
        return Some((Duration::from_secs(seconds), LifetimeSource::SharedMaxAge));
    }
    if let Some(seconds) = policy.control.max_age {
        return Some((Duration::from_secs(seconds), LifetimeSource::MaxAge));
    }
    if headers.contains_key(EXPIRES) && !policy.field.is_targeted() {
        let made = date::single(headers, &DATE, received).unwrap_or(received);
        // RFC 9111 §5.3: what is no date, `0` above all, has expired.
        let lifetime = date::single(headers, &EXPIRES, received)
            .and_then(|expires| expires.duration_since(made).ok())
            .unwrap_or(Duration::ZERO);
        return Some((lifetime, LifetimeSource::Expires));
    }
    // Without a lifetime a validator still makes revalidation possible, for the codes that may be
    // stored without one (RFC 9111 §3).
    let may_be_kept = policy.control.no_cache.is_whole() && is_kept_by_default(status, policy);
    may_be_kept.then_some((Duration::ZERO, LifetimeSource::NoCache))
}

fn configured(status: StatusCode, route: &RouteCache) -> Option<Lifetime> {
    let ttl = route.ttl.filter(|_| takes_ttl(status));
    let ttl = ttl.map(|ttl| (ttl, LifetimeSource::Ttl));
    ttl.or_else(|| {
        let known = route.status_ttl.iter().find(|(code, _)| *code == status.as_u16())?;
        Some((known.1, LifetimeSource::StatusTtl))
    })
}

fn heuristic(
    status: StatusCode,
    headers: &HeaderMap,
    policy: &Policy,
    received: SystemTime,
) -> Option<Lifetime> {
    if !is_kept_by_default(status, policy) {
        return None;
    }
    let made = date::single(headers, &DATE, received).unwrap_or(received);
    let modified = date::single(headers, &LAST_MODIFIED, received)?;
    let unchanged = made.duration_since(modified).ok()?;
    Some(((unchanged / HEURISTIC_DIVISOR).min(HEURISTIC_MAX), LifetimeSource::Heuristic))
}

/// Whether a response may be stored that gives no lifetime.
fn is_kept_by_default(status: StatusCode, policy: &Policy) -> bool {
    is_heuristically_cacheable(status) || policy.control.public
}

/// The codes that a route's `ttl` and `ttl_force` cover.
pub fn takes_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// RFC 9110 §15.1, without 206, which is not stored.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The age of a response when it was received (RFC 9111 §4.2.3): the apparent age by its Date, or
/// its Age and the time that the exchange took, whichever is more.
pub fn initial_age(headers: &HeaderMap, received: SystemTime, delay: Duration) -> Duration {
    let apparent = date::single(headers, &DATE, received)
        .and_then(|date| received.duration_since(date).ok())
        .unwrap_or(Duration::ZERO);
    let stated = Duration::from_secs(headers.get(AGE).map_or(0, age_value));
    // Date has a resolution of a second, and so has the apparent age.
    let apparent = Duration::from_secs(apparent.as_secs());
    apparent.max(stated + delay)
}

/// The first member of an Age field; what is no number is no age.
fn age_value(value: &HeaderValue) -> u64 {
    let first = value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
    let first = first.trim_ascii();
    if first.is_empty() || !first.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    std::str::from_utf8(first)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(SECONDS_MAX)
        .min(SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn received() -> SystemTime {
        httpdate::parse_http_date("Sun, 06 Nov 1994 08:50:37 GMT").expect("a date")
    }

    fn of(
        status: u16,
        fields: &[(HeaderName, &'static str)],
        route: &RouteCache,
    ) -> Option<Lifetime> {
        let headers = headers(fields);
        let status = StatusCode::from_u16(status).expect("a status");
        lifetime(status, &headers, &Policy::of(&headers, None), received(), route)
    }

    fn seconds(fields: &[(HeaderName, &'static str)], ttl: Option<u64>) -> Option<u64> {
        let route = RouteCache { ttl: ttl.map(Duration::from_secs), ..RouteCache::default() };
        of(200, fields, &route).map(|(lifetime, _)| lifetime.as_secs())
    }

    const CC: HeaderName = http::header::CACHE_CONTROL;

    #[test]
    fn s_maxage_beats_max_age_beats_expires_beats_the_route() {
        let expires = (EXPIRES, "Sun, 06 Nov 1994 08:51:37 GMT");
        let date = (DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(seconds(&[(CC, "max-age=5, s-maxage=9"), expires.clone()], None), Some(9));
        assert_eq!(seconds(&[(CC, "max-age=5"), expires.clone()], None), Some(5));
        assert_eq!(seconds(&[expires.clone(), date], Some(7)), Some(120));
        assert_eq!(seconds(&[expires], Some(7)), Some(60));
        assert_eq!(seconds(&[], Some(7)), Some(7));
        assert_eq!(seconds(&[], None), None);
    }

    #[test]
    fn expires_in_every_legal_format_counts_and_anything_else_has_expired() {
        for (value, lifetime) in [
            ("Sun, 06 Nov 1994 08:51:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:51:37 GMT", 60),
            ("Sun Nov  6 08:51:37 1994", 60),
            ("0", 0),
            ("-1", 0),
            ("", 0),
            ("tomorrow", 0),
            ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
        ] {
            assert_eq!(seconds(&[(EXPIRES, value)], None), Some(lifetime), "{value}");
        }
    }

    #[test]
    fn an_expires_that_stands_twice_has_expired() {
        let expires = (EXPIRES, "Sun, 06 Nov 1994 08:51:37 GMT");
        let mut twice = headers(std::slice::from_ref(&expires));
        twice.append(EXPIRES, HeaderValue::from_static(expires.1));
        let result = lifetime(
            StatusCode::OK,
            &twice,
            &Policy::default(),
            received(),
            &RouteCache::default(),
        );
        assert_eq!(result, Some((Duration::ZERO, LifetimeSource::Expires)));
    }

    #[test]
    fn a_targeted_field_stands_in_for_expires() {
        let expires = (EXPIRES, "Sun, 06 Nov 1994 08:51:37 GMT");
        let targeted = |value| (HeaderName::from_static("cdn-cache-control"), value);
        assert_eq!(seconds(&[expires.clone(), targeted("max-age=5")], None), Some(5));
        assert_eq!(seconds(&[expires.clone(), targeted("must-revalidate")], None), None);
        assert_eq!(seconds(&[expires, targeted("&")], None), Some(60));
    }

    #[test]
    fn the_age_on_arrival_is_the_larger_of_date_and_age() {
        let age = |fields: &[(HeaderName, &'static str)], delay| {
            initial_age(&headers(fields), received(), Duration::from_secs(delay)).as_secs()
        };
        let date = (DATE, "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(age(std::slice::from_ref(&date), 0), 30);
        assert_eq!(age(&[date.clone(), (AGE, "50")], 2), 52);
        assert_eq!(age(&[date, (AGE, "20")], 2), 30);
        assert_eq!(age(&[(AGE, "20, 99")], 0), 20);
        assert_eq!(age(&[(AGE, "-20")], 0), 0);
        assert_eq!(age(&[(AGE, "20.5")], 0), 0);
        assert_eq!(age(&[(AGE, "99999999999999999999")], 0), SECONDS_MAX);
    }

    #[test]
    fn a_configured_lifetime_covers_only_its_codes() {
        let route = RouteCache {
            ttl: Some(Duration::from_secs(9)),
            status_ttl: vec![(302, Duration::from_secs(3)), (404, Duration::from_secs(4))],
            ..RouteCache::default()
        };
        for (status, expected) in [(200, Some(9)), (308, Some(9)), (404, Some(4)), (302, Some(3))] {
            assert_eq!(of(status, &[], &route).map(|it| it.0.as_secs()), expected, "{status}");
        }
        assert_eq!(of(410, &[], &route), None);
        assert_eq!(of(404, &[(CC, "max-age=1")], &route).map(|it| it.0.as_secs()), Some(1));
    }

    #[test]
    fn a_guess_is_a_tenth_of_the_time_without_a_change_for_the_codes_of_rfc_9110_15_1() {
        let route = RouteCache { heuristic: true, ..RouteCache::default() };
        let date = (DATE, "Sun, 06 Nov 1994 08:50:37 GMT");
        let modified = (LAST_MODIFIED, "Sun, 06 Nov 1994 08:48:57 GMT");
        let fields = [date.clone(), modified.clone()];
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            let expected = (Duration::from_secs(10), LifetimeSource::Heuristic);
            assert_eq!(of(status, &fields, &route), Some(expected), "{status}");
        }
        for status in [201, 202, 302, 307, 403, 500, 502, 503, 599] {
            assert_eq!(of(status, &fields, &route), None, "{status}");
            let public = [date.clone(), modified.clone(), (CC, "public")];
            assert!(of(status, &public, &route).is_some(), "{status}");
        }
        assert_eq!(of(200, &fields, &RouteCache::default()), None);
        assert_eq!(of(200, std::slice::from_ref(&date), &route), None);
        let long_ago = [date, (LAST_MODIFIED, "Tue, 06 Nov 1984 08:48:57 GMT")];
        assert_eq!(of(200, &long_ago, &route).map(|it| it.0), Some(HEURISTIC_MAX));
    }
}
