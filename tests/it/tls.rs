//! TLS to clients: versions, certificates, protocols, sessions.

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::support::{Authority, Client, Folder, HOST, Proxy, Setup, Tls, eventually};

const SITE: &str = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]";
const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

fn setup(listener: &str) -> Setup {
    Setup::empty().listener(SITE).listener(listener).text(HELLO)
}

fn start(listener: &str) -> (Authority, Proxy) {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    (authority, setup(listener).start_in(folder))
}

#[test]
fn both_versions_are_spoken() {
    let (authority, proxy) = start("");
    for (version, expected) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let tls = Tls::with(&authority, version, &["http/1.1"]);
        let mut client = Client::tls(proxy.address(), &tls);
        assert_eq!(client.session().protocol_version(), Some(expected));
        assert_eq!(client.get("/", &[]).text(), "hello");
    }
    let handshakes = "headwater_tls_handshakes_total{listener=\"web\",result=\"ok\"}";
    assert_eq!(proxy.metric(handshakes), 2.0);
}

#[test]
fn the_lowest_version_can_be_raised() {
    let (authority, proxy) = start("tls.min_version = \"1.3\"");
    let old = Tls::with(&authority, &TLS12, &[]);
    assert!(Client::try_tls(proxy.address(), &old).is_err());
    assert_eq!(Client::tls(proxy.address(), &Tls::new(&authority)).get("/", &[]).status, 200);
    let failed = "headwater_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    proxy.wait_for_metric(failed, 1.0);
}

#[test]
fn the_protocol_is_agreed_on_by_alpn() {
    let (authority, proxy) = start("");
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let tls = Tls::with(&authority, &TLS13, offered);
        let client = Client::tls(proxy.address(), &tls);
        assert_eq!(client.session().alpn_protocol(), chosen, "{offered:?}");
    }
    let nothing_common = Tls::with(&authority, &TLS13, &["spdy/3"]);
    assert!(Client::try_tls(proxy.address(), &nothing_common).is_err());
}

#[test]
fn a_listener_may_do_without_h2() {
    let (authority, proxy) = start("protocols = [\"h1\"]");
    let tls = Tls::with(&authority, &TLS13, &["h2", "http/1.1"]);
    let mut client = Client::tls(proxy.address(), &tls);
    assert_eq!(client.session().alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(client.get("/", &[]).status, 200);
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let first = authority.write(&folder, "first", &["first.test", "also.test"]);
    let second = authority.write(&folder, "second", &["second.test", "*.second.test"]);
    let proxy = Setup::empty()
        .listener(
            "tls.certificates = [{ cert = \"first.crt\", key = \"first.key\" }, \
             { cert = \"second.crt\", key = \"second.key\" }]",
        )
        .text(HELLO)
        .start_in(folder);
    let tls = Tls::new(&authority);
    for (name, expected) in [
        ("first.test", &first),
        ("also.test", &first),
        ("second.test", &second),
        ("SECOND.test", &second),
        ("a.second.test", &second),
    ] {
        let client = Client::tls(proxy.address(), &tls.named(name));
        assert_eq!(client.certificate(), expected.der, "{name}");
    }
    // The default is the first; a client that checks the name refuses it.
    let nameless = Client::tls(proxy.address(), &tls.named("first.test").nameless());
    assert_eq!(nameless.certificate(), first.der);
    assert!(Client::try_tls(proxy.address(), &tls.named("a.b.second.test")).is_err());
    assert!(Client::try_tls(proxy.address(), &tls.named("unknown.test")).is_err());
}

#[test]
fn sessions_are_resumed_even_after_a_reload() {
    for version in [&TLS12, &TLS13] {
        let (authority, proxy) = start("");
        let tls = Tls::with(&authority, version, &["http/1.1"]);
        let kind = || {
            let mut client = Client::tls(proxy.address(), &tls);
            // The tickets of TLS 1.3 come with the answer.
            assert_eq!(client.get("/", &[]).status, 200);
            client.session().handshake_kind()
        };
        assert_ne!(kind(), Some(HandshakeKind::Resumed), "{version:?}");
        assert_eq!(kind(), Some(HandshakeKind::Resumed), "{version:?}");
        proxy.reload(&setup("timeouts.idle = \"70s\""));
        assert_eq!(kind(), Some(HandshakeKind::Resumed), "{version:?}");
    }
}

#[test]
fn a_certificate_that_is_replaced_is_used_without_being_told() {
    let (authority, proxy) = start("");
    let tls = Tls::new(&authority);
    let mut old = Client::tls(proxy.address(), &tls);
    // Answered by whoever watches the files, who then watches.
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
    let replaced = authority.write(&proxy.folder, "site", &[HOST]);
    eventually("the new certificate", || {
        let client = Client::tls(proxy.address(), &tls);
        (client.certificate() == replaced.der).then_some(())
    });
    assert_eq!(old.get("/", &[]).status, 200, "open connections live on");
}

#[test]
fn a_key_that_does_not_fit_keeps_the_certificate_that_runs() {
    let (authority, proxy) = start("");
    let tls = Tls::new(&authority);
    let before = Client::tls(proxy.address(), &tls).certificate();
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
    let other = authority.issue(&[HOST]);
    proxy.folder.write("site.key", &other.key);
    proxy.wait_for_metric("headwater_config_last_reload_successful", 0.0);
    assert_eq!(Client::tls(proxy.address(), &tls).certificate(), before);
    proxy.folder.write("site.crt", &other.cert);
    proxy.wait_for_metric("headwater_config_last_reload_successful", 1.0);
    assert_eq!(Client::tls(proxy.address(), &tls).certificate(), other.der);
}

#[test]
fn a_handshake_that_does_not_come_in_time_is_closed() {
    let (_authority, proxy) = start("timeouts.handshake = \"150ms\"");
    let mut client = Client::connect(proxy.address());
    client.send([0x16, 0x03, 0x01]);
    client.assert_closed();
    let timeouts = "headwater_tls_handshakes_total{listener=\"web\",result=\"timeout\"}";
    proxy.wait_for_metric(timeouts, 1.0);
}

#[test]
fn plain_http_on_a_tls_port_is_refused() {
    let (_authority, proxy) = start("");
    let mut client = Client::connect(proxy.address());
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let alert = client.rest();
    assert!(!alert.starts_with(b"HTTP/1.1 200"), "{alert:?}");
    let failed = "headwater_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    proxy.wait_for_metric(failed, 1.0);
}

#[test]
fn the_end_of_each_certificate_is_a_metric() {
    let (_authority, proxy) = start("");
    let series =
        format!("headwater_tls_certificate_not_after_timestamp_seconds{{name=\"{HOST}\"}}");
    assert!(proxy.metric(&series) > 1.7e9);
}
