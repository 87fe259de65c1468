//! Endpoints that are names: looking up their addresses and keeping them fresh.
//!
//! Lookups go through the resolver of the system, `/etc/hosts` and search domains included. It
//! gives no lifetimes, so names are looked up again at a fixed interval. A name that fails keeps
//! its last good answer; one that never had an answer is no candidate (`balance`). Connections to
//! an address that is gone end by their keepalive. Deliberately absent: SRV records, and making
//! endpoints of the records of one name.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::balance::{Endpoint, Pool, Rng};
use crate::config::model::Address;
use crate::shutdown::{Phase, Stop};
use crate::snapshot::Snapshot;

/// From one round of lookups to the next.
const INTERVAL: Duration = Duration::from_secs(10);
/// Intervals vary by this share in both directions, so that fleets do not ask in step.
const JITTER: f64 = 0.1;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Lookups under way at once; each occupies a thread.
const LOOKUPS_MAX: usize = 64;
/// Addresses of one name that are used. They share the time to connect.
const ADDRESSES_MAX: usize = 16;

/// Resolves the names that have no address yet, for at most `patience`: before a snapshot is
/// published, so that its first requests find their endpoints.
pub async fn resolve_all(snapshot: &Snapshot, patience: Duration) {
    let mut names = Names::of(snapshot);
    names.0.retain(|_, holders| holders.iter().any(|holder| !holder.endpoint.is_resolved()));
    let mut reasons = HashMap::new();
    let round = look_up(names.keys(), |name, answer| match answer {
        Ok(addresses) => names.settle(name, &addresses),
        Err(reason) => {
            reasons.insert(name.clone(), reason);
        }
    });
    // What is late is asked for again by the rounds of `run`.
    let _ = timeout(patience, round).await;
    for (name, holders) in &names.0 {
        if holders.iter().any(|holder| !holder.endpoint.is_resolved()) {
            let reason = reasons.get(name).map_or("no answer yet", String::as_str);
            tracing::warn!(%name, reason, "name of an endpoint does not resolve");
        }
    }
}

/// Keeps the addresses of names fresh until the process aborts.
pub async fn run(
    published: Arc<ArcSwap<Snapshot>>,
    generations: watch::Receiver<u64>,
    mut stop: Stop,
) {
    tokio::select! {
        biased;
        () = stop.reached(Phase::Aborting) => {}
        () = keep_fresh(&published, generations) => {}
    }
}

async fn keep_fresh(published: &ArcSwap<Snapshot>, mut generations: watch::Receiver<u64>) {
    let rng = Rng::from_entropy();
    let mut failing = Failing::default();
    let next_round = || Instant::now() + INTERVAL.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.unit());
    let mut due = next_round();
    loop {
        let all = Instant::now() >= due;
        if all {
            due = next_round();
        }
        let mut names = Names::of(&published.load());
        failing.0.retain(|name| names.0.contains_key(name));
        names.0.retain(|_, holders| all || holders.iter().any(|h| !h.endpoint.is_resolved()));
        look_up(names.keys(), |name, answer| {
            failing.note(name, &answer, names.is_resolved(name));
            if let Ok(addresses) = answer {
                names.settle(name, &addresses);
            }
        })
        .await;
        tokio::select! {
            biased;
            Ok(()) = generations.changed() => {}
            () = sleep_until(due) => {}
        }
    }
}

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    host: String,
    port: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An endpoint that is found by a name, and the pool that must learn of a change.
#[derive(Debug)]
struct Holder {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
}

/// All names of a snapshot, each once.
#[derive(Debug, Default)]
struct Names(HashMap<Name, Vec<Holder>>);

impl Names {
    fn of(snapshot: &Snapshot) -> Self {
        let mut names = Self::default();
        let pools = snapshot.backends.values().filter_map(|backend| backend.balanced());
        for pool in pools.map(|balanced| &balanced.pool) {
            for member in pool.members().iter() {
                let Address::Name { host, port } = &member.endpoint.address else { continue };
                let name = Name { host: host.clone(), port: *port };
                let holder = Holder { pool: pool.clone(), endpoint: member.endpoint.clone() };
                names.0.entry(name).or_default().push(holder);
            }
        }
        names
    }

    fn keys(&self) -> Vec<Name> {
        self.0.keys().cloned().collect()
    }

    fn holders(&self, name: &Name) -> &[Holder] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn is_resolved(&self, name: &Name) -> bool {
        self.holders(name).iter().all(|holder| holder.endpoint.is_resolved())
    }

    /// Gives an answer to the endpoints of its name.
    fn settle(&self, name: &Name, answer: &[SocketAddr]) {
        for Holder { pool, endpoint } in self.holders(name) {
            if is_same(&endpoint.resolved(), answer) {
                continue;
            }
            let addresses = answer[..answer.len().min(ADDRESSES_MAX)].to_vec();
            tracing::info!(pool = %pool.name, %name, ?addresses, "name of an endpoint resolved");
            endpoint.set_resolved(addresses);
            pool.refresh(Instant::now().into_std());
        }
    }
}

/// Whether `answer` names the `known` addresses; servers give them in another order each time.
fn is_same(known: &[SocketAddr], answer: &[SocketAddr]) -> bool {
    known.len() == answer.len().min(ADDRESSES_MAX)
        && known.iter().all(|address| answer.contains(address))
}

/// Names whose last lookup failed.
#[derive(Debug, Default)]
struct Failing(HashSet<Name>);

impl Failing {
    /// Logs the first failure in a row, unless the name never had an address: that was said when
    /// it was first looked up. True if it logged a warning.
    fn note(
        &mut self,
        name: &Name,
        answer: &Result<Vec<SocketAddr>, String>,
        is_resolved: bool,
    ) -> bool {
        let Err(reason) = answer else {
            self.0.remove(name);
            return false;
        };
        let is_news = self.0.insert(name.clone()) && is_resolved;
        if is_news {
            tracing::warn!(%name, %reason, "name of an endpoint does not resolve; its last addresses are kept");
        } else {
            tracing::debug!(%name, %reason, "name of an endpoint does still not resolve");
        }
        is_news
    }
}

/// Looks the names up, some at once, and hands on each answer as it comes.
async fn look_up(
    names: Vec<Name>,
    mut answered: impl FnMut(&Name, Result<Vec<SocketAddr>, String>),
) {
    let mut names = names.into_iter();
    let mut lookups = JoinSet::new();
    loop {
        while lookups.len() < LOOKUPS_MAX
            && let Some(name) = names.next()
        {
            lookups.spawn(async move {
                let answer = addresses_of(&name).await;
                (name, answer)
            });
        }
        match lookups.join_next().await {
            Some(Ok((name, answer))) => answered(&name, answer),
            Some(Err(error)) => tracing::error!(%error, "lookup of a name broke off"),
            None => return,
        }
    }
}

/// The addresses of a name, at least one, in the order to try.
async fn addresses_of(name: &Name) -> Result<Vec<SocketAddr>, String> {
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((name.host.as_str(), name.port)))
        .await
        .map_err(|_| format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs()))?
        .map_err(|error| error.to_string())?;
    let mut addresses = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err("it has no addresses".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::{Shutdown, Tasks};
    use crate::snapshot::testing::snapshot;

    fn name(host: &str) -> Name {
        Name { host: host.to_owned(), port: 80 }
    }

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().map(|last| ([192, 0, 2, *last], 80).into()).collect()
    }

    fn pool(snapshot: &Snapshot, name: &str) -> Arc<Pool> {
        snapshot.backends[name].balanced().unwrap().pool.clone()
    }

    fn is_usable(snapshot: &Snapshot, name: &str) -> bool {
        pool(snapshot, name).is_usable(Instant::now().into_std())
    }

    #[tokio::test]
    async fn names_are_resolved_before_a_snapshot_is_published() {
        let text = "[pool.a]\nendpoints = [\"localhost:80\", \"192.0.2.1:80\"]\n\
                    [pool.b]\nendpoints = [\"localhost:80\"]\n";
        let snapshot = snapshot(text, &[], None);
        assert!(!is_usable(&snapshot, "b"));
        resolve_all(&snapshot, Duration::from_secs(10)).await;
        for name in ["a", "b"] {
            let endpoint = pool(&snapshot, name).members()[0].endpoint.clone();
            assert!(endpoint.resolved().iter().all(|found| found.ip().is_loopback()));
            assert!(endpoint.is_resolved() && is_usable(&snapshot, name));
        }
    }

    #[tokio::test]
    async fn a_published_name_is_resolved_in_the_background() {
        let snapshot = snapshot("[pool.a]\nendpoints = [\"localhost:80\"]\n", &[], None);
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let shutdown = Shutdown::default();
        tokio::task::LocalSet::new()
            .run_until(async {
                let tasks = Tasks::default();
                let (_generation, generations) = watch::channel(1);
                tasks.spawn("discovery", run(published.clone(), generations, shutdown.stop()));
                let resolved = async {
                    while !is_usable(&published.load(), "a") {
                        tokio::task::yield_now().await;
                    }
                };
                assert!(timeout(Duration::from_secs(10), resolved).await.is_ok());
                shutdown.enter(Phase::Aborting);
                assert!(tasks.ended(Duration::from_secs(5)).await);
            })
            .await;
    }

    #[test]
    fn an_answer_reaches_every_pool_and_the_last_good_one_is_kept() {
        let text = "[pool.a]\nendpoints = [\"x.test:80\"]\n[pool.b]\nendpoints = [\"x.test:80\"]\n";
        let snapshot = snapshot(text, &[], None);
        let names = Names::of(&snapshot);
        assert_eq!(names.keys(), [name("x.test")]);
        names.settle(&name("x.test"), &addresses(&[1, 2]));
        assert!(is_usable(&snapshot, "a") && is_usable(&snapshot, "b"));

        let endpoint = pool(&snapshot, "a").members()[0].endpoint.clone();
        names.settle(&name("x.test"), &addresses(&[2, 1]));
        assert_eq!(*endpoint.resolved(), addresses(&[1, 2]));
        names.settle(&name("x.test"), &addresses(&[3]));
        assert_eq!(*endpoint.resolved(), addresses(&[3]));
    }

    #[test]
    fn only_so_many_addresses_of_a_name_are_used() {
        let many: Vec<u8> = (1..=40).collect();
        let snapshot = snapshot("[pool.a]\nendpoints = [\"x.test:80\"]\n", &[], None);
        let names = Names::of(&snapshot);
        names.settle(&name("x.test"), &addresses(&many));
        let endpoint = pool(&snapshot, "a").members()[0].endpoint.clone();
        assert_eq!(*endpoint.resolved(), addresses(&many[..ADDRESSES_MAX]));
        let rotated: Vec<u8> = many.iter().rev().copied().collect();
        assert!(is_same(&endpoint.resolved(), &addresses(&rotated)));
    }

    #[test]
    fn a_failure_is_news_once_per_streak_and_never_for_a_name_without_address() {
        let mut failing = Failing::default();
        let (failure, answer) = (Err("no such host".to_owned()), Ok(addresses(&[1])));
        let mut note = |answer, resolved| failing.note(&name("x.test"), answer, resolved);
        assert!(note(&failure, true));
        assert!(!note(&failure, true));
        assert!(!note(&answer, true));
        assert!(note(&failure, true));
        assert!(!note(&answer, true));
        assert!(!note(&failure, false));
    }

    #[tokio::test]
    async fn a_lookup_that_fails_says_why() {
        // The system never asks a server for this.
        let reason = addresses_of(&name("x\0")).await.unwrap_err();
        assert!(!reason.is_empty());
    }
}
