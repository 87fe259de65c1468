//! Requests: from a head to the last byte of its answer.
//!
//! [`handle`] is the program. It takes the snapshot once, checks the request, finds its route and
//! looks into the cache; a hit is answered on the spot. Everything that waits goes on in
//! `serve`. Answers leave through `deliver`, errors become statuses in `respond`, and what is
//! counted and logged is gathered in the [`Exchange`].

pub mod access_log;
mod affinity;
mod attempt;
mod attempt_h2;
mod cached;
mod caching;
pub mod client;
mod client_auth;
mod coded_body;
mod coding;
mod deadlines;
mod deliver;
pub mod encoders;
pub mod exchange;
mod fetch;
mod fetch_task;
mod follow;
mod forward;
mod forwarded;
mod fronted;
mod grpc;
mod headers;
mod hedge;
mod hex;
mod invalidate;
pub mod local;
mod log_format;
pub mod malformed;
mod mirror;
mod outgoing;
mod partial;
mod reply;
mod respond;
mod retry;
mod shortage;
mod target;
mod trial;
mod tries;
mod tunnel;
mod upgrade;
mod whole;

use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::body::Body;
use crate::cache::policy::HEADWATER_CACHE_CONTROL;
use crate::cache::status::{CacheStatus, FieldKind};
use crate::error::Kind;
use crate::route::{Query, template};
use crate::snapshot::{Action, Backend};
use crate::upstream::{ClientBody, why_failed};
use caching::{Caching, Found};
use client::ClientConnection;
use coding::Choice;
use deliver::{Asked, Told};
use exchange::Exchange;
use fetch::Fetched;
use forward::{Answer, Trace};
use local::Local;
use target::Target;
use whole::Whole;

pub use access_log::AccessLog;
pub use reply::{Reply, ReplyBody};
pub use tunnel::{ClientEnd, run_tunnel};

/// Where certificate authorities look for answers to their challenges, over http (RFC 8555 §8.3).
const ACME_CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Answers one request.
pub fn handle(
    local: &Rc<Local>,
    connection: &Rc<ClientConnection>,
    request: Request<Incoming>,
) -> Reply {
    let number = connection.begin_request();
    let (mut parts, body) = request.into_parts();
    if let Some(kind) = malformed::unmask(&mut parts) {
        return now(malformed::answer(
            Exchange::begin(local, connection, &parts),
            &parts.headers,
            kind,
        ));
    }
    let body = ClientBody::new(body);
    if !upgrade::translate(&mut parts) {
        let is_get = matches!(parts.method, Method::GET | Method::HEAD);
        return match is_get && body.is_uncertain() {
            true => begin_with_body(local, connection, parts, body, number),
            false => begin(local, connection, parts, body, number),
        };
    }
    let asked = parts.headers.clone();
    upgrade::only_tunnels(begin(local, connection, parts, body, number), asked)
}

/// Answers a GET or HEAD once it is known whether it has a body.
fn begin_with_body(
    local: &Rc<Local>,
    connection: &Rc<ClientConnection>,
    parts: Parts,
    mut body: ClientBody,
    number: u64,
) -> Reply {
    let (local, connection) = (local.clone(), connection.clone());
    Reply::Later(Box::pin(async move {
        body.begin().await;
        begin(&local, &connection, parts, body, number).response().await
    }))
}

fn begin(
    local: &Rc<Local>,
    connection: &Rc<ClientConnection>,
    parts: Parts,
    body: ClientBody,
    number: u64,
) -> Reply {
    let mut exchange = Exchange::begin(local, connection, &parts);
    let client_ip = exchange.client_ip;

    let target = match Target::of(&parts, connection, number) {
        Ok(target) => target,
        Err(kind) => return now(deliver::error(exchange, &parts.headers, kind)),
    };
    let asked = Asked { method: &parts.method, headers: &parts.headers, target: &target };
    if target.path == "*" {
        return now(deliver::response(exchange, &asked, empty(StatusCode::NO_CONTENT), None));
    }
    if is_misdirected(connection, &target) {
        return now(deliver::error(exchange, &parts.headers, Kind::Misdirected));
    }
    match client_auth::of(connection, &exchange.snapshot, &target.host) {
        client_auth::Asked::Nothing => {}
        client_auth::Asked::Met => exchange.shows_certificate = true,
        client_auth::Asked::Unmet => {
            return now(deliver::error(exchange, &parts.headers, Kind::UnprovenClient));
        }
    }
    if let Some(response) = challenge(&exchange, &target) {
        return now(deliver::response(exchange, &asked, response, None));
    }
    if let Some(port) = connection.listener.spec.https_redirect
        && headers::scheme(connection, &parts.headers) == "http"
        && !target.path.starts_with(ACME_CHALLENGES)
    {
        if target.host.is_empty() {
            let kind = Kind::BadRequest("Host is missing");
            return now(deliver::error(exchange, &parts.headers, kind));
        }
        let response = to_https(&target, port);
        return now(deliver::response(exchange, &asked, response, None));
    }

    let snapshot = exchange.snapshot.clone();
    let query = Query {
        listener: &connection.listener.spec.name,
        host: &target.host,
        path: &target.path,
        method: &parts.method,
        query: target.query,
        headers: &parts.headers,
    };
    let Some(index) = snapshot.route(&query) else {
        let methods = snapshot.methods_of(&query);
        return now(deliver::unrouted(exchange, &parts.headers, &methods));
    };
    exchange.set_route(index);
    let route = &snapshot.routes[index];
    if !route.access.admits(client_ip) {
        return now(deliver::error(exchange, &parts.headers, Kind::Forbidden));
    }
    let destination = match &route.action {
        Action::Redirect(redirect) => {
            let location = template::expand(&redirect.to, &deliver::values(&exchange, &asked));
            return now(match respond::redirect(redirect.status, &location) {
                Some(response) => deliver::response(exchange, &asked, response, None),
                None => deliver::error(exchange, &parts.headers, Kind::Internal),
            });
        }
        Action::Respond(respond) => {
            return now(deliver::response(exchange, &asked, fixed(respond), None));
        }
        Action::Forward(destination) => destination,
    };
    if announced_length(&parts).is_some_and(|length| length > route.spec.body_bytes_max) {
        return now(deliver::error(exchange, &parts.headers, Kind::BodyTooLarge));
    }

    let chosen = route.key.names_pool().then(|| destination.choose(&parts.headers));
    let chosen_name = chosen.as_ref().map(|backend| &*backend.spec.name);
    let caching = match caching::of(route, &parts, &body) {
        Caching::Used => match caching::look_up(local, &exchange, &parts, &target, chosen_name) {
            Found::Stored { entry, stale, refresh: missed } => {
                if let Some(missed) = missed {
                    let backend = chosen.unwrap_or_else(|| destination.choose(&parts.headers));
                    caching::refresh(
                        &mut exchange,
                        &parts,
                        body,
                        &target,
                        (index, backend, missed),
                    );
                }
                return match coding::choose(&exchange, &asked, &entry) {
                    Choice::Form(form) => {
                        now(cached::stored(exchange, &asked, &entry, stale, form))
                    }
                    Choice::Making(coding) => {
                        let target = target.into_owned();
                        let making = (entry, stale, coding);
                        Reply::Later(Box::pin(cached::later(exchange, parts, target, making)))
                    }
                };
            }
            Found::Other(missed) => Caching::Missed(missed),
            Found::NoKey => Caching::Bypass("key-too-long"),
        },
        other => other,
    };
    let backend = chosen.unwrap_or_else(|| destination.choose(&parts.headers));
    let job = Job { target: target.into_owned(), backend, index, caching };
    Reply::Later(Box::pin(serve(exchange, parts, body, job)))
}

fn now(response: Response<ReplyBody>) -> Reply {
    Reply::Now(Some(response))
}

/// What is left to do for a request that has to wait.
struct Job {
    target: target::Owned,
    backend: Arc<Backend>,
    /// Of the route.
    index: usize,
    caching: Caching,
}

/// Answers a request that has to wait for a backend.
async fn serve(
    mut exchange: Exchange,
    parts: Parts,
    body: ClientBody,
    job: Job,
) -> Response<ReplyBody> {
    let Job { target, backend, index, caching } = job;
    let target = target.as_target();
    let asked = Asked { method: &parts.method, headers: &parts.headers, target: &target };
    let snapshot = exchange.snapshot.clone();
    let route = &snapshot.routes[index];
    let outgoing = match outgoing::outgoing(&mut exchange, &parts, body, &target, route, &backend) {
        Ok(outgoing) => outgoing,
        Err(kind) => return deliver::error(exchange, &parts.headers, kind),
    };
    let mut trace = Trace::default();
    let local = exchange.local.clone();
    let answer = match caching {
        Caching::Missed(missed) if missed.only_if_cached => {
            exchange.cache = Some(CacheStatus::Miss);
            let detail = Some("only-if-cached");
            let told = Told { kind: FieldKind::Nothing, ttl: None, detail };
            return deliver::failure(exchange, &parts.headers, Kind::NotCached, Some(told));
        }
        Caching::Missed(missed) => {
            let plan = caching::plan(&exchange, &parts, route, backend, missed);
            let whole = Whole::of(&plan, &outgoing);
            // Boxed, as all that is rare on the way: every waiting request carries this future.
            let fetched = match parts.method {
                Method::HEAD => Box::pin(fetch::head(&local, &plan, outgoing, &mut trace)).await,
                _ => Box::pin(fetch::fetch(&local, &plan, outgoing, &mut trace)).await,
            };
            exchange.follow(trace);
            if let (Some(whole), Ok(Fetched::Own { response, .. })) = (whole, &fetched) {
                whole.fetch(&local, response);
            }
            return match fetched {
                Ok(fetched) => cached::fetched(exchange, &asked, fetched, plan.why()).await,
                Err(error) => {
                    exchange.cache = Some(CacheStatus::Miss);
                    let (kind, detail) = (plan.why().answered(None, false), error.kind().as_str());
                    let told = Told { kind, ttl: None, detail: Some(detail) };
                    failed(exchange, &asked, &error, Some(told))
                }
            };
        }
        _ => {
            let timers = exchange.connection.timers();
            let asking = (&outgoing.method, &outgoing.headers);
            let timeouts = &backend.spec.timeouts;
            let deadline = deadlines::whole(exchange.started, route.spec.timeout, timeouts, asking);
            forward::forward(&local, &backend, &outgoing, deadline, &timers, &mut trace).await
        }
    };
    exchange.follow(trace);
    let told = caching::told(&mut exchange, &caching);
    match answer {
        Ok(Answer::Response(response)) => {
            invalidate::after(&snapshot, &asked, &response);
            from_backend(exchange, &asked, response, told)
        }
        Ok(Answer::Upgraded(upgraded)) => {
            let idle_max = backend.spec.timeouts.tunnel;
            tunnel::accept(exchange, &parts, &asked, *upgraded, idle_max)
        }
        Err(error) => failed(exchange, &asked, &error, told),
    }
}

/// Sends a backend's answer; a bare status of a folder gets a page.
fn from_backend(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    mut response: Response<Body>,
    told: Option<Told<'_>>,
) -> Response<ReplyBody> {
    // It is for us.
    response.headers_mut().remove(HEADWATER_CACHE_CONTROL);
    let bare = response.status().is_client_error()
        && matches!(response.body(), Body::Empty)
        && exchange.endpoint.is_none();
    let mut response = if bare && asked.method != Method::HEAD {
        let (parts, _) = response.into_parts();
        let text = parts.status.canonical_reason().unwrap_or_default();
        let (id, pages) = (&exchange.request_id, exchange.pages());
        let mut page = respond::page(parts.status, text, asked.headers, id, pages);
        for (name, value) in &parts.headers {
            if *name != CONTENT_LENGTH {
                page.headers_mut().insert(name.clone(), value.clone());
            }
        }
        page
    } else {
        response
    };
    exchange.keep_client(response.headers_mut());
    deliver::response(exchange, asked, response, told)
}

fn failed(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    error: &crate::error::Error,
    told: Option<Told<'_>>,
) -> Response<ReplyBody> {
    tracing::debug!(
        %error,
        request_id = ?exchange.request_id,
        endpoint = exchange.endpoint.as_ref().map(|endpoint| &*endpoint.label),
        "request failed"
    );
    exchange.reason = why_failed(error).map(Into::into);
    deliver::failure(exchange, asked.headers, error.kind(), told)
}

/// The length that a body is announced to have.
fn announced_length(parts: &Parts) -> Option<u64> {
    parts.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// RFC 9110 §15.5.20: the connection's certificate does not cover the host, and another one of
/// this listener does.
fn is_misdirected(connection: &ClientConnection, target: &Target<'_>) -> bool {
    let sni = connection.tls.as_ref().and_then(|facts| facts.sni.as_deref());
    let (Some(sni), Some(tls)) = (sni, &connection.listener.tls) else { return false };
    *sni != *target.host && tls.certificates.misdirected(sni, &target.host)
}

fn to_https(target: &Target<'_>, port: u16) -> Response<Body> {
    let mut location = format!("https://{}", target.host);
    if port != 443 {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&target.path);
    if let Some(query) = target.query {
        location.push('?');
        location.push_str(query);
    }
    respond::redirect(StatusCode::PERMANENT_REDIRECT, &location)
        .unwrap_or_else(|| empty(StatusCode::BAD_REQUEST))
}

/// What an authority looks for that we asked for a certificate.
fn challenge(exchange: &Exchange, target: &Target<'_>) -> Option<Response<Body>> {
    let token = target.path.strip_prefix(ACME_CHALLENGES)?;
    let answer = exchange.snapshot.challenges.answer(token)?;
    let mut response = Response::new(Body::from(bytes::Bytes::copy_from_slice(answer.as_bytes())));
    let text = http::HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    Some(response)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// The answer that a route holds itself.
fn fixed(respond: &crate::config::model::Respond) -> Response<Body> {
    let mut response = Response::new(Body::from(respond.body.clone()));
    *response.status_mut() = respond.status;
    for (name, value) in &respond.headers {
        response.headers_mut().append(name.clone(), value.clone());
    }
    if !respond.body.is_empty() {
        response
            .headers_mut()
            .entry(http::header::CONTENT_TYPE)
            .or_insert_with(|| HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}
