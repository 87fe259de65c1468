//! How long what is kept, and by which field: RFC 9111 §4.2 and §5.2, RFC 9213.

use crate::support::{Answer, Origin, Proxy, Setup, answer};

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("none")
}

fn serving(fields: &'static [&'static str], route: &str) -> (Origin, Proxy) {
    let origin = Origin::answering(move |_| answer(200, fields, "body"));
    let proxy = Setup::of(&[&origin]).route(route).start();
    (origin, proxy)
}

/// What `Cache-Status` says of the second request for the same.
fn second(fields: &'static [&'static str], route: &str) -> String {
    let (_origin, proxy) = serving(fields, route);
    let mut client = proxy.connect();
    client.get("/", &[]);
    status(&client.get("/", &[])).to_owned()
}

#[track_caller]
fn assert_fresh_for(seconds: u64, fields: &'static [&'static str], route: &str) {
    let words = second(fields, route);
    let ttl = words.strip_prefix("headwater; hit; ttl=").and_then(|ttl| ttl.parse::<u64>().ok());
    assert!(
        ttl.is_some_and(|ttl| ttl == seconds || ttl + 1 == seconds),
        "{fields:?} {route}: {words}, not {seconds}"
    );
}

#[track_caller]
fn assert_not_stored(why: &str, fields: &'static [&'static str], route: &str) {
    assert_eq!(second(fields, route), format!("headwater; fwd=miss; detail={why}"), "{fields:?}");
}

/// RFC 9213 §2.1.
#[test]
fn the_most_targeted_field_decides_alone() {
    for (seconds, fields) in [
        (30, &["Cache-Control: no-store", "CDN-Cache-Control: max-age=30"][..]),
        (20, &["CDN-Cache-Control: no-store", "Headwater-Cache-Control: max-age=20", "Expires: 0"]),
        (10, &["Cache-Control: private", "Surrogate-Control: max-age=10, content=\"ESI/1.0\""]),
        (40, &["Cache-Control: max-age=40", "CDN-Cache-Control: max-age=\"1\", &"]),
    ] {
        assert_fresh_for(seconds, fields, "");
    }
    assert_not_stored("private", &["Cache-Control: max-age=9", "CDN-Cache-Control: private"], "");
    assert_not_stored("no-store", &["Cache-Control: max-age=9", "Surrogate-Control: no-store"], "");
}

#[test]
fn our_own_field_ends_here_and_that_of_all_caches_goes_on() {
    let fields = &["Headwater-Cache-Control: max-age=20", "CDN-Cache-Control: max-age=10"];
    for route in ["", "cache = false"] {
        let (_origin, proxy) = serving(fields, route);
        let mut client = proxy.connect();
        for _ in 0..2 {
            let answer = client.get("/", &[]);
            assert_eq!(answer.header("headwater-cache-control"), None);
            assert_eq!(answer.header("cdn-cache-control"), Some("max-age=10"));
        }
    }
}

#[test]
fn our_own_field_still_counts_after_a_confirmation_without_it() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        None => {
            answer(200, &["Headwater-Cache-Control: max-age=60", "Age: 70", "ETag: \"a\""], "x")
        }
        Some(_) => answer(304, &["ETag: \"a\""], ""),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    assert!(
        status(&client.get("/", &[])).starts_with("headwater; fwd=stale; fwd-status=304; stored")
    );
    assert!(status(&client.get("/", &[])).starts_with("headwater; hit; ttl="));
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_route_gives_lifetimes_where_the_response_has_none_or_over_what_it_says() {
    assert_fresh_for(9, &[], "cache.ttl = \"9s\"");
    assert_fresh_for(5, &["Cache-Control: max-age=5"], "cache.ttl = \"9s\"");
    for field in [
        &["Cache-Control: no-cache"][..],
        &["Cache-Control: max-age=0"],
        &["Expires: 0"],
        &["Cache-Control: max-age=60"],
    ] {
        assert_fresh_for(9, field, "cache.ttl_force = \"9s\"");
    }
    for (why, field) in [
        ("private", &["Cache-Control: private"][..]),
        ("no-store", &["Cache-Control: no-store"]),
        ("set-cookie", &["Set-Cookie: a=b"]),
        ("vary-any", &["Vary: *"]),
    ] {
        assert_not_stored(why, field, "cache.ttl_force = \"9s\"");
    }
}

#[test]
fn a_route_gives_lifetimes_by_status() {
    let origin = Origin::answering(|request| {
        let status = request.target().trim_start_matches('/').parse().unwrap();
        answer(status, &[], "body")
    });
    let setup = Setup::of(&[&origin]).pool_lines("retry = false\noutlier = false");
    let proxy = setup.route("cache = { status_ttl = { 404 = \"9s\", 503 = \"5s\" } }").start();
    let mut client = proxy.connect();
    for (path, hit) in [("/404", true), ("/503", true), ("/410", false), ("/200", false)] {
        client.get(path, &[]);
        let second = client.get(path, &[]);
        assert_eq!(status(&second).starts_with("headwater; hit"), hit, "{path}");
    }
}

/// RFC 9111 §4.2.2.
#[test]
fn a_lifetime_is_guessed_only_where_the_route_allows_it() {
    let fields = &[
        "Date: Sun, 06 Nov 1994 08:49:37 GMT",
        "Last-Modified: Sun, 06 Nov 1994 08:48:57 GMT",
        "Cache-Control: public",
    ];
    assert_not_stored("no-lifetime", fields, "");
    let (_origin, proxy) = serving(fields, "cache.heuristic = true");
    let mut client = proxy.connect();
    client.get("/", &[]);
    // Stored for four seconds, more than thirty years ago: to be confirmed each time.
    assert!(status(&client.get("/", &[])).starts_with("headwater; fwd=stale"));
}

/// RFC 9111 §5.2.2.4, §5.2.2.7.
#[test]
fn fields_that_are_named_private_go_to_the_first_client_only() {
    let fields = &[
        "Cache-Control: max-age=60, private=\"x-user\", no-cache=\"x-fresh, set-cookie\"",
        "X-User: ann",
        "X-Fresh: 1",
        "X-All: 2",
        "Set-Cookie: a=b",
    ];
    let (origin, proxy) = serving(fields, "");
    let mut client = proxy.connect();
    let first = client.get("/", &[]);
    for (name, value) in
        [("x-user", "ann"), ("x-fresh", "1"), ("x-all", "2"), ("set-cookie", "a=b")]
    {
        assert_eq!(first.header(name), Some(value));
    }
    let second = client.get("/", &[]);
    assert!(status(&second).starts_with("headwater; hit"), "{}", status(&second));
    for name in ["x-user", "x-fresh", "set-cookie"] {
        assert_eq!(second.header(name), None, "{name}");
    }
    assert_eq!((second.header("x-all"), origin.count()), (Some("2"), 1));
}

/// RFC 9111 §5.2.2.3.
#[test]
fn must_understand_replaces_no_store_for_a_status_that_is_understood() {
    assert_fresh_for(9, &["Cache-Control: no-store, must-understand, max-age=9"], "");
    let origin =
        Origin::answering(|_| answer(599, &["Cache-Control: must-understand, max-age=9"], "body"));
    let proxy = Setup::of(&[&origin]).start();
    let words = status(&proxy.get("/", &[])).to_owned();
    assert_eq!(words, "headwater; fwd=miss; detail=not-understood");
}

#[test]
fn cookies_keep_a_response_out_of_the_store_or_stay_out_or_are_stored() {
    let fields = &["Cache-Control: max-age=60", "Set-Cookie: a=b"];
    for (route, hit, cookie) in [
        ("", false, Some("a=b")),
        ("cache.set_cookie = \"strip\"", true, None),
        ("cache.set_cookie = \"store\"", true, Some("a=b")),
    ] {
        let (_origin, proxy) = serving(fields, route);
        let mut client = proxy.connect();
        assert_eq!(client.get("/", &[]).header("set-cookie"), Some("a=b"), "{route}");
        let second = client.get("/", &[]);
        assert_eq!(status(&second).starts_with("headwater; hit"), hit, "{route}");
        assert_eq!(second.header("set-cookie"), cookie, "{route}");
    }
}

/// RFC 9111 §4.2: the case of a date does not matter, its zone does.
#[test]
fn expires_is_read_in_any_case_and_in_no_other_zone() {
    for (expires, hit) in [
        ("THU, 18 AUG 2050 02:01:18 gmt", true),
        ("Thursday, 18-Aug-50 02:01:18 GMT", true),
        ("Thu Aug 18 02:01:18 2050", true),
        ("Thu, 18 Aug 2050 02:01:18 UTC", false),
        ("Thu, 18 Aug 2050 02:01:18", false),
        ("0", false),
    ] {
        let field = format!("Expires: {expires}");
        let origin = Origin::answering(move |_| answer(200, &[&field], "body"));
        let proxy = Setup::of(&[&origin]).start();
        proxy.get("/", &[]);
        let second = proxy.get("/", &[]);
        assert_eq!(status(&second).starts_with("headwater; hit"), hit, "{expires}");
    }
}

#[test]
fn what_is_asked_for_once_is_not_stored_where_two_uses_are_wanted() {
    let (origin, proxy) = serving(&["Cache-Control: max-age=60"], "cache.min_uses = 2");
    let mut client = proxy.connect();
    let words: Vec<String> = (0..3).map(|_| status(&client.get("/", &[])).to_owned()).collect();
    assert_eq!(words[0], "headwater; fwd=miss; detail=min-uses");
    assert_eq!(words[1], "headwater; fwd=miss; stored");
    assert!(words[2].starts_with("headwater; hit"), "{words:?}");
    assert_eq!(origin.count(), 2);
}
