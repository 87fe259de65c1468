//! What is answered from the store, what is fetched, and what is never kept.

use crate::support::origin::Gate;
use crate::support::{Answer, Client, HOST, Origin, Proxy, Setup, answer, cacheable, chunk, ok};

const JOINED: &str = "headwater_http_requests_in_flight{listener=\"web\"}";

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("none")
}

/// How `Cache-Status` begins after two requests for the same, each told by its words.
fn twice(fields: &'static [&'static str], request: &[&str]) -> (usize, String) {
    let origin = Origin::answering(move |_| answer(200, fields, "body"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", request);
    let second = client.get("/", request);
    assert_eq!(second.text(), "body");
    (origin.count(), status(&second).to_owned())
}

fn assert_stored(fields: &'static [&'static str]) {
    let (count, status) = twice(fields, &[]);
    assert_eq!(count, 1, "{fields:?}: {status}");
    assert!(status.starts_with("headwater; hit"), "{fields:?}: {status}");
}

fn assert_not_stored(fields: &'static [&'static str], why: &str) {
    let (count, status) = twice(fields, &[]);
    assert_eq!(count, 2, "{fields:?}: {status}");
    assert_eq!(status, format!("headwater; fwd=miss; detail={why}"), "{fields:?}");
}

/// An origin that waits with its answer, and a proxy in front.
fn gated(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> (Gate, Origin, Proxy) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        waits.pass();
        call.send(&answer());
    });
    let proxy = Setup::of(&[&origin]).process("workers = 2").route(PATIENT).start();
    (gate, origin, proxy)
}

/// A line for the route under which nobody begins a fetch beside one that the test holds up.
const PATIENT: &str = "cache.wait = \"60s\"";

/// Clients that have asked for the same, all of them known to the proxy.
fn crowd(proxy: &Proxy, count: usize) -> Vec<Client> {
    let clients = (0..count)
        .map(|_| {
            let mut client = proxy.connect();
            client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            client
        })
        .collect();
    proxy.wait_for_metric(JOINED, count as f64);
    clients
}

#[test]
fn the_first_request_is_a_miss_and_the_second_a_hit_with_its_age() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let miss = client.get("/a?b", &[]);
    assert!(status(&miss).starts_with("headwater; fwd=miss; stored"), "{miss:?}");
    let hit = client.get("/a?b", &[]);
    assert_eq!(hit.text(), "body");
    let (words, ttl) = status(&hit).split_once("; ttl=").unwrap();
    assert_eq!(words, "headwater; hit");
    let ttl: u64 = ttl.parse().unwrap();
    let age: u64 = hit.header("age").unwrap().parse().unwrap();
    assert!((59..=60).contains(&(ttl + age)), "ttl {ttl}, age {age}");
    assert_eq!(hit.message.headers("date").count(), 1);
    assert_ne!(hit.header("x-request-id"), miss.header("x-request-id"));
    assert_eq!(origin.count(), 1);
    let hits = "headwater_cache_requests_total{route=\"app\",status=\"hit\"}";
    assert_eq!((proxy.metric(hits), proxy.metric("headwater_cache_objects")), (1.0, 1.0));
    assert_eq!(proxy.access("\"hit\"")["status"], 200);
}

#[test]
fn what_the_origin_marks_fresh_is_stored() {
    assert_stored(&["Cache-Control: max-age=60"]);
    assert_stored(&["Cache-Control: public, s-maxage=60, max-age=0"]);
    assert_stored(&["Expires: Fri, 01 Jan 2100 00:00:00 GMT"]);
    assert_stored(&["Cache-Control: max-age=60", "Expires: Thu, 01 Jan 1970 00:00:00 GMT"]);
    assert_stored(&["cache-control: MAX-AGE=\"60\""]);
}

#[test]
fn what_the_origin_keeps_back_is_not_stored() {
    assert_not_stored(&["Cache-Control: no-store, max-age=60"], "no-store");
    assert_not_stored(&["Cache-Control: private, max-age=60"], "private");
    assert_not_stored(&["Cache-Control: max-age=60", "Set-Cookie: a=b"], "set-cookie");
    assert_not_stored(&["Cache-Control: max-age=60", "Vary: *"], "vary-any");
    assert_not_stored(&[], "no-lifetime");
    assert_not_stored(&["Cache-Control: max-age=0"], "no-validator");
    assert_not_stored(&["Cache-Control: no-cache, max-age=60"], "no-validator");
    assert_not_stored(&["Cache-Control: s-maxage=0, max-age=60"], "no-validator");
    assert_not_stored(&["Expires: 0"], "no-validator");
}

#[test]
fn what_no_cache_guards_is_asked_for_every_time() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some("\"v1\"") => answer(304, &["ETag: \"v1\"", "Cache-Control: no-cache"], ""),
        _ => answer(200, &["ETag: \"v1\"", "Cache-Control: no-cache"], "body"),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).text(), "body");
    }
    assert_eq!(origin.count(), 3);
    assert_eq!(origin.request(2).header("if-none-match"), Some("\"v1\""));
}

#[test]
fn an_authorized_request_shares_only_what_is_marked_for_it() {
    let authorized = ["Authorization: Bearer a"];
    assert_eq!(twice(&["Cache-Control: max-age=60"], &authorized).0, 2);
    assert_eq!(twice(&["Cache-Control: max-age=60, public"], &authorized).0, 1);
    assert_eq!(twice(&["Cache-Control: s-maxage=60"], &authorized).0, 1);
    assert_eq!(twice(&["Cache-Control: max-age=60, must-revalidate"], &authorized).0, 1);

    let origin = Origin::answering(|_| cacheable("anonymous"));
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    proxy.get("/", &authorized);
    assert_eq!(origin.count(), 2, "what was stored for everybody is not marked for it");
}

#[test]
fn variants_are_kept_apart_by_the_fields_they_vary_on() {
    let origin = Origin::answering(|request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        answer(200, &["Cache-Control: max-age=60", "Vary: Accept-Language"], language)
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        for language in ["en", "de", "fr"] {
            let answer = client.get("/", &[&format!("Accept-Language: {language}"), "X-Other: x"]);
            assert_eq!(answer.text(), language);
        }
        assert_eq!(client.get("/", &[]).text(), "none");
    }
    assert_eq!(origin.count(), 4);
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/\"]}}")), 4);
}

#[test]
fn variants_are_chosen_by_the_fields_as_they_are_forwarded() {
    let origin = Origin::answering(|request| {
        let device = request.header("x-device").unwrap_or("none").to_owned();
        answer(200, &["Cache-Control: max-age=60", "Vary: X-Device"], device)
    });
    let proxy = Setup::of(&[&origin]).route("request_headers.set = { x-device = \"any\" }").start();
    let mut client = proxy.connect();
    for device in ["phone", "desk"] {
        assert_eq!(client.get("/", &[&format!("X-Device: {device}")]).text(), "any");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn the_query_and_the_host_are_part_of_the_key_and_the_port_of_the_scheme_is_not() {
    let origin = Origin::answering(|request| {
        let host = request.header("host").unwrap_or_default();
        cacheable(format!("{host}{}", request.target()))
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let mut get = |host: &str, target: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer().text()
    };
    assert_eq!(get("a.test", "/?1"), "a.test/?1");
    assert_eq!(get("a.test", "/?2"), "a.test/?2");
    assert_eq!(get("b.test", "/?1"), "b.test/?1");
    assert_eq!(get("A.test:80", "/?1"), "a.test/?1");
    assert_eq!(get("a.test.", "/%3F1"), "a.test/%3F1");
    assert_eq!(get("a.test", "/x/../?1"), "a.test/?1");
    assert_eq!(origin.count(), 4);
}

#[test]
fn a_stale_response_is_confirmed_by_the_origin() {
    // Stored at the end of its life already: no test waits for a minute.
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some("\"v1\"") => {
            answer(304, &["ETag: \"v1\"", "Cache-Control: max-age=60", "X-New: yes"], "")
        }
        _ => answer(
            200,
            &["ETag: \"v1\"", "Cache-Control: max-age=60", "Age: 60", "X-Old: yes"],
            "body",
        ),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    let confirmed = client.get("/", &[]);
    assert_eq!((confirmed.status, confirmed.text().as_str()), (200, "body"));
    assert!(status(&confirmed).starts_with("headwater; fwd=stale; fwd-status=304; stored"));
    assert_eq!((confirmed.header("x-old"), confirmed.header("x-new")), (Some("yes"), Some("yes")));
    let hit = client.get("/", &[]);
    assert!(status(&hit).starts_with("headwater; hit"), "{}", status(&hit));
    assert_eq!(origin.count(), 2);
    let revalidated = "headwater_cache_requests_total{route=\"app\",status=\"revalidated\"}";
    assert_eq!(proxy.metric(revalidated), 1.0);
}

#[test]
fn a_stale_response_is_replaced_by_a_new_one() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some(_) => answer(200, &["ETag: \"v2\"", "Cache-Control: max-age=60"], "new"),
        None => answer(200, &["ETag: \"v1\"", "Cache-Control: max-age=60", "Age: 60"], "old"),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    assert_eq!(client.get("/", &[]).text(), "old");
    let new = client.get("/", &[]);
    assert_eq!(new.text(), "new");
    assert!(status(&new).starts_with("headwater; fwd=stale"), "{}", status(&new));
    assert_eq!(client.get("/", &[]).text(), "new");
    assert_eq!(origin.count(), 2);
    assert_eq!(proxy.metric("headwater_cache_objects"), 1.0);
}

#[test]
fn a_client_that_has_it_already_is_told_304() {
    let origin = Origin::answering(|_| {
        answer(
            200,
            &[
                "ETag: \"v1\"",
                "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
                "Cache-Control: max-age=60",
            ],
            "body",
        )
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    for condition in [
        "If-None-Match: \"v1\"",
        "If-None-Match: \"v0\", W/\"v1\"",
        "If-None-Match: *",
        "If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT",
    ] {
        let answer = client.get("/", &[condition]);
        assert_eq!((answer.status, answer.body().len()), (304, 0), "{condition}");
        assert_eq!(answer.header("etag"), Some("\"v1\""));
        assert_eq!(answer.header("cache-control"), Some("max-age=60"));
    }
    for condition in [
        "If-None-Match: \"v2\"",
        "If-Modified-Since: Wed, 31 Dec 2025 23:59:59 GMT",
        "If-Modified-Since: yesterday",
    ] {
        assert_eq!(client.get("/", &[condition]).status, 200, "{condition}");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_condition_of_the_first_client_is_not_the_condition_of_the_fetch() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some(_) => answer(304, &[], ""),
        None => answer(200, &["ETag: \"v1\"", "Cache-Control: max-age=60"], "body"),
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &["If-None-Match: \"v1\""]).status, 304);
    assert_eq!(proxy.get("/", &[]).text(), "body");
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_condition_holds_for_what_is_not_stored() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some(_) => answer(304, &["ETag: \"v1\""], ""),
        None => answer(200, &["ETag: \"v1\""], "body"),
    });
    let proxy = Setup::of(&[&origin]).start();
    for _ in 0..2 {
        assert_eq!(proxy.get("/", &["If-None-Match: \"v1\""]).status, 304);
    }
}

#[test]
fn head_is_answered_from_a_stored_get() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    client.send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let head = client.head_answer();
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    assert!(status(&head).starts_with("headwater; hit"));
    assert_eq!(client.get("/", &[]).text(), "body");
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_answer_to_head_is_never_taken_for_one_to_get() {
    let origin = Origin::scripted(|call| {
        let bytes = cacheable("body");
        let head = bytes.len() - 4;
        call.send(if call.request.method() == "HEAD" { &bytes[..head] } else { &bytes });
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert_eq!(client.head_answer().header("content-length"), Some("4"));
    assert_eq!(client.get("/", &[]).text(), "body");
}

#[test]
fn requests_that_come_together_are_one_fetch() {
    let (gate, origin, proxy) = gated(|| cacheable("shared"));
    let clients = crowd(&proxy, 10);
    gate.open();
    let mut led = 0;
    for mut client in clients {
        let answer = client.answer();
        assert_eq!(answer.text(), "shared");
        led += usize::from(!status(&answer).contains("collapsed"));
    }
    assert_eq!((origin.count(), led), (1, 1));
    let collapsed = "headwater_cache_requests_total{route=\"app\",status=\"collapsed\"}";
    assert_eq!(proxy.metric(collapsed), 9.0);
}

#[test]
fn followers_read_a_body_while_it_comes() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        call.send(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        call.send(&chunk(b"first"));
        waits.pass();
        call.send(&[&chunk(b"last")[..], b"0\r\n\r\n"].concat());
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let mut clients = crowd(&proxy, 3);
    for client in &mut clients {
        assert_eq!(client.answer_head().header("transfer-encoding"), Some("chunked"));
        assert_eq!(client.read_exactly(10), b"5\r\nfirst\r\n");
    }
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_exactly(14), b"4\r\nlast\r\n0\r\n\r\n");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.get("/", &[]).text(), "firstlast");
}

#[test]
fn the_followers_of_an_uncacheable_answer_fetch_for_themselves() {
    let (gate, origin, proxy) = gated(|| answer(200, &["Cache-Control: private"], "own"));
    let clients = crowd(&proxy, 4);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "own");
    }
    assert_eq!(origin.count(), 4);
}

#[test]
fn a_fetch_outlives_the_client_that_caused_it() {
    let (gate, origin, proxy) = gated(|| cacheable("stored"));
    drop(crowd(&proxy, 1));
    proxy.wait_for_metric(JOINED, 0.0);
    gate.open();
    proxy.wait_for_metric("headwater_cache_objects", 1.0);
    assert!(status(&proxy.get("/", &[])).starts_with("headwater; hit"));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_failed_fetch_fails_only_the_request_that_it_was_made_for() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        waits.pass();
        call.close();
    });
    let proxy = Setup::of(&[&origin]).pool_lines("retry = false").route(PATIENT).start();
    let clients = crowd(&proxy, 3);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().status, 502);
    }
    // Nobody got the error of another one.
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_request_that_bypasses_the_cache_leaves_it_alone() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    let bypass = client.get("/", &["Cache-Control: no-store"]);
    assert!(status(&bypass).starts_with("headwater; fwd=bypass"), "{}", status(&bypass));
    let post = client.ask("POST", "/form", &[], "x");
    assert!(status(&post).starts_with("headwater; fwd=method"), "{}", status(&post));
    assert_eq!(origin.count(), 3);
    assert!(status(&client.get("/", &[])).starts_with("headwater; hit"));
    // What a client says about freshness does not count, as with CDNs.
    assert!(status(&client.get("/", &["Cache-Control: no-cache"])).starts_with("headwater; hit"));
    assert!(status(&client.get("/", &["Pragma: no-cache"])).starts_with("headwater; hit"));
}

#[test]
fn only_if_cached_never_asks_the_origin() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    assert_eq!(client.get("/", &["Cache-Control: only-if-cached"]).status, 504);
    assert_eq!(origin.count(), 0);
    client.get("/", &[]);
    assert_eq!(client.get("/", &["Cache-Control: only-if-cached"]).text(), "body");
}

#[test]
fn a_route_gives_freshness_where_the_answer_has_none() {
    let origin = Origin::answering(|request| match request.target() {
        "/no-store" => answer(200, &["Cache-Control: no-store"], "body"),
        "/missing" => answer(404, &[], "body"),
        _ => ok("body"),
    });
    let proxy = Setup::of(&[&origin]).route("cache = { ttl = \"60s\" }").start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        for target in ["/", "/no-store", "/missing"] {
            client.get(target, &[]);
        }
    }
    assert_eq!(origin.count_of("/"), 1);
    assert_eq!(origin.count_of("/no-store"), 2);
    assert_eq!(origin.count_of("/missing"), 2);
}

#[test]
fn a_route_without_a_cache_says_nothing_about_one() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/", &[]).header("cache-status"), None);
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn negative_answers_are_stored_when_they_say_so() {
    let origin = Origin::answering(|_| answer(404, &["Cache-Control: max-age=60"], "gone"));
    let proxy = Setup::of(&[&origin]).start();
    for _ in 0..2 {
        let answer = proxy.get("/", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (404, "gone"));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn the_status_of_caches_further_up_is_kept_before_ours() {
    let origin = Origin::answering(|_| {
        answer(200, &["Cache-Control: max-age=60", "Cache-Status: inner; hit", "Age: 10"], "body")
    });
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    let hit = proxy.get("/", &[]);
    let members = hit.message.headers("cache-status").collect::<Vec<_>>().join(", ");
    assert!(members.starts_with("inner; hit, headwater; hit; ttl="), "{members}");
    assert!(hit.header("age").unwrap().parse::<u64>().unwrap() >= 10);
}

#[test]
fn edits_of_a_response_are_made_on_hits_and_never_stored() {
    let origin = Origin::answering(|_| answer(200, &["Cache-Control: max-age=60", "X-A: a"], ""));
    let proxy = Setup::of(&[&origin])
        .route(
            "response_headers = { set = { x-id = \"{request_id}\", cache-control = \"no-store\" }, \
             remove = [\"x-a\"] }",
        )
        .start();
    for _ in 0..2 {
        let answer = proxy.get("/", &[]);
        assert_eq!(answer.header("x-id"), answer.header("x-request-id"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-a"), None);
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_purge_removes_by_url_by_path_and_all() {
    let origin = Origin::answering(|request| cacheable(request.target()));
    let proxy = Setup::of(&[&origin]).start();
    let fill = || {
        for target in ["/a", "/a?x", "/a?y", "/b"] {
            assert_eq!(proxy.get(target, &[]).text(), target);
        }
    };
    let is_hit = |target: &str| status(&proxy.get(target, &[])).starts_with("headwater; hit");
    fill();
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"https://{HOST}:99/a?x\"]}}")), 1);
    assert!(!is_hit("/a?x") && is_hit("/a") && is_hit("/a?y") && is_hit("/b"));
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/x/../a?*\"]}}")), 3);
    assert!(!is_hit("/a") && !is_hit("/a?x") && !is_hit("/a?y") && is_hit("/b"));
    assert_eq!(proxy.purge("{\"all\":true}"), 4);
    assert!(!is_hit("/b"));
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/never\"]}}")), 0);
}

#[test]
fn a_fetch_that_began_before_a_purge_cannot_bring_it_back() {
    let (gate, origin, proxy) = gated(|| cacheable("body"));
    let mut early = crowd(&proxy, 1);
    origin.requests(1);
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/\"]}}")), 0);
    gate.open();
    assert_eq!(early[0].answer().text(), "body");
    assert!(status(&proxy.get("/", &[])).starts_with("headwater; fwd=miss"));
    assert_eq!(origin.count(), 2);
}

#[test]
fn what_is_too_large_streams_through_unstored() {
    let body = vec![b'x'; 300 << 10];
    let length = body.len();
    let origin = Origin::answering(move |_| cacheable(&body));
    let proxy = Setup::of(&[&origin]).text("[cache]\nobject_max = \"256KiB\"").start();
    for _ in 0..2 {
        assert_eq!(proxy.get("/", &[]).body().len(), length);
    }
    assert_eq!(origin.count(), 2);
    assert_eq!(proxy.metric("headwater_cache_objects"), 0.0);
}

#[test]
fn what_the_cache_holds_stays_within_its_bound() {
    let origin = Origin::answering(|request| {
        cacheable(
            vec![b'x'; 64 << 10]
                .iter()
                .chain(request.target().as_bytes())
                .copied()
                .collect::<Vec<_>>(),
        )
    });
    let proxy =
        Setup::of(&[&origin]).text("[cache]\nmemory = \"4MiB\"\nobject_max = \"256KiB\"").start();
    let mut client = proxy.connect();
    for number in 0..150 {
        client.get(&format!("/{number}"), &[]);
    }
    assert_eq!(proxy.metric("headwater_cache_bytes_max"), f64::from(4 << 20));
    assert!(proxy.metric("headwater_cache_bytes") <= f64::from(4 << 20));
    assert!(proxy.metric("headwater_cache_objects") > 10.0);
    assert!(proxy.metric("headwater_cache_evictions_total") > 50.0);
}

#[test]
fn a_reload_keeps_what_is_stored() {
    let origin = Origin::answering(|_| cacheable("body"));
    let setup = Setup::of(&[&origin]);
    let proxy = setup.start();
    proxy.get("/", &[]);
    proxy.reload(&setup.route("timeout = \"30s\""));
    assert!(status(&proxy.get("/", &[])).starts_with("headwater; hit"));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_range_is_for_the_origin_to_answer_and_not_stored() {
    let origin = Origin::answering(|request| match request.header("range") {
        Some(_) => answer(206, &["Content-Range: bytes 0-0/4", "Cache-Control: max-age=60"], "b"),
        None => cacheable("body"),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let part = client.get("/", &["Range: bytes=0-0"]);
    assert_eq!((part.status, part.text().as_str()), (206, "b"));
    assert_eq!(client.get("/", &[]).text(), "body");
}

#[test]
fn an_authorized_request_takes_nothing_away_from_others() {
    let origin = Origin::answering(|_| cacheable("shared"));
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).text(), "shared");
    assert_eq!(proxy.get("/", &["Authorization: Basic eA=="]).text(), "shared");
    let answer = proxy.get("/", &[]);
    assert!(answer.header("cache-status").unwrap().contains("; hit"), "{answer:?}");
}

#[test]
fn a_client_that_holds_what_may_not_be_stored_gets_a_304() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some("\"a\"") => answer(304, &["ETag: \"a\""], ""),
        _ => answer(200, &["ETag: \"a\"", "Cache-Control: private"], "mine"),
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).text(), "mine");
    assert_eq!(proxy.get("/", &["If-None-Match: \"a\""]).status, 304);
    assert_eq!(origin.request(1).header("if-none-match"), Some("\"a\""));
}
