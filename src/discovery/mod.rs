//! Names: finding the endpoints of pools by DNS and keeping them fresh.
//!
//! A pool may be a name, every record of which is an endpoint, or have endpoints that are names.
//! Each such name is a `Subject` with a schedule of its own, a task that lasts
//! as long as the pool's definition of it; a slow answer holds nobody else up. A name that fails, or
//! whose answer is empty, keeps its last good answer. A record that leaves takes its endpoint with
//! it: requests under way end in their own time, connections at rest are closed by the workers, and
//! the others notice nothing.
//!
//! ```text
//! system, resolver   who is asked; the records of one name
//! lookup             all records behind one subject, services and their targets included
//! answer             records → endpoints
//! subject            an answer → the pool
//! schedule           when, and what is said
//! ```
//!
//! Deliberately absent: whether endpoints answer (`health`), and picking them (`balance`).

mod answer;
mod lookup;
mod resolver;
mod schedule;
mod subject;
mod system;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::balance::{Pool, Rng};
use crate::config::model::{DnsName, DnsRules, Name};
use crate::shutdown::{Phase, Stop, Tasks};
use crate::snapshot::Snapshot;
use lookup::{Memory, look_up};
use resolver::Resolver;
use schedule::Schedule;
use subject::Subject;
use system::System;

/// Lookups under way at once; further ones wait in line.
const LOOKUPS_MAX: usize = 64;
/// How often the files of the system are looked at.
const SYSTEM_INTERVAL: Duration = Duration::from_secs(10);
/// How often the schedules are compared with the configuration even if it did not change, for the
/// sake of one that panicked.
const REVIEW_INTERVAL: Duration = Duration::from_secs(10);
/// How long schedules may take to notice that they are over; none waits for anything then.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Resolves the names that have no address yet, for at most `patience`: before a snapshot is
/// published, so that its first requests find their endpoints. A name that the `running` snapshot
/// waits for in vain has had its time: its schedule goes on asking, and nobody waits for it again.
pub async fn resolve_all(snapshot: &Snapshot, running: Option<&Snapshot>, patience: Duration) {
    let mut waiting = unresolved(snapshot);
    if let Some(running) = running.filter(|_| !waiting.is_empty()) {
        let in_vain = unresolved(running);
        let in_vain: HashSet<&DnsName> = in_vain.iter().map(|it| &it.subject.name).collect();
        waiting.retain(|it| !in_vain.contains(&it.subject.name));
    }
    if waiting.is_empty() {
        return;
    }
    let servers = snapshot.config.process.resolvers.clone();
    let mut reasons = HashMap::new();
    let lookups = async {
        match Resolver::of_system(servers).await {
            Ok(resolver) => resolve_some(&resolver, &waiting, &mut reasons).await,
            Err(why) => tracing::error!(why, "names cannot be looked up"),
        }
    };
    // What is late is asked for again by the schedules.
    let _ = timeout(patience, lookups).await;
    for (index, Unresolved { pool, subject, .. }) in waiting.iter().enumerate() {
        if !subject.is_resolved(pool) {
            let reason = reasons.get(&index).map_or("no answer yet", String::as_str);
            let name = &subject.name;
            tracing::warn!(pool = %pool.name, %name, reason, "name of endpoints does not resolve");
        }
    }
}

struct Unresolved {
    pool: Arc<Pool>,
    rules: DnsRules,
    subject: Subject,
}

fn unresolved(snapshot: &Snapshot) -> Vec<Unresolved> {
    let mut found = Vec::new();
    for backend in snapshot.backends.values() {
        let Some(balanced) = backend.balanced() else { continue };
        for subject in Subject::all_of(backend) {
            if !subject.is_resolved(&balanced.pool) {
                let (pool, rules) = (balanced.pool.clone(), backend.spec.dns.clone());
                found.push(Unresolved { pool, rules, subject });
            }
        }
    }
    found
}

/// Looks them up, some at once, and takes each answer over as it comes; the reasons of failures by
/// index.
async fn resolve_some(
    resolver: &Arc<Resolver>,
    waiting: &[Unresolved],
    reasons: &mut HashMap<usize, String>,
) {
    let mut rest = waiting.iter().enumerate();
    let mut lookups = JoinSet::new();
    loop {
        while lookups.len() < LOOKUPS_MAX
            && let Some((index, Unresolved { subject, .. })) = rest.next()
        {
            let (resolver, name) = (resolver.clone(), subject.name.clone());
            lookups.spawn(async move {
                let answer = look_up(&resolver, &name, &[], &mut Memory::default()).await;
                (index, answer)
            });
        }
        match lookups.join_next().await {
            Some(Ok((index, answer))) => {
                let Unresolved { pool, rules, subject } = &waiting[index];
                let now = Instant::now().into_std();
                match subject.settle(pool, rules.loopback, answer, now) {
                    Ok(settled) => settled.unused.warn(pool, subject),
                    Err(failure) => {
                        reasons.insert(index, failure.to_string());
                    }
                }
            }
            Some(Err(error)) => tracing::error!(%error, "lookup of a name broke off"),
            None => return,
        }
    }
}

/// Keeps the addresses of names fresh until the process aborts; `changes` is told when a pool has
/// got other endpoints.
pub async fn run(
    published: Arc<ArcSwap<Snapshot>>,
    mut generations: watch::Receiver<u64>,
    changes: watch::Sender<u64>,
    mut stop: Stop,
) {
    let mut schedules = Schedules::new(Finder::new(published.clone(), changes));
    loop {
        schedules.reconcile(&published.load());
        tokio::select! {
            biased;
            () = stop.reached(Phase::Aborting) => break,
            Ok(()) = generations.changed() => {}
            () = tokio::time::sleep(REVIEW_INTERVAL) => {}
        }
    }
    schedules.end().await;
}

/// What the schedules share.
#[derive(Debug)]
struct Finder {
    published: Arc<ArcSwap<Snapshot>>,
    permits: Semaphore,
    rng: Rng,
    changes: watch::Sender<u64>,
    current: RefCell<Option<Current>>,
}

/// A resolver, and what it was made of.
#[derive(Debug)]
struct Current {
    servers: Vec<SocketAddr>,
    system: System,
    looked: Instant,
    resolver: Arc<Resolver>,
}

impl Finder {
    fn new(published: Arc<ArcSwap<Snapshot>>, changes: watch::Sender<u64>) -> Rc<Self> {
        Rc::new(Self {
            published,
            permits: Semaphore::new(LOOKUPS_MAX),
            rng: Rng::from_entropy(),
            changes,
            current: RefCell::default(),
        })
    }

    /// The resolver for the configuration and the system as they are.
    async fn resolver(&self) -> Result<Arc<Resolver>, String> {
        let servers = self.published.load().config.process.resolvers.clone();
        if let Some(current) = &*self.current.borrow()
            && current.servers == servers
            && current.looked.elapsed() < SYSTEM_INTERVAL
        {
            return Ok(current.resolver.clone());
        }
        let system = read_system().await?;
        let looked = Instant::now();
        if let Some(current) = &mut *self.current.borrow_mut()
            && current.servers == servers
            && current.system == system
        {
            current.looked = looked;
            return Ok(current.resolver.clone());
        }
        let resolver = Resolver::new(&servers, &system).map_err(|error| error.to_string())?;
        let resolver = Arc::new(resolver);
        let current = Current { servers, system, looked, resolver: resolver.clone() };
        *self.current.borrow_mut() = Some(current);
        Ok(resolver)
    }

    fn tell_changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

async fn read_system() -> Result<System, String> {
    tokio::task::spawn_blocking(System::read).await.map_err(|error| error.to_string())
}

impl Resolver {
    /// One for a single use.
    async fn of_system(servers: Vec<SocketAddr>) -> Result<Arc<Self>, String> {
        let system = read_system().await?;
        Self::new(&servers, &system).map(Arc::new).map_err(|error| error.to_string())
    }
}

/// The schedules that run, by pool and id of the endpoint that is a name.
#[derive(Debug)]
struct Schedules {
    finder: Rc<Finder>,
    tasks: Tasks,
    running: HashMap<(Name, Option<u64>), Running>,
}

/// A schedule as its owner sees it.
#[derive(Debug)]
struct Running {
    name: DnsName,
    rules: DnsRules,
    /// Dropping it ends the schedule.
    alive: oneshot::Sender<Infallible>,
}

impl Schedules {
    fn new(finder: Rc<Finder>) -> Self {
        Self { finder, tasks: Tasks::default(), running: HashMap::new() }
    }

    /// Starts the schedules that are missing and ends those that are not wanted any more.
    fn reconcile(&mut self, snapshot: &Snapshot) {
        let mut kept = HashMap::new();
        for (pool, backend) in &snapshot.backends {
            let rules = &backend.spec.dns;
            for subject in Subject::all_of(backend) {
                let id = subject.endpoint.as_ref().map(|endpoint| endpoint.id);
                let key = (pool.clone(), id);
                let running = match self.running.remove(&key) {
                    Some(running) if running.serves(&subject, rules) => running,
                    _ => self.start(pool, subject, rules),
                };
                kept.insert(key, running);
            }
        }
        self.running = kept;
    }

    fn start(&self, pool: &Name, subject: Subject, rules: &DnsRules) -> Running {
        let (alive, ended) = oneshot::channel();
        let name = subject.name.clone();
        let finder = self.finder.clone();
        let schedule = Schedule { finder, pool: pool.clone(), subject, rules: rules.clone() };
        self.tasks.spawn("lookups of a name", schedule.run(ended));
        Running { name, rules: rules.clone(), alive }
    }

    async fn end(self) {
        drop(self.running);
        if !self.tasks.ended(END_PATIENCE).await {
            tracing::error!(count = self.tasks.len(), "lookups of names did not end");
        }
    }
}

impl Running {
    /// Whether it is the right schedule for `subject`, and still there.
    fn serves(&self, subject: &Subject, rules: &DnsRules) -> bool {
        if self.alive.is_closed() {
            tracing::error!(name = %self.name, "lookups of a name broke off; starting anew");
            return false;
        }
        self.name == subject.name && self.rules == *rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::snapshot;

    fn is_usable(snapshot: &Snapshot, name: &str) -> bool {
        let pool = &snapshot.backends[name].balanced().unwrap().pool;
        pool.is_usable(Instant::now().into_std())
    }

    #[tokio::test]
    async fn names_are_resolved_before_a_snapshot_is_published() {
        let text = "[pool.a]\nendpoints = [\"localhost:80\", \"192.0.2.1:80\"]\n\
                    [pool.b]\nendpoints = [\"localhost:80\"]\n[pool.c]\ndns = \"localhost:80\"\n";
        let snapshot = snapshot(text, &[], None);
        assert!(!is_usable(&snapshot, "b") && !is_usable(&snapshot, "c"));
        resolve_all(&snapshot, None, Duration::from_secs(10)).await;
        for name in ["a", "b", "c"] {
            let pool = &snapshot.backends[name].balanced().unwrap().pool;
            let found = pool.members()[0].endpoint.resolved();
            assert!(!found.is_empty() && found.iter().all(|found| found.ip().is_loopback()));
            assert!(is_usable(&snapshot, name));
        }
        assert!(unresolved(&snapshot).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_does_not_answer_is_waited_for_once() {
        // Nobody is there (RFC 5737).
        let text = "[process]\nresolvers = [\"192.0.2.1:53\"]\n\
                    [pool.a]\nendpoints = [\"a.test:80\"]\n";
        let first = snapshot(text, &[], None);
        let patience = Duration::from_secs(1);
        let start = Instant::now();
        resolve_all(&first, None, patience).await;
        assert_eq!(start.elapsed(), patience);
        let with_another = format!("{text}keepalive = \"5s\"\n[pool.b]\ndns = \"localhost:80\"\n");
        let next = snapshot(&with_another, &[], Some(&first));
        let start = Instant::now();
        resolve_all(&next, Some(&first), patience).await;
        assert!(start.elapsed() < patience, "{:?}", start.elapsed());
        assert!(is_usable(&next, "b"), "a new name still has its moment");
    }

    #[tokio::test]
    async fn published_names_are_resolved_in_the_background_and_changes_of_pools_told() {
        let text = "[pool.a]\nendpoints = [\"localhost:80\"]\n[pool.b]\ndns = \"localhost:80\"\n";
        let published = Arc::new(ArcSwap::from_pointee(snapshot(text, &[], None)));
        let shutdown = crate::shutdown::Shutdown::default();
        tokio::task::LocalSet::new()
            .run_until(async {
                let tasks = Tasks::default();
                let (_generation, generations) = watch::channel(1);
                let (changes, mut changed) = watch::channel(0);
                let task = run(published.clone(), generations, changes, shutdown.stop());
                tasks.spawn("discovery", task);
                let resolved = async {
                    changed.changed().await.unwrap();
                    while !is_usable(&published.load(), "a") {
                        tokio::task::yield_now().await;
                    }
                };
                assert!(timeout(Duration::from_secs(10), resolved).await.is_ok());
                assert!(is_usable(&published.load(), "b"));
                shutdown.enter(Phase::Aborting);
                assert!(tasks.ended(Duration::from_secs(5)).await);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_another_definition_gives_a_name_a_new_schedule() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let text = "[pool.a]\nendpoints = [\"a.localhost:80\", \"b.localhost:80\"]\n";
                let first = snapshot(text, &[], None);
                let published = Arc::new(ArcSwap::from_pointee(first));
                let finder = Finder::new(published.clone(), watch::channel(0).0);
                let mut schedules = Schedules::new(finder);
                let publish = |schedules: &mut Schedules, text: &str| {
                    let next = snapshot(text, &[], Some(&published.load()));
                    published.store(Arc::new(next));
                    schedules.reconcile(&published.load());
                };
                publish(&mut schedules, text);
                assert_eq!(schedules.tasks.len(), 2);
                publish(&mut schedules, &format!("{text}keepalive = \"5s\"\n"));
                assert_eq!(schedules.tasks.len(), 2);
                publish(
                    &mut schedules,
                    "[pool.a]\nendpoints = [\"b.localhost:80\"]\ndns_ttl.max = \"5s\"\n",
                );
                assert_eq!(schedules.running.len(), 1);
                while schedules.tasks.len() > 1 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
    }
}
