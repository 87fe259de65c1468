//! Conditional requests, answered from what is stored (RFC 9110 §13).

use std::time::SystemTime;

use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue};

/// Whether the client already has the stored representation, so that a 304 answers it.
/// `If-None-Match` is compared weakly and takes precedence over `If-Modified-Since`
/// (RFC 9110 §13.2.2).
pub fn is_not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let Some(etag) = stored.get(ETAG) else {
            // `*` holds for any current representation, with or without a validator.
            return request.get_all(IF_NONE_MATCH).iter().any(is_any);
        };
        return request.get_all(IF_NONE_MATCH).iter().any(|list| matches_weakly(list, etag));
    }
    let Some(since) = request.get(IF_MODIFIED_SINCE).and_then(date) else { return false };
    stored.get(LAST_MODIFIED).and_then(date).is_some_and(|modified| modified <= since)
}

fn is_any(value: &HeaderValue) -> bool {
    value.as_bytes().trim_ascii() == b"*"
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// Whether a list of entity tags holds `etag`, weak and strong ones being equal
/// (RFC 9110 §8.8.3.2).
fn matches_weakly(list: &HeaderValue, etag: &HeaderValue) -> bool {
    if is_any(list) {
        return true;
    }
    let wanted = opaque(etag.as_bytes());
    EntityTags(list.as_bytes()).any(|tag| opaque(tag) == wanted)
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The members of a list of entity tags. A tag may hold commas, so quotes are minded; tags
/// without quotes, which some origins send, end at the next comma.
struct EntityTags<'a>(&'a [u8]);

impl<'a> Iterator for EntityTags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let rest = &self.0[start..];
        let mut quoted = false;
        let end = rest
            .iter()
            .position(|byte| {
                quoted ^= *byte == b'"';
                !quoted && *byte == b','
            })
            .unwrap_or(rest.len());
        self.0 = &rest[end..];
        Some(rest[..end].trim_ascii_end())
    }
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
