//! Active health checks: whether endpoints answer, asked from outside the stream of requests.
//!
//! One prober serves all workers. Each endpoint of a pool with `health` has a schedule, a task
//! of its own that lasts as long as the endpoint and the definition of its checks. A probe opens a
//! connection of its own, which counts neither among those of the endpoint nor in the time to
//! connect: an endpoint at its limits is still to be judged. Deliberately absent: what follows
//! from a result (`balance`), and resolving names (`discovery`).

mod converse;
mod grpc;
mod http;
mod probe;
mod schedule;

use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;

use crate::balance::{Endpoint, Rng};
use crate::config::model::{Health, Name};
use crate::shutdown::{Phase, Stop, Tasks};
use crate::snapshot::Snapshot;
use schedule::Schedule;

/// Probes under way at once in the process; further ones wait in line.
const PROBES_MAX: usize = 256;
/// How often the schedules are compared with the configuration even if it did not change, for the
/// sake of one that panicked.
const REVIEW_INTERVAL: Duration = Duration::from_secs(10);
/// How long schedules may take to notice that they are over; none waits for anything then.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Probes the endpoints of the published snapshot until the process aborts; `changes` tells when
/// discovery gave a pool other ones. Draining goes on with it: what still runs needs to know which
/// endpoints answer.
pub async fn run(
    published: Arc<ArcSwap<Snapshot>>,
    mut generations: watch::Receiver<u64>,
    mut changes: watch::Receiver<u64>,
    mut stop: Stop,
) {
    let mut schedules = Schedules::new(Prober::new(published.clone()));
    loop {
        schedules.reconcile(&published.load());
        tokio::select! {
            biased;
            () = stop.reached(Phase::Aborting) => break,
            Ok(()) = generations.changed() => {}
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep(REVIEW_INTERVAL) => {}
        }
    }
    schedules.end().await;
}

/// What the schedules share.
#[derive(Debug)]
struct Prober {
    published: Arc<ArcSwap<Snapshot>>,
    permits: Semaphore,
    rng: Rng,
}

impl Prober {
    fn new(published: Arc<ArcSwap<Snapshot>>) -> Rc<Self> {
        Rc::new(Self { published, permits: Semaphore::new(PROBES_MAX), rng: Rng::from_entropy() })
    }
}

/// The schedules that run, by pool and id of the endpoint.
#[derive(Debug)]
struct Schedules {
    prober: Rc<Prober>,
    tasks: Tasks,
    running: HashMap<(Name, u64), Running>,
}

/// A schedule as its owner sees it.
#[derive(Debug)]
struct Running {
    health: Health,
    /// Dropping it ends the schedule.
    alive: oneshot::Sender<Infallible>,
}

impl Schedules {
    fn new(prober: Rc<Prober>) -> Self {
        Self { prober, tasks: Tasks::default(), running: HashMap::new() }
    }

    /// Starts the schedules that are missing and ends those that are not wanted any more.
    fn reconcile(&mut self, snapshot: &Snapshot) {
        let now = Instant::now().into_std();
        let mut kept = HashMap::new();
        for (name, backend) in &snapshot.backends {
            let Some(balanced) = backend.balanced() else { continue };
            let Some(health) = balanced.pool.health() else {
                balanced.pool.forget_verdicts(now);
                continue;
            };
            // What happened to an endpoint between the building of this pool and its publication
            // was told to its predecessor.
            balanced.pool.refresh(now);
            for member in balanced.pool.members().iter() {
                let key = (name.clone(), member.endpoint.id);
                let running = match self.running.remove(&key) {
                    Some(running) if running.serves(health, &member.endpoint) => running,
                    _ => self.start(name, &member.endpoint, health),
                };
                kept.insert(key, running);
            }
        }
        self.running = kept;
    }

    fn start(&self, pool: &Name, endpoint: &Arc<Endpoint>, health: &Health) -> Running {
        let (alive, ended) = oneshot::channel();
        let schedule = Schedule {
            prober: self.prober.clone(),
            pool: pool.clone(),
            endpoint: endpoint.clone(),
            health: health.clone(),
        };
        self.tasks.spawn("health schedule", schedule.run(ended));
        Running { health: health.clone(), alive }
    }

    async fn end(self) {
        drop(self.running);
        if !self.tasks.ended(END_PATIENCE).await {
            tracing::error!(count = self.tasks.len(), "health schedules did not end");
        }
    }
}

impl Running {
    /// Whether it is the right schedule for `health`, and still there.
    fn serves(&self, health: &Health, endpoint: &Endpoint) -> bool {
        if self.alive.is_closed() {
            tracing::error!(endpoint = %endpoint.label, "a health schedule broke off; starting anew");
            return false;
        }
        self.health == *health
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::{LocalSet, yield_now};

    use super::*;
    use crate::shutdown::Shutdown;
    use crate::snapshot::testing::snapshot;

    /// Names that nothing resolves: their probes fail without any I/O.
    fn named(hosts: &[&str], health: &str) -> String {
        let endpoints: Vec<_> = hosts.iter().map(|host| format!("\"{host}.test:80\"")).collect();
        format!("[pool.app]\nendpoints = [{}]\n{health}\n", endpoints.join(", "))
    }

    fn endpoint(snapshot: &Snapshot, index: usize) -> Arc<Endpoint> {
        let pool = &snapshot.backends["app"].balanced().unwrap().pool;
        pool.members()[index].endpoint.clone()
    }

    fn schedules(snapshot: Snapshot) -> (Arc<ArcSwap<Snapshot>>, Schedules) {
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let mut schedules = Schedules::new(Prober::new(published.clone()));
        schedules.reconcile(&published.load());
        (published, schedules)
    }

    fn publish(published: &ArcSwap<Snapshot>, schedules: &mut Schedules, pools: &str) {
        let next = snapshot(pools, &[], Some(&published.load()));
        published.store(Arc::new(next));
        schedules.reconcile(&published.load());
    }

    #[tokio::test(start_paused = true)]
    async fn the_schedule_of_a_removed_endpoint_ends_and_the_others_go_on() {
        LocalSet::new()
            .run_until(async {
                let health = "health = { tcp = true }";
                let (published, mut schedules) =
                    schedules(snapshot(&named(&["a", "b"], health), &[], None));
                let (a, b) = (endpoint(&published.load(), 0), endpoint(&published.load(), 1));
                tokio::time::sleep(Duration::from_secs(3)).await;
                publish(&published, &mut schedules, &named(&["b"], health));
                while schedules.tasks.len() > 1 {
                    yield_now().await;
                }
                let (of_a, of_b) = (a.stats.probes_failed.value(), b.stats.probes_failed.value());
                assert!(of_a >= 3);
                tokio::time::sleep(Duration::from_secs(3)).await;
                assert_eq!(a.stats.probes_failed.value(), of_a);
                assert!(b.stats.probes_failed.value() > of_b);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_another_definition_gives_an_endpoint_a_new_schedule() {
        LocalSet::new()
            .run_until(async {
                let first = named(&["a"], "health = { tcp = true }");
                let (published, mut schedules) = schedules(snapshot(&first, &[], None));
                let key = ("app".into(), endpoint(&published.load(), 0).id);
                publish(&published, &mut schedules, &format!("{first}keepalive = \"5s\"\n"));
                assert_eq!(schedules.tasks.len(), 1);

                let changed = named(&["a"], "health = { tcp = true, interval = \"9s\" }");
                publish(&published, &mut schedules, &changed);
                assert_eq!(schedules.running[&key].health.interval, Duration::from_secs(9));
                assert_eq!(schedules.tasks.len(), 2);
                while schedules.tasks.len() > 1 {
                    yield_now().await;
                }
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_loses_its_checks_loses_their_verdicts() {
        LocalSet::new()
            .run_until(async {
                let (published, mut schedules) =
                    schedules(snapshot(&named(&["a"], "health = { tcp = true }"), &[], None));
                let endpoint = endpoint(&published.load(), 0);
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(endpoint.standing().verdict().as_str(), "unhealthy");
                publish(&published, &mut schedules, &named(&["a"], ""));
                assert_eq!(endpoint.standing().verdict().as_str(), "unknown");
                assert!(schedules.running.is_empty());
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_that_broke_off_is_started_anew() {
        LocalSet::new()
            .run_until(async {
                let (published, mut schedules) =
                    schedules(snapshot(&named(&["a"], "health = { tcp = true }"), &[], None));
                for running in schedules.running.values_mut() {
                    running.alive = oneshot::channel().0;
                }
                schedules.reconcile(&published.load());
                assert!(schedules.running.values().all(|running| !running.alive.is_closed()));
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn probing_goes_on_while_draining_and_ends_with_the_abort() {
        LocalSet::new()
            .run_until(async {
                let first = snapshot(&named(&["a"], "health = { tcp = true }"), &[], None);
                let endpoint = endpoint(&first, 0);
                let shutdown = Shutdown::default();
                let (_generation, generations) = watch::channel(1);
                let tasks = Tasks::default();
                let published = Arc::new(ArcSwap::from_pointee(first));
                let changes = watch::channel(0).1;
                tasks.spawn("health", run(published, generations, changes, shutdown.stop()));
                shutdown.enter(Phase::Draining);
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(endpoint.stats.probes_failed.value() >= 4);
                shutdown.enter(Phase::Aborting);
                assert!(tasks.ended(Duration::from_secs(5)).await);
            })
            .await;
    }

    #[tokio::test]
    async fn a_new_generation_is_probed_as_soon_as_it_is_announced() {
        LocalSet::new()
            .run_until(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let published =
                    Arc::new(ArcSwap::from_pointee(snapshot(&named(&["a"], ""), &[], None)));
                let (generation, generations) = watch::channel(1);
                let (tasks, shutdown) = (Tasks::default(), Shutdown::default());
                let changes = watch::channel(0).1;
                let health = run(published.clone(), generations, changes, shutdown.stop());
                tasks.spawn("health", health);
                let pools =
                    format!("[pool.app]\nendpoints = [\"{address}\"]\nhealth = {{ tcp = true }}\n");
                let next = snapshot(&pools, &[], Some(&published.load()));
                published.store(Arc::new(next));
                generation.send_replace(2);
                let accepted =
                    tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
                assert!(accepted.unwrap().is_ok());
            })
            .await;
    }
}
