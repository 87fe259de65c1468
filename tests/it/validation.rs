//! What the origin is asked about a response that is stored, and what its answer changes
//! (RFC 9111 §3.2, §4.3).

use crate::support::client::request;
use crate::support::{Answer, Origin, Proxy, Request, Setup, answer, ok};

/// Stored at the end of its life already: no test waits for a minute.
const OLD: [&str; 3] = ["ETag: \"v1\"", "Cache-Control: max-age=60", "Age: 60"];

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("none")
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("headwater; hit")
}

fn condition(request: &Request) -> Option<&str> {
    request.header("if-none-match").or(request.header("if-modified-since"))
}

/// An origin that gives `first` to requests without a condition, and `then` to the others.
fn origin(first: Vec<u8>, then: Vec<u8>) -> (Origin, Proxy) {
    let origin = Origin::answering(move |request| match condition(request) {
        Some(_) => then.clone(),
        None => first.clone(),
    });
    let proxy = Setup::of(&[&origin]).start();
    (origin, proxy)
}

fn head(proxy: &Proxy) -> Answer {
    let mut client = proxy.connect();
    client.send(request("HEAD", "/", &[]));
    client.head_answer()
}

#[test]
fn both_validators_of_what_is_stored_go_to_the_origin() {
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    let first = [&OLD[..], &["Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"]].concat();
    let (origin, proxy) = origin(answer(200, &first, "body"), answer(304, &OLD[..2], ""));
    proxy.get("/", &[]);
    assert_eq!(proxy.get("/", &[]).text(), "body");
    let asked = origin.request(1);
    assert_eq!(asked.header("if-none-match"), Some("\"v1\""));
    assert_eq!(asked.header("if-modified-since"), Some(date));
}

#[test]
fn what_has_no_validator_is_fetched_anew() {
    let (origin, proxy) =
        origin(answer(200, &["Cache-Control: max-age=60", "Age: 60"], "body"), ok("never"));
    for _ in 0..2 {
        assert_eq!(proxy.get("/", &[]).text(), "body");
    }
    assert_eq!(condition(&origin.request(1)), None);
}

/// RFC 9111 §3.2: the fields of a 304 replace stored ones, except those that belong to the bytes.
#[test]
fn a_304_updates_all_fields_but_those_of_the_stored_bytes() {
    let first =
        [&OLD[..], &["Content-Type: text/plain", "Content-MD5: old", "X-Kept: a", "X-New: a"]];
    let then = [
        "ETag: \"v1\"",
        "Cache-Control: max-age=60",
        "Content-Type: text/html",
        "Content-MD5: new",
        "Content-Encoding: gzip",
        "Content-Range: bytes 0-0/9",
        "X-New: b",
        "X-New: c",
    ];
    let (origin, proxy) = origin(answer(200, &first.concat(), "body"), answer(304, &then, ""));
    proxy.get("/", &[]);
    for _ in 0..2 {
        let answer = proxy.get("/", &[]);
        assert_eq!(answer.text(), "body");
        assert_eq!(answer.header("content-length"), Some("4"));
        assert_eq!(answer.header("content-type"), Some("text/html"));
        assert_eq!(answer.header("content-md5"), Some("old"));
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("content-range"), None);
        assert_eq!(answer.header("x-kept"), Some("a"));
        assert_eq!(answer.message.headers("x-new").collect::<Vec<_>>(), ["b", "c"]);
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_cookie_of_a_304_is_for_the_client_that_caused_it() {
    let then = ["ETag: \"v1\"", "Cache-Control: max-age=60", "Set-Cookie: a=b"];
    let (origin, proxy) = origin(answer(200, &OLD, "body"), answer(304, &then, ""));
    proxy.get("/", &[]);
    let confirmed = proxy.get("/", &[]);
    assert_eq!((confirmed.text().as_str(), confirmed.header("set-cookie")), ("body", Some("a=b")));
    let hit = proxy.get("/", &[]);
    assert!(is_hit(&hit), "{}", status(&hit));
    assert_eq!(hit.header("set-cookie"), None);
    assert_eq!(origin.count(), 2);
}

/// RFC 9111 §4.3.4: it is about another representation.
#[test]
fn a_304_with_another_strong_tag_confirms_nothing() {
    let origin =
        Origin::answering(|request| match (condition(request), request.header("x-late")) {
            (Some(_), _) => answer(304, &["ETag: \"v2\"", "Cache-Control: max-age=60"], ""),
            (None, Some(_)) => answer(200, &["ETag: \"v2\"", "Cache-Control: max-age=60"], "new"),
            (None, None) => answer(200, &OLD, "old"),
        });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &[]).text(), "old");
    assert_eq!(proxy.get("/", &["X-Late: 1"]).text(), "new");
    let hit = proxy.get("/", &[]);
    assert_eq!((hit.text().as_str(), hit.header("etag")), ("new", Some("\"v2\"")));
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_304_with_the_same_tag_made_weak_confirms() {
    let (origin, proxy) = origin(
        answer(200, &OLD, "body"),
        answer(304, &["ETag: W/\"v1\"", "Cache-Control: max-age=60"], ""),
    );
    proxy.get("/", &[]);
    assert_eq!(proxy.get("/", &[]).header("etag"), Some("\"v1\""));
    assert!(is_hit(&proxy.get("/", &[])));
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_304_may_end_the_storing() {
    let (origin, proxy) =
        origin(answer(200, &OLD, "body"), answer(304, &["Cache-Control: no-store"], ""));
    proxy.get("/", &[]);
    let last = proxy.get("/", &[]);
    assert_eq!(last.text(), "body");
    assert_eq!(status(&last), "headwater; fwd=stale; detail=no-store");
    proxy.get("/", &[]);
    assert_eq!(condition(&origin.request(2)), None);
}

#[test]
fn a_304_that_adds_a_vary_is_for_its_variant_only() {
    let origin = Origin::answering(|request| match condition(request) {
        Some(_) => {
            answer(304, &["ETag: \"v1\"", "Cache-Control: max-age=60", "Vary: X-Device"], "")
        }
        None => answer(200, &OLD, request.header("x-device").unwrap_or("any")),
    });
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    assert_eq!(proxy.get("/", &["X-Device: phone"]).text(), "any");
    assert!(is_hit(&proxy.get("/", &["X-Device: phone"])));
    assert_eq!(proxy.get("/", &["X-Device: desk"]).text(), "desk");
    assert_eq!(origin.count(), 3);
}

/// RFC 9111 §4.3.1, §4.3.2: what is stored is validated with its own validators; then the client's
/// are compared with it.
#[test]
fn the_conditions_of_a_client_are_judged_after_ours() {
    for (held, expected) in [("\"v1\"", 304), ("W/\"v1\"", 304), ("\"v0\"", 200), ("*", 304)] {
        let (origin, proxy) = origin(answer(200, &OLD, "body"), answer(304, &OLD[..2], ""));
        proxy.get("/", &[]);
        let answer = proxy.get("/", &[&format!("If-None-Match: {held}")]);
        assert_eq!(answer.status, expected, "{held}");
        assert!(status(&answer).starts_with("headwater; fwd=stale; fwd-status=304; stored"));
        assert_eq!(origin.request(1).header("if-none-match"), Some("\"v1\""), "{held}");
    }
}

#[test]
fn a_client_that_holds_the_new_response_is_told_so() {
    let (_origin, proxy) = origin(
        answer(200, &OLD, "old"),
        answer(200, &["ETag: \"v2\"", "Cache-Control: max-age=60"], "new"),
    );
    proxy.get("/", &[]);
    assert_eq!(proxy.get("/", &["If-None-Match: \"v2\""]).status, 304);
    assert_eq!(proxy.get("/", &[]).text(), "new");
}

/// RFC 9111 §4.3.2.
#[test]
fn a_date_stands_in_for_last_modified() {
    let fields = ["Cache-Control: max-age=99999999999", "Date: Thu, 01 Jan 2026 00:00:00 GMT"];
    let origin = Origin::answering(move |_| answer(200, &fields, "body"));
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    for (since, status) in
        [("Thu, 01 Jan 2026 00:00:00 GMT", 304), ("Wed, 31 Dec 2025 23:59:59 GMT", 200)]
    {
        let answer = proxy.get("/", &[&format!("If-Modified-Since: {since}")]);
        assert_eq!(answer.status, status, "{since}");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_tag_without_quotes_is_sent_back_as_it_came_and_compared_without_them() {
    let (origin, proxy) = origin(
        answer(200, &["ETag: v1", "Cache-Control: max-age=60", "Age: 60"], "body"),
        answer(304, &["ETag: v1", "Cache-Control: max-age=60"], ""),
    );
    proxy.get("/", &[]);
    assert_eq!(proxy.get("/", &[]).text(), "body");
    assert_eq!(origin.request(1).header("if-none-match"), Some("v1"));
    assert_eq!(proxy.get("/", &["If-None-Match: \"v1\""]).status, 304);
    assert_eq!(proxy.get("/", &["If-None-Match: v1"]).status, 304);
}

/// RFC 9111 §4.3.2: they are not for a cache to evaluate.
#[test]
fn conditions_on_the_state_of_the_origin_go_to_it_even_past_a_fresh_response() {
    let origin = Origin::answering(|request| match request.header("if-match") {
        Some("\"v0\"") => answer(412, &[], ""),
        _ => answer(200, &["ETag: \"v1\"", "Cache-Control: max-age=60"], "body"),
    });
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    let failed = proxy.get("/", &["If-Match: \"v0\""]);
    assert_eq!(failed.status, 412);
    assert_eq!(status(&failed), "headwater; fwd=bypass; detail=precondition");
    let unmodified = "If-Unmodified-Since: Thu, 01 Jan 2026 00:00:00 GMT";
    assert_eq!(proxy.get("/", &[unmodified]).status, 200);
    assert_eq!(origin.count(), 3);
    assert!(is_hit(&proxy.get("/", &[])));
}

#[test]
fn an_error_at_a_revalidation_passes_and_leaves_what_is_stored() {
    let origin = Origin::scripted(|call| {
        let bytes = match call.number {
            0 => answer(200, &OLD, "body"),
            1 => answer(500, &[], "broken"),
            _ => answer(304, &OLD[..2], ""),
        };
        call.send(&bytes);
    });
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    let broken = proxy.get("/", &[]);
    assert_eq!((broken.status, broken.text().as_str()), (500, "broken"));
    assert_eq!(proxy.get("/", &[]).text(), "body");
    assert_eq!(origin.request(2).header("if-none-match"), Some("\"v1\""));
}

fn head_origin(fields: &'static [&'static str]) -> (Origin, Proxy) {
    let origin = Origin::scripted(move |call| {
        let bytes = match call.request.method() {
            "HEAD" => {
                let bytes = answer(200, fields, "body");
                bytes[..bytes.len() - 4].to_vec()
            }
            _ if call.number == 0 => answer(200, &OLD, "body"),
            _ => answer(200, &["Cache-Control: max-age=60"], "new"),
        };
        call.send(&bytes);
    });
    let proxy = Setup::of(&[&origin]).start();
    (origin, proxy)
}

/// RFC 9111 §4.3.5.
#[test]
fn an_answer_to_head_freshens_what_get_has_stored() {
    let (origin, proxy) =
        head_origin(&["ETag: \"v1\"", "Cache-Control: max-age=60", "X-From: head"]);
    proxy.get("/", &[]);
    let answer = head(&proxy);
    assert_eq!(
        (answer.header("content-length"), answer.header("x-from")),
        (Some("4"), Some("head"))
    );
    assert!(status(&answer).starts_with("headwater; fwd=stale; fwd-status=200; stored"));
    let hit = proxy.get("/", &[]);
    assert_eq!((hit.text().as_str(), hit.header("x-from")), ("body", Some("head")));
    assert!(is_hit(&hit), "{}", status(&hit));
    assert_eq!(origin.count(), 2);
}

/// RFC 9111 §4.3.5.
#[test]
fn an_answer_to_head_that_differs_takes_what_get_has_stored_away() {
    for fields in [
        &["ETag: \"v2\"", "Cache-Control: max-age=60"][..],
        &["Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT", "Cache-Control: max-age=60"],
    ] {
        let (origin, proxy) = head_origin(fields);
        proxy.get("/", &[]);
        assert_eq!(head(&proxy).status, 200);
        assert_eq!(proxy.get("/", &[]).text(), "new");
        assert_eq!(condition(&origin.request(2)), None, "{fields:?}");
    }
}
