//! Preconditions (RFC 9110 §13): what a request demands of the validators of a representation.
//!
//! They are parsed once, in the precedence of §13.2.2, into a form where a field that the RFC
//! says to ignore is no longer there. Deliberately absent: weak tags of our own; every entity tag
//! here is strong.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::range::IfRange;

/// What identifies one version of a representation.
#[derive(Debug, Clone)]
pub(super) struct Validators {
    /// Strong, with its quotes.
    pub(super) etag: HeaderValue,
    /// In whole seconds; `None` where HTTP cannot say it, and where it does not identify the version.
    pub(super) modified: Option<SystemTime>,
}

/// The preconditions of one request.
#[derive(Debug)]
pub(super) struct Preconditions {
    required: Option<Required>,
    unless: Option<Unless>,
    range: Option<IfRange>,
}

/// The outcome of all preconditions except `If-Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Proceed,
    /// 304: the client holds this version.
    NotModified,
    /// 412: the client insists on another version.
    Failed,
}

/// Must be true, or the request fails.
#[derive(Debug)]
enum Required {
    Match(Tags),
    UnmodifiedSince(SystemTime),
}

/// Must be false, or the client needs no body.
#[derive(Debug)]
enum Unless {
    Match(Tags),
    UnmodifiedSince(SystemTime),
}

#[derive(Debug)]
enum Tags {
    /// `*`
    Any,
    Listed(Vec<Tag>),
}

#[derive(Debug)]
struct Tag {
    is_weak: bool,
    /// With its quotes.
    opaque: Box<[u8]>,
}

impl Preconditions {
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let required = Tags::from_headers(headers, header::IF_MATCH).map(Required::Match);
        let unless = Tags::from_headers(headers, header::IF_NONE_MATCH).map(Unless::Match);
        Self {
            required: required.or_else(|| {
                date(headers.get(header::IF_UNMODIFIED_SINCE)?).map(Required::UnmodifiedSince)
            }),
            unless: unless.or_else(|| {
                date(headers.get(header::IF_MODIFIED_SINCE)?).map(Unless::UnmodifiedSince)
            }),
            range: IfRange::from_headers(headers),
        }
    }

    /// Steps 1 to 4 of RFC 9110 §13.2.2, for GET and HEAD of something that exists.
    pub(super) fn evaluate(&self, current: &Validators) -> Verdict {
        let is_as_required = match &self.required {
            None => true,
            Some(Required::Match(tags)) => tags.contain_strongly(&current.etag),
            Some(Required::UnmodifiedSince(date)) => !current.is_modified_after(*date),
        };
        if !is_as_required {
            return Verdict::Failed;
        }
        let is_held = match &self.unless {
            None => false,
            Some(Unless::Match(tags)) => tags.contain_weakly(&current.etag),
            Some(Unless::UnmodifiedSince(date)) => current.modified == Some(*date),
        };
        if is_held { Verdict::NotModified } else { Verdict::Proceed }
    }

    /// Step 5: whether `Range` counts.
    pub(super) fn allow_range(&self, current: &Validators, now: SystemTime) -> bool {
        self.range
            .as_ref()
            .is_none_or(|range| range.holds(Some(&current.etag), current.modified, now))
    }
}

impl Validators {
    fn is_modified_after(&self, date: SystemTime) -> bool {
        self.modified.is_some_and(|modified| modified > date)
    }
}

impl Tags {
    /// `None` when there is no such field. What breaks the grammar matches nothing.
    fn from_headers(headers: &HeaderMap, name: HeaderName) -> Option<Self> {
        let fields = headers.get_all(name);
        fields.iter().next()?;
        let mut listed = Vec::new();
        for field in fields {
            if field.as_bytes().trim_ascii() == b"*" {
                return Some(Self::Any);
            }
            parse_tags(field.as_bytes(), &mut listed);
        }
        Some(Self::Listed(listed))
    }

    fn contain_strongly(&self, etag: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => {
                tags.iter().any(|tag| !tag.is_weak && *tag.opaque == *etag.as_bytes())
            }
        }
    }

    fn contain_weakly(&self, etag: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| *tag.opaque == *etag.as_bytes()),
        }
    }
}

/// Reads tags up to the first that breaks the grammar. A tag may contain commas.
fn parse_tags(list: &[u8], tags: &mut Vec<Tag>) {
    let mut rest = list;
    loop {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let strong = rest.strip_prefix(b"W/");
        let quoted = strong.unwrap_or(rest);
        let Some(inner) = quoted.strip_prefix(b"\"") else { return };
        let Some(length) = inner.iter().position(|&byte| byte == b'"') else { return };
        let (opaque, after) = quoted.split_at(length + 2);
        tags.push(Tag { is_weak: strong.is_some(), opaque: opaque.into() });
        rest = after;
    }
}

fn date(field: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(field.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const BEFORE: &str = "Wed, 01 Jan 2025 11:59:59 GMT";
    const MODIFIED: &str = "Wed, 01 Jan 2025 12:00:00 GMT";
    const AFTER: &str = "Wed, 01 Jan 2025 12:00:01 GMT";

    fn current() -> Validators {
        Validators {
            etag: HeaderValue::from_static("\"v1\""),
            modified: httpdate::parse_http_date(MODIFIED).ok(),
        }
    }

    fn preconditions(fields: &[(HeaderName, &'static str)]) -> Preconditions {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        Preconditions::from_headers(&headers)
    }

    fn verdict(fields: &[(HeaderName, &'static str)]) -> Verdict {
        preconditions(fields).evaluate(&current())
    }

    fn allows_range(field: &'static str) -> bool {
        preconditions(&[(header::IF_RANGE, field)]).allow_range(&current(), SystemTime::now())
    }

    #[test]
    fn without_preconditions_a_request_proceeds() {
        assert_eq!(verdict(&[]), Verdict::Proceed);
    }

    #[test]
    fn if_none_match_compares_weakly_and_in_lists() {
        for field in ["\"v1\"", "W/\"v1\"", "*", " * ", "\"a,b\", W/\"c\" ,, \"v1\""] {
            assert_eq!(verdict(&[(header::IF_NONE_MATCH, field)]), Verdict::NotModified, "{field}");
        }
        for field in ["\"v2\"", "v1", "\"v1", "", "w/\"v1\"", "\"a,\"v1\""] {
            assert_eq!(verdict(&[(header::IF_NONE_MATCH, field)]), Verdict::Proceed, "{field}");
        }
    }

    #[test]
    fn several_if_none_match_fields_are_one_list() {
        let fields = [(header::IF_NONE_MATCH, "\"v0\""), (header::IF_NONE_MATCH, "\"v1\"")];
        assert_eq!(verdict(&fields), Verdict::NotModified);
    }

    #[test]
    fn if_match_compares_strongly() {
        for field in ["\"v1\"", "*", "\"v0\", \"v1\""] {
            assert_eq!(verdict(&[(header::IF_MATCH, field)]), Verdict::Proceed, "{field}");
        }
        for field in ["W/\"v1\"", "\"v2\"", "v1", ""] {
            assert_eq!(verdict(&[(header::IF_MATCH, field)]), Verdict::Failed, "{field}");
        }
    }

    #[test]
    fn if_modified_since_holds_for_the_very_second_of_the_change() {
        assert_eq!(verdict(&[(header::IF_MODIFIED_SINCE, BEFORE)]), Verdict::Proceed);
        assert_eq!(verdict(&[(header::IF_MODIFIED_SINCE, MODIFIED)]), Verdict::NotModified);
        assert_eq!(verdict(&[(header::IF_MODIFIED_SINCE, AFTER)]), Verdict::Proceed);
        assert_eq!(verdict(&[(header::IF_MODIFIED_SINCE, "yesterday")]), Verdict::Proceed);
    }

    #[test]
    fn if_modified_since_is_ignored_beside_if_none_match() {
        let fields = [(header::IF_NONE_MATCH, "\"v0\""), (header::IF_MODIFIED_SINCE, AFTER)];
        assert_eq!(verdict(&fields), Verdict::Proceed);
    }

    #[test]
    fn if_unmodified_since_fails_only_when_the_change_is_later() {
        assert_eq!(verdict(&[(header::IF_UNMODIFIED_SINCE, BEFORE)]), Verdict::Failed);
        assert_eq!(verdict(&[(header::IF_UNMODIFIED_SINCE, MODIFIED)]), Verdict::Proceed);
        assert_eq!(verdict(&[(header::IF_UNMODIFIED_SINCE, "soon")]), Verdict::Proceed);
    }

    #[test]
    fn if_unmodified_since_is_ignored_beside_if_match() {
        let fields = [(header::IF_MATCH, "\"v1\""), (header::IF_UNMODIFIED_SINCE, BEFORE)];
        assert_eq!(verdict(&fields), Verdict::Proceed);
    }

    #[test]
    fn a_failed_requirement_comes_before_a_version_that_the_client_holds() {
        let fields = [(header::IF_MATCH, "\"v0\""), (header::IF_NONE_MATCH, "\"v1\"")];
        assert_eq!(verdict(&fields), Verdict::Failed);
    }

    #[test]
    fn dates_say_nothing_about_a_file_without_one() {
        let undated = Validators { modified: None, ..current() };
        for name in [header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE] {
            assert_eq!(preconditions(&[(name, AFTER)]).evaluate(&undated), Verdict::Proceed);
        }
        assert!(
            !preconditions(&[(header::IF_RANGE, MODIFIED)])
                .allow_range(&undated, SystemTime::now())
        );
    }

    #[test]
    fn if_range_wants_the_same_strong_tag_or_the_same_date() {
        assert!(preconditions(&[]).allow_range(&current(), SystemTime::now()));
        assert!(allows_range("\"v1\""));
        assert!(allows_range(MODIFIED));
        for field in ["W/\"v1\"", "\"v2\"", BEFORE, AFTER, "*", ""] {
            assert!(!allows_range(field), "{field}");
        }
    }

    #[test]
    fn all_three_date_forms_of_the_rfc_are_read() {
        let date_of = |text: &'static str| date(&HeaderValue::from_static(text));
        let expected = Some(UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert_eq!(date_of("Sun, 06 Nov 1994 08:49:37 GMT"), expected);
        assert_eq!(date_of("Sunday, 06-Nov-94 08:49:37 GMT"), expected);
        assert_eq!(date_of("Sun Nov  6 08:49:37 1994"), expected);
    }
}
