//! A request that the cache may answer but does not hold fresh: join the fetch that is under way,
//! or begin one.
//!
//! The fetch is a task of the worker that outlives the client that caused it. Its leader reads
//! the answer from the flight like everybody else; only an answer that may not be shared is
//! handed to it alone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_LENGTH, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::oneshot;

use super::deliver;
use super::forward::{self, Answer, Outgoing, Trace};
use super::local::Local;
use super::whole::Place;
use crate::body::Body;
use crate::cache::freshness;
use crate::cache::key::Key;
use crate::cache::storable::{self, Refusal, RequestFacts};
use crate::cache::{Cache, Entry, Flight, FlightReader, Head, Join, Lead, Lookup, Outcome, Shared};
use crate::config::model::RouteCache;
use crate::error::{Error, Kind};
use crate::snapshot::Backend;
use crate::timer::TimerSlot;

/// A request regroups by its variant at most this often before it goes alone.
const REGROUPINGS_MAX: usize = 3;

/// What the cache part of a route needs to fetch.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub backend: Arc<Backend>,
    pub cache: RouteCache,
    pub key: Key,
    /// Stored, but no longer fresh.
    pub stale: Option<Arc<Entry>>,
    /// Neither lead nor join: the answer may be for this request only.
    pub alone: bool,
    /// The client asks for a part.
    pub ranged: bool,
    pub deadline: Option<tokio::time::Instant>,
}

impl Plan {
    /// Whether the origin is asked for a part, as the client asked: nothing that is stored may be
    /// confirmed instead, and nobody else is to wait for it.
    pub(super) fn asks_for_part(&self) -> bool {
        self.ranged && self.stale.is_none()
    }

    fn join(&self, cache: &Arc<Cache>, request: &HeaderMap) -> Join {
        let key = self.key.as_ref();
        if self.alone {
            return Join::Lead(cache.lead_alone(key, request));
        }
        if !self.asks_for_part() {
            return cache.join(key, request);
        }
        cache
            .running(key, request)
            .map_or_else(|| Join::Lead(cache.lead_alone(key, request)), Join::Follow)
    }
}

/// How a request was answered.
#[derive(Debug)]
pub(super) enum Fetched {
    /// It appeared in the cache meanwhile.
    Hit(Arc<Entry>),
    /// The origin confirmed what was stored.
    Confirmed { entry: Arc<Entry>, led: bool },
    /// Read from a fetch that is stored at the same time.
    Shared { shared: Arc<Shared>, reader: FlightReader, led: bool },
    /// An answer for this request only.
    Own { response: Response<Body>, refusal: Refusal },
}

/// Answers a request through a flight.
pub(super) async fn fetch(
    local: &Rc<Local>,
    plan: &Plan,
    outgoing: Outgoing,
    trace: &mut Trace,
) -> Result<Fetched, Error> {
    let cache = local.snapshot().cache.clone();
    for _ in 0..REGROUPINGS_MAX {
        match plan.join(&cache, &outgoing.headers) {
            Join::Alone => break,
            Join::Lead(lead) => {
                // Another fetch may have ended between the lookup and the lead.
                let found = look_again(local, plan, &outgoing.headers, &cache);
                if let (Lookup::Fresh(entry), false) = (found, plan.alone) {
                    lead.found(entry.clone());
                    return Ok(Fetched::Hit(entry));
                }
                return begin(local, plan, outgoing, lead, trace).await;
            }
            Join::Follow(flight) => match followed(plan, &flight, &outgoing.headers, &cache).await?
            {
                Followed::Answered(fetched) => return Ok(fetched),
                Followed::Regroup => {}
                Followed::Alone => break,
            },
        }
    }
    if plan.asks_for_part() {
        let lead = cache.lead_alone(plan.key.as_ref(), &outgoing.headers);
        return begin(local, plan, outgoing, lead, trace).await;
    }
    let timers = TimerSlot::default();
    let answer = forward::forward(local, &plan.backend, &outgoing, plan.deadline, &timers, trace);
    let response = answer.await?;
    Ok(Fetched::Own { response: plain(response)?, refusal: Refusal::TooLarge })
}

enum Followed {
    Answered(Fetched),
    /// The answer is another variant: look for the flight of one's own.
    Regroup,
    Alone,
}

/// Waits for a flight of somebody else.
async fn followed(
    plan: &Plan,
    flight: &Arc<Flight>,
    request: &HeaderMap,
    cache: &Arc<Cache>,
) -> Result<Followed, Error> {
    let outcome = match plan.deadline {
        None => flight.outcome().await,
        Some(deadline) => tokio::time::timeout_at(deadline, flight.outcome())
            .await
            .map_err(|_| Error::new(Kind::Deadline))?,
    };
    Ok(match outcome {
        Outcome::Streaming(shared) => {
            if shared.is_other_variant(plan.key.as_ref(), request, cache.hasher()) {
                return Ok(Followed::Regroup);
            }
            // A part can be told only where the length of the whole is known.
            if plan.ranged && shared.length.is_none() && shared.head.status == StatusCode::OK {
                return Ok(Followed::Alone);
            }
            match flight.read(shared.length) {
                Some(reader) => Followed::Answered(Fetched::Shared { shared, reader, led: false }),
                None => Followed::Alone,
            }
        }
        Outcome::Stored(entry) => Followed::Answered(Fetched::Confirmed { entry, led: false }),
        Outcome::Alone(_) => Followed::Alone,
        Outcome::Failed(kind) => return Err(kind.into()),
    })
}

/// What the fetch tells its leader beside what the flight tells everybody.
struct Handed {
    trace: Trace,
    own: Option<(Response<Body>, Refusal)>,
    error: Option<Error>,
}

/// Begins a fetch and waits for its outcome.
async fn begin(
    local: &Rc<Local>,
    plan: &Plan,
    outgoing: Outgoing,
    lead: Lead,
    trace: &mut Trace,
) -> Result<Fetched, Error> {
    let flight = lead.flight().clone();
    let (hand, handed) = oneshot::channel();
    let task = Fetch { local: local.clone(), plan: plan.clone(), hand };
    local.tasks.spawn("cache fetch", task.run(outgoing, lead));
    // The task always hands something over, unless it panics.
    let handed = handed.await.map_err(|_| Error::new(Kind::Internal))?;
    *trace = handed.trace;
    if let Some(error) = handed.error {
        return Err(error);
    }
    if let Some((response, refusal)) = handed.own {
        return Ok(Fetched::Own { response, refusal });
    }
    match flight.outcome().await {
        Outcome::Streaming(shared) => {
            let reader =
                flight.read(shared.length).ok_or_else(|| Error::new(Kind::ReaderStalled))?;
            Ok(Fetched::Shared { shared, reader, led: true })
        }
        Outcome::Stored(entry) => Ok(Fetched::Confirmed { entry, led: true }),
        Outcome::Alone(_) => Err(Kind::Internal.into()),
        Outcome::Failed(kind) => Err(kind.into()),
    }
}

/// Begins a fetch that nobody waits for, unless one is under way or would be of no use. `place`
/// is kept until its end.
pub(super) fn behind(local: &Rc<Local>, plan: Plan, outgoing: Outgoing, place: Place) {
    let cache = local.snapshot().cache.clone();
    let request = &outgoing.headers;
    if !matches!(look_again(local, &plan, request, &cache), Lookup::Absent) {
        return;
    }
    let Join::Lead(lead) = cache.join(plan.key.as_ref(), request) else { return };
    let (hand, _) = oneshot::channel();
    let task = Fetch { local: local.clone(), plan, hand };
    local.tasks.spawn("background cache fetch", async move {
        task.run(outgoing, lead).await;
        drop(place);
    });
}

/// Looks a request up as it would be forwarded: another fetch may have ended since the first time.
fn look_again(local: &Local, plan: &Plan, request: &HeaderMap, cache: &Cache) -> Lookup {
    let mut buffer = local.variant_key.take();
    let found = cache.lookup(plan.key.as_ref(), || request, &mut buffer, Instant::now());
    local.variant_key.replace(buffer);
    found
}

/// The task that fetches.
struct Fetch {
    local: Rc<Local>,
    plan: Plan,
    hand: oneshot::Sender<Handed>,
}

impl Fetch {
    async fn run(self, mut outgoing: Outgoing, lead: Lead) {
        // Where the answer is for this client only, its own conditions stand.
        let is_private =
            self.plan.asks_for_part() || (self.plan.alone && self.plan.stale.is_none());
        let validating = !is_private && prepare(&mut outgoing.headers, self.plan.stale.as_deref());
        let request = outgoing.headers.clone();
        let method = outgoing.method.clone();
        let mut trace = Trace::default();
        let asked = Instant::now();
        let answer = forward::forward(
            &self.local,
            &self.plan.backend,
            &outgoing,
            self.plan.deadline,
            &TimerSlot::default(),
            &mut trace,
        )
        .await
        .and_then(plain);
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                lead.fail(error.kind());
                let _ = self.hand.send(Handed { trace, own: None, error: Some(error) });
                return;
            }
        };
        let arrival = Arrival { received: SystemTime::now(), delay: asked.elapsed() };
        if let (StatusCode::NOT_MODIFIED, true, Some(stale)) =
            (response.status(), validating, &self.plan.stale)
        {
            match confirmed(&self.plan, stale, response.headers(), &method, &request, arrival) {
                Ok(head) => {
                    lead.confirm(stale, head);
                    let _ = self.hand.send(Handed { trace, own: None, error: None });
                }
                Err(refusal) => {
                    // What was confirmed may no longer be stored; it still answers this request.
                    lead.refuse(refusal);
                    let own = Some((stored_response(stale), refusal));
                    let _ = self.hand.send(Handed { trace, own, error: None });
                }
            }
            return;
        }
        let facts = RequestFacts { method: &method, headers: &request };
        let status = response.status();
        let terms =
            storable::terms(facts, status, response.headers(), arrival.received, &self.plan.cache);
        match terms {
            Err(refusal) => self.hand_over(lead, response, refusal, trace),
            Ok(terms) => {
                let length = http_body::Body::size_hint(response.body()).exact();
                let head = Head {
                    status,
                    headers: stored_headers(status, response.headers(), length),
                    initial_age: freshness::initial_age(
                        response.headers(),
                        arrival.received,
                        arrival.delay,
                    ),
                    received: Instant::now(),
                    terms,
                };
                match lead.fill(head, length, &request) {
                    Err((lead, refusal)) => self.hand_over(lead, response, refusal, trace),
                    Ok(fill) => {
                        let _ = self.hand.send(Handed { trace, own: None, error: None });
                        pump(fill, response.into_body()).await;
                    }
                }
            }
        }
    }

    /// The answer goes to the leader alone.
    fn hand_over(self, lead: Lead, response: Response<Body>, refusal: Refusal, trace: Trace) {
        lead.refuse(refusal);
        // A leader that left takes the answer, and its connection, with it.
        let _ = self.hand.send(Handed { trace, own: Some((response, refusal)), error: None });
    }
}

/// When an answer came, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    received: SystemTime,
    delay: Duration,
}

/// Takes the conditions of the client off and puts ours on: the fetch is for everybody. Whether
/// the origin is asked to validate.
fn prepare(headers: &mut HeaderMap, stale: Option<&Entry>) -> bool {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        headers.remove(name);
    }
    let Some(stale) = stale else { return false };
    let stored = &stale.head.headers;
    let etag = stored.get(ETAG);
    let modified = stored.get(LAST_MODIFIED);
    if let Some(etag) = etag {
        headers.insert(IF_NONE_MATCH, etag.clone());
    }
    if let Some(modified) = modified {
        headers.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    etag.is_some() || modified.is_some()
}

/// The head of a stored response after a 304 confirmed it (RFC 9111 §4.3.4).
fn confirmed(
    plan: &Plan,
    stale: &Entry,
    update: &HeaderMap,
    method: &http::Method,
    request: &HeaderMap,
    arrival: Arrival,
) -> Result<Head, Refusal> {
    let mut headers = stale.head.freshened(update);
    let initial_age = freshness::initial_age(update, arrival.received, arrival.delay);
    deliver::with_room(&mut headers);
    let status = stale.head.status;
    let facts = RequestFacts { method, headers: request };
    let terms = storable::terms(facts, status, &headers, arrival.received, &plan.cache)?;
    Ok(Head { status, headers, terms, initial_age, received: Instant::now() })
}

fn stored_response(entry: &Entry) -> Response<Body> {
    let mut response = Response::new(Body::stored(&entry.body));
    *response.status_mut() = entry.head.status;
    *response.headers_mut() = entry.head.headers.clone();
    response.headers_mut().remove(AGE);
    response
}

/// The fields that are stored: all that are left after the hop, but Age, which is counted on.
fn stored_headers(status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> HeaderMap {
    let mut headers = headers.clone();
    deliver::with_room(&mut headers);
    if status == StatusCode::OK {
        // From the store ranges are served whatever the origin can do, unless it forbids them.
        headers.entry(ACCEPT_RANGES).or_insert(HeaderValue::from_static("bytes"));
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    headers
}

/// Moves the body into the store and to its readers.
async fn pump(mut fill: crate::cache::Fill, mut body: Body) {
    loop {
        let frame = std::future::poll_fn(|cx| {
            http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)
        })
        .await;
        match frame {
            None => return fill.finish(),
            Some(Err(error)) => {
                tracing::debug!(%error, "fill broken off");
                return fill.fail(error.kind());
            }
            Some(Ok(frame)) => {
                // Trailers belong to this transfer, not to what is stored.
                if let Ok(data) = frame.into_data()
                    && !fill.push(data).await
                {
                    return fill.fail(Kind::ClientGone);
                }
            }
        }
    }
}

fn plain(answer: Answer) -> Result<Response<Body>, Error> {
    match answer {
        Answer::Response(response) => Ok(response),
        // Not asked for on this way.
        Answer::Upgraded { .. } => Err(Kind::BadResponse.into()),
    }
}
