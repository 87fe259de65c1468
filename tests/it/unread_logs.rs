//! Logs that nobody reads, on pipes that are full.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Client, Folder, Setup, eventually};

/// More than the pipe of a log holds.
const REQUESTS: usize = 1000;

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

/// A proxy whose output was read until it accepts, and no further.
struct Unread {
    child: Child,
    web: SocketAddr,
    admin: SocketAddr,
    _stderr: BufReader<ChildStderr>,
    folder: Folder,
}

impl Unread {
    fn start(setup: &Setup) -> Self {
        let folder = Folder::new();
        let path = folder.write("headwater.toml", setup.to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
            .args(["run", "-c"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut read = |text: &str| {
            let mut line = String::new();
            while !line.contains(text) {
                line.clear();
                assert!(stderr.read_line(&mut line).unwrap() > 0, "{text:?} was never said");
            }
            line.split_once("address=").unwrap().1.trim().parse().unwrap()
        };
        let admin = read("admin API listening");
        let web = read("listening listener=web");
        Self { child, web, admin, _stderr: stderr, folder }
    }

    fn get(address: SocketAddr, path: &str) -> u16 {
        let mut client = Client::connect(address);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        client.answer().status
    }

    fn fill(&self) {
        let mut client = Client::connect(self.web);
        for _ in 0..REQUESTS {
            assert_eq!(client.get("/", &[]).status, 200);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn logs_that_nobody_reads_hold_no_request_no_reload_no_probe_and_no_stop() {
    for to in ["stdout", "stderr"] {
        let setup = Setup::empty()
            .process("drain_timeout = \"3s\"")
            .log(&format!("level = \"trace\"\naccess.to = \"{to}\""));
        let mut proxy = Unread::start(&setup.clone().text(HELLO));
        proxy.fill();
        let more = "[[route]]\npaths = [\"/new\"]\nrespond = { status = 204 }";
        proxy.folder.write("headwater.toml", setup.text(HELLO).text(more).to_string());
        let mut admin = Client::connect(proxy.admin);
        admin.send(
            "POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n",
        );
        assert_eq!(admin.answer().status, 200);
        assert_eq!(Unread::get(proxy.web, "/new"), 204);
        for probe in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(Unread::get(proxy.admin, probe), 200, "{probe}");
        }
        let pid = Pid::from_raw(proxy.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::Term).unwrap();
        let status = eventually("the process to end", || proxy.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_start_that_fails_ends_though_nobody_reads_why() {
    // More than a pipe holds, all of it wrong.
    let wrong = "[[route]]\nno_such_key = 1\n".repeat(3000);
    let folder = Folder::new();
    let path = folder.write("headwater.toml", &wrong);
    let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["run", "-c"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = eventually("the process to end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(2));
}
