//! `headwater ready`: the health check of a container without a shell.

use std::io::{self, Write};
use std::time::Duration;

use super::api;
use crate::server::Exit;

/// For connecting, and for every step of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks `/readyz`; prints what it says if that is not "ok".
pub(super) fn ask(address: &str) -> Exit {
    match api::ask(address, "GET /readyz HTTP/1.1\r\n", PATIENCE) {
        Ok(answer) if answer.status == 200 => Exit::Clean,
        Ok(answer) => {
            let _ = writeln!(io::stderr(), "not ready: {}", answer.body.trim());
            Exit::StartFailed
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "no answer from {address}: {error}");
            Exit::StartFailed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
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
