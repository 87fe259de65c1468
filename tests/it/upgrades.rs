//! Connections that change their protocol.

use std::time::Duration;

use crate::support::origin::Gate;
use crate::support::{Call, Client, HOST, Origin, PATIENCE, Proxy, Setup, answer, ok};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// Switches and sends everything back.
fn echo(call: &mut Call) {
    if call.request.header("upgrade").is_none() {
        call.send(&ok("plain"));
        return;
    }
    call.send(SWITCH);
    loop {
        let bytes = call.read(1);
        if bytes.is_empty() || !call.send(&bytes) {
            return call.close();
        }
    }
}

fn ask(early: &str) -> String {
    format!("GET /socket HTTP/1.1\r\nHost: {HOST}\r\n{ASK}Sec-WebSocket-Key: a\r\n\r\n{early}")
}

/// Opens a tunnel.
fn tunnel(proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send(ask(""));
    assert_eq!(client.answer_head().start_line(), "HTTP/1.1 101 Switching Protocols");
    client
}

fn assert_echo(client: &mut Client, text: &str) {
    client.send(text);
    assert_eq!(client.read_exactly(text.len()), text.as_bytes());
}

#[test]
fn bytes_pass_both_ways_once_the_endpoint_has_switched() {
    let origin = Origin::scripted(echo);
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(ask(""));
    let head = client.answer_head();
    assert_eq!(head.start_line(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert!(head.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert!(head.header("x-request-id").is_some());
    let request = origin.request(0);
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert!(request.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(request.header("sec-websocket-key"), Some("a"));
    assert_echo(&mut client, "\u{0}\u{1}binary\r\n\r\n");
    assert_echo(&mut client, &"long".repeat(100_000));
    client.finish();
    client.assert_closed();
    origin.wait_for_closed(1);
    let logged = proxy.access("/socket");
    assert_eq!(logged["status"], 101);
}

#[test]
fn bytes_that_come_early_are_not_lost() {
    let origin = Origin::scripted(|call| {
        call.send(&[SWITCH, b"hello from the server"].concat());
        let bytes = call.read(5);
        call.send(&bytes);
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(ask("early"));
    assert_eq!(client.answer_head().start_line(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(client.read_exactly(21), b"hello from the server");
    assert_eq!(client.read_exactly(5), b"early");
    client.assert_closed();
}

#[test]
fn early_bytes_are_no_head_that_is_late() {
    let origin = Origin::scripted(echo);
    let proxy = Setup::of(&[&origin]).listener("timeouts.header = \"150ms\"").start();
    let mut client = proxy.connect();
    client.send(ask("early"));
    assert_eq!(client.answer_head().start_line(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(client.read_exactly(5), b"early");
    // A connection that says nothing lives for the same time, from a moment later on.
    proxy.connect().assert_closed();
    assert_echo(&mut client, "still here");
}

#[test]
fn an_endpoint_may_decline() {
    let origin = Origin::answering(|_| answer(403, &[], "no"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(ask(""));
    let declined = client.answer();
    assert_eq!((declined.status, declined.text().as_str()), (403, "no"));
    assert_eq!(client.get("/", &[]).status, 403, "the connection goes on");
}

#[test]
fn a_switch_that_nobody_asked_for_is_502() {
    let origin = Origin::scripted(|call| {
        call.send(SWITCH);
        call.wait_for_end();
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).status, 502);
    origin.wait_for_closed(1);
}

#[test]
fn a_switch_to_another_protocol_is_502() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n");
        call.wait_for_end();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(ask(""));
    assert_eq!(client.answer().status, 502);
}

#[test]
fn a_route_may_forbid_upgrades() {
    let origin = Origin::scripted(echo);
    let proxy = Setup::of(&[&origin]).route("websocket = false").start();
    let mut client = proxy.connect();
    client.send(ask(""));
    assert_eq!(client.answer().text(), "plain");
    assert_eq!(origin.request(0).header("upgrade"), None);
}

#[test]
fn an_upgrade_is_not_answered_from_the_cache() {
    let origin = Origin::scripted(|call| {
        if call.request.header("upgrade").is_some() {
            echo(call);
        } else {
            call.send(&answer(200, &["Cache-Control: max-age=60"], "stored"));
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/socket", &[]).text(), "stored");
    assert_echo(&mut tunnel(&proxy), "not stored");
}

#[test]
fn a_tunnel_lives_through_a_reload() {
    let origin = Origin::scripted(echo);
    let setup = Setup::of(&[&origin]);
    let proxy = setup.start();
    let mut client = tunnel(&proxy);
    proxy.reload(&setup.pool_lines("retry = false").route("websocket = false"));
    assert_echo(&mut client, "still here");
    // Even one whose pool and listener are gone.
    proxy.reload(&Setup::empty().text("[[route]]\nrespond = { status = 200, body = \"new\" }"));
    assert_eq!(proxy.get("/", &[]).text(), "new");
    assert_echo(&mut client, "still here");
}

#[test]
fn the_end_of_one_side_ends_the_other() {
    let origin = Origin::scripted(echo);
    let proxy = Setup::of(&[&origin]).start();
    drop(tunnel(&proxy));
    origin.wait_for_closed(1);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
    let series =
        format!("headwater_endpoint_requests_in_flight{{pool=\"app\",endpoint=\"{origin}\"}}");
    proxy.wait_for_metric(&series, 0.0);
}

#[test]
fn the_deadline_of_a_drain_ends_tunnels() {
    let origin = Origin::scripted(echo);
    let mut proxy = Setup::of(&[&origin]).process("drain_timeout = \"300ms\"").start();
    let mut client = tunnel(&proxy);
    proxy.terminate();
    proxy.wait_for_log("stopping");
    assert_echo(&mut client, "until the deadline");
    assert_eq!(proxy.exit_code(), 3);
    client.assert_closed();
    let logged = proxy.access("\"status\":101");
    assert_eq!((&logged["request_bytes"], &logged["response_bytes"]), (&18.into(), &18.into()));
}

#[test]
fn another_version_of_http_is_no_tunnel() {
    let origin = Origin::scripted(echo);
    let proxy = Setup::of(&[&origin]).start();
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.0"] {
        let fields = [
            &format!("Upgrade: {protocol}")[..],
            "Connection: Upgrade, HTTP2-Settings",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        ];
        assert_eq!(proxy.get("/", &fields).text(), "plain", "{protocol}");
    }
    for request in origin.requests(3) {
        assert_eq!((request.header("upgrade"), request.header("http2-settings")), (None, None));
    }
}

#[test]
fn a_silent_tunnel_is_closed() {
    let origin = Origin::scripted(echo);
    let proxy = Setup::of(&[&origin]).pool_lines("timeouts.tunnel = \"200ms\"").start();
    let mut client = tunnel(&proxy);
    assert_echo(&mut client, "before");
    client.assert_closed();
    origin.wait_for_closed(1);
}

#[test]
fn a_tunnel_whose_reader_has_stalled_ends_after_its_silence() {
    let origin = Origin::scripted(|call| {
        call.send(SWITCH);
        call.push(64 << 20, PATIENCE);
        call.wait_for_end();
    });
    let lines = "timeouts.tunnel = \"300ms\"";
    let proxy = Setup::of(&[&origin]).pool_lines(lines).start();
    let _client = tunnel(&proxy);
    origin.wait_for_closed(1);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
}

#[test]
fn a_tunnel_to_an_endpoint_that_reads_nothing_ends_when_the_client_has_left() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        call.send(SWITCH);
        waits.pass();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = tunnel(&proxy);
    client.push(64 << 20, Duration::from_millis(100));
    client.reset();
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
    gate.open();
}

/// Switches to what is asked for once the body is there, and sends back how much came, when the
/// client has ended its side.
fn count_to_the_end(call: &mut Call) {
    call.body();
    let body = call.request.body.clone();
    let protocol = call.request.header("upgrade").unwrap_or("none").to_owned();
    let fields = "Connection: Upgrade";
    call.send(
        format!("HTTP/1.1 101 UPGRADED\r\n{fields}\r\nUpgrade: {protocol}\r\n\r\n").as_bytes(),
    );
    let mut count = 0;
    loop {
        let bytes = call.read(1);
        if bytes.is_empty() {
            break;
        }
        count += bytes.len();
    }
    call.send(format!("{} and {count}", body.len()).as_bytes());
    call.close();
}

#[test]
fn a_post_with_a_body_may_open_a_tunnel_whose_sides_end_apart() {
    let origin = Origin::scripted(count_to_the_end);
    let proxy = Setup::of(&[&origin]).start();
    for (method, protocol, fields, body) in [
        ("POST", "tcp", "Content-Length: 13\r\n", "{\"Tty\":false}"),
        ("POST", "SPDY/3.1", "Content-Length: 0\r\n", ""),
        ("PUT", "tcp", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("GET", "tcp", "", ""),
    ] {
        let mut client = proxy.connect();
        client.send(format!(
            "{method} /exec HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n\
             Upgrade: {protocol}\r\n{fields}\r\n{body}"
        ));
        let head = client.answer_head();
        assert!(head.start_line().contains(" 101 "), "{method} {protocol}: {head:?}");
        client.send("hello");
        client.finish();
        let length = if body.starts_with('3') { 3 } else { body.len() };
        assert_eq!(client.rest(), format!("{length} and 5").as_bytes(), "{method} {protocol}");
    }
}

#[test]
fn an_endpoint_that_switches_early_gets_the_rest_of_the_request_first() {
    let origin = Origin::scripted(|call: &mut Call| {
        call.send(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
        let mut got = Vec::new();
        loop {
            let bytes = call.read(1);
            if bytes.is_empty() {
                break;
            }
            got.extend(bytes);
        }
        call.send(&got);
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!(
        "POST /exec HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Length: 6\r\n\r\nfir"
    ));
    client.send("st;");
    assert!(client.answer_head().start_line().contains(" 101 "));
    client.send("hello");
    client.finish();
    assert!(client.rest().ends_with(b"hello"));
}
