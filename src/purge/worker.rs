//! The task that calls the API of a front.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::api::{Api, Next};
use super::jobs::{Batch, Event, Job, Jobs};
use super::outcome::Outcome;
use super::receipt::Part;
use super::{FrontName, Line, Order, Shared};
use crate::config::model::Purge;
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
    let [first, second] = FrontName::ALL.map(|front| {
        let worker = Worker::new(front, &purges, &published, &client, &stop);
        async move {
            if let Some(mut worker) = worker {
                worker.work().await;
            }
        }
    });
    tokio::join!(first, second);
}

/// Of one front.
struct Worker {
    purges: Shared,
    front: FrontName,
    receiver: mpsc::Receiver<Order>,
    published: Arc<ArcSwap<Snapshot>>,
    client: Client,
    stop: Stop,
    jobs: Jobs,
    api: Api,
    /// Everything is sent, and accepted; it is not all done there.
    accepted: Vec<Job>,
    /// Calls that failed in a row.
    failures: u32,
    paused_until: Instant,
}

impl Worker {
    /// `None` where there is one.
    fn new(
        front: FrontName,
        purges: &Shared,
        published: &Arc<ArcSwap<Snapshot>>,
        client: &Client,
        stop: &Stop,
    ) -> Option<Self> {
        let line = purges.lines.iter().find(|line| line.front == front)?;
        let receiver = line.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let now = Instant::now();
        Some(Self {
            purges: purges.clone(),
            front,
            receiver,
            published: published.clone(),
            client: client.clone(),
            stop: stop.clone(),
            jobs: Jobs::new(Api::per_call(front)),
            api: Api::new(front, now),
            accepted: Vec::new(),
            failures: 0,
            paused_until: now,
        })
    }

    async fn work(&mut self) {
        loop {
            while let Ok(order) = self.receiver.try_recv() {
                self.take(order);
            }
            let wake = self.step().await;
            tokio::select! {
                () = sleep_until(wake) => {}
                order = self.receiver.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, order: Order) {
        let Order { id, operations, is_soft, earlier, began } = order;
        // The one has both kinds of purge, the other only one.
        let is_soft = is_soft && self.front == FrontName::Cloudflare;
        self.jobs.add(id, operations, is_soft, earlier, began);
    }

    /// Makes one call, if one is due and allowed; when to look again.
    async fn step(&mut self) -> Instant {
        let now = Instant::now();
        let snapshot = self.published.load_full();
        let config = &snapshot.config.purge;
        let is_hurried = self.stop.phase() >= Phase::Aborting;
        self.jobs.look(&snapshot.under_way, now, is_hurried);
        for job in self.jobs.expired(now) {
            self.end(&job, Some("given up: it could not be done in time"));
        }
        if !self.front.is_configured(config) {
            let accepted = std::mem::take(&mut self.accepted);
            for job in self.jobs.drain().into_iter().chain(accepted) {
                self.end(&job, Some("the front was taken out of the configuration"));
            }
            self.api = Api::new(self.front, now);
            return now + REST;
        }
        // What was accepted is done without us.
        let follow = match is_hurried {
            true => None,
            false => self.api.follow(config, &self.client).await,
        };
        self.end_what_is_done(is_hurried);
        let follow = follow.unwrap_or(now + REST).max(now + LOOK_INTERVAL);
        if self.jobs.is_empty() {
            return follow;
        }
        if self.paused_until > now {
            return self.paused_until.min(now + BACK_OFF_MAX).min(follow);
        }
        match self.api.next(config, &self.jobs, now) {
            Next::Call(batch) => {
                self.call(config, &batch).await;
                Instant::now()
            }
            Next::Wait(wait) => (now + wait).min(follow),
            Next::Nothing => now + LOOK_INTERVAL,
        }
    }

    async fn call(&mut self, config: &Purge, batch: &Batch) {
        let outcome = self.api.call(config, &self.client, batch).await;
        let front = self.front.as_str();
        self.line().stats.called(&outcome);
        {
            let mut receipts = self.purges.receipts();
            for (id, _) in &batch.parts {
                receipts.update(*id, front, |part| {
                    part.called();
                    if let Some(error) = outcome.error() {
                        part.call_failed(error);
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
                tracing::warn!(front, error, "a purge was refused");
                self.jobs.refused(batch)
            }
            _ => {
                self.back_off(&outcome);
                Vec::new()
            }
        };
        for event in events {
            match event {
                Event::Cleared(id) => {
                    self.purges.receipts().update(id, front, Part::cleared);
                }
                Event::Done(job) => self.accepted.push(job),
                Event::Failed(job) => self.end(&job, Some("")),
            }
        }
    }

    /// Ends the purges of which the front has done everything; with `hurry` those that it has accepted.
    fn end_what_is_done(&mut self, hurry: bool) {
        let (busy, done): (Vec<Job>, Vec<Job>) = std::mem::take(&mut self.accepted)
            .into_iter()
            .partition(|job| !hurry && self.api.is_busy_with(job.id));
        self.accepted = busy;
        for job in done {
            self.end(&job, None);
        }
    }

    fn back_off(&mut self, outcome: &Outcome) {
        let doubled = BACK_OFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Between half and all of it, so that several of us do not come back as one.
        let wait = doubled.mul_f64(0.5 + 0.5 * random_share());
        let wait = outcome.retry_after().map_or(wait, |asked| asked.max(wait));
        self.paused_until = Instant::now() + wait;
        let (front, error) = (self.front.as_str(), outcome.error().unwrap_or_default());
        tracing::warn!(front, error, ?wait, "a purge has to wait");
    }

    /// A purge is over: done, or failed, for the last reason that it was told or for this one.
    fn end(&mut self, job: &Job, failure: Option<&str>) {
        let accepted = self.api.forget(job.id);
        let failure = failure.or(accepted.as_deref());
        let (front, id) = (self.front.as_str(), self.purges.shown(job.id));
        let line = self.line();
        let mut receipts = self.purges.receipts();
        match failure {
            None => {
                receipts.update(job.id, front, Part::done);
                line.stats.is_done();
                tracing::info!(front, id, "purge done");
            }
            Some(why) => {
                receipts.update(job.id, front, |part| part.fail(why));
                line.stats.failed.increment();
                tracing::error!(front, id, why, "purge failed");
            }
        }
        drop(receipts);
        line.free(job.taken);
    }

    fn line(&self) -> &Line {
        &self.purges.lines[self.front as usize]
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
