//! Lints of a route: how late it answers, where it redirects to, what it caches by, and the fields
//! that it is known to answer with.

use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::cookies;
use super::fields::{self, Seen};
use super::site::{Fronted, Site};
use super::table::{DEADLINE, REDIRECT_LOOP, VARY};
use crate::config::diagnostics::{Diagnostic, Span};
use crate::config::model::{
    self, Action, FilePattern, Front, HostPattern, Name, PathPattern, PoolSource, Section,
    TemplatePart, Variable,
};
use crate::front::cache::control_field;

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
        let known = known(site, route, front);
        let is_kept_out = fields::keeps_out(&known.headers);
        if front == Front::Cloudflare {
            found.extend(deadlines(site, route));
            found.extend(key(site, route).filter(|_| !is_kept_out));
        }
        if !is_kept_out {
            found.extend(cookies::sticky(site, route, front));
            found.extend(cookies::stored(site, route, front));
        }
        found.extend(known.lints(site, route, front));
    }
    found
}

/// The pools of a route; none where it answers itself.
pub(super) fn pools<'a>(site: &Site<'a>, route: &'a model::Route) -> Vec<&'a model::Pool> {
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
    let (scheme, after) = match redirect.to.0.as_slice() {
        [TemplatePart::Literal(first), after @ ..] => (first.as_str(), after),
        _ => return false,
    };
    let Some(text) = scheme.strip_prefix("https://") else { return false };
    // What follows the host: text, then parts.
    let (text, parts) = match (text, after) {
        ("", [TemplatePart::Variable(Variable::Host), TemplatePart::Literal(text), rest @ ..]) => {
            (text.as_str(), rest)
        }
        ("", [TemplatePart::Variable(Variable::Host), rest @ ..]) => ("", rest),
        ("", _) => return false,
        (literal, rest) => {
            let (host, text) = literal.split_at(literal.find([':', '/']).unwrap_or(literal.len()));
            let host = host.to_ascii_lowercase();
            if !route.hosts.is_empty() && !route.hosts.iter().any(|it| takes(it, &host)) {
                return false;
            }
            (text, rest)
        }
    };
    let path = text.strip_prefix(":443").unwrap_or(text);
    if !path.is_empty() && !path.starts_with('/') {
        return false;
    }
    let keeps_path =
        path.is_empty() && matches!(parts, [TemplatePart::Variable(Variable::Path), ..]);
    let takes_all = |it: &PathPattern| matches!(it, PathPattern::Prefix(it) if it.is_empty());
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
    if parts.is_empty() {
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

/// Whether somebody has said that the answers are to be kept.
pub(super) fn is_meant_to_be_stored(route: &model::Route) -> bool {
    let here = route.cache.as_ref().is_some_and(|rules| {
        rules.ttl.is_some() || rules.ttl_force.is_some() || !rules.status_ttl.is_empty()
    });
    here || route.front_cache.as_ref().is_some_and(|rules| rules.ttl.is_some())
}

/// The fields that the configuration puts on all answers of a route.
struct Known {
    headers: HeaderMap,
    /// Where those are written that are no edits.
    places: Vec<(HeaderName, Span)>,
    status: StatusCode,
}

fn known(site: &Site<'_>, route: &model::Route, front: Front) -> Known {
    let mut known = Known { headers: HeaderMap::new(), places: Vec::new(), status: StatusCode::OK };
    if let Action::Respond(respond) = &route.action {
        known.status = respond.status;
        let fields = respond.headers.iter().cloned();
        known.headers.extend(fields);
    }
    if let [pool] = pools(site, route).as_slice()
        && let PoolSource::Files(files) = &pool.source
        && let [(FilePattern::Any, control)] = &*files.cache_control.0
    {
        let place = site.place(Section::Pool, &pool.name, "cache_control");
        known.put(CACHE_CONTROL, control.clone(), place);
    }
    if let Some(told) = &route.front_cache {
        let place = |key| site.place(Section::Route, &route.name, key);
        let control = told.ttl.map(|ttl| format!("max-age={}", ttl.as_secs()));
        if let Some(Ok(control)) = control.map(HeaderValue::try_from) {
            known.put(control_field(front), control, place("front_cache.ttl"));
        }
        if let Ok(tags) = HeaderValue::try_from(told.tags.join(","))
            && !tags.is_empty()
        {
            known.put(fields::CACHE_TAG, tags, place("front_cache.tags"));
        }
    }
    known.edit(&route.response_headers);
    known
}

impl Known {
    fn lints(&self, site: &Site<'_>, route: &model::Route, front: Front) -> Vec<Diagnostic> {
        let place = |name: &HeaderName| {
            let other = || self.places.iter().find(|(known, _)| known == name);
            site.place_of_edit(route, name).or_else(|| other().map(|(_, place)| *place))
        };
        fields::lints(&Seen {
            front,
            status: self.status,
            headers: &self.headers,
            is_meant_to_be_stored: is_meant_to_be_stored(route),
            subject: &format!("route.{}", route.name),
            place: &place,
            now: site.now,
        })
    }

    fn put(&mut self, name: HeaderName, value: HeaderValue, place: Option<Span>) {
        self.places.extend(place.map(|place| (name.clone(), place)));
        self.headers.entry(name).or_insert(value);
    }

    fn edit(&mut self, edits: &model::HeaderEdits) {
        for name in &edits.remove {
            self.headers.remove(name);
        }
        for (edits, replaces) in [(&edits.set, true), (&edits.add, false)] {
            for (name, template) in edits {
                if replaces {
                    self.headers.remove(name);
                }
                // That there is a cookie is enough.
                let text = template.as_literal().or((*name == SET_COOKIE).then_some("…"));
                if let Some(Ok(value)) = text.map(HeaderValue::try_from) {
                    self.headers.append(name.clone(), value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    fn route(lines: &str) -> Vec<(&'static str, String)> {
        said(&format!("[[route]]\nname = \"r\"\npool = \"app\"\n{lines}"))
    }

    fn pool(lines: &str) -> Vec<(&'static str, String)> {
        said(&format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n{lines}"))
    }

    fn one(lint: &'static str, at: &str) -> Vec<(&'static str, String)> {
        vec![(lint, at.to_owned())]
    }

    #[test]
    fn the_defaults_are_fine_behind_every_front() {
        for front in ["cloudflare", "cloudfront", "alb", "gclb", "none"] {
            let listener = format!(
                "[listener.web]\nbind = \"0.0.0.0:80\"\nfront = \"{front}\"\n\
                 trusted = [\"10.0.0.0/8\"]\nhttps_redirect = true"
            );
            assert_eq!(said(&listener), [], "{front}");
        }
    }

    #[test]
    fn an_answer_begins_before_cloudflare_gives_up() {
        let slow = "timeouts.first_byte = \"101s\"";
        assert_eq!(pool(slow), one("deadline", "\"101s\""));
        assert_eq!(pool("timeouts.first_byte = \"100s\""), []);
        // The shortest bound is what counts.
        assert_eq!(pool(&format!("{slow}\ntimeouts.total = \"90s\"")), []);
        let longer = format!("{slow}\ntimeouts.total = \"1h\"");
        assert_eq!(pool(&longer), one("deadline", "\"101s\""));
        // For the head of an answer; how long its end may take is another matter.
        assert_eq!(route("timeout = \"1h\""), []);
        let both = |route: &str| {
            said(&format!(
                "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\ntimeouts.first_byte = \"10m\"\n\
                 [[route]]\npool = \"app\"\n{route}"
            ))
        };
        assert_eq!(both("timeout = \"5m\""), one("deadline", "\"5m\""));
        assert_eq!(both("timeout = \"95s\""), []);
    }

    #[test]
    fn several_routes_to_a_slow_pool_are_told_once() {
        let found = said(
            "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\ntimeouts.first_byte = \"10m\"\n\
             [[route]]\nhosts = [\"a\"]\npool = \"app\"\n[[route]]\npool = \"app\"",
        );
        assert_eq!(found, one("deadline", "\"10m\""));
    }

    fn redirect(to: &str, lines: &str) -> Vec<(&'static str, String)> {
        said(&format!("[[route]]\nredirect = {{ to = \"{to}\" }}\n{lines}"))
    }

    #[test]
    fn a_route_to_its_own_https_side_loops_behind_a_front() {
        let same = "https://{host}{path}{query}";
        assert_eq!(redirect(same, "")[0].0, "redirect-loop");
        for (to, lines) in [
            ("https://example.com{path}", ""),
            ("https://Example.com:443{path}", "hosts = [\"example.com\"]"),
            ("https://www.example.com/", "hosts = [\"*.example.com\"]"),
        ] {
            let at = format!("\"{to}\"");
            assert_eq!(redirect(to, lines), one("redirect-loop", &at), "{to}");
        }
        for (to, lines) in [
            ("https://www.example.com{path}", "hosts = [\"example.com\"]"),
            ("https://{host}/new/", "paths = [\"/old/*\"]"),
            ("https://{host}:8443{path}", "hosts = [\"example.com\"]"),
            ("http://{host}{path}", ""),
            ("/new{path}", ""),
            (same, "headers = { x-forwarded-proto = \"http\" }"),
        ] {
            assert_eq!(redirect(to, lines), [], "{to}");
        }
        let direct = "[listener.web]\nbind = \"0.0.0.0:80\"\n[[route]]\nredirect.to = \"";
        assert_eq!(said(&format!("{direct}{same}\"")), []);
    }

    #[test]
    fn a_key_that_cloudflare_does_not_know_of_is_told() {
        let headers = "cache.key.headers = [\"x-device\"]";
        assert_eq!(route(headers), one("vary", "[\"x-device\"]"));
        assert_eq!(route("cache.key.cookies = [\"lang\"]"), one("vary", "[\"lang\"]"));
        for lines in [
            "cache.key.headers = [\"accept-encoding\"]".to_owned(),
            "cache.key.query = \"none\"".to_owned(),
            format!("{headers}\nresponse_headers.set.Cloudflare-CDN-Cache-Control = \"no-store\""),
            format!("{headers}\nresponse_headers.set.Cache-Control = \"private\""),
        ] {
            assert_eq!(route(&lines), [], "{lines}");
        }
    }

    #[test]
    fn what_is_cached_sets_no_cookies() {
        let sticky = |lines: &str| {
            said(&format!(
                "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\nsticky.cookie = \"hw\"\n\
                 [[route]]\npool = \"app\"\n{lines}"
            ))
        };
        assert_eq!(sticky("cache.ttl = \"1m\""), one("set-cookie", "\"1m\""));
        assert_eq!(sticky(""), []);
        let private = "response_headers.set.cache-control = \"private\"";
        assert_eq!(sticky(&format!("cache.ttl = \"1m\"\n{private}")), []);
        let store = "cache.set_cookie = \"store\"";
        assert_eq!(route(store), one("set-cookie", "\"store\""));
        assert_eq!(route("cache.set_cookie = \"strip\""), []);
        assert_eq!(route(&format!("{store}\n{private}")), []);
        assert_eq!(route(&format!("{store}\nresponse_headers.remove = [\"set-cookie\"]")), []);
        let edit = "response_headers.add.set-cookie = \"id={request_id}\"";
        let cached = format!("{edit}\ncache.ttl = \"1m\"");
        assert_eq!(route(&cached), one("set-cookie", "\"id={request_id}\""));
        assert_eq!(route(edit), []);
        let kept_out = format!("{cached}\nresponse_headers.set.cache-control = \"private\"");
        assert_eq!(route(&kept_out), []);
    }

    #[test]
    fn fields_that_the_configuration_sets_are_looked_at_where_they_are_written() {
        let value = "\"s-maxage=60, stale-while-revalidate=9\"";
        for lines in [
            format!("response_headers.set = {{ Cache-Control = {value} }}"),
            format!("response_headers.add.cache-control = {value}"),
        ] {
            assert_eq!(route(&lines), one("stale-while-revalidate", value), "{lines}");
        }
        let respond = format!("[[route]]\nrespond.headers = {{ cache-control = {value} }}");
        assert_eq!(said(&respond), one("stale-while-revalidate", value));
        let files = format!("[pool.app]\nfiles = \"/\"\ncache_control = {value}");
        assert_eq!(said(&files), one("stale-while-revalidate", value));
        let replaced = format!(
            "{files}\n[[route]]\npool = \"app\"\nresponse_headers.set.cache-control = \"no-store\""
        );
        assert_eq!(said(&replaced), []);
        let direct = format!("[listener.web]\nbind = \"0.0.0.0:80\"\n{respond}");
        assert_eq!(said(&direct), []);
    }

    #[test]
    fn what_a_front_is_told_itself_counts_before_the_rest() {
        let told = "front_cache = { ttl = \"1m\", stale_while_revalidate = \"9s\" }\n";
        let both = "response_headers.set.cache-control = \"s-maxage=60, stale-while-revalidate=9\"";
        assert_eq!(route(both).len(), 1);
        assert_eq!(route(&format!("{told}{both}")), []);
        let cookie = "response_headers.set.set-cookie = \"a=b\"";
        assert_eq!(route(&format!("{told}{cookie}")), one("set-cookie", "\"a=b\""));
        let many: Vec<_> = (0..51).map(|number| format!("\"tag-{number}\"")).collect();
        let tags = format!("[{}]", many.join(", "));
        let tagged =
            format!("[[route]]\nname = \"r\"\npool = \"app\"\nfront_cache.tags = {tags}\n");
        assert_eq!(said(&tagged), []);
        let listener = "[listener.web]\nbind = \"0.0.0.0:80\"\nfront = \"cloudfront\"\n\
                        trusted = [\"10.0.0.0/8\"]\n";
        assert_eq!(said(&format!("{tagged}{listener}")), one("cache-tags", &tags));
    }

    #[test]
    fn only_listeners_of_the_route_count() {
        let slow = "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\ntimeouts.first_byte = \"10m\"\n\
                    [listener.a]\nbind = \"0.0.0.0:80\"\nfront = \"cloudflare\"\n\
                    [listener.b]\nbind = \"0.0.0.0:81\"\n[[route]]\npool = \"app\"\n";
        assert_eq!(said(slow).len(), 1);
        assert_eq!(said(&format!("{slow}listeners = [\"b\"]")), []);
    }
}
