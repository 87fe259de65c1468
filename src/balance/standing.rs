//! Whether an endpoint may be picked: the verdicts of probes, the set-aside after a failed
//! connect, and ejection, as one state machine without clock or I/O.
//!
//! The three are independent. A probe verdict and an ejection yield to panic (see
//! [`super::candidates`]); a set-aside never does, because a request to an endpoint that does not
//! accept connections cannot succeed.

use std::time::{Duration, Instant};

use super::outlier::Reason;
use crate::config::model;

/// The first set-aside after a failed connect; each further failure doubles it.
const ASIDE_MIN: Duration = Duration::from_millis(250);
const ASIDE_MAX: Duration = Duration::from_secs(5);
/// How long after a failed connect the next one may follow where no endpoint is usable.
const HOPE_INTERVAL: Duration = Duration::from_millis(10);
/// An ejection lasts `eject_for` times the ejections so far, at most this many.
const EJECTION_MULTIPLE_MAX: u32 = 10;

/// What is known about one endpoint.
#[derive(Debug, Clone)]
pub struct Standing {
    verdict: Verdict,
    /// Probes in a row that contradict the verdict.
    contradictions: u32,
    aside: Option<Aside>,
    ejection: Option<Ejection>,
    /// Ejections that still lengthen the next one.
    ejections: u32,
    /// Since when it has been usable without a break, as far as anybody looked.
    ready_since: Option<Instant>,
}

/// What the active probes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not probed yet: usable.
    Unknown,
    /// Added while others were healthy: not usable before its first good probe.
    Awaited,
    Healthy,
    /// With the reason of the last failed probe.
    Unhealthy(String),
}

#[derive(Debug, Clone)]
struct Aside {
    until: Instant,
    /// When the last connect failed.
    failed: Instant,
    backoff: Duration,
    /// A request is trying the endpoint; no other may before it ended.
    trial: bool,
    why: String,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    until: Instant,
    length: Duration,
    reason: Reason,
}

/// Why an endpoint is not simply usable; the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Usable,
    /// Its last connect failed; the next trial is not due or is running.
    Aside,
    /// Its last connect failed, and one request may try it now.
    Trial,
    Ejected,
    Unhealthy,
    /// Taken out by hand; nothing but a hand brings it back.
    Draining,
    Down,
}

impl Availability {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Aside | Self::Trial => "set_aside",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }

    /// Whether somebody decided it.
    pub(super) fn is_by_hand(self) -> bool {
        matches!(self, Self::Draining | Self::Down)
    }
}

/// An endpoint as a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    Closed,
    /// One request tries whether it is back.
    HalfOpen,
    /// Its failures keep requests away.
    Open,
}

impl Circuit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

impl Verdict {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Awaited => "awaited",
            Self::Healthy => "healthy",
            Self::Unhealthy(_) => "unhealthy",
        }
    }
}

impl Standing {
    pub fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            contradictions: 0,
            aside: None,
            ejection: None,
            ejections: 0,
            ready_since: None,
        }
    }

    /// It has been there all along, such as the endpoints of a process that starts.
    pub(super) fn set_ready_since(&mut self, since: Instant) {
        self.ready_since = Some(since);
    }

    /// Whether it was usable when somebody looked last.
    pub(super) fn was_ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Since when it has been usable, given that it is now, or is not.
    pub(super) fn ready_since(&mut self, is_usable: bool, now: Instant) -> Option<Instant> {
        self.ready_since = is_usable.then(|| self.ready_since.unwrap_or(now));
        self.ready_since
    }

    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    pub fn availability(&self, now: Instant) -> Availability {
        if let Some(aside) = &self.aside {
            return if aside.trial || now < aside.until {
                Availability::Aside
            } else {
                Availability::Trial
            };
        }
        if self.ejection.is_some_and(|ejection| now < ejection.until) {
            return Availability::Ejected;
        }
        match self.verdict {
            Verdict::Unknown | Verdict::Healthy => Availability::Usable,
            Verdict::Awaited | Verdict::Unhealthy(_) => Availability::Unhealthy,
        }
    }

    /// What requests have made of it; probes have no part in it.
    pub fn circuit(&self, now: Instant) -> Circuit {
        match &self.aside {
            Some(aside) if aside.trial => Circuit::HalfOpen,
            Some(_) => Circuit::Open,
            None if self.ejection_left(now).is_some() => Circuit::Open,
            None => Circuit::Closed,
        }
    }

    /// When time alone changes the availability next.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let aside = self.aside.as_ref().filter(|aside| !aside.trial).map(|aside| aside.until);
        let ejection = self.ejection.map(|ejection| ejection.until);
        [aside, ejection].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// A probe succeeded. It ends a set-aside and halves what is left of an ejection, if that is
    /// not for what requests alone can find out; the verdict turns by `healthy_after`.
    pub fn probe_succeeded(&mut self, health: &model::Health, now: Instant) {
        self.aside = None;
        if let Some(ejection) = self.ejection.as_mut().filter(|it| it.reason.yields_to_checks()) {
            ejection.until -= ejection.until.saturating_duration_since(now) / 2;
        }
        match self.verdict {
            Verdict::Unknown | Verdict::Awaited => self.turn(Verdict::Healthy),
            Verdict::Healthy => self.contradictions = 0,
            Verdict::Unhealthy(_) => {
                self.contradictions += 1;
                if self.contradictions >= health.healthy_after {
                    self.turn(Verdict::Healthy);
                }
            }
        }
    }

    /// A probe failed. The first one of an endpoint decides alone, later ones by
    /// `unhealthy_after`.
    pub fn probe_failed(&mut self, health: &model::Health, reason: String) {
        match &mut self.verdict {
            Verdict::Unknown | Verdict::Awaited => self.turn(Verdict::Unhealthy(reason)),
            Verdict::Unhealthy(last) => {
                *last = reason;
                self.contradictions = 0;
            }
            Verdict::Healthy => {
                self.contradictions += 1;
                if self.contradictions >= health.unhealthy_after {
                    self.turn(Verdict::Unhealthy(reason));
                }
            }
        }
    }

    /// There are no probes any more.
    pub fn forget_verdict(&mut self) {
        self.turn(Verdict::Unknown);
    }

    fn turn(&mut self, verdict: Verdict) {
        self.verdict = verdict;
        self.contradictions = 0;
    }

    /// A connect failed, of a request or of a probe. `Some`, with `why`, where the one before had
    /// not.
    pub fn connect_failed(&mut self, why: impl FnOnce() -> String, now: Instant) -> Option<&str> {
        let before = self.aside.as_mut();
        let is_new = before.is_none();
        let backoff = match before {
            // Requests that were under way when the first one failed say nothing new.
            Some(aside) if now < aside.until => {
                // A trial that came early, as the last hope, may be followed by another.
                (aside.trial, aside.failed) = (false, now);
                return None;
            }
            Some(aside) => (aside.backoff * 2).min(ASIDE_MAX),
            None => ASIDE_MIN,
        };
        let until = now + backoff;
        let aside = Aside { until, failed: now, backoff, trial: false, why: why() };
        let why = &self.aside.insert(aside).why;
        is_new.then_some(why)
    }

    /// Why the last connect failed, in words; `None` where it did not.
    pub fn why_aside(&self) -> Option<&str> {
        self.aside.as_ref().map(|aside| aside.why.as_str())
    }

    /// A connect succeeded.
    pub fn connect_succeeded(&mut self) {
        self.aside = None;
    }

    /// Claims the one trial of an endpoint that was set aside. True for exactly one caller.
    pub fn begin_trial(&mut self, now: Instant) -> bool {
        match &mut self.aside {
            Some(aside) if !aside.trial && now >= aside.until => {
                aside.trial = true;
                true
            }
            _ => false,
        }
    }

    /// Claims the same where no endpoint is usable: at once, so that no request fails that could
    /// have found the endpoint back. True for one caller at a time.
    pub fn begin_hope(&mut self, now: Instant) -> bool {
        match &mut self.aside {
            Some(aside) if !aside.trial && now >= aside.failed + HOPE_INTERVAL => {
                aside.trial = true;
                true
            }
            _ => false,
        }
    }

    /// The trial ended without a verdict, because its client left.
    pub fn abandon_trial(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.trial = false;
        }
    }

    /// Takes the endpoint out for a time that grows with every ejection.
    pub fn eject(&mut self, now: Instant, base: Duration, reason: Reason) {
        if let Some(last) = self.ejection {
            // One step is forgotten for each `base` that passed without an ejection.
            let quiet = now.saturating_duration_since(last.until);
            let forgotten = quiet.as_nanos() / base.as_nanos().max(1);
            self.ejections =
                self.ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        }
        self.ejections = (self.ejections + 1).min(EJECTION_MULTIPLE_MAX);
        let length = base * self.ejections;
        self.ejection = Some(Ejection { until: now + length, length, reason });
    }

    /// Why it was ejected last.
    pub fn ejection_reason(&self) -> Option<Reason> {
        self.ejection.map(|ejection| ejection.reason)
    }

    /// How much of an ejection is left, and how long it is in all.
    pub fn ejection_left(&self, now: Instant) -> Option<(Duration, Duration)> {
        let ejection = self.ejection.filter(|ejection| now < ejection.until)?;
        Some((ejection.until - now, ejection.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(healthy_after: u32, unhealthy_after: u32) -> model::Health {
        model::Health {
            probe: model::Probe::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_after,
            unhealthy_after,
        }
    }

    #[test]
    fn the_first_probe_alone_decides() {
        let mut standing = Standing::new(Verdict::Unknown);
        standing.probe_failed(&health(2, 3), "500".into());
        assert_eq!(standing.verdict(), &Verdict::Unhealthy("500".into()));

        let mut awaited = Standing::new(Verdict::Awaited);
        assert_eq!(awaited.availability(Instant::now()), Availability::Unhealthy);
        awaited.probe_succeeded(&health(2, 3), Instant::now());
        assert_eq!(awaited.verdict(), &Verdict::Healthy);
    }

    #[test]
    fn later_probes_decide_by_their_number_in_a_row() {
        let health = health(2, 3);
        let mut standing = Standing::new(Verdict::Unknown);
        standing.probe_succeeded(&health, Instant::now());
        standing.probe_failed(&health, "a".into());
        standing.probe_failed(&health, "b".into());
        standing.probe_succeeded(&health, Instant::now());
        standing.probe_failed(&health, "c".into());
        standing.probe_failed(&health, "d".into());
        assert_eq!(standing.verdict(), &Verdict::Healthy);
        standing.probe_failed(&health, "e".into());
        assert_eq!(standing.verdict(), &Verdict::Unhealthy("e".into()));
        standing.probe_succeeded(&health, Instant::now());
        assert_eq!(standing.verdict(), &Verdict::Unhealthy("e".into()));
        standing.probe_succeeded(&health, Instant::now());
        assert_eq!(standing.verdict(), &Verdict::Healthy);
    }

    #[test]
    fn a_failed_connect_sets_aside_for_times_that_double_to_five_seconds() {
        let mut now = Instant::now();
        let mut standing = Standing::new(Verdict::Unknown);
        let mut waits = Vec::new();
        for _ in 0..7 {
            standing.connect_failed(String::new, now);
            let until = standing.next_change(now).expect("set aside");
            waits.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
    }

    #[test]
    fn failures_that_were_under_way_do_not_lengthen_the_set_aside() {
        let now = Instant::now();
        let mut standing = Standing::new(Verdict::Unknown);
        standing.connect_failed(String::new, now);
        standing.connect_failed(String::new, now + Duration::from_millis(10));
        assert_eq!(standing.next_change(now), Some(now + ASIDE_MIN));
    }

    #[test]
    fn one_trial_at_a_time_and_a_good_one_ends_the_set_aside() {
        let now = Instant::now();
        let mut standing = Standing::new(Verdict::Unknown);
        standing.connect_failed(String::new, now);
        assert_eq!(standing.circuit(now), Circuit::Open);
        assert!(!standing.begin_trial(now));
        let due = now + ASIDE_MIN;
        assert_eq!(standing.availability(due), Availability::Trial);
        assert!(standing.begin_trial(due));
        assert!(!standing.begin_trial(due));
        assert_eq!(standing.availability(due), Availability::Aside);
        assert_eq!(standing.circuit(due), Circuit::HalfOpen);
        standing.connect_succeeded();
        assert_eq!(standing.circuit(due), Circuit::Closed);
        assert_eq!(standing.availability(due), Availability::Usable);
    }

    #[test]
    fn as_the_last_hope_it_is_tried_before_its_time_but_no_more_often_than_every_10_ms() {
        let now = Instant::now();
        let mut standing = Standing::new(Verdict::Unknown);
        standing.connect_failed(String::new, now);
        assert!(!standing.begin_hope(now + Duration::from_millis(9)));
        let soon = now + HOPE_INTERVAL;
        assert!(standing.begin_hope(soon));
        assert!(!standing.begin_hope(soon + ASIDE_MIN));
        standing.connect_failed(String::new, soon);
        assert!(!standing.begin_hope(soon));
        assert!(standing.begin_hope(soon + HOPE_INTERVAL));
        // None of this lengthens the time for which it is set aside beside others.
        assert_eq!(standing.aside.as_ref().map(|aside| aside.until), Some(now + ASIDE_MIN));
    }

    #[test]
    fn an_abandoned_trial_may_be_begun_again() {
        let now = Instant::now();
        let mut standing = Standing::new(Verdict::Unknown);
        standing.connect_failed(String::new, now);
        assert!(standing.begin_trial(now + ASIDE_MIN));
        standing.abandon_trial();
        assert!(standing.begin_trial(now + ASIDE_MIN));
    }

    #[test]
    fn each_ejection_lasts_longer_and_quiet_time_is_credited() {
        let base = Duration::from_secs(30);
        let mut now = Instant::now();
        let mut standing = Standing::new(Verdict::Unknown);
        let mut lengths = Vec::new();
        for _ in 0..3 {
            standing.eject(now, base, Reason::Failures);
            let (left, _) = standing.ejection_left(now).expect("ejected");
            lengths.push(left.as_secs());
            now += left;
            assert_eq!(standing.availability(now), Availability::Usable);
        }
        assert_eq!(lengths, [30, 60, 90]);
        standing.eject(now + base * 3, base, Reason::Failures);
        assert_eq!(standing.ejection_left(now + base * 3).map(|(left, _)| left), Some(base));
    }

    #[test]
    fn every_good_probe_halves_what_is_left_of_an_ejection() {
        let (now, base) = (Instant::now(), Duration::from_secs(40));
        let mut standing = Standing::new(Verdict::Healthy);
        standing.eject(now, base, Reason::Slow);
        let mut left = Vec::new();
        for probe in 1..=3 {
            let at = now + Duration::from_secs(4 * probe);
            standing.probe_succeeded(&health(2, 3), at);
            left.push(standing.ejection_left(at).map_or(0, |(left, _)| left.as_secs()));
        }
        assert_eq!(left, [18, 7, 1]);
        assert_eq!(standing.availability(now + Duration::from_secs(14)), Availability::Usable);
        assert_eq!(standing.ejection_reason(), Some(Reason::Slow));
    }

    #[test]
    fn a_good_probe_does_not_shorten_the_ejection_of_one_whose_requests_time_out_or_fail() {
        let (now, base) = (Instant::now(), Duration::from_secs(40));
        for reason in [Reason::Timeouts, Reason::Errors] {
            let mut standing = Standing::new(Verdict::Healthy);
            standing.eject(now, base, reason);
            standing.probe_succeeded(&health(2, 3), now);
            assert_eq!(standing.ejection_left(now).map(|(left, _)| left), Some(base));
        }
    }

    #[test]
    fn being_ready_begins_anew_with_every_break() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        let mut standing = Standing::new(Verdict::Healthy);
        assert_eq!(standing.ready_since(true, now), Some(now));
        assert_eq!(standing.ready_since(true, later), Some(now));
        assert_eq!(standing.ready_since(false, later), None);
        assert_eq!(standing.ready_since(true, later), Some(later));
    }
}
