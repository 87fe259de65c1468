//! Endpoints by DNS: what an answer changes, and what it must not.

use hickory_resolver::proto::rr::RecordType;

use crate::support::origin::Gate;
use crate::support::{
    Authority, Call, Dns, HOST, Origin, Proxy, Said, Setup, answer, eventually, ok,
};

const NAME: &str = "app.test";

/// Lifetimes of answers that a test can wait for.
const TTL: &str = "dns_ttl = { min = \"100ms\", max = \"100ms\" }";

fn with(dns: &Dns, lines: &str) -> Setup {
    Setup::empty()
        .process(&dns.line())
        .text(&format!("[pool.app]\n{TTL}\n{lines}\n[[route]]\nname = \"app\"\npool = \"app\""))
}

/// A pool of the addresses of [`NAME`].
fn by_name(dns: &Dns, port: u16, lines: &str) -> Setup {
    with(dns, &format!("dns = \"{NAME}:{port}\"\ndns_loopback = true\n{lines}"))
}

/// Origins on one port that answer with their addresses.
fn origins<const N: usize>(ips: [&str; N]) -> [Origin; N] {
    Origin::on_one_port(ips, |call: &mut Call| {
        call.body();
        let name = call.local().to_string();
        call.send(&ok(&name));
    })
}

fn lookups(proxy: &Proxy, result: &str) -> f64 {
    let labels = format!("{{pool=\"app\",result=\"{result}\"}}");
    proxy.metric(&format!("headwater_dns_lookups_total{labels}"))
}

#[test]
fn every_record_is_an_endpoint_from_the_first_request_on() {
    let origins = origins(["127.0.0.1", "127.0.0.2", "::1"]);
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.2", "127.0.0.1", "::1"]);
    let port = origins[0].address.port();
    let proxy = by_name(&dns, port, "balance = \"round_robin\"").start();
    let mut client = proxy.connect();
    for _ in 0..6 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!(origins.each_ref().map(Origin::count), [2, 2, 2]);
    let [a, b, c] = &origins;
    proxy.wait_for_endpoints(&[a, b, c]);
    assert_eq!(proxy.pool()["dns"]["name"], format!("{NAME}:{port}"));
}

#[test]
fn endpoints_come_and_go_and_the_others_keep_what_they_have() {
    let origins = origins(["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let [a, b, c] = &origins;
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1", "127.0.0.2"]);
    let proxy = by_name(&dns, a.address.port(), "balance = \"round_robin\"").start();
    let mut client = proxy.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    let series = |origin: &Origin, name: &str| {
        let labels = format!("{{pool=\"app\",endpoint=\"{origin}\"}}");
        proxy.metric(&format!("headwater_{name}{labels}"))
    };
    let latency = series(b, "endpoint_latency_ewma_seconds");
    assert!(latency > 0.0 && series(a, "endpoint_healthy") == 1.0);

    dns.say(NAME, &["127.0.0.3", "127.0.0.2"]);
    proxy.wait_for_endpoints(&[b, c]);
    proxy.wait_for_log("endpoints changed");
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!(origins.each_ref().map(Origin::count), [2, 4, 2]);
    assert_eq!(b.connections(), 1);
    // What rested at the one that left is closed, and nothing is said of it any more.
    a.wait_for_closed(1);
    let text = proxy.api_get("/metrics").text();
    assert!(!text.contains(&a.to_string()) && text.contains(&c.to_string()));

    // Back again, it is a new one.
    dns.say(NAME, &["127.0.0.1", "127.0.0.2"]);
    proxy.wait_for_endpoints(&[a, b]);
    for _ in 0..2 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((a.count(), a.connections(), b.connections()), (3, 2, 1));
}

#[test]
fn requests_under_way_at_an_endpoint_that_leaves_end_in_their_own_time() {
    let gate = Gate::default();
    let held = gate.clone();
    let [a, b] = Origin::on_one_port(["127.0.0.1", "127.0.0.2"], move |call: &mut Call| {
        if call.request.target() == "/held" {
            held.pass();
        }
        let name = call.local().to_string();
        call.send(&ok(&name));
    });
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1"]);
    let proxy = by_name(&dns, a.address.port(), "").start();
    let mut holding = proxy.connect();
    holding.send(format!("POST /held HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"));
    a.requests(1);
    dns.say(NAME, &["127.0.0.2"]);
    proxy.wait_for_endpoints(&[&b]);
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/", &[]).text(), b.to_string());
    }
    gate.open();
    let ended = holding.answer();
    assert_eq!((ended.status, ended.text()), (200, a.to_string()));
    assert_eq!(a.count(), 1);
    a.wait_for_closed(1);
}

#[test]
fn the_last_good_answer_is_kept_when_there_is_none_or_an_empty_one() {
    let [origin] = origins(["127.0.0.1"]);
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1"]);
    let proxy = by_name(&dns, origin.address.port(), "").start();
    for (said, result) in [
        (Said::Failure, "failed"),
        (Said::Nothing, "empty"),
        (Said::NoSuchName, "empty"),
        (Said::Silence, "timeout"),
    ] {
        let before = lookups(&proxy, result);
        dns.say_of_all(NAME, &said);
        eventually(result, || (lookups(&proxy, result) > before).then_some(()));
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert!(proxy.metric("headwater_dns_answer_age_seconds{pool=\"app\"}") > 1.0);
    let state = proxy.pool()["dns"].clone();
    assert!(state["age_seconds"].as_f64() > Some(1.0), "{state}");
    assert_eq!(state["failure"], "no answer in time");
    proxy.wait_for_log("name does not resolve; its last answer is kept");
    let answered = lookups(&proxy, "answered");
    dns.say(NAME, &["127.0.0.1"]);
    eventually("the name", || (lookups(&proxy, "answered") > answered).then_some(()));
    proxy.wait_for_log("name resolves again");
    assert_eq!(proxy.pool()["dns"]["failure"], serde_json::Value::Null);
}

#[test]
fn a_family_that_fails_keeps_its_endpoints_while_the_other_changes() {
    let origins = origins(["127.0.0.1", "127.0.0.2", "::1"]);
    let [a, b, c] = &origins;
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1", "::1"]);
    let proxy = by_name(&dns, a.address.port(), "").start();
    proxy.wait_for_endpoints(&[a, c]);
    dns.say(NAME, &["127.0.0.2"]);
    dns.say_of(NAME, RecordType::AAAA, Said::Failure);
    proxy.wait_for_endpoints(&[b, c]);
    dns.say(NAME, &["127.0.0.2"]);
    proxy.wait_for_endpoints(&[b]);
}

#[test]
fn addresses_of_this_machine_are_used_only_when_asked_for() {
    let [origin] = origins(["127.0.0.1"]);
    let port = origin.address.port();
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1", "0.0.0.0", "224.0.0.1", "::"]);
    let strict = with(&dns, &format!("dns = \"{NAME}:{port}\"")).start();
    assert_eq!(strict.get("/", &[]).status, 503);
    strict.wait_for_log("it has only addresses of this machine or of groups");
    let ignored = "headwater_dns_records_ignored_total{pool=\"app\",reason=\"special_address\"}";
    assert!(strict.metric(ignored) >= 4.0);

    let localhost = with(&dns, &format!("dns = \"localhost:{port}\"")).start();
    assert_eq!(localhost.get("/", &[]).text(), origin.to_string());

    let lax = by_name(&dns, port, "").start();
    assert_eq!(lax.get("/", &[]).status, 200);
    lax.wait_for_log("addresses of this machine or of groups are not used");
    assert_eq!(lax.pool()["endpoints"].as_array().unwrap().len(), 3);
}

#[test]
fn services_have_ports_weights_and_tiers_of_their_own() {
    let named = |name: &'static str| Origin::answering(move |_| ok(name));
    let (a, b, backup) = (named("a"), named("b"), named("backup"));
    let dns = Dns::start();
    for target in ["one.test", "two.test"] {
        dns.say(target, &["127.0.0.1"]);
    }
    dns.say_services(
        "_http._tcp.app.test",
        &[
            (5, 20, a.address.port(), "one.test."),
            (5, 10, b.address.port(), "two.test."),
            (9, 10, backup.address.port(), "one.test."),
            (1, 1, 1, "."),
        ],
    );
    let proxy = with(
        &dns,
        "dns = \"srv:_http._tcp.app.test\"\ndns_loopback = true\nbalance = \"round_robin\"",
    )
    .start();
    let mut client = proxy.connect();
    for _ in 0..6 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((a.count(), b.count(), backup.count()), (4, 2, 0));
    assert_eq!(proxy.endpoint(&backup)["backup"], true);

    // A target that cannot be looked up keeps its addresses; one that is gone does not.
    dns.wait_for_queries("two.test", RecordType::AAAA, 2);
    dns.say_of_all("one.test", &Said::Failure);
    dns.say_of_all("two.test", &Said::NoSuchName);
    let without_b = || {
        let pool = proxy.pool();
        let addresses =
            pool["endpoints"].as_array().unwrap().iter().map(|it| it["address"].clone());
        !addresses.clone().any(|it| it == b.to_string().as_str()) && addresses.count() == 2
    };
    eventually("the second one to leave", || without_b().then_some(()));
    assert_eq!(client.get("/", &[]).text(), "a");
}

#[test]
fn an_answer_that_was_cut_is_asked_for_again_over_tcp() {
    let [origin] = origins(["127.0.0.1"]);
    let dns = Dns::start();
    dns.truncate();
    dns.say(NAME, &["127.0.0.1"]);
    let proxy = by_name(&dns, origin.address.port(), "").start();
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert!(dns.over_tcp() > 0);
}

#[test]
fn a_pool_survives_reloads_with_its_endpoints() {
    let origins = origins(["127.0.0.1", "127.0.0.2"]);
    let [a, b] = &origins;
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1", "127.0.0.2"]);
    let setup = |lines: &str| {
        by_name(&dns, a.address.port(), &format!("balance = \"round_robin\"\n{lines}"))
    };
    let proxy = setup("").start();
    let mut client = proxy.connect();
    let mut ask = || (0..2).for_each(|_| assert_eq!(client.get("/", &[]).status, 200));
    ask();
    // With a server that says nothing any more, what is known is all there is.
    dns.say_of_all(NAME, &Said::Failure);
    proxy.reload(&setup("").text("[[route]]\npaths = [\"/other\"]\npool = \"app\""));
    ask();
    proxy.reload(&setup("keepalive = \"30s\""));
    ask();
    proxy.reload(&setup("keepalive = \"20s\"").process("shutdown_delay = \"1ms\""));
    ask();
    assert_eq!(origins.each_ref().map(Origin::count), [4, 4]);
    assert_eq!((a.connections(), b.connections()), (1, 1));
    dns.say(NAME, &["127.0.0.2"]);
    proxy.wait_for_endpoints(&[b]);
}

#[test]
fn other_servers_are_asked_after_a_reload() {
    let origins = origins(["127.0.0.1", "127.0.0.2"]);
    let [a, b] = &origins;
    let (first, second) = (Dns::start(), Dns::start());
    first.say(NAME, &["127.0.0.1"]);
    second.say(NAME, &["127.0.0.2"]);
    let setup = |dns: &Dns| by_name(dns, a.address.port(), "");
    let proxy = setup(&first).start();
    proxy.wait_for_endpoints(&[a]);
    proxy.reload(&setup(&second));
    proxy.wait_for_endpoints(&[b]);
}

#[test]
fn endpoints_that_are_names_are_looked_up_by_the_same_rules() {
    let origins = origins(["127.0.0.1", "127.0.0.2"]);
    let [a, b] = &origins;
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1"]);
    let endpoint = format!("{NAME}:{}", a.address.port());
    let lines = format!("endpoints = [\"{endpoint}\"]\n");
    let proxy = with(&dns, &format!("{lines}dns_loopback = true")).start();
    assert_eq!(proxy.get("/", &[]).text(), a.to_string());
    dns.say(NAME, &["127.0.0.2"]);
    eventually("the other address", || {
        (proxy.endpoint(&endpoint)["resolved"][0] == b.to_string().as_str()).then_some(())
    });
    dns.say_of_all(NAME, &Said::Failure);
    dns.wait_for_queries(NAME, RecordType::A, 2);
    let mut client = proxy.connect();
    // The connection to the first address still rests; a new one goes to the second.
    let text = client.get("/", &["Connection: close"]).text();
    assert!(text == a.to_string() || text == b.to_string(), "{text}");
    assert!(lookups(&proxy, "failed") > 0.0);

    dns.say(NAME, &["127.0.0.1"]);
    let strict = with(&dns, &lines).start();
    assert_eq!(strict.endpoint(&endpoint)["state"], "unresolved");
    strict.wait_for_log("it has only addresses of this machine");
    assert_eq!(strict.get("/", &[]).status, 503);
}

#[test]
fn an_endpoint_that_is_found_while_others_are_healthy_waits_for_its_first_success() {
    let gate = Gate::default();
    let held = gate.clone();
    let [a, b] = Origin::on_one_port(["127.0.0.1", "127.0.0.2"], move |call: &mut Call| {
        let is_second = call.local().ip().to_string() == "127.0.0.2";
        if is_second && call.request.target() == "/healthz" {
            held.pass();
        }
        call.send(&ok(""));
    });
    let dns = Dns::start();
    dns.say(NAME, &["127.0.0.1"]);
    let health = "health = { path = \"/healthz\", interval = \"1h\" }\nbalance = \"round_robin\"";
    let proxy = by_name(&dns, a.address.port(), health).start();
    eventually("the first verdict", || (proxy.endpoint(&a)["health"] == "healthy").then_some(()));
    assert_eq!(a.request(0).header("host"), Some(&*format!("{NAME}:{}", a.address.port())));
    dns.say(NAME, &["127.0.0.1", "127.0.0.2"]);
    // It is probed as soon as it is found.
    b.requests(1);
    let mut client = proxy.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((a.count_of("/"), b.count_of("/")), (4, 0));
    gate.open();
    proxy.wait_for_state(&b, "usable");
    dns.say(NAME, &["127.0.0.2"]);
    proxy.wait_for_endpoints(&[&b]);
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(b.count_of("/"), 1);
}

#[test]
fn certificates_are_verified_for_the_name_that_was_looked_up() {
    let authority = Authority::new();
    let pair = authority.issue(&["app.test"]);
    let inner = Setup::empty()
        .listener(
            "tls.certificates = [{ cert = \"a.crt\", key = \"a.key\" }]\nbind = \"127.0.0.1:0\"",
        )
        .text("[[route]]\nrespond = { status = 200, body = \"through TLS\" }");
    let folder = crate::support::Folder::new();
    folder.write("a.crt", &pair.cert);
    folder.write("a.key", &pair.key);
    let inner = inner.start_in(folder);
    let port = inner.address().port();
    let dns = Dns::start();
    for name in [NAME, "other.test"] {
        dns.say(name, &["127.0.0.1"]);
        let service = format!("_https._tcp.{name}");
        dns.say_services(&service, &[(1, 1, port, "node-1.test.")]);
    }
    dns.say("node-1.test", &["127.0.0.1"]);
    for (source, status) in [
        (format!("{NAME}:{port}"), 200),
        (format!("other.test:{port}"), 502),
        (format!("srv:_https._tcp.{NAME}"), 200),
        ("srv:_https._tcp.other.test".to_owned(), 502),
    ] {
        let folder = crate::support::Folder::new();
        folder.write("ca.pem", authority.pem());
        let lines = format!("dns = \"{source}\"\ndns_loopback = true\ntls = {{ ca = \"ca.pem\" }}");
        let proxy = with(&dns, &lines).start_in(folder);
        let got = proxy.get("/", &[]);
        assert_eq!(got.status, status, "{source}: {}", got.text());
    }
}

#[test]
fn a_pool_without_an_answer_is_empty_until_there_is_one() {
    let [origin] = Origin::on_one_port(["127.0.0.1"], |call: &mut Call| {
        call.body();
        call.send(&answer(200, &[], "here"));
    });
    let dns = Dns::start();
    let proxy = by_name(&dns, origin.address.port(), "").start();
    let refused = proxy.get("/", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let ready = proxy.api_get("/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("app"), "{}", ready.text());
    dns.say(NAME, &["127.0.0.1"]);
    proxy.wait_for_endpoints(&[&origin]);
    assert_eq!(proxy.get("/", &[]).text(), "here");
}
