//! Requests by which a browser goes to a page, as against those for what a page needs.
//!
//! An application that routes in the browser has one page for all its paths. A script or an image
//! that is missing must be a 404 all the same, or the browser gets a page in its place.

use http::HeaderMap;
use http::header::ACCEPT;

/// Whether the last segment of a path has the extension of a file: letters and digits that begin
/// with a letter, so that `/v1.2` has none.
pub(super) fn has_extension(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        extension.starts_with(|first: char| first.is_ascii_alphabetic())
            && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether a client asks for HTML by name, as browsers do when they go to a page.
pub(super) fn takes_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).into_iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.any(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"text/html"));
        is_html && !parts.any(is_refusal)
    })
}

/// `q=0` in all its spellings.
fn is_refusal(parameter: &[u8]) -> bool {
    match parameter {
        [b'q' | b'Q', b'=', weight @ ..] => weight.iter().all(|byte| matches!(byte, b'0' | b'.')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_extension_begins_with_a_letter() {
        for path in ["/a.js", "/a.b.woff2", "/x/.map", "/a.webmanifest"] {
            assert!(has_extension(path), "{path}");
        }
        for path in ["/", "/a", "/a.js/", "/v1.2", "/a.", "/a.b-c", "/john.d%6Fe"] {
            assert!(!has_extension(path), "{path}");
        }
    }

    #[test]
    fn html_is_asked_for_by_name() {
        let takes = |accept| {
            takes_html(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(takes("application/json, Text/HTML;q=0.5"));
        for accept in ["*/*", "text/*", "text/html;q=0", "text/html; Q=0.0", "text/htmlx", ""] {
            assert!(!takes(accept), "{accept}");
        }
        assert!(!takes_html(&HeaderMap::new()));
    }
}
