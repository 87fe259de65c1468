//! The last step of every answer: the fields that are ours, the operator's edits, and the body
//! with its exchange.

use bytes::Bytes;
use http::header::{AGE, ALLOW, CONNECTION, CONTENT_LENGTH, ETAG, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::client::Protocol;
use super::coding::{self, Form};
use super::exchange::Exchange;
use super::fronted;
use super::grpc;
use super::headers::{self, X_REQUEST_ID};
use super::partial::{self, Selected};
use super::reply::ReplyBody;
use super::respond;
use super::target::Target;
use crate::body::Body;
use crate::cache::status::{FieldKind, StatusField, push_number};
use crate::cache::storable::RequestFacts;
use crate::cache::{Head, is_of_not_modified};
use crate::compress::fields;
use crate::error::Kind;
use crate::fields::Fields;
use crate::route::template::Values;

/// Fields that an answer from the store gets beside its own: its age, our part of `Cache-Status`,
/// the id of the request, and where it is compressed or the listener has them, `Vary`,
/// `Content-Encoding`, `Strict-Transport-Security`, what a front is told, and what the route adds.
const FIELDS_ADDED: usize = 10;
/// Room for nearly every `Cache-Status` member and an age.
const STATUS_BYTES: usize = 96;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What `Cache-Status` says, where the route is cacheable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub kind: FieldKind,
    pub ttl: Option<i64>,
    pub detail: Option<&'a str>,
}

/// The facts of the request that an answer may need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub target: &'a Target<'a>,
}

/// Sends an answer that came from a backend or is our own.
pub(super) fn response(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    mut response: Response<Body>,
    told: Option<Told<'_>>,
) -> Response<ReplyBody> {
    coding::apply(&mut exchange, asked, &mut response);
    if let Some(told) = told {
        let mut text = Vec::with_capacity(STATUS_BYTES);
        let key = shown_key(&exchange, asked);
        status_field(&exchange, &told, key.as_deref()).push(&mut text);
        headers::append_member(
            response.headers_mut(),
            CACHE_STATUS,
            value(Bytes::from_owner(text)),
        );
    }
    let id = exchange.request_id.clone();
    response.headers_mut().insert(X_REQUEST_ID, id);
    finish(&mut exchange, asked, &mut response);
    let ends_in_trailers = exchange.is_call && grpc::is_typed(response.headers());
    response.map(|body| {
        let mut body = ReplyBody::new(body, exchange);
        body.set_ends_in_trailers(ends_in_trailers);
        body
    })
}

/// Sends a stored or shared answer: as a 304 where the client has it already, without its body
/// for HEAD, and of it the part that was asked for. `body` is the plain one, which `form` is made
/// of.
pub(super) fn cached(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    head: &Head,
    form: Form,
    body: impl FnOnce() -> Body,
    told: &Told<'_>,
) -> Response<ReplyBody> {
    let now = match told.kind {
        // It did not wait.
        FieldKind::Hit => exchange.started.into_std(),
        _ => std::time::Instant::now(),
    };
    let varies = coding::may_code(&exchange, head);
    let held = coding::held(asked.headers, &head.fields, varies);
    let age = head.age(now).as_secs();
    let key = shown_key(&exchange, asked);
    let texts = Texts::new(&head.fields, age, &status_field(&exchange, told, key.as_deref()));
    let (status, mut fields, body) = match held.filter(|_| head.status == StatusCode::OK) {
        Some(tag) => {
            let mut fields = head.fields.map_over(&texts.stored, FIELDS_ADDED, is_of_not_modified);
            if let Some(tag) = tag {
                fields.insert(ETAG, tag);
            }
            (StatusCode::NOT_MODIFIED, fields, Body::Empty)
        }
        None => {
            let mut fields = head.fields.map_over(&texts.stored, FIELDS_ADDED, |_| true);
            form.describe(&mut fields);
            exchange.coding = form.coding();
            if asked.method == Method::HEAD {
                (head.status, fields, Body::Empty)
            } else {
                selected(&exchange, asked, head, fields, form.body(body))
            }
        }
    };
    if varies {
        fields::vary(&mut fields);
    }
    if told.kind.is_from_store() || age > 0 {
        fields.insert(AGE, texts.age);
    }
    headers::append_member(&mut fields, CACHE_STATUS, texts.cache_status);
    fields.insert(X_REQUEST_ID, exchange.request_id.clone());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    finish(&mut exchange, asked, &mut response);
    response.map(|body| ReplyBody::new(body, exchange))
}

/// What of an answer with these fields is sent.
fn selected(
    exchange: &Exchange,
    asked: &Asked<'_>,
    head: &Head,
    fields: HeaderMap,
    body: Body,
) -> (StatusCode, HeaderMap, Body) {
    match partial::select(asked, head, &fields, body) {
        Selected::Whole(body) => (head.status, fields, body),
        Selected::Part { fields, body } => (StatusCode::PARTIAL_CONTENT, fields, body),
        Selected::Nothing { bytes } => {
            let answer = respond::unsatisfiable(
                bytes,
                asked.headers,
                &exchange.request_id,
                exchange.pages(),
            );
            let (parts, body) = answer.into_parts();
            (parts.status, parts.headers, body)
        }
    }
}

/// The values of one answer, in one allocation of its own.
struct Texts {
    /// Those that are stored.
    stored: Bytes,
    age: HeaderValue,
    cache_status: HeaderValue,
}

impl Texts {
    fn new(stored: &Fields, age: u64, field: &StatusField<'_>) -> Self {
        let stored = stored.values();
        let mut text = Vec::with_capacity(stored.len() + STATUS_BYTES);
        text.extend_from_slice(stored);
        push_number(&mut text, age);
        let split = text.len();
        field.push(&mut text);
        let all = Bytes::from_owner(text);
        Self {
            age: value(all.slice(stored.len()..split)),
            cache_status: value(all.slice(split..)),
            stored: all,
        }
    }
}

/// Of bytes that are visible ASCII.
fn value(bytes: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Sends an error page.
pub(super) fn error(
    exchange: Exchange,
    asked_headers: &HeaderMap,
    kind: Kind,
) -> Response<ReplyBody> {
    failure(exchange, asked_headers, kind, None)
}

/// Sends an error page for a request that no route takes, but would with another of `methods`.
pub(super) fn unrouted(
    exchange: Exchange,
    asked_headers: &HeaderMap,
    methods: &[Method],
) -> Response<ReplyBody> {
    if methods.is_empty() {
        return error(exchange, asked_headers, Kind::NoRoute);
    }
    let mut response = error(exchange, asked_headers, Kind::MethodNotAllowed);
    let allow: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if let Ok(allow) = HeaderValue::try_from(allow.join(", ")) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// Sends an error page for a request in which the cache may have had a part.
pub(super) fn failure(
    mut exchange: Exchange,
    asked_headers: &HeaderMap,
    kind: Kind,
    told: Option<Told<'_>>,
) -> Response<ReplyBody> {
    exchange.error = Some(kind);
    exchange.connection.count_refused(kind);
    let mut response = page(&exchange, asked_headers, kind);
    let headers = response.headers_mut();
    if let Some(told) = told {
        let mut text = Vec::with_capacity(STATUS_BYTES);
        status_field(&exchange, &told, None).push(&mut text);
        headers.insert(CACHE_STATUS, value(Bytes::from_owner(text)));
    }
    if respond::ends_connection(kind) && exchange.connection.protocol == Protocol::H1 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    secure(&exchange, asked_headers, &mut response);
    conclude(&mut exchange, &mut response);
    response.map(|body| ReplyBody::new(body, exchange))
}

/// An error, in the form that the client understands.
fn page(exchange: &Exchange, asked_headers: &HeaderMap, kind: Kind) -> Response<Body> {
    let id = &exchange.request_id;
    let mut response = match exchange.is_call {
        true => grpc::error(respond::status_of(kind), respond::explanation(kind)),
        false => respond::error(kind, asked_headers, id, exchange.pages()),
    };
    response.headers_mut().insert(X_REQUEST_ID, id.clone());
    response
}

/// Tells browsers to come by https only, on answers that went over https (RFC 6797 §7.2).
fn secure(exchange: &Exchange, asked_headers: &HeaderMap, response: &mut Response<Body>) {
    let connection = &exchange.connection;
    if let Some(hsts) = &connection.listener.hsts {
        match headers::scheme(connection, asked_headers) {
            "https" => response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone()),
            _ => response.headers_mut().remove(STRICT_TRANSPORT_SECURITY),
        };
    }
}

/// What was looked up, where the operator wants it shown.
fn shown_key(exchange: &Exchange, asked: &Asked<'_>) -> Option<String> {
    if !exchange.snapshot.config.cache.status_key {
        return None;
    }
    let Target { host, path, query, .. } = asked.target;
    let query = exchange.route().and_then(|route| route.key.query().form(*query));
    let mark = if query.is_some() { "?" } else { "" };
    Some(format!("{host}{path}{mark}{}", query.as_deref().unwrap_or_default()))
}

fn status_field<'a>(
    exchange: &'a Exchange,
    told: &Told<'a>,
    key: Option<&'a str>,
) -> StatusField<'a> {
    StatusField {
        cache: &exchange.snapshot.config.cache.name,
        kind: told.kind,
        ttl: told.ttl,
        detail: told.detail,
        key,
    }
}

/// The operator's edits, and what every answer has.
fn finish(exchange: &mut Exchange, asked: &Asked<'_>, response: &mut Response<Body>) {
    secure(exchange, asked.headers, response);
    if let Some(route) = exchange.route() {
        if let Some(cache) = &route.front_cache {
            let front = exchange.connection.listener.spec.front;
            let request = RequestFacts { method: asked.method, headers: asked.headers };
            if cache.tell(front, request, response.status(), response.headers_mut()).is_err() {
                route.stats.overtagged();
            }
        }
        let edits = &route.spec.response_headers;
        headers::edit(response.headers_mut(), edits, || values(exchange, asked));
    }
    if let Err(kind) = fronted::fit(exchange, response) {
        exchange.error = Some(kind);
        let mut page = page(exchange, asked.headers, kind);
        secure(exchange, asked.headers, &mut page);
        *response = page;
    }
    if asked.method == Method::HEAD {
        // A body would not be sent; its length still is.
        if let Some(length) = http_body::Body::size_hint(response.body()).exact()
            && length > 0
        {
            response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        *response.body_mut() = Body::Empty;
    }
    conclude(exchange, response);
}

fn conclude(exchange: &mut Exchange, response: &mut Response<Body>) {
    exchange.status = Some(response.status());
    if exchange.connection.protocol == Protocol::H1
        && exchange.connection.draining_since().is_some()
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What templates may say of this request.
pub(super) fn values<'a>(exchange: &'a Exchange, asked: &Asked<'a>) -> Values<'a> {
    Values {
        client_ip: exchange.client_ip,
        host: &asked.target.host,
        request_id: exchange.request_id.to_str().unwrap_or_default(),
        scheme: headers::scheme(&exchange.connection, asked.headers),
        path: &asked.target.path,
        query: asked.target.query,
    }
}
