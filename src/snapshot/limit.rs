//! The bound on open client connections of one listener, over all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts connections; lives as long as the listener's name.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: AtomicUsize,
    max: AtomicUsize,
    closed: Notify,
}

/// An open connection in the count, until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<ConnectionLimit>);

impl ConnectionLimit {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            closed: Notify::new(),
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
        let max = self.max.load(Ordering::Relaxed);
        if self.open.fetch_add(1, Ordering::Relaxed) < max {
            return Some(Connected(self.clone()));
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Waits for a place.
    pub async fn connect(self: &Arc<Self>) -> Connected {
        loop {
            let closed = self.closed.notified();
            if let Some(connected) = self.try_connect() {
                return connected;
            }
            closed.await;
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_becomes_free_when_a_connection_ends() {
        let limit = ConnectionLimit::new(1);
        let first = limit.try_connect().expect("a free place");
        assert!(limit.try_connect().is_none());
        let (second, ()) = tokio::join!(limit.connect(), async { drop(first) });
        assert_eq!(limit.open(), 1);
        drop(second);
    }

    #[tokio::test]
    async fn a_raised_limit_lets_waiters_in() {
        let limit = ConnectionLimit::new(0);
        let (_connected, ()) = tokio::join!(limit.connect(), async { limit.set_max(1) });
        assert_eq!(limit.open(), 1);
    }
}
