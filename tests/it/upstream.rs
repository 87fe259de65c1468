//! Endpoints that fail, and what a client sees of it.

use std::time::Duration;

use crate::support::origin::{Gate, Refusing};
use crate::support::{Call, HOST, Origin, Setup, answer, ok};

/// Never answers, until the connection ends.
fn silent(call: &mut Call) {
    call.wait_for_end();
}

#[test]
fn an_endpoint_that_refuses_is_502() {
    let refusing = Refusing::new();
    let proxy = Setup::of(&[&refusing]).pool_lines("retry = false").start();
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.status, 502);
    assert!(answer.header("x-request-id").is_some());
    let logged = proxy.access(answer.header("x-request-id").unwrap());
    assert_eq!((&logged["status"], &logged["error"]), (&502.into(), &"connect".into()));
}

#[test]
fn the_only_endpoint_that_refuses_is_502_after_all_tries() {
    let refusing = Refusing::new();
    let proxy = Setup::of(&[&refusing]).start();
    assert_eq!(proxy.get("/", &[]).status, 502);
}

#[test]
fn a_refused_connect_is_tried_on_another_endpoint_whatever_the_method() {
    let (refusing, origin) = (Refusing::new(), Origin::answering(|request| ok(&request.body)));
    let proxy = Setup::of(&[&refusing, &origin]).pool_lines("balance = \"round_robin\"").start();
    let mut client = proxy.connect();
    for body in ["one", "two", "three", "four"] {
        assert_eq!(client.ask("POST", "/", &[], body).text(), body);
    }
    let series = "headwater_retries_total{pool=\"app\",reason=\"connect\"}";
    assert!(proxy.metric(series) >= 1.0);
}

#[test]
fn an_endpoint_that_does_not_accept_is_502_after_the_connect_timeout() {
    let stalled = Refusing::new().stall();
    let proxy =
        Setup::of(&[&stalled]).pool_lines("retry = false\ntimeouts.connect = \"100ms\"").start();
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.status, 502);
    let logged = proxy.access(answer.header("x-request-id").unwrap());
    assert_eq!(logged["error"], "connect_timeout");
}

#[test]
fn a_reset_before_the_head_is_retried_for_get() {
    let origin = Origin::scripted(|call| match call.number {
        0 => call.reset(),
        _ => {
            call.send(&ok("second"));
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).text(), "second");
    assert_eq!(proxy.metric("headwater_retries_total{pool=\"app\",reason=\"reset\"}"), 1.0);
}

#[test]
fn a_reset_before_the_head_is_502_for_post() {
    let origin = Origin::scripted(|call| {
        call.body();
        call.reset();
    });
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.connect().ask("POST", "/", &[], "once");
    assert_eq!(answer.status, 502);
    assert_eq!(origin.count(), 1, "what was written may have taken effect");
}

#[test]
fn an_endpoint_that_closes_before_the_head_is_502() {
    let origin = Origin::scripted(Call::close);
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).status, 502);
    assert_eq!(origin.count(), 2, "two tries in all");
}

#[test]
fn a_post_on_a_resting_connection_that_was_closed_goes_out_on_a_new_one() {
    let origin = Origin::scripted(|call| {
        call.body();
        let body = call.request.body.clone();
        call.send(&ok(body));
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for body in ["one", "two", "three"] {
        let answer = client.ask("POST", "/", &[], body);
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        origin.wait_for_closed(origin.connections());
    }
    assert_eq!(origin.count(), 3, "none was sent twice");
}

#[test]
fn resting_connections_are_used_again() {
    let origin = Origin::answering(|_| ok(""));
    let proxy = Setup::of(&[&origin]).start();
    for _ in 0..5 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_endpoint_that_wants_its_connection_closed_gets_a_new_one() {
    let origin = Origin::scripted(|call| {
        call.send(&answer(200, &["Connection: close"], "bye"));
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        let answer = client.get("/", &[]);
        assert_eq!(answer.text(), "bye");
        assert!(!answer.closes(), "the client's connection is another one");
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn an_endpoint_that_stalls_is_504_after_the_first_byte_timeout() {
    let origin = Origin::scripted(silent);
    let proxy = Setup::of(&[&origin]).pool_lines("timeouts.first_byte = \"150ms\"").start();
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.status, 504);
    let logged = proxy.access(answer.header("x-request-id").unwrap());
    assert_eq!(logged["error"], "first_byte_timeout");
    origin.wait_for_closed(1);
}

#[test]
fn half_a_head_is_504_and_its_connection_is_not_used_again() {
    let origin = Origin::scripted(|call| {
        if call.number == 0 {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Le");
            silent(call);
        } else {
            call.send(&ok("fresh"));
        }
    });
    let proxy = Setup::of(&[&origin]).pool_lines("timeouts.first_byte = \"150ms\"").start();
    assert_eq!(proxy.get("/a", &[]).status, 504);
    assert_eq!(proxy.get("/b", &[]).text(), "fresh");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn the_first_byte_is_waited_for_from_the_end_of_the_request() {
    let origin = Origin::answering(|request| ok(&request.body));
    let proxy = Setup::of(&[&origin]).pool_lines("timeouts.first_byte = \"300ms\"").start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\n"));
    // The timeout of another request is the clock: it began later and ends first.
    let stalled = Origin::scripted(silent);
    let other = Setup::of(&[&stalled]).pool_lines("timeouts.first_byte = \"400ms\"").start();
    assert_eq!(other.get("/", &[]).status, 504);
    client.send("hello");
    assert_eq!(client.answer().text(), "hello");
}

#[test]
fn what_is_not_http_is_502() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let origin = Origin::scripted(move |call| {
            call.send(garbage.as_bytes());
            call.close();
        });
        let proxy = Setup::of(&[&origin]).start();
        assert_eq!(proxy.get("/", &[]).status, 502, "{garbage:?}");
    }
}

#[test]
fn a_head_without_an_end_is_502() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\n");
        while call.send(format!("X-Endless: {}\r\n", "x".repeat(4096)).as_bytes()) {}
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).status, 502);
}

#[test]
fn an_answer_shorter_than_its_length_is_broken_off() {
    let origin = Origin::scripted(|call| {
        call.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nCache-Control: max-age=60\r\n\r\nhalf",
        );
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    for fetch in 1..=2 {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        client.assert_broken_off();
        assert_eq!(origin.requests(fetch).len(), fetch, "it was stored");
    }
    assert_eq!(proxy.metric("headwater_cache_objects"), 0.0);
}

#[test]
fn a_chunked_answer_without_its_end_is_broken_off() {
    let origin = Origin::scripted(|call| {
        call.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n",
        );
        call.send(b"4\r\nhalf\r\n");
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    for fetch in 1..=2 {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        client.assert_broken_off();
        assert_eq!(origin.requests(fetch).len(), fetch, "it was stored");
    }
    assert_eq!(proxy.metric("headwater_cache_objects"), 0.0);
}

#[test]
fn a_reset_inside_the_body_is_broken_off_and_not_retried() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        call.reset();
    });
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    client.assert_broken_off();
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_gap_inside_the_body_breaks_it_off_after_the_idle_timeout() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        silent(call);
    });
    let proxy = Setup::of(&[&origin])
        .pool_lines("timeouts.idle = \"150ms\"")
        .route("cache = false")
        .start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let answer = client.broken_answer("GET");
    assert_eq!((answer.is_complete, answer.text().as_str()), (false, "half"));
    let logged = proxy.access(answer.header("x-request-id").unwrap());
    assert_eq!(logged["error"], "idle_timeout");
    origin.wait_for_closed(1);
}

#[test]
fn the_total_timeout_bounds_all_tries_and_the_body() {
    let origin = Origin::scripted(|call| {
        if call.request.target() == "/body" {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
        silent(call);
    });
    let proxy = Setup::of(&[&origin])
        .pool_lines("timeouts.total = \"200ms\"")
        .route("cache = false")
        .start();
    assert_eq!(proxy.get("/head", &[]).status, 504);
    let mut client = proxy.connect();
    client.send(format!("GET /body HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let answer = client.broken_answer("GET");
    assert_eq!((answer.status, answer.is_complete), (200, false));
}

#[test]
fn the_timeout_of_a_route_is_504() {
    let origin = Origin::scripted(silent);
    let proxy = Setup::of(&[&origin]).route("timeout = \"150ms\"").start();
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.status, 504);
    let logged = proxy.access(answer.header("x-request-id").unwrap());
    assert_eq!(logged["error"], "deadline");
}

#[test]
fn without_a_usable_endpoint_it_is_503_at_once_with_retry_after() {
    let refusing = Refusing::new();
    let proxy = Setup::of(&[&refusing]).start();
    proxy.get("/", &[]);
    // Its last connect failed, and the next trial is not due.
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    let id = answer.header("x-request-id").unwrap();
    assert!(answer.text().contains(id));
    assert_eq!(proxy.access(id)["error"], "no_endpoint");
}

#[test]
fn statuses_are_retried_on_another_endpoint() {
    let bad = Origin::answering(|_| answer(503, &[], "bad"));
    let good = Origin::answering(|_| ok("good"));
    let proxy =
        Setup::of(&[&bad, &good]).pool_lines("balance = \"round_robin\"\noutlier = false").start();
    let mut client = proxy.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).text(), "good");
    }
    assert!(bad.count() > 0);
    let retries = proxy.metric("headwater_retries_total{pool=\"app\",reason=\"status\"}");
    assert_eq!(retries as usize, bad.count());
}

#[test]
fn the_last_answer_of_all_tries_passes_unchanged() {
    let origins = [(); 2].map(|()| {
        Origin::answering(|request| {
            answer(503, &["X-Mine: yes", "Retry-After: 77"], request.target())
        })
    });
    let [a, b] = &origins;
    let proxy = Setup::of(&[a, b]).start();
    let answer = proxy.get("/path", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (503, "/path"));
    assert_eq!(answer.header("x-mine"), Some("yes"));
    assert_eq!(answer.header("retry-after"), Some("77"));
    assert_eq!((a.count(), b.count()), (1, 1));
}

#[test]
fn a_post_is_never_retried_for_its_status() {
    let origin = Origin::answering(|_| answer(503, &[], "busy"));
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.connect().ask("POST", "/", &[], "x").text(), "busy");
    assert_eq!(origin.count(), 1);
}

#[test]
fn retries_off_means_one_try() {
    let origin = Origin::answering(|_| answer(502, &[], "once"));
    let proxy = Setup::of(&[&origin]).pool_lines("retry = false").start();
    assert_eq!(proxy.get("/", &[]).text(), "once");
    assert_eq!(origin.count(), 1);
}

#[test]
fn the_retry_budget_ends_retries_but_not_answers() {
    let origins = [(); 2].map(|()| Origin::answering(|_| answer(503, &[], "down")));
    let [a, b] = &origins;
    let proxy = Setup::of(&[a, b]).pool_lines("outlier = false\nretry.budget = \"0%\"").start();
    let mut client = proxy.connect();
    for _ in 0..300 {
        assert_eq!(client.get("/", &[]).text(), "down");
    }
    let retries = proxy.metric("headwater_retries_total{pool=\"app\",reason=\"status\"}");
    // At least 10 a second over the last 10 s, whatever the share.
    assert!((90.0..=150.0).contains(&retries), "{retries}");
    assert_eq!(a.count() + b.count(), 300 + retries as usize);
    let exhausted = proxy.metric("headwater_retry_budget_exhausted_total{pool=\"app\"}");
    assert_eq!(exhausted, 300.0 - retries);
}

#[test]
fn requests_beyond_the_connections_wait_and_beyond_the_queue_are_503() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.send(&ok("served"));
        })
    };
    let proxy = Setup::of(&[&origin])
        .pool_lines("limits = { connections = 1, queue = 1, queue_timeout = \"10s\" }")
        .route("cache = false")
        .start();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut first = proxy.connect();
    first.send(&request);
    origin.requests(1);
    let mut second = proxy.connect();
    second.send(&request);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 2.0);
    let third = proxy.get("/", &[]);
    assert_eq!(third.status, 503);
    assert!(third.header("retry-after").is_some());
    let logged = proxy.access(third.header("x-request-id").unwrap());
    assert_eq!(logged["error"], "queue_full");
    gate.open();
    assert_eq!(first.answer().text(), "served");
    assert_eq!(second.answer().text(), "served");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn waiting_in_the_queue_has_an_end() {
    let origin = Origin::scripted(silent);
    let proxy = Setup::of(&[&origin])
        .pool_lines("limits = { requests = 1, queue_timeout = \"150ms\" }")
        .route("cache = false")
        .start();
    let mut first = proxy.connect();
    first.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    let second = proxy.get("/", &[]);
    assert_eq!(second.status, 503);
    let logged = proxy.access(second.header("x-request-id").unwrap());
    assert_eq!(logged["error"], "queue_timeout");
}

#[test]
fn the_answer_that_ejects_the_last_endpoint_passes_unchanged() {
    let origin = Origin::answering(|_| answer(503, &[], "theirs"));
    let proxy = Setup::of(&[&origin])
        .pool_lines("outlier = { failures = 1, eject_max = \"100%\" }")
        .start();
    assert_eq!(proxy.get("/", &[]).text(), "theirs");
}

#[test]
fn an_endpoint_over_tls_is_verified() {
    use crate::support::{Authority, Folder};
    // Another proxy is the endpoint: it speaks TLS already.
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &["inner.test"]);
    let inner = Setup::empty()
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .text("[[route]]\nhosts = [\"site.test\"]\nrespond = { status = 200, body = \"inner\" }")
        .start_in(folder);
    let outer = |tls: &str| {
        let folder = Folder::new();
        folder.write("ca.pem", authority.pem());
        folder.write("other.pem", Authority::new().pem());
        let proxy = Setup::of(&[&inner.address()])
            .pool_lines(&format!("retry = false\ntls = {tls}"))
            .start_in(folder);
        proxy.get("/", &[])
    };
    let answer = outer("{ sni = \"inner.test\", ca = \"ca.pem\" }");
    assert_eq!((answer.status, answer.text().as_str()), (200, "inner"));
    assert_eq!(outer("{ sni = \"inner.test\", ca = \"other.pem\" }").status, 502);
    assert_eq!(outer("{ sni = \"wrong.test\", ca = \"ca.pem\" }").status, 502);
    assert_eq!(outer("{ sni = \"wrong.test\", ca = \"ca.pem\", verify = false }").status, 200);
}

#[test]
fn idle_connections_are_closed_when_they_have_rested_long_enough() {
    let origin = Origin::answering(|_| ok(""));
    let proxy = Setup::of(&[&origin]).pool_lines("keepalive = \"200ms\"").start();
    proxy.get("/", &[]);
    origin.wait_for_closed(1);
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_answer_that_is_not_asked_for_ends_its_connection() {
    // The second answer must not be taken for the answer to the next request.
    let origin = Origin::scripted(|call| {
        let target = call.request.target().to_owned();
        let twice = if call.number == 0 { ok("poison") } else { Vec::new() };
        call.send(&[ok(target), twice].concat());
    });
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    assert_eq!(client.get("/one", &[]).text(), "/one");
    for _ in 0..3 {
        assert_eq!(client.get("/two", &[]).text(), "/two");
    }
}

#[test]
fn informational_answers_do_not_end_the_wait() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        call.send(b"HTTP/1.1 102 Processing\r\n\r\n");
        call.send(&ok("final"));
    });
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get("/", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
}

#[test]
fn an_early_answer_to_an_upload_reaches_the_client() {
    let origin = Origin::scripted(|call| {
        call.send(&answer(413, &["Connection: close"], "too much"));
        call.push(0, Duration::from_secs(1));
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nstart"));
    let answer = client.broken_answer("POST");
    assert_eq!(answer.status, 413);
}

/// Sends a head that promises a body, and closes.
fn head_only(call: &mut Call) {
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    call.close();
}

#[test]
fn a_get_whose_answer_ends_before_its_body_is_retried() {
    let origin = Origin::scripted(|call| match call.number {
        0 => head_only(call),
        _ => {
            call.send(&ok("second"));
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).text(), "second");
    assert_eq!(proxy.metric("headwater_retries_total{pool=\"app\",reason=\"reset\"}"), 1.0);
}

#[test]
fn a_post_whose_answer_ends_before_its_body_is_502() {
    let origin = Origin::scripted(|call| {
        call.body();
        head_only(call);
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.connect().ask("POST", "/", &[], "x").status, 502);
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_endpoint_by_name_is_resolved() {
    let origin = Origin::answering(|_| ok("by name"));
    let port = origin.to_string().rsplit(':').next().unwrap().to_owned();
    let proxy = Setup::of(&[&format!("localhost:{port}")]).start();
    assert_eq!(proxy.get("/", &[]).text(), "by name");
}

#[test]
fn a_list_of_equal_lengths_becomes_one() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello");
    });
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let answer = proxy.get("/", &[]);
    assert_eq!((answer.header("content-length"), answer.text().as_str()), (Some("5"), "hello"));
}
