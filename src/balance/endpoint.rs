//! One upstream server: its address, what is counted about it, and its standing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::complaints::{Complaints, LastError};
use super::hash;
use super::latency::Latency;
use super::outcome::Outcome;
use super::queue::Queue;
use super::record::{Record, Watch};
use super::shared::Shared;
use super::standing::{Availability, Circuit, Standing, Verdict};
use crate::config::model::Address;
use crate::error::Kind;
use crate::metrics::status::StatusCounts;
use crate::metrics::{Counter, PerWorker};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An endpoint of one pool. It outlives reloads as long as its pool keeps the address.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process, never used again.
    pub id: u64,
    pub address: Address,
    /// The address as text: the metric label.
    pub label: Arc<str>,
    /// What keys are hashed with; of the label, so that it is the same everywhere.
    pub(super) seed: u64,
    /// Of its pool.
    pub(super) queue: Arc<Queue>,
    /// Of its pool.
    pub(super) watch: Arc<Watch>,
    /// Where to connect, in the order to try; empty while a name does not resolve.
    resolved: ArcSwap<Vec<SocketAddr>>,
    /// Requests leased on all workers.
    pub(super) in_flight: AtomicUsize,
    /// Those of them that are tunnels, or ask for one.
    tunnels: AtomicUsize,
    /// Open connections of all workers, idle ones included.
    open: AtomicUsize,
    /// Wakes those that wait for a connection to close.
    closed: Notify,
    /// How many do.
    wanted: AtomicUsize,
    /// Idle connections of all workers.
    idle: AtomicUsize,
    pub(super) latency: Latency,
    pub(super) record: Record,
    /// Failed tries in a row.
    pub(super) failures: AtomicU32,
    /// Some of them may be the fault of a request.
    pub(super) is_doubtful: AtomicBool,
    /// Slow answers in a row.
    pub(super) slow: AtomicU32,
    standing: Mutex<Standing>,
    complaints: Complaints,
    /// A [`Manual`]. Shared with the endpoint that takes its place when how it is reached changes.
    manual: Arc<AtomicU8>,
    pub stats: EndpointStats,
}

#[derive(Debug, Default)]
pub struct EndpointStats {
    pub codes: PerWorker<StatusCounts>,
    pub probes_succeeded: Counter,
    pub probes_failed: Counter,
    pub ejections: Counter,
}

/// What was said of an endpoint by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manual {
    /// Nothing: it is judged by what it does.
    Ready,
    /// It gets no more requests; those under way end in their own time.
    Drain,
    /// The same, and its connections at rest are closed.
    Down,
}

impl Manual {
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Down];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}

impl Endpoint {
    /// `before` was the endpoint at this address.
    pub(super) fn new(
        address: Address,
        verdict: Verdict,
        shared: &Shared,
        before: Option<&Self>,
    ) -> Self {
        let label: Arc<str> = address.to_string().into();
        let resolved = match &address {
            Address::Socket(socket) => vec![*socket],
            Address::Name { .. } | Address::Unix(_) => Vec::new(),
        };
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            seed: hash::key(label.as_bytes()),
            label,
            queue: shared.queue.clone(),
            watch: shared.watch.clone(),
            address,
            resolved: ArcSwap::from_pointee(resolved),
            in_flight: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            closed: Notify::new(),
            wanted: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            latency: Latency::default(),
            record: Record::default(),
            failures: AtomicU32::new(0),
            is_doubtful: AtomicBool::new(false),
            slow: AtomicU32::new(0),
            standing: Mutex::new(Standing::new(verdict)),
            complaints: Complaints::default(),
            manual: before.map(|before| before.manual.clone()).unwrap_or_default(),
            stats: EndpointStats::default(),
        }
    }

    /// The same as a member of the pool called `pool`.
    pub(super) fn of(mut self, pool: &Arc<str>) -> Self {
        self.complaints.pool = pool.clone();
        self
    }

    /// An answer broke a rule, or there was none: `reason` says why. The log tells it now and then.
    pub fn complain(&self, kind: Kind, reason: String, now: Instant) {
        self.complaints.tell(&self.label, kind.as_str(), reason, now);
    }

    /// The same of what the log tells elsewhere.
    pub fn keep_error(&self, kind: Kind, reason: String, now: Instant) {
        self.complaints.keep(kind.as_str(), reason, now);
    }

    /// What last went wrong with a request.
    pub fn last_error(&self) -> Option<LastError> {
        self.complaints.last()
    }

    /// The addresses to connect to. For a unix socket there are none.
    pub fn resolved(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    /// Replaces what the endpoint's name resolves to; true if that changed.
    pub fn set_resolved(&self, addresses: Vec<SocketAddr>) -> bool {
        let changed = **self.resolved.load() != addresses;
        if changed {
            self.resolved.store(Arc::new(addresses));
        }
        changed
    }

    /// False for a name that has not been resolved: no request can be sent there.
    pub fn is_resolved(&self) -> bool {
        !matches!(self.address, Address::Name { .. }) || !self.resolved.load().is_empty()
    }

    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests in flight that are tunnels, or ask for one.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Counts a tunnel unless `max` are.
    pub(super) fn begin_tunnel(&self, max: usize) -> bool {
        try_increment(&self.tunnels, max)
    }

    pub(super) fn end_tunnel(&self) {
        self.tunnels.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn connections_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn connections_idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// The average time to the first byte in seconds, once there was an answer.
    pub fn latency_seconds(&self, now_millis: u32) -> Option<f64> {
        self.latency.nanos(now_millis).map(|nanos| f64::from(nanos) / 1e9)
    }

    /// Counts a connection as open unless `max` are.
    pub fn open_connection(self: &Arc<Self>, max: usize) -> Option<OpenConnection> {
        try_increment(&self.open, max).then(|| OpenConnection(self.clone()))
    }

    /// Resolves when a connection closes after this call.
    pub fn connection_closed(&self) -> impl Future<Output = ()> {
        self.closed.notified()
    }

    /// Counts somebody who waits for a connection to close.
    pub fn want_connection(self: &Arc<Self>) -> WantedConnection {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        WantedConnection(self.clone())
    }

    /// Whether a connection at rest is in the way of somebody, where `max` may be open.
    pub fn must_give_way(&self, max: usize) -> bool {
        let wanted = self.wanted.load(Ordering::SeqCst);
        wanted > 0 && self.open.load(Ordering::SeqCst) + wanted > max
    }

    /// Counts a connection as idle unless `max` are.
    pub fn idle_connection(self: &Arc<Self>, max: usize) -> Option<IdleConnection> {
        try_increment(&self.idle, max).then(|| IdleConnection(self.clone()))
    }

    /// A request of this key was answered well, to the end.
    #[inline]
    pub(super) fn succeeded(&self, key: u64) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.is_doubtful.store(false, Ordering::Relaxed);
        }
        self.record.follow_good();
        if let Some(window) = self.watch.window() {
            self.record.good(key, window);
        }
    }

    /// An answer that had begun well ended like this. Who judges endpoints hears of it later.
    pub(super) fn ended(&self, outcome: Outcome, key: u64, now_millis: u32) {
        if outcome == Outcome::Good {
            return self.succeeded(key);
        }
        let median = self.watch.median.last().unwrap_or_default();
        self.latency.observe_at_least(Duration::from_nanos(median as u64), now_millis);
        self.record.follow_error();
        if outcome.is_failure() {
            self.record.failed(key, self.watch.failed(now_millis));
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.is_doubtful.store(true, Ordering::Relaxed);
            self.watch.is_due.store(true, Ordering::Relaxed);
        }
    }

    /// What was said by hand.
    pub fn manual(&self) -> Manual {
        let code = usize::from(self.manual.load(Ordering::Relaxed));
        Manual::ALL.get(code).copied().unwrap_or(Manual::Ready)
    }

    pub(super) fn set_manual(&self, manual: Manual) {
        self.manual.store(manual as u8, Ordering::Relaxed);
    }

    /// Whether it may be picked: what was said by hand, then how it stands.
    pub fn availability(&self, now: Instant) -> Availability {
        match self.manual() {
            Manual::Ready => self.standing().availability(now),
            Manual::Drain => Availability::Draining,
            Manual::Down => Availability::Down,
        }
    }

    pub fn circuit(&self, now: Instant) -> Circuit {
        self.standing().circuit(now)
    }

    pub fn standing(&self) -> MutexGuard<'_, Standing> {
        // Every update of a standing is complete, so a panic elsewhere leaves nothing half done.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection in the count of its endpoint, until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<Endpoint>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.closed.notify_one();
    }
}

/// Somebody who waits for a connection to close, until it is dropped.
#[derive(Debug)]
pub struct WantedConnection(Arc<Endpoint>);

impl Drop for WantedConnection {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An idle connection in the count of its endpoint, until it is dropped.
#[derive(Debug)]
pub struct IdleConnection(Arc<Endpoint>);

impl Drop for IdleConnection {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one unless `max` is reached; exact over all threads. In one order with [`Queue`], whose
/// waiters must not miss a place that is given back.
pub(super) fn try_increment(count: &AtomicUsize, max: usize) -> bool {
    if count.fetch_add(1, Ordering::SeqCst) < max {
        return true;
    }
    count.fetch_sub(1, Ordering::SeqCst);
    false
}
