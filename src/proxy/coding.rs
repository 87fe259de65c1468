//! Content codings on the way of a request: in which form an answer is sent.
//!
//! A stored body is sent from its rendition in the client's coding, which the first who asks makes:
//! small bodies at once, larger ones by a task of the worker while those who want it wait a moment,
//! and then get the plain form. What is not stored is coded while it passes. Everything that could
//! be coded says that it varies, the plain form included.
//!
//! That secrets and what an attacker chooses stand in one body is not looked at (BREACH): where
//! that matters, the route has `compress = false`.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::coded_body::CodedBody;
use super::deliver::Asked;
use super::encoders::{Permit, Purpose};
use super::exchange::Exchange;
use crate::body::Body;
use crate::cache::{Coded, Entry, Head, Rendition, conditional};
use crate::compress::encode::{self, SLICE_BYTES, WHOLE_BYTES_MAX};
use crate::compress::fields::Bytes;
use crate::compress::negotiate::{Accepted, normal_accept_encoding};
use crate::compress::{Coding, eligible, fields};
use crate::fields::Named;

/// Larger bodies are not waited for while their rendition is made, in bytes.
const WAIT_BYTES_MAX: u64 = 1 << 20;
/// How long a rendition is waited for.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// The form in which an answer is sent.
#[derive(Debug)]
pub(super) enum Form {
    Plain,
    /// A rendition of a stored body.
    Kept(Coding, Arc<Coded>),
    /// Coded for this client.
    Passing(Coding, Permit),
}

/// What there is for a request that a stored response answers.
#[derive(Debug)]
pub(super) enum Choice {
    Form(Form),
    /// The rendition is being made.
    Making(Coding),
}

impl Form {
    pub(super) fn coding(&self) -> Option<Coding> {
        match self {
            Self::Plain => None,
            Self::Kept(coding, _) | Self::Passing(coding, _) => Some(*coding),
        }
    }

    /// Makes the head of the plain form that of this one.
    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        match self {
            Self::Plain => {}
            Self::Kept(coding, coded) => {
                fields::describe(headers, *coding, Bytes::Kept(&coded.fields));
            }
            Self::Passing(coding, _) => fields::describe(headers, *coding, Bytes::Passing),
        }
    }

    /// The body in this form.
    pub(super) fn body(self, plain: impl FnOnce() -> Body) -> Body {
        match self {
            Self::Plain => plain(),
            Self::Kept(_, coded) => Body::stored(&coded.body),
            Self::Passing(coding, permit) => Body::stream(CodedBody::new(plain(), coding, permit)),
        }
    }
}

/// Puts a request's fields into the form in which an origin gets them: one spelling of what is
/// accepted, and conditions in the origin's own tags.
pub(super) fn translate(headers: &mut HeaderMap) {
    if let Some(normal) = normal_accept_encoding(headers) {
        headers.insert(ACCEPT_ENCODING, normal);
    }
    fields::translate_conditions(headers);
}

/// Whether this answer may be coded, and so varies.
pub(super) fn may_code(exchange: &Exchange, head: &Head) -> bool {
    head.may_code && compresses(exchange)
}

fn compresses(exchange: &Exchange) -> bool {
    exchange.route().is_some_and(|route| route.spec.compress)
}

/// The form in which a stored response answers a request, as far as it is there.
pub(super) fn choose(exchange: &Exchange, asked: &Asked<'_>, entry: &Arc<Entry>) -> Choice {
    let plain = Choice::Form(Form::Plain);
    if !may_code(exchange, &entry.head) {
        return plain;
    }
    let Some(coding) = wanted_of(asked, &entry.head) else { return plain };
    let Some(renditions) = entry.renditions(&exchange.snapshot.cache) else { return plain };
    let ready = |plain| match renditions.get(coding) {
        Rendition::Made(body) => Choice::Form(Form::Kept(coding, body)),
        Rendition::Declined | Rendition::Absent => plain,
    };
    if !matches!(renditions.get(coding), Rendition::Absent) || is_held(asked, &entry.head.fields) {
        return ready(plain);
    }
    if let Some(making) = renditions.begin(coding) {
        let cache = exchange.snapshot.cache.clone();
        let turns = &exchange.local.encoders.turns;
        if entry.body.bytes() <= SLICE_BYTES as u64 && turns.take_now() {
            making.make_now(&cache, entry);
            return ready(plain);
        }
        let Some(permit) = exchange.local.encoders.permit(Purpose::Rendition) else {
            return plain;
        };
        let entry = entry.clone();
        exchange.local.tasks.spawn("cache rendition", async move {
            making.make(&cache, &entry, &permit.ticket()).await;
            drop(permit);
        });
    }
    if entry.body.bytes() > WAIT_BYTES_MAX { plain } else { Choice::Making(coding) }
}

/// The same, after waiting for what is being made.
pub(super) async fn chosen(exchange: &Exchange, asked: &Asked<'_>, entry: &Arc<Entry>) -> Form {
    match choose(exchange, asked, entry) {
        Choice::Form(form) => form,
        Choice::Making(coding) => settled(entry, coding).await,
    }
}

/// Waits for a rendition; the plain form after a moment.
pub(super) async fn settled(entry: &Entry, coding: Coding) -> Form {
    let Some(renditions) = entry.known_renditions() else { return Form::Plain };
    let _ = tokio::time::timeout(WAIT_MAX, renditions.settled(coding)).await;
    match renditions.get(coding) {
        Rendition::Made(body) => Form::Kept(coding, body),
        Rendition::Declined | Rendition::Absent => Form::Plain,
    }
}

/// The form of an answer that is still on its way.
pub(super) fn passing(exchange: &Exchange, asked: &Asked<'_>, head: &Head) -> Form {
    if !may_code(exchange, head) || is_held(asked, &head.fields) {
        return Form::Plain;
    }
    stream(exchange, asked, &head.fields)
}

fn stream(exchange: &Exchange, asked: &Asked<'_>, headers: &impl Named) -> Form {
    let Some(coding) = wanted(asked) else { return Form::Plain };
    let purpose =
        if eligible::is_event_stream(headers) { Purpose::Events } else { Purpose::Stream };
    exchange
        .local
        .encoders
        .permit(purpose)
        .map_or(Form::Plain, |permit| Form::Passing(coding, permit))
}

/// The coding that a request is to be answered in. Ranges are of the plain form (a range of what
/// is coded anew each time would fit nothing).
fn wanted(asked: &Asked<'_>) -> Option<Coding> {
    let coding = Accepted::of(asked.headers).best()?;
    let is_plain =
        asked.headers.contains_key(RANGE) || eligible::forbids_transforming(asked.headers);
    (!is_plain).then_some(coding)
}

/// The coding that a request for a stored response is to be answered in: that of the rendition
/// which a range continues, if it names one (RFC 9110 §13.1.5).
fn wanted_of(asked: &Asked<'_>, head: &Head) -> Option<Coding> {
    if !asked.headers.contains_key(RANGE) {
        return wanted(asked);
    }
    let tag = asked.headers.get(IF_RANGE)?.as_bytes();
    let coding = fields::coding_of(tag, head.fields.text(&ETAG)?)?;
    let is_weak = tag.starts_with(b"W/");
    (!is_weak && Accepted::of(asked.headers).takes(coding)).then_some(coding)
}

fn is_held(asked: &Asked<'_>, stored: &impl Named) -> bool {
    held(asked.headers, stored, true).is_some()
}

/// Whether the client holds this response already, and under which other tag than that of the
/// plain form. `is_coded`: it may hold it in a coding.
pub(super) fn held(
    request: &HeaderMap,
    stored: &impl Named,
    is_coded: bool,
) -> Option<Option<HeaderValue>> {
    if conditional::is_not_modified(request, stored) {
        return Some(None);
    }
    if !is_coded {
        return None;
    }
    let etag = stored.text(&ETAG)?;
    fields::held_tag(request, etag, |coding| Accepted::of(request).takes(coding)).map(Some)
}

/// Whether the client holds an answer of an origin already, in whatever form.
pub(super) fn holds(exchange: &Exchange, asked: &Asked<'_>, headers: &HeaderMap) -> bool {
    held(asked.headers, headers, compresses(exchange)).is_some()
}

/// Puts an answer that is not stored into the form for this request.
pub(super) fn apply(exchange: &mut Exchange, asked: &Asked<'_>, response: &mut Response<Body>) {
    if !compresses(exchange) {
        return;
    }
    if response.status() == StatusCode::NOT_MODIFIED {
        name_held_form(asked, response.headers_mut());
        return;
    }
    if !eligible::may_code(response.status(), response.headers(), length(asked, response)) {
        return;
    }
    fields::vary(response.headers_mut());
    let form = stream(exchange, asked, response.headers());
    let Form::Passing(coding, _) = form else { return };
    exchange.coding = Some(coding);
    let body = std::mem::take(response.body_mut());
    let turns = &exchange.local.encoders.turns;
    match body {
        Body::Full(plain) if plain.len() <= WHOLE_BYTES_MAX && turns.take_now() => {
            match encode::whole(coding, &plain) {
                None => {
                    exchange.coding = None;
                    *response.body_mut() = Body::Full(plain);
                }
                Some(coded) => {
                    form.describe(response.headers_mut());
                    response.headers_mut().insert(CONTENT_LENGTH, coded.len().into());
                    *response.body_mut() = Body::Full(coded.into());
                }
            }
        }
        // An answer to HEAD.
        Body::Empty => form.describe(response.headers_mut()),
        plain => {
            form.describe(response.headers_mut());
            *response.body_mut() = form.body(|| plain);
        }
    }
}

/// The length of an answer's body, or of what it stands for.
fn length(asked: &Asked<'_>, response: &Response<Body>) -> Option<u64> {
    match asked.method {
        &Method::HEAD => response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok(),
        _ => http_body::Body::size_hint(response.body()).exact(),
    }
}

/// An origin that confirms what a client holds knows only its own tag; the client holds it under
/// ours.
fn name_held_form(asked: &Asked<'_>, headers: &mut HeaderMap) {
    let held = headers
        .get(ETAG)
        .and_then(|etag| fields::held_tag(asked.headers, etag.as_bytes(), |_| true));
    if let Some(tag) = held {
        headers.insert(ETAG, tag);
        fields::vary(headers);
    }
}
