//! The head of an answer (RFC 9112 §4, §5), and what it says about the body (§6.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Malformed;
use super::body::Framing;
use super::diagnosis;

/// The largest response head that is accepted, in bytes.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Fields of a response head that are accepted.
const FIELDS_MAX: usize = 256;
/// Room for the fields that are added on the way to the client.
const FIELDS_ADDED: usize = 4;

/// The head of an answer, without the fields that belong to the connection.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// Whether it came as HTTP/1.0.
    pub is_http_1_0: bool,
    /// End-to-end fields. At most one Content-Length, which is a plain number, and none where the
    /// body is framed otherwise.
    pub headers: HeaderMap,
    /// The protocol of a 101.
    pub upgrade: Option<HeaderValue>,
    /// How long the endpoint will keep the connection, in seconds.
    pub keep_alive_timeout: Option<u64>,
    pub(in crate::upstream) framing: Framing,
    /// The endpoint will take further requests on this connection.
    pub(in crate::upstream) is_persistent: bool,
}

/// Finds and reads heads in what has been received.
#[derive(Debug, Default)]
pub(in crate::upstream) struct HeadReader {
    /// Bytes that hold no end of a head.
    scanned: usize,
}

impl HeadReader {
    /// Takes a head off the front of `received`, once it is complete. `to_head` says that the
    /// request was HEAD, whose answers have no body.
    pub(in crate::upstream) fn read(
        &mut self,
        received: &mut BytesMut,
        to_head: bool,
    ) -> Result<Option<ResponseHead>, Malformed> {
        let Some(length) = self.end(received) else {
            return match received.len() > HEAD_BYTES_MAX {
                true => Err(Malformed::rule("the head is too large")),
                false => Ok(None),
            };
        };
        self.scanned = 0;
        if length > HEAD_BYTES_MAX {
            return Err(Malformed::rule("the head is too large"));
        }
        parse(&received.split_to(length).freeze(), to_head).map(Some)
    }

    /// The length of the head, if its empty line has come.
    fn end(&mut self, received: &[u8]) -> Option<usize> {
        let mut from = self.scanned;
        while let Some(newline) = memchr::memchr(b'\n', &received[from..]) {
            let newline = from + newline;
            match &received[newline + 1..] {
                [b'\n', ..] => return Some(newline + 2),
                [b'\r', b'\n', ..] => return Some(newline + 3),
                [] | [b'\r'] => {
                    self.scanned = newline;
                    return None;
                }
                _ => from = newline + 1,
            }
        }
        self.scanned = received.len();
        None
    }
}

fn parse(bytes: &Bytes, to_head: bool) -> Result<ResponseHead, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)
        .map_err(|error| diagnosis::of_head(error, bytes))?;
    let (true, Some(code), Some(minor)) = (complete.is_complete(), parsed.code, parsed.version)
    else {
        return Err(Malformed::rule("the head is not HTTP/1.1"));
    };
    let status =
        StatusCode::from_u16(code).map_err(|_| Malformed::rule("the status is no status"))?;
    let mut hop = Hop::default();
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + FIELDS_ADDED);
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Malformed::rule("a field has no name"))?;
        let value = match HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)) {
            Ok(value) => value,
            Err(_) => unfolded(field.value).ok_or_else(|| {
                diagnosis::of_field("a field's value has a character that is not allowed", &name)
            })?,
        };
        if let Some(value) = hop.take(&name, value) {
            headers.append(name, value);
        }
    }
    hop.finish(status, minor == 0, to_head, headers)
}

/// A value that was folded over lines, with a space in place of each fold, as RFC 9112 §5.2 has a
/// gateway do it. `None` for one that has line ends elsewhere.
fn unfolded(value: &[u8]) -> Option<HeaderValue> {
    let mut lines = value.split(|byte| *byte == b'\n');
    let mut whole = lines.next()?.trim_ascii_end().to_vec();
    for line in lines {
        if !matches!(line, [b' ' | b'\t', ..]) {
            return None;
        }
        let line = line.trim_ascii();
        if !(whole.is_empty() || line.is_empty()) {
            whole.push(b' ');
        }
        whole.extend_from_slice(line);
    }
    HeaderValue::from_bytes(&whole).ok()
}

/// What the fields of the connection say.
#[derive(Debug, Default)]
struct Hop {
    options: Vec<HeaderValue>,
    codings: Vec<HeaderValue>,
    lengths: usize,
    upgrade: Option<HeaderValue>,
    keep_alive_timeout: Option<u64>,
}

impl Hop {
    /// Takes a field of this hop (RFC 9110 §7.6.1); gives others back.
    fn take(&mut self, name: &HeaderName, value: HeaderValue) -> Option<HeaderValue> {
        match *name {
            CONTENT_LENGTH => {
                self.lengths += 1;
                return Some(value);
            }
            CONNECTION => self.options.push(value),
            TRANSFER_ENCODING => self.codings.push(value),
            UPGRADE => self.upgrade = Some(value),
            _ => match name.as_str() {
                "keep-alive" => self.keep_alive_timeout = timeout(&value),
                "te" | "proxy-connection" => {}
                _ => return Some(value),
            },
        }
        None
    }

    fn finish(
        self,
        status: StatusCode,
        is_http_1_0: bool,
        to_head: bool,
        mut headers: HeaderMap,
    ) -> Result<ResponseHead, Malformed> {
        let (mut says_close, mut says_keep) = (false, false);
        for option in self.options.iter().flat_map(members) {
            if option.eq_ignore_ascii_case(b"close") {
                says_close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                says_keep = true;
            } else if !option.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes())
                && let Ok(name) = HeaderName::from_bytes(option)
            {
                headers.remove(name);
            }
        }
        let is_bodyless = to_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            // RFC 9110 §8.6.
            headers.remove(CONTENT_LENGTH);
        }
        let length = match self.lengths {
            _ if !headers.contains_key(CONTENT_LENGTH) => None,
            0 => None,
            count => content_length(&mut headers, count, is_bodyless)?,
        };
        let framing = if is_bodyless {
            Framing::Length(0)
        } else if !self.codings.is_empty() {
            if is_http_1_0 || !is_chunked(&self.codings) {
                return Err(diagnosis::of_value(
                    "a Transfer-Encoding that is not chunked alone",
                    self.codings.iter().map(HeaderValue::as_bytes),
                ));
            }
            // RFC 9112 §6.3: the encoding frames the body, whatever the length says.
            headers.remove(CONTENT_LENGTH);
            Framing::Chunked
        } else {
            length.map_or(Framing::Close, Framing::Length)
        };
        // RFC 9112 §6.1: who sends both may have been made to.
        let is_ambiguous = framing == Framing::Chunked && length.is_some();
        Ok(ResponseHead {
            status,
            is_http_1_0,
            headers,
            upgrade: self.upgrade,
            keep_alive_timeout: self.keep_alive_timeout,
            framing,
            is_persistent: !says_close
                && !is_ambiguous
                && framing != Framing::Close
                && (says_keep || !is_http_1_0),
        })
    }
}

/// The one length that all lines and members agree on (RFC 9110 §8.6), which the field then says.
/// One that cannot be read is an error where it frames a body, and is left out where it does not.
fn content_length(
    headers: &mut HeaderMap,
    count: usize,
    is_bodyless: bool,
) -> Result<Option<u64>, Malformed> {
    let agreed = {
        let mut stated = headers.get_all(CONTENT_LENGTH).iter().flat_map(members).map(number);
        let first = stated.next().flatten();
        first.filter(|_| stated.all(|other| other == first))
    };
    let is_plain = count == 1
        && headers
            .get(CONTENT_LENGTH)
            .is_some_and(|value| value.as_bytes().iter().all(u8::is_ascii_digit));
    match agreed {
        Some(_) if is_plain => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        None if is_bodyless => {
            headers.remove(CONTENT_LENGTH);
        }
        None => {
            let lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
            return Err(diagnosis::of_value("Content-Length is not one number", lines));
        }
    }
    Ok(agreed)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The members of a list field's line.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is_chunked(codings: &[HeaderValue]) -> bool {
    matches!(codings, [only] if only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The parameter of Keep-Alive that nearly everybody sends.
fn timeout(value: &HeaderValue) -> Option<u64> {
    members(value).find_map(|part| number(part.strip_prefix(b"timeout=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ResponseHead, Malformed> {
        let mut received = BytesMut::from(text);
        let head = HeadReader::default().read(&mut received, false)?;
        assert!(received.is_empty(), "all of it is the head");
        Ok(head.expect("it is complete"))
    }

    fn framing(fields: &str) -> Result<Framing, Malformed> {
        read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|head| head.framing)
    }

    #[test]
    fn a_head_is_found_wherever_the_reads_cut_it() {
        let text = b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 1..text.len() {
            let mut reader = HeadReader::default();
            let mut received = BytesMut::from(&text[..cut]);
            let head = match reader.read(&mut received, false).expect("well formed") {
                Some(head) => head,
                None => {
                    received.extend_from_slice(&text[cut..]);
                    let head = reader.read(&mut received, false).expect("well formed");
                    head.expect("it is complete")
                }
            };
            assert_eq!(
                (head.framing, &head.headers["a"]),
                (Framing::Length(3), &"1".parse().expect("a value"))
            );
        }
    }

    #[test]
    fn bare_line_feeds_end_lines_of_a_head() {
        let head = read("HTTP/1.0 204 No Content\nA: 1\n\n").expect("well formed");
        assert!(head.is_http_1_0 && !head.is_persistent);
        assert_eq!(head.headers.len(), 1);
    }

    #[test]
    fn what_is_not_http_is_malformed() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n A: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\r\n ked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: 1\r\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
            "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let mut received = BytesMut::from(text);
            assert!(HeadReader::default().read(&mut received, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_folded_value_goes_on_with_a_space() {
        let head =
            read("HTTP/1.1 200 OK\r\nA: one;\r\n\t two\r\n \r\n  three \r\nB:\n 1\nC: 2\r\n\r\n")
                .expect("well formed");
        let fields = ["a", "b", "c"].map(|name| head.headers[name].to_str().expect("text"));
        assert_eq!(fields, ["one; two three", "1", "2"]);
        assert_eq!(framing("Content-Length:\r\n 5\r\n"), Ok(Framing::Length(5)));
    }

    #[test]
    fn a_head_without_an_end_is_refused_when_it_is_too_large() {
        let mut received = BytesMut::from("HTTP/1.1 200 OK\r\n");
        let mut reader = HeadReader::default();
        while received.len() <= HEAD_BYTES_MAX {
            assert!(matches!(reader.read(&mut received, false), Ok(None)));
            received.extend_from_slice(b"X-Field: a value of a header\r\n");
        }
        assert!(reader.read(&mut received, false).is_err());
    }

    #[test]
    fn lengths_must_agree_and_be_numbers() {
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 5, 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        for fields in ["5, 6", "-1", "+5", "0x5", "5 5", "", "99999999999999999999"] {
            assert!(framing(&format!("Content-Length: {fields}\r\n")).is_err(), "{fields:?}");
        }
        assert!(framing("Content-Length: 5\r\nContent-Length: 6\r\n").is_err());
    }

    #[test]
    fn only_chunked_alone_is_understood_and_it_beats_a_length() {
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            assert!(framing(&format!("Transfer-Encoding: {coding}\r\n")).is_err(), "{coding:?}");
        }
        let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n";
        let both = read(both).expect("well formed");
        assert_eq!(both.framing, Framing::Chunked);
        assert!(both.headers.is_empty() && !both.is_persistent);
        assert!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn an_answer_without_a_body_has_none_whatever_it_says() {
        let text =
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n\r\n";
        assert_eq!(read(text).map(|head| head.framing), Ok(Framing::Length(0)));
        let mut received = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        let head = HeadReader::default().read(&mut received, true).expect("well formed");
        let head = head.expect("it is complete");
        assert_eq!((head.framing, head.headers.len()), (Framing::Length(0), 1));
    }

    #[test]
    fn fields_of_the_connection_and_those_that_it_names_are_left_out() {
        let head = read(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop, content-length\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5, max=9\r\nProxy-Connection: x\r\nContent-Length: 0\r\nA: 1\r\n\r\n",
        )
        .expect("well formed");
        let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "content-length"]);
        assert_eq!((head.keep_alive_timeout, head.is_persistent), (Some(5), true));
        assert!(
            !read("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n")
                .expect("well formed")
                .is_persistent
        );
        assert!(
            read("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
                .expect("well formed")
                .is_persistent
        );
    }
}
