//! The cache's part before a request waits: whether it takes part, what it has, and what is
//! refreshed behind an answer that is stale.

use std::sync::Arc;

use http::header::{AUTHORIZATION, RANGE};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::deadlines;
use super::deliver::Told;
use super::exchange::Exchange;
use super::fetch::{self, Plan};
use super::headers;
use super::local::Local;
use super::outgoing;
use super::target::Target;
use super::upgrade;
use crate::cache::control::RequestControl;
use crate::cache::key::Key;
use crate::cache::key_spec::Asking;
use crate::cache::reuse::{self, Reuse, StaleReason};
use crate::cache::status::{CacheStatus, FieldKind};
use crate::cache::{Entry, Lookup};
use crate::config::model::{Bypass, ClientDirectives};
use crate::cookie;
use crate::snapshot::{Backend, Passed, Route};
use crate::upstream::ClientBody;

/// How the cache takes part in a request.
#[derive(Debug)]
pub(super) enum Caching {
    /// The route does without.
    Off,
    /// The method does.
    Method,
    /// The request does; why.
    Bypass(&'static str),
    /// It is asked.
    Used,
    /// It was asked, and has nothing fresh.
    Missed(Missed),
}

/// What a request is that the cache has no fresh answer for.
#[derive(Debug)]
pub(super) struct Missed {
    key: Key,
    /// Stored, but not the answer.
    stale: Option<Arc<Entry>>,
    /// Fetch without sharing.
    alone: bool,
    pub only_if_cached: bool,
    /// What the client asks of stored responses, where that counts.
    demands: RequestControl,
}

/// What a look-up came to.
pub(super) enum Found {
    /// To be served, be it stale; then to be fetched anew if nobody does that.
    Stored {
        entry: Arc<Entry>,
        stale: Option<StaleReason>,
        refresh: Option<Missed>,
    },
    Other(Missed),
    /// What the request says in the fields that its key is made of is too long.
    NoKey,
}

/// Whether the cache takes part, by the route and the request's head.
pub(super) fn of(route: &Route, parts: &Parts, body: &ClientBody) -> Caching {
    let Some(rules) = &route.spec.cache else { return Caching::Off };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Caching::Method;
    }
    if !body.is_empty() {
        return Caching::Bypass("request-body");
    }
    if route.spec.websocket && upgrade::asked(parts).is_some() {
        return Caching::Bypass("upgrade");
    }
    if let Some(why) = bypassed(&rules.bypass, &parts.headers) {
        return Caching::Bypass(why);
    }
    if RequestControl::of(&parts.headers).no_store {
        return Caching::Bypass("no-store");
    }
    if outgoing::is_conditional_on_state(&parts.headers) {
        // RFC 9111 §4.3.2: only the origin can tell.
        return Caching::Bypass("precondition");
    }
    Caching::Used
}

/// Whether the route's own rules keep the cache out of a request; why.
fn bypassed(bypass: &Bypass, headers: &HeaderMap) -> Option<&'static str> {
    if bypass.headers.iter().any(|name| headers.contains_key(name)) {
        return Some("bypass-header");
    }
    let is_named = |name: &[u8]| {
        std::str::from_utf8(name).is_ok_and(|name| bypass.cookies.iter().any(|it| it.matches(name)))
    };
    let has_cookie =
        !bypass.cookies.is_empty() && cookie::cookies(headers).any(|(name, _)| is_named(name));
    has_cookie.then_some("bypass-cookie")
}

/// Asks the cache for an answer.
pub(super) fn look_up(
    local: &Local,
    exchange: &Exchange,
    parts: &Parts,
    target: &Target<'_>,
    pool: Option<&str>,
) -> Found {
    let cache = &exchange.snapshot.cache;
    let mut key = local.key.borrow_mut();
    let asking = Asking {
        host: &target.host,
        port: target.port,
        path: &target.path,
        query: target.query,
        scheme: headers::scheme(&exchange.connection, &parts.headers),
        pool,
        headers: &parts.headers,
    };
    let Some(route) = exchange.route() else { return Found::NoKey };
    let Some(key) = route.key.primary(&asking, &mut key, cache.hasher()) else {
        return Found::NoKey;
    };
    let mut variant = local.variant_key.borrow_mut();
    let now = exchange.started.into_std();
    let found = cache.lookup(key, || outgoing::fields(exchange, parts, target), &mut variant, now);
    let authorized = parts.headers.contains_key(AUTHORIZATION);
    let control = || RequestControl::of(&parts.headers);
    let rules = route.spec.cache.as_deref();
    let obeys = rules.is_some_and(|rules| rules.client_directives == ClientDirectives::Obey);
    let demands = if obeys { control() } else { RequestControl::default() };
    let missed = |stale, alone, demands| {
        let only_if_cached = control().only_if_cached;
        Missed { key: key.to_owned(), stale, alone, only_if_cached, demands }
    };
    let is_fresh = matches!(found, Lookup::Fresh(_));
    let entry = match found {
        Lookup::Fresh(entry) | Lookup::Stale(entry) => entry,
        Lookup::Absent => return Found::Other(missed(None, authorized, demands)),
        Lookup::Uncacheable => return Found::Other(missed(None, true, demands)),
    };
    if authorized && !entry.head.terms.for_authorized {
        // RFC 9111 §3.5, read both ways: what is not marked as shared does not answer authorized
        // requests.
        return Found::Other(missed(None, true, demands));
    }
    if is_fresh && !obeys {
        cache.note_hit(key);
        return Found::Stored { entry, stale: None, refresh: None };
    }
    match reuse::reuse(&entry, &demands, now) {
        Reuse::Fresh => Found::Stored { entry, stale: None, refresh: None },
        Reuse::Stale(reason) => {
            let begins = reason.is_refreshed() && entry.claim_refresh(now);
            let refresh = begins.then(|| missed(Some(entry.clone()), false, demands));
            Found::Stored { entry, stale: Some(reason), refresh }
        }
        Reuse::Ask => Found::Other(missed(Some(entry), false, demands)),
    }
}

/// Has what is about to be served stale fetched anew. The client's going does not end that.
pub(super) fn refresh(
    exchange: &mut Exchange,
    parts: &Parts,
    body: ClientBody,
    target: &Target<'_>,
    (index, backend, missed): (usize, Arc<Backend>, Missed),
) {
    let snapshot = exchange.snapshot.clone();
    let route = &snapshot.routes[index];
    let outgoing = outgoing::outgoing(exchange, parts, body, target, route, &backend);
    let Ok(mut outgoing) = outgoing else { return };
    // The client may have asked for the head only.
    outgoing.method = Method::GET;
    let local = exchange.local.clone();
    fetch::refresh(&local, plan(exchange, parts, route, backend, missed), outgoing);
}

/// What a fetch needs to know.
pub(super) fn plan(
    exchange: &Exchange,
    parts: &Parts,
    route: &Route,
    backend: Arc<Backend>,
    missed: Missed,
) -> Plan {
    let rules = route.spec.cache.clone().unwrap_or_default();
    let is_used_enough =
        exchange.snapshot.cache.is_used_enough(missed.key.as_ref(), rules.min_uses);
    let asking = (&parts.method, &parts.headers);
    let timeouts = &backend.spec.timeouts;
    let deadline = deadlines::whole(exchange.started, route.spec.timeout, timeouts, asking);
    Plan {
        backend,
        cache: rules,
        is_used_enough,
        compress: route.spec.compress,
        key: missed.key,
        stale: missed.stale,
        // A flight that it joined might wait for itself.
        alone: missed.alone || exchange.snapshot.cdn_loop.passed(&parts.headers) == Passed::Here,
        authorized: parts.headers.contains_key(AUTHORIZATION),
        ranged: parts.method == Method::GET && parts.headers.contains_key(RANGE),
        demands: missed.demands,
        asked: exchange.started.into_std(),
        deadline,
    }
}

/// What the cache did for a request that went past it.
pub(super) fn told(exchange: &mut Exchange, caching: &Caching) -> Option<Told<'static>> {
    let (status, kind, detail) = match caching {
        Caching::Off => return None,
        Caching::Method => (CacheStatus::Bypass, FieldKind::Method, None),
        Caching::Bypass(why) => (CacheStatus::Bypass, FieldKind::Bypass, Some(*why)),
        Caching::Used | Caching::Missed(_) => {
            (CacheStatus::Miss, FieldKind::Miss { stored: false }, None)
        }
    };
    exchange.cache = Some(status);
    Some(Told { kind, ttl: None, detail })
}
