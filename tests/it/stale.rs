//! When a stale response is the answer, and when it must not be (RFC 9111 §4.2.4, §5.2.1,
//! RFC 5861).

use crate::support::client::request;
use crate::support::origin::{Call, Gate};
use crate::support::{Answer, HOST, Origin, Proxy, Setup, answer, eventually};

const STALE: &str = "headwater_cache_requests_total{route=\"app\",status=\"stale\"}";

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("none")
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("headwater; hit; ttl=") && !status(answer).contains("ttl=-")
}

/// An origin whose first answer is stored ten seconds after its end, and which follows `then`
/// afterwards.
fn ageing(
    control: &'static str,
    then: impl Fn(&mut Call) + Send + Sync + 'static,
) -> (Origin, Setup) {
    let origin = Origin::scripted(move |call| match call.number {
        0 => {
            let control = format!("Cache-Control: max-age=60{control}");
            call.send(&answer(200, &[&control, "Age: 70", "ETag: \"v1\""], "old"));
        }
        _ => then(call),
    });
    let setup = Setup::of(&[&origin]).pool_lines("retry = false\noutlier = false");
    (origin, setup)
}

fn started(setup: &Setup) -> Proxy {
    let proxy = setup.start();
    assert_eq!(proxy.get("/", &[]).text(), "old");
    proxy
}

fn sends(status: u16) -> impl Fn(&mut Call) + Send + Sync + 'static {
    move |call| {
        call.send(&answer(status, &[], "error"));
    }
}

fn hangs_up(call: &mut Call) {
    call.close();
}

fn renews(call: &mut Call) {
    call.send(&answer(200, &["Cache-Control: max-age=60", "ETag: \"v2\""], "new"));
}

fn assert_stale(answer: &Answer, begins: &str, detail: &str) {
    assert_eq!((answer.status, answer.text().as_str()), (200, "old"), "{}", status(answer));
    let words = status(answer);
    assert!(words.starts_with(&format!("{begins}; ttl=-1")), "{words}");
    assert!(words.ends_with(&format!("; detail={detail}")), "{words}");
    assert!(answer.header("age").unwrap().parse::<u64>().unwrap() >= 70);
}

/// RFC 5861 §3.
#[test]
fn a_stale_response_is_served_while_one_request_fetches_it_anew() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (origin, setup) = ageing(", stale-while-revalidate=60", move |call| {
        waits.pass();
        renews(call);
    });
    let proxy = started(&setup.process("workers = 2"));
    for _ in 0..10 {
        assert_stale(&proxy.get("/", &[]), "headwater; hit", "stale-while-revalidate");
    }
    assert_eq!(origin.request(1).header("if-none-match"), Some("\"v1\""));
    gate.open();
    let new =
        eventually("the refresh", || Some(proxy.get("/", &[])).filter(|it| it.text() != "old"));
    assert!(is_hit(&new), "{}", status(&new));
    assert_eq!((new.text().as_str(), origin.count()), ("new", 2));
    assert!(proxy.metric(STALE) >= 10.0);
}

#[test]
fn a_304_to_a_refresh_makes_the_response_fresh_again() {
    let (origin, setup) = ageing(", stale-while-revalidate=60", |call| {
        call.send(&answer(304, &["ETag: \"v1\"", "Cache-Control: max-age=60"], ""));
    });
    let proxy = started(&setup);
    let hit = eventually("the refresh", || Some(proxy.get("/", &[])).filter(is_hit));
    assert_eq!((hit.text().as_str(), origin.count()), ("old", 2));
}

#[test]
fn a_refresh_outlives_the_client_that_caused_it() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (origin, setup) = ageing(", stale-while-revalidate=60", move |call| {
        waits.pass();
        renews(call);
    });
    let proxy = started(&setup);
    let mut client = proxy.connect();
    client.send(request("HEAD", "/", &[]));
    assert!(status(&client.head_answer()).ends_with("stale-while-revalidate"));
    drop(client);
    assert_eq!(origin.request(1).method(), "GET");
    gate.open();
    eventually("the refresh", || Some(proxy.get("/", &[])).filter(is_hit));
    assert_eq!(origin.count(), 2);
}

#[test]
fn who_may_not_have_the_stale_response_joins_its_refresh() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (origin, setup) = ageing(", stale-while-revalidate=60", move |call| {
        waits.pass();
        renews(call);
    });
    let proxy = started(&setup.route("cache.client_directives = \"obey\""));
    assert_eq!(proxy.get("/", &[]).text(), "old");
    origin.requests(2);
    let mut client = proxy.connect();
    client.send(request("GET", "/", &["Cache-Control: no-cache"]));
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 1.0);
    gate.open();
    let joined = client.answer();
    assert_eq!((joined.text().as_str(), origin.count()), ("new", 2));
    assert_eq!(status(&joined), "headwater; fwd=stale; collapsed");
}

#[test]
fn a_refresh_that_fails_is_tried_again_and_the_response_kept() {
    let (origin, setup) = ageing(", stale-while-revalidate=60", |call| match call.number {
        1 => hangs_up(call),
        2 => sends(503)(call),
        _ => renews(call),
    });
    let proxy = started(&setup);
    eventually("the refresh", || {
        let answer = proxy.get("/", &[]);
        assert_eq!(answer.status, 200);
        (answer.text() == "new").then_some(())
    });
    assert_eq!(origin.count(), 4);
}

/// RFC 5861 §4.
#[test]
fn stale_if_error_covers_errors_of_every_kind() {
    for code in [500, 502, 503, 504] {
        let (_origin, setup) = ageing(", stale-if-error=60", sends(code));
        let begins = format!("headwater; fwd=stale; fwd-status={code}");
        let proxy = started(&setup);
        assert_stale(&proxy.get("/", &[]), &begins, "stale-if-error");
        assert_eq!(proxy.metric(STALE), 1.0);
    }
    let (_origin, setup) = ageing(", stale-if-error=60", hangs_up);
    assert_stale(&started(&setup).get("/", &[]), "headwater; fwd=stale", "stale-if-error");
    let (_origin, setup) = ageing(", stale-if-error=60", Call::wait_for_end);
    let proxy = started(&setup.pool_lines("timeouts.first_byte = \"50ms\""));
    assert_stale(&proxy.get("/", &[]), "headwater; fwd=stale", "stale-if-error");
}

#[test]
fn stale_if_error_covers_no_other_status_and_not_for_ever() {
    for code in [404, 410, 501] {
        let (_origin, setup) = ageing(", stale-if-error=60", sends(code));
        assert_eq!(started(&setup).get("/", &[]).status, code);
    }
    for control in [", stale-if-error=10", ", stale-if-error=0", ""] {
        let (_origin, setup) = ageing(control, sends(503));
        assert_eq!(started(&setup).get("/", &[]).status, 503, "{control}");
    }
}

/// RFC 9111 §4.2.4.
#[test]
fn an_origin_out_of_reach_is_stood_in_for_without_a_word() {
    let (_origin, setup) = ageing("", hangs_up);
    let proxy = started(&setup);
    assert_stale(&proxy.get("/", &[]), "headwater; fwd=stale", "disconnected");

    let (origin, setup) = ageing("", renews);
    let proxy = started(&setup);
    drop(origin);
    for _ in 0..3 {
        assert_stale(&proxy.get("/", &[]), "headwater; fwd=stale", "disconnected");
    }
}

#[test]
fn a_slow_origin_is_within_reach() {
    let (_origin, setup) = ageing("", Call::wait_for_end);
    let proxy = started(&setup.pool_lines("timeouts.first_byte = \"300ms\""));
    let failed = proxy.get("/", &[]);
    assert_eq!(failed.status, 504);
    assert_eq!(status(&failed), "headwater; fwd=stale; detail=first_byte_timeout");
}

/// RFC 9111 §4.2.4, §5.2.2.2, §5.2.2.4, §5.2.2.8, §5.2.2.10.
#[test]
fn directives_that_forbid_stale_answers_win() {
    for control in [
        ", must-revalidate, stale-while-revalidate=60, stale-if-error=60",
        ", proxy-revalidate, stale-while-revalidate=60, stale-if-error=60",
        ", s-maxage=60, stale-while-revalidate=60, stale-if-error=60",
        ", no-cache, stale-while-revalidate=60, stale-if-error=60",
    ] {
        let (origin, setup) = ageing(control, hangs_up);
        let setup = setup.route("cache.client_directives = \"obey\"");
        let proxy = started(&setup);
        assert_eq!(proxy.get("/", &[]).status, 502, "{control}");
        assert_eq!(proxy.get("/", &["Cache-Control: max-stale"]).status, 502, "{control}");
        assert_eq!(origin.count(), 3, "{control}");
    }
}

#[test]
fn stale_if_error_of_zero_ends_it_even_out_of_reach() {
    let (_origin, setup) = ageing("", hangs_up);
    let proxy = started(&setup.route("cache.stale_if_error = \"0s\""));
    assert_eq!(proxy.get("/", &[]).status, 502);
}

#[test]
fn a_route_says_how_stale_where_the_response_does_not() {
    let (_origin, setup) = ageing("", sends(503));
    let lines = "cache = { stale_if_error = \"1m\", stale_while_revalidate = \"5s\" }";
    let proxy = started(&setup.route(lines));
    assert_stale(&proxy.get("/", &[]), "headwater; fwd=stale; fwd-status=503", "stale-if-error");
    let (_origin, setup) = ageing("", renews);
    let proxy = started(&setup.route("cache.stale_while_revalidate = \"1m\""));
    assert_stale(&proxy.get("/", &[]), "headwater; hit", "stale-while-revalidate");
    let (_origin, setup) = ageing(", stale-if-error=5, stale-while-revalidate=5", sends(503));
    let lines = "cache = { stale_if_error = \"1m\", stale_while_revalidate = \"1m\" }";
    assert_eq!(started(&setup.route(lines)).get("/", &[]).status, 503);
}

#[test]
fn everybody_who_waits_gets_the_stale_response() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (origin, setup) = ageing(", stale-if-error=60", move |call| {
        waits.pass();
        sends(503)(call);
    });
    let proxy = started(&setup.process("workers = 2"));
    let mut clients: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(request("GET", "/", &[]));
    }
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 6.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "old");
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn head_is_stood_in_for_as_well() {
    let (_origin, setup) = ageing("", hangs_up);
    let proxy = started(&setup);
    let mut client = proxy.connect();
    client.send(request("HEAD", "/", &[]));
    let answer = client.head_answer();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("3")));
    assert!(status(&answer).ends_with("; detail=disconnected"), "{}", status(&answer));
}

#[test]
fn a_client_that_holds_the_stale_response_is_told_so() {
    let (_origin, setup) = ageing("", hangs_up);
    assert_eq!(started(&setup).get("/", &["If-None-Match: \"v1\""]).status, 304);
}

#[test]
fn what_was_purged_stands_in_for_nothing() {
    let (_origin, setup) = ageing(", stale-if-error=60", sends(503));
    let proxy = started(&setup);
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/\"]}}")), 1);
    assert_eq!(proxy.get("/", &[]).status, 503);
}

#[test]
fn only_if_cached_takes_what_may_be_served_stale_and_nothing_else() {
    let only = ["Cache-Control: only-if-cached"];
    let (_origin, setup) = ageing(", stale-while-revalidate=60", renews);
    assert_eq!(started(&setup).get("/", &only).text(), "old");
    let (origin, setup) = ageing(", stale-if-error=60", renews);
    let refused = started(&setup).get("/", &only);
    assert_eq!((refused.status, status(&refused)), (504, "headwater; detail=only-if-cached"));
    assert_eq!(origin.count(), 1);
}

/// How `Cache-Status` tells of one further request with this `Cache-Control`, for what is ten
/// seconds old and fresh for a minute.
fn demanding(rules: &str, control: &str) -> String {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some(_) => answer(304, &["ETag: \"v1\"", "Cache-Control: max-age=60"], ""),
        None => answer(200, &["ETag: \"v1\"", "Cache-Control: max-age=60", "Age: 10"], "body"),
    });
    let proxy = Setup::of(&[&origin]).route(rules).start();
    proxy.get("/", &[]);
    let answer = proxy.get("/", &[control]);
    assert_eq!(answer.text(), "body");
    status(&answer).to_owned()
}

/// RFC 9111 §5.2.1.
#[test]
fn demands_of_clients_count_where_the_route_obeys_them() {
    let obey = "cache.client_directives = \"obey\"";
    for control in [
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0",
        "Cache-Control: max-age=9",
        "Cache-Control: min-fresh=51",
        "Pragma: no-cache",
    ] {
        let forced = demanding(obey, control);
        assert!(forced.starts_with("headwater; fwd=request; fwd-status=304; stored"), "{control}");
        for rules in ["cache = true", "cache.client_directives = \"ignore\""] {
            assert!(demanding(rules, control).starts_with("headwater; hit"), "{control}");
        }
    }
    for control in [
        "Cache-Control: max-age=30",
        "Cache-Control: min-fresh=30",
        "Cache-Control: max-stale",
        "Cache-Control: unknown=1",
    ] {
        assert!(demanding(obey, control).starts_with("headwater; hit"), "{control}");
    }
}

#[test]
fn max_stale_allows_what_is_stale_up_to_its_value() {
    let (origin, setup) = ageing("", renews);
    let proxy = started(&setup.route("cache.client_directives = \"obey\""));
    for control in ["Cache-Control: max-stale", "Cache-Control: max-stale=30"] {
        assert_stale(&proxy.get("/", &[control]), "headwater; hit", "max-stale");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.get("/", &["Cache-Control: max-stale=5"]).text(), "new");
}

#[test]
fn forced_revalidations_that_come_together_are_one() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number > 0 {
            waits.pass();
        }
        renews(call);
    });
    let setup = Setup::of(&[&origin]).route("cache.client_directives = \"obey\"");
    let proxy = setup.process("workers = 2").start();
    proxy.get("/", &[]);
    let mut clients: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(request("GET", "/", &["Cache-Control: no-cache"]));
    }
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 6.0);
    // Who can use what is stored does not wait with them.
    assert!(is_hit(&proxy.get("/", &[])));
    gate.open();
    for client in &mut clients {
        let answer = client.answer();
        assert!(status(&answer).contains("fwd=request"), "{}", status(&answer));
    }
    assert_eq!(origin.count(), 2);
}
