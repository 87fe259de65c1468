//! `headwater ready`: the health check of a container without a shell.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::server::Exit;

/// For connecting, and for every step of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The status line, the fields and the reason, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks `/readyz`; prints what it says if that is not "ok".
pub(super) fn ask(address: &str) -> Exit {
    match answer(address) {
        Ok(text) if text.starts_with("HTTP/1.1 200 ") => Exit::Clean,
        Ok(text) => {
            let body = text.split_once("\r\n\r\n").map_or(&*text, |(_, body)| body);
            let _ = writeln!(io::stderr(), "not ready: {}", body.trim());
            Exit::StartFailed
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "no answer from {address}: {error}");
            Exit::StartFailed
        }
    }
}

fn answer(address: &str) -> io::Result<String> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        return exchange(stream);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return exchange(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn ask_one_that_says(answer: &'static str) -> Exit {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).expect("a request") > 0);
            stream.write_all(answer.as_bytes()).expect("it reads");
        });
        let exit = ask(&address);
        server.join().expect("it answered");
        exit
    }

    #[test]
    fn only_a_200_is_ready() {
        assert_eq!(ask_one_that_says("HTTP/1.1 200 OK\r\n\r\nok\n"), Exit::Clean);
        let not_yet = "HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\n";
        assert_eq!(ask_one_that_says(not_yet), Exit::StartFailed);
    }
}
