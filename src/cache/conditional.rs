//! Validation: conditions of clients that are answered from what is stored (RFC 9110 §13,
//! RFC 9111 §4.3.2), our own conditions on what is stored (§4.3.1), and what the answers to them
//! say of it (§4.3.4, §4.3.5).
//!
//! An entity tag is compared by what is between its quotes: some origins leave them out.

use std::time::SystemTime;

use http::header::{
    CONTENT_LENGTH, DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::compress::fields::Tags;
use crate::fields::Named;

/// Whether the client already has the stored representation, so that a 304 answers it.
/// `If-None-Match` is compared weakly and takes precedence over `If-Modified-Since`
/// (RFC 9110 §13.2.2), which is compared with Date where there is no Last-Modified
/// (RFC 9111 §4.3.2).
pub fn is_not_modified(request: &HeaderMap, stored: &impl Named) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let Some(etag) = stored.text(&ETAG) else {
            // `*` holds for any current representation, with or without a validator.
            return request.get_all(IF_NONE_MATCH).iter().any(is_any);
        };
        return request.get_all(IF_NONE_MATCH).iter().any(|list| matches_weakly(list, etag));
    }
    let Some(since) = request.get(IF_MODIFIED_SINCE).and_then(date) else { return false };
    let modified = stored.value(&LAST_MODIFIED).or_else(|| stored.value(&DATE));
    modified.as_ref().and_then(date).is_some_and(|modified| modified <= since)
}

/// Takes the conditions of a client off: an answer to them would be for that client alone.
pub fn remove_conditions(request: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        request.remove(name);
    }
}

/// Makes a request ask whether what is stored is still valid (RFC 9111 §4.3.1). False if it has no
/// validators to ask with.
pub fn validate(request: &mut HeaderMap, stored: &impl Named) -> bool {
    let mut copy = |from: HeaderName, to: HeaderName| {
        let value = stored.value(&from);
        value.map(|value| request.insert(to, value)).is_some()
    };
    let has_etag = copy(ETAG, IF_NONE_MATCH);
    let has_date = copy(LAST_MODIFIED, IF_MODIFIED_SINCE);
    has_etag || has_date
}

/// Whether a 304 is about what is stored (RFC 9111 §4.3.4). One with another entity tag is about
/// another representation, which is not here. Tags are compared weakly: compression weakens the
/// tag of a 200 and not that of its 304. Without a tag the dates of the last change tell; one
/// without any validator is taken at its word.
pub fn confirms(not_modified: &HeaderMap, stored: &impl Named) -> bool {
    match (not_modified.get(ETAG), stored.text(&ETAG)) {
        (Some(now), Some(then)) => opaque(now.as_bytes()) == opaque(then),
        (Some(now), None) if !now.as_bytes().starts_with(b"W/") => false,
        _ => match (not_modified.get(LAST_MODIFIED), stored.text(&LAST_MODIFIED)) {
            (Some(now), Some(then)) => now == then,
            _ => true,
        },
    }
}

/// Whether the head of a 200 to HEAD is about the stored answer to GET, whose length in bytes this
/// is: every validator that came is the stored one, and so is the length (RFC 9111 §4.3.5).
pub fn describes(head: &HeaderMap, stored: &impl Named, stored_bytes: u64) -> bool {
    let is_same = |name: HeaderName| {
        head.get(&name).is_none_or(|now| stored.text(&name) == Some(now.as_bytes()))
    };
    let has_length = |value: &HeaderValue| {
        value.to_str().ok().and_then(|digits| digits.parse().ok()) == Some(stored_bytes)
    };
    is_same(ETAG) && is_same(LAST_MODIFIED) && head.get(CONTENT_LENGTH).is_none_or(has_length)
}

fn is_any(value: &HeaderValue) -> bool {
    value.as_bytes().trim_ascii() == b"*"
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    super::date::parse(value, SystemTime::now())
}

/// Whether a list of entity tags holds `etag`, weak and strong ones being equal
/// (RFC 9110 §8.8.3.2).
fn matches_weakly(list: &HeaderValue, etag: &[u8]) -> bool {
    if is_any(list) {
        return true;
    }
    let wanted = opaque(etag);
    Tags(list.as_bytes()).any(|tag| opaque(tag) == wanted)
}

fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")).unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn entity_tags_are_compared_weakly_in_lists() {
        let stored = headers(&[("etag", "\"b,c\"")]);
        for (list, expected) in [
            ("\"b,c\"", true),
            ("W/\"b,c\"", true),
            ("\"a\", W/\"b,c\" , \"d\"", true),
            ("\"b\", \"c\"", false),
            ("*", true),
            ("\"a\"", false),
            ("", false),
        ] {
            assert_eq!(
                is_not_modified(&headers(&[("if-none-match", list)]), &stored),
                expected,
                "{list}"
            );
        }
        let weak = headers(&[("etag", "W/\"a\"")]);
        assert!(is_not_modified(&headers(&[("if-none-match", "\"a\"")]), &weak));
    }

    #[test]
    fn an_entity_tag_condition_hides_the_date_condition() {
        let stored =
            headers(&[("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let both = headers(&[
            ("if-none-match", "\"x\""),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        assert!(!is_not_modified(&both, &stored));
    }

    #[test]
    fn a_tag_without_quotes_is_the_same_tag() {
        for (tag, list) in [("abc", "\"abc\""), ("\"abc\"", "abc"), ("abc", "\"x\", abc")] {
            let stored = headers(&[("etag", tag)]);
            assert!(is_not_modified(&headers(&[("if-none-match", list)]), &stored), "{tag} {list}");
        }
        let stored = headers(&[("etag", "\"")]);
        assert!(!is_not_modified(&headers(&[("if-none-match", "\"\"")]), &stored));
    }

    #[test]
    fn a_date_stands_in_for_the_time_of_the_last_change() {
        let stored = headers(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        for (since, expected) in
            [("Sun, 06 Nov 1994 08:49:37 GMT", true), ("Sun, 06 Nov 1994 08:49:36 GMT", false)]
        {
            let request = headers(&[("if-modified-since", since)]);
            assert_eq!(is_not_modified(&request, &stored), expected, "{since}");
        }
    }

    #[test]
    fn a_304_with_another_tag_is_about_something_else() {
        let stored = headers(&[("etag", "W/\"a\"")]);
        for (tag, expected) in [("\"a\"", true), ("W/\"a\"", true), ("\"b\"", false)] {
            assert_eq!(confirms(&headers(&[("etag", tag)]), &stored), expected, "{tag}");
        }
        assert!(confirms(&headers(&[]), &stored));
        let (then, now) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        let stored = headers(&[("last-modified", then)]);
        assert!(confirms(&headers(&[("last-modified", then)]), &stored));
        assert!(!confirms(&headers(&[("last-modified", now)]), &stored));
        assert!(!confirms(&headers(&[("etag", "\"a\"")]), &headers(&[])));
        assert!(confirms(&headers(&[("etag", "W/\"a\"")]), &headers(&[])));
    }

    #[test]
    fn validators_become_conditions() {
        let mut request = headers(&[("if-none-match", "\"mine\""), ("range", "bytes=0-1")]);
        remove_conditions(&mut request);
        assert!(request.is_empty());
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert!(validate(&mut request, &headers(&[("etag", "\"a\""), ("last-modified", date)])));
        assert_eq!(request["if-none-match"], "\"a\"");
        assert_eq!(request["if-modified-since"], date);
        assert!(!validate(&mut HeaderMap::new(), &HeaderMap::new()));
    }

    #[test]
    fn an_answer_to_head_describes_what_has_its_validators_and_length() {
        let stored = headers(&[("etag", "\"a\""), ("x", "y")]);
        for (fields, expected) in [
            (&[][..], true),
            (&[("etag", "\"a\""), ("content-length", "3")], true),
            (&[("etag", "\"b\"")], false),
            (&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
            (&[("content-length", "4")], false),
        ] {
            assert_eq!(describes(&headers(fields), &stored, 3), expected, "{fields:?}");
        }
    }

    #[test]
    fn dates_are_compared_by_time_and_bad_ones_ignored() {
        let stored = headers(&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        for (since, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Sunday, 06-Nov-94 08:49:38 GMT", true),
            ("Sun, 06 Nov 1994 08:49:36 GMT", false),
            ("yesterday", false),
        ] {
            assert_eq!(
                is_not_modified(&headers(&[("if-modified-since", since)]), &stored),
                expected,
                "{since}"
            );
        }
    }
}
