//! One request from its head to the end of its answer: what is known about it, and the one place
//! where that is counted and logged.
//!
//! An exchange ends when it is dropped: with the last byte of the response body, or with the
//! future of a client that left.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{REFERER, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::access_log::Record;
use super::client::{ClientConnection, Protocol};
use super::forward::Trace;
use super::grpc;
use super::headers;
use super::local::{Local, SnapshotRef};
use crate::balance::Endpoint;
use crate::cache::control::ResponseControl;
use crate::cache::status::CacheStatus;
use crate::compress::Coding;
use crate::config::model::Name;
use crate::error::Kind;
use crate::snapshot::stats::Finished;
use crate::snapshot::{ErrorPages, Route};
use crate::under_way::Era;
use crate::upstream::Upload;

/// By custom the status of a request whose client left before its answer.
const CLIENT_LEFT: u16 = 499;

/// The facts of one request.
#[derive(Debug)]
pub struct Exchange {
    pub local: Rc<Local>,
    pub connection: Rc<ClientConnection>,
    pub snapshot: SnapshotRef,
    era: Era,
    /// Index of the route; `None` before it is known or where there is none.
    route: Option<usize>,
    pub started: Instant,
    pub client_ip: IpAddr,
    pub request_id: HeaderValue,
    /// The host asks for a certificate of the client's, and is told of it.
    pub(super) shows_certificate: bool,
    /// A call of gRPC, whose client reads in trailers how it has ended.
    pub(super) is_call: bool,
    /// Only where the request will be logged.
    logged: Option<Box<Logged>>,
    pub upload: Option<Rc<Upload>>,
    pub status: Option<StatusCode>,
    pub response_bytes: u64,
    /// Sent by the client through the tunnel that this has become.
    pub tunnelled_bytes: u64,
    pub cache: Option<CacheStatus>,
    /// Into which the body was put here.
    pub coding: Option<Coding>,
    pub pool: Option<Name>,
    pub endpoint: Option<Arc<Endpoint>>,
    /// To the first byte of the endpoint's answer.
    pub upstream: Option<Duration>,
    pub attempts: u32,
    /// What keeps the client at its endpoint.
    set_cookie: Option<Box<HeaderValue>>,
    pub error: Option<Kind>,
    /// Why, in words, where there is more to say than the kind does.
    pub(super) reason: Option<Box<str>>,
}

/// What the log says of the request itself.
#[derive(Debug)]
struct Logged {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    /// The client's, as far as it is known.
    scheme: &'static str,
    /// How the front calls the request.
    front_id: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

impl Exchange {
    /// Begins with the facts that the head of a request gives.
    pub fn begin(
        local: &Rc<Local>,
        connection: &Rc<ClientConnection>,
        request: &http::request::Parts,
    ) -> Self {
        let request_id = headers::trusted_request_id(connection, &request.headers)
            .unwrap_or_else(|| local.request_id());
        let client_ip = headers::client_ip(connection, &request.headers);
        let snapshot = local.snapshot();
        let era = snapshot.under_way.enter();
        connection.listener.stats.requests_in_flight.add(1);
        let logged = snapshot.is_logging().then(|| {
            let copy = |name| request.headers.get(name).cloned();
            Box::new(Logged {
                method: request.method.clone(),
                uri: request.uri.clone(),
                host: copy(http::header::HOST),
                version: request.version,
                scheme: headers::scheme(connection, &request.headers),
                front_id: headers::front_id(connection, &request.headers),
                user_agent: copy(USER_AGENT),
                referer: copy(REFERER),
            })
        });
        Self {
            local: local.clone(),
            connection: connection.clone(),
            snapshot,
            era,
            route: None,
            started: connection.arrival(),
            client_ip,
            request_id,
            shows_certificate: false,
            is_call: connection.protocol == Protocol::H2
                && grpc::is_call(&request.method, &request.headers),
            logged,
            upload: None,
            status: None,
            response_bytes: 0,
            tunnelled_bytes: 0,
            cache: None,
            coding: None,
            pool: None,
            endpoint: None,
            upstream: None,
            attempts: 0,
            set_cookie: None,
            error: None,
            reason: None,
        }
    }

    pub fn set_route(&mut self, index: usize) {
        self.route = Some(index);
    }

    pub fn route(&self) -> Option<&Arc<Route>> {
        self.snapshot.routes.get(self.route?)
    }

    /// The client's certificate, where endpoints are to be told of it.
    pub(super) fn certificate(&self) -> Option<&HeaderValue> {
        self.shows_certificate.then(|| self.connection.certificate()).flatten()
    }

    /// The operator's own pages for errors.
    pub(super) fn pages(&self) -> Option<&ErrorPages> {
        self.route().map(|route| &route.pages)
    }

    /// Takes over what became of the request upstream.
    pub(super) fn follow(&mut self, trace: Trace) {
        self.pool = trace.pool;
        self.endpoint = trace.endpoint;
        self.upstream = trace.upstream;
        self.attempts = trace.attempts;
        self.set_cookie = trace.set_cookie;
    }

    /// Puts the cookie on that keeps the client at its endpoint. Only for an answer that nobody
    /// else gets, be it from a cache further on.
    pub(super) fn keep_client(&mut self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.set_cookie.take()
            && !may_be_shared(&ResponseControl::of(headers))
        {
            headers.append(SET_COOKIE, *cookie);
        }
    }

    fn finish(&self) {
        let now = Instant::now();
        let status = self
            .status
            .or_else(|| StatusCode::from_u16(CLIENT_LEFT).ok())
            .unwrap_or(StatusCode::BAD_REQUEST);
        let finished = Finished {
            listener_id: self.connection.listener.id,
            status,
            duration: now - self.started,
            request_bytes: self.upload.as_ref().map_or(self.tunnelled_bytes, |it| it.bytes()),
            response_bytes: self.response_bytes,
            cache: self.cache,
            coding: self.coding,
        };
        let route = self.route();
        route.map_or(&self.snapshot.unrouted, |route| &route.stats).count(&finished);
        if let Some(logged) = &self.logged {
            self.log(logged, &finished);
        }
        self.connection.listener.stats.requests_in_flight.add(-1);
        self.connection.end_request(now);
    }

    fn log(&self, logged: &Logged, finished: &Finished) {
        let access = &self.snapshot.config.log.access;
        let is_success = finished.status.as_u16() < 400 && self.error.is_none();
        if is_success && access.sample < 1.0 && self.local.rng.unit() >= access.sample {
            return;
        }
        let text = |value: &'_ Option<HeaderValue>| -> Option<Vec<u8>> {
            value.as_ref().map(|value| value.as_bytes().to_vec())
        };
        let authority =
            logged.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
        self.local.log.write(
            &access.format,
            &Record {
                client_ip: self.client_ip,
                peer_ip: self.connection.peer_ip(),
                listener: &self.connection.listener.spec.name,
                route: self.route().map_or("none", |route| &route.spec.name),
                method: logged.method.as_str(),
                scheme: logged.scheme,
                host: authority.or_else(|| text(&logged.host)),
                path: logged.uri.path(),
                query: logged.uri.query(),
                version: logged.version,
                finished,
                pool: self.pool.as_deref(),
                endpoint: self.endpoint.as_ref().map(|endpoint| &*endpoint.label),
                upstream: self.upstream,
                attempts: self.attempts,
                request_id: self.request_id.as_bytes(),
                front_id: logged.front_id.as_ref().map(HeaderValue::as_bytes),
                user_agent: logged.user_agent.as_ref().map(HeaderValue::as_bytes),
                referer: logged.referer.as_ref().map(HeaderValue::as_bytes),
                error: self.error.map(Kind::as_str),
                reason: self.reason.as_deref().or(self.error.and_then(Kind::rule)),
            },
        );
    }
}

/// Whether an answer says that it is for more than one client for a while.
fn may_be_shared(control: &ResponseControl) -> bool {
    let lasts = [control.max_age, control.s_maxage].into_iter().flatten().any(|age| age > 0);
    let is_own = control.no_store || control.private.is_whole() || control.no_cache.is_whole();
    (control.public || lasts) && !is_own
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish();
        self.snapshot.under_way.leave(self.era);
    }
}
