//! The cookies of a request (RFC 6265 §4.2, §5.4), as they stand in its fields.

use http::HeaderMap;
use http::header::COOKIE;

/// Names and values in their order, over all lines of the field: HTTP/2 sends crumbs
/// (RFC 9113 §8.2.3). What has no `=` is passed over.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let pair = pair.trim_ascii();
            let at = memchr::memchr(b'=', pair)?;
            Some((pair[..at].trim_ascii_end(), pair[at + 1..].trim_ascii_start()))
        })
}

/// The value of the first cookie with this name.
pub fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookies(headers).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_of_all_lines_are_found_by_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; b=x=y;c; =d ; b=2"));
        headers.append(COOKIE, HeaderValue::from_static("lang=de"));
        assert_eq!(value(&headers, "a"), Some(&b"1"[..]));
        assert_eq!(value(&headers, "b"), Some(&b"x=y"[..]));
        assert_eq!(value(&headers, "lang"), Some(&b"de"[..]));
        assert_eq!(value(&headers, "c"), None);
        assert_eq!(value(&headers, "A"), None);
    }
}
