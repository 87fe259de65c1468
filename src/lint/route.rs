//! Lints of a route: how late it answers, where it redirects to, what it caches by, and the fields
//! that it is known to answer with.

use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::fields::{self, Seen};
use super::site::{Fronted, Site};
use super::table::{DEADLINE, REDIRECT_LOOP, SET_COOKIE as COOKIES, VARY};
use crate::config::diagnostics::{Diagnostic, Span};
use crate::config::model::{
    self, Action, Front, HostPattern, Name, PathPattern, PoolSource, Section, TemplatePart,
    Variable,
};

/// How long Cloudflare waits for the head of an answer, on plans but the highest. Its documents
/// have said 100, 120 and 125 s; the shortest is safe.
const HEAD_WITHIN: Duration = Duration::from_secs(100);

pub(super) fn lints(site: &Site<'_>, route: &model::Route, on: &[Fronted<'_>]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    found.extend(redirect_loop(site, route, on));
    for front in [Front::Cloudflare, Front::CloudFront] {
        if !on.iter().any(|it| it.front == front) {
            continue;
        }
        if front == Front::Cloudflare {
            found.extend(deadlines(site, route));
            found.extend(key(site, route));
        }
        found.extend(sticky(site, route, front));
        found.extend(known_fields(site, route, front));
    }
    found
}

/// The pools of a route; none where it answers itself.
fn pools<'a>(site: &Site<'a>, route: &'a model::Route) -> Vec<&'a model::Pool> {
    let names: Vec<&Name> = match &route.action {
        Action::Pool(name) => vec![name],
        Action::Split(shares) => shares.iter().map(|share| &share.pool).collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    };
    names.into_iter().filter_map(|name| site.config.pool(name)).collect()
}

fn deadlines(site: &Site<'_>, route: &model::Route) -> Vec<Diagnostic> {
    let pools = pools(site, route).into_iter();
    let connecting = pools.filter(|pool| !matches!(pool.source, PoolSource::Files(_)));
    connecting.filter_map(|pool| deadline(site, route, pool)).collect()
}

/// The shortest of what bounds the time to the head counts, and is what to change.
fn deadline(site: &Site<'_>, route: &model::Route, pool: &model::Pool) -> Option<Diagnostic> {
    let of_route = (Section::Route, &route.name, "timeout");
    let of_pool = |key| (Section::Pool, &pool.name, key);
    let bounds = [
        (Some(pool.timeouts.first_byte), of_pool("timeouts.first_byte")),
        (pool.timeouts.total, of_pool("timeouts.total")),
        (route.timeout, of_route),
    ];
    let bounds = bounds.into_iter().filter_map(|(bound, key)| Some((bound?, key)));
    let (bound, (section, name, key)) = bounds.min_by_key(|(bound, _)| *bound)?;
    if bound <= HEAD_WITHIN {
        return None;
    }
    let subject = match section {
        Section::Route => format!("route.{name}"),
        _ => format!("pool.{name}"),
    };
    let message = format!(
        "{subject}: an answer may begin after {} s, and Cloudflare gives up after {} s with a 524",
        bound.as_secs(),
        HEAD_WITHIN.as_secs()
    );
    let help = format!(
        "write {key} = \"95s\", so that the error is ours and a stale answer may stand in; for \
         long jobs answer 202 and let clients ask (zones of the Enterprise plan may wait longer)"
    );
    Some(DEADLINE.at(site.place(section, name, key), message, help))
}

/// A route that sends requests to https under the same name, on a listener that a front asks by
/// http.
fn redirect_loop(site: &Site<'_>, route: &model::Route, on: &[Fronted<'_>]) -> Option<Diagnostic> {
    let Action::Redirect(redirect) = &route.action else { return None };
    let minds_scheme = |(name, _): &(HeaderName, _)| {
        matches!(name.as_str(), "x-forwarded-proto" | "cf-visitor" | "cloudfront-forwarded-proto")
    };
    if route.conditions.headers.iter().any(minds_scheme) || !leads_to_itself(route, redirect) {
        return None;
    }
    let listener = on.iter().find(|it| it.spec.tls.is_none() && it.front != Front::None)?;
    let Fronted { spec, front } = listener;
    let message = format!(
        "route.{}: what visitors ask by https comes by http from {} to listener.{}, and is sent to \
         https again, for ever",
        route.name,
        front.title(),
        spec.name
    );
    let help = format!(
        "write https_redirect = true in [listener.{}] in place of this route: it minds what the \
         front says of the scheme",
        spec.name
    );
    let place = site.place(Section::Route, &route.name, "redirect.to");
    Some(REDIRECT_LOOP.at(place, message, help))
}

/// Whether the target of a redirect is the same route by https.
fn leads_to_itself(route: &model::Route, redirect: &model::Redirect) -> bool {
    let parts = redirect.to.0.as_slice();
    let Some((TemplatePart::Literal(first), rest)) = parts.split_first() else { return false };
    let Some(after) = first.strip_prefix("https://") else { return false };
    let (path, rest) = match (after, rest) {
        ("", [TemplatePart::Variable(Variable::Host), rest @ ..]) => ("", rest),
        ("", _) => return false,
        (literal, rest) => {
            let (host, path) = match literal.find('/') {
                Some(at) => literal.split_at(at),
                None => (literal, ""),
            };
            let host = host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase();
            if !route.hosts.is_empty() && !route.hosts.iter().any(|it| takes(it, &host)) {
                return false;
            }
            (path, rest)
        }
    };
    let keeps_path =
        path.is_empty() && matches!(rest, [TemplatePart::Variable(Variable::Path), ..]);
    let takes_all =
        |pattern: &PathPattern| matches!(pattern, PathPattern::Prefix(it) if it.is_empty());
    keeps_path || route.paths.iter().any(takes_all)
}

fn takes(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::Wildcard(suffix) => {
            host.strip_suffix(suffix.as_str()).is_some_and(|label| label.ends_with('.'))
        }
    }
}

/// Parts of our key that Cloudflare does not know of.
fn key(site: &Site<'_>, route: &model::Route) -> Option<Diagnostic> {
    let rules = &route.cache.as_ref()?.key;
    let headers = rules.headers.iter().filter(|name| **name != ACCEPT_ENCODING);
    let mut parts: Vec<String> = headers.map(|name| format!("the header {name}")).collect();
    parts.extend(rules.cookies.iter().map(|name| format!("the cookie {name}")));
    if parts.is_empty() || fields::keeps_out(&known(site, route).headers) {
        return None;
    }
    let path = if rules.headers.iter().any(|name| *name != ACCEPT_ENCODING) {
        "cache.key.headers"
    } else {
        "cache.key.cookies"
    };
    let message = format!(
        "route.{}: our cache tells answers apart by {}, and Cloudflare's does not: it would give \
         one of them to everybody",
        route.name,
        parts.join(", ")
    );
    let help = "give the zone a cache rule for it, or keep the answers out of that cache: \
                response_headers.set = { Cloudflare-CDN-Cache-Control = \"no-store\" }";
    Some(VARY.at(site.place(Section::Route, &route.name, path), message, help))
}

/// Cookies of our own on answers that are meant to be cached.
fn sticky(site: &Site<'_>, route: &model::Route, front: Front) -> Option<Diagnostic> {
    if !is_meant_to_be_stored(route) {
        return None;
    }
    let pool = pools(site, route).into_iter().find(|pool| pool.sticky.is_some())?;
    let cookie = &pool.sticky.as_ref()?.cookie;
    let message = format!(
        "route.{}: its answers are cached, and those to new clients set the cookie {cookie} of \
         pool.{}: {}",
        route.name,
        pool.name,
        fields::of_cookies(front)
    );
    let place = site.place(Section::Route, &route.name, "cache.ttl");
    let mut found = COOKIES.at(
        place,
        message,
        "lead what is cached to a pool without `sticky`, or leave its lifetime out",
    );
    if let Some(there) = site.place(Section::Pool, &pool.name, "sticky") {
        found = found.note(there, "the cookie is set here");
    }
    Some(found)
}

/// Whether somebody has said that the answers are to be kept.
fn is_meant_to_be_stored(route: &model::Route) -> bool {
    route.cache.as_ref().is_some_and(|rules| {
        rules.ttl.is_some() || rules.ttl_force.is_some() || !rules.status_ttl.is_empty()
    })
}

/// The fields that the configuration puts on all answers of a route.
struct Known {
    headers: HeaderMap,
    /// Where those are written that are not the route's own.
    of_files: Option<Span>,
    status: StatusCode,
}

fn known(site: &Site<'_>, route: &model::Route) -> Known {
    let mut headers = HeaderMap::new();
    let mut of_files = None;
    let mut status = StatusCode::OK;
    if let Action::Respond(respond) = &route.action {
        status = respond.status;
        headers.extend(respond.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    if let [pool] = pools(site, route).as_slice()
        && let PoolSource::Files(files) = &pool.source
        && let Some(control) = &files.cache_control
    {
        headers.insert(CACHE_CONTROL, control.clone());
        of_files = site.place(Section::Pool, &pool.name, "cache_control");
    }
    let edits = &route.response_headers;
    for name in &edits.remove {
        headers.remove(name);
    }
    for (edits, replaces) in [(&edits.set, true), (&edits.add, false)] {
        for (name, template) in edits {
            if replaces {
                headers.remove(name);
            }
            // That there is a cookie is enough.
            let text = template.as_literal().or((*name == SET_COOKIE).then_some("…"));
            if let Some(Ok(value)) = text.map(HeaderValue::try_from) {
                headers.append(name.clone(), value);
            }
        }
    }
    Known { headers, of_files, status }
}

fn known_fields(site: &Site<'_>, route: &model::Route, front: Front) -> Vec<Diagnostic> {
    let Known { headers, of_files, status } = known(site, route);
    let place = |name: &HeaderName| site.place_of_edit(route, name).or(of_files);
    fields::lints(&Seen {
        front,
        status,
        headers: &headers,
        is_meant_to_be_stored: is_meant_to_be_stored(route),
        subject: &format!("route.{}", route.name),
        place: &place,
        now: site.now,
    })
}
