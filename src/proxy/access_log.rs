//! The access log: lines are made on the worker, written by a thread of their own.
//!
//! A worker appends to a buffer of its own and hands it on when it is large or old enough. The
//! queue to the writer is bounded; when the writer cannot keep up, buffers are dropped and their
//! lines counted. A worker never waits for a disk or a pipe.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use http::Version;

use super::log_format;
use crate::config::model::{AccessFormat, AccessTarget};
use crate::snapshot::stats::Finished;

/// A buffer of this size is handed on at once, in bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// Buffers that may wait for the writer.
const QUEUE_BUFFERS: usize = 1024;

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
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    pub error: Option<&'static str>,
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    buffer: RefCell<Buffer>,
    queue: SyncSender<Order>,
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
    queue: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    Write(Vec<u8>),
    /// Open the target anew: it was renamed, or is another one now.
    Open(AccessTarget),
    End,
}

impl LogWriter {
    /// Starts the thread. Fails if the target cannot be opened.
    pub fn start(target: &AccessTarget) -> io::Result<Self> {
        let sink = Sink::open(target)?;
        let (queue, orders) = sync_channel(QUEUE_BUFFERS);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(sink, &orders))?;
        Ok(Self { queue, dropped: Arc::default(), thread: Some(thread) })
    }

    /// A handle for one worker.
    pub fn handle(&self) -> AccessLog {
        AccessLog {
            buffer: RefCell::default(),
            queue: self.queue.clone(),
            dropped: self.dropped.clone(),
        }
    }

    /// Opens the target anew, after what is queued. Waits for room in the queue.
    pub fn open(&self, target: AccessTarget) {
        // Fails only after the thread has ended, and it ends last.
        let _ = self.queue.send(Order::Open(target));
    }

    /// Lines that were dropped because the writer could not keep up.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the thread.
    pub fn finish(mut self) {
        let _ = self.queue.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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
        if self.queue.try_send(Order::Write(bytes)).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

enum Sink {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(File),
    Off,
}

impl Sink {
    fn open(target: &AccessTarget) -> io::Result<Self> {
        Ok(match target {
            AccessTarget::Stdout => Self::Stdout(io::stdout()),
            AccessTarget::Stderr => Self::Stderr(io::stderr()),
            AccessTarget::Off => Self::Off,
            AccessTarget::File(path) => {
                Self::File(OpenOptions::new().create(true).append(true).open(path)?)
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Self::Stderr(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Self::File(file) => file.write_all(bytes),
            Self::Off => Ok(()),
        }
    }
}

fn write_all(mut sink: Sink, orders: &Receiver<Order>) {
    let mut failing = false;
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(bytes) => match sink.write(&bytes) {
                Ok(()) => failing = false,
                // Once for each outage, not once for each buffer.
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, "the access log cannot be written");
                }
                Err(_) => {}
            },
            Order::Open(target) => match Sink::open(&target) {
                Ok(opened) => sink = opened,
                Err(error) => {
                    tracing::error!(%error, ?target, "the access log cannot be opened; the old one goes on");
                }
            },
            Order::End => break,
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
        writer.open(target.clone());
        std::fs::rename(&path, &moved)
            .or_else(|_| {
                // The thread has not come to it yet.
                std::fs::write(&path, "").and_then(|()| std::fs::rename(&path, &moved))
            })
            .expect("the file exists");
        writer.open(target);
        line("two\n");
        log.flush();
        writer.finish();
        let all = std::fs::read_to_string(&moved).expect("the old file")
            + &std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(all, "one\ntwo\n");
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&moved));
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
