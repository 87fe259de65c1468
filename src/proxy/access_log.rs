//! The access log: lines are made on the worker, written by a thread of their own.
//!
//! A worker appends to a buffer of its own and hands it on when it is large or old enough. The
//! queue to the writer is bounded; when the writer cannot keep up, buffers are dropped and their
//! lines counted. A worker never waits for a disk or a pipe.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::Version;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::log_format;
use crate::config::model::{AccessFormat, AccessTarget};
use crate::snapshot::stats::Finished;

/// A buffer of this size is handed on at once, in bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// Buffers that may wait for the writer.
const QUEUE_BUFFERS: usize = 1024;
/// How long a stop waits for a target that does not take what is queued.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);

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
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    buffer: RefCell<Buffer>,
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

/// The process's end: the thread that writes.
#[derive(Debug)]
pub struct LogWriter {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    next: NextSink,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// The target to go on with, taken by the writer before its next buffer.
type NextSink = Arc<Mutex<Option<Sink>>>;

impl LogWriter {
    /// Starts the thread. Fails if the target cannot be opened.
    pub fn start(target: &AccessTarget) -> io::Result<Self> {
        let sink = Sink::open(target)?;
        let (queue, buffers) = sync_channel(QUEUE_BUFFERS);
        let (alive, ended) = sync_channel(1);
        let next = NextSink::default();
        let dropped = Arc::<AtomicU64>::default();
        let theirs = (next.clone(), dropped.clone());
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_all(sink, &buffers, &theirs.0, &theirs.1);
            drop(alive);
        })?;
        Ok(Self { queue, dropped, next, ended })
    }

    /// A handle for one worker.
    pub fn handle(&self) -> AccessLog {
        AccessLog {
            buffer: RefCell::default(),
            queue: self.queue.clone(),
            dropped: self.dropped.clone(),
        }
    }

    /// Goes on with `sink`, once the buffer at hand is written. Never waits.
    pub fn switch(&self, sink: Sink) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        // An empty buffer makes an idle writer look; a full queue will anyway.
        let _ = self.queue.try_send(Vec::new());
    }

    /// Counts lines that were dropped because the writer could not keep up, or could not write.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// Writes what is queued and ends the thread, once every handle is gone.
    pub fn finish(self) {
        let Self { queue, ended, .. } = self;
        drop(queue);
        // Nothing is ever sent: it ends by the thread's end, or the target is stuck.
        let _ = ended.recv_timeout(FINISH_PATIENCE);
    }
}

impl AccessLog {
    /// Appends a line.
    pub fn write(&self, format: &AccessFormat, record: &Record<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        log_format::line(&mut buffer.bytes, format, record, SystemTime::now());
        buffer.lines += 1;
        if buffer.bytes.len() >= BUFFER_BYTES {
            self.hand_on(&mut buffer);
        }
    }

    /// Hands on what has gathered. Called regularly, so that no line waits for others.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.lines > 0 {
            self.hand_on(&mut buffer);
        }
    }

    fn hand_on(&self, buffer: &mut Buffer) {
        let bytes = std::mem::replace(&mut buffer.bytes, Vec::with_capacity(BUFFER_BYTES + 1024));
        let lines = std::mem::take(&mut buffer.lines);
        if self.queue.try_send(bytes).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

/// Where lines go, open.
#[derive(Debug)]
pub struct Sink(Output);

#[derive(Debug)]
enum Output {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(File),
    Off,
}

impl Sink {
    pub fn open(target: &AccessTarget) -> io::Result<Self> {
        Ok(Self(match target {
            AccessTarget::Stdout => Output::Stdout(io::stdout()),
            AccessTarget::Stderr => Output::Stderr(io::stderr()),
            AccessTarget::Off => Output::Off,
            AccessTarget::File(path) => {
                // A pipe that nobody reads fails here, instead of making us wait for a reader.
                let flags = libc::O_NONBLOCK;
                let file =
                    OpenOptions::new().create(true).append(true).custom_flags(flags).open(path)?;
                // From here on it may block the writer, and nobody else.
                fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
                Output::File(file)
            }
        }))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Output::Stdout(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Output::Stderr(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Output::File(file) => file.write_all(bytes),
            Output::Off => Ok(()),
        }
    }
}

fn write_all(mut sink: Sink, buffers: &Receiver<Vec<u8>>, next: &NextSink, dropped: &AtomicU64) {
    let mut failing = false;
    while let Ok(buffer) = buffers.recv() {
        if let Some(next) = next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            sink = next;
        }
        let Err(error) = sink.write(&buffer) else {
            failing = false;
            continue;
        };
        let lines = memchr::memchr_iter(b'\n', &buffer).count();
        dropped.fetch_add(lines as u64, Ordering::Relaxed);
        // Once for each outage, not once for each buffer.
        if !failing {
            failing = true;
            tracing::error!(%error, "the access log cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("headwater-log-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_renamed_file_is_followed_until_it_is_opened_anew() {
        let (path, moved) = (temporary("a"), temporary("a.1"));
        let target = AccessTarget::File(path.clone());
        let writer = LogWriter::start(&target).expect("the folder is writable");
        let log = writer.handle();
        let line = |text: &str| {
            let mut buffer = log.buffer.borrow_mut();
            buffer.bytes.extend_from_slice(text.as_bytes());
            buffer.lines += 1;
        };
        line("one\n");
        log.flush();
        std::fs::rename(&path, &moved).expect("the file exists");
        line("two\n");
        log.flush();
        writer.switch(Sink::open(&target).expect("the folder is writable"));
        line("three\n");
        log.flush();
        drop(log);
        writer.finish();
        let all = std::fs::read_to_string(&moved).expect("the old file")
            + &std::fs::read_to_string(&path).unwrap_or_default();
        assert!(all.starts_with("one\ntwo\n") || all.ends_with("two\nthree\n"), "{all}");
        assert!(std::fs::read_to_string(&path).is_ok_and(|new| new.ends_with("three\n")));
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&moved));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let writer = LogWriter::start(&AccessTarget::File("/dev/full".into())).expect("a device");
        let (log, dropped) = (writer.handle(), writer.dropped());
        log.buffer.borrow_mut().bytes.extend_from_slice(b"one\ntwo\n");
        log.buffer.borrow_mut().lines = 2;
        log.flush();
        drop(log);
        writer.finish();
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_no_wait() {
        let path = temporary("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a pipe");
        assert!(Sink::open(&AccessTarget::File(path.clone())).is_err());
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn lines_that_find_the_queue_full_are_counted() {
        let (queue, orders) = sync_channel(1);
        let log = AccessLog { buffer: RefCell::default(), queue, dropped: Arc::default() };
        for _ in 0..3 {
            log.buffer.borrow_mut().lines = 5;
            log.flush();
        }
        assert_eq!(log.dropped.load(Ordering::Relaxed), 10);
        drop(orders);
    }
}
