//! The task that calls the API of a front.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::bucket::Bucket;
use super::cloudflare::{self, Outcome};
use super::jobs::{Batch, Event, Job, Jobs};
use super::operation::Kind;
use super::{Order, Shared};
use crate::config::model::CloudflarePurge;
use crate::outgoing::Client;
use crate::shutdown::{Phase, Stop};
use crate::snapshot::Snapshot;

/// How often it is looked whether earlier responses have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Where nothing waits.
const REST: Duration = Duration::from_secs(3600);
/// After a call that failed; doubled with each that follows.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Works for as long as the process lives: what waits when it stops is finished then.
pub async fn run(purges: Shared, published: Arc<ArcSwap<Snapshot>>, client: Client, stop: Stop) {
    let receiver = purges.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut receiver) = receiver else { return };
    let now = Instant::now();
    let (calls, urls) = cloudflare::rates(crate::config::model::CloudflarePlan::Free);
    let mut worker = Worker {
        purges,
        published,
        client,
        stop,
        jobs: Jobs::default(),
        calls: Bucket::new(calls, now),
        urls: Bucket::new(urls, now),
        failures: 0,
        paused_until: now,
    };
    worker.work(&mut receiver).await;
}

struct Worker {
    purges: Shared,
    published: Arc<ArcSwap<Snapshot>>,
    client: Client,
    stop: Stop,
    jobs: Jobs,
    calls: Bucket,
    urls: Bucket,
    /// Calls that failed in a row.
    failures: u32,
    paused_until: Instant,
}

impl Worker {
    async fn work(&mut self, receiver: &mut mpsc::Receiver<Order>) {
        loop {
            while let Ok(order) = receiver.try_recv() {
                self.take(order);
            }
            let wake = self.step().await;
            tokio::select! {
                () = sleep_until(wake) => {}
                order = receiver.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, order: Order) {
        let Order { id, operations, is_soft, earlier, began } = order;
        self.jobs.add(id, operations, is_soft, earlier, began);
    }

    /// Makes one call, if one is due and allowed; when to look again.
    async fn step(&mut self) -> Instant {
        let now = Instant::now();
        let snapshot = self.published.load_full();
        self.jobs.look(&snapshot.under_way, now, self.stop.phase() >= Phase::Aborting);
        for job in self.jobs.expired(now) {
            self.end(&job, Some("given up: it could not be done in time"));
        }
        let Some(config) = &snapshot.config.purge.cloudflare else {
            for job in self.jobs.drain() {
                self.end(&job, Some("the front was taken out of the configuration"));
            }
            return now + REST;
        };
        if self.jobs.is_empty() {
            return now + REST;
        }
        if self.paused_until > now {
            return self.paused_until.min(now + BACK_OFF_MAX);
        }
        let Some(batch) = self.jobs.batch(config.mode) else { return now + LOOK_INTERVAL };
        if let Err(wait) = self.allowance(config, &batch, now) {
            return now + wait;
        }
        self.call(config, &batch).await;
        Instant::now()
    }

    /// Takes what a call costs, or says how long to wait.
    fn allowance(
        &mut self,
        config: &CloudflarePurge,
        batch: &Batch,
        now: Instant,
    ) -> Result<(), Duration> {
        let (calls, urls) = cloudflare::rates(config.plan);
        self.calls.change(calls);
        self.urls.change(urls);
        if batch.kind == Kind::Url {
            self.urls.take(batch.operations.len() as f64, now)?;
        }
        self.calls.take(1.0, now)
    }

    async fn call(&mut self, config: &CloudflarePurge, batch: &Batch) {
        let request = cloudflare::request(config, batch.mode, batch.kind, &batch.operations);
        let outcome = match request {
            Ok(request) => cloudflare::outcome(self.client.send(request).await),
            Err(why) => Outcome::Refused(why),
        };
        self.purges.stats.called(&outcome);
        {
            let mut receipts = self.purges.receipts();
            for (id, _) in &batch.parts {
                receipts.update(*id, |status| {
                    status.called();
                    if let Some(error) = outcome.error() {
                        status.call_failed(error);
                    }
                });
            }
        }
        let events = match &outcome {
            Outcome::Ok => {
                self.failures = 0;
                self.jobs.succeeded(batch)
            }
            Outcome::Refused(error) => {
                tracing::warn!(front = "cloudflare", error, "a purge was refused");
                self.jobs.refused(batch)
            }
            _ => {
                self.back_off(&outcome);
                Vec::new()
            }
        };
        for event in events {
            match event {
                Event::Cleared(id) => self.purges.receipts().update(id, |it| it.cleared()),
                Event::Done(job) => self.end(&job, None),
                Event::Failed(job) => self.end(&job, Some("")),
            }
        }
    }

    fn back_off(&mut self, outcome: &Outcome) {
        let doubled = BACK_OFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Between half and all of it, so that several of us do not come back as one.
        let wait = doubled.mul_f64(0.5 + 0.5 * random_share());
        let wait = outcome.retry_after().map_or(wait, |asked| asked.max(wait));
        self.paused_until = Instant::now() + wait;
        let error = outcome.error().unwrap_or_default();
        tracing::warn!(front = "cloudflare", error, ?wait, "a purge has to wait");
    }

    /// A purge is over: done, or failed, for the last reason that it was told or for this one.
    fn end(&self, job: &Job, failure: Option<&str>) {
        let id = self.purges.shown(job.id);
        let mut receipts = self.purges.receipts();
        match failure {
            None => {
                receipts.update(job.id, |it| it.done());
                self.purges.stats.is_done();
                tracing::info!(front = "cloudflare", id, "purge done");
            }
            Some(why) => {
                receipts.update(job.id, |it| it.fail(why));
                self.purges.stats.failed.increment();
                tracing::error!(front = "cloudflare", id, why, "purge failed");
            }
        }
        drop(receipts);
        self.purges.free(job.taken);
    }
}

/// From 0 to 1.
fn random_share() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the middle will do.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
