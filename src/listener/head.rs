//! Follows the framing of HTTP/1.1 requests in the raw bytes of a connection.
//!
//! hyper resolves some forbidden framing before a service sees it (RFC 9112 §6.3: a
//! Content-Length beside a Transfer-Encoding), has no limit on the head in bytes that leaves the
//! request line out, and cannot say whether it waits for a head, for a body or for nothing. This
//! scanner sees the same bytes and answers these questions. It never changes or delays a byte; the
//! parsing that counts is hyper's. Where the two could disagree hyper has already refused the
//! message, and the scanner turns [`Phase::Opaque`].

use memchr::memchr;

/// Room for the method, the version and the spaces of a request line.
const REQUEST_LINE_EXTRA: usize = 64;

/// Bounds on one request head, in bytes and fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) uri_bytes_max: usize,
    pub(crate) header_bytes_max: usize,
    pub(crate) headers_max: usize,
}

/// What makes the rest of a connection useless before a message is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unacceptable {
    /// A request line beyond its limit.
    Uri,
    /// A head beyond its limits.
    Head,
    /// Chunked framing inside a body that is too large, or that others might read differently.
    Chunk,
}

/// What the connection is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Between messages: nothing of the next head has come.
    Message,
    /// Inside a head.
    Head,
    /// Inside a body.
    Body,
    /// The bytes are no longer HTTP/1.1 requests.
    Opaque,
}

#[derive(Debug)]
pub(crate) struct HeadScanner {
    limits: HeadLimits,
    phase: Phase,
    /// The part of the current line that came with earlier reads.
    carry: Vec<u8>,
    head: Head,
    /// Heads completed so far.
    heads: u64,
    violation: Option<(u64, &'static str)>,
    /// Of the bytes that came last, those before what cannot be accepted.
    sound: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Empty lines may come before a request line.
    Start,
    Fields,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    Trailers,
    Opaque,
}

/// What the current head has said so far.
#[derive(Debug, Default)]
struct Head {
    /// Bytes after the request line.
    bytes: usize,
    fields: usize,
    length: Option<u64>,
    repeated_length: bool,
    chunked: bool,
    foreign_encoding: bool,
}

impl HeadScanner {
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            phase: Phase::Start,
            carry: Vec::new(),
            head: Head::default(),
            heads: 0,
            violation: None,
            sound: 0,
        }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        match self.phase {
            Phase::Start if self.carry.is_empty() && self.head.bytes == 0 => Waiting::Message,
            Phase::Start | Phase::Fields => Waiting::Head,
            Phase::Length(_) | Phase::ChunkSize | Phase::ChunkData(_) | Phase::Trailers => {
                Waiting::Body
            }
            Phase::Opaque => Waiting::Opaque,
        }
    }

    /// The first head (counted from 1) that breaks a framing rule, and the rule.
    pub(crate) fn violation(&self) -> Option<(u64, &'static str)> {
        self.violation
    }

    /// How many of the bytes that were fed last come before the message, or the line of chunked
    /// framing, that is not acceptable.
    pub(crate) fn sound(&self) -> usize {
        self.sound
    }

    /// Takes the next bytes of the connection.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Unacceptable> {
        let count = bytes.len();
        self.sound = 0;
        while !bytes.is_empty() {
            let between_lines = self.carry.is_empty()
                && match self.phase {
                    Phase::Start => self.head.bytes == 0,
                    Phase::ChunkSize | Phase::Trailers => true,
                    _ => false,
                };
            if between_lines {
                self.sound = count - bytes.len();
            }
            bytes = match self.phase {
                Phase::Opaque => return Ok(()),
                Phase::Length(left) => self.skip_body(bytes, left, Phase::Length),
                Phase::ChunkData(left) => self.skip_body(bytes, left, Phase::ChunkData),
                _ => self.take_line(bytes)?,
            };
        }
        Ok(())
    }

    fn skip_body<'a>(&mut self, bytes: &'a [u8], left: u64, phase: fn(u64) -> Phase) -> &'a [u8] {
        let take = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - take as u64;
        match (left, self.phase) {
            (0, Phase::ChunkData(_)) => self.phase = Phase::ChunkSize,
            (0, _) => self.start(),
            _ => self.phase = phase(left),
        }
        &bytes[take..]
    }

    /// Handles one line, or keeps its beginning until the rest comes.
    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Unacceptable> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.account(bytes.len())?;
            self.carry.extend_from_slice(bytes);
            return Ok(&[]);
        };
        self.account(end + 1)?;
        let rest = &bytes[end + 1..];
        if self.carry.is_empty() {
            self.line(&bytes[..end])?;
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&bytes[..end]);
            self.line(&line)?;
            line.clear();
            self.carry = line;
        }
        Ok(rest)
    }

    /// Counts bytes of a line against the limits.
    fn account(&mut self, bytes: usize) -> Result<(), Unacceptable> {
        match self.phase {
            Phase::Start => {
                let line = self.carry.len() + bytes;
                if line > self.limits.uri_bytes_max + REQUEST_LINE_EXTRA {
                    return Err(Unacceptable::Uri);
                }
            }
            _ => {
                self.head.bytes += bytes;
                if self.head.bytes > self.limits.header_bytes_max {
                    let is_head = self.phase == Phase::Fields;
                    return Err(if is_head { Unacceptable::Head } else { Unacceptable::Chunk });
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Unacceptable> {
        let stripped = line.strip_suffix(b"\r");
        if stripped.is_none() && matches!(self.phase, Phase::ChunkSize | Phase::Trailers) {
            // hyper ends these lines with CRLF only; where they end decides what the next request
            // is.
            return Err(Unacceptable::Chunk);
        }
        let line = stripped.unwrap_or(line);
        match self.phase {
            Phase::Start => {
                if line.is_empty() {
                    // RFC 9112 §2.2: empty lines before the request line are ignored; they count
                    // as header bytes, so that they cannot come for ever.
                    self.head.bytes += 2;
                    if self.head.bytes > self.limits.header_bytes_max {
                        return Err(Unacceptable::Head);
                    }
                } else {
                    self.head = Head::default();
                    self.phase = Phase::Fields;
                }
            }
            Phase::Fields if line.is_empty() => self.end_head(),
            Phase::Fields => {
                self.head.fields += 1;
                if self.head.fields > self.limits.headers_max {
                    return Err(Unacceptable::Head);
                }
                self.field(line);
            }
            Phase::ChunkSize => self.chunk_size(line),
            Phase::Trailers if line.is_empty() => self.start(),
            Phase::Trailers | Phase::Length(_) | Phase::ChunkData(_) | Phase::Opaque => {}
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) {
        // Only two fields matter; their first letters tell most others apart.
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.head.repeated_length |= self.head.length.is_some();
                    self.head.length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    if self.head.length.is_none() {
                        self.phase = Phase::Opaque;
                    }
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    let exactly_chunked = value.eq_ignore_ascii_case(b"chunked");
                    self.head.foreign_encoding |= !exactly_chunked || self.head.chunked;
                    self.head.chunked = true;
                }
            }
            _ => {}
        }
    }

    fn end_head(&mut self) {
        self.heads += 1;
        let rule = if self.head.chunked && self.head.length.is_some() {
            Some("Content-Length with Transfer-Encoding")
        } else if self.head.repeated_length {
            Some("Content-Length stands twice")
        } else if self.head.foreign_encoding {
            Some("Transfer-Encoding other than chunked")
        } else {
            None
        };
        if let Some(rule) = rule {
            self.violation = self.violation.or(Some((self.heads, rule)));
            self.phase = Phase::Opaque;
            return;
        }
        match (self.head.chunked, self.head.length) {
            (true, _) => {
                self.head = Head::default();
                self.phase = Phase::ChunkSize;
            }
            (false, Some(length)) if length > 0 => self.phase = Phase::Length(length),
            _ => self.start(),
        }
    }

    fn start(&mut self) {
        self.head = Head::default();
        self.phase = Phase::Start;
    }

    fn chunk_size(&mut self, line: &[u8]) {
        if line.is_empty() {
            // The line end after the data of a chunk.
            return;
        }
        self.head.bytes = 0;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits])
            .ok()
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        self.phase = match size {
            Some(0) => Phase::Trailers,
            Some(size) => Phase::ChunkData(size),
            None => Phase::Opaque,
        };
    }
}

/// The value of the field `name` (lower case) if the line holds it.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(name.len())?;
    if !head.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.strip_prefix(b":").map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { uri_bytes_max: 100, header_bytes_max: 300, headers_max: 5 };

    /// Feeds in pieces of every size: the result must not depend on how the bytes arrive.
    fn scan(bytes: &[u8]) -> Result<HeadScanner, Unacceptable> {
        let mut results = (1..=bytes.len()).map(|size| {
            let mut scanner = HeadScanner::new(LIMITS);
            let fed: Result<(), Unacceptable> =
                bytes.chunks(size).try_for_each(|piece| scanner.feed(piece));
            fed.map(|()| scanner)
        });
        let first = results.next().expect("at least one byte");
        for result in results {
            match (&first, &result) {
                (Ok(a), Ok(b)) => {
                    assert_eq!((a.phase, a.heads, a.violation), (b.phase, b.heads, b.violation));
                }
                (Err(a), Err(b)) => assert_eq!(a, b),
                (a, b) => unreachable!("{a:?} or {b:?}, by the size of the pieces"),
            }
        }
        first
    }

    fn scanned(bytes: &[u8]) -> HeadScanner {
        scan(bytes).expect("within the limits")
    }

    #[test]
    fn pipelined_requests_without_bodies_are_counted() {
        let scanner =
            scanned(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(scanner.heads, 2);
        assert_eq!(scanner.waiting(), Waiting::Message);
    }

    #[test]
    fn a_body_of_known_length_is_skipped() {
        let scanner = scanned(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n",
        );
        assert_eq!(scanner.heads, 1);
        assert_eq!(scanner.waiting(), Waiting::Head);
    }

    #[test]
    fn a_chunked_body_ends_with_its_trailers() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n";
        let mut bytes = [head.as_slice(), body].concat();
        assert_eq!(scanned(&bytes).waiting(), Waiting::Body);
        bytes.extend_from_slice(b"0\r\nX: y\r\n\r\n");
        assert_eq!(scanned(&bytes).waiting(), Waiting::Message);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(scanned(&bytes).heads, 2);
    }

    #[test]
    fn bare_line_feeds_end_lines_too() {
        let scanner = scanned(b"GET / HTTP/1.1\nHost: a\n\n");
        assert_eq!(scanner.heads, 1);
    }

    #[test]
    fn a_length_beside_an_encoding_is_a_violation_in_either_order() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding:chunked\r\ncontent-length:5\r\n",
        ] {
            let bytes = format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n{fields}\r\n");
            let scanner = scanned(bytes.as_bytes());
            assert_eq!(scanner.violation(), Some((2, "Content-Length with Transfer-Encoding")));
        }
    }

    #[test]
    fn any_encoding_but_chunked_is_a_violation() {
        for value in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            let bytes = format!("POST / HTTP/1.1\r\nTransfer-Encoding: {value}\r\n\r\n");
            assert!(scanned(bytes.as_bytes()).violation().is_some(), "{value}");
        }
        let twice =
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(scanned(twice).violation().is_some());
        let upper = b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert!(scanned(upper).violation().is_none());
    }

    #[test]
    fn heads_beyond_their_limits_are_found_before_they_end() {
        let long_uri = format!("GET /{}", "a".repeat(200));
        assert_eq!(scan(long_uri.as_bytes()).err(), Some(Unacceptable::Uri));
        let long_field = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(300));
        assert_eq!(scan(long_field.as_bytes()).err(), Some(Unacceptable::Head));
        let many = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(6));
        assert_eq!(scan(many.as_bytes()).err(), Some(Unacceptable::Head));
        let blank = "\r\n".repeat(200);
        assert_eq!(scan(blank.as_bytes()).err(), Some(Unacceptable::Head));
    }

    #[test]
    fn what_comes_before_something_unacceptable_is_sound() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
        for (before, bad, error) in [
            (good.to_owned(), format!("GET /{}", "a".repeat(200)), Unacceptable::Uri),
            (
                good.repeat(2),
                format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(300)),
                Unacceptable::Head,
            ),
            (chunked.to_owned(), "0\n\n".to_owned(), Unacceptable::Chunk),
        ] {
            let mut scanner = HeadScanner::new(LIMITS);
            assert_eq!(scanner.feed(format!("{before}{bad}").as_bytes()), Err(error));
            assert_eq!(scanner.sound(), before.len(), "{bad}");
            let mut scanner = HeadScanner::new(LIMITS);
            assert_eq!(scanner.feed(before.as_bytes()), Ok(()));
            assert_eq!(scanner.feed(bad.as_bytes()), Err(error));
            assert_eq!(scanner.sound(), 0);
        }
    }

    #[test]
    fn an_unreadable_length_turns_the_connection_opaque() {
        let scanner = scanned(b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello");
        assert_eq!(scanner.waiting(), Waiting::Opaque);
    }

    #[test]
    fn lines_of_chunked_framing_end_with_crlf_or_the_body_is_refused() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for body in ["3\nabc\r\n0\r\n\r\n", "0\r\n\nGET / HTTP/1.1\r\n", "0\r\nx: y\n\r\n"] {
            let result = scan(format!("{head}{body}").as_bytes());
            assert_eq!(result.err(), Some(Unacceptable::Chunk), "{body:?}");
        }
    }

    #[test]
    fn a_second_content_length_is_a_violation() {
        let scanner = scan(b"POST / HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\na");
        let violation = scanner.ok().and_then(|scanner| scanner.violation());
        assert_eq!(violation, Some((1, "Content-Length stands twice")));
    }
}
