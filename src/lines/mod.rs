//! Lines that leave the process: a bounded queue, and a thread that writes.
//!
//! Whatever a log is written to may be slow, full, hung or gone. Only the thread waits for it; who
//! has something to say appends to the queue, and what finds no room there is dropped and counted.
//! Another target gets a thread of its own, so that one that hangs keeps nothing but the lines it
//! has in hand. Deliberately absent: what the lines say.

mod sink;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sink::Outcome;
pub use sink::Sink;

/// Lines are gathered up to so many bytes for one write.
const CHUNK_BYTES: usize = 16 << 10;
/// Threads of one queue: the one that writes, and those that hang in a target from before.
const THREADS_MAX: usize = 4;

/// A queue of lines and what is written from it. Cheap to clone; when the last one is dropped, the
/// thread ends behind what is queued.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Owner>);

#[derive(Debug)]
struct Owner(Arc<Shared>);

/// What became of lines that were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// The queue is full.
    Dropped {
        /// None was dropped since the queue was empty last.
        is_first: bool,
    },
}

#[derive(Debug)]
struct Shared {
    /// For threads and events, in words.
    name: &'static str,
    bytes_max: usize,
    queue: Mutex<Queue>,
    /// Told of new lines, another turn and the end.
    changed: Condvar,
    /// Told when nothing is left to be written.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread that may take lines; one more with each target.
    turn: u64,
    threads: usize,
    /// Chunks that threads have in hand.
    writing: usize,
    is_closed: bool,
    /// Lines were dropped for want of room, which is not told yet.
    is_short: bool,
}

impl Lines {
    /// Starts the thread, which writes to `sink`; up to `bytes_max` bytes wait for it.
    pub fn start(name: &'static str, sink: Sink, bytes_max: usize) -> io::Result<Self> {
        let shared = Shared {
            name,
            bytes_max,
            queue: Mutex::default(),
            changed: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        };
        let lines = Self(Arc::new(Owner(Arc::new(shared))));
        lines.switch(move || Ok(sink))?;
        Ok(lines)
    }

    /// Hands over whole lines, each with its end. Never waits for the target.
    pub fn push(&self, lines: Vec<u8>) -> Pushed {
        let shared = &*self.0.0;
        let mut queue = shared.queue();
        if queue.is_closed || queue.bytes + lines.len() > shared.bytes_max {
            let is_first = !std::mem::replace(&mut queue.is_short, true);
            drop(queue);
            shared.drop_lines(&lines);
            return Pushed::Dropped { is_first };
        }
        queue.bytes += lines.len();
        match queue.chunks.back_mut() {
            Some(last) if last.len() + lines.len() <= CHUNK_BYTES => last.extend_from_slice(&lines),
            _ => queue.chunks.push_back(lines),
        }
        drop(queue);
        shared.changed.notify_one();
        Pushed::Queued
    }

    /// Goes on with what `open` opens, on a thread of its own: neither opening it nor a target from
    /// before that hangs is waited for. Where it cannot be opened the one from before goes on.
    ///
    /// # Errors
    /// When no thread can be started, or too many hang in their targets.
    pub fn switch(
        &self,
        open: impl FnOnce() -> io::Result<Sink> + Send + 'static,
    ) -> io::Result<()> {
        let shared = self.0.0.clone();
        {
            let mut queue = shared.queue();
            if queue.threads == THREADS_MAX {
                return Err(io::Error::other("too many targets from before hang"));
            }
            queue.threads += 1;
        }
        let counted = Counted(shared);
        let thread = std::thread::Builder::new().name(self.0.0.name.to_owned());
        thread.spawn(move || {
            let shared = &*counted.0;
            match open() {
                Ok(sink) => shared.take_over(sink),
                Err(error) => {
                    let log = shared.name;
                    tracing::error!(%error, "the {log} cannot be opened; the old one goes on");
                }
            }
        })?;
        Ok(())
    }

    /// Lines that were dropped because what takes them could not keep up, or failed.
    pub fn dropped(&self) -> u64 {
        self.0.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all is written, at most until `deadline`; takes no more. Whether all was.
    pub fn finish(&self, deadline: Instant) -> bool {
        let shared = &*self.0.0;
        let mut queue = shared.queue();
        queue.is_closed = true;
        shared.changed.notify_all();
        loop {
            if queue.chunks.is_empty() && queue.writing == 0 {
                return true;
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return false;
            }
            let waited = shared.written.wait_timeout(queue, patience);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.queue().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_lines(&self, lines: &[u8]) {
        self.dropped.fetch_add(sink::count(lines), Ordering::Relaxed);
    }

    /// Writes to `sink` until another one has its turn, or the end.
    fn take_over(&self, mut sink: Sink) {
        let turn = {
            let mut queue = self.queue();
            queue.turn += 1;
            queue.turn
        };
        self.changed.notify_all();
        let mut outage = Outage::default();
        while let Some(chunk) = self.next(turn) {
            let Outcome { error, dropped } = sink.write(&chunk);
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
            outage.tell(self, error.as_ref(), dropped);
            self.written(error.is_some());
        }
        self.dropped.fetch_add(sink.leave(), Ordering::Relaxed);
    }

    /// The next lines for the thread that has `turn`; nothing when that is over.
    fn next(&self, turn: u64) -> Option<Vec<u8>> {
        let mut queue = self.queue();
        loop {
            if queue.turn != turn {
                return None;
            }
            if let Some(chunk) = queue.chunks.pop_front() {
                queue.bytes -= chunk.len();
                queue.writing += 1;
                return Some(chunk);
            }
            if queue.is_closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A chunk is done with; tells of lines that found no room, once there is room for all.
    fn written(&self, is_failing: bool) {
        let mut queue = self.queue();
        queue.writing -= 1;
        if !queue.chunks.is_empty() {
            return;
        }
        let was_short = !is_failing && std::mem::take(&mut queue.is_short);
        drop(queue);
        if was_short {
            let (log, lines) = (self.name, self.dropped.load(Ordering::Relaxed));
            tracing::warn!(lines, "lines of the {log} were dropped: what takes them was too slow");
        }
        self.written.notify_all();
    }
}

/// A thread in the count of its queue.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.queue().threads -= 1;
    }
}

/// Failures of a target in a row: told once, and once when they have ended.
#[derive(Debug, Default)]
struct Outage {
    is_on: bool,
    dropped: u64,
}

impl Outage {
    fn tell(&mut self, shared: &Shared, error: Option<&io::Error>, dropped: u64) {
        let log = shared.name;
        self.dropped += dropped;
        let was_on = std::mem::replace(&mut self.is_on, error.is_some());
        match error {
            Some(error) if !was_on => {
                tracing::error!(%error, "the {log} cannot be written; its lines are dropped");
            }
            None if was_on => {
                let lines = std::mem::take(&mut self.dropped);
                tracing::warn!(lines, "the {log} is written again; lines were dropped");
            }
            _ => {}
        }
    }
}
