//! Further tries with a body, and the time that all of them may take.

use std::time::{Duration, Instant};

use crate::support::{Origin, Proxy, Setup, answer, ok};

/// Reads the body and resets the first so many requests, then answers with the body's length.
fn resetting(count: usize) -> Origin {
    Origin::scripted(move |call| {
        if !call.body() {
            return;
        }
        if call.number < count {
            call.reset();
        } else {
            let length = call.request.body.len();
            call.send(&ok(length.to_string()));
        }
    })
}

fn retries(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("headwater_retries_total{{pool=\"app\",reason=\"{reason}\"}}"))
}

#[test]
fn a_body_of_64_kib_is_sent_again_and_a_larger_one_is_not() {
    for (bytes, status) in [(0, 200), (1, 200), (64 << 10, 200), ((64 << 10) + 1, 502)] {
        let (bad, good) = (resetting(usize::MAX), resetting(0));
        let proxy = Setup::of(&[&bad, &good])
            .pool_lines("balance = \"round_robin\"")
            .route("cache = false")
            .start();
        let body = "x".repeat(bytes);
        let answer = proxy.connect().ask("PUT", "/", &[], &body);
        assert_eq!(answer.status, status, "{bytes} bytes");
        if status == 200 {
            assert_eq!(answer.text(), bytes.to_string());
            assert_eq!(good.request(0).text(), body);
        }
        assert_eq!(retries(&proxy, "reset"), f64::from(u8::from(status == 200)), "{bytes} bytes");
    }
}

#[test]
fn a_chunked_body_is_sent_again_with_what_came_meanwhile() {
    let bad = Origin::scripted(|call| {
        call.read(5);
        call.reset();
    });
    let good = Origin::answering(|request| ok(request.text()));
    let proxy = Setup::of(&[&bad, &good])
        .pool_lines("balance = \"round_robin\"")
        .route("cache = false")
        .start();
    let mut client = proxy.connect();
    client.send(
        "PUT / HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    );
    good.requests(1);
    client.send("7\r\n second\r\n0\r\n\r\n");
    assert_eq!(client.answer().text(), "first second");
}

#[test]
fn a_post_is_not_sent_again_however_small() {
    let (bad, good) = (resetting(usize::MAX), resetting(0));
    let proxy = Setup::of(&[&bad, &good])
        .pool_lines("balance = \"round_robin\"")
        .route("cache = false")
        .start();
    assert_eq!(proxy.connect().ask("POST", "/", &[], "x").status, 502);
    assert_eq!((bad.count(), good.count()), (1, 0));
}

#[test]
fn several_tries_go_to_one_endpoint_each_and_then_the_last_answer_passes() {
    let origins = [(); 3].map(|()| Origin::answering(|_| answer(503, &[], "busy")));
    let [a, b, c] = &origins;
    let proxy = Setup::of(&[a, b, c])
        .pool_lines("retry = { attempts = 4 }\noutlier = false")
        .route("cache = false")
        .start();
    let last = proxy.get("/", &[]);
    assert_eq!((last.status, last.text().as_str()), (503, "busy"));
    assert_eq!(origins.each_ref().map(Origin::count), [1, 1, 1]);
    assert_eq!(retries(&proxy, "status"), 2.0);
}

#[test]
fn with_one_endpoint_a_503_is_the_answer() {
    let origin = Origin::answering(|_| answer(503, &[], "busy"));
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    for asked in 1..=3 {
        let last = proxy.get("/", &[]);
        assert_eq!((last.status, last.text().as_str(), origin.count()), (503, "busy", asked));
    }
    assert_eq!(retries(&proxy, "status"), 0.0);
}

#[test]
fn a_request_that_an_endpoint_does_not_answer_in_time_goes_to_another_where_that_is_asked_for() {
    for (on, status) in [("\"timeout\"", 200), ("\"reset\"", 504)] {
        let (hung, good) = (silent(), Origin::answering(|_| ok("good")));
        let proxy = Setup::of(&[&hung, &good])
            .pool_lines(&format!(
                "balance = \"round_robin\"\nretry.on = [{on}]\ntimeouts.first_byte = \"100ms\""
            ))
            .route("cache = false")
            .start();
        assert_eq!(proxy.get("/", &[]).status, status, "{on}");
        if status == 200 {
            // A request that may not be repeated is not.
            assert_eq!(proxy.connect().ask("POST", "/", &[], "x").status, 504);
        }
        assert_eq!(retries(&proxy, "timeout"), f64::from(u8::from(status == 200)));
    }
}

#[test]
fn no_wait_before_a_try_outlasts_the_whole_time() {
    let origin = Origin::scripted(|call| call.reset());
    let proxy = Setup::of(&[&origin])
        .pool_lines("retry = { attempts = 10, budget = \"100%\" }\ntimeouts.total = \"300ms\"")
        .route("cache = false")
        .start();
    let begun = Instant::now();
    let last = proxy.get("/", &[]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The last failure, or that the time is over: never a hang.
    assert!(matches!(last.status, 502 | 504), "{last:?}");
}

// Deadlines.

/// A silent origin.
fn silent() -> Origin {
    Origin::scripted(|call| call.wait_for_end())
}

#[test]
fn the_least_of_the_times_of_pool_route_and_client_counts() {
    let grpc = ["Content-Type: application/grpc", "grpc-timeout: 100m"];
    for (pool, route, fields) in
        [("100ms", "30s", &[][..]), ("30s", "100ms", &[]), ("30s", "30s", &grpc)]
    {
        let origin = silent();
        let proxy = Setup::of(&[&origin])
            .pool_lines(&format!("timeouts.total = \"{pool}\""))
            .route(&format!("cache = false\ntimeout = \"{route}\""))
            .start();
        let answer = proxy.connect().ask("POST", "/", fields, "x");
        assert_eq!(answer.status, 504, "{pool} {route} {fields:?}");
        let logged = proxy.access(answer.header("x-request-id").unwrap());
        assert_eq!(logged["error"], "deadline");
    }
}

#[test]
fn an_endpoint_is_told_how_long_it_has_only_if_asked_for() {
    let told = |lines: &str, fields: &[&str]| {
        let origin = Origin::answering(|_| ok(""));
        let proxy = Setup::of(&[&origin]).pool_lines(lines).route("cache = false").start();
        proxy.get("/", fields);
        origin.request(0).header("x-request-timeout-ms").map(str::to_owned)
    };
    assert_eq!(told("timeouts.total = \"5s\"", &[]), None);
    assert_eq!(told("timeouts.announce = true", &[]), None);
    let millis: u64 = told("timeouts = { total = \"5s\", announce = true }", &[])
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!((3000..=5000).contains(&millis), "{millis}");
    // What a client says of it does not count.
    let forged = ["X-Request-Timeout-Ms: 999999"];
    let millis: u64 = told("timeouts = { total = \"5s\", announce = true }", &forged)
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!(millis <= 5000, "{millis}");
}
