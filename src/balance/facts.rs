//! What requests and probes report to a pool, and what follows from it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::endpoint::Endpoint;
use super::latency::FAILURE_MIN;
use super::metrics::RetryReason;
use super::outlier::{self, PEERS_MIN, Reason, SLOW_IN_A_ROW};
use super::pool::{Pool, process_clock, process_millis};
use super::standing::Verdict;
use crate::config::model::HedgeAfter;

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

    /// How long a request waits for an answer before a second try is made beside it.
    pub fn hedge_after(&self) -> Option<Duration> {
        match self.retry.as_ref()?.hedge_after? {
            HedgeAfter::Fixed(after) => Some(after),
            HedgeAfter::Percentile(_) => self.shared.quantile.estimate(),
        }
    }

    /// A connect of a request failed, and `why` in words.
    pub fn connect_failed(&self, endpoint: &Endpoint, why: impl FnOnce() -> String, now: Instant) {
        let newly = endpoint.standing().connect_failed(why, now).map(str::to_owned);
        if let Some(reason) = newly {
            tracing::warn!(pool = %self.name, endpoint = %endpoint.label, reason, "endpoint set aside");
        }
        self.refresh(now);
        self.failed(endpoint, Duration::ZERO, now);
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
    pub fn responded(&self, endpoint: &Endpoint, status: StatusCode, took: Duration, now: Instant) {
        endpoint.stats.codes.local().increment(status);
        self.stats.duration.observe(took);
        self.follow(took);
        if matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ) {
            self.failed(endpoint, took, now);
            return;
        }
        endpoint.latency.observe(took, process_millis(now));
        if endpoint.failures.load(Ordering::Relaxed) != 0 {
            endpoint.failures.store(0, Ordering::Relaxed);
        }
        self.judge_speed(endpoint, took, now);
    }

    /// Another endpoint answered first: this one had not, after so long.
    pub fn outrun(&self, endpoint: &Endpoint, waited: Duration, now: Instant) {
        endpoint.latency.observe_at_least(waited, process_millis(now));
        self.follow(waited);
    }

    /// Where hedging goes by a percentile, one more sample of it.
    fn follow(&self, took: Duration) {
        if let Some(HedgeAfter::Percentile(percentile)) =
            self.retry.as_ref().and_then(|retry| retry.hedge_after)
        {
            self.shared.quantile.observe(took, percentile);
        }
    }

    /// A try failed: no connection, a reset before the head, no first byte in time, or a 502, 503
    /// or 504. Enough of them in a row eject the endpoint.
    pub fn failed(&self, endpoint: &Endpoint, took: Duration, now: Instant) {
        endpoint.latency.observe(took.max(FAILURE_MIN), process_millis(now));
        let failures = endpoint.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if self.outlier.as_ref().is_some_and(|outlier| failures >= outlier.failures) {
            self.eject(endpoint, Reason::Failures, now);
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
        endpoint.failures.store(0, Ordering::Relaxed);
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

    const QUICK: Duration = Duration::from_millis(1);

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_starts_over() {
        let pool = pool(Balance::Ewma, &[1, 1]);
        let endpoint = pool.members()[0].endpoint.clone();
        let now = Instant::now();
        for round in 0..9 {
            let status = if round == 4 { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            pool.responded(&endpoint, status, QUICK, now);
        }
        assert!(endpoint.standing().ejection_left(now).is_none());
        pool.responded(&endpoint, StatusCode::BAD_GATEWAY, QUICK, now);
        assert!(endpoint.standing().ejection_left(now).is_some());
        assert_eq!(pool.candidates(now).members.len(), 1);
    }

    #[test]
    fn ejection_stops_at_its_share_of_the_pool() {
        let pool = pool(Balance::Ewma, &[1, 1, 1]);
        let now = Instant::now();
        for member in pool.members().iter() {
            for _ in 0..5 {
                pool.failed(&member.endpoint, Duration::ZERO, now);
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
            pool.failed(&member.endpoint, Duration::ZERO, now);
        }
        assert_eq!(pool.candidates(now).members.len(), 1);
    }

    #[test]
    fn an_endpoint_that_stays_much_slower_than_its_peers_is_ejected() {
        let pool = pool(Balance::RoundRobin, &[1, 1, 1, 1]);
        let members = pool.members();
        let now = Instant::now();
        let answer = |index: usize, took| {
            pool.responded(
                &members[index].endpoint,
                StatusCode::OK,
                Duration::from_millis(took),
                now,
            );
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
                pool.responded(&member.endpoint, StatusCode::OK, Duration::from_secs(2), now);
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
                pool.responded(&endpoint, StatusCode::OK, Duration::from_millis(10), now);
            }
            pool.hedge_after()
        };
        assert_eq!(hedge_after(None), None);
        let fixed = Duration::from_millis(50);
        assert_eq!(hedge_after(Some(HedgeAfter::Fixed(fixed))), Some(fixed));
        let p95 = hedge_after(Some(HedgeAfter::Percentile(95))).expect("enough samples");
        assert!((8..=13).contains(&p95.as_millis()), "{p95:?}");
    }
}
