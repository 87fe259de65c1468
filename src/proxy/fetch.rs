//! A request that the cache may answer but does not hold fresh: join the fetch that is under way,
//! or begin one.
//!
//! The fetch itself is a task of its own (`fetch_task`). Its leader reads the answer from the
//! flight like everybody else; only an answer that may not be shared is handed to it alone. Where
//! the origin fails, each request judges for itself whether what is stored may stand in.
//!
//! Waiting is for what is likely to be shared, and does not depend on one fetch: after a while
//! others begin beside it, a bounded number, and the first answer for everybody ends the rest.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Response, StatusCode};
use tokio::sync::oneshot;

use super::deadlines;
use super::fetch_task::{Beside, Brought, Fetch, Handed, confirmed};
use super::follow::{Followed, followed};
use super::forward::{self, Answer, Outgoing, Trace};
use super::local::{Local, Place};
use crate::body::Body;
use crate::cache::control::RequestControl;
use crate::cache::key::Key;
use crate::cache::reuse::{self, Fault, StaleReason};
use crate::cache::status::Forward;
use crate::cache::storable::Refusal;
use crate::cache::{
    Cache, Entry, FlightReader, Head, Join, Lead, Lookup, Outcome, Shared, conditional,
};
use crate::config::model::RouteCache;
use crate::error::{Error, Kind};
use crate::snapshot::Backend;
use crate::timer::TimerSlot;

/// A request regroups by its variant at most this often before it goes alone.
const REGROUPINGS_MAX: usize = 3;
/// With this many tasks on a worker no refresh begins: what is stale goes on being served.
const REFRESH_TASKS_MAX: usize = 1024;

/// What the cache part of a route needs to fetch.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub backend: Arc<Backend>,
    pub cache: Arc<RouteCache>,
    /// It was asked for often enough to be stored.
    pub is_used_enough: bool,
    /// The route's answers may be sent in a coding.
    pub compress: bool,
    pub key: Key,
    /// Stored, but not to be used without asking the origin.
    pub stale: Option<Arc<Entry>>,
    /// Neither lead nor join: the answer may be for this request only.
    pub alone: bool,
    /// The client asks for a part.
    pub ranged: bool,
    /// The request has credentials (RFC 9111 §3.5).
    pub authorized: bool,
    /// What the client asks of stored responses, where that counts.
    pub demands: RequestControl,
    /// When the request came.
    pub asked: Instant,
    /// Of the whole request.
    pub deadline: Option<tokio::time::Instant>,
}

/// How a request was answered.
#[derive(Debug)]
pub(super) enum Fetched {
    /// It appeared in the cache meanwhile.
    Hit(Arc<Entry>),
    /// The origin confirmed what was stored, with this status.
    Confirmed {
        entry: Arc<Entry>,
        status: StatusCode,
        led: bool,
        /// That came with the confirmation, for this client only.
        private: HeaderMap,
    },
    /// The origin failed; what is stored stands in.
    StoodIn { entry: Arc<Entry>, reason: StaleReason, fault: Fault },
    /// Read from a fetch that is stored at the same time.
    Shared {
        shared: Arc<Shared>,
        body: Body,
        led: bool,
        /// Fields for this client only.
        private: HeaderMap,
    },
    /// An answer for this request only.
    Own { response: Response<Body>, refusal: Refusal },
}

impl Plan {
    /// Why the origin is asked.
    pub(super) fn why(&self) -> Forward {
        match &self.stale {
            None => Forward::Miss,
            Some(entry) if entry.head.is_fresh(self.asked) => Forward::Request,
            Some(_) => Forward::Stale,
        }
    }

    /// Whether the origin is asked for a part, as the client asked: nothing that is stored may be
    /// confirmed instead, and nobody else is to wait for it.
    pub(super) fn asks_for_part(&self) -> bool {
        self.ranged && self.stale.is_none()
    }

    /// Whether the answer may turn out to be for this client only, whose conditions then stand.
    pub(super) fn is_private(&self) -> bool {
        self.asks_for_part() || (self.alone && self.stale.is_none())
    }

    fn join(&self, cache: &Arc<Cache>, request: &HeaderMap) -> Join {
        let key = self.key.as_ref();
        if !self.asks_for_part() {
            return cache.join(key, request);
        }
        cache
            .running(key, request)
            .map_or_else(|| Join::Lead(cache.lead_alone(key, request)), Join::Follow)
    }

    /// The lead of a fetch that nobody waits for, unless one is under way that has not taken long.
    fn lead_behind(
        &self,
        cache: &Arc<Cache>,
        request: &HeaderMap,
    ) -> Option<(Lead, Option<Beside>)> {
        match cache.join(self.key.as_ref(), request) {
            Join::Lead(lead) => Some((lead, None)),
            Join::Alone => None,
            Join::Follow(flight) => {
                let turn = flight.turn(self.wait(cache))?;
                let lead = cache.lead_beside(self.key.as_ref(), request, &flight);
                Some((lead, Some(Beside { flight, turn: Some(turn) })))
            }
        }
    }

    /// What is stored, if it answers although the origin failed.
    pub(super) fn stand_in(&self, fault: Fault) -> Option<Fetched> {
        let entry = self.stale.as_ref().filter(|entry| entry.is_live())?;
        let reason = reuse::in_place_of(fault, entry, &self.demands, Instant::now())?;
        Some(Fetched::StoodIn { entry: entry.clone(), reason, fault })
    }

    /// The body of a shared answer, of which this request waits for no more than its own time.
    pub(super) fn read(&self, reader: FlightReader) -> Body {
        deadlines::bounded(Body::stream(reader), None, self.deadline)
    }

    pub(super) fn stand_in_or(&self, error: Error) -> Result<Fetched, Error> {
        self.stand_in(Fault::Kind(error.kind())).ok_or(error)
    }

    /// Whether an answer to somebody else may answer this request. One that came before it must be
    /// one that could be taken from the store.
    pub(super) fn may_share(&self, head: &Head) -> bool {
        (!self.authorized || head.terms.for_authorized)
            && (head.received >= self.asked
                || reuse::is_usable(head, &self.demands, Instant::now()))
    }

    /// A response that another fetch brought after this request had looked.
    fn found_meanwhile(
        &self,
        local: &Local,
        request: &HeaderMap,
        cache: &Cache,
    ) -> Option<Arc<Entry>> {
        let Lookup::Fresh(entry) = self.look_again(local, request, cache) else { return None };
        self.may_share(&entry.head).then_some(entry)
    }

    /// Looks the request up as it would be forwarded: another fetch may have ended since the first
    /// time.
    fn look_again(&self, local: &Local, request: &HeaderMap, cache: &Cache) -> Lookup {
        let mut buffer = local.variant_key.take();
        let found = cache.lookup(self.key.as_ref(), || request, &mut buffer, Instant::now());
        local.variant_key.replace(buffer);
        found
    }
}

/// Answers a request through a flight.
pub(super) async fn fetch(
    local: &Rc<Local>,
    plan: &Plan,
    outgoing: Outgoing,
    trace: &mut Trace,
) -> Result<Fetched, Error> {
    let cache = local.snapshot().cache.clone();
    if plan.alone {
        let lead = cache.lead_alone(plan.key.as_ref(), &outgoing.headers);
        return begin(local, plan, outgoing, lead, None, trace).await;
    }
    let wait = plan.wait(&cache);
    let may_wait = plan.may_wait(&cache, &outgoing.headers, wait);
    let mut refusal = Refusal::TooLarge;
    let mut regroupings = 0;
    // Endpoints at which the fetches that it waited for have failed.
    let mut failed_at = Vec::new();
    while regroupings < REGROUPINGS_MAX {
        let followed = match plan.join(&cache, &outgoing.headers) {
            Join::Alone => break,
            Join::Lead(lead) => {
                // Another fetch may have ended between the lookup and the lead.
                if let Some(entry) = plan.found_meanwhile(local, &outgoing.headers, &cache) {
                    lead.found();
                    return Ok(Fetched::Hit(entry));
                }
                failed_at.into_iter().for_each(|id| lead.flight().note_endpoint(id));
                return begin(local, plan, outgoing, lead, None, trace).await;
            }
            Join::Follow(flight) if may_wait || flight.is_shared() => {
                followed(plan, &flight, wait, &outgoing.headers, &cache).await?
            }
            Join::Follow(flight) => Followed::Beside { flight, turn: None },
        };
        match followed {
            Followed::Answered(fetched) => return Ok(fetched),
            Followed::Alone(why) => {
                refusal = why;
                break;
            }
            // It asks for its own part.
            Followed::Beside { .. } if plan.asks_for_part() => break,
            Followed::Beside { flight, turn } => {
                let lead = cache.lead_beside(plan.key.as_ref(), &outgoing.headers, &flight);
                let beside = Some(Beside { flight, turn });
                return begin(local, plan, outgoing, lead, beside, trace).await;
            }
            // How long this may go on is bounded by the time that a request waits in all.
            Followed::Failed(flight) => failed_at = flight.endpoints(),
            Followed::Regroup => regroupings += 1,
        }
        if let Some(entry) = plan.found_meanwhile(local, &outgoing.headers, &cache) {
            return Ok(Fetched::Hit(entry));
        }
    }
    if plan.asks_for_part() {
        let lead = cache.lead_alone(plan.key.as_ref(), &outgoing.headers);
        return begin(local, plan, outgoing, lead, None, trace).await;
    }
    let asked = ask(local, plan, &outgoing, trace).await;
    asked.map(|asked| asked.unwrap_or_else(|response| Fetched::Own { response, refusal }))
}

/// Asks for one request only. The answer, unless what is stored stands in for it.
async fn ask(
    local: &Rc<Local>,
    plan: &Plan,
    outgoing: &Outgoing,
    trace: &mut Trace,
) -> Result<Result<Fetched, Response<Body>>, Error> {
    let timers = TimerSlot::default();
    let answer = forward::forward(local, &plan.backend, outgoing, plan.deadline, &timers, trace);
    match answer.await.and_then(plain) {
        Ok(response) => {
            let fault = Fault::of_status(response.status());
            Ok(fault.and_then(|fault| plan.stand_in(fault)).ok_or(response))
        }
        Err(error) => plan.stand_in_or(error).map(Ok),
    }
}

/// Answers HEAD, which the origin does. Its answer has no body to store, but freshens what is
/// stored, or tells that it is out of date (RFC 9111 §4.3.5).
pub(super) async fn head(
    local: &Rc<Local>,
    plan: &Plan,
    outgoing: Outgoing,
    trace: &mut Trace,
) -> Result<Fetched, Error> {
    let cache = local.snapshot().cache.clone();
    // Before the origin is asked, so that a purge in between counts.
    let stored = plan.stale.as_ref().filter(|_| !plan.authorized);
    let stored =
        stored.map(|stale| (stale, cache.lead_alone(plan.key.as_ref(), &outgoing.headers)));
    let sent = Instant::now();
    let response = match ask(local, plan, &outgoing, trace).await? {
        Ok(stood_in) => return Ok(stood_in),
        Err(response) => response,
    };
    if let (StatusCode::OK, Some((stale, lead))) = (response.status(), stored) {
        let bytes = stale.body.bytes();
        let is_same = stale.head.status == StatusCode::OK
            && conditional::describes(response.headers(), &stale.head.fields, bytes);
        let head = is_same
            .then(|| {
                confirmed(local, plan, stale, response.headers(), &outgoing.headers, sent).ok()
            })
            .flatten();
        let Some(head) = head else {
            lead.forget(stale);
            return Ok(Fetched::Own { response, refusal: Refusal::Method });
        };
        let entry = lead.confirm(stale, head, &outgoing.headers);
        let private = HeaderMap::new();
        return Ok(Fetched::Confirmed { entry, status: StatusCode::OK, led: true, private });
    }
    Ok(Fetched::Own { response, refusal: Refusal::Method })
}

/// Begins to fetch anew what is served stale meanwhile, unless that is under way. Nobody waits for
/// it; requests that find nothing they may use join it.
pub(super) fn refresh(local: &Rc<Local>, plan: Plan, outgoing: Outgoing) {
    if local.tasks.len() >= REFRESH_TASKS_MAX {
        return;
    }
    let cache = local.snapshot().cache.clone();
    let Some((lead, beside)) = plan.lead_behind(&cache, &outgoing.headers) else { return };
    if plan.found_meanwhile(local, &outgoing.headers, &cache).is_some() {
        return lead.found();
    }
    let (hand, _) = oneshot::channel();
    let task = Fetch { local: local.clone(), plan, hand, is_background: true, beside };
    local.tasks.spawn("cache refresh", task.run(outgoing, lead));
}

/// Begins a fetch that nobody waits for, unless one is under way or would be of no use. `place`
/// is kept until its end.
pub(super) fn behind(local: &Rc<Local>, plan: Plan, outgoing: Outgoing, place: Place) {
    let cache = local.snapshot().cache.clone();
    if !matches!(plan.look_again(local, &outgoing.headers, &cache), Lookup::Absent) {
        return;
    }
    let Some((lead, beside)) = plan.lead_behind(&cache, &outgoing.headers) else { return };
    let (hand, _) = oneshot::channel();
    let task = Fetch { local: local.clone(), plan, hand, is_background: true, beside };
    local.tasks.spawn("background cache fetch", async move {
        task.run(outgoing, lead).await;
        drop(place);
    });
}

/// Begins a fetch and waits for its outcome.
async fn begin(
    local: &Rc<Local>,
    plan: &Plan,
    outgoing: Outgoing,
    lead: Lead,
    beside: Option<Beside>,
    trace: &mut Trace,
) -> Result<Fetched, Error> {
    let flight = lead.flight().clone();
    let _waiting = flight.wait();
    let (hand, handed) = oneshot::channel();
    let task =
        Fetch { local: local.clone(), plan: plan.clone(), hand, is_background: false, beside };
    local.tasks.spawn("cache fetch", task.run(outgoing, lead));
    // The task always hands something over, unless it panics.
    let Ok(handed) = handed.await else { return plan.stand_in_or(Kind::Internal.into()) };
    let Handed { trace: followed, brought, private } = handed;
    *trace = followed;
    match brought {
        Brought::Shared => {}
        Brought::Earlier(fetched) => return Ok(*fetched),
        Brought::Own(response, refusal) => {
            let fault = Fault::of_status(response.status());
            let stood_in = fault.and_then(|fault| plan.stand_in(fault));
            return Ok(stood_in.unwrap_or(Fetched::Own { response: *response, refusal }));
        }
        Brought::Failed(error) => return plan.stand_in_or(error),
    }
    match flight.outcome().await {
        Outcome::Streaming(shared) => {
            let reader =
                flight.read(shared.length).ok_or_else(|| Error::new(Kind::ReaderStalled))?;
            let body = plan.read(reader);
            Ok(Fetched::Shared { shared, body, led: true, private })
        }
        Outcome::Confirmed { entry, .. } => {
            let status = StatusCode::NOT_MODIFIED;
            Ok(Fetched::Confirmed { entry, status, led: true, private })
        }
        // The task hands these over.
        Outcome::Found | Outcome::Overtaken(_) | Outcome::Alone(_) | Outcome::Failed(_) => {
            Err(Kind::Internal.into())
        }
    }
}

pub(super) fn plain(answer: Answer) -> Result<Response<Body>, Error> {
    match answer {
        Answer::Response(response) => Ok(response),
        // Not asked for on this way.
        Answer::Upgraded(_) => Err(Kind::BadResponse.into()),
    }
}
