//! What is doubtful about a configuration that works: what the fronts of its listeners make of it.
//!
//! Pure: from a compiled configuration, or an answer, to warnings with their places, each by a lint
//! of the [table](LINTS). A lint is only for the fronts that it is true of, so that a configuration
//! without a front has none but of its certificates. Deliberately absent: what is wrong whatever is
//! in front (`config` and `snapshot` refuse it), and how a front is set up, which we cannot see.

mod acme;
mod certificates;
mod cookies;
mod fields;
mod listener;
mod route;
mod site;
mod table;
#[cfg(test)]
mod testing;

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::cache::freshness;
use crate::cache::storable::RequestFacts;
use crate::config::diagnostics::Diagnostic;
use crate::config::model;
use crate::route::edits;
use crate::route::template::Values;
use crate::snapshot::{Route, Snapshot};
use fields::Seen;
use site::Site;
pub use table::{LINTS, Lint};

/// What is doubtful about a whole configuration.
pub fn all(snapshot: &Snapshot, now: SystemTime) -> Vec<Diagnostic> {
    let site = Site::new(snapshot, now);
    let mut found = Vec::from_iter(acme::challenge(&site));
    for spec in &site.config.listeners {
        found.extend(certificates::usable(&site, spec, None));
        found.extend(listener::lints(&site, spec));
    }
    for route in &site.config.routes {
        let on = site.listeners_of(route);
        found.extend(certificates::names(&site, route, &on, None));
        found.extend(route::lints(&site, route, &on));
    }
    without_repeats(found)
}

/// What of it concerns a request for a host (in normal form) that comes to one listener and is
/// taken by a route.
pub fn of_request(
    snapshot: &Snapshot,
    listener: &str,
    host: &str,
    route: Option<&model::Route>,
    now: SystemTime,
) -> Vec<Diagnostic> {
    let site = Site::new(snapshot, now);
    let Some(spec) = site.config.listeners.iter().find(|spec| &*spec.name == listener) else {
        return Vec::new();
    };
    let mut found = certificates::usable(&site, spec, Some(host));
    found.extend(listener::lints(&site, spec));
    if let Some(route) = route {
        let on = [site.fronted(spec)];
        found.extend(certificates::names(&site, route, &on, Some(host)));
        found.extend(route::lints(&site, route, &on));
    }
    without_repeats(found)
}

/// An answer of a route as its pool gave it, and the request that it is for.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub request: RequestFacts<'a>,
    /// For the route's edits.
    pub values: Values<'a>,
}

/// What is doubtful about an answer of a route, as the front of a listener gets it.
pub fn of_answer(
    snapshot: &Snapshot,
    listener: &str,
    route: &Route,
    answer: &Answer<'_>,
    now: SystemTime,
) -> Vec<Diagnostic> {
    let site = Site::new(snapshot, now);
    let Some(spec) = site.config.listeners.iter().find(|spec| &*spec.name == listener) else {
        return Vec::new();
    };
    let front = site.fronted(spec).front;
    let Answer { status, request, values, .. } = *answer;
    let mut headers = answer.headers.clone();
    let mut found = Vec::new();
    if let Some(cache) = &route.front_cache
        && cache.tell(spec.front, request, status, &mut headers).is_err()
    {
        let what = fields::tags_too_many(front, answer.headers);
        let what = what.unwrap_or_else(|| "more with those of the route than it takes".to_owned());
        let message = format!("the answer: Cache-Tag has {what}: it is kept out of that cache");
        found.push(table::CACHE_TAGS.at(None, message, fields::FEWER_TAGS));
    }
    edits::edit(&mut headers, &route.spec.response_headers, || values);
    let place = |name: &HeaderName| site.place_of_edit(&route.spec, name);
    let is_meant = route::is_meant_to_be_stored(&route.spec) && freshness::takes_ttl(status);
    found.extend(fields::lints(&Seen {
        front,
        status,
        headers: &headers,
        is_meant_to_be_stored: is_meant,
        subject: "the answer",
        place: &place,
        now,
    }));
    found
}

/// Several routes may lead to one place.
fn without_repeats(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(found.len());
    let mut seen = std::collections::HashSet::new();
    for diagnostic in found {
        if seen.insert((diagnostic.span, diagnostic.message.clone())) {
            kept.push(diagnostic);
        }
    }
    kept
}
