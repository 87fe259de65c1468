//! Limits of endpoints and the queue of a pool, which hold over all workers; states set by hand.

use std::sync::{Arc, Mutex};

use crate::support::origin::Gate;
use crate::support::{Client, HOST, Origin, Proxy, Setup, eventually, ok};

/// Holds `/held` until the gate opens; answers with its name.
fn held(name: &'static str, gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted(move |call| {
        if call.request.target() == "/held" {
            gate.pass();
        }
        call.send(&ok(name));
    })
}

fn ask(proxy: &Proxy, target: &str) -> Client {
    let mut client = proxy.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    client
}

#[test]
fn requests_that_wait_are_served_in_their_order_whatever_worker_they_are_on() {
    let gate = Gate::default();
    let order = Arc::new(Mutex::new(Vec::new()));
    let origin = {
        let (gate, order) = (gate.clone(), order.clone());
        Origin::scripted(move |call| {
            order.lock().unwrap().push(call.request.target().to_owned());
            gate.pass();
            call.send(&ok(""));
        })
    };
    let proxy = Setup::of(&[&origin])
        .process("workers = 4")
        .pool_lines("limits = { requests = 1, queue_timeout = \"10s\" }")
        .route("cache = false")
        .start();
    let mut clients = vec![ask(&proxy, "/0")];
    origin.requests(1);
    // Each on a connection of its own: the kernel spreads them over the workers.
    for number in 1..=12 {
        clients.push(ask(&proxy, &format!("/{number}")));
        proxy.wait_for_metric("headwater_queue_length{pool=\"app\"}", f64::from(number));
    }
    assert_eq!(proxy.endpoint(&origin)["at_limit"], true);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let expected: Vec<_> = (0..=12).map(|number| format!("/{number}")).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    assert_eq!(proxy.endpoint(&origin)["at_limit"], false);
}

#[test]
fn whoever_finds_the_queue_full_or_waits_in_vain_gets_503_and_is_counted() {
    let gate = Gate::default();
    let origin = held("", &gate);
    let proxy = Setup::of(&[&origin])
        .pool_lines("limits = { requests = 1, queue = 1, queue_timeout = \"1s\" }")
        .route("cache = false")
        .start();
    let mut first = ask(&proxy, "/held");
    origin.requests(1);
    let mut second = ask(&proxy, "/held");
    proxy.wait_for_metric("headwater_queue_length{pool=\"app\"}", 1.0);
    let full = proxy.get("/held", &[]);
    let timed_out = second.answer();
    for refused in [&full, &timed_out] {
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    }
    let rejected = |reason: &str| {
        let series = "headwater_queue_rejected_total";
        proxy.metric(&format!("{series}{{pool=\"app\",reason=\"{reason}\"}}"))
    };
    assert_eq!((rejected("full"), rejected("timeout")), (1.0, 1.0));
    gate.open();
    assert_eq!(first.answer().status, 200);
}

#[test]
fn at_the_limit_of_connections_those_at_rest_on_other_workers_are_closed_first() {
    let gate = Gate::default();
    let origin = held("", &gate);
    let proxy = Setup::of(&[&origin])
        .process("workers = 4")
        .pool_lines("limits = { connections = 2, queue_timeout = \"10s\" }")
        .route("cache = false")
        .start();
    // Wherever these rest, others need them.
    for _ in 0..40 {
        let mut clients = [ask(&proxy, "/"), ask(&proxy, "/")];
        for client in &mut clients {
            assert_eq!(client.answer().status, 200);
        }
    }
    let connections = &proxy.endpoint(&origin)["connections"];
    let open = connections["active"].as_u64().unwrap() + connections["idle"].as_u64().unwrap();
    assert!(open <= 2, "{connections}");
}

// By hand.

fn set_up(a: &Origin, b: &Origin) -> Setup {
    Setup::of(&[a, b]).pool_lines("balance = \"round_robin\"").route("cache = false")
}

#[test]
fn a_draining_endpoint_gets_nothing_new_and_what_is_under_way_ends() {
    let gate = Gate::default();
    let (a, b) = (held("a", &gate), held("b", &Gate::default()));
    let setup = set_up(&a, &b);
    let proxy = setup.start();
    let mut under_way = ask(&proxy, "/held");
    a.requests(1);
    proxy.set_by_hand(&a, "drain");
    assert_eq!(proxy.endpoint(&a)["state"], "draining");
    for _ in 0..4 {
        assert_eq!(proxy.get("/", &[]).text(), "b");
    }
    // A reload, even one that makes all connections anew, does not bring it back.
    proxy.reload(&setup.pool_lines("keepalive = \"9s\""));
    for _ in 0..4 {
        assert_eq!(proxy.get("/", &[]).text(), "b");
    }
    let endpoint = proxy.endpoint(&a);
    assert_eq!((&endpoint["manual"], &endpoint["in_flight"]), (&"drain".into(), &1.into()));
    gate.open();
    assert_eq!(under_way.answer().text(), "a");
    proxy.set_by_hand(&a, "ready");
    let answers = [proxy.get("/", &[]).text(), proxy.get("/", &[]).text()];
    assert!(answers.contains(&"a".to_owned()));
}

#[test]
fn an_endpoint_that_is_down_loses_its_connections_at_rest() {
    let gate = Gate::default();
    gate.open();
    let (a, b) = (held("a", &gate), held("b", &gate));
    let proxy = set_up(&a, &b).start();
    let mut client = proxy.connect();
    let answers = [client.get("/", &[]).text(), client.get("/", &[]).text()];
    assert_eq!(answers, ["a", "b"]);
    proxy.set_by_hand(&a, "down");
    a.wait_for_closed(1);
    assert_eq!(proxy.endpoint(&a)["state"], "down");
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).text(), "b");
    }
    let healthy = |origin: &Origin| {
        proxy.metric(&format!("headwater_endpoint_healthy{{pool=\"app\",endpoint=\"{origin}\"}}"))
    };
    assert_eq!((healthy(&a), healthy(&b)), (0.0, 1.0));
    assert_eq!(proxy.endpoint(&b)["connections"]["idle"], 1);
}

#[test]
fn with_all_endpoints_taken_out_it_is_503_at_once() {
    let gate = Gate::default();
    let (a, b) = (held("a", &gate), held("b", &gate));
    let proxy = set_up(&a, &b).start();
    proxy.set_by_hand(&a, "drain");
    proxy.set_by_hand(&b, "down");
    let refused = proxy.get("/", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    proxy.set_by_hand(&b, "ready");
    assert_eq!(eventually("an answer", || Some(proxy.get("/", &[]))).text(), "b");
}
