//! The bounds on open client connections: of one listener over all workers, and of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts connections; that of a listener lives as long as its name.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: AtomicUsize,
    max: AtomicUsize,
    closed: Notify,
    /// That of the process, which counts these as well.
    of_process: Option<Arc<Self>>,
}

/// An open connection in the counts, until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// The bound of a process, which all its listeners share.
    pub fn of_process(max: usize) -> Arc<Self> {
        Self::with(max, None)
    }

    pub(super) fn new(max: usize, of_process: &Arc<Self>) -> Arc<Self> {
        Self::with(max, Some(of_process.clone()))
    }

    fn with(max: usize, of_process: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            closed: Notify::new(),
            of_process,
        })
    }

    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.closed.notify_waiters();
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place now, if there is one.
    pub fn try_connect(self: &Arc<Self>) -> Option<Connected> {
        if !self.count() {
            return None;
        }
        if self.of_process.as_ref().is_none_or(|process| process.count()) {
            return Some(Connected(self.clone()));
        }
        self.discount();
        None
    }

    /// Waits for a place.
    pub async fn connect(self: &Arc<Self>) -> Connected {
        self.counted().await;
        if let Some(process) = &self.of_process {
            // Given back if nobody waits any more.
            let of_listener = Uncounted(self);
            process.counted().await;
            std::mem::forget(of_listener);
        }
        Connected(self.clone())
    }

    async fn counted(&self) {
        loop {
            let closed = self.closed.notified();
            if self.count() {
                return;
            }
            closed.await;
        }
    }

    fn discount(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.closed.notify_one();
    }

    fn count(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        if self.open.fetch_add(1, Ordering::Relaxed) < max {
            return true;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        false
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.discount();
        if let Some(process) = &self.0.of_process {
            process.discount();
        }
    }
}

/// A place with its listener that has none with the process yet.
struct Uncounted<'a>(&'a ConnectionLimit);

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        self.0.discount();
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
    async fn listeners_share_the_bound_of_their_process() {
        let process = ConnectionLimit::of_process(2);
        let (a, b) = (ConnectionLimit::new(2, &process), ConnectionLimit::new(2, &process));
        let first = a.try_connect().expect("a free place");
        let _second = b.try_connect().expect("a free place");
        assert!(a.try_connect().is_none() && b.try_connect().is_none());
        assert_eq!((a.open(), b.open(), process.open()), (1, 1, 2));
        let (third, ()) = tokio::join!(b.connect(), async { drop(first) });
        assert_eq!((a.open(), b.open(), process.open()), (0, 2, 2));
        drop(third);
        assert_eq!(process.open(), 1);
    }
}
