//! A request that waits for the fetch of another one: for how long, and what comes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::COOKIE;
use http::{HeaderMap, StatusCode};

use super::fetch::{Fetched, Plan};
use crate::cache::storable::Refusal;
use crate::cache::{Cache, Flight, Outcome, Scope, Turn};
use crate::config::model::FetchWait;
use crate::error::{Error, Kind};
use crate::snapshot::BackendKind;

/// For how long a fetch is waited for, in usual times to the first byte of the pool, and between
/// these bounds.
const WAIT_LATENCIES: u32 = 10;
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// The same while it is not known what is usual.
const WAIT_UNKNOWN: Duration = Duration::from_millis(500);
/// The same for what is known to be slow.
const WAIT_KNOWN_MAX: Duration = Duration::from_secs(10);
impl Plan {
    /// How long somebody else's fetch is waited for.
    pub(super) fn wait(&self, cache: &Cache) -> Duration {
        if let FetchWait::Fixed(wait) = self.cache.wait {
            return wait;
        }
        let usual = match &self.backend.kind {
            BackendKind::Balanced(balanced) => balanced.pool.usual_latency(Instant::now()),
            BackendKind::Folder(_) => None,
        };
        let wait =
            usual.map_or(WAIT_UNKNOWN, |usual| (usual * WAIT_LATENCIES).clamp(WAIT_MIN, WAIT_MAX));
        // What has always been slow is no sign of trouble.
        let took = cache.took_lately(self.key.as_ref()).unwrap_or_default();
        wait.max((took + took / 2).min(WAIT_KNOWN_MAX))
    }

    /// Whether the answer to somebody else is likely to be one for this request. What comes with
    /// cookies mostly gets an answer of its own, unless it is known that it does not.
    pub(super) fn may_wait(&self, cache: &Cache, request: &HeaderMap, wait: Duration) -> bool {
        let is_known = || self.stale.is_some() || cache.took_lately(self.key.as_ref()).is_some();
        !wait.is_zero() && (!request.contains_key(COOKIE) || is_known())
    }
}

/// What came of waiting for somebody else's fetch.
pub(super) enum Followed {
    Answered(Fetched),
    /// The answer is another variant: look for the flight of one's own.
    Regroup,
    /// The fetch failed, which was its own matter.
    Failed(Arc<Flight>),
    Alone(Refusal),
    /// It has taken long enough for another one beside it.
    Beside {
        flight: Arc<Flight>,
        turn: Option<Turn>,
    },
}

/// Waits for a flight of somebody else.
pub(super) async fn followed(
    plan: &Plan,
    flight: &Arc<Flight>,
    wait: Duration,
    request: &HeaderMap,
    cache: &Arc<Cache>,
) -> Result<Followed, Error> {
    let _waiting = flight.wait();
    // It waits no longer than for an answer to itself.
    let patience =
        tokio::time::Instant::from_std(plan.asked) + plan.backend.spec.timeouts.first_byte;
    let deadline = plan.deadline.filter(|deadline| *deadline <= patience);
    let until = deadline.unwrap_or(patience);
    match tokio::time::timeout_at(until, flight.outcome_or_turn(wait)).await {
        Ok(Ok(outcome)) => judged(plan, flight, outcome, request, cache).await,
        // Who came after a purge waits for nothing that is older.
        Ok(Err(_)) if cache.condemns(flight) => Ok(Followed::Regroup),
        Ok(Err(turn)) => Ok(Followed::Beside { flight: flight.clone(), turn: Some(turn) }),
        Err(_) => {
            let kind = deadline.map_or(Kind::FirstByteTimeout, |_| Kind::Deadline);
            plan.stand_in_or(kind.into()).map(Followed::Answered)
        }
    }
}

/// What the outcome of a fetch is to a request that did not begin it.
pub(super) async fn judged(
    plan: &Plan,
    flight: &Arc<Flight>,
    outcome: Outcome,
    request: &HeaderMap,
    cache: &Arc<Cache>,
) -> Result<Followed, Error> {
    let Outcome::Overtaken(earlier) = outcome else {
        return Ok(verdict(plan, flight, outcome, request, cache));
    };
    let _waiting = earlier.wait();
    // That one is settled.
    let outcome = earlier.outcome().await;
    Ok(verdict(plan, &earlier, outcome, request, cache))
}

fn verdict(
    plan: &Plan,
    flight: &Arc<Flight>,
    outcome: Outcome,
    request: &HeaderMap,
    cache: &Arc<Cache>,
) -> Followed {
    let scope = match &outcome {
        Outcome::Streaming(shared) => Some(&shared.scope),
        Outcome::Confirmed { scope, .. } => Some(scope),
        Outcome::Found | Outcome::Overtaken(_) => return Followed::Regroup,
        Outcome::Alone(_) | Outcome::Failed(_) => None,
    };
    let holds = |scope: &Scope| scope.holds(plan.key.as_ref(), request, cache.hasher());
    // A purge may have come before this request and after the fetch had begun.
    if scope.is_some_and(|scope| !holds(scope) || cache.condemns(flight)) {
        return Followed::Regroup;
    }
    match outcome {
        // A part can be told only where the length of the whole is known.
        Outcome::Streaming(shared)
            if plan.ranged && shared.length.is_none() && shared.head.status == StatusCode::OK =>
        {
            Followed::Alone(Refusal::TooLarge)
        }
        Outcome::Streaming(shared) if plan.may_share(&shared.head) => {
            match flight.read(shared.length) {
                Some(reader) => {
                    let (body, private) = (plan.read(reader), HeaderMap::new());
                    Followed::Answered(Fetched::Shared { shared, body, led: false, private })
                }
                None => Followed::Alone(Refusal::TooLarge),
            }
        }
        Outcome::Confirmed { entry, .. } if plan.may_share(&entry.head) => {
            let (status, private) = (StatusCode::NOT_MODIFIED, HeaderMap::new());
            Followed::Answered(Fetched::Confirmed { entry, status, led: false, private })
        }
        Outcome::Streaming(_) | Outcome::Confirmed { .. } if plan.authorized => {
            Followed::Alone(Refusal::Authorization)
        }
        Outcome::Streaming(_) | Outcome::Confirmed { .. } => Followed::Alone(Refusal::NoLifetime),
        Outcome::Found | Outcome::Overtaken(_) => Followed::Regroup,
        Outcome::Alone(refusal) => Followed::Alone(refusal),
        Outcome::Failed(fault) => match plan.stand_in(fault) {
            Some(fetched) => Followed::Answered(fetched),
            None => Followed::Failed(flight.clone()),
        },
    }
}
