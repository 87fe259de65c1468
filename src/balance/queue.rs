//! Requests of a pool that wait for a place, first come first served.
//!
//! Only the front waiter picks, whatever worker it is on; whoever gives a place back wakes it. A
//! waiter that leaves for any reason drops its [`Place`] and wakes the next one. The queue lives
//! as long as the pool's name: a reload lets nobody in before those who wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A bounded FIFO of waiters.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: Mutex<VecDeque<Arc<Notify>>>,
    /// Length of `waiters`, readable without its lock.
    len: AtomicUsize,
}

/// The pool's queue holds `limits.queue` requests already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }

    /// Takes the last place, unless `max` are taken.
    pub(super) fn join(&self, max: usize) -> Result<Arc<Notify>, QueueFull> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.len() >= max {
            return Err(QueueFull);
        }
        let turn = Arc::new(Notify::new());
        waiters.push_back(turn.clone());
        self.len.store(waiters.len(), Ordering::SeqCst);
        Ok(turn)
    }

    pub(super) fn is_front(&self, turn: &Arc<Notify>) -> bool {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.front().is_some_and(|front| Arc::ptr_eq(front, turn))
    }

    /// Gives a place up and lets the new front try.
    fn leave(&self, turn: &Arc<Notify>) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        match waiters.front() {
            Some(front) if Arc::ptr_eq(front, turn) => drop(waiters.pop_front()),
            _ => waiters.retain(|waiter| !Arc::ptr_eq(waiter, turn)),
        }
        self.len.store(waiters.len(), Ordering::SeqCst);
        if let Some(front) = waiters.front() {
            front.notify_one();
        }
    }

    /// Something became free.
    pub(super) fn wake(&self) {
        if self.len() == 0 {
            return;
        }
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(front) = waiters.front() {
            front.notify_one();
        }
    }
}

/// A place in the queue of a pool, given up when dropped.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    turn: Arc<Notify>,
}

impl Place {
    pub(super) fn new(queue: Arc<Queue>, turn: Arc<Notify>) -> Self {
        Self { queue, turn }
    }

    /// Whether it is this waiter's turn to pick.
    pub fn is_front(&self) -> bool {
        self.queue.is_front(&self.turn)
    }

    /// Resolves when a pick may have become possible.
    pub async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.leave(&self.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_in_order_up_to_the_bound() {
        let queue = Queue::default();
        let first = queue.join(2).expect("a free place");
        let second = queue.join(2).expect("a free place");
        assert_eq!(queue.join(2).err(), Some(QueueFull));
        assert!(queue.is_front(&first));
        queue.leave(&first);
        assert!(queue.is_front(&second));
        assert_eq!(queue.len(), 1);
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_wakes_the_next() {
        let queue = Queue::default();
        let first = queue.join(2).expect("a free place");
        let second = queue.join(2).expect("a free place");
        queue.leave(&first);
        second.notified().await;
        assert!(queue.is_front(&second));
    }
}
