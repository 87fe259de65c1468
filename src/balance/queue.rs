//! Requests of a pool that wait for a place, first come first served; but clients that have their
//! share of the places stand behind all others.
//!
//! Only the next waiter picks, whatever worker it is on; whoever gives a place back wakes it. A
//! waiter that leaves for any reason drops its [`Place`] and wakes the next one. The queue lives
//! as long as the pool's name: a reload lets nobody in before those who wait.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::crowd::{ClientId, Crowd};

/// Requests at the end of a full queue among which one is looked for that may go.
const NEWEST_MAX: usize = 64;

/// A bounded FIFO of waiters.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: Mutex<VecDeque<Arc<Waiter>>>,
    /// Length of `waiters`, readable without its lock.
    len: AtomicUsize,
    pub(super) crowd: Crowd,
}

/// One request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    turn: Notify,
    /// `None` where no client is counted.
    client: Option<ClientId>,
    /// It made room for another client's request.
    is_put_out: AtomicBool,
}

/// The pool's queue holds `limits.queue` requests already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }

    /// Takes the last place, unless `max` are taken, and not by another client that has more.
    pub(super) fn join(
        &self,
        max: usize,
        client: Option<ClientId>,
    ) -> Result<Arc<Waiter>, QueueFull> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.len() >= max {
            let last = client.and_then(|client| last_of_another(&waiters, client));
            let put_out = last.and_then(|last| waiters.remove(last)).ok_or(QueueFull)?;
            put_out.is_put_out.store(true, Ordering::SeqCst);
            put_out.turn.notify_one();
        }
        let waiter =
            Arc::new(Waiter { turn: Notify::new(), client, is_put_out: AtomicBool::new(false) });
        waiters.push_back(waiter.clone());
        self.len.store(waiters.len(), Ordering::SeqCst);
        Ok(waiter)
    }

    pub(super) fn is_next(&self, waiter: &Arc<Waiter>) -> bool {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        self.next(&waiters).is_some_and(|next| Arc::ptr_eq(next, waiter))
    }

    /// The first whose client is within its share, or the first of all.
    fn next<'a>(&self, waiters: &'a VecDeque<Arc<Waiter>>) -> Option<&'a Arc<Waiter>> {
        let within = |waiter: &&Arc<Waiter>| {
            waiter.client.is_none_or(|client| !self.crowd.has_its_share(client))
        };
        waiters.iter().find(within).or_else(|| waiters.front())
    }

    /// Gives a place up and lets the next one try.
    fn leave(&self, waiter: &Arc<Waiter>) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        match waiters.front() {
            Some(front) if Arc::ptr_eq(front, waiter) => drop(waiters.pop_front()),
            _ => waiters.retain(|other| !Arc::ptr_eq(other, waiter)),
        }
        self.len.store(waiters.len(), Ordering::SeqCst);
        if let Some(next) = self.next(&waiters) {
            next.turn.notify_one();
        }
    }

    /// Something became free.
    pub(super) fn wake(&self) {
        if self.len() == 0 {
            return;
        }
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = self.next(&waiters) {
            next.turn.notify_one();
        }
    }
}

/// Where the last request of the client waits that has the most of the newest, if that is more than
/// `client` would have of them. All workers wait for the lock meanwhile, so it looks at few.
fn last_of_another(waiters: &VecDeque<Arc<Waiter>>, client: ClientId) -> Option<usize> {
    let mut counts = HashMap::new();
    for waiter in waiters.iter().rev().take(NEWEST_MAX) {
        *counts.entry(waiter.client?).or_insert(0_usize) += 1;
    }
    let own = counts.get(&client).copied().unwrap_or_default();
    let (greediest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (greediest != client && most > own + 1)
        .then(|| waiters.iter().rposition(|waiter| waiter.client == Some(greediest)))?
}

/// A place in the queue of a pool, given up when dropped.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    waiter: Arc<Waiter>,
}

impl Place {
    pub(super) fn new(queue: Arc<Queue>, waiter: Arc<Waiter>) -> Self {
        Self { queue, waiter }
    }

    /// Whether it is this waiter's turn to pick.
    pub fn is_next(&self) -> bool {
        self.queue.is_next(&self.waiter)
    }

    /// Whether it made room for a request of another client.
    pub fn is_put_out(&self) -> bool {
        self.waiter.is_put_out.load(Ordering::SeqCst)
    }

    /// Resolves when a pick may have become possible, or the place is lost.
    pub async fn turn(&self) {
        self.waiter.turn.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.leave(&self.waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_in_order_up_to_the_bound() {
        let queue = Queue::default();
        let first = queue.join(2, None).expect("a free place");
        let second = queue.join(2, None).expect("a free place");
        assert_eq!(queue.join(2, None).err(), Some(QueueFull));
        assert!(queue.is_next(&first));
        queue.leave(&first);
        assert!(queue.is_next(&second));
        assert_eq!(queue.len(), 1);
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_wakes_the_next() {
        let queue = Queue::default();
        let first = queue.join(2, None).expect("a free place");
        let second = queue.join(2, None).expect("a free place");
        queue.leave(&first);
        second.turn.notified().await;
        assert!(queue.is_next(&second));
    }

    fn clients(queue: &Queue) -> [Option<ClientId>; 2] {
        ["192.0.2.1", "192.0.2.2"].map(|ip| Some(queue.crowd.client(ip.parse().expect("an ip"))))
    }

    #[test]
    fn who_has_its_share_stands_behind_all_others() {
        let queue = Queue::default();
        let [greedy, modest] = clients(&queue);
        queue.crowd.set_places_max(1);
        greedy.into_iter().for_each(|client| queue.crowd.take(client));
        let first = queue.join(3, greedy).expect("a free place");
        assert!(queue.is_next(&first));
        let second = queue.join(3, modest).expect("a free place");
        assert!(queue.is_next(&second));
        queue.leave(&second);
        assert!(queue.is_next(&first));
        greedy.into_iter().for_each(|client| queue.crowd.give_back(client));
        let _third = queue.join(3, modest).expect("a free place");
        assert!(queue.is_next(&first));
    }

    #[test]
    fn in_a_full_queue_the_client_with_the_most_makes_room() {
        let queue = Arc::new(Queue::default());
        let [greedy, modest] = clients(&queue);
        let join = |client| queue.join(3, client).map(|it| Place::new(queue.clone(), it));
        let all: Vec<_> = (0..3).filter_map(|_| join(greedy).ok()).collect();
        assert!(join(greedy).is_err() && join(None).is_err());
        let place = join(modest).expect("room is made");
        let put_out: Vec<_> = all.iter().map(Place::is_put_out).collect();
        assert_eq!(put_out, [false, false, true]);
        // Both are even now, as far as they can be.
        assert!(join(modest).is_err());
        drop((all, place));
        assert_eq!(queue.len(), 0);
    }
}
