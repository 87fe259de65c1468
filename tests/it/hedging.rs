//! A second try beside one that takes long.

use crate::support::origin::Gate;
use crate::support::{HOST, Origin, Proxy, Setup, eventually, ok};

const SLOW: &str = "/slow";

/// Holds requests for `/slow` until the gate opens or the connection ends; answers the others with
/// its name.
fn held(name: &'static str, gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted(move |call| {
        if call.request.target() == SLOW {
            gate.pass();
        }
        if call.body() {
            call.send(&ok(name));
        }
    })
}

fn hedges(proxy: &Proxy) -> (f64, f64) {
    (
        proxy.metric("headwater_retries_total{pool=\"app\",reason=\"hedge\"}"),
        proxy.metric("headwater_hedges_won_total{pool=\"app\"}"),
    )
}

/// The first request goes to `slow`, the next to `quick`.
fn setup(slow: &Origin, quick: &Origin, lines: &str) -> Setup {
    Setup::of(&[slow, quick])
        .pool_lines(&format!("balance = \"round_robin\"\n{lines}"))
        .route("cache = false")
}

#[test]
fn a_request_that_takes_long_is_answered_by_a_second_try_and_the_first_is_given_up() {
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let (slow, quick) = (held("slow", &gate), held("quick", &open));
    let proxy = setup(&slow, &quick, "retry.hedge_after = \"20ms\"").start();
    let answer = proxy.get(SLOW, &[]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
    assert_eq!(hedges(&proxy), (1.0, 1.0));
    let logged = proxy.access(answer.header("x-request-id").unwrap());
    assert_eq!(logged["attempts"], 2);
    assert_eq!(logged["endpoint"], quick.to_string());
    assert_eq!(proxy.endpoint(&slow)["in_flight"], 0);
    gate.open();
    slow.wait_for_closed(1);
}

#[test]
fn without_hedging_a_slow_answer_is_waited_for() {
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let (slow, quick) = (held("slow", &gate), held("quick", &open));
    let proxy = setup(&slow, &quick, "retry.hedge_after = \"off\"").start();
    let mut client = proxy.connect();
    client.send(format!("GET {SLOW} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    slow.requests(1);
    // Another one is through meanwhile.
    assert_eq!(proxy.get("/", &[]).text(), "quick");
    gate.open();
    assert_eq!(client.answer().text(), "slow");
    assert_eq!(hedges(&proxy), (0.0, 0.0));
}

#[test]
fn only_what_may_be_sent_twice_is() {
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let (slow, quick) = (held("slow", &gate), held("quick", &open));
    let proxy = setup(&slow, &quick, "retry.hedge_after = \"10ms\"").start();
    let mut client = proxy.connect();
    client.send(format!("POST {SLOW} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx"));
    slow.requests(1);
    // The second of these is hedged: by then the time of the first request has passed as well.
    for _ in 0..2 {
        assert_eq!(proxy.get(SLOW, &[]).text(), "quick");
    }
    assert_eq!(hedges(&proxy), (1.0, 1.0));
    gate.open();
    assert_eq!(client.answer().text(), "slow");
    assert_eq!(hedges(&proxy), (1.0, 1.0));
}

#[test]
fn a_second_try_sends_the_body_again() {
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let (slow, quick) = (held("slow", &gate), held("quick", &open));
    let proxy = setup(&slow, &quick, "retry.hedge_after = \"50ms\"").start();
    let body = "some body ".repeat(100);
    assert_eq!(proxy.connect().ask("PUT", SLOW, &[], &body).text(), "quick");
    assert_eq!(quick.request(0).text(), body);
    gate.open();
    assert_eq!(hedges(&proxy), (1.0, 1.0));
}

#[test]
fn the_budget_bounds_second_tries() {
    let gate = Gate::default();
    let (a, b) = (held("a", &gate), held("b", &gate));
    let proxy = setup(&a, &b, "retry = { hedge_after = \"1ms\", budget = \"0%\" }").start();
    let mut waiting = Vec::new();
    // The first hundred of ten seconds are always allowed.
    for _ in 0..110 {
        let mut client = proxy.connect();
        client.send(format!("GET {SLOW} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        waiting.push(client);
    }
    proxy.wait_for_metric("headwater_retry_budget_exhausted_total{pool=\"app\"}", 10.0);
    assert_eq!(hedges(&proxy), (100.0, 0.0));
    gate.open();
    for mut client in waiting {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn by_default_a_hung_endpoint_costs_a_second_and_is_ejected() {
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let hung = held("hung", &gate);
    let good = [held("good", &open), held("good", &open)];
    let proxy = Setup::of(&[&hung, &good[0], &good[1]])
        .pool_lines(
            "balance = \"round_robin\"\noutlier.failures = 3\n\
             health = { tcp = true, interval = \"50ms\" }",
        )
        .route("cache = false")
        .start();
    let mut clients: Vec<_> = (0..12).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(format!("GET {SLOW} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    }
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
    }
    let endpoint = proxy.endpoint(&hung);
    assert_eq!(endpoint["state"], "ejected");
    assert!(endpoint["reason"].to_string().contains("time out"), "{endpoint}");
    // Checks that pass shorten nothing.
    let series = format!(
        "headwater_health_checks_total{{pool=\"app\",endpoint=\"{hung}\",result=\"success\"}}"
    );
    let before = proxy.metric(&series);
    eventually("more checks", || (proxy.metric(&series) >= before + 12.0).then_some(()));
    assert_eq!(proxy.endpoint(&hung)["state"], "ejected");
    gate.open();
}

#[test]
fn long_polls_are_not_doubled_but_for_the_first() {
    let poll = || {
        Origin::scripted(|call| {
            if call.request.target().starts_with("/poll") {
                call.takes(std::time::Duration::from_millis(1800));
            }
            call.send(&ok("polled"));
        })
    };
    let (a, b) = (poll(), poll());
    let proxy = setup(&a, &b, "").start();
    for round in 0..2 {
        let mut clients: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let path = format!("/poll/{round}{number}");
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        }
        for client in &mut clients {
            assert_eq!(client.answer().text(), "polled");
        }
        assert!(a.count() + b.count() <= 6 * (round + 1) + 1, "{} {}", a.count(), b.count());
    }
    let ejections = format!("headwater_ejections_total{{pool=\"app\",endpoint=\"{a}\"}}");
    assert_eq!(proxy.metric(&ejections), 0.0);
}

#[test]
fn a_percentile_is_learnt_before_it_counts() {
    let (gate, open) = (Gate::default(), Gate::default());
    open.open();
    let (slow, quick) = (held("slow", &gate), held("quick", &open));
    let proxy = setup(&slow, &quick, "retry.hedge_after = \"p99\"").start();
    let mut client = proxy.connect();
    for _ in 0..200 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!(client.get(SLOW, &[]).text(), "quick");
    assert_eq!(client.get(SLOW, &[]).text(), "quick");
    let (made, won) = hedges(&proxy);
    assert!(made >= 1.0 && won >= 1.0, "{made} {won}");
    gate.open();
}
