//! A pool under seeded traffic, on a clock of its own: the real picks, verdicts and budgets of
//! `headwater::balance`, with endpoints that are nothing but queues.
//!
//! Requests come at random (Poisson). An endpoint works on a few at a time, the others wait there;
//! how long one takes is random (exponential). A failure is a quick 503, which is tried again on
//! another endpoint, as the proxy does it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::balance::{Lease, Pick, Pool, Reply, RetryReason, Rng, Wish, hash_key};
use headwater::config;
use headwater::config::model::PoolSource;
use http::StatusCode;

/// Requests that one endpoint works on at a time.
const SLOTS: usize = 4;
/// The mean of what a request takes where nothing is wrong.
const SERVICE: Duration = Duration::from_millis(20);
const FAILURE: Duration = Duration::from_millis(1);
const SLOW_FACTOR: f64 = 10.0;
const FAILING_SHARE: f64 = 0.3;
/// Load over what the endpoints without fault can do.
const LOAD: f64 = 0.7;
/// Clients that keys are made of.
const CLIENTS: usize = 20_000;
const TRIES_MAX: usize = 2;
const BACKOFF_MAX: Duration = Duration::from_millis(20);

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The value of `balance`.
    pub policy: &'static str,
    /// Further lines of the pool.
    pub lines: &'static str,
    pub good: usize,
    /// One endpoint that is ten times slower, and one that fails three of ten requests.
    pub with_bad: bool,
    pub length: Duration,
    /// Left out of the figures.
    pub warm_up: Duration,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    pub requests: usize,
    pub p50: Duration,
    pub p99: Duration,
    /// The busiest of the good endpoints over their mean.
    pub imbalance: f64,
    /// Of the requests of the slow one and of the failing one, over the mean of the good ones.
    pub bad_shares: (f64, f64),
    /// Requests that failed for good.
    pub failed: usize,
    pub retries: usize,
    /// The most that an endpoint had when it got one more, over the mean of all candidates.
    pub peak_load: f64,
}

struct Server {
    mean: Duration,
    failing: f64,
    busy: usize,
    waiting: VecDeque<Work>,
    served: usize,
}

struct Work {
    lease: Lease,
    request: Request,
    sent: Instant,
}

struct Request {
    key: u64,
    came: Instant,
    tried: Vec<u64>,
}

enum Event {
    Arrival,
    Retry(Request),
    /// A server is done with this.
    Done(usize, Work, StatusCode),
}

struct Simulation {
    pool: Arc<Pool>,
    servers: Vec<Server>,
    rng: Rng,
    /// By time; the number makes the order of equals certain.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    events: Vec<Option<Event>>,
    warm: Instant,
    latencies: Vec<Duration>,
    failed: usize,
    retries: usize,
    peak_load: f64,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Report {
    let start = Instant::now();
    let mut simulation = Simulation::new(scenario, start);
    let end = start + scenario.length;
    simulation.plan(start, Event::Arrival);
    let rate = LOAD * (scenario.good * SLOTS) as f64 / SERVICE.as_secs_f64();
    while let Some(Reverse((now, number))) = simulation.due.pop() {
        match simulation.events[number].take() {
            Some(Event::Arrival) if now < end => {
                let gap = simulation.exponential(Duration::from_secs_f64(1.0 / rate));
                simulation.plan(now + gap, Event::Arrival);
                let client = simulation.rng.below(CLIENTS);
                let key = hash_key(&client.to_le_bytes());
                simulation.send(Request { key, came: now, tried: Vec::new() }, now);
            }
            Some(Event::Retry(request)) => simulation.send(request, now),
            Some(Event::Done(server, work, status)) => simulation.done(server, work, status, now),
            Some(Event::Arrival) | None => {}
        }
    }
    simulation.report(scenario)
}

/// A pool as the configuration makes it.
pub fn pool(policy: &str, endpoints: usize, lines: &str, now: Instant) -> Arc<Pool> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let addresses: Vec<String> =
        (1..=endpoints).map(|n| format!("\"10.0.{}.{}:80\"", n / 250, n % 250 + 1)).collect();
    let text = format!(
        "[listener.web]\nbind = \"127.0.0.1:0\"\n[[route]]\npool = \"app\"\n\
         [pool.app]\nendpoints = [{}]\nbalance = \"{policy}\"\n{lines}\n",
        addresses.join(", ")
    );
    let path = std::env::temp_dir()
        .join(format!("headwater-simulation-{}-{number}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    let loaded = config::load(&path, &|_| None);
    let _ = std::fs::remove_file(&path);
    let Ok(accepted) = loaded.into_config() else { panic!("the configuration is refused") };
    let spec = &accepted.config.pools[0];
    let PoolSource::Endpoints(endpoints) = &spec.source else { panic!("endpoints were given") };
    Arc::new(Pool::build(spec, endpoints, None, None, now))
}

impl Simulation {
    fn new(scenario: &Scenario, start: Instant) -> Self {
        let good = |_| Server::new(1.0, 0.0);
        let mut servers: Vec<_> = (0..scenario.good).map(good).collect();
        if scenario.with_bad {
            servers.push(Server::new(SLOW_FACTOR, 0.0));
            servers.push(Server::new(1.0, FAILING_SHARE));
        }
        Self {
            pool: pool(scenario.policy, servers.len(), scenario.lines, start),
            servers,
            rng: Rng::seeded(scenario.seed),
            due: BinaryHeap::new(),
            events: Vec::new(),
            warm: start + scenario.warm_up,
            latencies: Vec::new(),
            failed: 0,
            retries: 0,
            peak_load: 0.0,
        }
    }

    fn exponential(&self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.rng.unit()).ln())
    }

    fn plan(&mut self, at: Instant, event: Event) {
        self.due.push(Reverse((at, self.events.len())));
        self.events.push(Some(event));
    }

    fn send(&mut self, request: Request, now: Instant) {
        let wish = Wish { tried: &request.tried, key: request.key, ..Wish::default() };
        // No connection ever fails here.
        let Pick::Leased(lease) = self.pool.pick(&self.rng, now, &wish) else {
            self.failed += 1;
            return;
        };
        let members = self.pool.members();
        let index = members.iter().position(|member| member.endpoint.id == lease.endpoint().id);
        let index = index.expect("a member");
        self.look_at_load(index, now);
        let work = Work { lease, request, sent: now };
        if self.servers[index].busy < SLOTS {
            self.begin(index, work, now);
        } else {
            self.servers[index].waiting.push_back(work);
        }
    }

    fn begin(&mut self, index: usize, work: Work, now: Instant) {
        let server = &mut self.servers[index];
        server.busy += 1;
        let (mean, failing) = (server.mean, server.failing);
        let fails = failing > 0.0 && self.rng.unit() < failing;
        let takes = self.exponential(if fails { FAILURE } else { mean });
        let status = if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        self.plan(now + takes, Event::Done(index, work, status));
    }

    fn done(&mut self, index: usize, work: Work, status: StatusCode, now: Instant) {
        let Work { lease, mut request, sent } = work;
        let endpoint = lease.endpoint().clone();
        let reply = Reply { key: request.key, ..Reply::whole(status, now - sent) };
        self.pool.responded(&endpoint, reply, now);
        drop(lease);
        self.servers[index].busy -= 1;
        self.servers[index].served += usize::from(request.came >= self.warm);
        if let Some(next) = self.servers[index].waiting.pop_front() {
            self.begin(index, next, now);
        }
        request.tried.push(endpoint.id);
        if status != StatusCode::OK
            && request.tried.len() < TRIES_MAX
            && self.pool.take_retry(RetryReason::Status, now)
        {
            self.retries += 1;
            let backoff = BACKOFF_MAX.mul_f64(self.rng.unit());
            return self.plan(now + backoff, Event::Retry(request));
        }
        self.failed += usize::from(status != StatusCode::OK);
        if request.came >= self.warm {
            self.latencies.push(now - request.came);
        }
    }

    /// `index` has got one more.
    fn look_at_load(&mut self, index: usize, now: Instant) {
        if now < self.warm {
            return;
        }
        let candidates = self.pool.candidates(now);
        let loads = candidates.members.iter().map(|it| it.endpoint.requests_in_flight());
        let mean = loads.sum::<usize>() as f64 / candidates.members.len() as f64;
        let before = self.pool.members()[index].endpoint.requests_in_flight() - 1;
        self.peak_load = self.peak_load.max(before as f64 / mean);
    }

    fn report(mut self, scenario: &Scenario) -> Report {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let last = self.latencies.len() - 1;
            self.latencies[(last as f64 * share) as usize]
        };
        let served = |index: usize| self.servers[index].served as f64;
        let mean = (0..scenario.good).map(served).sum::<f64>() / scenario.good as f64;
        let busiest = (0..scenario.good).map(served).fold(0.0, f64::max);
        let bad_shares = match scenario.with_bad {
            true => (served(scenario.good) / mean, served(scenario.good + 1) / mean),
            false => (0.0, 0.0),
        };
        Report {
            requests: self.latencies.len(),
            p50: at(0.5),
            p99: at(0.99),
            imbalance: busiest / mean,
            bad_shares,
            failed: self.failed,
            retries: self.retries,
            peak_load: self.peak_load,
        }
    }
}

impl Server {
    fn new(factor: f64, failing: f64) -> Self {
        Self {
            mean: SERVICE.mul_f64(factor),
            failing,
            busy: 0,
            waiting: VecDeque::new(),
            served: 0,
        }
    }
}
