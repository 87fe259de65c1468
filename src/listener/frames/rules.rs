//! The rules for header lists (RFC 9113 §8.1 to §8.5), and what h2 and hyper want beside them.
//!
//! Whatever one of these would end a stream for without a word, or the connection, is found here.

use http::uri::{Authority, PathAndQuery, Scheme};

use crate::proxy::malformed::Rule;

/// Counted for each field beside its bytes (RFC 9113 §6.5.2).
pub(super) const FIELD_BYTES: usize = 32;
/// More fields than this no map of the `http` crate holds.
const FIELDS_MAX: usize = 16 << 10;
/// The longest name or target that the `http` crate takes, about, in bytes.
const TEXT_BYTES_MAX: usize = 60_000;

/// What is known of a field by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) sort: Sort,
    pub(super) breaks: Option<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Method,
    Scheme,
    Path,
    Authority,
    Protocol,
    OtherPseudo,
    ContentLength,
    Regular,
}

/// Looks at a field by itself.
pub(super) fn facts(name: &[u8], value: &[u8]) -> Facts {
    let (sort, breaks) = match name {
        b":method" => (Sort::Method, (!is_method(value)).then_some(Rule::Method)),
        b":scheme" => (Sort::Scheme, (!is_scheme(value)).then_some(Rule::Scheme)),
        b":path" => (Sort::Path, (!is_path(value)).then_some(Rule::Path)),
        b":authority" => (Sort::Authority, (!is_authority(value)).then_some(Rule::Authority)),
        b":protocol" => (Sort::Protocol, (!is_protocol(value)).then_some(Rule::Protocol)),
        b":status" => (Sort::OtherPseudo, Some(Rule::Status)),
        [b':', ..] => (Sort::OtherPseudo, Some(Rule::UnknownPseudoField)),
        b"content-length" => {
            (Sort::ContentLength, length(value).is_none().then_some(Rule::ContentLength))
        }
        b"te" if value != b"trailers" => (Sort::Regular, Some(Rule::Te)),
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            (Sort::Regular, Some(Rule::ConnectionField))
        }
        _ if !is_name(name) => (Sort::Regular, Some(Rule::FieldName)),
        _ => (Sort::Regular, (!is_value(value)).then_some(Rule::FieldValue)),
    };
    Facts { sort, breaks }
}

/// The bytes of names: tokens in lower case.
const NAME: [bool; 256] = bytes(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz");
const TOKEN: [bool; 256] =
    bytes(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
/// Bytes of targets and authorities with which those need no closer look.
const PLAIN_PATH: [bool; 256] =
    bytes(b"/-._~!$&'()*+,;=:@%?0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
const PLAIN_HOST: [bool; 256] =
    bytes(b"-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");

const fn bytes(of: &[u8]) -> [bool; 256] {
    let mut known = [false; 256];
    let mut at = 0;
    while at < of.len() {
        known[of[at] as usize] = true;
        at += 1;
    }
    known
}

fn all(value: &[u8], of: &[bool; 256]) -> bool {
    value.iter().all(|byte| of[usize::from(*byte)])
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= TEXT_BYTES_MAX && all(name, &NAME)
}

/// RFC 9110 §5.5, as the `http` crate reads it.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..))
}

fn is_method(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= TEXT_BYTES_MAX && all(value, &TOKEN)
}

fn is_scheme(value: &[u8]) -> bool {
    matches!(value, b"http" | b"https") || !value.is_empty() && Scheme::try_from(value).is_ok()
}

fn is_path(value: &[u8]) -> bool {
    if value.len() > TEXT_BYTES_MAX {
        return false;
    }
    match value {
        [b'/', rest @ ..] if all(rest, &PLAIN_PATH) => true,
        [] => false,
        _ => PathAndQuery::try_from(value).is_ok(),
    }
}

fn is_authority(value: &[u8]) -> bool {
    match value {
        [] => false,
        _ if all(value, &PLAIN_HOST) => true,
        _ => Authority::try_from(value).is_ok(),
    }
}

fn is_protocol(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| matches!(byte, 0x21..=0x7e))
}

fn length(value: &[u8]) -> Option<u64> {
    // A sign would be one for `parse`.
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// What a header list comes to, field by field.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Those sorts of pseudo-fields that have come, as bits.
    seen: u8,
    has_fields: bool,
    is_connect: bool,
    length: Option<u64>,
    fields: usize,
    size: usize,
    breaks: Option<Rule>,
}

impl List {
    pub(super) fn add(&mut self, name: &[u8], value: &[u8], facts: Facts) {
        self.size += name.len() + value.len() + FIELD_BYTES;
        self.fields += 1;
        let broken = match facts {
            Facts { breaks: Some(rule), .. } => Some(rule),
            Facts { sort: Sort::Regular, .. } => {
                self.has_fields = true;
                None
            }
            Facts { sort: Sort::ContentLength, .. } => {
                self.has_fields = true;
                let length = length(value);
                let differs = self.length.is_some() && self.length != length;
                self.length = length;
                differs.then_some(Rule::ContentLengths)
            }
            Facts { sort, .. } => self.pseudo(sort, value),
        };
        self.breaks = self.breaks.or(broken);
    }

    fn pseudo(&mut self, sort: Sort, value: &[u8]) -> Option<Rule> {
        let bit = 1 << sort as u8;
        if self.has_fields {
            return Some(Rule::LatePseudoField);
        }
        if self.seen & bit != 0 {
            return Some(Rule::RepeatedPseudoField);
        }
        self.seen |= bit;
        self.is_connect |= sort == Sort::Method && value == b"CONNECT";
        None
    }

    fn has(&self, sort: Sort) -> bool {
        self.seen & 1 << sort as u8 != 0
    }

    /// Whether the list is larger than `bytes`, and no more of it is to be kept.
    pub(super) fn is_larger_than(&self, bytes: usize) -> bool {
        self.size >= bytes || self.fields > FIELDS_MAX
    }

    /// The rule that a whole list breaks as the head of a request.
    pub(super) fn broken_as_head(&self, bytes_max: usize, has_body: bool) -> Option<Rule> {
        if self.is_larger_than(bytes_max) {
            return Some(Rule::TooLarge);
        }
        let is_plain_connect = self.is_connect && !self.has(Sort::Protocol);
        self.breaks.or_else(|| {
            let rule = if !self.has(Sort::Method) {
                Rule::MissingMethod
            } else if is_plain_connect && (self.has(Sort::Scheme) || self.has(Sort::Path)) {
                Rule::ConnectTarget
            } else if !is_plain_connect && !self.has(Sort::Scheme) {
                Rule::MissingScheme
            } else if !is_plain_connect && !self.has(Sort::Path) {
                Rule::MissingPath
            } else if self.has(Sort::Protocol) && !self.is_connect {
                Rule::ProtocolOfOther
            } else if self.is_connect && self.length.is_some_and(|length| length > 0) {
                Rule::ConnectBody
            } else if !has_body && self.length.is_some_and(|length| length > 0) {
                Rule::MissingBody
            } else {
                return None;
            };
            Some(rule)
        })
    }

    /// The rule that a whole list breaks as trailers.
    pub(super) fn broken_as_trailers(&self, bytes_max: usize) -> Option<Rule> {
        if self.is_larger_than(bytes_max) {
            return Some(Rule::TooLarge);
        }
        self.breaks.or_else(|| (self.seen != 0).then_some(Rule::PseudoFieldInTrailers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/a?b=%20"),
        (":authority", "a.test"),
    ];

    fn list(fields: &[(&str, &str)]) -> List {
        let mut list = List::default();
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            list.add(name, value, facts(name, value));
        }
        list
    }

    fn head(fields: &[(&str, &str)]) -> Option<Rule> {
        list(fields).broken_as_head(1 << 20, false)
    }

    fn get_with(name: &str, value: &str) -> Option<Rule> {
        head(&[GET, &[(name, value)]].concat())
    }

    #[test]
    fn sound_requests_break_no_rule() {
        assert_eq!(head(GET), None);
        assert_eq!(head(&[(":method", "CONNECT"), (":authority", "a.test:443")]), None);
        let tunnel = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", "[::1]:8443"),
        ];
        assert_eq!(head(&tunnel), None);
        assert_eq!(head(&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*")]), None);
        for (name, value) in [("te", "trailers"), ("x", ""), ("x", " \t\u{e9} "), ("x~1", "y")] {
            assert_eq!(get_with(name, value), None, "{name}: {value}");
        }
        assert_eq!(get_with("content-length", "0"), None);
        let upload = list(&[GET, &[("content-length", "5"), ("content-length", "5")]].concat());
        assert_eq!(upload.broken_as_head(1 << 20, true), None);
        assert_eq!(list(&[("x-sum", "1")]).broken_as_trailers(100), None);
    }

    #[test]
    fn fields_that_are_none_are_found() {
        for (name, value, rule) in [
            ("X-Upper", "a", Rule::FieldName),
            ("", "a", Rule::FieldName),
            ("a b", "a", Rule::FieldName),
            ("a:b", "a", Rule::FieldName),
            ("\u{e9}", "a", Rule::FieldName),
            ("x", "a\nb", Rule::FieldValue),
            ("x", "a\0", Rule::FieldValue),
            ("x", "\u{7f}", Rule::FieldValue),
            ("connection", "close", Rule::ConnectionField),
            ("transfer-encoding", "chunked", Rule::ConnectionField),
            ("upgrade", "websocket", Rule::ConnectionField),
            ("te", "gzip", Rule::Te),
            (":status", "200", Rule::Status),
            (":other", "", Rule::UnknownPseudoField),
            (":", "", Rule::UnknownPseudoField),
            ("content-length", "+1", Rule::ContentLength),
            ("content-length", "", Rule::ContentLength),
            ("content-length", "99999999999999999999", Rule::ContentLength),
            ("content-length", "5", Rule::MissingBody),
            (":path", "/", Rule::RepeatedPseudoField),
            (":protocol", "websocket", Rule::ProtocolOfOther),
            (":protocol", " 0 GET", Rule::Protocol),
        ] {
            assert_eq!(get_with(name, value), Some(rule), "{name}: {value}");
        }
    }

    #[test]
    fn pseudo_fields_that_are_none_or_missing_or_misplaced_are_found() {
        for (index, value, rule) in [
            (0, "G T", Rule::Method),
            (0, "", Rule::Method),
            (1, "", Rule::Scheme),
            (1, "ht tp", Rule::Scheme),
            (2, "", Rule::Path),
            (2, "/a b", Rule::Path),
            (2, "/\u{0}", Rule::Path),
            (3, "", Rule::Authority),
            (3, "a b", Rule::Authority),
        ] {
            let mut fields = GET.to_vec();
            fields[index].1 = value;
            assert_eq!(head(&fields), Some(rule), "{value:?}");
        }
        for (index, rule) in
            [(0, Rule::MissingMethod), (1, Rule::MissingScheme), (2, Rule::MissingPath)]
        {
            let mut fields = GET.to_vec();
            fields.remove(index);
            assert_eq!(head(&fields), Some(rule));
        }
        assert_eq!(facts(b":path", b"/\xff").breaks, Some(Rule::Path));
        let late = [&[("x", "y")], GET].concat();
        assert_eq!(head(&late), Some(Rule::LatePseudoField));
        let connect = [(":method", "CONNECT"), (":path", "/"), (":authority", "a.test:1")];
        assert_eq!(head(&connect), Some(Rule::ConnectTarget));
        let body = [(":method", "CONNECT"), (":authority", "a.test:1"), ("content-length", "1")];
        assert_eq!(list(&body).broken_as_head(1 << 20, true), Some(Rule::ConnectBody));
        let lengths = [GET, &[("content-length", "5"), ("content-length", "6")]].concat();
        assert_eq!(list(&lengths).broken_as_head(1 << 20, true), Some(Rule::ContentLengths));
        let trailers = list(&[(":path", "/")]).broken_as_trailers(1000);
        assert_eq!(trailers, Some(Rule::PseudoFieldInTrailers));
    }

    #[test]
    fn no_byte_passes_that_the_http_crate_refuses() {
        let breaks = |name: &[u8], value: &[u8]| facts(name, value).breaks.is_some();
        for byte in 0..=255_u8 {
            let name = [b'x', byte];
            // Names and methods that are no tokens are refused whatever the crate says.
            assert!(breaks(&name, b"") || http::HeaderName::from_lowercase(&name).is_ok());
            assert_eq!(breaks(b"x", &[byte]), http::HeaderValue::from_bytes(&[byte]).is_err());
            assert!(breaks(b":method", &[byte]) || http::Method::from_bytes(&[byte]).is_ok());
            for rest in ["", "a", ":"] {
                let host = [&[byte], rest.as_bytes()].concat();
                assert_eq!(
                    breaks(b":authority", &host),
                    Authority::try_from(&host[..]).is_err(),
                    "{host:?}"
                );
                let path = [b"/", &host[..]].concat();
                let is_path = PathAndQuery::try_from(&path[..]).is_ok();
                assert_eq!(breaks(b":path", &path), !is_path, "{path:?}");
            }
        }
    }

    #[test]
    fn a_list_that_is_too_large_is_found_whatever_else_is_wrong() {
        let long = "y".repeat(1000);
        let fields = [GET, &[("X", "y"), ("x", &long)]].concat();
        assert_eq!(list(&fields).broken_as_head(500, false), Some(Rule::TooLarge));
    }
}
