//! The one value that a name has in a request, for conditions.
//!
//! A field that stands in several lines is one list (RFC 9110 §5.3). Of parameters and cookies
//! that stand there more than once, the first counts. Names and values of parameters are decoded
//! as forms encode them: `%20` and `+` are spaces.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;

/// What lines of one field are joined with.
const LIST: &[u8] = b", ";

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(|line| line.as_bytes());
    let first = lines.next()?;
    let mut value = Cow::Borrowed(first);
    for line in lines {
        let value = value.to_mut();
        value.extend_from_slice(LIST);
        value.extend_from_slice(line);
    }
    Some(value)
}

pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = pairs.filter(|(key, _)| *key == name || *decoded(key) == *name.as_bytes());
    named.next().map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('+') {
        return percent_decode(text.as_bytes()).into();
    }
    let text = text.replace('+', " ");
    percent_decode(text.as_bytes()).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn lines_of_a_field_are_one_list() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("x-a");
        assert_eq!(header(&headers, &name), None);
        headers.append("x-a", HeaderValue::from_static("1"));
        assert_eq!(header(&headers, &name).as_deref(), Some(&b"1"[..]));
        headers.append("x-a", HeaderValue::from_static("2"));
        assert_eq!(header(&headers, &name).as_deref(), Some(&b"1, 2"[..]));
    }

    #[test]
    fn parameters_are_decoded_and_the_first_of_a_name_counts() {
        let query = Some("a=1&b=x%20y+z&a=2&c&%64=%ff&=e&a%3Db=5&bad=%zz");
        let value = |name| parameter(query, name).map(Cow::into_owned);
        assert_eq!(value("a").as_deref(), Some(&b"1"[..]));
        assert_eq!(value("b").as_deref(), Some(&b"x y z"[..]));
        assert_eq!(value("c").as_deref(), Some(&b""[..]));
        assert_eq!(value("d").as_deref(), Some(&b"\xff"[..]));
        assert_eq!(value("a=b").as_deref(), Some(&b"5"[..]));
        assert_eq!(value("bad").as_deref(), Some(&b"%zz"[..]));
        assert_eq!(value("e"), None);
        assert_eq!(parameter(None, "a"), None);
    }
}
