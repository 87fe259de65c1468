//! The tries of one request: a place on an endpoint for each, as many as are safe and allowed.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout_at};

use super::affinity::{self, Named};
use super::attempt::{Answered, Failed, Sending};
use super::deadlines::within;
use super::forward::{Answer, Trace};
use super::hedge::{self, First, Raced};
use super::retry::{self, Attempt, Failure, Verdict};
use super::shortage::Wait;
use super::trial;
use crate::balance::{Due, Endpoint, Hedging, Lease, Pick, Pool, RetryReason, Wish};
use crate::config::model::Protocol;
use crate::error::{Error, Kind};
use crate::upstream::is_for_want_of_ports;

/// The longest wait before the first further try of a request, and before any: it doubles in
/// between. Each wait is a random part of it, so that what failed together does not return together.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// How long a request waits for others to find out whether an endpoint is back, where none is
/// usable, and how often it looks whether it may find out itself.
const HOPE_MAX: Duration = Duration::from_millis(50);
const HOPE_INTERVAL: Duration = Duration::from_millis(10);

/// How long a second try has to go on before the first one's answer says what is usual.
const PROBE_MIN: Duration = Duration::from_millis(500);

/// What a request does where all endpoints are at their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It waits in the pool's queue.
    Queued,
    /// It is no request of a client, and not worth a place there.
    Never,
}

/// A second try that tells what requests of its kind are like. Whatever becomes of it, another may
/// follow.
struct Probe<'a> {
    sending: &'a Sending<'a>,
    /// How long the answer took that came first.
    took: Option<Duration>,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let pool = &self.sending.balanced.pool;
        pool.hedge_found(self.sending.kind(), self.took, Instant::now().into_std());
    }
}

/// The tries of one request.
pub(super) struct Tries<'a> {
    sending: &'a Sending<'a>,
    trace: &'a mut Trace,
    waiting: Waiting,
    /// Of what the pool hashes on.
    key: u64,
    named: Named,
    /// Endpoints that failed, by id.
    tried: Vec<u64>,
    /// Tries on resting connections that had been closed.
    stale: u32,
    /// What failed would fail again where it did.
    elsewhere: bool,
    /// There was no usable endpoint, and the last try was to find out whether one is back.
    is_hoping: bool,
}

impl<'a> Tries<'a> {
    pub(super) fn new(sending: &'a Sending<'a>, trace: &'a mut Trace, waiting: Waiting) -> Self {
        let pool = &sending.balanced.pool;
        let key = affinity::key(pool, sending.outgoing);
        let named = affinity::named(pool, sending.outgoing.asker.as_deref());
        // Beside a fetch that is slow or failed, another endpoint is worth more.
        let tried = trace.crowd.as_ref().map_or_else(Vec::new, |crowd| crowd.endpoints());
        Self {
            sending,
            trace,
            waiting,
            key,
            named,
            tried,
            stale: 0,
            elsewhere: false,
            is_hoping: false,
        }
    }

    pub(super) async fn run(mut self) -> Result<Answer, Error> {
        let pool = &self.sending.balanced.pool;
        let upload = self.sending.outgoing.upload.as_ref();
        // On a shared connection an endpoint may refuse what was sent, unprocessed.
        let is_shared = self.sending.balanced.protocol == Protocol::H2;
        if let Some(upload) = upload {
            if is_shared || (self.sending.is_idempotent && pool.retry.is_some()) {
                upload.keep();
            }
            if pool.has_nobody(Instant::now().into_std()) {
                // Nobody is asked for a body in vain.
                return Err(Kind::NoEndpoint.into());
            }
            // A client that is slow to send it holds no endpoint meanwhile.
            upload.read_ahead(self.sending.deadlines.total).await?;
        }
        let mut last: Option<Failed> = None;
        let mut wait: Option<Wait> = None;
        let answered = loop {
            let (lease, now) = match within(self.sending.deadlines.total, self.lease(pool)).await? {
                Ok(leased) => leased,
                // There is nobody else to ask: what the try before brought stands.
                Err(error) => break last.map_or(Err(error), |failed| self.given_up(failed)),
            };
            self.trace.endpoint = Some(lease.endpoint().clone());
            if let Some(upload) = upload {
                upload.take_place(lease.stalling());
            }
            if let Some(crowd) = &self.trace.crowd {
                crowd.note_endpoint(lease.endpoint().id);
            }
            self.trace.attempts += 1;
            self.is_hoping = lease.is_trial();
            // After one stale connection its siblings are not worth a try.
            let may_rest = self.stale == 0;
            let result = match self.hedging(pool) {
                Hedging::Never => self.sending.attempt(lease, may_rest, now).await,
                Hedging::Auto(after) => self.watched(pool, (lease, may_rest, now), after).await,
                // Boxed: only those who want it carry it.
                Hedging::After(after) => {
                    Box::pin(self.raced(pool, (lease, may_rest, now), after)).await
                }
            };
            let failed = match result {
                Ok(answered) => break Ok(answered),
                Err(failed) => failed,
            };
            if failed.failure == Failure::Exhausted {
                if Box::pin(self.outlast(&failed.error, &mut wait)).await {
                    continue;
                }
                pool.stats.exhausted.increment();
                break last.unwrap_or(failed).into_result();
            }
            let Some(wait) = self.next(pool, &failed) else { break self.given_up(failed) };
            if !wait.is_zero() {
                Box::pin(sleep(wait)).await;
            }
            last = Some(failed);
        };
        if let Some(upload) = upload {
            upload.forget();
        }
        let Answered { answer, took } = answered?;
        self.trace.upstream = Some(took);
        self.trace.set_cookie = self.set_cookie(pool);
        Ok(answer)
    }

    /// Waits for what we lack, a moment; whether another try is worth while. This one was none.
    async fn outlast(&mut self, error: &Error, wait: &mut Option<Wait>) -> bool {
        self.trace.attempts = self.trace.attempts.saturating_sub(1);
        let endpoint = self.trace.endpoint.take();
        if self.waiting == Waiting::Never {
            return false;
        }
        // Another endpoint has ports of its own.
        if is_for_want_of_ports(error) {
            self.tried.extend(endpoint.map(|endpoint| endpoint.id));
        }
        let local = self.sending.local;
        if wait.is_none() {
            *wait = Wait::begin(local);
        }
        let Some(wait) = wait else { return false };
        wait.a_moment(local, error, self.sending.deadlines.total).await
    }

    /// When a second try is made beside this one, if it is.
    fn hedging(&self, pool: &Pool) -> Hedging {
        let is_first = self.trace.attempts == 1 && self.stale == 0;
        let is_safe = self.sending.is_idempotent && self.sending.outgoing.upgrade.is_none();
        if is_first && is_safe { pool.hedging() } else { Hedging::Never }
    }

    /// Makes the first try; where it takes longer than requests of its kind do, a second beside it.
    async fn watched(
        &mut self,
        pool: &Arc<Pool>,
        (lease, may_rest, begun): (Lease, bool, Instant),
        after: Duration,
    ) -> Result<Answered, Failed> {
        let sending = self.sending;
        sending.nudge.set(Some(after));
        let mut attempt = pin!(sending.attempt(lease, may_rest, begun));
        loop {
            let ended = poll_fn(|cx| match attempt.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if sending.nudge.take() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(result) = ended.await {
                sending.nudge.set(None);
                return result;
            }
            let now = Instant::now();
            // What it was sent late, because the client was slow, is not the endpoint's time.
            match pool.hedge_due(sending.kind(), now - begun, now.into_std()) {
                Due::After(after) => sending.nudge.set(Some(after)),
                due => {
                    let probe = (due == Due::Probe).then(|| Probe { sending, took: None });
                    return Box::pin(self.overtaken(pool, attempt.as_mut(), begun, probe)).await;
                }
            }
        }
    }

    async fn overtaken<F: Future<Output = Result<Answered, Failed>>>(
        &mut self,
        pool: &Arc<Pool>,
        attempt: Pin<&mut F>,
        begun: Instant,
        mut probe: Option<Probe<'_>>,
    ) -> Result<Answered, Failed> {
        let Some(endpoint) = self.trace.endpoint.clone() else { return attempt.await };
        let endpoint_id = endpoint.id;
        let second = self.second(pool, &endpoint);
        let Some(second_begun) = second.as_ref().map(|(_, begun)| *begun) else {
            drop(probe.take());
            return attempt.await;
        };
        let first = First { attempt, endpoint, key: self.key, begun };
        let raced = hedge::beside(self.sending, first, second).await;
        if let (Some(probe), Ok(_)) = (&mut probe, &raced.result) {
            // An answer of the first says little before the second has been waited for.
            let is_second = raced.endpoint.id != endpoint_id;
            probe.took =
                Some(second_begun.elapsed()).filter(|took| is_second || *took >= PROBE_MIN);
        }
        self.settled(raced)
    }

    async fn raced(
        &mut self,
        pool: &Arc<Pool>,
        first: (Lease, bool, Instant),
        after: Duration,
    ) -> Result<Answered, Failed> {
        let second = |first: &Endpoint| self.second(pool, first);
        let raced = hedge::race(self.sending, first, after, second).await;
        self.settled(raced)
    }

    fn settled(&mut self, raced: Raced) -> Result<Answered, Failed> {
        let Raced { result, endpoint, other } = raced;
        if let Some(other) = other {
            self.trace.attempts += 1;
            self.tried.push(other.id);
        }
        self.trace.endpoint = Some(endpoint);
        result
    }

    /// A place for a second try beside the first: on another endpoint, within the budget, and with
    /// a body that can be sent twice at once.
    fn second(&self, pool: &Arc<Pool>, first: &Endpoint) -> Option<(Lease, Instant)> {
        let upload = self.sending.outgoing.upload.as_ref();
        if upload.is_some_and(|upload| !upload.is_kept_whole()) {
            return None;
        }
        let now = Instant::now();
        let client = self.sending.outgoing.client;
        let wish = Wish { tried: &[first.id], key: self.key, keep: None, elsewhere: true, client };
        let lease = match pool.pick(&self.sending.local.rng, now.into_std(), &wish) {
            Pick::Leased(lease) => lease,
            Pick::WithTrial { lease, trial } => {
                trial::begin(self.sending, trial);
                lease
            }
            Pick::Full | Pick::Awaited | Pick::Empty => return None,
        };
        let is_another = lease.endpoint().id != first.id && !lease.is_trial();
        (is_another && pool.take_retry(RetryReason::Hedge, now.into_std())).then_some((lease, now))
    }

    /// How long after the try that failed another one follows, if it does.
    fn next(&mut self, pool: &Pool, failed: &Failed) -> Option<Duration> {
        let before = self.tried.len();
        self.tried.extend(self.trace.endpoint.as_ref().map(|endpoint| endpoint.id));
        let upload = self.sending.outgoing.upload.as_ref();
        let attempt = Attempt {
            retry: pool.retry.as_ref(),
            tries: self.trace.attempts,
            stale: self.stale,
            has_others: pool.has_others(&self.tried, Instant::now().into_std()),
            is_idempotent: self.sending.is_idempotent,
            is_replayable: upload.is_none_or(|upload| upload.can_begin()),
            was_resting: failed.was_resting,
        };
        match retry::verdict(failed.failure, &attempt) {
            Verdict::Refresh => {
                self.stale += 1;
                self.trace.attempts -= 1;
                self.tried.truncate(before);
                Some(Duration::ZERO)
            }
            Verdict::Again(reason) => {
                if failed.failure == Failure::Connect {
                    self.trace.attempts -= 1;
                }
                self.elsewhere = matches!(reason, RetryReason::Status | RetryReason::Timeout);
                let now = Instant::now();
                let wait = self.backoff(pool, reason, now);
                let is_too_late =
                    self.sending.deadlines.total.is_some_and(|total| now + wait >= total);
                (!is_too_late && pool.take_retry(reason, now.into_std())).then_some(wait)
            }
            Verdict::GiveUp => None,
        }
    }

    /// The end of a request whose last try failed.
    fn given_up(&self, failed: Failed) -> Result<Answered, Error> {
        let is_unreached = matches!(failed.failure, Failure::Connect | Failure::ConnectTimeout);
        match self.is_hoping && is_unreached {
            true => Err(Error::caused(Kind::NoEndpoint, failed.error)),
            false => failed.into_result(),
        }
    }

    /// How long to wait before the next try. What could not be delivered goes to another endpoint
    /// at once: that one knows nothing of it.
    fn backoff(&self, pool: &Pool, reason: RetryReason, now: Instant) -> Duration {
        let is_undelivered = matches!(reason, RetryReason::Connect | RetryReason::NeverWritten);
        if is_undelivered && pool.has_others(&self.tried, now.into_std()) {
            return Duration::ZERO;
        }
        let doublings = self.trace.attempts.saturating_sub(1).min(8);
        let longest = (BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX);
        longest.mul_f64(self.sending.local.rng.unit())
    }

    fn pick(&self, pool: &Arc<Pool>, now: Instant) -> Pick {
        let keep = match self.named {
            Named::Endpoint(id) => Some(id),
            Named::Nobody | Named::Unknown => None,
        };
        let (elsewhere, client) = (self.elsewhere, self.sending.outgoing.client);
        let wish = Wish { tried: &self.tried, key: self.key, keep, elsewhere, client };
        pool.pick(&self.sending.local.rng, now.into_std(), &wish)
    }

    /// A place on an endpoint, waited for in the pool's queue where there is none, and when it
    /// was found: to ask for the time is dear enough to do it once for all that happens at once.
    async fn lease(&mut self, pool: &Arc<Pool>) -> Result<(Lease, Instant), Error> {
        match self.sending.outgoing.upgrade {
            None => self.place(pool).await,
            Some(_) => Box::pin(self.place_for_tunnel(pool)).await,
        }
    }

    /// The same for a tunnel. Those at their limit of tunnels are passed over as if they had been
    /// tried; where all are, nobody waits for one to end.
    async fn place_for_tunnel(&mut self, pool: &Arc<Pool>) -> Result<(Lease, Instant), Error> {
        let mut full = Vec::new();
        while pool.has_place_for_tunnel(Instant::now().into_std()) {
            let (mut lease, now) = self.place(pool).await?;
            if lease.begin_tunnel(pool.limits.tunnels_max) {
                return Ok((lease, now));
            }
            let id = lease.endpoint().id;
            if full.contains(&id) {
                break;
            }
            full.push(id);
            self.tried.push(id);
        }
        pool.stats.tunnel_limit.increment();
        Err(Kind::TunnelLimit.into())
    }

    async fn place(&self, pool: &Arc<Pool>) -> Result<(Lease, Instant), Error> {
        if pool.queue_len() == 0 || self.elsewhere {
            let now = Instant::now();
            match self.pick(pool, now) {
                Pick::Leased(lease) => return Ok((lease, now)),
                Pick::WithTrial { lease, trial } => {
                    trial::begin(self.sending, trial);
                    return Ok((lease, now));
                }
                Pick::Empty => return Err(Kind::NoEndpoint.into()),
                // There is an answer already; it is not worth a wait.
                Pick::Full if self.elsewhere => return Err(Kind::QueueFull.into()),
                Pick::Full | Pick::Awaited => {}
            }
        }
        match self.waiting {
            Waiting::Queued => Box::pin(self.queued(pool)).await,
            Waiting::Never => Err(Kind::QueueFull.into()),
        }
    }

    /// Waits in the pool's queue for a place on an endpoint.
    async fn queued(&self, pool: &Arc<Pool>) -> Result<(Lease, Instant), Error> {
        let client = self.sending.outgoing.client;
        let place = pool.queue(client, Instant::now().into_std()).map_err(|_| {
            pool.stats.queue_full.increment();
            Error::new(Kind::QueueFull)
        })?;
        let begun = Instant::now();
        let patience = begun + pool.limits.queue_timeout;
        loop {
            let mut again = patience;
            if place.is_put_out() {
                pool.stats.queue_full.increment();
                return Err(Kind::ClientShare.into());
            }
            if place.is_next() {
                let now = Instant::now();
                match self.pick(pool, now) {
                    Pick::Leased(lease) => return Ok((lease, now)),
                    Pick::WithTrial { lease, trial } => {
                        trial::begin(self.sending, trial);
                        return Ok((lease, now));
                    }
                    Pick::Empty => return Err(Kind::NoEndpoint.into()),
                    Pick::Awaited if now >= begun + HOPE_MAX => return Err(Kind::NoEndpoint.into()),
                    Pick::Awaited => again = patience.min(now + HOPE_INTERVAL),
                    Pick::Full => {}
                }
            }
            if timeout_at(again, place.turn()).await.is_err() && Instant::now() >= patience {
                pool.stats.queue_timeout.increment();
                return Err(Kind::QueueTimeout.into());
            }
        }
    }

    /// The cookie for a client that the endpoint which answered is new to.
    fn set_cookie(&self, pool: &Pool) -> Option<Box<HeaderValue>> {
        pool.sticky()?;
        let endpoint = self.trace.endpoint.as_ref()?;
        pool.stats.sticky[self.named.result(endpoint) as usize].increment();
        let named = match self.named {
            Named::Endpoint(id) => Some(id),
            Named::Nobody | Named::Unknown => None,
        };
        let now = Instant::now().into_std();
        let is_secure = self.sending.outgoing.asker.as_ref().is_some_and(|asker| asker.is_secure);
        HeaderValue::try_from(pool.cookie_for(endpoint, named, is_secure, now)?).ok().map(Box::new)
    }
}
