//! HTTP/1.1 messages as bytes: read as they come, judged by the tests and nobody else.

use std::io::{self, Read};

/// A message head and what came behind it.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Start line and fields, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
    /// Fields behind a chunked body, one a line.
    pub trailers: String,
}

/// What an origin got.
pub type Request = Message;

/// What a client got.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub message: Message,
    /// The framing says that all of it came.
    pub is_complete: bool,
}

impl Message {
    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The value of a field, the first if it stands more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = fields(&self.head);
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        fields(&self.head).filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|it| it.1)
    }

    /// Method and target of a request.
    pub fn method(&self) -> &str {
        self.start_line().split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.start_line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.message.header(name)
    }

    pub fn text(&self) -> String {
        self.message.text()
    }

    pub fn body(&self) -> &[u8] {
        &self.message.body
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.message.body).unwrap()
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.lines().skip(1).filter_map(|line| line.split_once(':').map(|(n, v)| (n, v.trim())))
}

/// How the body of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
}

/// Bytes of a connection that were read and not yet used.
#[derive(Debug)]
pub struct Incoming<S> {
    pub stream: S,
    pub unused: Vec<u8>,
}

impl<S: Read> Incoming<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unused: Vec::new() }
    }

    /// Reads more; false at the end.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let read = self.stream.read(&mut buffer)?;
        self.unused.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }

    /// The bytes up to and with `end`; an error if the connection ends before.
    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let found = self.unused.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return Ok(self.unused.drain(..at + end.len()).collect());
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next head, without its empty line.
    pub fn head(&mut self) -> io::Result<String> {
        let head = self.until(b"\r\n\r\n")?;
        Ok(String::from_utf8_lossy(&head[..head.len() - 4]).into_owned())
    }

    /// Reads a body into `message`; an error if it ends early, with what came left in it.
    pub fn body(&mut self, message: &mut Message, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.exactly(length, &mut message.body),
            Framing::Close => {
                while self.fill()? {}
                message.body.append(&mut self.unused);
                Ok(())
            }
            Framing::Chunked => self.chunks(message),
        }
    }

    fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let mut left = length;
        loop {
            let take = left.min(self.unused.len());
            into.extend(self.unused.drain(..take));
            left -= take;
            if left == 0 {
                return Ok(());
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn chunks(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let line = self.until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line);
            let digits = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if size == 0 {
                break;
            }
            self.exactly(size, &mut message.body)?;
            self.until(b"\r\n")?;
        }
        loop {
            let line = self.until(b"\r\n")?;
            if line == b"\r\n" {
                return Ok(());
            }
            message.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }
}

/// How a body ends whose head is `message`; `otherwise` without a word about it.
pub fn framing(message: &Message, otherwise: Framing) -> Framing {
    if message.header("transfer-encoding").is_some() {
        return Framing::Chunked;
    }
    match message.header("content-length").and_then(|length| length.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => otherwise,
    }
}

/// An answer with a body of known length. `fields` are lines without their ends.
pub fn answer(status: u16, fields: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    for field in fields {
        bytes.push_str(field);
        bytes.push_str("\r\n");
    }
    bytes.push_str("\r\n");
    [bytes.as_bytes(), body].concat()
}

/// A 200 with this body.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    answer(200, &[], body)
}

/// A 200 that may be stored for a minute.
pub fn cacheable(body: impl AsRef<[u8]>) -> Vec<u8> {
    answer(200, &["Cache-Control: max-age=60"], body)
}

/// One chunk of a chunked body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
