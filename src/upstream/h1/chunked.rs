//! The chunked transfer coding (RFC 9112 §7.1), read to the letter.
//!
//! Lines end with CRLF and nothing else: parties that disagree about where a chunk ends can be
//! played off against each other.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;
use super::body::Part;
use super::request::may_be_trailer;

/// Length of the line before a chunk, extensions included, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 4 << 10;
/// Digits of a chunk's size.
const SIZE_DIGITS_MAX: usize = 15;
/// Length of all trailers, in bytes.
const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Trailer fields that are accepted.
const TRAILERS_MAX: usize = 64;

/// The end of a chunk and of a body without trailers.
const LAST: &[u8] = b"\r\n0\r\n\r\n";

#[derive(Debug, Default)]
pub(in crate::upstream) struct ChunkReader(State);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Bytes of the chunk that are to come.
    Data(u64),
    /// The CRLF behind the data.
    DataEnd,
    Trailers,
    End,
}

impl ChunkReader {
    pub(super) fn is_at_end(&self) -> bool {
        self.0 == State::End
    }

    pub(super) fn read(&mut self, received: &mut BytesMut) -> Result<Part, Malformed> {
        loop {
            self.0 = match self.0 {
                State::Size => match size_line(received)? {
                    None => return Ok(Part::More),
                    Some(0) => State::Trailers,
                    Some(size) => State::Data(size),
                },
                State::Data(_) if received.is_empty() => return Ok(Part::More),
                State::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(received.len());
                    let data = received.split_to(taken).freeze();
                    let left = left - taken as u64;
                    self.0 = if left > 0 { State::Data(left) } else { State::DataEnd };
                    if left == 0 && received.starts_with(LAST) {
                        // The body is known to be complete one part earlier.
                        received.advance(LAST.len());
                        self.0 = State::End;
                    }
                    return Ok(Part::Data(data));
                }
                State::DataEnd => match &received[..] {
                    [b'\r', b'\n', ..] => {
                        received.advance(2);
                        State::Size
                    }
                    [] | [b'\r'] => return Ok(Part::More),
                    _ => return Err(Malformed::rule("a chunk is longer than its size")),
                },
                State::Trailers => match trailers(received)? {
                    None => return Ok(Part::More),
                    Some(trailers) if trailers.is_empty() => State::End,
                    Some(trailers) => {
                        self.0 = State::End;
                        return Ok(Part::Trailers(trailers));
                    }
                },
                State::End => return Ok(Part::End),
            };
        }
    }
}

/// Takes the line before a chunk: the chunk's size. Extensions are read over.
fn size_line(received: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let Some(newline) = memchr::memchr(b'\n', received) else {
        return match received.len() > SIZE_LINE_BYTES_MAX {
            true => Err(Malformed::rule("the line before a chunk is too long")),
            false => Ok(None),
        };
    };
    if newline > SIZE_LINE_BYTES_MAX {
        return Err(Malformed::rule("the line before a chunk is too long"));
    }
    let line = received[..newline].strip_suffix(b"\r");
    let line = line.ok_or(Malformed::rule("a chunk's line does not end with CRLF"))?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > SIZE_DIGITS_MAX {
        return Err(Malformed::rule("a chunk has no size"));
    }
    let rest = line[digits..].trim_ascii_start();
    if !(rest.is_empty() || rest[0] == b';') || rest.iter().any(|byte| is_control(*byte)) {
        return Err(Malformed::rule("a chunk's size is followed by something else"));
    }
    let size = line[..digits].iter().fold(0_u64, |size, digit| {
        size << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or_default())
    });
    received.advance(newline + 1);
    Ok(Some(size))
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Takes the trailers and the empty line behind them.
fn trailers(received: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    match &received[..] {
        [b'\r', b'\n', ..] => {
            received.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        [] | [b'\r'] => return Ok(None),
        _ => {}
    }
    let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") else {
        return match received.len() > TRAILER_BYTES_MAX {
            true => Err(Malformed::rule("the trailers are too long")),
            false => Ok(None),
        };
    };
    let bytes = received.split_to(end + 4);
    if bytes.len() > TRAILER_BYTES_MAX {
        return Err(Malformed::rule("the trailers are too long"));
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let httparse::Status::Complete((length, fields)) = httparse::parse_headers(&bytes, &mut fields)
        .map_err(|_| Malformed::rule("a trailer is no field"))?
    else {
        return Err(Malformed::rule("a trailer is no field"));
    };
    if length != bytes.len() {
        // An empty line of a bare LF came earlier.
        return Err(Malformed::rule("a trailer's line does not end with CRLF"));
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        else {
            return Err(Malformed::rule("a trailer is no field"));
        };
        if may_be_trailer(&name) {
            trailers.append(name, value);
        }
    }
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body of which `cut` bytes come first: its data, and its trailers.
    fn read(text: &str, cut: usize) -> Result<(String, HeaderMap), Malformed> {
        let mut chunks = ChunkReader::default();
        let mut received = BytesMut::from(&text[..cut]);
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut is_cut = true;
        loop {
            match chunks.read(&mut received)? {
                Part::Data(part) => data.extend_from_slice(&part),
                Part::Trailers(found) => trailers = found,
                Part::End => break,
                Part::More => {
                    assert!(std::mem::take(&mut is_cut), "it is incomplete");
                    received.extend_from_slice(&text.as_bytes()[cut..]);
                }
            }
        }
        Ok((String::from_utf8(data).expect("text"), trailers))
    }

    #[test]
    fn a_body_is_the_same_wherever_the_reads_cut_it() {
        let text =
            "4\r\nWiki\r\n5 ; a=\"b\"\r\npedia\r\n00E\r\n in\r\n\r\nchunks.\r\n0\r\nA: 1\r\n\r\n";
        for cut in 0..text.len() {
            let (data, trailers) = read(text, cut).expect("well formed");
            assert_eq!(data, "Wikipedia in\r\n\r\nchunks.");
            assert_eq!(trailers["a"], "1");
        }
    }

    #[test]
    fn what_follows_the_end_is_left() {
        for text in ["3\r\nabc\r\n0\r\n\r\nHTTP", "0\r\nA: 1\r\n\r\nHTTP"] {
            let mut received = BytesMut::from(text);
            let mut chunks = ChunkReader::default();
            while chunks.read(&mut received).expect("well formed") != Part::End {}
            assert_eq!(&received[..], b"HTTP");
        }
    }

    #[test]
    fn framing_that_others_might_read_differently_is_malformed() {
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\n0\n\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1 2\r\na\r\n",
            "1;\rx\r\na\r\n",
            "1000000000000000\r\n",
            "0\r\nA: 1\n\r\n\r\n",
            "0\r\nno field\r\n\r\n",
            " 1\r\na\r\n",
            "1_0\r\n",
        ] {
            assert!(read(text, text.len()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let line = format!("1;{}", "x".repeat(SIZE_LINE_BYTES_MAX));
        assert!(ChunkReader::default().read(&mut BytesMut::from(&*line)).is_err());
        let trailers = format!("0\r\nA: {}", "x".repeat(TRAILER_BYTES_MAX));
        assert!(ChunkReader::default().read(&mut BytesMut::from(&*trailers)).is_err());
    }
}
