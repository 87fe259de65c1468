//! One call of a running proxy's admin API, for commands that are over with its answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For connecting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// The whole of an answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What the API said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks the API at `address` (`HOST:PORT` or `unix:PATH`). `head` is the request line and fields
/// beside `Host` and `Connection`, each with its CRLF; `patience` is for every step of the answer.
pub(super) fn ask(address: &str, head: &str, patience: Duration) -> io::Result<Answer> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        return exchange(stream, head);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                return exchange(stream, head);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: impl Read + Write, head: &str) -> io::Result<Answer> {
    let request = format!("{head}Host: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("this is no answer of HTTP/1.1"))?;
    Ok(Answer { status, body: body.to_owned() })
}
