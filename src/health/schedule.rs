//! When one endpoint is probed, and what is told of it.
//!
//! The first probe comes at once, later ones by `interval`. While there is doubt, because the
//! last probe failed, the verdict is against the endpoint, or a request could not connect, they
//! come every second.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::Prober;
use super::probe::{Failure, probe};
use crate::balance::{Availability, Endpoint, Verdict};
use crate::config::model::{Health, Name};
use crate::snapshot::Backend;
use crate::upstream::tell;

/// First probes are spread over this time, so that many endpoints are not all probed in one
/// instant.
const FIRST_SPREAD: Duration = Duration::from_millis(50);
/// From one probe of a failing endpoint to the next, unless `interval` is shorter.
const FAILING_INTERVAL: Duration = Duration::from_secs(1);
/// How often a schedule at rest looks whether its endpoint has been set aside.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Intervals vary by this share in both directions, so that fleets do not probe in step.
const JITTER: f64 = 0.1;

/// The probes of one endpoint.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) prober: Rc<Prober>,
    pub(super) pool: Name,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) health: Health,
}

/// How a probe went.
#[derive(Debug, Clone, Copy)]
struct Probed {
    started: Instant,
    succeeded: bool,
}

impl Schedule {
    /// Probes until the other half of `ended` is dropped.
    pub(super) async fn run(self, ended: oneshot::Receiver<Infallible>) {
        tokio::select! {
            biased;
            _ = ended => {}
            () = self.repeat() => {}
        }
    }

    async fn repeat(&self) {
        sleep(FIRST_SPREAD.mul_f64(self.prober.rng.unit())).await;
        loop {
            let last = self.probe().await;
            self.rest(last).await;
        }
    }

    /// Waits for a place among the probes, probes, and tells the pool.
    async fn probe(&self) -> Probed {
        // The semaphore is never closed.
        let _permit = self.prober.permits.acquire().await;
        let started = Instant::now();
        let backend = self.backend();
        let Some(balanced) = backend.as_ref().and_then(|backend| backend.balanced()) else {
            // The pool has just gone, and this schedule is about to.
            return Probed { started, succeeded: true };
        };
        let result = probe(balanced, &self.endpoint, &self.health).await;
        let succeeded = result.is_ok();
        self.report(result);
        Probed { started, succeeded }
    }

    /// The pool as it is now: a reload may have replaced it since the last probe, or during one.
    fn backend(&self) -> Option<Arc<Backend>> {
        self.prober.published.load().backends.get(&self.pool).cloned()
    }

    fn report(&self, result: Result<(), Failure>) {
        let Some(backend) = self.backend() else { return };
        let Some(balanced) = backend.balanced() else { return };
        let pool = &balanced.pool;
        let now = Instant::now().into_std();
        if let Err(failure) = &result {
            let (pool, endpoint) = (&self.pool, &self.endpoint.label);
            tracing::debug!(%pool, %endpoint, reason = failure.reason(), "probe failed");
        }
        match result {
            Ok(()) => pool.probed(&self.endpoint, Ok(()), now),
            // Another port that is closed does not tell that requests cannot connect.
            Err(Failure::Connect(reason)) if self.health.port.is_none() => {
                pool.probe_connect_failed(&self.endpoint, reason, now);
            }
            Err(Failure::Ours(reason)) => {
                tell(&reason, "endpoints cannot be probed");
            }
            Err(Failure::Connect(reason) | Failure::Answer(reason)) => {
                pool.probed(&self.endpoint, Err(reason), now);
            }
        }
    }

    /// Waits until the next probe is due.
    async fn rest(&self, last: Probed) {
        if !last.succeeded || self.is_out() {
            let interval = FAILING_INTERVAL.min(self.health.interval);
            return sleep_until(last.started + self.jittered(interval)).await;
        }
        let due = last.started + self.jittered(self.health.interval);
        // Requests are kept away from an endpoint that is set aside, so only a probe can soon
        // tell that it is back.
        while Instant::now() < due && !self.is_out() {
            sleep_until(due.min(Instant::now() + LOOK_INTERVAL)).await;
        }
    }

    /// Whether the endpoint is set aside, or out by the verdict of its probes.
    fn is_out(&self) -> bool {
        let standing = self.endpoint.standing();
        let availability = standing.availability(Instant::now().into_std());
        matches!(availability, Availability::Aside | Availability::Trial)
            || matches!(standing.verdict(), Verdict::Unhealthy(_))
    }

    fn jittered(&self, interval: Duration) -> Duration {
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.prober.rng.unit())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;
    use crate::shutdown::Tasks;
    use crate::snapshot::Snapshot;
    use crate::snapshot::testing::snapshot;

    /// The schedule of the only endpoint of the pool `app`.
    fn schedule(snapshot: Snapshot) -> Schedule {
        let pool = snapshot.backends["app"].balanced().unwrap().pool.clone();
        Schedule {
            prober: Prober::new(Arc::new(ArcSwap::from_pointee(snapshot))),
            pool: "app".into(),
            endpoint: pool.members()[0].endpoint.clone(),
            health: pool.health().unwrap().clone(),
        }
    }

    fn pool(address: &str, health: &str) -> Snapshot {
        let text = format!("[pool.app]\nendpoints = [\"{address}\"]\nhealth = {{ {health} }}\n");
        snapshot(&text, &[], None)
    }

    fn unhealthy(reason: &str) -> Verdict {
        Verdict::Unhealthy(reason.to_owned())
    }

    /// Answers one request after the other, each on a connection of its own, with these statuses.
    async fn answer(listener: TcpListener, statuses: &[u16]) {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_first_probe_alone_decides_and_later_ones_by_their_number() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let schedule = schedule(pool(&address, "path = \"/up\""));
        LocalSet::new()
            .run_until(async {
                let tasks = Tasks::default();
                tasks.spawn("origin", answer(listener, &[503, 204, 200, 500]));
                let mut verdicts = Vec::new();
                for _ in 0..4 {
                    schedule.probe().await;
                    verdicts.push(schedule.endpoint.standing().verdict().clone());
                }
                let refused = unhealthy("status 503");
                assert_eq!(
                    verdicts,
                    [refused.clone(), refused, Verdict::Healthy, Verdict::Healthy]
                );
                let now = Instant::now().into_std();
                assert_eq!(schedule.endpoint.standing().availability(now), Availability::Usable);
            })
            .await;
    }

    #[tokio::test]
    async fn a_refused_probe_sets_aside_and_a_good_one_ends_that() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let schedule = schedule(pool(&address.to_string(), "tcp = true"));
        assert!(!schedule.probe().await.succeeded);
        let availability = || schedule.endpoint.standing().availability(Instant::now().into_std());
        assert_eq!(availability(), Availability::Aside);
        let verdict = schedule.endpoint.standing().verdict().clone();
        assert_eq!(verdict, unhealthy("connection refused"));
        assert_eq!(schedule.endpoint.stats.ejections.value(), 0);

        let _listener = TcpListener::bind(address).await.unwrap();
        assert!(schedule.probe().await.succeeded);
        assert_eq!(availability(), Availability::Unhealthy);
        assert!(schedule.probe().await.succeeded);
        assert_eq!(availability(), Availability::Usable);
    }

    #[tokio::test]
    async fn a_refusal_of_another_port_does_not_set_aside() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = format!("tcp = true, port = {}", closed.local_addr().unwrap().port());
        drop(closed);
        let schedule = schedule(pool(&listener.local_addr().unwrap().to_string(), &health));
        assert!(!schedule.probe().await.succeeded);
        let now = Instant::now().into_std();
        assert_eq!(schedule.endpoint.standing().availability(now), Availability::Unhealthy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_endpoint_is_probed_every_second() {
        let schedule = schedule(pool("a.test:80", "tcp = true, interval = \"1m\""));
        let endpoint = schedule.endpoint.clone();
        let _ = tokio::time::timeout(Duration::from_secs(30), schedule.repeat()).await;
        let probes = endpoint.stats.probes_failed.value();
        assert!((27..=34).contains(&probes), "{probes}");
        assert_eq!(endpoint.standing().verdict(), &unhealthy("the name is not resolved"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_endpoint_rests_for_the_interval_give_or_take_a_tenth() {
        let schedule = schedule(pool("127.0.0.1:80", "tcp = true, interval = \"1m\""));
        for _ in 0..20 {
            let started = Instant::now();
            schedule.rest(Probed { started, succeeded: true }).await;
            let rested = started.elapsed().as_secs();
            assert!((54..=66).contains(&rested), "{rested}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_set_aside_is_probed_within_a_second() {
        let schedule = schedule(pool("127.0.0.1:80", "tcp = true, interval = \"1m\""));
        let started = Instant::now();
        let set_aside = async {
            sleep(Duration::from_millis(10_300)).await;
            schedule.endpoint.standing().connect_failed(String::new, Instant::now().into_std());
        };
        tokio::join!(schedule.rest(Probed { started, succeeded: true }), set_aside);
        assert!(started.elapsed() <= Duration::from_millis(11_300), "{:?}", started.elapsed());
    }
}
