//! The invalidations of a distribution of CloudFront: how many are in progress, and until when.
//!
//! An accepted invalidation takes effect within seconds, and is complete some seconds later. Purges
//! go on to their second pass meanwhile; none of them is done before all of its invalidations are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::api::Next;
use super::bucket::{Bucket, Rate};
use super::cloudfront::{self, Answer};
use super::jobs::{Batch, Jobs};
use super::operation::Kind;
use super::outcome::Outcome;
use crate::config::model::{CloudFrontPurge, FrontPurgeMode};
use crate::outgoing::Client;

/// Of one distribution, in progress at a time (documented), of those that end with `*` apart.
const ITEMS_MAX: usize = 3000;
const WILDCARDS_MAX: usize = 15;
/// Calls: AWS documents no rate, and answers `Throttling` above it.
const CALLS: Rate = Rate { per_second: 2.0, burst: 10.0 };
/// Until an accepted invalidation is asked for; then half as long again each time.
const ASK_AFTER: Duration = Duration::from_secs(1);
const ASK_AFTER_MAX: Duration = Duration::from_secs(20);
/// An invalidation that is not complete by then is given up.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

const CLOCK: &str = "our clock is not that of AWS";

#[derive(Debug)]
pub(super) struct Invalidations {
    calls: Bucket,
    in_progress: Vec<InProgress>,
    /// A call of which nobody knows whether it was accepted: it is made again as it was.
    again: Option<(Batch, String)>,
    /// Of purges that are not over.
    failures: BTreeMap<u64, String>,
    /// What references begin with: they are never those of another process.
    process: String,
    references: u64,
    /// How far the clock of AWS is ahead, and how far behind.
    ahead: Duration,
    behind: Duration,
}

/// An accepted invalidation.
#[derive(Debug)]
struct InProgress {
    id: String,
    jobs: BTreeSet<u64>,
    items: usize,
    wildcards: usize,
    began: Instant,
    ask_at: Instant,
    wait: Duration,
}

impl Invalidations {
    /// Of what may be in progress: a third, so that others have room meanwhile.
    pub(super) const ITEMS_PER_CALL: usize = ITEMS_MAX / 3;

    pub(super) fn new(now: Instant) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut random = [0; 8];
        // Without randomness the time and the process tell it from others.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self {
            calls: Bucket::new(CALLS, now),
            in_progress: Vec::new(),
            again: None,
            failures: BTreeMap::new(),
            process: format!(
                "headwater-{:x}-{:x}-{:016x}",
                since_epoch.map_or(0, |since| since.as_millis()),
                std::process::id(),
                u64::from_be_bytes(random)
            ),
            references: 0,
            ahead: Duration::ZERO,
            behind: Duration::ZERO,
        }
    }

    pub(super) fn next(&mut self, jobs: &Jobs, now: Instant) -> Next {
        let batch = match &self.again {
            Some((batch, _)) => Some(batch.clone()),
            // It knows one mode only.
            None => jobs.batch(FrontPurgeMode::Purge, |kind| self.room(kind)),
        };
        let Some(batch) = batch else { return Next::Nothing };
        match self.calls.take(1.0, now) {
            Ok(()) => Next::Call(batch),
            Err(wait) => Next::Wait(wait),
        }
    }

    fn room(&self, kind: Kind) -> usize {
        let sum = |of: fn(&InProgress) -> usize| self.in_progress.iter().map(of).sum::<usize>();
        match kind {
            Kind::Url | Kind::Tag => ITEMS_MAX.saturating_sub(sum(|it| it.items)),
            Kind::Prefix | Kind::Host | Kind::All => {
                WILDCARDS_MAX.saturating_sub(sum(|it| it.wildcards))
            }
        }
    }

    pub(super) async fn call(
        &mut self,
        config: &CloudFrontPurge,
        client: &Client,
        batch: &Batch,
    ) -> Outcome {
        let items: BTreeSet<String> = batch
            .operations
            .iter()
            .map(|it| cloudfront::item(it, config.tags).into_owned())
            .collect();
        let items: Vec<String> = items.into_iter().collect();
        let reference = match self.again.take() {
            Some((_, reference)) => reference,
            None => {
                self.references += 1;
                format!("{}-{}", self.process, self.references)
            }
        };
        let mut answer = self.create(config, client, &reference, &items).await;
        if let Answer::Clock(theirs) = answer {
            self.correct(theirs);
            answer = self.create(config, client, &reference, &items).await;
        }
        match answer {
            Answer::Invalidation(id, is_complete) => {
                if !is_complete {
                    self.begin(id, batch, &items);
                }
                Outcome::Ok
            }
            Answer::Clock(_) => Outcome::Denied(CLOCK.to_owned()),
            Answer::Failure(outcome) => {
                // Of others it is known that they did nothing.
                if matches!(outcome, Outcome::Lost(_) | Outcome::Unable(..)) {
                    self.again = Some((batch.clone(), reference));
                }
                outcome
            }
        }
    }

    async fn create(
        &self,
        config: &CloudFrontPurge,
        client: &Client,
        reference: &str,
        items: &[String],
    ) -> Answer {
        match cloudfront::create(config, reference, items, self.now()) {
            Ok(request) => cloudfront::answer(client.send(request).await),
            Err(why) => Answer::Failure(Outcome::Denied(why)),
        }
    }

    fn begin(&mut self, id: String, batch: &Batch, items: &[String]) {
        let now = Instant::now();
        let wildcards = items.iter().filter(|item| cloudfront::is_wildcard(item)).count();
        self.in_progress.push(InProgress {
            id,
            jobs: batch.parts.iter().map(|(job, _)| *job).collect(),
            items: items.len() - wildcards,
            wildcards,
            began: now,
            ask_at: now + ASK_AFTER,
            wait: ASK_AFTER,
        });
    }

    /// Asks for one that is due; when the next one is.
    pub(super) async fn follow(
        &mut self,
        config: &CloudFrontPurge,
        client: &Client,
    ) -> Option<Instant> {
        let now = Instant::now();
        let due = self.in_progress.iter().position(|it| it.ask_at <= now);
        if let Some(index) = due
            && self.calls.take(1.0, now).is_ok()
        {
            let answer = match cloudfront::ask(config, &self.in_progress[index].id, self.now()) {
                Ok(request) => cloudfront::answer(client.send(request).await),
                Err(why) => Answer::Failure(Outcome::Denied(why)),
            };
            self.asked(index, answer, Instant::now());
        }
        self.in_progress.iter().map(|it| it.ask_at).min()
    }

    /// Takes what was said of an invalidation.
    fn asked(&mut self, index: usize, answer: Answer, now: Instant) {
        let why = match answer {
            Answer::Invalidation(_, true) => {
                self.in_progress.swap_remove(index);
                return;
            }
            Answer::Invalidation(_, false) => "it is still in progress".to_owned(),
            Answer::Clock(theirs) => {
                self.correct(theirs);
                CLOCK.to_owned()
            }
            Answer::Failure(outcome) => outcome.error().unwrap_or_default().to_owned(),
        };
        let it = &mut self.in_progress[index];
        it.wait = it.wait.mul_f64(1.5).min(ASK_AFTER_MAX);
        it.ask_at = now + it.wait;
        if it.began + PATIENCE <= now {
            let it = self.in_progress.swap_remove(index);
            let why = format!("invalidation {} did not become complete: {why}", it.id);
            self.failures.extend(it.jobs.into_iter().map(|job| (job, why.clone())));
        }
    }

    pub(super) fn is_busy_with(&self, job: u64) -> bool {
        self.in_progress.iter().any(|it| it.jobs.contains(&job))
    }

    /// A purge is over; why something of it that was accepted was not done, if that is known.
    pub(super) fn forget(&mut self, job: u64) -> Option<String> {
        for it in &mut self.in_progress {
            it.jobs.remove(&job);
        }
        self.failures.remove(&job)
    }

    /// By the clock of AWS, as far as it is known.
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead - self.behind
    }

    fn correct(&mut self, theirs: SystemTime) {
        let ours = SystemTime::now();
        self.ahead = theirs.duration_since(ours).unwrap_or_default();
        self.behind = ours.duration_since(theirs).unwrap_or_default();
        let (ahead, behind) = (self.ahead, self.behind);
        tracing::warn!(?ahead, ?behind, "the clock of AWS is another; calls follow it");
    }
}

#[cfg(test)]
mod tests {
    use super::super::operation::Operation;
    use super::*;

    /// With one invalidation in progress for these purges.
    fn begun(jobs: &[u64], now: Instant) -> Invalidations {
        let mut invalidations = Invalidations::new(now);
        let batch = Batch {
            mode: FrontPurgeMode::Purge,
            kind: Kind::Tag,
            operations: vec![Operation::Tag("a".into())],
            parts: jobs.iter().map(|job| (*job, 1)).collect(),
        };
        invalidations.begin("I1".to_owned(), &batch, &["#a".to_owned()]);
        invalidations
    }

    #[test]
    fn whatever_is_said_an_invalidation_is_given_up_in_the_end() {
        let now = Instant::now();
        for answer in [
            Answer::Invalidation("I1".to_owned(), false),
            Answer::Clock(SystemTime::now()),
            Answer::Failure(Outcome::Lost("away".to_owned())),
        ] {
            let mut invalidations = begun(&[1, 2], now);
            invalidations.asked(0, answer.clone(), now);
            assert!(invalidations.is_busy_with(1) && invalidations.in_progress[0].ask_at > now);
            invalidations.asked(0, answer, now + PATIENCE + ASK_AFTER);
            assert!(!invalidations.is_busy_with(1));
            let why = invalidations.forget(1).unwrap();
            assert!(why.starts_with("invalidation I1 did not become complete: "), "{why}");
            assert!(invalidations.forget(2).is_some() && invalidations.failures.is_empty());
        }
    }

    #[test]
    fn nothing_is_remembered_of_purges_that_are_over() {
        let now = Instant::now();
        let mut invalidations = begun(&[1, 2], now);
        assert_eq!(invalidations.forget(1), None);
        assert!(!invalidations.is_busy_with(1) && invalidations.is_busy_with(2));
        let lost = Answer::Failure(Outcome::Lost("away".to_owned()));
        invalidations.asked(0, lost, now + PATIENCE + ASK_AFTER);
        assert_eq!(invalidations.failures.keys().collect::<Vec<_>>(), [&2]);
        // It is in progress there all the same.
        assert_eq!(begun(&[], now).room(Kind::Tag), ITEMS_MAX - 1);
    }
}
