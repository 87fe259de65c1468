//! What came of one call of a front's API.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// A longer wish to wait is not followed to its end.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    /// Too many calls.
    Limited(String, Option<Duration>),
    /// What the configuration says is not good for this; another may be.
    Denied(String),
    /// What was asked for is wrong; asking again does not help.
    Refused(String),
    /// The other side cannot at the moment.
    Unable(String, Option<Duration>),
    /// No answer.
    Lost(String),
}

impl Outcome {
    pub(super) const LABELS: [&'static str; 6] =
        ["ok", "limited", "denied", "refused", "unable", "lost"];

    pub(super) fn label(&self) -> usize {
        match self {
            Self::Ok => 0,
            Self::Limited(..) => 1,
            Self::Denied(_) => 2,
            Self::Refused(_) => 3,
            Self::Unable(..) => 4,
            Self::Lost(_) => 5,
        }
    }

    /// What is to be said of a failure.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::Limited(why, _)
            | Self::Denied(why)
            | Self::Refused(why)
            | Self::Unable(why, _)
            | Self::Lost(why) => Some(why),
        }
    }

    /// How long the other side wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited(_, after) | Self::Unable(_, after) => *after,
            _ => None,
        }
    }
}

/// `Retry-After` in either of its forms (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_wish_to_wait_is_read_in_both_forms_and_bounded() {
        let after = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, SystemTime::now())
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
    }
}
