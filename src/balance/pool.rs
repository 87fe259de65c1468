//! The pool: members, candidates, picks and the facts that change them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use http::StatusCode;

use super::budget::Budget;
use super::candidates::{Candidates, Member};
use super::endpoint::{Endpoint, try_increment};
use super::latency::FAILURE_MIN;
use super::metrics::{PoolStats, RetryReason};
use super::queue::{Place, Queue, QueueFull};
use super::rng::Rng;
use super::standing::Verdict;
use crate::config::model::{self, Balance, EndpointSpec, Name};

/// The start of the process clock, on which latencies and budgets count.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// Time since the first call in this process.
fn process_clock(now: Instant) -> Duration {
    now.saturating_duration_since(*EPOCH.get_or_init(|| now))
}

/// The process clock in milliseconds; it wraps after 49 days, which a latency average survives.
pub fn process_millis(now: Instant) -> u32 {
    process_clock(now).as_millis() as u32
}

/// The endpoints behind one name, shared by all workers.
#[derive(Debug)]
pub struct Pool {
    pub name: Name,
    balance: Balance,
    health: Option<model::Health>,
    outlier: Option<model::Outlier>,
    pub limits: model::PoolLimits,
    pub retry: Option<model::Retry>,
    members: ArcSwap<Vec<Member>>,
    candidates: ArcSwap<Candidates>,
    /// Held while candidates are worked out.
    refreshing: Mutex<()>,
    cursor: AtomicUsize,
    budget: Budget,
    pub(super) queue: Queue,
    pub stats: Arc<PoolStats>,
}

/// The result of a pick.
#[derive(Debug)]
pub enum Pick {
    Leased(Lease),
    /// Every usable endpoint is at its limit.
    Full,
    /// No endpoint is usable.
    Empty,
}

/// A request's place on an endpoint, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    /// This request tries an endpoint that was set aside.
    trial: bool,
}

impl Pool {
    /// Compiles a pool. From `previous`, of the same name, it takes over the counters and every
    /// endpoint whose address stays.
    pub fn build(
        spec: &model::Pool,
        endpoints: &[EndpointSpec],
        previous: Option<&Self>,
        now: Instant,
    ) -> Self {
        let known = previous.map(|pool| pool.members()).unwrap_or_default();
        let others_healthy = known
            .iter()
            .any(|member| matches!(member.endpoint.standing().verdict(), Verdict::Healthy));
        let verdict = if others_healthy && spec.health.is_some() {
            Verdict::Awaited
        } else {
            Verdict::Unknown
        };
        let members = endpoints
            .iter()
            .map(|endpoint| Member {
                endpoint: known
                    .iter()
                    .find(|member| member.endpoint.address == endpoint.address)
                    .map_or_else(
                        || Arc::new(Endpoint::new(endpoint.address.clone(), verdict.clone())),
                        |member| member.endpoint.clone(),
                    ),
                weight: endpoint.weight,
                backup: endpoint.backup,
            })
            .collect();
        let pool = Self {
            name: spec.name.clone(),
            balance: spec.balance,
            health: spec.health.clone(),
            outlier: spec.outlier.clone(),
            limits: spec.limits.clone(),
            retry: spec.retry.clone(),
            members: ArcSwap::from_pointee(members),
            candidates: ArcSwap::default(),
            refreshing: Mutex::new(()),
            cursor: AtomicUsize::new(0),
            budget: Budget::default(),
            queue: Queue::default(),
            stats: previous.map(|pool| pool.stats.clone()).unwrap_or_default(),
        };
        pool.refresh(now);
        pool
    }

    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    pub fn health(&self) -> Option<&model::Health> {
        self.health.as_ref()
    }

    pub fn candidates(&self, now: Instant) -> Arc<Candidates> {
        Guard::into_inner(self.current(now))
    }

    /// The candidates, worked out again if time alone has changed them.
    fn current(&self, now: Instant) -> Guard<Arc<Candidates>> {
        let candidates = self.candidates.load();
        if candidates.valid_until.is_none_or(|until| now < until) {
            return candidates;
        }
        self.refresh(now);
        self.candidates.load()
    }

    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Leases an endpoint that is not among `tried` (by id), or one of them where there is no
    /// other. Never waits.
    pub fn pick(self: &Arc<Self>, rng: &Rng, now: Instant, tried: &[u64]) -> Pick {
        let candidates = self.current(now);
        // With a prober and others to choose from, no request need be risked on a trial.
        if !candidates.trials.is_empty()
            && (self.health.is_none() || candidates.members.is_empty())
            && let Some(lease) = self.trial(&candidates, now, tried)
        {
            return Pick::Leased(lease);
        }
        if candidates.members.is_empty() {
            return Pick::Empty;
        }
        let Some(endpoint) = self.choose(&candidates, rng, now, tried) else {
            return Pick::Full;
        };
        self.count_request(now, tried);
        Pick::Leased(Lease { pool: self.clone(), endpoint, trial: false })
    }

    fn trial(
        self: &Arc<Self>,
        candidates: &Candidates,
        now: Instant,
        tried: &[u64],
    ) -> Option<Lease> {
        let endpoint = candidates.trials.iter().find(|endpoint| {
            !tried.contains(&endpoint.id) && endpoint.standing().begin_trial(now)
        })?;
        self.refresh(now);
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        self.count_request(now, tried);
        Some(Lease { pool: self.clone(), endpoint: endpoint.clone(), trial: true })
    }

    /// The budget is a share of the requests, so their further tries do not count.
    fn count_request(&self, now: Instant, tried: &[u64]) {
        if tried.is_empty() {
            self.budget.request(process_clock(now));
        }
    }

    /// Chooses by the policy and counts the request in; `None` if all are at their limit.
    fn choose(
        &self,
        candidates: &Candidates,
        rng: &Rng,
        now: Instant,
        tried: &[u64],
    ) -> Option<Arc<Endpoint>> {
        let members = &candidates.members;
        let fresh = |index: usize| !tried.contains(&members[index].endpoint.id);
        let first = match self.balance {
            Balance::Ewma => self.two_choices(members, rng, now, &fresh),
            Balance::RoundRobin => self.next_in_sequence(candidates, &fresh),
            Balance::LeastRequests => least_loaded(members, rng, &fresh),
        };
        let max = self.requests_max();
        // Where the choice is at its limit, the next one that is not; where all others were
        // tried before, any.
        let start = first.unwrap_or_else(|| rng.below(members.len()));
        let around =
            |from: usize| (0..members.len()).map(move |step| (from + step) % members.len());
        around(start)
            .filter(|index| fresh(*index))
            .chain(around(start).filter(|index| !fresh(*index)))
            .map(|index| &members[index].endpoint)
            .find(|endpoint| try_increment(&endpoint.in_flight, max))
            .cloned()
    }

    /// With HTTP/1.1 every request in flight has a connection of its own.
    fn requests_max(&self) -> usize {
        self.limits.requests_max.min(self.limits.connections_max)
    }

    /// The better of two at random by peak-EWMA × (in flight + 1) / weight.
    fn two_choices(
        &self,
        members: &[Member],
        rng: &Rng,
        now: Instant,
        fresh: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let draw = || {
            let start = rng.below(members.len());
            (0..members.len()).map(|step| (start + step) % members.len()).find(|at| fresh(*at))
        };
        let first = draw()?;
        if members.len() == 1 {
            return Some(first);
        }
        let second = draw()?;
        let second = if second == first {
            (1..members.len())
                .map(|step| (first + step) % members.len())
                .find(|at| fresh(*at))
                .unwrap_or(first)
        } else {
            second
        };
        let now_millis = process_millis(now);
        let (a, b) = (&members[first], &members[second]);
        // An endpoint without a sample is taken to be as fast as the other one.
        let (slow_a, slow_b) =
            match (a.endpoint.latency.nanos(now_millis), b.endpoint.latency.nanos(now_millis)) {
                (Some(a), Some(b)) => (a, b),
                _ => (1.0, 1.0),
            };
        let load = |member: &Member, latency: f32| {
            latency * (member.endpoint.requests_in_flight() + 1) as f32 / member.weight as f32
        };
        Some(if load(b, slow_b) < load(a, slow_a) { second } else { first })
    }

    fn next_in_sequence(
        &self,
        candidates: &Candidates,
        fresh: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let sequence = &candidates.sequence;
        if sequence.is_empty() {
            return None;
        }
        let at = self.cursor.fetch_add(1, Ordering::Relaxed);
        (0..sequence.len())
            .map(|step| usize::from(sequence[(at.wrapping_add(step)) % sequence.len()]))
            .find(|index| fresh(*index))
    }

    /// Waits in line for a place; see [`Place`].
    pub fn queue(self: &Arc<Self>) -> Result<Place, QueueFull> {
        let turn = self.queue.join(self.limits.queue_max)?;
        Ok(Place::new(self.clone(), turn))
    }

    /// Takes a retry from the budget.
    pub fn take_retry(&self, reason: RetryReason, now: Instant) -> bool {
        let free = matches!(reason, RetryReason::Connect | RetryReason::NeverWritten);
        let share = self.retry.as_ref().map_or(0.0, |retry| retry.budget);
        if !free && !self.budget.take(process_clock(now), share) {
            self.stats.retry_budget_exhausted.increment();
            return false;
        }
        self.stats.retries[reason as usize].increment();
        true
    }

    /// A connect of a request failed.
    pub fn connect_failed(&self, endpoint: &Endpoint, now: Instant) {
        endpoint.standing().connect_failed(now);
        self.refresh(now);
        self.failed(endpoint, Duration::ZERO, now);
    }

    pub fn connect_succeeded(&self, endpoint: &Endpoint, took: Duration, now: Instant) {
        self.stats.connect.observe(took);
        let was_aside = {
            let mut standing = endpoint.standing();
            let before = standing.availability(now);
            standing.connect_succeeded();
            before != standing.availability(now)
        };
        if was_aside {
            self.refresh(now);
        }
    }

    /// A response head came.
    pub fn responded(&self, endpoint: &Endpoint, status: StatusCode, took: Duration, now: Instant) {
        endpoint.stats.codes.local().increment(status);
        self.stats.duration.observe(took);
        if matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ) {
            self.failed(endpoint, took, now);
            return;
        }
        endpoint.latency.observe(took, process_millis(now));
        if endpoint.failures.load(Ordering::Relaxed) != 0 {
            endpoint.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A try failed: no connection, a reset before the head, no first byte in time, or a 502, 503
    /// or 504. Enough of them in a row eject the endpoint.
    pub fn failed(&self, endpoint: &Endpoint, took: Duration, now: Instant) {
        endpoint.latency.observe(took.max(FAILURE_MIN), process_millis(now));
        let failures = endpoint.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(outlier) = &self.outlier else { return };
        if failures < outlier.failures || !self.may_eject(outlier, now) {
            return;
        }
        endpoint.failures.store(0, Ordering::Relaxed);
        endpoint.standing().eject(now, outlier.eject_for);
        endpoint.stats.ejections.increment();
        tracing::warn!(pool = %self.name, endpoint = %endpoint.label, failures, "endpoint ejected");
        self.refresh(now);
    }

    /// Whether one more ejected endpoint stays within `eject_max`.
    fn may_eject(&self, outlier: &model::Outlier, now: Instant) -> bool {
        let members = self.members.load();
        let ejected =
            members.iter().filter(|m| m.endpoint.standing().ejection_left(now).is_some()).count();
        (ejected + 1) as f64 <= members.len() as f64 * outlier.eject_max
    }

    /// A probe ended. `Err` holds the reason in words.
    pub fn probed(&self, endpoint: &Endpoint, result: Result<(), String>, now: Instant) {
        let Some(health) = &self.health else { return };
        let (before, after) = {
            let mut standing = endpoint.standing();
            let before = standing.verdict().clone();
            match result {
                Ok(()) => {
                    endpoint.stats.probes_succeeded.increment();
                    standing.probe_succeeded(health);
                }
                Err(reason) => {
                    endpoint.stats.probes_failed.increment();
                    standing.probe_failed(health, reason);
                }
            }
            (before, standing.verdict().clone())
        };
        match &after {
            Verdict::Unhealthy(reason) if !matches!(before, Verdict::Unhealthy(_)) => {
                tracing::warn!(pool = %self.name, endpoint = %endpoint.label, %reason, "endpoint unhealthy");
            }
            Verdict::Healthy if before != after => {
                tracing::info!(pool = %self.name, endpoint = %endpoint.label, "endpoint healthy");
            }
            _ => {}
        }
        self.refresh(now);
    }

    /// A probe could not connect. The endpoint is set aside as after a request's failed connect,
    /// but it is no nearer to an ejection.
    pub fn probe_connect_failed(&self, endpoint: &Endpoint, reason: String, now: Instant) {
        endpoint.standing().connect_failed(now);
        self.probed(endpoint, Err(reason), now);
    }

    /// Forgets what probes said, once there are none any more: nothing would ever take it back.
    pub fn forget_verdicts(&self, now: Instant) {
        for member in self.members.load().iter() {
            member.endpoint.standing().forget_verdict();
        }
        self.refresh(now);
    }

    /// Works the candidates out again and publishes them.
    pub fn refresh(&self, now: Instant) {
        let refreshing = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.load();
        let candidates = Candidates::of(&members, now, self.balance == Balance::RoundRobin);
        let now_millis = process_millis(now);
        if let Some(median) = candidates.median_latency(now_millis) {
            for member in &candidates.members {
                member.endpoint.latency.seed(median, now_millis);
            }
        }
        self.candidates.store(Arc::new(candidates));
        drop(refreshing);
        self.queue.wake();
    }

    /// Whether a request would find an endpoint now. One that is set aside counts only where it
    /// takes a request to find out whether it is back.
    pub fn is_usable(&self, now: Instant) -> bool {
        let candidates = self.current(now);
        !candidates.members.is_empty() || (self.health.is_none() && !candidates.trials.is_empty())
    }

    /// Whether every endpoint has had its first probe, or there are no probes.
    pub fn is_judged(&self) -> bool {
        self.health.is_none()
            || self
                .members
                .load()
                .iter()
                .all(|member| !matches!(member.endpoint.standing().verdict(), Verdict::Unknown))
    }
}

/// The fewest requests in flight for its weight, from a random start so that ties spread.
fn least_loaded(members: &[Member], rng: &Rng, fresh: &dyn Fn(usize) -> bool) -> Option<usize> {
    let start = rng.below(members.len());
    let load = |index: usize| {
        let member = &members[index];
        (member.endpoint.requests_in_flight() + 1) as f64 / f64::from(member.weight)
    };
    (0..members.len())
        .map(|step| (start + step) % members.len())
        .filter(|index| fresh(*index))
        .min_by(|a, b| load(*a).total_cmp(&load(*b)))
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The trial of a set-aside endpoint got its verdict.
    pub fn trial_ended(&mut self) {
        self.trial = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.trial {
            self.endpoint.standing().abandon_trial();
            self.pool.refresh(Instant::now());
        }
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.queue.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::balance::Availability;
    use crate::config::model::{Address, PoolLimits, PoolSource, PoolTimeouts, Retry, StatusSet};

    fn spec(balance: Balance, weights: &[u32]) -> (model::Pool, Vec<EndpointSpec>) {
        let endpoints: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| EndpointSpec {
                address: Address::Socket(([127, 0, 0, 1], 1000 + index as u16).into()),
                weight: *weight,
                backup: false,
            })
            .collect();
        let pool = model::Pool {
            name: "p".into(),
            source: PoolSource::Endpoints(endpoints.clone()),
            tls: None,
            balance,
            health: None,
            outlier: Some(model::Outlier {
                failures: 5,
                eject_for: Duration::from_secs(30),
                eject_max: 0.5,
            }),
            limits: PoolLimits {
                connections_max: 4,
                requests_max: 100,
                idle_max: 4,
                queue_max: 2,
                queue_timeout: Duration::from_secs(1),
            },
            retry: Some(Retry {
                attempts: 2,
                on_connect: true,
                on_reset: true,
                on_statuses: StatusSet(vec![(502, 504)]),
                budget: 0.2,
            }),
            timeouts: PoolTimeouts {
                connect: Duration::from_secs(1),
                first_byte: Duration::from_secs(30),
                idle: Duration::from_secs(30),
                total: None,
                tunnel: Duration::from_secs(3600),
            },
            keepalive: Duration::from_secs(60),
        };
        (pool, endpoints)
    }

    fn health() -> model::Health {
        model::Health {
            probe: model::Probe::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }

    fn pool(balance: Balance, weights: &[u32]) -> Arc<Pool> {
        let (spec, endpoints) = spec(balance, weights);
        Arc::new(Pool::build(&spec, &endpoints, None, Instant::now()))
    }

    fn lease(pool: &Arc<Pool>, rng: &Rng, tried: &[u64]) -> Lease {
        match pool.pick(rng, Instant::now(), tried) {
            Pick::Leased(lease) => lease,
            other => unreachable!("no endpoint was leased: {other:?}"),
        }
    }

    #[test]
    fn round_robin_is_exact_in_every_window_of_the_weights() {
        let pool = pool(Balance::RoundRobin, &[3, 1, 2]);
        let rng = Rng::seeded(1);
        let picks: Vec<_> =
            (0..60).map(|_| lease(&pool, &rng, &[]).endpoint().label.to_string()).collect();
        for window in picks.windows(6) {
            let mut counts: HashMap<&str, u32> = HashMap::new();
            for label in window {
                *counts.entry(label).or_default() += 1;
            }
            assert_eq!(counts["127.0.0.1:1000"], 3, "{window:?}");
            assert_eq!(counts["127.0.0.1:1001"], 1, "{window:?}");
        }
    }

    #[test]
    fn ewma_prefers_the_faster_of_two() {
        let pool = pool(Balance::Ewma, &[1, 1]);
        let members = pool.members();
        let now = Instant::now();
        pool.responded(&members[0].endpoint, StatusCode::OK, Duration::from_millis(50), now);
        pool.responded(&members[1].endpoint, StatusCode::OK, Duration::from_millis(1), now);
        let rng = Rng::seeded(3);
        let slow = (0..100)
            .filter(|_| lease(&pool, &rng, &[]).endpoint().id == members[0].endpoint.id)
            .count();
        assert_eq!(slow, 0);
    }

    #[test]
    fn least_requests_goes_where_least_is_under_way_for_the_weight() {
        let pool = pool(Balance::LeastRequests, &[2, 1]);
        let rng = Rng::seeded(5);
        let leases: Vec<_> = (0..6).map(|_| lease(&pool, &rng, &[])).collect();
        let heavy = leases.iter().filter(|l| l.endpoint().label.ends_with("1000")).count();
        assert_eq!(heavy, 4);
    }

    #[test]
    fn a_tried_endpoint_is_picked_again_only_where_there_is_no_other() {
        for balance in [Balance::Ewma, Balance::RoundRobin, Balance::LeastRequests] {
            let pool = pool(balance, &[1, 1]);
            let rng = Rng::seeded(9);
            let first = lease(&pool, &rng, &[]).endpoint().id;
            for _ in 0..20 {
                assert_ne!(lease(&pool, &rng, &[first]).endpoint().id, first);
            }
            let all: Vec<_> = pool.members().iter().map(|member| member.endpoint.id).collect();
            assert!(matches!(pool.pick(&rng, Instant::now(), &all), Pick::Leased(_)));
        }
    }

    #[test]
    fn a_pool_at_its_limits_is_full_until_a_lease_is_given_back() {
        let pool = pool(Balance::Ewma, &[1, 1]);
        let rng = Rng::seeded(2);
        let mut leases: Vec<_> = (0..8).map(|_| lease(&pool, &rng, &[])).collect();
        assert!(matches!(pool.pick(&rng, Instant::now(), &[]), Pick::Full));
        leases.pop();
        assert!(matches!(pool.pick(&rng, Instant::now(), &[]), Pick::Leased(_)));
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_starts_over() {
        let pool = pool(Balance::Ewma, &[1, 1]);
        let endpoint = pool.members()[0].endpoint.clone();
        let now = Instant::now();
        for round in 0..9 {
            let status = if round == 4 { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            pool.responded(&endpoint, status, Duration::from_millis(1), now);
        }
        assert!(endpoint.standing().ejection_left(now).is_none());
        pool.responded(&endpoint, StatusCode::BAD_GATEWAY, Duration::from_millis(1), now);
        assert!(endpoint.standing().ejection_left(now).is_some());
        assert_eq!(pool.candidates(now).members.len(), 1);
    }

    #[test]
    fn ejection_stops_at_its_share_of_the_pool() {
        let pool = pool(Balance::Ewma, &[1, 1, 1]);
        let now = Instant::now();
        for member in pool.members().iter() {
            for _ in 0..5 {
                pool.failed(&member.endpoint, Duration::ZERO, now);
            }
        }
        let ejected = pool
            .members()
            .iter()
            .filter(|member| member.endpoint.standing().ejection_left(now).is_some())
            .count();
        assert_eq!(ejected, 1);
    }

    #[test]
    fn with_every_connect_refused_the_pool_is_empty_until_a_trial_is_due() {
        let pool = pool(Balance::Ewma, &[1]);
        let endpoint = pool.members()[0].endpoint.clone();
        let rng = Rng::seeded(2);
        let now = Instant::now();
        pool.connect_failed(&endpoint, now);
        assert!(matches!(pool.pick(&rng, now, &[]), Pick::Empty));
        let due = now + Duration::from_millis(250);
        let Pick::Leased(trial) = pool.pick(&rng, due, &[]) else { unreachable!("a trial is due") };
        assert!(matches!(pool.pick(&rng, due, &[]), Pick::Empty));
        drop(trial);
        assert!(matches!(pool.pick(&rng, due, &[]), Pick::Leased(_)));
    }

    #[test]
    fn where_probes_find_out_a_trial_that_is_due_does_not_make_a_pool_usable() {
        for has_probes in [false, true] {
            let (mut spec, endpoints) = spec(Balance::Ewma, &[1]);
            spec.health = has_probes.then(health);
            let now = Instant::now();
            let pool = Arc::new(Pool::build(&spec, &endpoints, None, now));
            pool.connect_failed(&pool.members()[0].endpoint.clone(), now);
            assert!(!pool.is_usable(now));
            assert_eq!(pool.is_usable(now + Duration::from_millis(250)), !has_probes);
        }
    }

    #[test]
    fn failed_connects_of_probes_set_aside_but_never_eject() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1, 1]);
        spec.health = Some(health());
        let mut now = Instant::now();
        let pool = Pool::build(&spec, &endpoints, None, now);
        let endpoint = pool.members()[0].endpoint.clone();
        for _ in 0..20 {
            pool.probe_connect_failed(&endpoint, "connection refused".into(), now);
            assert_eq!(endpoint.standing().availability(now), Availability::Aside);
            now += Duration::from_secs(6);
        }
        assert!(endpoint.standing().ejection_left(now).is_none());
        assert_eq!(endpoint.stats.ejections.value(), 0);
    }

    #[test]
    fn without_probes_their_verdicts_are_forgotten() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1]);
        let now = Instant::now();
        let pool = Pool::build(&spec, &endpoints, None, now);
        let endpoint = pool.members()[0].endpoint.clone();
        endpoint.standing().probe_failed(&health(), "status 503".into());
        spec.health = None;
        let after = Pool::build(&spec, &endpoints, Some(&pool), now);
        after.forget_verdicts(now);
        assert_eq!(endpoint.standing().verdict(), &Verdict::Unknown);
        assert!(!after.candidates(now).panic);
    }

    #[test]
    fn a_reload_keeps_the_endpoints_whose_address_stays() {
        let (spec, mut endpoints) = spec(Balance::Ewma, &[1, 1]);
        let before = Pool::build(&spec, &endpoints, None, Instant::now());
        endpoints.remove(0);
        endpoints[0].weight = 7;
        let after = Pool::build(&spec, &endpoints, Some(&before), Instant::now());
        assert_eq!(after.members()[0].endpoint.id, before.members()[1].endpoint.id);
        assert_eq!(after.members()[0].weight, 7);
    }
}
