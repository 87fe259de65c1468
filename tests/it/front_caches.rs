//! What a route tells the cache of the front: how long to keep an answer, and the tags to purge it
//! by.

use crate::support::{Answer, Origin, Setup, answer, ok};

const CLOUDFLARE: &str = "cloudflare-cdn-cache-control";
const GENERIC: &str = "cdn-cache-control";
const ROUTE: &str = "front_cache = { ttl = \"1h\", stale_while_revalidate = \"1m\", \
                     stale_if_error = \"1d\", tags = [\"shop\"] }";
const CONTROL: &str = "max-age=3600, stale-while-revalidate=60, stale-if-error=86400";
const OVERTAGGED: &str = "headwater_front_cache_overtagged_total{route=\"app\"}";

fn tags(answer: &Answer) -> Vec<&str> {
    answer.message.headers("cache-tag").collect()
}

fn assert_told(answer: &Answer) {
    assert_eq!(answer.header(CLOUDFLARE), Some(CONTROL), "{answer:?}");
    assert_eq!(tags(answer), ["a, b", "shop"], "{answer:?}");
}

#[test]
fn a_front_is_told_the_same_of_misses_hits_parts_and_confirmations() {
    let fields = ["Cache-Control: max-age=60", "ETag: \"v1\"", "Cache-Tag: a, b"];
    let origin = Origin::answering(move |_| answer(200, &fields, "body"));
    let proxy = Setup::of(&[&origin]).listener("front = \"cloudflare\"").route(ROUTE).start();
    for word in ["fwd=miss", "hit"] {
        let answer = proxy.get("/", &[]);
        assert!(answer.header("cache-status").unwrap().contains(word), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("max-age=60"), "it is for all others");
        assert_told(&answer);
    }
    for (field, status) in [("If-None-Match: W/\"v1\"", 304), ("Range: bytes=0-1", 206)] {
        let answer = proxy.get("/", &[field]);
        assert_eq!(answer.status, status);
        assert_told(&answer);
    }
    assert_eq!(origin.count(), 1);
    // A purge of both caches is by one set of tags.
    assert_eq!(proxy.purge("{\"tags\": [\"shop\"]}"), 1);
    assert_eq!(proxy.metric(OVERTAGGED), 0.0);
}

#[test]
fn a_front_is_told_of_what_is_not_cached_here_too_but_not_of_what_it_may_not_keep() {
    let origin = Origin::answering(|request| match request.target() {
        "/private" => answer(200, &["Cache-Control: private"], ""),
        "/cookie" => answer(200, &["Set-Cookie: a=b"], ""),
        "/error" => answer(500, &[], ""),
        _ => ok("body"),
    });
    let proxy = Setup::of(&[&origin])
        .listener("front = \"cloudflare\"")
        .route(ROUTE)
        .route("cache = false")
        .start();
    let control = |path: &str, fields: &[&str]| {
        let answer = proxy.get(path, fields);
        (answer.header(CLOUDFLARE).map(str::to_owned), tags(&answer).join(","))
    };
    let told = (Some(CONTROL.to_owned()), "shop".to_owned());
    assert_eq!(control("/", &[]), told);
    assert_eq!(control("/error", &[]), (None, "shop".to_owned()));
    for (path, fields) in
        [("/private", &[][..]), ("/cookie", &[]), ("/", &["Authorization: Basic eA=="])]
    {
        assert_eq!(control(path, fields), (None, String::new()), "{path} {fields:?}");
    }
    let fails =
        Setup::of(&[&"127.0.0.1:1"]).listener("front = \"cloudflare\"").route(ROUTE).start();
    let page = fails.get("/", &[]);
    assert_eq!((page.status, page.header(CLOUDFLARE), tags(&page).len()), (502, None, 0));
}

#[test]
fn a_front_without_a_field_of_its_own_is_told_in_the_common_one() {
    let origin = Origin::answering(|_| ok("body"));
    let proxy = Setup::of(&[&origin])
        .listener("front = \"cloudfront\"\ntrusted = [\"10.0.0.0/8\"]")
        .route(ROUTE)
        .start();
    let answer = proxy.get("/", &[]);
    assert_eq!((answer.header(GENERIC), answer.header(CLOUDFLARE)), (Some(CONTROL), None));
    assert_eq!(tags(&answer), ["shop"]);
}

#[test]
fn what_could_not_be_purged_from_the_front_is_not_to_be_kept_there() {
    let many = format!("Cache-Tag: {}", vec!["tag"; 4096].join(","));
    let origin = Origin::answering(move |request| match request.target() {
        "/many" => answer(200, &["Cache-Control: max-age=60", &many], "body"),
        _ => answer(200, &["Cache-Control: max-age=60", "Cache-Tag: of two words"], "body"),
    });
    let proxy = Setup::of(&[&origin]).listener("front = \"cloudflare\"").route(ROUTE).start();
    for (number, path) in ["/words", "/many", "/many"].iter().enumerate() {
        let answer = proxy.get(path, &[]);
        assert_eq!(answer.header(CLOUDFLARE), Some("no-store"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("max-age=60"), "browsers may keep it");
        assert!(tags(&answer).is_empty());
        assert_eq!(proxy.metric(OVERTAGGED), number as f64 + 1.0);
    }
    assert_eq!(origin.count(), 2, "our own cache keeps it, and knows its tags");
    assert_eq!(proxy.purge("{\"tags\": [\"of two words\"]}"), 1);
}
