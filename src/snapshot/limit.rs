//! The bounds on open client connections: of one listener over all workers, and of the process.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::guests::{Guest, Guests};
use crate::memory::{Charge, Memory};

/// A listener gets one part in so many of the places that no other has to itself yet.
const OWN_SHARE: usize = 4;
/// How long a newcomer waits until others are asked to give way again.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a newcomer waits before anybody is asked: a connection may just be ending.
const ASK_AFTER: Duration = Duration::from_millis(10);
/// Bytes that all windows of connections over HTTP/2 may have beyond what each has anyway.
const WINDOW_BYTES_MAX: u64 = 512 << 20;
/// One connection takes at most one part in so many of what is left of them.
const WINDOW_SHARE: u64 = 8;

/// Counts connections; that of a listener lives as long as its name.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: AtomicUsize,
    max: AtomicUsize,
    closed: Notify,
    /// Newcomers that wait for a place.
    waiting: AtomicUsize,
    /// So many places of the process are this listener's alone.
    own: usize,
    process: Option<Arc<Process>>,
}

/// The places of a process.
#[derive(Debug)]
struct Process {
    /// Connections beyond those that their listeners have to themselves.
    open: AtomicUsize,
    max: AtomicUsize,
    closed: Notify,
    guests: Arc<Guests>,
    windows: Arc<Memory>,
}

/// An open connection in the counts, until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// The bound of a process, which all its listeners share; or one without listeners.
    pub fn of_process(max: usize) -> Arc<Self> {
        let process = Arc::new(Process {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            closed: Notify::new(),
            guests: Guests::new(),
            windows: Memory::new(WINDOW_BYTES_MAX),
        });
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            closed: Notify::new(),
            waiting: AtomicUsize::new(0),
            own: usize::MAX,
            process: Some(process),
        })
    }

    pub(super) fn new(max: usize, of_process: &Arc<Self>) -> Arc<Self> {
        let process = of_process.process.clone();
        let own = process.as_ref().map_or(usize::MAX, |process| process.reserve(max));
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            closed: Notify::new(),
            waiting: AtomicUsize::new(0),
            own,
            process,
        })
    }

    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.closed.notify_waiters();
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether it has more connections than places of its own.
    pub(super) fn is_beyond_its_own(&self) -> bool {
        self.open() > self.own
    }

    /// Takes a place now, if there is one.
    pub fn try_connect(self: &Arc<Self>) -> Option<Connected> {
        let max = self.max.load(Ordering::Relaxed);
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // Counted before it is known whether there is a place, so that all counts agree whatever
        // else comes and goes.
        let has_place = match &self.process {
            Some(process) if before >= self.own => {
                let shared = process.max.load(Ordering::Relaxed);
                process.open.fetch_add(1, Ordering::Relaxed) < shared
            }
            _ => true,
        };
        if before < max && has_place {
            return Some(Connected(self.clone()));
        }
        self.give_back();
        None
    }

    /// Takes a place out of the counts; whether it was one of those that listeners share.
    fn give_back(&self) -> bool {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        let Some(process) = self.process.as_ref().filter(|_| before > self.own) else {
            return false;
        };
        process.open.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Waits for a place. Idle connections are asked to give way meanwhile.
    pub async fn connect(self: &Arc<Self>) -> Connected {
        let _waiting = Waiting::begin(&self.waiting);
        let begun = Instant::now();
        loop {
            let closed = self.closed.notified();
            let of_process = async {
                match &self.process {
                    Some(process) => process.closed.notified().await,
                    None => std::future::pending().await,
                }
            };
            if let Some(connected) = self.try_connect() {
                return connected;
            }
            let patience = ASK_AFTER.saturating_sub(begun.elapsed());
            let wait = if patience.is_zero() {
                self.ask_to_give_way();
                ASK_INTERVAL
            } else {
                patience
            };
            let either = async {
                tokio::select! {
                    () = closed => {}
                    () = of_process => {}
                }
            };
            let _ = timeout(wait, either).await;
        }
    }

    fn ask_to_give_way(self: &Arc<Self>) {
        let Some(process) = &self.process else { return };
        let is_full = self.open() >= self.max.load(Ordering::Relaxed);
        let newcomers = self.waiting.load(Ordering::Relaxed);
        if !is_full && process.guests.ask(None, newcomers) > 0 {
            return;
        }
        process.guests.ask(Some(self), newcomers);
    }

    /// Notes whose connection it is that has a place.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        Some(self.process.as_ref()?.guests.enter(self, address))
    }

    /// As much of `bytes` more for the window of a connection as there is.
    pub fn window(&self, bytes: u64) -> Option<Charge> {
        let windows = &self.process.as_ref()?.windows;
        let left = windows.bytes_max().saturating_sub(windows.used());
        windows.charge(bytes.min(left / WINDOW_SHARE))
    }
}

impl Process {
    /// Sets places aside that only one listener may take.
    fn reserve(&self, max: usize) -> usize {
        let mut own = 0;
        let _ = self.max.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            own = max.min(free / OWN_SHARE);
            Some(free - own)
        });
        own
    }
}

/// A newcomer in the count of those that wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionLimit {
    fn drop(&mut self) {
        if let Some(process) = &self.process
            && self.own != usize::MAX
        {
            process.max.fetch_add(self.own, Ordering::Relaxed);
            process.closed.notify_waiters();
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let limit = &self.0;
        let was_shared = limit.give_back();
        limit.closed.notify_one();
        if was_shared && let Some(process) = &limit.process {
            process.closed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_becomes_free_when_a_connection_ends() {
        let limit = ConnectionLimit::of_process(1);
        let first = limit.try_connect().expect("a free place");
        assert!(limit.try_connect().is_none());
        let (second, ()) = tokio::join!(limit.connect(), async { drop(first) });
        assert_eq!(limit.open(), 1);
        drop(second);
    }

    #[tokio::test]
    async fn a_raised_limit_lets_waiters_in() {
        let limit = ConnectionLimit::of_process(0);
        let (_connected, ()) = tokio::join!(limit.connect(), async { limit.set_max(1) });
        assert_eq!(limit.open(), 1);
    }

    #[tokio::test]
    async fn listeners_share_the_bound_of_their_process_but_for_places_of_their_own() {
        let process = ConnectionLimit::of_process(8);
        let (a, b) = (ConnectionLimit::new(100, &process), ConnectionLimit::new(100, &process));
        // Two are its own, one is the other's.
        let mut of_a: Vec<_> = std::iter::from_fn(|| a.try_connect()).collect();
        assert_eq!(of_a.len(), 7);
        let own = b.try_connect().expect("a place of its own");
        assert!(b.try_connect().is_none());
        let (shared, ()) = tokio::join!(b.connect(), async { drop(of_a.pop()) });
        assert_eq!((a.open(), b.open()), (6, 2));
        drop((shared, own));
        let again = a.try_connect().expect("a place that is free again");
        drop((again, of_a));
        assert_eq!((a.open(), b.open()), (0, 0));
        drop(b);
        assert_eq!(std::iter::from_fn(|| a.try_connect()).collect::<Vec<_>>().len(), 8);
    }
}
