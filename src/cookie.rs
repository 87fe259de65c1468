//! The cookies of a request (RFC 6265 §4.2, §5.4), as they stand in its fields.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Names and values in their order, over all lines of the field: HTTP/2 sends crumbs
/// (RFC 9113 §8.2.3). What has no `=` is passed over.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(pairs).filter_map(named)
}

fn pairs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn named(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', pair)?;
    Some((pair[..at].trim_ascii_end(), pair[at + 1..].trim_ascii_start()))
}

/// The value of the first cookie with this name.
pub fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookies(headers).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}

/// The values of all cookies with this name in some lines of the field.
pub fn values<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let cookies = lines.into_iter().flat_map(pairs).filter_map(named);
    cookies.filter(move |(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}

/// Takes the cookies with this name out.
pub fn remove(headers: &mut HeaderMap, name: &str) {
    if value(headers, name).is_none() {
        return;
    }
    let is_other = |pair: &&[u8]| named(pair).is_none_or(|(known, _)| known != name.as_bytes());
    let lines: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .map(|line| pairs(line).filter(is_other).collect::<Vec<_>>().join(&b"; "[..]))
        .filter(|rest| !rest.is_empty())
        // Parts of a value are a value.
        .filter_map(|rest| HeaderValue::try_from(rest).ok())
        .collect();
    headers.remove(COOKIE);
    for line in lines {
        headers.append(COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_cookie_is_taken_out_and_the_others_stay() {
        let headers = |lines: &[&'static str]| -> HeaderMap {
            lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect()
        };
        let mut found = headers(&["a=1; hw=x; b=2", "hw=y", "c=3; xhw=1; HW=2"]);
        assert_eq!(values(found.get_all(COOKIE), "hw").collect::<Vec<_>>(), [b"x", b"y"]);
        remove(&mut found, "hw");
        assert_eq!(found, headers(&["a=1; b=2", "c=3; xhw=1; HW=2"]));
        let before = found.clone();
        remove(&mut found, "none");
        assert_eq!(found, before);
    }
}
