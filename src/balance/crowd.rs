//! Clients that compete for the places of a pool, none of which may hold more than a share of them
//! while others wait.
//!
//! Nothing is held against a client while there is room for all: a pool is contested only once a
//! client within its share had to wait. Counts are kept by a hash of the address, above a level of
//! each endpoint, so that neither memory nor the usual pick grows with the clients. What a client
//! holds only because it does not read, or send, may then be called in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use super::hash;
use super::queue::Queue;
use super::rng::Rng;

/// Counters of one pool. Two clients that share one count as one.
const COUNTERS: usize = 4096;
/// How long a pool is contested after a client within its share had to wait.
const CONTESTED: Duration = Duration::from_secs(60);

/// The counter of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientId(u16);

#[derive(Debug)]
pub(super) struct Crowd {
    /// So that nobody can choose whom to share a counter with.
    seed: u64,
    /// Made when the first place is counted: most pools never need them.
    held: OnceLock<Box<[AtomicU32]>>,
    /// Counted places that one client may hold while others wait.
    places_max: AtomicU32,
    /// On the process clock, in milliseconds; 0: it never was.
    contested_until: AtomicU64,
    stalled: Mutex<Stalled>,
}

/// Requests that hold a counted place and wait for their client.
#[derive(Debug, Default)]
struct Stalled {
    next: u64,
    /// Oldest first.
    waiting: BTreeMap<u64, Arc<Stall>>,
}

#[derive(Debug)]
struct Stall {
    client: ClientId,
    is_called_in: AtomicBool,
    waker: Mutex<Waker>,
}

/// A request that may come to wait for its client while it holds a counted place.
#[derive(Debug)]
pub struct Stalling {
    queue: Arc<Queue>,
    client: ClientId,
    stall: Option<(u64, Arc<Stall>)>,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            seed: Rng::from_entropy().next(),
            held: OnceLock::new(),
            places_max: AtomicU32::new(u32::MAX),
            contested_until: AtomicU64::new(0),
            stalled: Mutex::default(),
        }
    }
}

impl Crowd {
    pub(super) fn client(&self, ip: IpAddr) -> ClientId {
        let key = match ip {
            IpAddr::V4(ip) => hash::key(&(self.seed ^ u64::from(u32::from(ip))).to_le_bytes()),
            // A client has a whole network (RFC 6177).
            IpAddr::V6(ip) => {
                let network = u128::from(ip) >> 64;
                hash::key(&(self.seed ^ network as u64 ^ 1 << 63).to_le_bytes())
            }
        };
        ClientId((key % COUNTERS as u64) as u16)
    }

    fn counter(&self, client: ClientId) -> Option<&AtomicU32> {
        self.held.get()?.get(usize::from(client.0))
    }

    pub(super) fn take(&self, client: ClientId) {
        let held = self.held.get_or_init(|| (0..COUNTERS).map(|_| AtomicU32::new(0)).collect());
        if let Some(held) = held.get(usize::from(client.0)) {
            held.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn give_back(&self, client: ClientId) {
        if let Some(held) = self.counter(client) {
            held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether a client has had its share.
    pub(super) fn has_its_share(&self, client: ClientId) -> bool {
        let held = self.counter(client).map_or(0, |held| held.load(Ordering::Relaxed));
        held >= self.places_max.load(Ordering::Relaxed)
    }

    pub(super) fn set_places_max(&self, places: u32) {
        self.places_max.store(places, Ordering::Relaxed);
    }

    /// Whether clients within their share had to wait of late. `clock` is that of the process.
    pub(super) fn is_contested(&self, clock: impl FnOnce() -> Duration) -> bool {
        let until = self.contested_until.load(Ordering::Relaxed);
        until > 0 && clock() < Duration::from_millis(until)
    }

    /// A client within its share has to wait: what another one holds beyond its own, and does not
    /// use, is called in.
    pub(super) fn contest(&self, clock: Duration) {
        let until = u64::try_from((clock + CONTESTED).as_millis()).unwrap_or(u64::MAX);
        self.contested_until.store(until, Ordering::Relaxed);
        let mut stalled = self.stalled();
        let greedy = stalled.waiting.iter().find(|(_, it)| self.has_its_share(it.client));
        let Some(number) = greedy.map(|(number, _)| *number) else { return };
        if let Some(stall) = stalled.waiting.remove(&number) {
            stall.is_called_in.store(true, Ordering::SeqCst);
            stall.waker.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }

    fn stalled(&self) -> MutexGuard<'_, Stalled> {
        // Every change is complete, so a panic elsewhere leaves nothing half done.
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stalling {
    pub(super) fn new(queue: Arc<Queue>, client: ClientId) -> Self {
        Self { queue, client, stall: None }
    }

    /// Whether the place is to be given back; asked while the request waits for its client. The
    /// task is woken when that becomes so.
    pub fn is_called_in(&mut self, cx: &Context<'_>) -> bool {
        match &self.stall {
            Some((_, stall)) => {
                let mut waker = stall.waker.lock().unwrap_or_else(PoisonError::into_inner);
                if !waker.will_wake(cx.waker()) {
                    waker.clone_from(cx.waker());
                }
                stall.is_called_in.load(Ordering::SeqCst)
            }
            None => {
                let stall = Arc::new(Stall {
                    client: self.client,
                    is_called_in: AtomicBool::new(false),
                    waker: Mutex::new(cx.waker().clone()),
                });
                let mut stalled = self.queue.crowd.stalled();
                let number = stalled.next;
                stalled.next += 1;
                stalled.waiting.insert(number, stall.clone());
                drop(stalled);
                self.stall = Some((number, stall));
                false
            }
        }
    }

    /// The client goes on.
    pub fn goes_on(&mut self) {
        if let Some((number, _)) = self.stall.take() {
            self.queue.crowd.stalled().waiting.remove(&number);
        }
    }
}

impl Drop for Stalling {
    fn drop(&mut self) {
        self.goes_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_client_of_ipv6_is_a_network() {
        let crowd = Crowd::default();
        let client = |text: &str| crowd.client(text.parse().expect("an address"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff"));
        let networks = (0..64).map(|n| client(&format!("2001:db8:{n}::1")));
        assert!(networks.filter(|it| *it == client("2001:db8::1")).count() < 8);
    }

    #[test]
    fn only_the_stalled_of_a_client_beyond_its_share_are_called_in_oldest_first() {
        let queue = Arc::new(Queue::default());
        let crowd = &queue.crowd;
        crowd.set_places_max(2);
        let client = crowd.client(ANYBODY);
        let cx = Context::from_waker(Waker::noop());
        let mut stalls: Vec<_> = (0..3).map(|_| Stalling::new(queue.clone(), client)).collect();
        crowd.take(client);
        assert!(stalls.iter_mut().all(|stall| !stall.is_called_in(&cx)));
        crowd.contest(Duration::ZERO);
        assert!(stalls.iter_mut().all(|stall| !stall.is_called_in(&cx)));
        crowd.take(client);
        stalls[0].goes_on();
        crowd.contest(Duration::ZERO);
        let called: Vec<_> = stalls.iter_mut().map(|stall| stall.is_called_in(&cx)).collect();
        assert_eq!(called, [false, true, false]);
        drop(stalls);
        assert!(crowd.stalled().waiting.is_empty());
    }

    #[test]
    fn a_pool_is_contested_for_a_while() {
        let crowd = Crowd::default();
        assert!(!crowd.is_contested(|| Duration::ZERO));
        crowd.contest(Duration::from_secs(5));
        assert!(crowd.is_contested(|| Duration::from_secs(64)));
        assert!(!crowd.is_contested(|| Duration::from_secs(65)));
    }
}
