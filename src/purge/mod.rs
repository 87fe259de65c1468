//! Purging the caches in front of us, after our own.
//!
//! The order matters: while ours still has the old response, a front that was cleared takes it from
//! us again. And a response that began before our purge may still be on its way to a front; so a
//! front is cleared at once, and again when the last of them has ended.
//!
//! ```text
//! operation            what is purged, in the terms of all fronts
//! receipt              what became of each purge, for whoever asked for it
//! cloudflare, bucket   the limits of an API, its calls and its answers
//! cloudfront, sigv4    the same of another, whose calls are signed,
//! invalidations        and what it has accepted and not yet done
//! api, outcome         what they have in common
//! jobs                 which operations share the next call, and what its outcome means; pure
//! worker               waits, calls, and tells jobs and receipts: one for each front
//! ```
//!
//! Fronts do not wait for each other. A call goes out at most as often as the plan allows, is tried again until a purge is too old,
//! and uses the configuration of the moment: a new token is used at once.
//!
//! Deliberately absent: our own cache (`cache`), and a memory of purges beyond the process. What
//! waits when a process stops is finished then; what cannot be is in the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::config::model::{Config, FrontPurgeMode, Purge};
use crate::metrics::Exposition;
use crate::under_way::{Earlier, UnderWay};

mod api;
mod bucket;
mod cloudflare;
mod cloudfront;
#[cfg(fuzzing)]
pub mod fuzz;
mod invalidations;
mod jobs;
mod operation;
mod outcome;
mod receipt;
mod sigv4;
mod stats;
mod worker;

pub use operation::Operation;
pub use worker::run;

use receipt::{Receipts, Status};
use stats::Stats;

/// Purges that a front may be behind.
const PURGES_MAX: usize = 1024;
/// Operations that a front may be behind, over all purges.
const OPERATIONS_MAX: usize = 100_000;

/// A front that can be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrontName {
    Cloudflare,
    CloudFront,
}

impl FrontName {
    const ALL: [Self; 2] = [Self::Cloudflare, Self::CloudFront];

    fn as_str(self) -> &'static str {
        match self {
            Self::Cloudflare => "cloudflare",
            Self::CloudFront => "cloudfront",
        }
    }

    fn is_configured(self, config: &Purge) -> bool {
        match self {
            Self::Cloudflare => config.cloudflare.is_some(),
            Self::CloudFront => config.cloudfront.is_some(),
        }
    }
}

/// The purges of fronts: where they are asked for and where it is said what became of them.
#[derive(Debug)]
pub struct Purges {
    lines: [Line; FrontName::ALL.len()],
    receipts: Mutex<Receipts>,
    next: AtomicU64,
    /// Tells the ids of one process from those of another.
    started: u64,
}

/// What waits for one front.
#[derive(Debug)]
struct Line {
    front: FrontName,
    sender: mpsc::Sender<Order>,
    /// Of the worker, until it begins.
    receiver: Mutex<Option<mpsc::Receiver<Order>>>,
    waiting: watch::Sender<Waiting>,
    stats: Stats,
}

/// What is neither done nor given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Waiting {
    purges: usize,
    operations: usize,
}

/// One purge on its way to the worker.
#[derive(Debug)]
struct Order {
    id: u64,
    operations: Vec<Operation>,
    is_soft: bool,
    /// The responses that may bring the old back.
    earlier: Earlier,
    began: Instant,
}

/// A place among the purges that wait for each front, taken before our own cache is purged. Without a
/// submission it is free again.
#[derive(Debug)]
pub struct Place<'a> {
    purges: &'a Purges,
    operations: Vec<Operation>,
    is_soft: bool,
    /// Where a place is taken that no order holds yet.
    lines: Vec<&'a Line>,
}

/// A front is too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

impl Default for Purges {
    fn default() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            lines: FrontName::ALL.map(Line::new),
            receipts: Mutex::default(),
            next: AtomicU64::new(1),
            started: since_epoch.map_or(0, |since| since.as_millis() as u64),
        }
    }
}

impl Line {
    fn new(front: FrontName) -> Self {
        let (sender, receiver) = mpsc::channel(PURGES_MAX);
        let receiver = Mutex::new(Some(receiver));
        Self { front, sender, receiver, waiting: watch::Sender::default(), stats: Stats::default() }
    }

    /// Takes a place for so many operations, if there is one.
    fn take(&self, count: usize) -> bool {
        let is_taken = self.waiting.send_if_modified(|waiting| {
            let fits = waiting.purges < PURGES_MAX
                && (waiting.operations + count <= OPERATIONS_MAX || waiting.purges == 0);
            if fits {
                waiting.purges += 1;
                waiting.operations += count;
            }
            fits
        });
        if !is_taken {
            self.stats.refused.increment();
        }
        is_taken
    }

    fn free(&self, operations: usize) {
        self.waiting.send_modify(|waiting| {
            waiting.purges = waiting.purges.saturating_sub(1);
            waiting.operations = waiting.operations.saturating_sub(operations);
        });
    }

    async fn finished(&self, patience: Duration) -> usize {
        let mut waiting = self.waiting.subscribe();
        let is_done = timeout(patience, waiting.wait_for(|waiting| waiting.purges == 0)).await;
        if is_done.is_ok() { 0 } else { self.waiting.borrow().purges }
    }
}

impl Purges {
    /// Takes a place for a purge with every front that is configured, where there is one.
    ///
    /// # Errors
    /// A front is behind by as many purges or operations as may wait.
    pub fn place(
        &self,
        config: &Config,
        operations: Vec<Operation>,
        is_soft: bool,
    ) -> Result<Option<Place<'_>>, Behind> {
        let fronts = self.lines.iter().filter(|line| line.front.is_configured(&config.purge));
        let count = operations.len();
        let mut place = Place { purges: self, operations, is_soft, lines: Vec::new() };
        for line in fronts.filter(|_| count > 0) {
            if !line.take(count) {
                return Err(Behind);
            }
            place.lines.push(line);
        }
        Ok((!place.lines.is_empty()).then_some(place))
    }

    /// What became of the purge with this id.
    pub fn receipt(&self, id: &str) -> Option<Value> {
        let (started, number) = id.split_once('-')?;
        if u64::from_str_radix(started, 16).ok()? != self.started {
            return None;
        }
        let number = number.parse().ok()?;
        self.receipts().get(number).map(|receipt| receipt.describe(id))
    }

    pub fn collect(&self, config: &Config, out: &mut Exposition) {
        for line in self.lines.iter().filter(|line| line.front.is_configured(&config.purge)) {
            let waiting = *line.waiting.borrow();
            line.stats.collect(line.front.as_str(), waiting.purges, out);
        }
    }

    /// Waits until nothing waits any more, for at most `patience`; how many purges of a front still do.
    pub async fn finished(&self, patience: Duration) -> usize {
        let [first, second] = &self.lines;
        let (first, second) = tokio::join!(first.finished(patience), second.finished(patience));
        first + second
    }

    fn receipts(&self) -> std::sync::MutexGuard<'_, Receipts> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, id: u64) -> String {
        format!("{:x}-{id}", self.started)
    }
}

impl Place<'_> {
    /// Hands the purge over once our own cache is purged; its id.
    pub fn submit(mut self, under_way: &UnderWay) -> String {
        let purges = self.purges;
        let id = purges.next.fetch_add(1, Ordering::Relaxed);
        let (count, is_soft, began) = (self.operations.len(), self.is_soft, Instant::now());
        let mut status = Status::new(is_soft);
        self.lines.iter().for_each(|line| status.add(line.front.as_str(), count));
        purges.receipts().begin(id, status);
        for line in std::mem::take(&mut self.lines) {
            let (operations, earlier) = (self.operations.clone(), under_way.turn());
            let order = Order { id, operations, is_soft, earlier, began };
            if line.sender.try_send(order).is_err() {
                // The channel is as long as there are places: only the worker's end can be the cause.
                let front = line.front.as_str();
                purges.receipts().update(id, front, |part| part.fail("the process is stopping"));
                line.free(count);
            }
        }
        purges.shown(id)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        for line in &self.lines {
            line.free(self.operations.len());
        }
    }
}

/// What an order means for a front that is configured so.
fn mode(is_soft: bool, configured: FrontPurgeMode) -> FrontPurgeMode {
    if is_soft { FrontPurgeMode::Invalidate } else { configured }
}

/// A handle for those who ask and the one who works.
pub type Shared = Arc<Purges>;
