//! The pool: its members, and the candidates among them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};

use super::candidates::{Candidates, Member, Terms};
use super::endpoint::{Endpoint, Manual};
use super::metrics::PoolStats;
use super::shared::Shared;
use super::standing::{Availability, Verdict};
use super::sticky::{Sticky, Tag};
use crate::config::model::{self, Address, Balance, EndpointSpec, Name};

/// The start of the process clock, on which latencies and budgets count.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// Time since the first call in this process.
pub(super) fn process_clock(now: Instant) -> Duration {
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
    /// Some endpoints are found by name.
    pub(super) has_names: bool,
    pub(super) balance: Balance,
    sticky: Option<Sticky>,
    terms: Terms,
    health: Option<model::Health>,
    pub(super) outlier: Option<model::Outlier>,
    pub(super) protocol: model::Protocol,
    pub limits: model::PoolLimits,
    /// Requests of an endpoint from which on it is counted whose they are; `None`: never.
    pub(super) counted_from: Option<usize>,
    pub retry: Option<model::Retry>,
    members: ArcSwap<Vec<Member>>,
    /// What there was before the first members of this pool.
    heritage: Mutex<Known>,
    candidates: ArcSwap<Candidates>,
    /// Held while candidates are worked out, and while an ejection is decided.
    deciding: Mutex<()>,
    pub(super) shared: Arc<Shared>,
    pub stats: Arc<PoolStats>,
}

/// The pool that had the name before.
#[derive(Debug, Clone, Copy)]
pub struct Previous<'a> {
    pub pool: &'a Pool,
    /// Its endpoints are reached in the same way, so that they may be kept as they are.
    pub is_reached_alike: bool,
}

/// The members that others are put in the place of.
#[derive(Debug, Default)]
struct Known {
    members: Arc<Vec<Member>>,
    /// They may be kept as they are.
    keeps: bool,
}

impl Known {
    fn of(previous: Option<Previous<'_>>) -> Self {
        previous.map_or_else(Self::default, |previous| Self {
            members: previous.pool.members(),
            keeps: previous.is_reached_alike,
        })
    }

    fn has_healthy(&self) -> bool {
        let is_healthy = |it: &Member| matches!(it.endpoint.standing().verdict(), Verdict::Healthy);
        self.keeps && self.members.iter().any(is_healthy)
    }

    fn by_address(&self) -> HashMap<&Address, &Arc<Endpoint>> {
        self.members.iter().map(|member| (&member.endpoint.address, &member.endpoint)).collect()
    }
}

impl Pool {
    /// Compiles a pool. From `previous` it takes over what it counts and who waits, and every
    /// endpoint whose address stays. `zone` is where this process runs.
    pub fn build(
        spec: &model::Pool,
        endpoints: &[EndpointSpec],
        previous: Option<Previous<'_>>,
        zone: Option<&Name>,
        now: Instant,
    ) -> Self {
        let shared: Arc<Shared> =
            previous.map(|previous| previous.pool.shared.clone()).unwrap_or_default();
        let pool = Self {
            name: spec.name.clone(),
            has_names: spec.source.has_names(),
            balance: spec.balance.clone(),
            sticky: spec.sticky.as_ref().map(|sticky| Sticky::new(sticky, &spec.name)),
            terms: Terms {
                panic_below: spec.panic_below,
                slow_start: spec.slow_start,
                zone: zone.cloned(),
                with_sequence: spec.balance == Balance::RoundRobin,
            },
            health: spec.health.clone(),
            outlier: spec.outlier.clone(),
            protocol: spec.protocol,
            limits: spec.limits.clone(),
            counted_from: counted_from(spec),
            retry: spec.retry.clone(),
            members: ArcSwap::default(),
            heritage: Mutex::new(Known::of(previous)),
            candidates: ArcSwap::default(),
            deciding: Mutex::new(()),
            shared,
            stats: previous.map(|previous| previous.pool.stats.clone()).unwrap_or_default(),
        };
        // Without any, the first answer of its name is awaited.
        if !endpoints.is_empty() {
            pool.replace(endpoints, now);
        }
        pool
    }

    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    /// Puts others in the place of the endpoints. Those whose address stays are kept as they are;
    /// one that leaves gets no more requests, and those under way end in their own time.
    pub fn replace(&self, endpoints: &[EndpointSpec], now: Instant) {
        let deciding = self.decide();
        let heritage =
            std::mem::take(&mut *self.heritage.lock().unwrap_or_else(PoisonError::into_inner));
        let members = self.members.load_full();
        let known = if members.is_empty() { heritage } else { Known { members, keeps: true } };
        let verdict = match self.health.is_some() && known.has_healthy() {
            true => Verdict::Awaited,
            false => Verdict::Unknown,
        };
        let by_address = known.by_address();
        let member = |spec: &EndpointSpec| {
            let before = by_address.get(&spec.address).copied();
            let endpoint = match before.filter(|_| known.keeps) {
                Some(kept) => kept.clone(),
                None => self.new_endpoint(spec, verdict.clone(), before, &known, now),
            };
            Member {
                tag: self.sticky.as_ref().map(|sticky| sticky.tag(&endpoint)),
                endpoint,
                weight: spec.weight,
                backup: spec.backup,
                zone: spec.zone.clone(),
            }
        };
        self.members.store(Arc::new(endpoints.iter().map(member).collect()));
        self.work_out(deciding, now);
    }

    fn new_endpoint(
        &self,
        spec: &EndpointSpec,
        verdict: Verdict,
        before: Option<&Arc<Endpoint>>,
        known: &Known,
        now: Instant,
    ) -> Arc<Endpoint> {
        let address = spec.address.clone();
        let before = before.map(|before| &**before);
        let new = Endpoint::new(address, verdict, &self.shared, before).of(&self.name);
        if known.members.is_empty() {
            // With all endpoints new, none has more to begin with than another.
            let ready_since = now.checked_sub(self.terms.slow_start).unwrap_or(now);
            new.standing().set_ready_since(ready_since);
        }
        Arc::new(new)
    }

    /// The endpoints as a configuration would write them.
    pub fn specs(&self) -> Vec<EndpointSpec> {
        let spec = |member: &Member| EndpointSpec {
            address: member.endpoint.address.clone(),
            weight: member.weight,
            backup: member.backup,
            zone: member.zone.clone(),
        };
        self.members.load().iter().map(spec).collect()
    }

    pub fn health(&self) -> Option<&model::Health> {
        self.health.as_ref()
    }

    /// What a request is hashed on, if it is.
    pub fn hash_on(&self) -> Option<&model::HashOn> {
        match &self.balance {
            Balance::Hash(on) => Some(on),
            _ => None,
        }
    }

    pub fn candidates(&self, now: Instant) -> Arc<Candidates> {
        Guard::into_inner(self.current(now))
    }

    /// The candidates, worked out again if time alone has changed them.
    pub(super) fn current(&self, now: Instant) -> Guard<Arc<Candidates>> {
        let candidates = self.candidates.load();
        if candidates.valid_until.is_none_or(|until| now < until) {
            return candidates;
        }
        let deciding = match self.deciding.try_lock() {
            Ok(deciding) => deciding,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it; what is there serves until then.
            Err(TryLockError::WouldBlock) => return candidates,
        };
        self.work_out(deciding, now);
        self.candidates.load()
    }

    /// The time to the first byte that is usual, once it is known.
    pub fn usual_latency(&self, now: Instant) -> Option<Duration> {
        let (median, _) = self.current(now).median_latency(process_millis(now))?;
        Some(Duration::from_nanos(median as u64))
    }

    /// Works the candidates out again and publishes them.
    pub fn refresh(&self, now: Instant) {
        self.work_out(self.decide(), now);
    }

    pub(super) fn decide(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn work_out(&self, deciding: MutexGuard<'_, ()>, now: Instant) {
        let members = self.members.load();
        let candidates = Candidates::of(&members, &self.terms, now);
        let now_millis = process_millis(now);
        if let Some((median, _)) = candidates.median_latency(now_millis) {
            for member in &candidates.members {
                member.endpoint.latency.seed(median, now_millis);
            }
        }
        self.candidates.store(Arc::new(candidates));
        drop(deciding);
        self.shared.queue.wake();
    }

    /// Says by hand whether an endpoint, named by its address, gets requests; `None` if there is no
    /// such endpoint.
    pub fn set_manual(&self, address: &str, manual: Manual, now: Instant) -> Option<Arc<Endpoint>> {
        let members = self.members.load();
        let member = members.iter().find(|it| it.endpoint.label.eq_ignore_ascii_case(address))?;
        let endpoint = member.endpoint.clone();
        let before = endpoint.manual();
        endpoint.set_manual(manual);
        if before != manual {
            let (pool, state) = (&self.name, manual.as_str());
            tracing::warn!(%pool, endpoint = %endpoint.label, state, "endpoint set by hand");
        }
        self.refresh(now);
        Some(endpoint)
    }

    /// The cookie that keeps clients at their endpoints.
    pub fn sticky(&self) -> Option<&model::Sticky> {
        self.sticky.as_ref().map(|sticky| &sticky.spec)
    }

    /// The id of the endpoint that the value of a cookie stands for.
    pub fn endpoint_of_cookie(&self, value: &[u8]) -> Option<u64> {
        let tag = Tag::parse(value)?;
        let members = self.members.load();
        let named = members.iter().find(|member| member.tag == Some(tag))?;
        Some(named.endpoint.id)
    }

    /// The `Set-Cookie` that keeps a client at `endpoint`, which has answered it. None where its
    /// cookie names one that is only busy.
    pub fn cookie_for(
        &self,
        endpoint: &Endpoint,
        named: Option<u64>,
        is_secure: bool,
        now: Instant,
    ) -> Option<String> {
        let sticky = self.sticky.as_ref()?;
        if named.is_some_and(|id| id == endpoint.id || self.current(now).contains(id)) {
            return None;
        }
        Some(sticky.tag(endpoint).set_cookie(&sticky.spec, is_secure))
    }

    /// Whether there are endpoints to try besides those that were.
    pub fn has_others(&self, tried: &[u64], now: Instant) -> bool {
        let candidates = self.current(now);
        candidates.members.iter().any(|member| !tried.contains(&member.endpoint.id))
            || candidates.hopes.iter().any(|hope| !tried.contains(&hope.id))
    }

    /// Whether a request would find an endpoint now. One that is set aside counts only where it
    /// takes a request to find out whether it is back.
    pub fn is_usable(&self, now: Instant) -> bool {
        let candidates = self.current(now);
        !candidates.members.is_empty() || (self.health.is_none() && !candidates.trials.is_empty())
    }

    /// Whether there is no endpoint that a request could be sent to, be it on trial.
    pub fn has_nobody(&self, now: Instant) -> bool {
        let candidates = self.current(now);
        candidates.members.is_empty() && candidates.trials.is_empty()
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

    /// Whether a request to `endpoint` would have to wait.
    pub fn is_at_limit(&self, endpoint: &Endpoint) -> bool {
        endpoint.requests_in_flight() >= self.requests_max()
    }

    /// Members other than `endpoint` that are usable, and how many are ejected.
    pub(super) fn standings(&self, endpoint: &Endpoint, now: Instant) -> (usize, usize, usize) {
        let members = self.members.load();
        let (mut ejected, mut others_usable) = (0, 0);
        for member in members.iter() {
            let is_ejected = member.endpoint.standing().ejection_left(now).is_some();
            ejected += usize::from(is_ejected);
            let is_usable = member.endpoint.is_resolved()
                && member.endpoint.availability(now) == Availability::Usable;
            others_usable += usize::from(is_usable && member.endpoint.id != endpoint.id);
        }
        (members.len(), ejected, others_usable)
    }
}

/// In a small pool every place counts. In a large one half of a client's share goes uncounted, so
/// that a pool with room for all counts nothing.
fn counted_from(spec: &model::Pool) -> Option<usize> {
    /// Fewer places are not worth it.
    const UNCOUNTED_MIN: usize = 16;
    let share = spec.limits.client_share;
    let places = spec.limits.in_flight_max(spec.protocol) as f64;
    // The fraction of a place does not matter.
    let uncounted = (places * share / 2.0) as usize;
    (share < 1.0).then_some(if uncounted < UNCOUNTED_MIN { 0 } else { uncounted })
}

#[cfg(test)]
mod tests {
    use super::super::pick::{Pick, Wish};
    use super::super::rng::Rng;
    use super::super::testing::{health, spec};
    use super::*;

    fn rebuilt(spec: &model::Pool, endpoints: &[EndpointSpec], pool: &Pool, alike: bool) -> Pool {
        let previous = Previous { pool, is_reached_alike: alike };
        Pool::build(spec, endpoints, Some(previous), None, Instant::now())
    }

    #[test]
    fn without_probes_their_verdicts_are_forgotten() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1]);
        let now = Instant::now();
        let pool = Pool::build(&spec, &endpoints, None, None, now);
        let endpoint = pool.members()[0].endpoint.clone();
        endpoint.standing().probe_failed(&health(), "status 503".into());
        spec.health = None;
        let after = rebuilt(&spec, &endpoints, &pool, true);
        after.forget_verdicts(now);
        assert_eq!(endpoint.standing().verdict(), &Verdict::Unknown);
        assert!(!after.candidates(now).panic);
    }

    #[test]
    fn where_probes_find_out_a_trial_that_is_due_does_not_make_a_pool_usable() {
        for has_probes in [false, true] {
            let (mut spec, endpoints) = spec(Balance::Ewma, &[1]);
            spec.health = has_probes.then(health);
            let now = Instant::now();
            let pool = Pool::build(&spec, &endpoints, None, None, now);
            pool.connect_failed(&pool.members()[0].endpoint.clone(), String::new, now);
            assert!(!pool.is_usable(now));
            assert_eq!(pool.is_usable(now + Duration::from_millis(250)), !has_probes);
        }
    }

    #[test]
    fn a_reload_keeps_the_endpoints_whose_address_stays() {
        let (spec, mut endpoints) = spec(Balance::Ewma, &[1, 1]);
        let before = Pool::build(&spec, &endpoints, None, None, Instant::now());
        endpoints.remove(0);
        endpoints[0].weight = 7;
        let after = rebuilt(&spec, &endpoints, &before, true);
        assert_eq!(after.members()[0].endpoint.id, before.members()[1].endpoint.id);
        assert_eq!(after.members()[0].weight, 7);
    }

    #[test]
    fn what_was_said_by_hand_survives_whatever_a_reload_changes() {
        let (spec, mut endpoints) = spec(Balance::Ewma, &[1, 1]);
        let now = Instant::now();
        let before = Pool::build(&spec, &endpoints, None, None, now);
        assert!(before.set_manual("127.0.0.1:1000", Manual::Drain, now).is_some());
        assert!(before.set_manual("127.0.0.1:1", Manual::Drain, now).is_none());
        let after = rebuilt(&spec, &endpoints, &before, false);
        assert_ne!(after.members()[0].endpoint.id, before.members()[0].endpoint.id);
        assert_eq!(after.members()[0].endpoint.manual(), Manual::Drain);
        // Said to the old one between the building of the new one and its publication.
        before.set_manual("127.0.0.1:1000", Manual::Down, now);
        assert_eq!(after.members()[0].endpoint.manual(), Manual::Down);
        after.set_manual("127.0.0.1:1000", Manual::Ready, now);
        assert_eq!(after.candidates(now).members.len(), 2);

        after.set_manual("127.0.0.1:1000", Manual::Down, now);
        let gone = endpoints.remove(0);
        let without = rebuilt(&spec, &endpoints, &after, true);
        endpoints.insert(0, gone);
        let back = rebuilt(&spec, &endpoints, &without, true);
        assert_eq!(back.members()[0].endpoint.manual(), Manual::Ready);
    }

    #[test]
    fn a_reload_goes_on_with_the_sequence_and_lets_nobody_in_before_those_who_wait() {
        let (mut spec, endpoints) = spec(Balance::RoundRobin, &[1, 1, 1]);
        let rng = Rng::seeded(1);
        let mut pool = Arc::new(Pool::build(&spec, &endpoints, None, None, Instant::now()));
        let place = pool.queue(None, Instant::now()).expect("a free place");
        let mut picked = Vec::new();
        for keepalive in 1..=6 {
            spec.keepalive = Duration::from_secs(keepalive);
            pool = Arc::new(rebuilt(&spec, &endpoints, &pool, true));
            let Pick::Leased(lease) = pool.pick(&rng, Instant::now(), &Wish::default()) else {
                unreachable!("nothing is under way")
            };
            picked.push(lease.endpoint().id);
        }
        assert_eq!(picked[..3], picked[3..]);
        assert!(picked[0] != picked[1] && picked[1] != picked[2]);
        assert_eq!(pool.queue_len(), 1);
        drop(place);
        assert_eq!(pool.queue_len(), 0);
    }

    #[test]
    fn an_endpoint_that_is_added_starts_slowly_and_those_of_a_start_do_not() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1, 1]);
        spec.slow_start = Duration::from_secs(10);
        let now = Instant::now();
        let before = Pool::build(&spec, &endpoints[..1], None, None, now);
        assert_eq!(before.candidates(now).members[0].weight, 1);
        let previous = Previous { pool: &before, is_reached_alike: true };
        let after = Pool::build(&spec, &endpoints, Some(previous), None, now);
        let weights = |now| -> Vec<u32> {
            after.candidates(now).members.iter().map(|member| member.weight).collect()
        };
        assert_eq!(weights(now), [20, 2]);
        assert_eq!(weights(now + Duration::from_secs(10)), [1, 1]);
    }

    #[test]
    fn a_cookie_leads_back_to_its_endpoint_and_is_set_only_where_it_changes() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1, 1]);
        let ttl = Duration::from_secs(60);
        spec.sticky = Some(model::Sticky { cookie: "hw".into(), ttl, secret: None });
        let now = Instant::now();
        let pool = Pool::build(&spec, &endpoints, None, None, now);
        let [a, b] = [0, 1].map(|index| pool.members()[index].endpoint.clone());
        let set = pool.cookie_for(&a, None, false, now).expect("a client without a cookie");
        let value = set.strip_prefix("hw=").and_then(|rest| rest.split(';').next()).unwrap();
        assert_eq!(pool.endpoint_of_cookie(value.as_bytes()), Some(a.id));
        assert_eq!(pool.endpoint_of_cookie(&[b'0'; 32]), None);
        assert_eq!(pool.cookie_for(&a, Some(a.id), false, now), None);
        assert_eq!(pool.cookie_for(&b, Some(a.id), false, now), None);
        pool.set_manual(&a.label, Manual::Drain, now);
        assert!(pool.cookie_for(&b, Some(a.id), false, now).is_some());
    }
}
