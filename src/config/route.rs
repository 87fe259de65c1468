//! `[[route]]`: which requests it takes, and what is done with them.
//!
//! Deliberately absent: which of two routes wins, and whether two tie. That needs all routes at
//! once and is decided where they are compiled.

use std::ops::RangeInclusive;
use std::sync::Arc;

use http::StatusCode;

use super::address;
use super::conditions;
use super::context::Referent;
use super::diagnostics::{Diagnostic, Invalid};
use super::edits::{self, Side};
use super::listener::TIMEOUT;
use super::model::{
    Action, Name, PathPattern, Redirect, Respond, Rewrite, Route, SpanOf, Template,
};
use super::path;
use super::reader::Table;
use super::route_access;
use super::route_cache;
use super::route_errors;
use super::route_front;
use super::sections::check_name;
use super::split;
use super::template;
use super::value::Value;

/// The label of requests that no route took, which a route may not have as its name.
const UNROUTED: &str = "none";
const BODY_BYTES: RangeInclusive<u64> = 0..=1 << 50;
const BODY_BYTES_DEFAULT: u64 = 100 << 20;
const PRIORITY: RangeInclusive<i64> = -1_000_000..=1_000_000;
const STATUS: RangeInclusive<i64> = 200..=599;
const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Keys of a route whose requests go to a pool.
const FORWARDING: [&str; 5] = ["rewrite", "mirror", "websocket", "cache", "buffer"];

/// What was read of one `[[route]]`: its name counts even when nothing else is usable.
pub(super) struct Reading {
    pub(super) name: Name,
    pub(super) name_span: SpanOf,
    /// `None` when it cannot stand in the draft, or could never match.
    pub(super) route: Option<Route>,
}

/// Reads the route with this number, counted from 1.
pub(super) fn read(number: usize, table: Table<'_>) -> Reading {
    let name_span = SpanOf(table.value("name").map_or(table.span, |value| value.span));
    let name = table.read("name", name).unwrap_or_else(|| format!("route-{number}").into());
    let route = route(name.clone(), &table);
    table.finish();
    Reading { name, name_span, route }
}

fn route(name: Name, table: &Table<'_>) -> Option<Route> {
    let hosts = patterns(table, "hosts", "\"example.com\"", address::host_pattern);
    let any_path = vec![PathPattern::Prefix(String::new())];
    let paths = patterns(table, "paths", "\"/api/*\"", path::pattern)
        .map(|paths| if paths.is_empty() { any_path } else { paths });
    let conditions = conditions::read(table);
    let listeners = table.read("listeners", listeners);
    let action = action(table);
    let rewrite = rewrite(table.table("rewrite"), paths.as_deref());
    let request_headers = edits::read(table.table("request_headers"), Side::Request);
    let response_headers = edits::read(table.table("response_headers"), Side::Response);
    let priority = table.integer("priority", 0, &PRIORITY);
    let access = route_access::read(table);
    let errors = table.read("errors", Value::table).map(route_errors::read).unwrap_or_default();
    let timeout = table.read("timeout", |value| value.duration(&TIMEOUT));
    let body_bytes_max = table.size("body_max", BODY_BYTES_DEFAULT, &BODY_BYTES);
    let buffer = table.boolean("buffer", true);
    let compress = table.boolean("compress", true);
    let websocket = table.boolean("websocket", true);
    let mirror = table.read("mirror", split::mirror);
    let mut cache = route_cache::read(table);
    let front_cache = route_front::read(table, cache.as_mut());
    // An empty list of the model means all listeners; this route has none.
    let has_none = listeners.as_ref().is_some_and(Vec::is_empty);
    if has_none || (listeners.is_none() && table.value("listeners").is_some()) {
        return None;
    }
    let action = action?;
    let forwards = matches!(action, Action::Pool(_) | Action::Split(_));
    if !forwards {
        warn_without_pool(table);
    }
    Some(Route {
        name,
        hosts: hosts?,
        paths: paths?,
        conditions: conditions?,
        listeners: listeners.unwrap_or_default(),
        priority,
        action,
        rewrite,
        request_headers,
        response_headers,
        allow: access.allow,
        deny: access.deny,
        errors,
        timeout,
        body_bytes_max,
        buffer,
        mirror: mirror.filter(|_| forwards),
        compress,
        websocket,
        cache: cache.filter(|_| forwards).map(Arc::new),
        front_cache,
        span: SpanOf(table.span),
    })
}

fn name(value: &Value<'_>) -> Option<Name> {
    value.parse("a name", "\"api\"", |text| {
        if text == UNROUTED {
            return Err(Invalid::new(format!("{text:?} is the label of requests without a route"))
                .help("take another name"));
        }
        check_name(text).map(|()| text.into())
    })
}

/// The patterns of a list, or none when it is absent. `None` when nothing is left of what was
/// written: such a route must not take everything in the draft.
fn patterns<T: PartialEq>(
    table: &Table<'_>,
    key: &'static str,
    example: &str,
    parse: impl Fn(&str) -> Result<T, Invalid>,
) -> Option<Vec<T>> {
    let Some(value) = table.value(key) else {
        return Some(Vec::new());
    };
    let patterns = value
        .non_empty_list(&format!("[{example}]"), |item| item.parse("a string", example, &parse))?;
    Some(without_repeats(&value, patterns)).filter(|patterns| !patterns.is_empty())
}

fn listeners(value: &Value<'_>) -> Option<Vec<Name>> {
    let listeners = value.list("[\"web\"]", |item| item.reference(Referent::Listener))?;
    if listeners.is_empty() {
        let warning = value.warning("with no listener, this route can never match");
        value.context.push(warning.help("leave it out to match on all listeners"));
    }
    Some(listeners)
}

/// Two spellings of one pattern would tie with each other.
fn without_repeats<T: PartialEq>(value: &Value<'_>, items: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        if kept.contains(&item) {
            let warning = value.warning("it names the same twice");
            value.context.push(warning.help("leave the second one out"));
        } else {
            kept.push(item);
        }
    }
    kept
}

fn action(table: &Table<'_>) -> Option<Action> {
    const HELP: &str = "give a route one of pool = \"app\", split = [{ pool = \"app\", weight = 1 }], \
                        redirect = { to = \"…\" } and respond = { status = 200 }";
    let (key, value) = table.exactly_one(&["pool", "split", "redirect", "respond"], HELP)?;
    match key {
        "pool" => value.reference(Referent::Pool).map(Action::Pool),
        "split" => split::split(&value).map(Action::Split),
        "redirect" => value.table().and_then(redirect).map(Action::Redirect),
        _ => value.table().map(respond).map(Action::Respond),
    }
}

fn redirect(table: Table<'_>) -> Option<Redirect> {
    const EXAMPLE: &str = "\"https://example.com{path}{query}\"";
    let to: Option<Template> = table
        .required("to", EXAMPLE)
        .and_then(|value| value.parse("a target", EXAMPLE, template::location));
    let status = table.read("status", |value| {
        let status: u16 = value.integer(&STATUS)?;
        if REDIRECT_STATUSES.contains(&status) {
            return StatusCode::from_u16(status).ok();
        }
        value.invalid(
            Invalid::new(format!("{status} is not the status of a redirect"))
                .help("write 301, 302, 303, 307 or 308"),
        );
        None
    });
    table.finish();
    Some(Redirect { to: to?, status: status.unwrap_or(StatusCode::PERMANENT_REDIRECT) })
}

fn respond(table: Table<'_>) -> Respond {
    let status = table.read("status", |value| StatusCode::from_u16(value.integer(&STATUS)?).ok());
    let status = status.unwrap_or(StatusCode::OK);
    let body = table.read("body", |value| {
        let body = value.string("\"hello\"")?;
        // RFC 9110 §15.3.5, §15.3.6 and §15.4.5.
        if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
            let code = status.as_u16();
            value.invalid(
                Invalid::new(format!("a response with status {code} has no body"))
                    .help("leave it out, or take another status"),
            );
        }
        Some(body)
    });
    let headers = edits::fixed(&table.table("headers"));
    table.finish();
    Respond { status, body: body.unwrap_or_default().into(), headers }
}

fn rewrite(table: Table<'_>, paths: Option<&[PathPattern]>) -> Rewrite {
    let prefix = |key| table.read(key, |value| value.parse("a path", "\"/api\"", path::prefix));
    let strip_prefix = prefix("strip_prefix");
    let add_prefix = prefix("add_prefix");
    let host =
        table.read("host", |value| value.parse("a host", "\"internal\"", address::authority));
    if let (Some(value), Some(strip), Some(paths)) =
        (table.value("strip_prefix"), &strip_prefix, paths)
        && !paths.iter().any(|pattern| path::can_begin_with(pattern, strip))
    {
        let warning = value.warning(&format!("no path of this route begins with {strip}"));
        value.context.push(warning.help("strip a prefix that `paths` can match"));
    }
    table.finish();
    Rewrite { strip_prefix, add_prefix, host }
}

fn warn_without_pool(table: &Table<'_>) {
    for value in FORWARDING.iter().filter_map(|key| table.value(key)) {
        let message = format!("`{}`: it has no effect without a pool", value.path);
        table.context.push(Diagnostic::warning(value.span, message).help("leave it out"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::HostPattern;
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn route(lines: &str) -> Route {
        config_of(&format!("[[route]]\npool = \"app\"\n{lines}")).routes.remove(0)
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[[route]]\npool = \"app\"\n{lines}"))
    }

    /// A route with another action; the pool has a route of its own.
    fn without_pool(lines: &str) -> String {
        format!("[[route]]\nhosts = [\"a\"]\n{lines}\n[[route]]\npool = \"app\"")
    }

    #[test]
    fn a_route_takes_hosts_and_paths() {
        let route = route("hosts = [\"A.com\", \"*.a.com\"]\npaths = [\"/a\", \"/b/*\"]");
        assert_eq!(route.hosts[0], HostPattern::Exact("a.com".to_owned()));
        assert_eq!(route.hosts[1], HostPattern::Wildcard("a.com".to_owned()));
        assert_eq!(route.paths[1], PathPattern::Prefix("/b".to_owned()));
        for (line, message) in [
            ("hosts = []", "`route.hosts`: the list is empty"),
            ("hosts = [\"a:80\"]", "it has a port"),
            ("hosts = \"a\"", "`route.hosts` must be a list, not a string"),
            ("paths = []", "`route.paths`: the list is empty"),
            ("paths = [\"/a*\"]", "c.toml:3:10: error: `route.paths`: \"/a*\": `*` may only"),
            ("paths = [\"/a\", \"/%61\"]", "warning: `route.paths`: it names the same twice"),
        ] {
            let shown = said(line);
            assert!(shown.contains(message), "{line}: {shown}");
        }
    }

    #[test]
    fn a_route_has_exactly_one_action() {
        let shown = said("respond = { status = 200 }");
        assert!(
            shown.contains("c.toml:3:11: error: `route.respond` and `pool` exclude each other"),
            "{shown}"
        );
        assert!(shown.contains("c.toml:2:8: note: `pool` is here"), "{shown}");
        let shown = diagnostics_of(&without_pool(""));
        assert!(
            shown.contains(
                "c.toml:1:1: error: [[route]] has none of `pool`, `split`, `redirect` or `respond`"
            ),
            "{shown}"
        );
    }

    #[test]
    fn a_redirect_has_a_target_and_a_status() {
        let text = without_pool("redirect = { to = \"https://b.com{path}{query}\" }");
        let config = config_of(&text);
        let Action::Redirect(redirect) = &config.routes[0].action else {
            unreachable!("a redirect was given")
        };
        assert_eq!(redirect.status, 308);
        assert_eq!(redirect.to.0.len(), 3);
        assert_eq!(config.routes[0].cache, None);
        for (redirect, message) in [
            ("{}", "`route.redirect.to` is missing"),
            ("{ to = \"b.com\" }", "\"b.com\" is not a redirect target"),
            ("{ to = \"/{uri}\" }", "unknown variable `{uri}`"),
            ("{ to = \"/\", status = 200 }", "help: write 301, 302, 303, 307 or 308"),
            ("{ to = \"/\", code = 301 }", "unknown key `code` in [route.redirect]"),
            ("\"/\"", "`route.redirect` must be a table, not a string"),
        ] {
            let shown = diagnostics_of(&without_pool(&format!("redirect = {redirect}")));
            assert!(shown.contains(message), "{redirect}: {shown}");
        }
    }

    #[test]
    fn a_response_is_checked_as_one() {
        let text =
            without_pool("respond = { status = 404, body = \"no\", headers = { X-A = \"1\" } }");
        let Action::Respond(respond) = &config_of(&text).routes[0].action else {
            unreachable!("a response was given")
        };
        assert_eq!((respond.status.as_u16(), &respond.body[..]), (404, &b"no"[..]));
        assert_eq!(respond.headers[0].0, "x-a");
        for (respond, message) in [
            ("{ status = 199 }", "it must be from 200 to 599"),
            ("{ status = 204, body = \"x\" }", "a response with status 204 has no body"),
            ("{ headers = { Content-Length = \"5\" } }", "`content-length` is not for edits"),
        ] {
            let shown = diagnostics_of(&without_pool(&format!("respond = {respond}")));
            assert!(shown.contains(message), "{respond}: {shown}");
        }
    }

    #[test]
    fn a_prefix_to_strip_must_be_one_that_can_match() {
        let rewrite = route(
            "paths = [\"/api/*\"]\nrewrite = { strip_prefix = \"/api/\", add_prefix = \"/v2\", host = \"In\" }",
        );
        assert_eq!(rewrite.rewrite.strip_prefix.as_deref(), Some("/api"));
        assert_eq!(rewrite.rewrite.host.unwrap(), "in");
        for (lines, message) in [
            (
                "paths = [\"/web/*\"]\nrewrite.strip_prefix = \"/api\"",
                "c.toml:4:24: warning: `route.rewrite.strip_prefix`: no path of this route begins with /api",
            ),
            ("rewrite.strip_prefix = \"/\"", "changes nothing"),
            ("rewrite.host = \"http://x\"", "is not a value of the Host header"),
            ("rewrite.path = \"/x\"", "unknown key `path` in [route.rewrite]"),
        ] {
            let shown = said(lines);
            assert!(shown.contains(message), "{lines}: {shown}");
        }
    }

    #[test]
    fn a_cache_has_no_effect_without_a_pool() {
        let shown = diagnostics_of(&without_pool("respond = {}\ncache = true"));
        assert!(shown.contains("warning: `route.cache`: it has no effect without a pool"));
    }

    #[test]
    fn a_route_without_listeners_is_left_out_with_a_warning() {
        let shown = said("listeners = []");
        assert_eq!(
            shown,
            "c.toml:3:13: warning: `route.listeners`: with no listener, this route can never \
             match\n  help: leave it out to match on all listeners\n"
        );
    }

    #[test]
    fn names_and_figures_are_checked() {
        for (line, message) in [
            ("name = \"none\"", "is the label of requests without a route"),
            ("name = \"\"", "must have 1 to 128 bytes"),
            ("timeout = \"0s\"", "it must be from 1ms to 1d"),
            ("body_max = 5", "for example: body_max = \"5B\""),
            ("priority = \"high\"", "must be a whole number"),
            ("compress = \"br\"", "must be true or false, not a string"),
            ("websocket = 1", "must be true or false, not an integer"),
        ] {
            let shown = said(line);
            assert!(shown.contains(message), "{line}: {shown}");
        }
        assert_eq!(route("body_max = 0").body_bytes_max, 0);
    }
}
