//! The access log: lines are made on the worker, written by a thread of their own (`lines`).
//!
//! A worker appends to a buffer of its own and hands it on when it is large or old enough. When
//! the thread cannot keep up, buffers are dropped and their lines counted. A worker never waits for
//! a disk or a pipe.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::Version;

use super::log_format;
use crate::config::model::{AccessFormat, AccessTarget};
use crate::lines::{Lines, Pushed, Sink};
use crate::snapshot::stats::Finished;

/// A buffer of this size is handed on at once, in bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// How much of the log may wait to be written, in bytes.
const QUEUE_BYTES: usize = 16 << 20;
/// How long a target may take to be opened: a file system may hang.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);

/// What one line can say.
#[derive(Debug)]
pub struct Record<'a> {
    pub client_ip: IpAddr,
    pub peer_ip: IpAddr,
    pub listener: &'a str,
    pub route: &'a str,
    pub method: &'a str,
    pub scheme: &'static str,
    pub host: Option<Vec<u8>>,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub version: Version,
    pub finished: &'a Finished,
    pub pool: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    pub upstream: Option<Duration>,
    pub attempts: u32,
    pub request_id: &'a [u8],
    pub front_id: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    pub error: Option<&'static str>,
    pub reason: Option<&'a str>,
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    buffer: RefCell<Vec<u8>>,
    lines: Lines,
}

/// Starts the log, which goes to `sink`.
pub fn start(sink: Sink) -> io::Result<Lines> {
    Lines::start("access log", sink, QUEUE_BYTES)
}

/// Opens where lines go. May block.
pub fn open(target: &AccessTarget) -> io::Result<Sink> {
    match target {
        AccessTarget::Stdout => Sink::stdout(),
        AccessTarget::Stderr => Sink::stderr(),
        AccessTarget::Off => Ok(Sink::off()),
        AccessTarget::File(path) => Sink::open(path),
    }
}

/// Opens where lines go, on a thread that may block, and waits for it a while.
pub async fn opened(target: AccessTarget) -> io::Result<Sink> {
    let opening = tokio::task::spawn_blocking(move || open(&target));
    match tokio::time::timeout(OPEN_PATIENCE, opening).await {
        Ok(opened) => opened.unwrap_or_else(|error| Err(io::Error::other(error))),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl AccessLog {
    /// A handle for one worker.
    pub fn new(lines: Lines) -> Self {
        Self { buffer: RefCell::default(), lines }
    }

    /// Appends a line.
    pub fn write(&self, format: &AccessFormat, record: &Record<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        log_format::line(&mut buffer, format, record, SystemTime::now());
        if buffer.len() >= BUFFER_BYTES {
            self.hand_on(&mut buffer);
        }
    }

    /// Hands on what has gathered. Called regularly, so that no line waits for others.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.hand_on(&mut buffer);
        }
    }

    fn hand_on(&self, buffer: &mut Vec<u8>) {
        let lines = std::mem::replace(buffer, Vec::with_capacity(BUFFER_BYTES + 1024));
        if self.lines.push(lines) == (Pushed::Dropped { is_first: true }) {
            tracing::warn!("the access log is not taken as fast as it is made; lines are dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    fn temporary(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("headwater-log-{}-{name}", std::process::id()))
    }

    fn write(log: &AccessLog, lines: &str) {
        log.buffer.borrow_mut().extend_from_slice(lines.as_bytes());
        log.flush();
    }

    fn finish(lines: &Lines) {
        assert!(lines.finish(Instant::now() + Duration::from_secs(20)), "a thread that writes");
    }

    #[test]
    fn a_renamed_file_is_followed_until_it_is_opened_anew() {
        let (path, moved) = (temporary("a"), temporary("a.1"));
        let target = AccessTarget::File(path.clone());
        let lines = start(open(&target).expect("the folder is writable")).expect("a thread");
        let log = AccessLog::new(lines.clone());
        write(&log, "one\n");
        std::fs::rename(&path, &moved).expect("the file exists");
        write(&log, "two\n");
        lines.switch(move || open(&target)).expect("a thread");
        let has_turned = || path.exists();
        while !has_turned() {
            std::thread::yield_now();
        }
        write(&log, "three\n");
        finish(&lines);
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(read(&moved) + &read(&path), "one\ntwo\nthree\n");
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&moved));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let target = AccessTarget::File("/dev/full".into());
        let lines = start(open(&target).expect("a device")).expect("a thread");
        write(&AccessLog::new(lines.clone()), "one\ntwo\n");
        finish(&lines);
        assert_eq!(lines.dropped(), 2);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_no_wait() {
        let path = temporary("pipe");
        make_pipe(&path);
        assert!(open(&AccessTarget::File(path.clone())).is_err());
        let _ = std::fs::remove_file(&path);
    }

    fn make_pipe(path: &std::path::Path) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("a pipe");
    }

    #[test]
    fn a_pipe_whose_reader_stalls_holds_nobody_and_another_target_goes_on_without_it() {
        let (path, instead) = (temporary("stalled"), temporary("instead"));
        make_pipe(&path);
        // For reading and writing: opening does not wait for the other end.
        let reader = std::fs::File::options().read(true).write(true).open(&path).expect("a pipe");
        let lines = start(open(&AccessTarget::File(path.clone())).expect("it is read"));
        let lines = lines.expect("a thread");
        let log = AccessLog::new(lines.clone());
        let line = "x".repeat(BUFFER_BYTES - 1) + "\n";
        for _ in 0..QUEUE_BYTES / BUFFER_BYTES + 20 {
            write(&log, &line);
        }
        assert!(lines.dropped() > 0, "what found no room was counted");
        assert!(!lines.finish(Instant::now()), "a stop does not wait for it");
        drop((log, lines));
        let lines = start(open(&AccessTarget::File(path.clone())).expect("it is read"));
        let lines = lines.expect("a thread");
        let log = AccessLog::new(lines.clone());
        write(&log, &line);
        let target = AccessTarget::File(instead.clone());
        lines.switch(move || open(&target)).expect("a thread");
        while !instead.exists() {
            std::thread::yield_now();
        }
        write(&log, "goes on\n");
        let went_on =
            || std::fs::read_to_string(&instead).is_ok_and(|it| it.ends_with("goes on\n"));
        while !went_on() {
            std::thread::yield_now();
        }
        assert!(reader.as_fd().try_clone_to_owned().is_ok(), "the pipe was open all the time");
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&instead));
    }
}
