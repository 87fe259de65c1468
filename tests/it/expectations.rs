//! `Expect: 100-continue` (RFC 9110 §10.1.1): the client is told to go on once its body is read, which
//! is before there is an endpoint for it where bodies are buffered, and the final status at once where
//! there is none.

use crate::support::origin::{Gate, Refusing};
use crate::support::{Client, Origin, Proxy, Setup, client, ok};

fn expecting(proxy: &Proxy, target: &str, fields: &[&str]) -> Client {
    let mut client = proxy.connect();
    let expectation = ["Content-Length: 4", "Expect: 100-continue"];
    client.send(client::request("POST", target, &[&expectation, fields].concat()));
    client
}

#[test]
fn the_client_goes_on_before_the_endpoint_has_answered_and_the_endpoint_is_not_asked_to() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        call.body();
        waits.pass();
        let body = call.request.body.clone();
        call.send(&ok(body));
    });
    for protocol in ["retry = false", "retry = {}"] {
        let proxy = Setup::of(&[&origin]).pool_lines(protocol).start();
        let mut client = expecting(&proxy, "/", &[]);
        assert_eq!(client.answer_head().start_line(), "HTTP/1.1 100 Continue");
        client.send("body");
        gate.open();
        assert_eq!(client.answer().text(), "body");
        // Told to go on once, and not with the next request.
        assert_eq!(client.ask("POST", "/", &[], "more").text(), "more");
    }
    for number in 0..4 {
        assert_eq!(origin.request(number).header("expect"), None);
    }
}

#[test]
fn who_is_refused_is_told_so_and_not_to_go_on() {
    let origin = Origin::answering(|_| ok(""));
    let refusing = Refusing::new();
    let route = |path: &str, lines: &str| {
        format!("[[route]]\npaths = [\"{path}\"]\npool = \"app\"\n{lines}\n")
    };
    let proxy = Setup::of(&[&origin])
        .route("paths = [\"/small\"]\nbody_max = \"3B\"")
        .text(&route("/denied", "deny = [\"127.0.0.0/8\"]"))
        .text(&route("/get", "methods = [\"GET\"]"))
        .text(&route("/in-circles", ""))
        .text(&format!("[pool.gone]\nendpoints = [\"{refusing}\"]\nretry = false\n"))
        .text(&route("/unreachable", "buffer = false").replace("app", "gone"))
        .text("[pool.full]\nendpoints = [\"127.0.0.1:1\"]\nlimits = { queue = 0 }\n")
        .text("[[route]]\npaths = [\"/drained\"]\npool = \"full\"\n")
        .start();
    let down = "/api/pools/full/endpoints/127.0.0.1%3A1";
    assert_eq!(put(&proxy, down, "{\"state\": \"down\"}"), 200);
    let circles = "CDN-Loop: headwater, headwater, headwater";
    for (target, fields, status) in [
        ("/none", &[][..], 404),
        ("/denied", &[], 403),
        ("/get", &[], 405),
        ("/small", &[], 413),
        ("/in-circles", &[circles], 508),
        ("/drained", &[], 503),
        ("/unreachable", &[], 502),
    ] {
        let mut client = expecting(&proxy, target, fields);
        assert_eq!(client.answer().status, status, "{target}");
    }
    assert_eq!(origin.count(), 0);
}

/// RFC 9110 §10.1.1: a client of HTTP/1.0 does not know what to make of it.
#[test]
fn a_client_of_http_1_0_is_not_told_to_go_on() {
    let origin = Origin::answering(|request| ok(&request.body));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody");
    assert_eq!(client.answer().text(), "body");
}

fn put(proxy: &Proxy, path: &str, body: &str) -> u16 {
    let mut client = Client::connect(proxy.admin());
    let length = format!("Content-Length: {}", body.len());
    let host = format!("Host: {}", proxy.admin());
    client.send(format!(
        "PUT {path} HTTP/1.1\r\n{host}\r\nContent-Type: application/json\r\n{length}\r\n\r\n{body}"
    ));
    client.answer().status
}
