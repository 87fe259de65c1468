//! `[listener.NAME]`: where and how clients connect.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::address;
use super::diagnostics::Invalid;
use super::listener_front;
use super::listener_tls;
use super::model::{
    BindAddress, Front, Hsts, Listener, ListenerLimits, ListenerTimeouts, Located, Name, Protocols,
    SpanOf,
};
use super::reader::Table;
use super::units::DURATION_MAX;
use super::value::Value;

/// Of every wait: long enough for anything real, and never zero.
pub(super) const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(86_400);
/// In bytes a second. Zero is no bound.
const BODY_RATE: RangeInclusive<u64> = 0..=1 << 30;
/// Zero makes browsers forget.
const HSTS: RangeInclusive<Duration> = Duration::ZERO..=DURATION_MAX;
const CONNECTIONS: RangeInclusive<i64> = 1..=10_000_000;
const HANDSHAKES: RangeInclusive<i64> = 1..=1_000_000;
const HEADER_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 20;
const HEADERS: RangeInclusive<i64> = 1..=10_000;
const URI_BYTES: RangeInclusive<u64> = 128..=64 << 10;
const STREAMS: RangeInclusive<i64> = 1..=65_536;
const PORT: RangeInclusive<i64> = 1..=65_535;
const HTTPS_PORT: u16 = 443;

#[derive(Clone, Copy)]
enum Protocol {
    H1,
    H2,
}

/// What was read of one listener: its addresses clash with others even when it is wrong.
pub(super) struct Reading {
    pub(super) name: Name,
    pub(super) bind: Vec<Located<BindAddress>>,
    /// `None` when there is nothing to bind or the certificates are wrong.
    pub(super) listener: Option<Listener>,
}

pub(super) fn read(name: Name, table: Table<'_>) -> Reading {
    let bind = table.required("bind", "\"0.0.0.0:8443\"").and_then(|value| binds(&value));
    let bind = bind.unwrap_or_default();
    let listener = listener(name.clone(), bind.clone(), &table);
    table.finish();
    Reading { name, bind, listener }
}

fn listener(name: Name, bind: Vec<Located<BindAddress>>, table: &Table<'_>) -> Option<Listener> {
    let has_tls = table.value("tls").is_some();
    let tls = table.read("tls", listener_tls::read);
    let protocols = table.read("protocols", protocols);
    let front = listener_front::read(table);
    let https_redirect = table.read("https_redirect", |value| {
        let port = https_redirect(value)?;
        if has_tls {
            let warning = value.warning("it has no effect: this listener speaks https itself");
            value.context.push(warning.help("set it on the plain listener"));
        }
        Some(port).filter(|_| !has_tls)
    });
    let proxy_protocol = table.read("proxy_protocol", |value| {
        let is_on = value.boolean()?;
        if is_on && !front.trusts_somebody {
            value.invalid(
                Invalid::new("no peer is trusted, so every connection would be closed")
                    .help("name the proxies that send it in `trusted`"),
            );
        }
        Some(is_on)
    });
    let hsts = hsts(table, has_tls || front.trusts_somebody);
    let timeouts = timeouts(table.table("timeouts"), front.front);
    let limits = limits(table.table("limits"));

    let (tls, default) = match tls {
        Some(tls) => (Some(tls?), Protocols { h1: true, h2: true }),
        None => (None, Protocols { h1: true, h2: false }),
    };
    if bind.is_empty() {
        return None;
    }
    Some(Listener {
        name,
        bind,
        tls,
        protocols: protocols.unwrap_or(default),
        front: front.front,
        front_span: front.span,
        trusted: front.trusted,
        trusted_from: front.trusted_from,
        front_required: front.required,
        client_ip_header: front.client_ip_header,
        proxy_protocol: proxy_protocol.unwrap_or(false),
        https_redirect,
        hsts,
        timeouts,
        limits,
    })
}

fn binds(value: &Value<'_>) -> Option<Vec<Located<BindAddress>>> {
    let one = |value: &Value<'_>| {
        let parse = |text: &str| address::bind(text, &value.folder());
        let address = value.parse("an address", "\"0.0.0.0:8443\"", parse)?;
        Some(Located { value: address, span: value.span })
    };
    if value.is_list() {
        return value.non_empty_list("[\"0.0.0.0:8443\", \"[::]:8443\"]", one);
    }
    one(value).map(|bind| vec![bind])
}

fn protocols(value: &Value<'_>) -> Option<Protocols> {
    let words = [("h1", Protocol::H1), ("h2", Protocol::H2)];
    let list = value.non_empty_list("[\"h2\", \"h1\"]", |item| item.one_of(&words))?;
    let protocols = Protocols {
        h1: list.iter().any(|protocol| matches!(protocol, Protocol::H1)),
        h2: list.iter().any(|protocol| matches!(protocol, Protocol::H2)),
    };
    // Wrong words were reported; nothing is left of the list then.
    (protocols.h1 || protocols.h2).then_some(protocols)
}

fn https_redirect(value: &Value<'_>) -> Option<u16> {
    if value.is_boolean() {
        return value.boolean()?.then_some(HTTPS_PORT);
    }
    value.integer(&PORT)
}

/// On a plain listener it counts for what trusted proxies in front took in over https.
fn hsts(table: &Table<'_>, may_be_https: bool) -> Option<Hsts> {
    let max_age = table.read("hsts", |value| {
        if !may_be_https {
            let warning = value.warning("it has no effect: nothing comes here over https");
            value.context.push(warning.help("set it on the listener with `tls`"));
        }
        value.duration(&HSTS)
    });
    let subdomains = table.read("hsts_subdomains", |value| {
        if table.value("hsts").is_none() {
            let warning = value.warning("it has no effect without `hsts`");
            value.context.push(warning.help("add hsts = \"365d\""));
        }
        value.boolean()
    });
    Some(Hsts { max_age: max_age?, subdomains: subdomains.unwrap_or(false) })
}

fn timeouts(table: Table<'_>, front: Front) -> ListenerTimeouts {
    let timeout = |key, seconds| table.duration(key, Duration::from_secs(seconds), &TIMEOUT);
    let timeouts = ListenerTimeouts {
        handshake: timeout("handshake", 10),
        header: timeout("header", 10),
        body: timeout("body", 30),
        body_rate: table.rate("body_rate", 500, &BODY_RATE),
        body_grace: timeout("body_grace", 10),
        write: timeout("write", 30),
        idle: timeout("idle", front.idle_default_secs()),
    };
    table.finish();
    timeouts
}

fn limits(table: Table<'_>) -> ListenerLimits {
    let bytes = |key, default, range| {
        usize::try_from(table.size(key, default, range)).unwrap_or(usize::MAX)
    };
    let limits = ListenerLimits {
        connections_max: table.integer("connections", 50_000, &CONNECTIONS),
        connections_at: table.value("connections").map(|value| SpanOf(value.span)),
        handshakes_max: table.integer("handshakes", 4096, &HANDSHAKES),
        header_bytes_max: bytes("header_bytes", 32 << 10, &HEADER_BYTES),
        headers_max: table.integer("headers", 100, &HEADERS),
        uri_bytes_max: bytes("uri_bytes", 16 << 10, &URI_BYTES),
        streams_max: table.integer("streams", 256, &STREAMS),
    };
    table.finish();
    limits
}

#[cfg(test)]
mod tests {
    use super::super::model::ClientIpHeader;
    use super::super::testing::{Folder, config_of, diagnostics_of};
    use super::*;

    const REST: &str = "[[route]]\nrespond = {}\n";

    fn listener(lines: &str) -> Listener {
        let text = format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{lines}");
        config_of(&text).listeners.remove(0)
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{lines}"))
    }

    #[test]
    fn a_listener_binds_to_one_address_or_a_list() {
        let text = "[listener.a]\nbind = [\"127.0.0.1:81\", \"[::]:81\", \"unix:a.sock\"]";
        assert_eq!(config_of(text).listeners[0].bind.len(), 3);
        for (bind, message) in [
            ("[]", "the list is empty"),
            ("8080", "`listener.web.bind` must be an address, not an integer"),
            ("\":8080\"", "is not an address to listen on"),
            ("[\"127.0.0.1:81\", 82]", "`listener.web.bind` must be an address, not an integer"),
        ] {
            let shown = diagnostics_of(&format!("[listener.web]\nbind = {bind}"));
            assert!(shown.contains(message), "{shown}");
        }
        let shown = diagnostics_of("[listener.web]");
        assert_eq!(
            shown,
            "c.toml:1:1: error: `listener.web.bind` is missing\n  \
             help: for example: bind = \"0.0.0.0:8443\"\n"
        );
    }

    #[test]
    fn certificates_are_read_relative_to_the_file_that_names_them() {
        let folder = Folder::new();
        let tls = "tls.certificates = [{ cert = \"../a.crt\", key = \"../a.key\" }]";
        let text = format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{tls}\n{REST}");
        folder.write("conf/c.toml", &text);
        folder.write("a.crt", "CERT");
        let shown = folder.shown(&folder.load("conf/c.toml"));
        assert_eq!(
            shown,
            "conf/c.toml:3:48: error: `listener.web.tls.certificates.key`: \
             cannot read conf/../a.key: it does not exist\n  \
             help: a relative path is relative to the file that names it\n"
        );
        folder.write("a.key", "KEY");
        let loaded = folder.load("conf/c.toml");
        let tls = loaded.draft.listeners[0].tls.as_ref().unwrap();
        assert_eq!(&*tls.certificates[0].cert.bytes, b"CERT");
        assert_eq!(&*tls.certificates[0].key.bytes, b"KEY");
        assert!(loaded.files.contains(&folder.path().join("conf/../a.key")));
    }

    #[test]
    fn tls_without_certificates_is_an_error() {
        for (tls, message) in [
            ("tls = {}", "`listener.web.tls.certificates` is missing"),
            ("tls.min_version = 1.2", "must be a string, not a decimal number"),
            ("tls.certificates = []", "the list is empty"),
            ("tls.certificates = [{ cert = \"x\" }]", "tls.certificates.key` is missing"),
            ("tls.certificates = [\"x\"]", "tls.certificates` must be a table, not a string"),
            ("tls = true", "`listener.web.tls` must be a table, not a boolean"),
            ("tls.directry = \"x\"", "unknown key `directry` in [listener.web.tls]"),
        ] {
            let shown = said(tls);
            assert!(shown.contains(message), "{tls}: {shown}");
        }
    }

    #[test]
    fn a_plain_listener_may_speak_both_protocols() {
        assert_eq!(listener("").protocols, Protocols { h1: true, h2: false });
        let both = listener("protocols = [\"h2\", \"h1\"]").protocols;
        assert_eq!(both, Protocols { h1: true, h2: true });
        assert!(said("protocols = []").contains("the list is empty"));
        let shown = said("protocols = [\"h3\"]");
        assert!(shown.contains("\"h3\" is not a value of this key\n  help: write `h1` or `h2`"));
    }

    #[test]
    fn the_client_address_comes_from_trusted_peers_only() {
        let lines = "trusted = [\"10.0.0.0/8\", \"::1\"]\nclient_ip_header = \"X-Forwarded-For\"";
        let with = listener(lines);
        assert_eq!(with.trusted.len(), 2);
        assert_eq!(with.client_ip_header, Some(ClientIpHeader::ForwardedFor));
        let shown = said("client_ip_header = \"cf-connecting-ip\"");
        assert_eq!(
            shown,
            "c.toml:3:20: warning: `listener.web.client_ip_header`: no peer is trusted, so it is \
             never read\n  help: name the proxies in front in `trusted`\n"
        );
        assert!(said("trusted = [\"10.0.0.0/40\"]").contains("is not a network"));
        let shown = said("trusted = [\"::1\"]\nclient_ip_header = \"a b\"");
        assert!(shown.contains("is not the name of a header"));
    }

    #[test]
    fn https_redirect_is_a_switch_or_a_port() {
        assert_eq!(listener("https_redirect = true").https_redirect, Some(443));
        assert_eq!(listener("https_redirect = false").https_redirect, None);
        assert_eq!(listener("https_redirect = 8443").https_redirect, Some(8443));
        assert!(said("https_redirect = 0").contains("it must be from 1 to 65535"));
        let folder = Folder::new();
        folder.write("a", "PEM");
        let tls = "tls.certificates = [{ cert = \"a\", key = \"a\" }]\nhttps_redirect = true";
        folder.write("c.toml", &format!("[listener.a]\nbind = \"127.0.0.1:0\"\n{tls}\n{REST}"));
        let loaded = folder.load("c.toml");
        assert!(folder.shown(&loaded).contains("c.toml:4:18: warning: "));
        assert_eq!(loaded.draft.listeners[0].https_redirect, None);
    }

    #[test]
    fn a_proxy_header_is_believed_from_trusted_peers_only() {
        let with = listener("trusted = [\"10.0.0.0/8\"]\nproxy_protocol = true");
        assert!(with.proxy_protocol);
        let shown = said("proxy_protocol = true");
        assert!(shown.contains("c.toml:3:18: error: `listener.web.proxy_protocol`: no peer is"));
        assert!(!listener("proxy_protocol = false").proxy_protocol);
    }

    #[test]
    fn hsts_is_for_https() {
        let lines = "trusted = [\"10.0.0.0/8\"]\nhsts = \"365d\"\nhsts_subdomains = true";
        let hsts = listener(lines).hsts.unwrap();
        assert_eq!((hsts.max_age.as_secs(), hsts.subdomains), (31_536_000, true));
        assert!(said("hsts = \"1d\"").contains("warning: `listener.web.hsts`: it has no effect"));
        assert!(said("hsts_subdomains = true").contains("no effect without `hsts`"));
        assert!(said("hsts = true").contains("must be a duration"));
    }

    #[test]
    fn limits_and_timeouts_have_sane_ranges() {
        let with = listener("timeouts.header = \"5s\"\nlimits = { headers = 50 }");
        assert_eq!(with.timeouts.header, Duration::from_secs(5));
        assert_eq!(with.timeouts.idle, Duration::from_secs(75));
        assert_eq!(with.limits.headers_max, 50);
        for (line, message) in [
            ("timeouts.idle = \"0s\"", "0s is out of range\n  help: it must be from 1ms to 1d"),
            (
                "timeouts.idle = 5",
                "must be a duration with a unit, not an integer\n  help: for example: idle = \"5s\"",
            ),
            (
                "timeouts.idl = \"5s\"",
                "unknown key `idl` in [listener.web.timeouts]\n  help: did you mean `idle`?",
            ),
            ("limits.header_bytes = 4096", "for example: header_bytes = \"4096B\""),
            (
                "limits.header_bytes = \"0\"",
                "0B is out of range\n  help: it must be from 1KiB to 1MiB",
            ),
            ("limits.connections = 0", "it must be from 1 to 10000000"),
            ("limits.streams = \"256\"", "must be a whole number, not a string"),
        ] {
            let shown = said(line);
            assert!(shown.contains(message), "{line}: {shown}");
        }
    }
}
