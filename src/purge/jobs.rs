//! Purges that wait: which of their operations share the next call, and what its outcome means.
//!
//! Every purge goes through two passes. Between them it waits until the responses that began before
//! it have ended. Nothing here waits or calls.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::mode;
use super::operation::{Kind, Operation};
use crate::config::model::FrontPurgeMode;
use crate::under_way::{Earlier, UnderWay};

/// The longest that a response which began before a purge is waited for.
const EARLIER_PATIENCE: Duration = Duration::from_secs(30);
/// What has ended here may still be between us and the front.
const SETTLE: Duration = Duration::from_secs(1);
/// A purge that is older is given up.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Operations of one purge that may be refused one by one before all of it is.
const REFUSALS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) operations: Vec<Operation>,
    /// Places that it has taken.
    pub(super) taken: usize,
    is_soft: bool,
    earlier: Earlier,
    began: Instant,
    pass: Pass,
    /// How many operations of this pass are sent.
    sent: usize,
    /// Shares no call any more: one that it shared was refused.
    is_alone: bool,
    /// Operations that its calls may have.
    width: usize,
    refusals: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    First,
    /// For earlier responses to end, or from then on until this moment.
    Waiting(Option<Instant>),
    Second,
}

/// What one call purges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) mode: FrontPurgeMode,
    pub(super) kind: Kind,
    /// Each once.
    pub(super) operations: Vec<Operation>,
    /// Purges with how many of their operations are in it.
    pub(super) parts: Vec<(u64, usize)>,
}

/// What happened to a purge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Cleared(u64),
    Done(Job),
    /// Some or all of it was refused.
    Failed(Job),
}

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Job {}

/// In the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Jobs {
    jobs: Vec<Job>,
    /// Operations that one call may name.
    per_call: usize,
}

impl Jobs {
    pub(super) fn new(per_call: usize) -> Self {
        Self { jobs: Vec::new(), per_call }
    }

    pub(super) fn add(
        &mut self,
        id: u64,
        mut operations: Vec<Operation>,
        is_soft: bool,
        earlier: Earlier,
        began: Instant,
    ) {
        let taken = operations.len();
        // By kind, so that few calls are enough.
        operations.sort_unstable();
        operations.dedup();
        self.jobs.push(Job {
            id,
            operations,
            taken,
            is_soft,
            earlier,
            began,
            pass: Pass::First,
            sent: 0,
            is_alone: false,
            width: self.per_call,
            refusals: 0,
        });
    }

    /// The next call, if there is anything to call for and room for things of its kind.
    pub(super) fn batch(
        &self,
        configured: FrontPurgeMode,
        room: impl Fn(Kind) -> usize,
    ) -> Option<Batch> {
        let mut due = self.jobs.iter().filter(|job| job.is_due());
        let first = due.next()?;
        let (mode, kind) = (first.mode(configured), first.operations.get(first.sent)?.kind());
        let max = room(kind).min(self.per_call);
        if max == 0 {
            return None;
        }
        let mut batch = Batch { mode, kind, operations: Vec::new(), parts: Vec::new() };
        let mut seen = HashSet::new();
        let others = due.filter(|job| !job.is_alone && job.mode(configured) == mode);
        for job in std::iter::once(first).chain(others) {
            let room = max - batch.operations.len();
            let next = job.operations.iter().skip(job.sent);
            let next = next.take_while(|it| it.kind() == kind).take(room.min(job.width));
            let mut count = 0;
            for operation in next {
                count += 1;
                if seen.insert(operation) {
                    batch.operations.push(operation.clone());
                }
            }
            if count > 0 {
                batch.parts.push((job.id, count));
            }
            if first.is_alone || batch.operations.len() == max {
                break;
            }
        }
        Some(batch)
    }

    /// The call was a success.
    pub(super) fn succeeded(&mut self, batch: &Batch) -> Vec<Event> {
        let per_call = self.per_call;
        for (job, count) in self.of(batch) {
            job.sent += count;
            job.width = (job.width * 2).min(per_call);
        }
        self.advance()
    }

    /// The call was refused: for something in it, or as a whole.
    pub(super) fn refused(&mut self, batch: &Batch) -> Vec<Event> {
        let is_shared = batch.parts.len() > 1;
        for (job, count) in self.of(batch) {
            if is_shared {
                job.is_alone = true;
            } else if count > 1 {
                job.width = count.div_ceil(2);
            } else {
                job.sent += 1;
                job.refusals += 1;
                if job.refusals == REFUSALS_MAX {
                    (job.sent, job.pass) = (job.operations.len(), Pass::Second);
                }
            }
        }
        self.advance()
    }

    fn of(&mut self, batch: &Batch) -> impl Iterator<Item = (&mut Job, usize)> {
        self.jobs.iter_mut().filter_map(|job| {
            let (_, count) = batch.parts.iter().find(|(id, _)| *id == job.id)?;
            Some((job, *count))
        })
    }

    /// Ends the passes of which everything is sent.
    fn advance(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut left = Vec::with_capacity(self.jobs.len());
        for mut job in self.jobs.drain(..) {
            match job.pass {
                _ if job.sent < job.operations.len() => left.push(job),
                Pass::First => {
                    (job.pass, job.sent) = (Pass::Waiting(None), 0);
                    events.push(Event::Cleared(job.id));
                    left.push(job);
                }
                Pass::Waiting(_) => left.push(job),
                Pass::Second if job.refusals > 0 => events.push(Event::Failed(job)),
                Pass::Second => events.push(Event::Done(job)),
            }
        }
        self.jobs = left;
        events
    }

    /// Looks whether earlier responses have ended. With `hurry` nothing is waited for.
    pub(super) fn look(&mut self, under_way: &UnderWay, now: Instant, hurry: bool) {
        for job in &mut self.jobs {
            let Pass::Waiting(until) = &mut job.pass else { continue };
            let latest = job.began + EARLIER_PATIENCE;
            if until.is_none() && under_way.have_ended(&mut job.earlier) {
                *until = Some((now + SETTLE).min(latest));
            }
            if hurry || until.unwrap_or(latest) <= now {
                job.pass = Pass::Second;
            }
        }
    }

    /// Takes out what is too old.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Job> {
        self.jobs.extract_if(.., |job| job.began + AGE_MAX <= now).collect()
    }

    pub(super) fn drain(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

impl Job {
    fn is_due(&self) -> bool {
        !matches!(self.pass, Pass::Waiting(_))
    }

    fn mode(&self, configured: FrontPurgeMode) -> FrontPurgeMode {
        mode(self.is_soft, configured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: FrontPurgeMode = FrontPurgeMode::Purge;
    const PER_CALL: usize = 100;

    fn tags(names: std::ops::Range<usize>) -> Vec<Operation> {
        names.map(|n| Operation::Tag(format!("{n:04}"))).collect()
    }

    fn jobs(purges: Vec<Vec<Operation>>, under_way: &UnderWay, now: Instant) -> Jobs {
        let mut jobs = Jobs::new(PER_CALL);
        for (id, operations) in purges.into_iter().enumerate() {
            jobs.add(id as u64, operations, false, under_way.turn(), now);
        }
        jobs
    }

    #[test]
    fn purges_share_calls_of_one_kind_up_to_the_limit() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let mut mixed = tags(0..60);
        mixed.push(Operation::Host("a.test".into()));
        let mut jobs = jobs(vec![tags(0..30), mixed, tags(100..200)], &under_way, now);
        let first = jobs.batch(HARD, |_| PER_CALL).unwrap();
        // The 30 that both name are in it once.
        assert_eq!(first.parts, [(0, 30), (1, 60), (2, 40)]);
        assert_eq!((first.kind, first.operations.len()), (Kind::Tag, 100));
        assert_eq!(jobs.succeeded(&first), [Event::Cleared(0)]);
        let second = jobs.batch(HARD, |_| PER_CALL).unwrap();
        assert_eq!((second.kind, &second.parts[..]), (Kind::Host, &[(1, 1)][..]));
        assert_eq!(jobs.succeeded(&second), [Event::Cleared(1)]);
        let third = jobs.batch(HARD, |_| PER_CALL).unwrap();
        assert_eq!(third.parts, [(2, 60)]);
    }

    #[test]
    fn the_second_pass_comes_when_earlier_responses_have_ended_and_settled() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let era = under_way.enter();
        let mut jobs = jobs(vec![tags(0..1)], &under_way, now);
        let batch = jobs.batch(HARD, |_| PER_CALL).unwrap();
        jobs.succeeded(&batch);
        jobs.look(&under_way, now + Duration::from_secs(20), false);
        assert!(jobs.batch(HARD, |_| PER_CALL).is_none());
        under_way.leave(era);
        let ended = now + Duration::from_secs(21);
        jobs.look(&under_way, ended, false);
        assert!(jobs.batch(HARD, |_| PER_CALL).is_none());
        jobs.look(&under_way, ended + SETTLE, false);
        let batch = jobs.batch(HARD, |_| PER_CALL).unwrap();
        assert!(matches!(jobs.succeeded(&batch)[..], [Event::Done(_)]));
        assert!(jobs.is_empty());
    }

    #[test]
    fn a_response_that_does_not_end_is_waited_for_half_a_minute() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let _era = under_way.enter();
        let mut jobs = jobs(vec![tags(0..1)], &under_way, now);
        let batch = jobs.batch(HARD, |_| PER_CALL).unwrap();
        jobs.succeeded(&batch);
        jobs.look(&under_way, now + EARLIER_PATIENCE - Duration::from_millis(1), false);
        assert!(jobs.batch(HARD, |_| PER_CALL).is_none());
        jobs.look(&under_way, now + EARLIER_PATIENCE, false);
        assert!(jobs.batch(HARD, |_| PER_CALL).is_some());
    }

    #[test]
    fn what_is_refused_is_found_and_the_rest_purged() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let mut jobs = jobs(vec![tags(0..20), tags(50..60)], &under_way, now);
        let bad = Operation::Tag("0007".into());
        let (mut purged, mut failed, mut done) = (HashSet::new(), Vec::new(), Vec::new());
        for calls in 0.. {
            assert!(calls < 100, "it does not end");
            jobs.look(&under_way, now, true);
            let Some(batch) = jobs.batch(HARD, |_| PER_CALL) else { break };
            let events = if batch.operations.contains(&bad) {
                jobs.refused(&batch)
            } else {
                purged.extend(batch.operations.iter().cloned());
                jobs.succeeded(&batch)
            };
            for event in events {
                match event {
                    Event::Cleared(_) => {}
                    Event::Done(job) => done.push(job.id),
                    Event::Failed(job) => failed.push(job.id),
                }
            }
        }
        assert_eq!((purged.len(), failed, done), (29, vec![0], vec![1]));
    }

    #[test]
    fn a_purge_that_is_refused_throughout_ends_soon() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let mut jobs = jobs(vec![tags(0..10_000)], &under_way, now);
        let mut calls = 0;
        while let Some(batch) = jobs.batch(HARD, |_| PER_CALL) {
            calls += 1;
            jobs.refused(&batch);
        }
        assert!(calls < 20 && jobs.is_empty(), "{calls}");
    }

    #[test]
    fn soft_purges_invalidate_whatever_is_configured() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let mut jobs = Jobs::new(PER_CALL);
        jobs.add(1, tags(0..1), true, under_way.turn(), now);
        jobs.add(2, tags(1..2), false, under_way.turn(), now);
        let soft = jobs.batch(HARD, |_| PER_CALL).unwrap();
        assert_eq!((soft.mode, &soft.parts[..]), (FrontPurgeMode::Invalidate, &[(1, 1)][..]));
        assert_eq!(
            jobs.batch(FrontPurgeMode::Invalidate, |_| PER_CALL).unwrap().parts,
            [(1, 1), (2, 1)]
        );
        assert_eq!(jobs.expired(now + AGE_MAX).len(), 2);
    }

    #[test]
    fn a_call_names_no_more_than_there_is_room_for() {
        let (under_way, now) = (UnderWay::default(), Instant::now());
        let mut jobs = jobs(vec![tags(0..30)], &under_way, now);
        assert_eq!(jobs.batch(HARD, |_| 0), None);
        let batch = jobs.batch(HARD, |kind| if kind == Kind::Tag { 20 } else { 0 }).unwrap();
        assert_eq!(batch.parts, [(0, 20)]);
        jobs.succeeded(&batch);
        assert_eq!(jobs.batch(HARD, |_| 20).unwrap().parts, [(0, 10)]);
    }
}
