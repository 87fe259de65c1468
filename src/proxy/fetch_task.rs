//! The task of one fetch: it asks the origin, stores what may be stored, and settles the flight.
//!
//! It belongs to the worker and outlives the client that caused it. What it asks for is an answer
//! for everybody: the client's own conditions are taken off, and those of the cache put on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_LENGTH, DATE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE,
    TRAILER,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::sync::oneshot;

use super::fetch::{Fetched, Plan, plain};
use super::follow::{Followed, judged};
use super::forward::{self, Outgoing, Trace};
use super::headers::X_REQUEST_ID;
use super::local::{Local, Place};
use crate::body::Body;
use crate::cache::control::RequestControl;
use crate::cache::policy::{self, HEADWATER_CACHE_CONTROL};
use crate::cache::reuse::{self, Fault};
use crate::cache::storable::{self, Refusal, RequestFacts, ResponseFacts};
use crate::cache::tags::{self, TAGS_MAX, Tag};
use crate::cache::{Entry, Fill, Flight, Head, Lead, Turn, Waiting, conditional, freshness};
use crate::compress::eligible;
use crate::config::model::SetCookie;
use crate::error::{Error, Kind};
use crate::fields::{self, Fields};
use crate::shutdown::Phase;
use crate::timer::TimerSlot;

const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// The task that fetches.
pub(super) struct Fetch {
    pub local: Rc<Local>,
    pub plan: Plan,
    /// Where the leader waits; where nobody does, nobody takes what is handed over.
    pub hand: oneshot::Sender<Handed>,
    /// Nobody has ever waited for it.
    pub is_background: bool,
    pub beside: Option<Beside>,
}

/// The fetch that another one is made beside.
pub(super) struct Beside {
    pub flight: Arc<Flight>,
    /// Where the one that makes it had waited.
    pub turn: Option<Turn>,
}

/// What the fetch tells its leader beside what the flight tells everybody.
#[derive(Debug)]
pub(super) struct Handed {
    pub trace: Trace,
    pub brought: Brought,
    /// Fields for the leader alone: they are not stored.
    pub private: HeaderMap,
}

/// What a fetch brought for its leader.
#[derive(Debug)]
pub(super) enum Brought {
    /// What is in the flight.
    Shared,
    Own(Box<Response<Body>>, Refusal),
    /// Another fetch was earlier.
    Earlier(Box<Fetched>),
    Failed(Error),
}

/// What the origin said, and to what.
struct Asked {
    answer: Result<Response<Body>, Error>,
    /// What it was asked to confirm.
    validating: Option<Arc<Entry>>,
    sent: Instant,
}

/// Fetches of a worker that go on though all their clients have left before there was an answer.
const ABANDONED_MAX: usize = 32;

impl Fetch {
    pub(super) async fn run(mut self, mut outgoing: Outgoing, lead: Lead) {
        let flight = lead.flight().clone();
        let beside = self.beside.take();
        let crowd = beside.as_ref().map_or(&flight, |beside| &beside.flight);
        // What the other brings is to be read from its beginning.
        let mut waiting = beside.as_ref().map(|beside| beside.flight.wait());
        let mut trace = Trace { crowd: Some(crowd.clone()), ..Trace::default() };
        let mut validating = self.condition(&mut outgoing);
        let asked = loop {
            let sent = Instant::now();
            let answer = tokio::select! {
                biased;
                answer = self.send(&outgoing, &mut trace) => answer,
                () = self.given_up(&flight, beside.is_some()) => return lead.found(),
                fetched =
                    self.outdone(&flight, beside.as_ref(), &outgoing.headers, &mut waiting) =>
                {
                    let brought = Brought::Earlier(Box::new(fetched));
                    return self.hand(Trace::default(), brought);
                }
            };
            if is_about_another(&answer, validating.as_ref()) {
                conditional::remove_conditions(&mut outgoing.headers);
                validating = None;
                continue;
            }
            break Asked { answer, validating, sent };
        };
        drop(waiting);
        let turn = beside.and_then(|beside| beside.turn);
        if has_failed(&asked.answer)
            && let Some(turn) = turn
        {
            turn.fail();
        }
        let Asked { answer, validating, sent } = asked;
        match (answer, &validating) {
            (Ok(response), Some(stale)) if response.status() == StatusCode::NOT_MODIFIED => {
                self.confirm(lead, stale, &response, &outgoing.headers, sent, trace);
            }
            (Ok(response), _) => self.take(lead, response, &outgoing, sent, trace).await,
            (Err(error), _) => self.fail(lead, error, trace),
        }
    }

    /// Makes the request one for an answer for everybody, where it may be one; what it asks the
    /// origin to confirm.
    fn condition(&self, outgoing: &mut Outgoing) -> Option<Arc<Entry>> {
        if self.plan.is_private() {
            return None;
        }
        conditional::remove_conditions(&mut outgoing.headers);
        let stale = self.plan.stale.clone();
        stale.filter(|stale| conditional::validate(&mut outgoing.headers, &stale.head.fields))
    }

    /// Waits until another fetch has brought an answer that is one for this request.
    async fn outdone(
        &self,
        flight: &Arc<Flight>,
        beside: Option<&Beside>,
        request: &HeaderMap,
        waiting: &mut Option<Waiting>,
    ) -> Fetched {
        let crowd = beside.map_or(flight, |beside| &beside.flight);
        let outcome = match beside {
            None => crowd.overtaken().await,
            Some(_) => crowd.shared().await,
        };
        let cache = self.local.snapshot().cache.clone();
        match judged(&self.plan, crowd, outcome, request, &cache).await {
            Ok(Followed::Answered(fetched)) => fetched,
            // It is another variant, or not for this request, which holds up no reader of it.
            _ => {
                waiting.take();
                std::future::pending().await
            }
        }
    }

    /// Waits until the answer is of no use before it has come. When all clients have left, a fetch
    /// that others might join goes on for what it may bring to the store, as long as few do; it
    /// holds up no drain.
    async fn given_up(&self, flight: &Flight, is_beside: bool) {
        let mut place = None;
        if !self.is_background {
            flight.deserted().await;
            let is_for_others = !self.plan.is_private() && !self.plan.alone && !is_beside;
            place = is_for_others
                .then(|| Place::take(&self.local.abandoned_fetches, ABANDONED_MAX))
                .flatten();
        }
        if self.is_background || place.is_some() {
            self.local.stop.clone().reached(Phase::Draining).await;
            // Somebody may have joined meanwhile.
            flight.deserted().await;
        }
        drop(place);
    }

    async fn send(&self, outgoing: &Outgoing, trace: &mut Trace) -> Result<Response<Body>, Error> {
        let Plan { backend, deadline, .. } = &self.plan;
        let timers = TimerSlot::default();
        let answer = forward::forward(&self.local, backend, outgoing, *deadline, &timers, trace);
        answer.await.and_then(plain)
    }

    fn hand(self, trace: Trace, brought: Brought) {
        // A leader that left takes the answer, and its connection, with it.
        let _ = self.hand.send(Handed { trace, brought, private: HeaderMap::new() });
    }

    fn fail(self, lead: Lead, error: Error, trace: Trace) {
        lead.fail(Fault::Kind(error.kind()));
        self.hand(trace, Brought::Failed(error));
    }

    /// The origin confirmed what is stored.
    fn confirm(
        self,
        lead: Lead,
        stale: &Arc<Entry>,
        response: &Response<Body>,
        request: &HeaderMap,
        sent: Instant,
        trace: Trace,
    ) {
        match confirmed(&self.local, &self.plan, stale, response.headers(), request, sent) {
            Ok(head) => {
                let mut names = storable::omitted(response.headers(), None, &self.plan.cache);
                if self.plan.cache.set_cookie != SetCookie::Store {
                    // A confirmation's cookies are for the client whose request caused it.
                    names.push(SET_COOKIE);
                }
                lead.confirm(stale, head, request);
                let private = taken(&mut response.headers().clone(), &names);
                let brought = Brought::Shared;
                let _ = self.hand.send(Handed { trace, brought, private });
            }
            Err(refusal) => {
                // What was confirmed may no longer be stored; it still answers this request.
                lead.refuse(refusal);
                self.hand(trace, Brought::Own(Box::new(stored_response(stale)), refusal));
            }
        }
    }

    /// Stores an answer and shares it, or hands it to the leader alone.
    async fn take(
        self,
        mut lead: Lead,
        response: Response<Body>,
        outgoing: &Outgoing,
        sent: Instant,
        trace: Trace,
    ) {
        let status = response.status();
        if let (Some(fault), Some(stale)) = (Fault::of_status(status), &self.plan.stale)
            && reuse::in_place_of(fault, stale, &RequestControl::default(), Instant::now())
                .is_some()
        {
            // Each of those who wait takes what is stored, if its client allows that.
            lead.fail(fault);
            return self.hand(trace, Brought::Own(Box::new(response), Refusal::Status));
        }
        let received = SystemTime::now();
        let request = RequestFacts { method: &outgoing.method, headers: &outgoing.headers };
        let facts =
            ResponseFacts { status, headers: response.headers(), own_control: None, received };
        let terms = match storable::terms(request, facts, &self.plan.cache) {
            Ok(terms) => terms,
            Err(refusal) => return self.hand_over(lead, response, refusal, trace),
        };
        let length = http_body::Body::size_hint(response.body()).exact();
        let initial_age = freshness::initial_age(response.headers(), received, sent.elapsed());
        let own_control = policy::combined(response.headers(), &HEADWATER_CACHE_CONTROL);
        let own_control = own_control.as_ref().map(fields::detached).map(Box::new);
        let mut headers = stored_headers(&response, length, received);
        let omitted = storable::omitted(response.headers(), None, &self.plan.cache);
        let private = taken(&mut headers, &omitted);
        let may_code = self.plan.compress && eligible::may_code(status, &headers, length);
        let tags = match tags(&self.local, &self.plan, &headers) {
            Ok(tags) => tags,
            Err(refusal) => return self.hand_over(lead, response, refusal, trace),
        };
        if !self.plan.is_used_enough {
            lead.pass();
        }
        let received = Instant::now();
        let head = Head {
            status,
            fields: Fields::from(&headers),
            own_control,
            terms,
            initial_age,
            received,
            may_code,
            tags,
        };
        match lead.fill(head, length, &outgoing.headers) {
            Err((lead, refusal)) => self.hand_over(lead, response, refusal, trace),
            Ok(fill) => {
                let brought = Brought::Shared;
                let _ = self.hand.send(Handed { trace, brought, private });
                pump(fill, response.into_body()).await;
            }
        }
    }

    /// The answer goes to the leader alone. That the origin fails says nothing about what it will
    /// answer once it does not, nor to others.
    fn hand_over(self, lead: Lead, response: Response<Body>, refusal: Refusal, trace: Trace) {
        if response.status().is_server_error() {
            lead.fail(Fault::Status(response.status()));
        } else {
            lead.refuse(refusal);
        }
        self.hand(trace, Brought::Own(Box::new(response), refusal));
    }
}

/// Whether a confirmation is about a representation that is not here.
fn is_about_another(
    answer: &Result<Response<Body>, Error>,
    validating: Option<&Arc<Entry>>,
) -> bool {
    let (Ok(response), Some(stored)) = (answer, validating) else { return false };
    response.status() == StatusCode::NOT_MODIFIED
        && !conditional::confirms(response.headers(), &stored.head.fields)
}

/// Whether a fetch brought nothing that is an answer to anybody else.
fn has_failed(answer: &Result<Response<Body>, Error>) -> bool {
    answer.as_ref().map_or(true, |response| response.status().is_server_error())
}

/// The head of a stored response after the origin confirmed it (RFC 9111 §4.3.4) in answer to a
/// request with these fields, sent then.
pub(super) fn confirmed(
    local: &Local,
    plan: &Plan,
    stale: &Entry,
    update: &HeaderMap,
    request: &HeaderMap,
    sent: Instant,
) -> Result<Head, Refusal> {
    let received = SystemTime::now();
    let mut headers = stale.head.freshened(update, plan.cache.set_cookie == SetCookie::Store);
    if !update.contains_key(DATE) {
        headers.remove(DATE);
    }
    date(&mut headers, received);
    headers.remove(AGE);
    let own_control = policy::combined(update, &HEADWATER_CACHE_CONTROL);
    let own_control = own_control.as_ref().map(fields::detached).map(Box::new);
    let own_control = own_control.or_else(|| stale.head.own_control.clone());
    headers.remove(HEADWATER_CACHE_CONTROL);
    let initial_age = freshness::initial_age(update, received, sent.elapsed());
    let status = stale.head.status;
    let request = RequestFacts { method: &Method::GET, headers: request };
    let facts =
        ResponseFacts { status, headers: &headers, own_control: own_control.as_deref(), received };
    let terms = storable::terms(request, facts, &plan.cache)?;
    let omitted = storable::omitted(&headers, own_control.as_deref(), &plan.cache);
    taken(&mut headers, &omitted);
    let may_code = plan.compress && eligible::may_code(status, &headers, Some(stale.body.bytes()));
    let received = Instant::now();
    let tags = tags(local, plan, &headers)?;
    let fields = Fields::from(&headers);
    Ok(Head { status, fields, own_control, terms, initial_age, received, may_code, tags })
}

/// By what a response with these fields may be purged, beside its URL.
fn tags(local: &Local, plan: &Plan, headers: &HeaderMap) -> Result<Box<[Tag]>, Refusal> {
    let snapshot = local.snapshot();
    let tags = tags::tags_of(headers, &plan.cache.tags, snapshot.cache.hasher());
    if tags.len() > TAGS_MAX { Err(Refusal::TooManyTags) } else { Ok(tags.into()) }
}

/// Takes these fields off; what they were.
fn taken(headers: &mut HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut taken = HeaderMap::new();
    for name in names {
        for value in headers.get_all(name) {
            taken.append(name, value.clone());
        }
        headers.remove(name);
    }
    taken
}

fn stored_response(entry: &Entry) -> Response<Body> {
    let mut response = Response::new(Body::stored(&entry.body));
    *response.status_mut() = entry.head.status;
    *response.headers_mut() = entry.head.fields.to_map(0);
    response
}

/// The fields that are stored: all that are left after the hop, but Age, which is counted on.
fn stored_headers(
    response: &Response<Body>,
    length: Option<u64>,
    received: SystemTime,
) -> HeaderMap {
    let mut headers = response.headers().clone();
    headers.remove(HEADWATER_CACHE_CONTROL);
    // RFC 9111 §3.1: neither trailers nor what is between two proxies.
    for name in [
        AGE,
        X_REQUEST_ID,
        TRAILER,
        PROXY_AUTHENTICATE,
        PROXY_AUTHENTICATION_INFO,
        PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
    date(&mut headers, received);
    if response.status() == StatusCode::OK {
        // From the store ranges are served whatever the origin can do, unless it forbids them.
        headers.entry(ACCEPT_RANGES).or_insert(HeaderValue::from_static("bytes"));
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    headers
}

/// Adds when a message came that does not say when it was made (RFC 9110 §6.6.1).
fn date(headers: &mut HeaderMap, received: SystemTime) {
    if !headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(received))
    {
        headers.insert(DATE, now);
    }
}

/// Moves the body into the store and to its readers.
async fn pump(mut fill: Fill, mut body: Body) {
    loop {
        let next = std::future::poll_fn(|cx| {
            http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)
        });
        let frame = tokio::select! {
            biased;
            frame = next => frame,
            () = fill.deserted() => return fill.fail(Kind::ClientGone),
        };
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
