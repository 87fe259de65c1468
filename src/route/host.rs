//! The host a request is for: one spelling for routing, the cache key and logs.
//!
//! Takes a Host field or an `:authority` (RFC 9110 §7.2: `uri-host [ ":" port ]`) apart: the name
//! in lower case, without port and trailing dot. Refused, though a URI could hold them: percent
//! signs and empty labels, since no name that resolves has them and parsers disagree about what
//! they mean; user information, which may not stand in either place.
//! Deliberately absent: IDNA (names arrive as `xn--`) and name resolution.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::net::Ipv6Addr;

/// Longest name accepted, in bytes (RFC 3986 §3.2.2).
pub const NAME_BYTES_MAX: usize = 255;

/// A host and the port named with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// Lower case, never empty, no trailing dot; an IPv6 address is in brackets and in the form of
    /// RFC 5952.
    pub name: Cow<'a, str>,
    pub port: Option<u16>,
}

/// Why a host is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostError {
    Empty,
    TooLong,
    BadCharacter,
    EmptyLabel,
    BadAddress,
    BadPort,
}

impl HostError {
    /// The broken rule, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "the host is empty",
            Self::TooLong => "the host is longer than 255 bytes",
            Self::BadCharacter => "the host contains a character that no host may have",
            Self::EmptyLabel => "the host contains an empty label",
            Self::BadAddress => "the host is not an IPv6 address in brackets",
            Self::BadPort => "the port of the host is not a number up to 65535",
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error for HostError {}

/// An authority in its normal form: the same for routing, the cache key and what is forwarded, so
/// that no spelling of it reaches an endpoint that the key does not tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    pub host: Cow<'a, str>,
    /// `None` where it is the scheme's own.
    pub port: Option<u16>,
    /// The host, and the port if there is one.
    pub text: Cow<'a, str>,
}

/// The normal form of the authority of an http or https request.
///
/// # Errors
/// As [`normalize`].
pub fn authority<'a>(
    raw: &'a str,
    scheme: impl FnOnce() -> &'static str,
) -> Result<Authority<'a>, HostError> {
    let Host { name: host, port } = normalize(raw)?;
    let port = port.filter(|port| *port != if scheme() == "https" { 443 } else { 80 });
    let text = match (&host, port) {
        (_, Some(port)) => Cow::Owned(format!("{host}:{port}")),
        (Cow::Borrowed(name), None) => Cow::Borrowed(*name),
        (Cow::Owned(name), None) => Cow::Owned(name.clone()),
    };
    Ok(Authority { host, port, text })
}

/// Takes `raw` apart. Borrows the name unless it has capitals or is an IPv6 address.
pub fn normalize(raw: &str) -> Result<Host<'_>, HostError> {
    if let Some(literal) = raw.strip_prefix('[') {
        let (address, rest) = literal.split_once(']').ok_or(HostError::BadAddress)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::BadAddress)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => None,
            None => return Err(HostError::BadAddress),
        };
        return Ok(Host { name: Cow::Owned(format!("[{address}]")), port });
    }
    let (name, port) = match raw.split_once(':') {
        Some((name, port)) => (name, parse_port(port)?),
        None => (raw, None),
    };
    Ok(Host { name: registered_name(name)?, port })
}

/// RFC 3986 §3.2.3: digits, or nothing at all after the colon.
fn parse_port(text: &str) -> Result<Option<u16>, HostError> {
    if text.is_empty() {
        return Ok(None);
    }
    // The number parser alone would take a plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::BadPort);
    }
    text.parse().map(Some).map_err(|_| HostError::BadPort)
}

fn registered_name(raw: &str) -> Result<Cow<'_, str>, HostError> {
    let name = raw.strip_suffix('.').unwrap_or(raw);
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    let mut capitals = false;
    let mut label_is_empty = true;
    for byte in name.bytes() {
        match byte {
            b'.' if label_is_empty => return Err(HostError::EmptyLabel),
            _ if !is_name_byte(byte) => return Err(HostError::BadCharacter),
            _ => label_is_empty = byte == b'.',
        }
        capitals |= byte.is_ascii_uppercase();
    }
    if label_is_empty {
        return Err(HostError::EmptyLabel);
    }
    Ok(if capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// RFC 3986 §3.2.2: unreserved characters and sub-delimiters.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~')
        || matches!(byte, b'!' | b'$' | b'&'..=b'*' | b'+' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_host(raw: &str, name: &str, port: Option<u16>) {
        assert_eq!(normalize(raw), Ok(Host { name: Cow::Borrowed(name), port }), "of {raw:?}");
    }

    #[track_caller]
    fn assert_refused(raw: &str, error: HostError) {
        assert_eq!(normalize(raw), Err(error), "of {raw:?}");
    }

    #[test]
    fn an_authority_has_one_form_for_all_its_spellings() {
        for (raw, scheme, text, port) in [
            ("open.test", "http", "open.test", None),
            ("OPEN.test.", "http", "open.test", None),
            ("open.test:", "http", "open.test", None),
            ("open.test:80", "http", "open.test", None),
            ("open.test:00080", "http", "open.test", None),
            ("open.test:443", "http", "open.test:443", Some(443)),
            ("open.test:443", "https", "open.test", None),
            ("Open.Test.:01337", "https", "open.test:1337", Some(1337)),
            ("[2001:DB8:0::1]:8080", "http", "[2001:db8::1]:8080", Some(8080)),
        ] {
            let normal = authority(raw, || scheme).unwrap();
            assert_eq!((&*normal.text, normal.port), (text, port), "{raw}");
        }
        let borrowed = authority("open.test", || "http").unwrap();
        assert!(matches!(borrowed.text, Cow::Borrowed(_)));
    }

    #[test]
    fn a_lower_case_name_is_borrowed() {
        let host = normalize("www.example.com.:8443").unwrap();
        assert!(matches!(host.name, Cow::Borrowed("www.example.com")));
    }

    #[test]
    fn capitals_and_the_trailing_dot_do_not_matter() {
        assert_host("WWW.Example.COM", "www.example.com", None);
        assert_host("example.com.", "example.com", None);
        assert_host("Example.com.:80", "example.com", Some(80));
    }

    #[test]
    fn the_port_is_split_off() {
        assert_host("localhost:65535", "localhost", Some(65535));
        assert_host("localhost:080", "localhost", Some(80));
        assert_host("10.0.0.1:1", "10.0.0.1", Some(1));
        assert_host("localhost:", "localhost", None);
    }

    #[test]
    fn a_port_that_is_no_number_is_refused() {
        for raw in ["a:65536", "a:+80", "a:8a", "a: 80", "a:80:80", "[::1]:x", "::1", "a:b@c"] {
            assert_refused(raw, HostError::BadPort);
        }
    }

    #[test]
    fn an_ipv6_address_has_one_spelling() {
        assert_host("[::1]", "[::1]", None);
        assert_host("[2001:DB8:0:0:0:0:0:1]:443", "[2001:db8::1]", Some(443));
        assert_host("[::1]:", "[::1]", None);
    }

    #[test]
    fn what_is_no_ipv6_address_in_brackets_is_refused() {
        for raw in ["[", "[]", "[::1", "[::1]80", "[fe80::1%25eth0]", "[v1.a]", "[10.0.0.1]"] {
            assert_refused(raw, HostError::BadAddress);
        }
    }

    #[test]
    fn an_empty_host_is_refused() {
        for raw in ["", ".", ":80", ".:80"] {
            assert_refused(raw, HostError::Empty);
        }
    }

    #[test]
    fn empty_labels_are_refused() {
        for raw in ["a..b", ".a", "a..", "..", "*..b"] {
            assert_refused(raw, HostError::EmptyLabel);
        }
    }

    #[test]
    fn characters_that_no_host_may_have_are_refused() {
        for raw in ["user@a", "a b", "a/b", "a\\b", "a%62", "a\0", "é", "a?", "a#", "a\"", "a]"] {
            assert_refused(raw, HostError::BadCharacter);
        }
    }

    #[test]
    fn a_name_may_be_255_bytes_long() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        assert_host(&format!("{longest}.:80"), &longest, Some(80));
        assert_refused(&format!("{longest}a"), HostError::TooLong);
    }

    #[test]
    fn the_normal_form_of_a_name_is_itself() {
        for raw in ["A.b_c~!$&'()*+,;=.", "[0:0::FFFF:1.2.3.4]:80", "*.EXAMPLE.com"] {
            let once = normalize(raw).unwrap().name;
            assert_eq!(normalize(&once).unwrap().name, once);
        }
    }
}
