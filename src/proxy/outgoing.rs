//! The request as it is sent on.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::header::{COOKIE, IF_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use http::{HeaderMap, Uri, Version};

use super::client::{Peer, Protocol};
use super::coding;
use super::deliver::Asked;
use super::exchange::Exchange;
use super::forward::{Asker, Outgoing};
use super::forwarded::{Hop, forwarded};
use super::headers;
use super::target::Target;
use super::upgrade::{self, Upgrade};
use crate::config::model;
use crate::cookie;
use crate::error::Kind;
use crate::route::rewrite;
use crate::snapshot::{Backend, BackendKind, Passed, Route};
use crate::tls::{ALPN_H1, ALPN_H2};
use crate::upstream::{ClientBody, PaceLimits, Proxied, Upload, UploadLimits};

/// The request for a backend: rewritten path, edited fields, and the body that is to follow.
pub(super) fn outgoing(
    exchange: &mut Exchange,
    parts: &Parts,
    body: ClientBody,
    target: &Target<'_>,
    route: &Route,
    backend: &Backend,
) -> Result<Outgoing, Kind> {
    if exchange.snapshot.cdn_loop.passed(&parts.headers) == Passed::InCircles {
        return Err(Kind::Loop);
    }
    let has_body = !body.is_empty();
    let mut headers = fields(exchange, parts, target);
    let upgrade = route
        .spec
        .websocket
        .then(|| Upgrade::of(parts, &mut headers, &exchange.local.rng))
        .flatten()
        // An upgrade may be ignored (RFC 9110 §7.8), and HTTP/2 has few others.
        .filter(|it| parts.version == Version::HTTP_2 || it.is_websocket() || !is_h2(backend))
        // Behind a body only what HTTP/1.1 on both sides leaves as it is.
        .filter(|it| !has_body || (parts.version == Version::HTTP_11 && !it.is_websocket()));
    if upgrade.is_none() && upgrade::extended(parts).is_some() {
        return Err(Kind::NoTunnel);
    }
    if has_body {
        let limits = upload_limits(exchange, route, backend);
        exchange.upload = Some(Upload::new(body, limits, &exchange.local.buffers));
    }
    Ok(Outgoing {
        method: parts.method.clone(),
        uri: uri(&parts.uri, target, route)?,
        headers,
        upload: exchange.upload.clone(),
        client: Some(exchange.client_ip),
        ahead_bytes_max: (route.spec.buffer && !(exchange.is_call && is_h2(backend)))
            .then_some(backend.spec.buffer.response_bytes_max),
        upgrade,
        is_call: exchange.is_call && is_h2(backend),
        asker: asker(exchange, parts, target, route),
    })
}

/// What bounds the body, and how much of it is read before there is an endpoint for it.
fn upload_limits(exchange: &Exchange, route: &Route, backend: &Backend) -> UploadLimits {
    let timeouts = &exchange.connection.listener.spec.timeouts;
    let is_call = exchange.is_call && is_h2(backend);
    let bytes_max = route.spec.body_bytes_max;
    if is_call {
        return UploadLimits {
            bytes_max,
            // It streams both ways at once, and may be silent for as long in both.
            gap_max: backend.spec.timeouts.tunnel,
            pace: PaceLimits { rate: 0, grace: timeouts.body_grace, ahead_max: timeouts.body },
            ahead_bytes_max: 0,
            is_call,
        };
    }
    UploadLimits {
        bytes_max,
        gap_max: timeouts.body,
        pace: PaceLimits {
            rate: timeouts.body_rate,
            grace: timeouts.body_grace,
            // A pause that `timeouts.body` allows is none too many after a fast beginning.
            ahead_max: timeouts.body,
        },
        ahead_bytes_max: if route.spec.buffer { backend.spec.buffer.request_bytes_max } else { 0 },
        is_call,
    }
}

/// Whether the endpoints speak HTTP/2.
fn is_h2(backend: &Backend) -> bool {
    matches!(&backend.kind, BackendKind::Balanced(it) if it.protocol == model::Protocol::H2)
}

fn asker(
    exchange: &Exchange,
    parts: &Parts,
    target: &Target<'_>,
    route: &Route,
) -> Option<Box<Asker>> {
    if !route.minds_asker {
        return None;
    }
    let cookies = if route.own_cookies.is_empty() {
        Vec::new()
    } else {
        parts.headers.get_all(COOKIE).iter().cloned().collect()
    };
    Some(Box::new(Asker {
        ip: exchange.client_ip,
        is_secure: headers::scheme(&exchange.connection, &parts.headers) == "https",
        cookies,
        proxied: route.is_proxied.then(|| proxied(exchange, target)).flatten(),
        mirror: route.mirror.clone(),
    }))
}

/// The client as the PROXY protocol tells of it; `None` if nothing is known.
fn proxied(exchange: &Exchange, target: &Target<'_>) -> Option<Proxied> {
    let connection = &exchange.connection;
    let ends = &connection.ends;
    let source = match ends.peer {
        Peer::Tcp(peer) if peer.ip().to_canonical() == exchange.client_ip => {
            SocketAddr::new(exchange.client_ip, peer.port())
        }
        Peer::Unix if ends.peer.ip() == exchange.client_ip => return None,
        // Somebody in front knows the address, and nobody the port.
        Peer::Tcp(_) | Peer::Unix => SocketAddr::new(exchange.client_ip, 0),
    };
    let announced = ends.announced.as_ref();
    let alpn = match (&connection.tls, connection.protocol) {
        (Some(_), Protocol::H2) => Some(ALPN_H2.into()),
        (Some(_), Protocol::H1) => Some(ALPN_H1.into()),
        (None, _) => announced.and_then(|announced| announced.alpn.clone()),
    };
    let asked_for = connection.tls.as_ref().and_then(|facts| facts.sni.clone());
    let asked_for = asked_for.or_else(|| announced?.authority.clone());
    let host = || (!target.host.is_empty()).then(|| Box::from(&*target.host));
    Some(Proxied {
        source,
        destination: ends.local.map(|it| SocketAddr::new(it.ip().to_canonical(), it.port())),
        alpn,
        authority: asked_for.or_else(host),
    })
}

/// The fields as they are forwarded, after the route's edits.
pub(super) fn fields(exchange: &Exchange, parts: &Parts, target: &Target<'_>) -> HeaderMap {
    let route = exchange.route();
    let hop = Hop {
        connection: &exchange.connection,
        authority: &target.authority,
        cache: route.and_then(|route| route.spec.cache.as_deref()),
        request_id: &exchange.request_id,
        certificate: exchange.certificate(),
        cdn_loop: exchange.snapshot.cdn_loop.member(),
        via: exchange.snapshot.via.hop(parts.version),
        host: route.and_then(|route| route.spec.rewrite.host.as_ref()),
        rng: &exchange.local.rng,
    };
    let mut headers = forwarded(&parts.headers, &hop);
    if let Some(route) = route {
        for name in &route.own_cookies {
            cookie::remove(&mut headers, name);
        }
        if route.spec.compress {
            coding::translate(&mut headers);
        }
        let asked = Asked { method: &parts.method, headers: &parts.headers, target };
        let values = || super::deliver::values(exchange, &asked);
        headers::edit(&mut headers, &route.spec.request_headers, values);
    }
    headers
}

/// Path and query after the route's rewriting.
fn uri(original: &Uri, target: &Target<'_>, route: &Route) -> Result<Uri, Kind> {
    let path = rewrite::apply(&route.spec.rewrite, &target.path);
    if let (Cow::Borrowed(path), None) = (&path, original.authority())
        && *path == original.path()
    {
        return Ok(original.clone());
    }
    let text = match target.query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    Uri::try_from(text).map_err(|_| Kind::BadRequest("the path cannot be forwarded"))
}

/// Whether a request depends on the state of the resource in a way that only its origin can
/// judge.
pub(super) fn is_conditional_on_state(headers: &HeaderMap) -> bool {
    [IF_MATCH, IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name))
}
