//! Why a head cannot be read, in words: whoever runs the endpoint has to find the place.
//!
//! The parser tells little more than that something is wrong. Only here, once it has failed, is
//! the head looked at again.

use http::HeaderName;

use super::Malformed;

/// Bytes of an answer that are shown, before they are escaped.
const SHOWN_BYTES_MAX: usize = 48;

/// The rule that a head breaks, and where.
pub(super) fn of_head(error: httparse::Error, head: &[u8]) -> Malformed {
    if let Some(protocol) = other_protocol(head) {
        return Malformed::rule(protocol);
    }
    let mut lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let (rule, place) = match error {
        httparse::Error::TooManyHeaders => return Malformed::rule("too many fields"),
        httparse::Error::Version => {
            ("the head is not HTTP/1.1: its first line begins otherwise", Some(first))
        }
        httparse::Error::Status => ("the status line is malformed", Some(first)),
        httparse::Error::HeaderName => field_name(lines),
        httparse::Error::HeaderValue => (
            "a field's value has a character that is not allowed",
            lines.find(|line| line.iter().any(|byte| is_forbidden(*byte))),
        ),
        httparse::Error::NewLine => ("a line of the head does not end with CRLF", None),
        httparse::Error::Token => ("the head is not HTTP/1.1", Some(first)),
    };
    Malformed { rule, place: place.map(shown) }
}

/// The rule that the field called `name` breaks.
pub(super) fn of_field(rule: &'static str, name: &HeaderName) -> Malformed {
    Malformed { rule, place: Some(name.as_str().into()) }
}

/// The rule that a field of these lines breaks.
pub(super) fn of_value<'a>(rule: &'static str, lines: impl Iterator<Item = &'a [u8]>) -> Malformed {
    let lines: Vec<&[u8]> = lines.collect();
    Malformed { rule, place: Some(shown(&lines.join(&b", "[..]))) }
}

/// The first field that has no proper name.
fn field_name<'a>(lines: impl Iterator<Item = &'a [u8]>) -> (&'static str, Option<&'a [u8]>) {
    for (index, line) in lines.enumerate() {
        let is_folded = matches!(line, [b' ' | b'\t', ..]);
        if is_folded && index > 0 || line.is_empty() {
            continue;
        }
        if is_folded {
            return ("the first field begins with a space", Some(line));
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return ("a line without a colon is no field", Some(line));
        };
        let name = &line[..colon];
        if name.is_empty() {
            return ("malformed field name: it is empty", Some(line));
        }
        if name.trim_ascii_end() != name {
            return ("malformed field name: a space before the colon", Some(name));
        }
        if HeaderName::from_bytes(name).is_err() {
            return ("malformed field name", Some(name));
        }
    }
    ("malformed field name", None)
}

fn is_forbidden(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// The beginning of `bytes`, in which nothing disturbs a line of a log.
fn shown(bytes: &[u8]) -> Box<str> {
    bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string().into()
}

/// The protocol that an endpoint speaks in place of HTTP/1.1, where the first bytes tell.
pub(in crate::upstream) fn other_protocol(received: &[u8]) -> Option<&'static str> {
    match received {
        // A record of TLS: an alert, or a handshake.
        [0x15 | 0x16, 3, ..] => Some("the endpoint speaks TLS, and the pool has no `tls`"),
        // RFC 9113 §3.4: SETTINGS is the first frame, on no stream.
        [0, _, _, 4, _, 0, 0, 0, 0, ..] => {
            Some("the endpoint speaks HTTP/2, and the pool's `protocol` is not \"h2\"")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::HeadReader;

    fn why(head: &[u8]) -> String {
        let mut received = BytesMut::from(head);
        HeadReader::default().read(&mut received, false).expect_err("malformed").to_string()
    }

    #[test]
    fn a_head_that_is_refused_names_the_rule_and_the_place() {
        for (head, told) in [
            (
                "SSH-2.0-OpenSSH\r\n\r\n",
                "the head is not HTTP/1.1: its first line begins otherwise: \"SSH-2.0-OpenSSH\"",
            ),
            (
                "HTTP/2 200\r\n\r\n",
                "the head is not HTTP/1.1: its first line begins otherwise: \"HTTP/2 200\"",
            ),
            ("HTTP/1.1 2x0 OK\r\n\r\n", "the status line is malformed: \"HTTP/1.1 2x0 OK\""),
            ("HTTP/1.1 099 Low\r\n\r\n", "the status is no status"),
            (
                "HTTP/1.1 200 OK\r\nA: 1\r\nX Powered By: me\r\n\r\n",
                "malformed field name: \"X Powered By\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
                "malformed field name: a space before the colon: \"A \"",
            ),
            ("HTTP/1.1 200 OK\r\n: 1\r\n\r\n", "malformed field name: it is empty: \": 1\""),
            (
                "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
                "a line without a colon is no field: \"No colon\"",
            ),
            ("HTTP/1.1 200 OK\r\n A: 1\r\n\r\n", "the first field begins with a space: \" A: 1\""),
            (
                "HTTP/1.1 200 OK\r\nA: \u{1}\r\n\r\n",
                "a field's value has a character that is not allowed: \"A: \\x01\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
                "Content-Length is not one number: \"1, 2\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "a Transfer-Encoding that is not chunked alone: \"gzip\"",
            ),
        ] {
            assert_eq!(why(head.as_bytes()), told);
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "Link: a\r\n".repeat(300));
        assert_eq!(why(many.as_bytes()), "too many fields");
        assert!(why(b"\x15\x03\x01\x00\x02\x02\x46\n\n").contains("speaks TLS"));
        assert!(why(b"\0\0\x0c\x04\0\0\0\0\0\0\n\n").contains("speaks HTTP/2"));
    }
}
