//! How long a response is fresh, and how old it is (RFC 9111 §4.2).

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::control::ResponseControl;

/// RFC 9111 §1.2.2: ages saturate here.
const SECONDS_MAX: u64 = 1 << 31;

/// Where a freshness lifetime comes from, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeSource {
    SharedMaxAge,
    MaxAge,
    Expires,
    /// The route's `ttl`.
    Configured,
}

impl LifetimeSource {
    /// The directive or field, with the rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SharedMaxAge => "s-maxage (RFC 9111 §5.2.2.10)",
            Self::MaxAge => "max-age (RFC 9111 §5.2.2.1)",
            Self::Expires => "Expires (RFC 9111 §5.3)",
            Self::Configured => "the route's ttl",
        }
    }
}

/// The lifetime that a shared cache gives a response, if the response or the route gives one.
pub fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: &ResponseControl,
    received: SystemTime,
    ttl: Option<Duration>,
) -> Option<(Duration, LifetimeSource)> {
    if let Some(seconds) = control.s_maxage {
        return Some((Duration::from_secs(seconds), LifetimeSource::SharedMaxAge));
    }
    if let Some(seconds) = control.max_age {
        return Some((Duration::from_secs(seconds), LifetimeSource::MaxAge));
    }
    if headers.contains_key(EXPIRES) {
        let date = single_date(headers, &DATE).unwrap_or(received);
        // RFC 9111 §5.3: what is no date, `0` above all, has expired.
        let lifetime = single_date(headers, &EXPIRES)
            .and_then(|expires| expires.duration_since(date).ok())
            .unwrap_or(Duration::ZERO);
        return Some((lifetime, LifetimeSource::Expires));
    }
    let ttl = ttl.filter(|_| takes_configured_ttl(status))?;
    Some((ttl, LifetimeSource::Configured))
}

/// The codes that a route's `ttl` covers.
fn takes_configured_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// The age of a response when it was received (RFC 9111 §4.2.3): the apparent age by its Date, or
/// its Age and the time that the exchange took, whichever is more.
pub fn initial_age(headers: &HeaderMap, received: SystemTime, delay: Duration) -> Duration {
    let apparent = single_date(headers, &DATE)
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

/// The date in a field that must stand once; several lines are no date.
fn single_date(headers: &HeaderMap, name: &http::HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn seconds(fields: &[(HeaderName, &'static str)], ttl: Option<u64>) -> Option<u64> {
        let headers = headers(fields);
        let received = httpdate::parse_http_date("Sun, 06 Nov 1994 08:50:37 GMT").expect("a date");
        lifetime(
            StatusCode::OK,
            &headers,
            &ResponseControl::of(&headers),
            received,
            ttl.map(Duration::from_secs),
        )
        .map(|(lifetime, _)| lifetime.as_secs())
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
        let mut twice = headers(&[(EXPIRES, "Sun, 06 Nov 1994 08:51:37 GMT")]);
        twice.append(EXPIRES, HeaderValue::from_static("Sun, 06 Nov 1994 09:51:37 GMT"));
        let received = SystemTime::UNIX_EPOCH;
        let result = lifetime(StatusCode::OK, &twice, &ResponseControl::default(), received, None);
        assert_eq!(result, Some((Duration::ZERO, LifetimeSource::Expires)));
    }

    #[test]
    fn the_age_on_arrival_is_the_larger_of_date_and_age() {
        let received = httpdate::parse_http_date("Sun, 06 Nov 1994 08:50:37 GMT").expect("a date");
        let age = |fields: &[(HeaderName, &'static str)], delay| {
            initial_age(&headers(fields), received, Duration::from_secs(delay)).as_secs()
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
        let none = HeaderMap::new();
        let of = |status| {
            lifetime(
                status,
                &none,
                &ResponseControl::default(),
                SystemTime::UNIX_EPOCH,
                Some(Duration::from_secs(9)),
            )
        };
        assert!(of(StatusCode::PERMANENT_REDIRECT).is_some());
        assert!(of(StatusCode::NOT_FOUND).is_none());
        assert!(of(StatusCode::FOUND).is_none());
    }
}
