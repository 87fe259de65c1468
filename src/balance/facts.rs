//! What requests and probes report to a pool, and what follows from it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::endpoint::Endpoint;
use super::latency::FAILURE_MIN;
use super::metrics::RetryReason;
use super::outcome::Outcome;
use super::outlier::{self, PEERS_MIN, Reason, SLOW_IN_A_ROW};
use super::pace::{Due, QUICK};
use super::pool::{Pool, process_clock, process_millis};
use super::record::Comparison;
use super::standing::Verdict;
use crate::config::model::HedgeAfter;

/// Peers that an endpoint is compared with.
const PEERS_MAX: usize = 32;
/// Failures between two looks at the peers.
const JUDGED_EVERY: u32 = 4;
/// An endpoint that another one outran hangs after so many times what that took, and at least so long.
const HUNG_FACTOR: u32 = 4;
const HUNG_MIN: Duration = Duration::from_millis(500);

/// A response head that came.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    pub status: StatusCode,
    pub outcome: Outcome,
    /// Of the lease.
    pub key: u64,
    pub took: Duration,
    /// All of the answer has come; otherwise the lease hears of its end.
    pub is_whole: bool,
}

impl Reply {
    /// A whole answer that is what its status says.
    pub fn whole(status: StatusCode, took: Duration) -> Self {
        Self { status, outcome: Outcome::of_status(status), key: 0, took, is_whole: true }
    }
}

/// A try that brought no answer.
#[derive(Debug, Clone, Copy)]
pub struct Failed {
    pub cause: Cause,
    /// Of the lease.
    pub key: u64,
    pub took: Duration,
}

/// An answer that came first.
#[derive(Debug, Clone, Copy)]
pub struct Outrun {
    /// How long the other endpoint had been asked without an answer.
    pub waited: Duration,
    pub took: Duration,
}

/// When a second try is made beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hedging {
    Never,
    After(Duration),
    /// At the earliest; [`Pool::hedge_due`] tells then.
    Auto(Duration),
}

/// Why a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Connect,
    /// The connection ended, or what came is no answer.
    Reset,
    Timeout,
    /// 502, 503 or 504.
    Unavailable,
    /// An answer that may be the fault of the request.
    Answer,
}

impl Pool {
    /// Takes a retry from the budget.
    pub fn take_retry(&self, reason: RetryReason, now: Instant) -> bool {
        let free = matches!(reason, RetryReason::Connect | RetryReason::NeverWritten);
        let share = self.retry.as_ref().map_or(0.0, |retry| retry.budget);
        if !free && !self.shared.budget.take(process_clock(now), share) {
            self.stats.retry_budget_exhausted.increment();
            return false;
        }
        self.stats.retries[reason as usize].increment();
        true
    }

    /// When a second try is made beside one that brings no answer.
    #[inline]
    pub fn hedging(&self) -> Hedging {
        let Some(retry) = &self.retry else { return Hedging::Never };
        match retry.hedge_after {
            // A second try is a try.
            Some(HedgeAfter::Auto) if retry.attempts > 1 => Hedging::Auto(self.shared.pace.wait()),
            Some(HedgeAfter::Fixed(after)) => Hedging::After(after),
            Some(HedgeAfter::Percentile(_)) => {
                self.shared.quantile.estimate().map_or(Hedging::Never, Hedging::After)
            }
            Some(HedgeAfter::Auto) | None => Hedging::Never,
        }
    }

    /// Where hedging is automatic: whether a request of this kind that has `waited` so long is worth
    /// a second try.
    pub fn hedge_due(&self, kind: u64, waited: Duration, now: Instant) -> Due {
        self.shared.pace.due(kind, waited, process_millis(now))
    }

    /// What came of [`Due::Probe`]: how long the first answer took, if there was one.
    pub fn hedge_found(&self, kind: u64, took: Option<Duration>, now: Instant) {
        self.shared.pace.found(kind, took, process_millis(now));
    }

    /// A connect of a request failed, and `why` in words.
    pub fn connect_failed(&self, endpoint: &Endpoint, why: impl FnOnce() -> String, now: Instant) {
        let newly = endpoint.standing().connect_failed(why, now).map(str::to_owned);
        if let Some(reason) = newly {
            tracing::warn!(pool = %self.name, endpoint = %endpoint.label, reason, "endpoint set aside");
        }
        self.refresh(now);
        let failed = Failed { cause: Cause::Connect, key: 0, took: Duration::ZERO };
        self.failed(endpoint, failed, now);
    }

    pub fn connect_succeeded(&self, endpoint: &Endpoint, took: Duration, now: Instant) {
        self.stats.connect.observe(took);
        let was_aside = {
            let mut standing = endpoint.standing();
            let before = standing.availability(now);
            standing.connect_succeeded();
            before != standing.availability(now)
        };
        if was_aside {
            self.refresh(now);
        }
    }

    /// A response head came.
    pub fn responded(&self, endpoint: &Endpoint, reply: Reply, now: Instant) {
        let Reply { status, took, key, .. } = reply;
        endpoint.stats.codes.local().increment(status);
        self.stats.duration.observe(took);
        self.follow(took);
        let retried = self.retry.as_ref().is_some_and(|retry| retry.on_statuses.contains(status));
        let outcome = if retried { reply.outcome.max(Outcome::Failed) } else { reply.outcome };
        let now_millis = process_millis(now);
        match outcome {
            Outcome::Good => {
                endpoint.latency.observe(took, now_millis);
                if reply.is_whole {
                    endpoint.succeeded(key);
                }
                self.judge_speed(endpoint, took, now);
            }
            Outcome::Declined => {
                endpoint.latency.observe_error(took, self.median(now), now_millis);
                endpoint.record.follow_error();
                // It serves.
                endpoint.failures.store(0, Ordering::Relaxed);
            }
            Outcome::Failed => {
                let median = Duration::from_nanos(self.median(now) as u64);
                endpoint.latency.observe(took.max(median), now_millis);
                self.count_failure(endpoint, Cause::Answer, key, now);
            }
            Outcome::Unavailable => {
                self.failed(endpoint, Failed { cause: Cause::Unavailable, key, took }, now);
            }
        }
        if self.shared.watch.window().is_some() {
            self.watch(now);
        }
    }

    /// The median of the latencies in nanoseconds; 0 where none is known.
    fn median(&self, now: Instant) -> f32 {
        let now_millis = process_millis(now);
        let work_out = || self.current(now).median_latency(now_millis).map(|(median, _)| median);
        let median = self.shared.watch.median.get(now_millis, work_out);
        median.map_or(0.0, |median| median.as_nanos() as f32)
    }

    /// Another endpoint answered first, which `took` so long: this one had not, after having `waited`
    /// far longer in the case of one that hangs, which counts like a timeout.
    pub fn outrun(&self, endpoint: &Endpoint, key: u64, outrun: Outrun, now: Instant) {
        let Outrun { waited, took } = outrun;
        endpoint.latency.observe_at_least(waited, process_millis(now));
        self.follow(waited);
        if waited >= HUNG_MIN.max(HUNG_FACTOR * took) {
            self.count_failure(endpoint, Cause::Timeout, key, now);
        }
    }

    /// Where hedging goes by a percentile, one more sample of it.
    #[inline]
    fn follow(&self, took: Duration) {
        match self.retry.as_ref().and_then(|retry| retry.hedge_after) {
            Some(HedgeAfter::Percentile(percentile)) => {
                self.shared.quantile.observe(took, percentile);
            }
            // What took longer is told with its kind.
            Some(HedgeAfter::Auto) if took < QUICK => self.shared.pace.quick(),
            _ => {}
        }
    }

    /// Whether [`Self::took_long`] wants to hear of an answer.
    #[inline]
    pub fn minds_pace(&self, took: Duration) -> bool {
        let hedge_after = self.retry.as_ref().and_then(|retry| retry.hedge_after);
        took >= QUICK && hedge_after == Some(HedgeAfter::Auto)
    }

    /// An answer to a request of this kind took long.
    pub fn took_long(&self, kind: u64, endpoint: &Endpoint, took: Duration, now: Instant) {
        self.shared.pace.slow(kind, endpoint.id, took, process_millis(now));
    }

    /// A try failed: no connection, a reset before the head, no first byte in time, or a 502, 503
    /// or 504.
    pub fn failed(&self, endpoint: &Endpoint, failed: Failed, now: Instant) {
        let Failed { cause, key, took } = failed;
        endpoint.latency.observe(took.max(FAILURE_MIN), process_millis(now));
        self.count_failure(endpoint, cause, key, now);
    }

    fn count_failure(&self, endpoint: &Endpoint, cause: Cause, key: u64, now: Instant) {
        endpoint.record.follow_error();
        let window = self.shared.watch.failed(process_millis(now));
        let alike = endpoint.record.failed(key, window);
        let in_a_row = endpoint.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if cause == Cause::Answer {
            endpoint.is_doubtful.store(true, Ordering::Relaxed);
        }
        // Looking at all peers is dear.
        let is_many = self.outlier.as_ref().is_some_and(|outlier| outlier.failures == in_a_row);
        if is_many || in_a_row.is_multiple_of(JUDGED_EVERY) || alike.is_multiple_of(JUDGED_EVERY) {
            self.judge(endpoint, cause, now);
        }
    }

    /// While somebody fails: what ended where nobody judges is judged, and old windows end.
    fn watch(&self, now: Instant) {
        let watch = &self.shared.watch;
        let answers = |window| {
            let members = self.members();
            members.iter().map(|it| it.endpoint.record.of(window).answers).sum()
        };
        watch.roll(|| watch.window().map_or(0, answers), process_millis(now));
        if watch.is_due.load(Ordering::Relaxed) && watch.is_due.swap(false, Ordering::Relaxed) {
            // Else the next answers would each look at all of it.
            self.median(now);
            for member in self.members().iter() {
                if member.endpoint.failures.load(Ordering::Relaxed) > 0 {
                    self.judge(&member.endpoint, Cause::Answer, now);
                }
            }
        }
    }

    /// Ejects an endpoint that fails in a row, or far more often than its peers. What may be the
    /// fault of the requests counts only where they succeed with the peers; where those fail as
    /// well, nobody is ejected.
    fn judge(&self, endpoint: &Endpoint, cause: Cause, now: Instant) {
        let (Some(outlier), Some(window)) = (&self.outlier, self.shared.watch.window()) else {
            return;
        };
        let own = endpoint.record.of(window);
        let (in_a_row, failed) = (endpoint.failures.load(Ordering::Relaxed), own.failed());
        let is_many = in_a_row >= outlier.failures;
        if !(is_many || failed >= outlier.failures)
            || endpoint.standing().ejection_left(now).is_some()
        {
            return;
        }
        let members = self.members();
        let at = members.iter().position(|it| it.endpoint.id == endpoint.id).unwrap_or_default();
        let peers: Vec<_> = (1..members.len())
            .map(|step| &members[(at + step) % members.len()].endpoint)
            .take(PEERS_MAX)
            .map(|peer| peer.record.of(window))
            .collect();
        let comparison = Comparison::of(&own, &peers, self.hash_on().is_some());
        let is_doubtful = endpoint.is_doubtful.load(Ordering::Relaxed);
        let is_out = match is_many {
            true if is_doubtful => comparison.is_own(outlier.failures),
            true => !comparison.is_alike(),
            false => false,
        };
        if is_out || comparison.is_outlier(outlier.failures) {
            let reason = match cause {
                Cause::Timeout => Reason::Timeouts,
                _ if is_doubtful => Reason::Errors,
                _ => Reason::Failures,
            };
            self.eject(endpoint, reason, now);
        }
    }

    /// Enough slow answers in a row eject the endpoint.
    fn judge_speed(&self, endpoint: &Endpoint, took: Duration, now: Instant) {
        let Some(outlier) = &self.outlier else { return };
        let median = || {
            let now_millis = process_millis(now);
            self.shared.median.get(now_millis, || {
                let (median, known) = self.current(now).median_latency(now_millis)?;
                (known >= PEERS_MIN).then_some(median)
            })
        };
        if outlier::is_slow(outlier, took, median) {
            if endpoint.slow.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_IN_A_ROW {
                self.eject(endpoint, Reason::Slow, now);
            }
        } else if endpoint.slow.load(Ordering::Relaxed) != 0 {
            endpoint.slow.store(0, Ordering::Relaxed);
        }
    }

    /// Takes an endpoint out for a while, unless too many are out or it is the last one.
    fn eject(&self, endpoint: &Endpoint, reason: Reason, now: Instant) {
        let Some(outlier) = &self.outlier else { return };
        let deciding = self.decide();
        let (members, ejected, others_usable) = self.standings(endpoint, now);
        if endpoint.standing().ejection_left(now).is_some()
            || !outlier::may_eject(outlier, members, ejected, others_usable)
        {
            return;
        }
        // Back, it has to show that it works: the next failure ejects it again.
        endpoint.failures.store(outlier.failures - 1, Ordering::Relaxed);
        endpoint.is_doubtful.store(false, Ordering::Relaxed);
        endpoint.record.forget();
        endpoint.slow.store(0, Ordering::Relaxed);
        endpoint.standing().eject(now, outlier.eject_for, reason);
        endpoint.stats.ejections.increment();
        let reason = reason.as_str();
        tracing::warn!(pool = %self.name, endpoint = %endpoint.label, reason, "endpoint ejected");
        self.work_out(deciding, now);
    }

    /// A probe ended. `Err` holds the reason in words.
    pub fn probed(&self, endpoint: &Endpoint, result: Result<(), String>, now: Instant) {
        let Some(health) = self.health() else { return };
        let (before, after) = {
            let mut standing = endpoint.standing();
            let before = standing.verdict().clone();
            match result {
                Ok(()) => {
                    endpoint.stats.probes_succeeded.increment();
                    standing.probe_succeeded(health, now);
                }
                Err(reason) => {
                    endpoint.stats.probes_failed.increment();
                    standing.probe_failed(health, reason);
                }
            }
            (before, standing.verdict().clone())
        };
        match &after {
            Verdict::Unhealthy(reason) if !matches!(before, Verdict::Unhealthy(_)) => {
                tracing::warn!(pool = %self.name, endpoint = %endpoint.label, %reason, "endpoint unhealthy");
            }
            Verdict::Healthy if before != after => {
                tracing::info!(pool = %self.name, endpoint = %endpoint.label, "endpoint healthy");
            }
            _ => {}
        }
        self.refresh(now);
    }

    /// A probe could not connect. The endpoint is set aside as after a request's failed connect,
    /// but it is no nearer to an ejection.
    pub fn probe_connect_failed(&self, endpoint: &Endpoint, reason: String, now: Instant) {
        endpoint.standing().connect_failed(|| reason.clone(), now);
        self.probed(endpoint, Err(reason), now);
    }

    /// Forgets what probes said, once there are none any more: nothing would ever take it back.
    pub fn forget_verdicts(&self, now: Instant) {
        for member in self.members().iter() {
            member.endpoint.standing().forget_verdict();
        }
        self.refresh(now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{health, pool, spec};
    use super::*;
    use crate::balance::Availability;
    use crate::config::model::Balance;

    const SHORT: Duration = Duration::from_millis(1);
    const RESET: Failed = Failed { cause: Cause::Reset, key: 0, took: Duration::ZERO };

    fn answered(status: StatusCode, key: u64) -> Reply {
        Reply { key, ..Reply::whole(status, SHORT) }
    }

    #[test]
    fn one_that_answers_500_where_its_peers_do_not_is_ejected_and_a_crashing_url_ejects_nobody() {
        for is_everywhere in [false, true] {
            for balance in [Balance::Ewma, Balance::RoundRobin, Balance::LeastRequests] {
                let pool = pool(balance, &[1, 1, 1]);
                let now = Instant::now();
                for _ in 0..12 {
                    for (index, member) in pool.members().iter().enumerate() {
                        let crashes = is_everywhere || index == 0;
                        let status = if crashes { 500 } else { 200 };
                        let status = StatusCode::from_u16(status).expect("a status");
                        pool.responded(&member.endpoint, answered(status, 1 << 60), now);
                        pool.responded(&member.endpoint, answered(StatusCode::OK, 0), now);
                    }
                }
                let standing = pool.members()[0].endpoint.standing().clone();
                let is_ejected = standing.ejection_left(now).is_some();
                assert_eq!(is_ejected, !is_everywhere);
                assert!(is_everywhere || standing.ejection_reason() == Some(Reason::Errors));
                assert_eq!(pool.candidates(now).members.len(), 3 - usize::from(is_ejected));
            }
        }
    }

    #[test]
    fn where_all_resets_happen_everywhere_nobody_is_ejected() {
        let pool = pool(Balance::RoundRobin, &[1, 1, 1]);
        let now = Instant::now();
        for _ in 0..20 {
            for member in pool.members().iter() {
                pool.failed(&member.endpoint, RESET, now);
            }
        }
        assert_eq!(pool.candidates(now).members.len(), 3);
    }

    #[test]
    fn timeouts_are_a_reason_of_their_own() {
        let pool = pool(Balance::RoundRobin, &[1, 1, 1]);
        let now = Instant::now();
        let hung = pool.members()[0].endpoint.clone();
        let outrun = Outrun { waited: Duration::from_secs(1), took: SHORT };
        for _ in 0..5 {
            assert!(hung.standing().ejection_left(now).is_none());
            pool.outrun(&hung, 0, outrun, now);
        }
        assert_eq!(hung.standing().ejection_reason(), Some(Reason::Timeouts));
        // Back, one more is enough.
        let later = now + Duration::from_secs(31);
        assert!(hung.standing().ejection_left(later).is_none());
        pool.outrun(&hung, 0, outrun, later);
        assert!(hung.standing().ejection_left(later).is_some());
    }

    #[test]
    fn the_end_of_an_answer_counts_and_not_only_its_head() {
        let pool = pool(Balance::RoundRobin, &[1, 1, 1]);
        let now = Instant::now();
        let rng = crate::balance::Rng::seeded(1);
        let cutting = pool.members()[0].endpoint.id;
        for _ in 0..40 {
            let mut lease = super::super::testing::lease(&pool, &rng, &Default::default());
            let endpoint = lease.endpoint().clone();
            let reply = Reply { is_whole: false, ..answered(StatusCode::OK, 0) };
            pool.responded(&endpoint, reply, now);
            lease.begun();
            if endpoint.id == cutting {
                lease.ended(Some(Outcome::Failed), now);
            }
        }
        assert_eq!(pool.members()[0].endpoint.standing().ejection_reason(), Some(Reason::Errors));
        assert_eq!(pool.candidates(now).members.len(), 2);
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_starts_over() {
        let pool = pool(Balance::Ewma, &[1, 1]);
        let endpoint = pool.members()[0].endpoint.clone();
        let now = Instant::now();
        for round in 0..9 {
            let status = if round == 4 { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            pool.responded(&endpoint, Reply::whole(status, SHORT), now);
        }
        assert!(endpoint.standing().ejection_left(now).is_none());
        pool.responded(&endpoint, Reply::whole(StatusCode::BAD_GATEWAY, SHORT), now);
        assert!(endpoint.standing().ejection_left(now).is_some());
        assert_eq!(pool.candidates(now).members.len(), 1);
    }

    #[test]
    fn ejection_stops_at_its_share_of_the_pool() {
        let pool = pool(Balance::Ewma, &[1, 1, 1]);
        let now = Instant::now();
        for member in pool.members().iter() {
            for _ in 0..5 {
                pool.failed(&member.endpoint, RESET, now);
            }
        }
        let ejected = pool
            .members()
            .iter()
            .filter(|member| member.endpoint.standing().ejection_left(now).is_some())
            .count();
        assert_eq!(ejected, 1);
    }

    #[test]
    fn the_last_usable_endpoint_is_never_ejected() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1, 1]);
        spec.panic_below = 0.0;
        if let Some(outlier) = &mut spec.outlier {
            (outlier.eject_max, outlier.failures) = (1.0, 1);
        }
        let now = Instant::now();
        let pool = Pool::build(&spec, &endpoints, None, None, now);
        for member in pool.members().iter() {
            pool.failed(&member.endpoint, RESET, now);
        }
        assert_eq!(pool.candidates(now).members.len(), 1);
    }

    #[test]
    fn an_endpoint_that_stays_much_slower_than_its_peers_is_ejected() {
        let pool = pool(Balance::RoundRobin, &[1, 1, 1, 1]);
        let members = pool.members();
        let now = Instant::now();
        let answer = |index: usize, took| {
            let reply = Reply::whole(StatusCode::OK, Duration::from_millis(took));
            pool.responded(&members[index].endpoint, reply, now);
        };
        for index in 0..4 {
            answer(index, 10);
        }
        let is_ejected = || members[3].endpoint.standing().ejection_left(now).is_some();
        // A slow answer now and then is nothing.
        for round in 0..50 {
            answer(3, if round % 10 == 0 { 10 } else { 500 });
        }
        assert!(!is_ejected());
        answer(3, 10);
        for _ in 0..SLOW_IN_A_ROW {
            assert!(!is_ejected());
            answer(3, 500);
        }
        assert!(is_ejected());
        assert_eq!(members[3].endpoint.standing().ejection_reason(), Some(Reason::Slow));
    }

    #[test]
    fn where_all_are_slow_nobody_is() {
        let pool = pool(Balance::RoundRobin, &[1, 1, 1, 1]);
        let now = Instant::now();
        for _ in 0..3 * SLOW_IN_A_ROW {
            for member in pool.members().iter() {
                let slow = Reply::whole(StatusCode::OK, Duration::from_secs(2));
                pool.responded(&member.endpoint, slow, now);
            }
        }
        assert_eq!(pool.candidates(now).members.len(), 4);
    }

    #[test]
    fn failed_connects_of_probes_set_aside_but_never_eject() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1, 1]);
        spec.health = Some(health());
        let mut now = Instant::now();
        let pool = Pool::build(&spec, &endpoints, None, None, now);
        let endpoint = pool.members()[0].endpoint.clone();
        for _ in 0..20 {
            pool.probe_connect_failed(&endpoint, "connection refused".into(), now);
            assert_eq!(endpoint.standing().availability(now), Availability::Aside);
            now += Duration::from_secs(6);
        }
        assert!(endpoint.standing().ejection_left(now).is_none());
        assert_eq!(endpoint.stats.ejections.value(), 0);
    }

    #[test]
    fn a_percentile_is_followed_only_where_hedging_goes_by_it() {
        let (mut spec, endpoints) = spec(Balance::Ewma, &[1]);
        let now = Instant::now();
        let mut hedge_after = |hedge_after| {
            if let Some(retry) = &mut spec.retry {
                retry.hedge_after = hedge_after;
            }
            let pool = Pool::build(&spec, &endpoints, None, None, now);
            for _ in 0..2000 {
                let endpoint = pool.members()[0].endpoint.clone();
                let reply = Reply::whole(StatusCode::OK, Duration::from_millis(10));
                pool.responded(&endpoint, reply, now);
            }
            pool.hedging()
        };
        assert_eq!(hedge_after(None), Hedging::Never);
        let second = Duration::from_secs(1);
        assert_eq!(hedge_after(Some(HedgeAfter::Auto)), Hedging::Auto(second));
        let fixed = Duration::from_millis(50);
        assert_eq!(hedge_after(Some(HedgeAfter::Fixed(fixed))), Hedging::After(fixed));
        let Hedging::After(p95) = hedge_after(Some(HedgeAfter::Percentile(95))) else {
            unreachable!("enough samples")
        };
        assert!((8..=13).contains(&p95.as_millis()), "{p95:?}");
    }
}
