//! Requests that break rules or limits: the answer, and the end of the connection.

use crate::support::origin::Gate;
use crate::support::{Client, HOST, Origin, Proxy, Setup, ok};

fn proxy(listener: &str) -> (Proxy, Origin) {
    let origin = Origin::answering(|_| ok("reached"));
    (Setup::of(&[&origin]).listener(listener).start(), origin)
}

/// Sends bytes, expects a status and the end of the connection.
fn refused(proxy: &Proxy, bytes: &str, status: u16) {
    let mut client = proxy.connect();
    client.send(bytes);
    let answer = client.broken_answer("GET");
    assert_eq!(answer.status, status, "{bytes:?}");
    assert!(answer.closes(), "{bytes:?}: {answer:?}");
    client.assert_closed();
}

#[test]
fn a_request_without_exactly_one_host_is_400() {
    let (proxy, origin) = proxy("");
    refused(&proxy, "GET / HTTP/1.1\r\n\r\n", 400);
    refused(&proxy, "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n", 400);
    refused(&proxy, "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\r\nhost: b.test\r\n\r\n", 400);
    refused(&proxy, "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", 400);
    refused(&proxy, "GET / HTTP/1.1\r\nHost: a.test/path\r\n\r\n", 400);
    refused(&proxy, "GET / HTTP/1.1\r\nHost: user@a.test\r\n\r\n", 400);
    assert_eq!(origin.count(), 0);
}

#[test]
fn an_empty_host_is_400() {
    let (proxy, _origin) = proxy("");
    refused(&proxy, "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400);
}

#[test]
fn http_1_0_may_come_without_a_host() {
    let (proxy, _origin) = proxy("");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "reached");
    client.assert_closed();
}

#[test]
fn a_length_beside_a_transfer_encoding_is_400() {
    let (proxy, origin) = proxy("");
    let post = |fields: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n"
        )
    };
    refused(&proxy, &post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400);
    refused(&proxy, &post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400);
    refused(&proxy, &post("transfer-encoding:\tchunked\r\nContent-Length: 0\r\n"), 400);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_transfer_encoding_other_than_chunked_is_400() {
    let (proxy, origin) = proxy("");
    for value in ["gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;a"]
    {
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: {value}\r\n\r\n");
        refused(&proxy, &head, 400);
    }
    let twice = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    refused(&proxy, &twice, 400);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_length_that_is_no_single_number_is_400() {
    let (proxy, origin) = proxy("");
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
    ] {
        refused(&proxy, &format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n1"), 400);
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_length_that_stands_twice_is_400() {
    let (proxy, _origin) = proxy("");
    let fields = "Content-Length: 1\r\nContent-Length: 1\r\n";
    refused(&proxy, &format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n1"), 400);
}

#[test]
fn what_is_not_http_is_400() {
    let (proxy, origin) = proxy("");
    for bytes in [
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nX\0: y\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "G\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.7\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1} a TLS greeting\r\n\r\n",
        "GET /\r\n\r\n",
    ] {
        let mut client = proxy.connect();
        client.send(bytes);
        let answer = client.broken_answer("GET");
        assert!([400, 505].contains(&answer.status), "{bytes:?}: {answer:?}");
        client.assert_closed();
    }
    assert_eq!(origin.count(), 0);
    let malformed = "headwater_http_parse_errors_total{listener=\"web\",reason=\"malformed\"}";
    assert!(proxy.metric(malformed) >= 9.0, "{}", proxy.metric(malformed));
}

#[test]
fn a_bad_request_behind_a_good_one_does_not_spoil_it() {
    let (proxy, origin) = proxy("");
    let mut client = proxy.connect();
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n\
         POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    assert_eq!(client.answer().text(), "reached");
    assert_eq!(client.answer().status, 400);
    client.assert_closed();
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_head_beyond_its_limits_is_431() {
    let (proxy, origin) = proxy("limits.header_bytes = \"1KiB\"\nlimits.headers = 10");
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n");
    refused(&proxy, &format!("{head}X: {}\r\n\r\n", "a".repeat(1100)), 431);
    refused(&proxy, &format!("{head}{}\r\n", "X: y\r\n".repeat(10)), 431);
    // It need not be complete to be too large.
    refused(&proxy, &format!("{head}X: {}", "a".repeat(5000)), 431);
    assert_eq!(origin.count(), 0);
    let many = format!("{head}{}\r\n", "X: y\r\n".repeat(9));
    let mut client = proxy.connect();
    client.send(many);
    assert_eq!(client.answer().status, 200);
    let series = "headwater_http_parse_errors_total{listener=\"web\",reason=\"head_too_large\"}";
    assert_eq!(proxy.metric(series), 3.0);
}

#[test]
fn a_target_beyond_its_limit_is_414() {
    let (proxy, origin) = proxy("limits.uri_bytes = \"128B\"");
    let get =
        |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "a".repeat(bytes - 1));
    refused(&proxy, &get(129), 414);
    refused(&proxy, &get(5000), 414);
    refused(&proxy, &format!("GET /{}", "a".repeat(300)), 414);
    assert_eq!(origin.count(), 0);
    let mut client = proxy.connect();
    client.send(get(128));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_head_that_does_not_come_in_time_is_408() {
    let (proxy, _origin) = proxy("timeouts.header = \"150ms\"");
    refused(&proxy, "GET / HTTP/1.1\r\nHost:", 408);
}

#[test]
fn a_late_head_is_counted_once() {
    let (proxy, _origin) = proxy("timeouts.header = \"150ms\"");
    refused(&proxy, "GET / HTTP/1.1\r\nHost:", 408);
    proxy.wait_for_metric("headwater_connections{listener=\"web\"}", 0.0);
    let series = "headwater_http_parse_errors_total{listener=\"web\",reason=\"head_timeout\"}";
    assert_eq!(proxy.metric(series), 1.0);
}

#[test]
fn a_client_that_sends_nothing_is_closed_without_an_answer() {
    let (proxy, _origin) = proxy("timeouts.header = \"150ms\"");
    proxy.connect().assert_closed();
}

#[test]
fn an_idle_connection_is_closed() {
    let (proxy, _origin) = proxy("timeouts.idle = \"150ms\"");
    let mut client = proxy.connect();
    assert_eq!(client.get("/", &[]).status, 200);
    client.assert_closed();
}

#[test]
fn an_idle_connection_after_an_upload_is_closed_silently() {
    let (proxy, _origin) = proxy("timeouts.header = \"150ms\"\ntimeouts.idle = \"400ms\"");
    let mut client = proxy.connect();
    assert_eq!(client.ask("POST", "/", &[], "body").status, 200);
    client.assert_closed();
}

#[test]
fn an_upload_that_is_answered_late_is_no_late_head() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number == 0 {
            waits.pass();
        }
        call.body();
        call.send(&ok("late"));
    });
    let proxy = Setup::of(&[&origin]).listener("timeouts.header = \"150ms\"").start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody"));
    origin.requests(1);
    // A connection that says nothing has the same time, and began later.
    proxy.connect().assert_closed();
    gate.open();
    assert_eq!(client.answer().text(), "late");
    assert_eq!(client.get("/", &[]).text(), "late");
}

#[test]
fn a_body_that_stops_coming_is_408() {
    let (proxy, _origin) = proxy("timeouts.body = \"150ms\"");
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nhalf"));
    let answer = client.broken_answer("POST");
    assert_eq!(answer.status, 408);
    client.assert_closed();
}

#[test]
fn trace_and_connect_are_405() {
    let (proxy, origin) = proxy("");
    let mut client = proxy.connect();
    client.send(format!("TRACE / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let answer = client.answer();
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").unwrap().contains("GET"));
    let mut client = proxy.connect();
    client.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"));
    assert_eq!(client.broken_answer("GET").status, 405);
    assert_eq!(origin.count(), 0);
}

#[test]
fn connections_beyond_the_limit_wait_until_one_ends() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.send(&ok("ok"));
        })
    };
    let proxy = Setup::of(&[&origin]).listener("limits.connections = 1").start();
    let mut first = proxy.connect();
    first.send(format!("GET /at-work HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    let mut second: Client = proxy.connect();
    second.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let series = "headwater_connections_rejected_total{listener=\"web\",reason=\"limit\"}";
    proxy.wait_for_metric(series, 1.0);
    gate.open();
    assert_eq!(first.answer().status, 200);
    drop(first);
    assert_eq!(second.answer().status, 200);
}

#[test]
fn a_bare_line_feed_in_chunked_framing_ends_the_connection() {
    let origin = Origin::answering(|_| ok("ok"));
    let proxy = Setup::of(&[&origin]).start();
    for body in ["0\r\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "1\nx\r\n0\r\n\r\n"] {
        let mut client = proxy.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(!rest.starts_with("HTTP/1.1 200"), "{rest}");
        assert!(rest.matches("HTTP/1.1 ").count() <= 1, "{rest}");
    }
    assert_eq!(origin.count_of("/smuggled"), 0);
}

#[test]
fn what_comes_with_something_too_large_and_before_it_is_answered() {
    let (proxy, origin) = proxy("limits.uri_bytes = \"128B\"\nlimits.header_bytes = \"1KiB\"");
    let good = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for (bad, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "a".repeat(200)), 414),
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}\r\n\r\n", "a".repeat(1100)), 431),
    ] {
        let mut client = proxy.connect();
        client.send(format!("{good}{good}{bad}"));
        assert_eq!(client.answer().text(), "reached");
        assert_eq!(client.answer().text(), "reached");
        assert_eq!(client.answer().status, status);
        client.assert_closed();
    }
    assert_eq!(origin.count(), 4);
}

#[test]
fn a_body_whose_framing_is_broken_in_the_first_packet_is_400() {
    let (proxy, _origin) = proxy("");
    let mut client = proxy.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\n\n"
    ));
    assert_eq!(client.broken_answer("POST").status, 400);
    client.assert_closed();
}

#[test]
fn as_many_connections_are_served_as_the_limit_says_whichever_socket_they_come_to() {
    let origin = Origin::answering(|_| ok("reached"));
    let setup = Setup::of(&[&origin]).process("workers = 4").text(
        "[listener.other]\nbind = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nlimits.connections = 3",
    );
    let proxy = setup.start();
    let address = proxy.address_of("other");
    // Eight sockets share three places; none is held by a socket that nobody comes to.
    for _ in 0..20 {
        let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(address)).collect();
        for client in &mut clients {
            assert_eq!(client.get("/", &[]).status, 200);
        }
    }
}

#[test]
fn a_target_of_another_scheme_or_without_a_host_field_is_refused() {
    let (proxy, origin) = proxy("");
    for target in [
        format!("GET ftp://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET http://{HOST}/ HTTP/1.1\r\n\r\n"),
    ] {
        let mut client = proxy.connect();
        client.send(target);
        assert_eq!(client.answer().status, 400);
    }
    assert_eq!(origin.count(), 0);
}
