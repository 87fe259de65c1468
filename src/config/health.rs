//! `pool.health`: how endpoints are asked whether they are well.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method};

use super::address;
use super::diagnostics::{Diagnostic, Invalid, Span};
use super::edits::{self, Side};
use super::listener::TIMEOUT;
use super::model::{Health, HttpProbe, Probe, ProbeFields, StatusSet};
use super::pool::{FINAL_STATUSES, IN_A_ROW, PORT};
use super::reader::{Entry, Table};
use super::value::Value;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);
/// Fields that a probe may have of its own.
const HEADERS_MAX: usize = 32;
/// Of `body_contains`, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Of the name of a gRPC service, in bytes.
const SERVICE_BYTES_MAX: usize = 255;

/// Keys that only a probe over HTTP has.
const OF_HTTP: [&str; 4] = ["path", "method", "expect", "body_contains"];
/// Keys of every probe that sends a request.
const OF_REQUESTS: [&str; 2] = ["host", "headers"];

pub(super) fn read(table: Table<'_>) -> Option<Health> {
    let probe = probe(&table);
    let port = table.read("port", |value| value.integer(&PORT));
    let interval = table.duration("interval", Duration::from_secs(5), &INTERVAL);
    let timeout = table.duration("timeout", Duration::from_secs(2), &TIMEOUT);
    let healthy_after = table.integer("healthy_after", 2, &IN_A_ROW);
    let unhealthy_after = table.integer("unhealthy_after", 3, &IN_A_ROW);
    table.finish();
    Some(Health { probe: probe?, port, interval, timeout, healthy_after, unhealthy_after })
}

fn probe(table: &Table<'_>) -> Option<Probe> {
    let is_tcp = table.boolean("tcp", false);
    let grpc = table.value("grpc");
    let fields = fields(table);
    let (method, expect, text) = (
        table.read("method", method).unwrap_or(Method::GET),
        table.read("expect", |value| value.statuses(&FINAL_STATUSES)),
        table.read("body_contains", body_contains),
    );
    if is_tcp {
        misplaced(table, OF_HTTP.iter().chain(&OF_REQUESTS).chain(&["grpc"]), "TCP", "tcp");
        return Some(Probe::Tcp);
    }
    if let Some(grpc) = grpc {
        misplaced(table, OF_HTTP.iter(), "gRPC", "grpc");
        return service(&grpc).map(|service| Probe::Grpc { service, fields });
    }
    if let Some(value) = table.value("body_contains").filter(|_| method == Method::HEAD) {
        let misplaced = value.error("an answer to HEAD has no body");
        table.context.push(misplaced.help("leave it out, or take another method"));
    }
    let path = table.required("path", "\"/healthz\"")?.parse("a path", "\"/healthz\"", |text| {
        let path = text.parse().ok().filter(|_| text.starts_with('/') && !text.contains('#'));
        path.ok_or_else(|| {
            Invalid::new(format!("{text:?} is not a path")).help("write \"/healthz\"")
        })
    })?;
    let expect = expect.unwrap_or_else(|| StatusSet(vec![(200, 299)]));
    Some(Probe::Http(HttpProbe { method, path, fields, expect, body_contains: text }))
}

/// Reports the keys that a kind of probe has no use for.
fn misplaced<'k>(
    table: &Table<'_>,
    keys: impl Iterator<Item = &'k &'static str>,
    kind: &str,
    by: &str,
) {
    for value in keys.filter_map(|key| table.value(key)) {
        let misplaced = value.error(&format!("it has no place in a {kind} probe"));
        table.context.push(misplaced.help(format!("leave it out, or leave `{by}` out")));
    }
}

fn fields(table: &Table<'_>) -> ProbeFields {
    let host =
        table.read("host", |value| value.parse("a host", "\"app.example\"", address::authority));
    let headers = table.read("headers", |value| {
        let entries = value.table()?.entries();
        if entries.len() > HEADERS_MAX {
            value.invalid(Invalid::new(format!("there are more than {HEADERS_MAX}")));
            return None;
        }
        let mut seen = HashMap::new();
        Some(entries.into_iter().filter_map(|entry| header(entry, &mut seen)).collect())
    });
    ProbeFields { host, headers: headers.unwrap_or_default() }
}

fn header(
    Entry { key, key_span, value }: Entry<'_>,
    seen: &mut HashMap<HeaderName, Span>,
) -> Option<(HeaderName, HeaderValue)> {
    let content = value.parse("a string", "\"on\"", |text| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| Invalid::new("a header value has no line breaks or control characters"))
    });
    let report = |Invalid { message, help }: Invalid| {
        let mut diagnostic = Diagnostic::error(key_span, message);
        diagnostic.help = help;
        value.context.push(diagnostic);
    };
    let name = edits::name(key, Side::Response).and_then(|name| match name.as_str() {
        "host" => Err(Invalid::new("the header `host` of a probe is a key of its own")
            .help("write host = \"app.example\" in the probe")),
        _ if name == CONTENT_TYPE => Err(Invalid::new("a probe has no content of yours")
            .help("leave `content-type` out; that of gRPC is set")),
        _ => Ok(name),
    });
    let name = name.map_err(report).ok()?;
    if let Some(first) = seen.insert(name.clone(), key_span) {
        let twice = Diagnostic::error(key_span, format!("the header `{name}` is named twice"));
        let help = "header names do not differ by case";
        value.context.push(twice.help(help).note(first, "first named here"));
    }
    content.map(|content| (name, content))
}

fn method(value: &Value<'_>) -> Option<Method> {
    value.parse("a method", "\"GET\"", |text| {
        let method = Method::from_bytes(text.as_bytes()).ok();
        // Methods are case-sensitive: `get` would be another one.
        method
            .filter(|method| method != Method::CONNECT && text == text.to_ascii_uppercase())
            .ok_or_else(|| {
                Invalid::new(format!("{text:?} is not a method for probes"))
                    .help("write \"GET\" or \"HEAD\"")
            })
    })
}

fn body_contains(value: &Value<'_>) -> Option<String> {
    value.parse("a text", "\"ok\"", |text| {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(Invalid::new(format!("it must have 1 to {TEXT_BYTES_MAX} bytes"))
                .help("every body contains the empty text: leave the key out for that"));
        }
        Ok(text.to_owned())
    })
}

/// The empty name stands for the whole server.
fn service(value: &Value<'_>) -> Option<String> {
    value.parse("the name of a service", "\"shop.Cart\"", |text| {
        if text.len() > SERVICE_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Invalid::new(format!("{text:?} is not the name of a gRPC service")).help(
                "write its full name, \"package.Service\", or \"\" for the server as a whole",
            ));
        }
        Ok(text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn health(health: &str) -> Health {
        let text = format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\nhealth = {health}");
        config_of(&text).pools.remove(0).health.unwrap()
    }

    #[test]
    fn a_probe_is_http_or_tcp_or_grpc() {
        let http = health("{ path = \"/up?x=1\", expect = [\"200-204\", 304] }");
        assert_eq!((http.healthy_after, http.unhealthy_after), (2, 3));
        let Probe::Http(probe) = http.probe else { unreachable!("it has a path") };
        assert_eq!((probe.method, probe.path.as_str()), (Method::GET, "/up?x=1"));
        assert_eq!(probe.expect.0, [(200, 204), (304, 304)]);
        assert_eq!((probe.fields, probe.body_contains), (ProbeFields::default(), None));
        assert_eq!(health("{ tcp = true }").probe, Probe::Tcp);
        let whole = Probe::Grpc { service: String::new(), fields: ProbeFields::default() };
        assert_eq!(health("{ grpc = \"\" }").probe, whole);
    }

    #[test]
    fn a_probe_says_what_it_is_told_to() {
        let text = "{ path = \"/\", host = \"App\", headers = { X-A = \"1\", user-agent = \"me\" }, \
                    body_contains = \"all is well\" }";
        let Probe::Http(probe) = health(text).probe else { unreachable!("it has a path") };
        assert_eq!(probe.fields.host.unwrap(), "app");
        let names: Vec<_> = probe.fields.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-a", "user-agent"]);
        assert_eq!(probe.body_contains.as_deref(), Some("all is well"));
        let grpc = health("{ grpc = \"shop.Cart\", host = \"shop\", headers = { x-a = \"1\" } }");
        let Probe::Grpc { service, fields } = grpc.probe else { unreachable!("it is gRPC") };
        assert_eq!((service.as_str(), fields.headers.len()), ("shop.Cart", 1));
    }

    #[test]
    fn what_does_not_fit_is_reported() {
        for (health, message) in [
            ("{}", "`pool.app.health.path` is missing"),
            ("{ tcp = true, path = \"/\" }", "it has no place in a TCP probe"),
            ("{ tcp = true, headers = {} }", "it has no place in a TCP probe"),
            ("{ tcp = true, grpc = \"\" }", "it has no place in a TCP probe"),
            ("{ grpc = \"\", path = \"/\" }", "it has no place in a gRPC probe"),
            ("{ grpc = \"\", body_contains = \"x\" }", "it has no place in a gRPC probe"),
            ("{ grpc = \"a b\" }", "\"a b\" is not the name of a gRPC service"),
            ("{ grpc = true }", "must be the name of a service, not a boolean"),
            ("{ path = \"up\" }", "\"up\" is not a path"),
            ("{ path = \"/\", method = \"get\" }", "is not a method for probes"),
            ("{ path = \"/\", interval = \"1ms\" }", "it must be from 10ms to 1d"),
            ("{ path = \"/\", expect = [\"2xx\"] }", "no status or range of statuses"),
            ("{ path = \"/\", host = \"a b\" }", "is not a value of the Host header"),
            ("{ path = \"/\", healthy_after = 0 }", "0 is out of range"),
            ("{ path = \"/\", body_contains = \"\" }", "it must have 1 to 1024 bytes"),
            (
                "{ path = \"/\", method = \"HEAD\", body_contains = \"x\" }",
                "an answer to HEAD has no body",
            ),
            ("{ path = \"/\", headers = { Host = \"a\" } }", "write host = \"app.example\""),
            ("{ path = \"/\", headers = { te = \"a\" } }", "`te` is not for edits"),
            ("{ path = \"/\", headers = { content-type = \"a\" } }", "no content of yours"),
            ("{ path = \"/\", headers = { a = \"1\", A = \"2\" } }", "`a` is named twice"),
            ("{ path = \"/\", headers = { a = 1 } }", "must be a string, not an integer"),
            ("\"/\"", "`pool.app.health` must be a table, not a string"),
        ] {
            let text = format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\nhealth = {health}");
            let shown = diagnostics_of(&text);
            assert!(shown.contains(message), "{health}: {shown}");
        }
    }
}
