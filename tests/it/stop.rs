//! Stopping: nothing that was accepted is lost, and nothing lasts for ever.

use rustix::process::Signal;

use crate::support::origin::Gate;
use crate::support::{Client, HOST, Origin, Proxy, Setup, eventually, ok};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

/// An origin that answers once its gate is open, and a proxy in front.
fn gated(process: &str) -> (Gate, Origin, Proxy) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() == "/held" {
            waits.pass();
        }
        call.send(&ok("finished"));
    });
    let proxy = Setup::of(&[&origin]).process(process).start();
    (gate, origin, proxy)
}

/// A request that is under way.
fn hold(origin: &Origin, proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send(format!("GET /held HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    client
}

#[test]
fn an_idle_process_ends_at_once() {
    for signal in [Signal::Term, Signal::Int] {
        let mut proxy = Setup::empty().text(HELLO).start();
        proxy.signal(signal);
        assert_eq!(proxy.exit_code(), 0);
        proxy.wait_for_log("stopped");
    }
}

#[test]
fn requests_under_way_are_finished() {
    let (gate, origin, mut proxy) = gated("workers = 2");
    let mut held = hold(&origin, &proxy);
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    assert!(proxy.is_running());
    gate.open();
    let answer = held.answer();
    assert_eq!(answer.text(), "finished");
    assert!(answer.closes());
    held.assert_closed();
    assert_eq!(proxy.exit_code(), 0);
    assert_eq!(proxy.access("/held")["status"], 200, "its line was still written");
}

#[test]
fn an_idle_connection_gets_one_more_request_answered() {
    let mut proxy = Setup::empty().text(HELLO).start();
    let mut client = proxy.connect();
    assert!(!client.get("/", &[]).closes());
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    let last = client.get("/", &[]);
    assert_eq!(last.text(), "hello");
    assert!(last.closes());
    client.assert_closed();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_connection_that_has_asked_nothing_yet_gets_an_answer_too() {
    let mut proxy = Setup::empty().text(HELLO).start();
    let mut client = proxy.connect();
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let answer = client.answer();
    assert_eq!(answer.text(), "hello");
    assert!(answer.closes());
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn every_connection_that_the_kernel_took_is_served() {
    let mut proxy = Setup::empty().process("workers = 2").text(HELLO).start();
    let clients = (0..100).map(|_| {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        client
    });
    let clients: Vec<_> = clients.collect();
    proxy.terminate();
    for mut client in clients {
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn readiness_is_off_before_the_listeners_are() {
    let mut proxy = Setup::empty().process("shutdown_delay = \"1h\"").text(HELLO).start();
    assert_eq!(proxy.api_get("/readyz").status, 200);
    proxy.terminate();
    eventually("unreadiness", || (proxy.api_get("/readyz").status == 503).then_some(()));
    assert_eq!(proxy.api_get("/livez").status, 200);
    assert_eq!(proxy.api_get("/api/status").json()["state"], "leaving");
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.text(), "hello");
    // The second signal cuts the delay short.
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn the_deadline_cuts_what_is_still_open() {
    let (_gate, origin, mut proxy) = gated("drain_timeout = \"200ms\"");
    let mut held = hold(&origin, &proxy);
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 3);
    assert!(held.rest().is_empty());
    proxy.wait_for_log("cutting off");
    assert_eq!(proxy.access("/held")["status"], 499);
}

#[test]
fn a_second_signal_stops_at_once() {
    let (_gate, origin, mut proxy) = gated("drain_timeout = \"1h\"");
    let _held = hold(&origin, &proxy);
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 3);
}

#[test]
fn the_api_drains_like_a_signal() {
    let (gate, origin, mut proxy) = gated("");
    let mut held = hold(&origin, &proxy);
    assert_eq!(proxy.api_post("/api/drain", "").status, 202);
    proxy.wait_for_refusal(proxy.address());
    eventually("unreadiness", || (proxy.api_get("/readyz").status == 503).then_some(()));
    assert_eq!(proxy.api_post("/api/drain", "").status, 202, "asking again cuts nothing short");
    assert_eq!(proxy.api_post("/api/reload", "").status, 503);
    gate.open();
    assert_eq!(held.answer().text(), "finished");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_body_that_still_comes_is_taken() {
    let origin = Origin::answering(|request| ok(&request.body));
    let mut proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n01234"));
    origin.requests(1);
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    client.send("56789");
    assert_eq!(client.answer().text(), "0123456789");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_socket_file_is_taken_over_by_the_next_process() {
    let setup = Setup::empty().listener("bind = [\"127.0.0.1:0\", \"unix:web.sock\"]").text(HELLO);
    let mut first = setup.start();
    first.terminate();
    assert_eq!(first.exit_code(), 0);
    let again = Proxy::start(std::mem::take(&mut first.folder));
    let address = format!("unix:{}", again.folder.join("web.sock").display());
    let outer = Setup::of(&[&address]).start();
    assert_eq!(outer.get("/", &[]).text(), "hello");
}
