//! `[pool.NAME]`: where requests go, and how the endpoints are watched and used.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::address;
use super::balancing::{self, switch};
use super::diagnostics::Invalid;
use super::diagnostics::Span;
use super::dns;
use super::health;
use super::listener::TIMEOUT;
use super::model::{
    Address, CertificateFiles, EndpointSpec, Name, Pool, PoolBuffers, PoolLimits, PoolSource,
    PoolTimeouts, Protocol, ProxyProtocol, UpstreamTls,
};
use super::pool_files;
use super::reader::Table;
use super::sections::check_name;
use super::value::Value;

const WEIGHT: RangeInclusive<i64> = 1..=1000;
pub(super) const PORT: RangeInclusive<i64> = 1..=65_535;
/// Of counters of things in a row.
pub(super) const IN_A_ROW: RangeInclusive<i64> = 1..=1000;
const CONNECTIONS: RangeInclusive<i64> = 1..=1_000_000;
/// Zero turns the queue, or the keeping of idle connections, off.
const OPTIONAL: RangeInclusive<i64> = 0..=1_000_000;
pub(super) const FINAL_STATUSES: RangeInclusive<u16> = 200..=599;

const BUFFER_BYTES: RangeInclusive<u64> = 0..=16 << 20;
const BUFFER_BYTES_DEFAULT: u64 = 64 << 10;

/// Keys of a pool that connects; a pool of files has no use for them.
const CONNECTING: [&str; 14] = [
    "protocol",
    "tls",
    "proxy_protocol",
    "balance",
    "hash_on",
    "sticky",
    "slow_start",
    "health",
    "outlier",
    "panic_below",
    "limits",
    "buffer",
    "retry",
    "keepalive",
];

/// The same among the keys of its `timeouts`.
const CONNECTING_TIMEOUTS: [&str; 3] = ["connect", "tunnel", "announce"];

/// `None` when its source is missing or wrong.
pub(super) fn read(name: Name, table: Table<'_>) -> Option<Pool> {
    let pool = pool(name, &table);
    table.finish();
    pool
}

fn pool(name: Name, table: &Table<'_>) -> Option<Pool> {
    let source = source(table);
    let protocols = [("h1", Protocol::H1), ("h2", Protocol::H2)];
    let protocol = table.read("protocol", |value| value.one_of(&protocols));
    let tls = table.read("tls", Value::table).map(|tls| upstream_tls(tls, source.as_ref()));
    let pool = Pool {
        name,
        dns: dns::rules(table, source.as_ref()),
        protocol: protocol.unwrap_or(Protocol::H1),
        tls: tls.flatten(),
        proxy_protocol: table.read("proxy_protocol", |value| {
            if protocol == Some(Protocol::H2) {
                let refused = value.error("it is about one client, and requests share connections");
                value.context.push(refused.help("leave it out, or write `protocol = \"h1\"`"));
                return None;
            }
            value.one_of(&[("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)])
        }),
        balance: balancing::balance(table),
        sticky: table.read("sticky", |value| value.table().and_then(balancing::sticky)),
        slow_start: table.duration("slow_start", Duration::ZERO, &balancing::SLOW_START),
        panic_below: table.percentage("panic_below", 0.5),
        health: table.read("health", |value| value.table().and_then(health::read)),
        outlier: switch(table, "outlier", balancing::outlier),
        limits: limits(table.table("limits"), protocol.unwrap_or(Protocol::H1)),
        retry: switch(table, "retry", balancing::retry),
        timeouts: timeouts(table.table("timeouts")),
        buffer: buffers(table.table("buffer")),
        keepalive: table.duration("keepalive", Duration::from_secs(60), &TIMEOUT),
        // Last, so that all else has been read and reported by then.
        source: source?,
    };
    if matches!(pool.source, PoolSource::Files(_)) {
        for value in CONNECTING.iter().chain(&dns::KEYS).filter_map(|key| table.value(key)) {
            let warning = value.warning("it has no effect on a pool of files");
            table.context.push(warning.help("leave it out"));
        }
        let timeouts = table.table("timeouts");
        for value in CONNECTING_TIMEOUTS.iter().filter_map(|key| timeouts.value(key)) {
            let warning = value.warning("it has no effect on a pool of files");
            table.context.push(warning.help("leave it out"));
        }
    }
    Some(pool)
}

fn source(table: &Table<'_>) -> Option<PoolSource> {
    const HELP: &str =
        "write endpoints = [\"10.0.0.1:8080\"], dns = \"app.example:8080\" or files = \"../site\"";
    let files = pool_files::Keys::of(table);
    let (key, value) = table.exactly_one(&["endpoints", "dns", "files"], HELP)?;
    if key == "files" {
        return files.origin(&value).map(PoolSource::Files);
    }
    files.refuse();
    match key {
        "dns" => dns::name(&value).map(PoolSource::Dns),
        _ => endpoints(&value).map(PoolSource::Endpoints),
    }
}

fn endpoints(value: &Value<'_>) -> Option<Vec<EndpointSpec>> {
    let mut seen: HashMap<Address, Span> = HashMap::new();
    let endpoints = value.non_empty_list("[\"10.0.0.1:8080\"]", |item| {
        let endpoint = if item.is_table() {
            item.table().and_then(endpoint)
        } else {
            let address = address_of(item)?;
            Some(EndpointSpec { address, weight: 1, backup: false, zone: None })
        }?;
        if let Some(first) = seen.insert(endpoint.address.clone(), item.span) {
            let twice = item.error(&format!("{} is named twice", endpoint.address));
            item.context.push(
                twice.help("give it a larger `weight` instead").note(first, "first named here"),
            );
            return None;
        }
        Some(endpoint)
    })?;
    Some(endpoints).filter(|endpoints| !endpoints.is_empty())
}

fn endpoint(table: Table<'_>) -> Option<EndpointSpec> {
    let address =
        table.required("address", "\"10.0.0.1:8080\"").and_then(|value| address_of(&value));
    let weight = table.integer("weight", 1, &WEIGHT);
    let backup = table.boolean("backup", false);
    let zone = table.read("zone", |value| zone(value).flatten());
    table.finish();
    Some(EndpointSpec { address: address?, weight, backup, zone })
}

/// The name of a zone; an empty one, as of a variable that is not set, is none.
pub(super) fn zone(value: &Value<'_>) -> Option<Option<Name>> {
    value.parse("the name of a zone", "\"eu-1a\"", |text| {
        if text.is_empty() {
            return Ok(None);
        }
        check_name(text).map(|()| Some(text.into()))
    })
}

fn address_of(value: &Value<'_>) -> Option<Address> {
    let parse = |text: &str| address::endpoint(text, &value.folder());
    value.parse("an address", "\"10.0.0.1:8080\"", parse)
}

fn upstream_tls(table: Table<'_>, source: Option<&PoolSource>) -> Option<UpstreamTls> {
    let sni = table.read("sni", |value| {
        value.parse("a DNS name", "\"app.example\"", |text| {
            address::dns_name(text.trim_end_matches('.'))
        })
    });
    let ca = table.read("ca", |value| value.file("\"ca.pem\""));
    let verify = table.boolean("verify", true);
    let (cert, key) = (table.value("cert"), table.value("key"));
    if let (Some(one), None) | (None, Some(one)) = (&cert, &key) {
        let alone = one.error("`cert` and `key` go together");
        table.context.push(alone.help("name both files, or neither"));
    }
    let file = |value: Option<Value<'_>>| value.and_then(|value| value.file("\"client.pem\""));
    let identity = file(cert).zip(file(key));
    let identity = identity.map(|(cert, key)| CertificateFiles { cert, key, span: table.span });
    if let Some(PoolSource::Endpoints(endpoints)) = source
        && sni.is_none()
        && let Some(unix) =
            endpoints.iter().find(|endpoint| matches!(endpoint.address, Address::Unix(_)))
    {
        let message = format!("`{}`: {} has no name to ask for", table.path, unix.address);
        let diagnostic = super::diagnostics::Diagnostic::error(table.span, message);
        table.context.push(diagnostic.help("give it one with `sni`"));
    }
    let span = table.span;
    table.finish();
    Some(UpstreamTls { sni, ca, verify, identity, span })
}

fn limits(table: Table<'_>, protocol: Protocol) -> PoolLimits {
    let mut limits = PoolLimits {
        connections_max: table.integer("connections", 1024, &CONNECTIONS),
        requests_max: table.integer("requests", 4096, &CONNECTIONS),
        tunnels_max: 0,
        idle_max: table.integer("idle", 256, &OPTIONAL),
        queue_max: table.integer("queue", 1024, &OPTIONAL),
        queue_timeout: table.duration("queue_timeout", Duration::from_secs(1), &TIMEOUT),
        client_share: client_share(&table),
    };
    let in_flight_max = limits.in_flight_max(protocol);
    limits.tunnels_max = match table.value("tunnels") {
        // So that requests have as many places.
        None => (in_flight_max / 2).max(1),
        Some(value) => {
            let tunnels = value.integer(&OPTIONAL).unwrap_or_default();
            if tunnels >= in_flight_max {
                let what = format!(
                    "silent tunnels can take all {in_flight_max} places of an endpoint, and no \
                     request gets one"
                );
                let help = "leave it out for half of them, or raise `limits.connections` and \
                            `limits.requests`";
                table.context.push(value.warning(&what).help(help));
            }
            tunnels
        }
    };
    table.finish();
    limits
}

fn client_share(table: &Table<'_>) -> f64 {
    let share = table.percentage("client_share", 0.25);
    if share > 0.0 {
        return share;
    }
    if let Some(value) = table.value("client_share") {
        value.invalid(
            Invalid::new("no client would have a place")
                .help("write a share above 0%, or \"100%\" where one client may hold them all"),
        );
    }
    1.0
}

fn buffers(table: Table<'_>) -> PoolBuffers {
    let bytes = |key| {
        usize::try_from(table.size(key, BUFFER_BYTES_DEFAULT, &BUFFER_BYTES)).unwrap_or(usize::MAX)
    };
    let buffers =
        PoolBuffers { request_bytes_max: bytes("request"), response_bytes_max: bytes("response") };
    table.finish();
    buffers
}

fn timeouts(table: Table<'_>) -> PoolTimeouts {
    let timeout = |key, seconds| table.duration(key, Duration::from_secs(seconds), &TIMEOUT);
    let timeouts = PoolTimeouts {
        connect: timeout("connect", 1),
        first_byte: timeout("first_byte", 30),
        idle: timeout("idle", 30),
        total: table.read("total", |value| value.duration(&TIMEOUT)),
        tunnel: timeout("tunnel", 60 * 60),
        announce: table.boolean("announce", false),
    };
    table.finish();
    timeouts
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, config_of, diagnostics_of};
    use super::*;

    fn pool(lines: &str) -> Pool {
        let text = format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n{lines}");
        config_of(&text).pools.remove(0)
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n{lines}"))
    }

    #[test]
    fn endpoints_are_addresses_or_tables() {
        let text =
            "[pool.app]\nendpoints = [\"a:1\", { address = \"b:2\", weight = 5, backup = true }]";
        let PoolSource::Endpoints(endpoints) = &config_of(text).pools[0].source else {
            unreachable!("endpoints were given")
        };
        assert_eq!((endpoints[0].weight, endpoints[0].backup), (1, false));
        assert_eq!((endpoints[1].weight, endpoints[1].backup), (5, true));
        for (endpoints, message) in [
            ("[]", "the list is empty"),
            ("\"a:1\"", "`pool.app.endpoints` must be a list, not a string"),
            ("[\"a\"]", "\"a\" has no port"),
            ("[80]", "must be an address, not an integer"),
            ("[{ weight = 2 }]", "`pool.app.endpoints.address` is missing"),
            ("[{ address = \"a:1\", weight = 0 }]", "it must be from 1 to 1000"),
            ("[{ address = \"a:1\", zone = \"x y\" }]", "has white space in it"),
        ] {
            let shown = diagnostics_of(&format!("[pool.app]\nendpoints = {endpoints}"));
            assert!(shown.contains(message), "{shown}");
        }
        assert_eq!(
            diagnostics_of("[pool.app]\nendpoints = [\"A:1\", \"a:1\"]"),
            "c.toml:2:21: error: `pool.app.endpoints`: a:1 is named twice\n  \
             help: give it a larger `weight` instead\n  \
             c.toml:2:14: note: first named here\n"
        );
    }

    #[test]
    fn a_pool_has_exactly_one_source() {
        let folder = Folder::new();
        let files = format!("files = {:?}", folder.path());
        assert_eq!(
            said(&files).lines().skip(1).collect::<Vec<_>>(),
            [
                "  help: write endpoints = [\"10.0.0.1:8080\"], dns = \"app.example:8080\" or files = \"../site\"",
                "  c.toml:2:13: note: `endpoints` is here",
            ]
        );
        let shown = diagnostics_of("[pool.app]");
        assert!(
            shown.contains(
                "c.toml:1:1: error: [pool.app] has none of `endpoints`, `dns` or `files`"
            ),
            "{shown}"
        );
        let shown = said("dns = \"a:1\"");
        assert!(shown.contains("`pool.app.dns` and `endpoints` exclude each other"), "{shown}");
    }

    #[test]
    fn a_pool_of_files_needs_a_folder() {
        let folder = Folder::new();
        folder.write("site/index.html", "");
        let text = "[pool.app]\nfiles = \"site\"\nfallback = \"/index.html\"\n\
                    cache_control = \"max-age=60\"\n[listener.a]\nbind = \"127.0.0.1:0\"\n\
                    [[route]]\npool = \"app\"\n";
        folder.write("c.toml", text);
        let loaded = folder.load("c.toml");
        assert_eq!(folder.shown(&loaded), "");
        let PoolSource::Files(files) = &loaded.draft.pools[0].source else {
            unreachable!("files were given")
        };
        assert_eq!(files.root, folder.path().join("site"));
        assert_eq!(files.fallback.as_deref(), Some("/index.html"));
        assert_eq!(files.cache_control.of(b"/a.txt").unwrap(), "max-age=60");

        let table = "{ \"*.html\" = \"no-cache\", \"/assets/*\" = \"max-age=9\", \
                     \"/assets/old/*\" = \"max-age=1\", \"/assets/a.js\" = \"no-store\" }";
        folder.write("c.toml", &text.replace("\"max-age=60\"", table));
        let loaded = folder.load("c.toml");
        let PoolSource::Files(files) = &loaded.draft.pools[0].source else {
            unreachable!("files were given")
        };
        for (name, value) in [
            ("/index.html", Some("no-cache")),
            ("/assets/b.js", Some("max-age=9")),
            ("/assets/index.html", Some("max-age=9")),
            ("/assets/old/b.js", Some("max-age=1")),
            ("/assets/a.js", Some("no-store")),
            ("/b.js", None),
        ] {
            let control = files.cache_control.of(name.as_bytes());
            assert_eq!(control.map(|it| it.to_str().unwrap()), value, "{name}");
        }
        folder.write("c.toml", &text.replace("\"max-age=60\"", "{ \"/a*\" = \"no-cache\" }"));
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(shown.contains("\"/a*\" is no pattern of files"), "{shown}");

        folder.write("c.toml", &text.replace("\"site\"", "\"c.toml\"\nretry = false"));
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(shown.contains("`pool.app.files`: ") && shown.contains("not a folder"), "{shown}");
        folder.write("c.toml", &text.replace("\"site\"", "\"site\"\nretry = false"));
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(shown.contains("warning: `pool.app.retry`: it has no effect"), "{shown}");
        let timeouts = "\"site\"\ntimeouts = { idle = \"5s\", connect = \"1s\" }";
        folder.write("c.toml", &text.replace("\"site\"", timeouts));
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(
            shown.contains("warning: `pool.app.timeouts.connect`: it has no effect"),
            "{shown}"
        );
        assert!(!shown.contains("timeouts.idle"), "{shown}");
        assert!(said("fallback = \"/x\"").contains("it is only for pools of files"));
    }

    #[test]
    fn only_what_exists_now_is_allowed() {
        assert!(said("protocol = \"h1\"").is_empty());
        assert!(said("protocol = \"h2\"").is_empty());
        let shown = said("protocol = \"h2\"\nproxy_protocol = \"v2\"");
        assert!(shown.contains("it is about one client"), "{shown}");
        let shown = said("protocol = \"h3\"");
        assert!(shown.contains("\"h3\" is not a value of this key"), "{shown}");
        assert!(said("timeouts.tunnel = \"2h\"").is_empty());
    }

    #[test]
    fn upstream_tls_has_a_name_and_whole_identities() {
        let tls = pool("tls = {}").tls.unwrap();
        assert!(tls.verify && tls.sni.is_none() && tls.ca.is_none() && tls.identity.is_none());
        let folder = Folder::new();
        let pem = folder.write("a.pem", "PEM");
        let tls = pool(&format!(
            "tls = {{ sni = \"App.example.\", ca = {pem:?}, cert = {pem:?}, key = {pem:?} }}"
        ));
        let tls = tls.tls.unwrap();
        assert_eq!(tls.sni.as_deref(), Some("app.example"));
        assert!(tls.ca.is_some() && tls.identity.is_some());
        let shown = said(&format!("tls = {{ cert = {pem:?} }}"));
        assert!(shown.contains("`cert` and `key` go together"), "{shown}");
        let shown = diagnostics_of("[pool.app]\nendpoints = [\"unix:a\"]\ntls = {}");
        assert!(shown.contains("help: give it one with `sni`"), "{shown}");
        assert!(said("tls = { sni = \"10.0.0.1\" }").contains("nor a DNS name"));
    }
}
