//! `If-Range` (RFC 9110 §13.1.5): whether what the client holds a part of is still current.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};

/// A date of change is a strong validator once the response was made this much later
/// (RFC 9110 §8.8.2.2): before, the content may have changed twice within the date's second.
const STRONG_AFTER: Duration = Duration::from_secs(1);

/// Must be true, or `Range` is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfRange {
    /// A strong entity tag, with its quotes.
    Tag(HeaderValue),
    Date(SystemTime),
    /// A weak tag, or neither a tag nor a date: never true.
    Never,
}

impl IfRange {
    /// `None` when there is no such field.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(header::IF_RANGE).iter();
        let field = fields.next()?;
        Some(if fields.next().is_some() { Self::Never } else { Self::parse(field) })
    }

    fn parse(field: &HeaderValue) -> Self {
        match field.as_bytes() {
            [b'"', .., b'"'] => Self::Tag(field.clone()),
            _ => field
                .to_str()
                .ok()
                .and_then(|text| httpdate::parse_http_date(text).ok())
                .map_or(Self::Never, Self::Date),
        }
    }

    /// Whether it is true of a representation with these validators, as of the time `made`. The
    /// comparison is strong: a weak `etag` never matches, and a date must be the very one that
    /// was given out.
    pub fn holds(
        &self,
        etag: Option<&HeaderValue>,
        modified: Option<SystemTime>,
        made: SystemTime,
    ) -> bool {
        match self {
            Self::Tag(tag) => etag == Some(tag),
            Self::Date(date) => {
                modified == Some(*date)
                    && made.duration_since(*date).is_ok_and(|since| since >= STRONG_AFTER)
            }
            Self::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: &str = "Wed, 01 Jan 2025 12:00:00 GMT";

    fn date(text: &str) -> SystemTime {
        httpdate::parse_http_date(text).expect("a date")
    }

    fn holds(field: &'static str, etag: &'static str, made: SystemTime) -> bool {
        let field = [(header::IF_RANGE, HeaderValue::from_static(field))];
        let condition = IfRange::from_headers(&HeaderMap::from_iter(field)).expect("a field");
        condition.holds(Some(&HeaderValue::from_static(etag)), Some(date(MODIFIED)), made)
    }

    #[test]
    fn tags_are_compared_strongly() {
        let now = SystemTime::now();
        assert!(holds("\"a\"", "\"a\"", now));
        for (field, etag) in [
            ("\"b\"", "\"a\""),
            ("W/\"a\"", "\"a\""),
            ("\"a\"", "W/\"a\""),
            ("W/\"a\"", "W/\"a\""),
            ("a", "a"),
            ("\"a", "\"a"),
            ("*", "\"a\""),
            ("\"a\", \"b\"", "\"a\""),
        ] {
            assert!(!holds(field, etag, now), "{field} of {etag}");
        }
    }

    #[test]
    fn a_date_must_be_the_same_and_have_been_over_when_the_response_was_made() {
        let made = date("Wed, 01 Jan 2025 12:00:01 GMT");
        assert!(holds(MODIFIED, "\"a\"", made));
        assert!(holds("Wednesday, 01-Jan-25 12:00:00 GMT", "\"a\"", made));
        assert!(!holds("Wed, 01 Jan 2025 12:00:01 GMT", "\"a\"", made));
        assert!(!holds("Wed, 01 Jan 2025 11:59:59 GMT", "\"a\"", made));
        assert!(!holds(MODIFIED, "\"a\"", date(MODIFIED)), "it may have changed again");
        assert!(!holds(MODIFIED, "\"a\"", date("Wed, 01 Jan 2025 11:00:00 GMT")));
    }

    #[test]
    fn what_has_no_validator_matches_nothing() {
        for text in ["\"a\"", MODIFIED] {
            let condition = IfRange::parse(&HeaderValue::from_static(text));
            assert!(!condition.holds(None, None, SystemTime::now()), "{text}");
        }
    }

    #[test]
    fn two_fields_are_never_true() {
        let mut headers = HeaderMap::new();
        assert_eq!(IfRange::from_headers(&headers), None);
        for _ in 0..2 {
            headers.append(header::IF_RANGE, HeaderValue::from_static("\"a\""));
        }
        assert_eq!(IfRange::from_headers(&headers), Some(IfRange::Never));
    }
}
