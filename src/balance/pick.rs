//! One pick: which endpoint a request gets, and its place there.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::candidates::{Candidates, Group};
use super::crowd::{ClientId, Stalling};
use super::endpoint::{Endpoint, try_increment};
use super::ewma::two_choices;
use super::hash;
use super::least_requests::least_loaded;
use super::outcome::Outcome;
use super::pool::{Pool, process_clock, process_millis};
use super::queue::{Place, QueueFull};
use super::rng::Rng;
use crate::config::model::Balance;

/// Of a contested pool one place in so many is kept for clients within their share.
const RESERVED: usize = 4;

/// What matters of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Endpoints that were tried, by id.
    pub tried: &'a [u64],
    /// Of what the pool's `hash_on` names, or of what tells kinds of requests apart where the policy
    /// is another one.
    pub key: u64,
    /// The id of the endpoint that the client's cookie names.
    pub keep: Option<u64>,
    /// The client, where it may have a share only.
    pub client: Option<IpAddr>,
    /// Endpoints that were tried are no choice, even where there is no other.
    pub elsewhere: bool,
}

/// The result of a pick.
#[derive(Debug)]
pub enum Pick {
    Leased(Lease),
    /// The same, and the trial of an endpoint that was set aside is due: a connection is enough, no
    /// request need be risked.
    WithTrial {
        lease: Lease,
        trial: Lease,
    },
    /// Every usable endpoint is at its limit.
    Full,
    /// No endpoint is usable, and whether one is back is being tried.
    Awaited,
    /// No endpoint is usable.
    Empty,
}

/// A request's place on an endpoint, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    /// Of the request.
    key: u64,
    /// The head of the answer was good, and its end will tell whether all of it is.
    is_begun: bool,
    /// This request tries an endpoint that was set aside.
    trial: Option<Trial>,
    /// It asks for a tunnel, or has one.
    is_tunnel: bool,
    /// In whose count it is.
    client: Option<ClientId>,
}

#[derive(Debug)]
struct Trial {
    pool: Arc<Pool>,
    begun: Instant,
}

impl Pool {
    /// Leases an endpoint that was not tried, or one of those where there is no other. Never
    /// waits.
    pub fn pick(self: &Arc<Self>, rng: &Rng, now: Instant, wish: &Wish<'_>) -> Pick {
        let candidates = self.current(now);
        if self.holds_back(&candidates, now, wish) {
            return Pick::Full;
        }
        if let Some(id) = wish.keep.filter(|id| !wish.tried.contains(id))
            && let Some(member) = candidates.members.iter().find(|it| it.endpoint.id == id)
            && try_increment(&member.endpoint.in_flight, self.requests_max())
        {
            return Pick::Leased(self.leased(member.endpoint.clone(), now, wish));
        }
        if candidates.members.is_empty() {
            return self.hope(&candidates, now, wish);
        }
        let Some(endpoint) = self.choose(&candidates, rng, now, wish) else { return Pick::Full };
        let lease = self.leased(endpoint, now, wish);
        // Where there are probes, they tell.
        if candidates.trials.is_empty() || self.health().is_some() {
            return Pick::Leased(lease);
        }
        match self.trial(&candidates, now, wish) {
            Some(trial) => Pick::WithTrial { lease, trial },
            None => Pick::Leased(lease),
        }
    }

    #[inline]
    fn leased(&self, endpoint: Arc<Endpoint>, now: Instant, wish: &Wish<'_>) -> Lease {
        self.count_request(now, wish);
        let client = self.counted(&endpoint, wish);
        Lease { endpoint, key: wish.key, is_begun: false, trial: None, is_tunnel: false, client }
    }

    /// Counts a place that was just taken for its client, unless there is room for all.
    #[inline]
    fn counted(&self, endpoint: &Endpoint, wish: &Wish<'_>) -> Option<ClientId> {
        let is_counted = endpoint.requests_in_flight() > self.counted_from?;
        wish.client.filter(|_| is_counted).map(|ip| {
            let crowd = &endpoint.queue.crowd;
            let client = crowd.client(ip);
            crowd.take(client);
            client
        })
    }

    /// Whether the places that are left are for clients within their share.
    #[inline]
    fn holds_back(&self, candidates: &Candidates, now: Instant, wish: &Wish<'_>) -> bool {
        let crowd = &self.shared.queue.crowd;
        crowd.is_contested(|| process_clock(now))
            && self.counted_from.is_some()
            && wish.client.is_some_and(|ip| crowd.has_its_share(crowd.client(ip)))
            && {
                let members = &candidates.members;
                // Where there is nobody, there is no place to hold back.
                if members.is_empty() {
                    return false;
                }
                let taken = members.iter().map(|it| it.endpoint.requests_in_flight());
                let places = self.requests_max().saturating_mul(members.len());
                taken.sum::<usize>() >= places - places / RESERVED
            }
    }

    /// How many counted places a client may hold while others wait.
    fn client_places_max(&self, now: Instant) -> usize {
        let members = self.current(now).members.len().max(1);
        let places = self.requests_max().saturating_mul(members) as f64;
        let share = (places * self.limits.client_share) as usize;
        let uncounted = self.counted_from.unwrap_or_default().saturating_mul(members);
        share.saturating_sub(uncounted).max(1)
    }

    /// With nobody usable there is nothing to lose: the request makes the connect.
    fn hope(self: &Arc<Self>, candidates: &Candidates, now: Instant, wish: &Wish<'_>) -> Pick {
        let mut untried = candidates.hopes.iter().filter(|it| !wish.tried.contains(&it.id));
        match untried.find(|endpoint| endpoint.standing().begin_hope(now)) {
            Some(endpoint) => {
                self.count_request(now, wish);
                Pick::Leased(self.on_trial(endpoint, now, wish))
            }
            // Of those who have found one down, the others were tried by somebody just now.
            None if wish.tried.is_empty() && !candidates.hopes.is_empty() => Pick::Awaited,
            None => Pick::Empty,
        }
    }

    fn trial(
        self: &Arc<Self>,
        candidates: &Candidates,
        now: Instant,
        wish: &Wish<'_>,
    ) -> Option<Lease> {
        let endpoint = candidates.trials.iter().find(|endpoint| {
            !wish.tried.contains(&endpoint.id) && endpoint.standing().begin_trial(now)
        })?;
        self.refresh(now);
        Some(self.on_trial(endpoint, now, wish))
    }

    fn on_trial(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        now: Instant,
        wish: &Wish<'_>,
    ) -> Lease {
        endpoint.in_flight.fetch_add(1, Ordering::SeqCst);
        let trial = Trial { pool: self.clone(), begun: now };
        Lease {
            endpoint: endpoint.clone(),
            key: wish.key,
            is_begun: false,
            trial: Some(trial),
            is_tunnel: false,
            client: None,
        }
    }

    /// The budget is a share of the requests, so their further tries do not count.
    #[inline]
    fn count_request(&self, now: Instant, wish: &Wish<'_>) {
        if wish.tried.is_empty() {
            self.shared.budget.request(process_clock(now));
        }
    }

    /// Chooses by the policy and counts the request in; `None` if all are at their limit.
    #[inline]
    fn choose(
        &self,
        candidates: &Candidates,
        rng: &Rng,
        now: Instant,
        wish: &Wish<'_>,
    ) -> Option<Arc<Endpoint>> {
        let [first, second] = candidates.groups(|| match self.balance {
            Balance::Hash(_) => hash::unit(wish.key),
            _ => rng.unit(),
        });
        let among = |group: &Group, tried: &[u64]| {
            self.choose_among(candidates, group, rng, now, wish, tried)
        };
        // Where all others were tried before, any.
        let is_any = !wish.tried.is_empty() && !wish.elsewhere;
        let any = |group: &Group| if is_any { among(group, &[]) } else { None };
        among(first, wish.tried)
            .or_else(|| among(second, wish.tried))
            .or_else(|| any(first))
            .or_else(|| any(second))
    }

    /// Chooses among equally near ones that were not `tried`.
    #[inline]
    fn choose_among(
        &self,
        candidates: &Candidates,
        group: &Group,
        rng: &Rng,
        now: Instant,
        wish: &Wish<'_>,
        tried: &[u64],
    ) -> Option<Arc<Endpoint>> {
        let members = &candidates.members[group.range.clone()];
        let open = |index: usize| tried.is_empty() || !tried.contains(&members[index].endpoint.id);
        let max = self.requests_max();
        let first = match &self.balance {
            Balance::Ewma => {
                let now_millis = process_millis(now);
                let quick = || self.quick_latency(candidates, now_millis);
                two_choices(members, rng, now_millis, &open, quick)
            }
            Balance::RoundRobin => self.next_in_sequence(group, &open),
            Balance::LeastRequests => least_loaded(members, rng, &open),
            Balance::Hash(_) => {
                let index = hash::take(members, wish.key, &open, max)?;
                return Some(members[index].endpoint.clone());
            }
        }?;
        // Where the choice is at its limit, the next one that is not.
        (0..members.len())
            .map(|step| (first + step) % members.len())
            .filter(|index| open(*index))
            .map(|index| &members[index].endpoint)
            .find(|endpoint| try_increment(&endpoint.in_flight, max))
            .cloned()
    }

    /// A latency in nanoseconds that a quarter of the candidates do not exceed.
    fn quick_latency(&self, candidates: &Candidates, now_millis: u32) -> Option<f32> {
        let work_out = || candidates.latency_of(4, now_millis).map(|(latency, _)| latency);
        let quick = self.shared.quick.get(now_millis, work_out);
        quick.map(|quick| quick.as_nanos() as f32)
    }

    fn next_in_sequence(&self, group: &Group, open: &impl Fn(usize) -> bool) -> Option<usize> {
        let sequence = &group.sequence;
        if sequence.is_empty() {
            return None;
        }
        let at = self.shared.cursor.next(sequence.len());
        (0..sequence.len())
            .map(|step| usize::from(sequence[(at + step) % sequence.len()]))
            .find(|index| open(*index))
    }

    /// Requests in flight on an endpoint.
    pub fn requests_max(&self) -> usize {
        self.limits.in_flight_max(self.protocol)
    }

    /// Whether an endpoint may have a place for one more tunnel.
    pub fn has_place_for_tunnel(&self, now: Instant) -> bool {
        let members = &self.current(now).members;
        let max = self.limits.tunnels_max;
        members.is_empty() || members.iter().any(|member| member.endpoint.tunnels() < max)
    }

    pub fn queue_len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Waits in line for a place; see [`Place`].
    pub fn queue(&self, client: Option<IpAddr>, now: Instant) -> Result<Place, QueueFull> {
        let queue = &self.shared.queue;
        let client = client.filter(|_| self.counted_from.is_some());
        let client = client.map(|ip| queue.crowd.client(ip));
        if let Some(client) = client {
            let places_max = self.client_places_max(now);
            queue.crowd.set_places_max(u32::try_from(places_max).unwrap_or(u32::MAX));
            if !queue.crowd.has_its_share(client) {
                queue.crowd.contest(process_clock(now));
            }
        }
        let waiter = queue.join(self.limits.queue_max, client)?;
        Ok(Place::new(queue.clone(), waiter))
    }
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// A place that may be called in while its request waits for the client, if it may.
    pub fn stalling(&self) -> Option<Stalling> {
        self.client.map(|client| Stalling::new(self.endpoint.queue.clone(), client))
    }

    /// Of the request, as it was wished.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// A good answer has begun whose end is still to come.
    pub fn begun(&mut self) {
        self.is_begun = true;
    }

    /// An answer that had begun ended like this; without a word of it, well. `None` says nothing
    /// about the endpoint.
    pub fn ended(&mut self, outcome: Option<Outcome>, now: Instant) {
        if std::mem::take(&mut self.is_begun)
            && let Some(outcome) = outcome
        {
            self.endpoint.ended(outcome, self.key, process_millis(now));
        }
    }

    /// Whether it tries an endpoint that was set aside.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Counts it among the tunnels, unless its endpoint has `max` of them.
    pub fn begin_tunnel(&mut self, max: usize) -> bool {
        self.is_tunnel = self.is_tunnel || self.endpoint.begin_tunnel(max);
        self.is_tunnel
    }

    /// It is a request like others: the endpoint has declined.
    pub fn end_tunnel(&mut self) {
        if std::mem::take(&mut self.is_tunnel) {
            self.endpoint.end_tunnel();
        }
    }

    /// The trial of a set-aside endpoint got its verdict.
    pub fn trial_ended(&mut self) {
        self.trial = None;
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if self.is_begun {
            self.endpoint.succeeded(self.key);
        }
        self.end_tunnel();
        if let Some(trial) = self.trial.take() {
            self.endpoint.standing().abandon_trial();
            trial.pool.refresh(trial.begun);
        }
        if let Some(client) = self.client {
            self.endpoint.queue.crowd.give_back(client);
        }
        self.endpoint.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.endpoint.queue.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use http::StatusCode;

    use super::super::facts::Reply;
    use super::super::testing::{lease, pool};
    use super::*;
    use crate::config::model::HashOn;

    const ANY: Wish<'_> = Wish { tried: &[], key: 0, keep: None, elsewhere: false, client: None };

    fn tried(tried: &[u64]) -> Wish<'_> {
        Wish { tried, ..ANY }
    }

    fn policies() -> [Balance; 4] {
        let hash = Balance::Hash(HashOn::ClientIp);
        [Balance::Ewma, Balance::RoundRobin, Balance::LeastRequests, hash]
    }

    #[test]
    fn round_robin_is_exact_in_every_window_of_the_weights() {
        let pool = pool(Balance::RoundRobin, &[3, 1, 2]);
        let rng = Rng::seeded(1);
        let picks: Vec<_> =
            (0..60).map(|_| lease(&pool, &rng, &ANY).endpoint().label.to_string()).collect();
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
        for (member, millis) in members.iter().zip([50, 1]) {
            let reply = Reply::whole(StatusCode::OK, Duration::from_millis(millis));
            pool.responded(&member.endpoint, reply, now);
        }
        let rng = Rng::seeded(3);
        let slow = (0..100)
            .filter(|_| lease(&pool, &rng, &ANY).endpoint().id == members[0].endpoint.id)
            .count();
        assert_eq!(slow, 0);
    }

    #[test]
    fn least_requests_goes_where_least_is_under_way_for_the_weight() {
        let pool = pool(Balance::LeastRequests, &[2, 1]);
        let rng = Rng::seeded(5);
        for _ in 0..50 {
            let leases: Vec<_> = (0..6).map(|_| lease(&pool, &rng, &ANY)).collect();
            let heavy = leases.iter().filter(|l| l.endpoint().label.ends_with("1000")).count();
            assert!((3..=4).contains(&heavy), "{heavy}");
        }
    }

    #[test]
    fn a_hash_sends_a_key_to_one_endpoint_and_keys_to_all() {
        let pool = pool(Balance::Hash(HashOn::Path), &[1, 1, 1]);
        let rng = Rng::seeded(5);
        let of_key = |key| lease(&pool, &rng, &Wish { key, ..ANY }).endpoint().id;
        let places: Vec<_> =
            (0..300).map(|number: u64| of_key(hash::key(&number.to_le_bytes()))).collect();
        for member in pool.members().iter() {
            let count = places.iter().filter(|id| **id == member.endpoint.id).count();
            assert!((70..130).contains(&count), "{count}");
        }
        assert!((0..9).all(|_| of_key(7) == of_key(7)));
    }

    #[test]
    fn a_tried_endpoint_is_picked_again_only_where_there_is_no_other() {
        for balance in policies() {
            let pool = pool(balance, &[1, 1]);
            let rng = Rng::seeded(9);
            let first = lease(&pool, &rng, &ANY).endpoint().id;
            for _ in 0..20 {
                assert_ne!(lease(&pool, &rng, &tried(&[first])).endpoint().id, first);
            }
            let all: Vec<_> = pool.members().iter().map(|member| member.endpoint.id).collect();
            assert!(matches!(pool.pick(&rng, Instant::now(), &tried(&all)), Pick::Leased(_)));
            let elsewhere = Wish { elsewhere: true, ..tried(&all) };
            assert!(matches!(pool.pick(&rng, Instant::now(), &elsewhere), Pick::Full));
        }
    }

    #[test]
    fn a_pool_at_its_limits_is_full_until_a_lease_is_given_back() {
        for balance in policies() {
            let pool = pool(balance, &[1, 1]);
            let rng = Rng::seeded(2);
            let mut leases: Vec<_> = (0..8).map(|_| lease(&pool, &rng, &ANY)).collect();
            assert!(matches!(pool.pick(&rng, Instant::now(), &ANY), Pick::Full));
            leases.pop();
            assert!(matches!(pool.pick(&rng, Instant::now(), &ANY), Pick::Leased(_)));
        }
    }

    #[test]
    fn the_endpoint_of_the_cookie_is_kept_while_it_is_usable_and_has_room() {
        let pool = pool(Balance::LeastRequests, &[1, 1, 1]);
        let rng = Rng::seeded(2);
        let now = Instant::now();
        let endpoint = pool.members()[1].endpoint.clone();
        let wish = Wish { keep: Some(endpoint.id), ..ANY };
        let leases: Vec<_> = (0..4).map(|_| lease(&pool, &rng, &wish)).collect();
        assert!(leases.iter().all(|lease| lease.endpoint().id == endpoint.id));
        assert_ne!(lease(&pool, &rng, &wish).endpoint().id, endpoint.id);
        drop(leases);
        assert_eq!(lease(&pool, &rng, &wish).endpoint().id, endpoint.id);
        pool.connect_failed(&endpoint, String::new, now);
        assert_ne!(lease(&pool, &rng, &wish).endpoint().id, endpoint.id);
    }

    #[test]
    fn with_others_to_choose_from_a_trial_risks_no_request() {
        let pool = pool(Balance::LeastRequests, &[1, 1]);
        let rng = Rng::seeded(2);
        let now = Instant::now();
        let [a, b] = [0, 1].map(|index| pool.members()[index].endpoint.clone());
        pool.connect_failed(&a, String::new, now);
        assert!(matches!(pool.pick(&rng, now, &ANY), Pick::Leased(_)));
        let due = now + Duration::from_millis(250);
        let Pick::WithTrial { lease, trial } = pool.pick(&rng, due, &ANY) else {
            unreachable!("a trial is due")
        };
        assert_eq!((lease.endpoint().id, trial.endpoint().id), (b.id, a.id));
        assert!(matches!(pool.pick(&rng, due, &ANY), Pick::Leased(_)));
    }

    #[test]
    fn with_every_connect_refused_requests_try_who_is_back_one_at_a_time() {
        let pool = pool(Balance::Ewma, &[1, 1]);
        let [a, b] = [0, 1].map(|index| pool.members()[index].endpoint.clone());
        let rng = Rng::seeded(2);
        let now = Instant::now();
        pool.connect_failed(&a, String::new, now);
        pool.connect_failed(&b, String::new, now);
        assert!(matches!(pool.pick(&rng, now, &ANY), Pick::Awaited));
        let soon = now + Duration::from_millis(10);
        let trial = |wish: &Wish<'_>| match pool.pick(&rng, soon, wish) {
            Pick::Leased(lease) if lease.is_trial() => lease,
            other => unreachable!("it may be back: {other:?}"),
        };
        let first = trial(&ANY);
        assert_eq!(first.endpoint().id, a.id);
        let second = trial(&tried(&[a.id]));
        assert_eq!(second.endpoint().id, b.id);
        assert!(matches!(pool.pick(&rng, soon, &ANY), Pick::Awaited));
        // One that found both down has nothing to wait for.
        assert!(matches!(pool.pick(&rng, soon, &tried(&[a.id, b.id])), Pick::Empty));
        drop(first);
        let mut again = trial(&ANY);
        pool.connect_succeeded(&a, Duration::ZERO, soon);
        again.trial_ended();
        let Pick::Leased(lease) = pool.pick(&rng, soon, &ANY) else { unreachable!("it is back") };
        assert!(!lease.is_trial() && lease.endpoint().id == a.id);
    }
}
