//! Purges by hand, and what requests that change something take away (RFC 9111 §4.4).

use crate::support::origin::Gate;
use crate::support::{Answer, HOST, Origin, Proxy, Setup, answer, eventually};

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").unwrap_or("none").starts_with("headwater; hit; ttl=")
        && !answer.header("cache-status").unwrap_or("none").contains("ttl=-")
}

/// An origin whose every answer has another text and the tags of its path's letters.
fn serving(route: &str) -> (Origin, Proxy) {
    let origin = Origin::answering(|request| {
        let path = request.target().split('?').next().unwrap_or_default();
        let tags: Vec<String> =
            path.chars().filter(char::is_ascii_alphabetic).map(String::from).collect();
        let tags = format!("Cache-Tag: {}", tags.join(","));
        answer(200, &["Cache-Control: max-age=60", "ETag: \"v\"", &tags], path)
    });
    let proxy = Setup::of(&[&origin]).route(route).start();
    (origin, proxy)
}

fn fill(proxy: &Proxy, targets: &[&str]) {
    let mut client = proxy.connect();
    for target in targets {
        client.get(target, &[]);
        assert!(is_hit(&client.get(target, &[])), "{target}");
    }
}

#[track_caller]
fn assert_gone(proxy: &Proxy, targets: &[(&str, bool)]) {
    let mut client = proxy.connect();
    for (target, gone) in targets {
        assert_eq!(is_hit(&client.get(target, &[])), !gone, "{target}");
    }
}

#[test]
fn what_carries_a_tag_is_purged_by_it_whatever_its_case() {
    let (_origin, proxy) = serving("cache.tags = [\"site\"]");
    fill(&proxy, &["/a", "/a/b", "/c?a"]);
    assert_eq!(proxy.purge(r#"{"tags":["A"]}"#), 2);
    assert_gone(&proxy, &[("/a", true), ("/a/b", true), ("/c?a", false)]);
    assert_eq!(proxy.purge(r#"{"tags":["SITE"]}"#), 3);
    assert_gone(&proxy, &[("/c?a", true)]);
    assert_eq!(proxy.metric("headwater_cache_purged_total{kind=\"tag\"}"), 5.0);
}

#[test]
fn surrogate_keys_are_tags() {
    let origin = Origin::answering(|_| {
        answer(200, &["Cache-Control: max-age=60", "Surrogate-Key: one two"], "body")
    });
    let proxy = Setup::of(&[&origin]).start();
    fill(&proxy, &["/"]);
    assert_eq!(proxy.purge(r#"{"tags":["two"]}"#), 1);
    assert_gone(&proxy, &[("/", true)]);
}

#[test]
fn prefixes_hosts_and_everything_are_purged() {
    let (_origin, proxy) = serving("");
    let all = ["/a", "/a/b", "/a/b?c", "/ab", "/d"];
    fill(&proxy, &all);
    assert_eq!(proxy.purge(&format!(r#"{{"prefixes":["{HOST}/a/"]}}"#)), 2);
    assert_gone(&proxy, &[("/a", false), ("/ab", false), ("/a/b", true), ("/a/b?c", true)]);
    assert_eq!(proxy.purge(&format!(r#"{{"prefixes":["{HOST}/a"]}}"#)), 4);
    assert_gone(&proxy, &[("/d", false), ("/ab", true)]);
    fill(&proxy, &all);
    assert_eq!(proxy.purge(r#"{"hosts":["other.test"]}"#), 0);
    assert_eq!(proxy.purge(&format!(r#"{{"hosts":["{HOST}"]}}"#)), 5);
    fill(&proxy, &all);
    assert_eq!(proxy.purge(r#"{"all":true}"#), 5);
    assert_eq!(proxy.metric("headwater_cache_objects"), 0.0);
}

#[test]
fn a_url_is_purged_in_every_form_that_its_query_has_in_keys() {
    let (_origin, proxy) =
        serving("cache.key = { query = { ignore = [\"utm\"] }, sort_query = true }");
    fill(&proxy, &["/a?c=1&b=2&utm=x"]);
    assert_eq!(proxy.purge(&format!(r#"{{"urls":["http://{HOST}/a?utm=y&b=2&c=1"]}}"#)), 1);
    assert_gone(&proxy, &[("/a?c=1&b=2", true)]);
}

#[test]
fn a_soft_purge_serves_the_old_response_while_it_is_fetched_anew() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        let fields = ["Cache-Control: max-age=60", "ETag: \"v\"", "Cache-Tag: t"];
        if call.number == 0 {
            call.send(&answer(200, &fields, "old"));
        } else {
            waits.pass();
            call.send(&answer(200, &["Cache-Control: max-age=60", "ETag: \"w\""], "new"));
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    fill(&proxy, &["/"]);
    assert_eq!(proxy.purge(r#"{"tags":["t"],"soft":true}"#), 1);
    for _ in 0..3 {
        let stale = proxy.get("/", &[]);
        assert_eq!(stale.text(), "old");
        let words = stale.header("cache-status").unwrap();
        assert!(words.starts_with("headwater; hit; ttl="), "{words}");
        assert!(words.ends_with("; detail=soft-purge"), "{words}");
    }
    assert_eq!(origin.request(1).header("if-none-match"), Some("\"v\""));
    gate.open();
    eventually("the new response", || (proxy.get("/", &[]).text() == "new").then_some(()));
    assert_eq!(origin.count(), 2);
}

#[test]
fn after_a_soft_purge_the_old_response_stands_in_for_an_error() {
    let origin = Origin::scripted(|call| {
        if call.number == 0 {
            call.send(&answer(200, &["Cache-Control: max-age=60"], "old"));
        } else {
            call.close();
        }
    });
    let proxy = Setup::of(&[&origin]).pool_lines("retry = false").start();
    fill(&proxy, &["/"]);
    assert_eq!(proxy.purge(r#"{"all":true,"soft":true}"#), 1);
    for _ in 0..3 {
        assert_eq!(proxy.get("/", &[]).text(), "old");
    }
}

#[test]
fn a_fetch_that_a_purge_overtakes_is_neither_stored_nor_joined() {
    for purge in [
        format!(r#"{{"urls":["http://{HOST}/a"]}}"#),
        r#"{"tags":["t"]}"#.to_owned(),
        format!(r#"{{"prefixes":["{HOST}/"]}}"#),
        r#"{"all":true,"soft":true}"#.to_owned(),
    ] {
        let gate = Gate::default();
        let waits = gate.clone();
        let origin = Origin::scripted(move |call| {
            let text = if call.number == 0 { "old" } else { "new" };
            if call.number == 0 {
                waits.pass();
            }
            call.send(&answer(200, &["Cache-Control: max-age=60", "Cache-Tag: t"], text));
        });
        let proxy = Setup::of(&[&origin]).start();
        let mut first = proxy.connect();
        first.send(crate::support::client::request("GET", "/a", &[]));
        origin.requests(1);
        proxy.purge(&purge);
        let mut second = proxy.connect();
        second.send(crate::support::client::request("GET", "/a", &[]));
        if !purge.contains("tags") {
            // Without the head nobody knows the tags: then the second one waits and fetches after.
            assert_eq!(second.answer().text(), "new", "{purge}");
        }
        gate.open();
        assert_eq!(first.answer().text(), "old", "{purge}");
        if purge.contains("tags") {
            assert_eq!(second.answer().text(), "new", "{purge}");
        }
        assert_eq!(proxy.get("/a", &[]).text(), "new", "{purge}");
    }
}

/// RFC 9111 §4.4.
#[test]
fn an_unsafe_request_that_succeeds_takes_its_target_and_the_places_it_names_away() {
    let origin = Origin::answering(|request| match request.method() {
        "GET" => answer(200, &["Cache-Control: max-age=60"], "body"),
        _ if request.target() == "/fails" => answer(400, &[], "no"),
        _ => answer(201, &["Location: /made", "Content-Location: content"], "done"),
    });
    let proxy = Setup::of(&[&origin]).start();
    let all = ["/form/x", "/form/content", "/made", "/other", "/fails"];
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        fill(&proxy, &all);
        proxy.connect().ask(method, "/form/x", &[], "x");
        let (gone, stays) = all.split_at(3);
        for target in gone {
            assert_gone(&proxy, &[(target, true)]);
        }
        for target in stays {
            assert_gone(&proxy, &[(target, false)]);
        }
    }
    fill(&proxy, &all);
    proxy.connect().ask("POST", "/fails", &[], "x");
    proxy.connect().ask("OPTIONS", "/other", &[], "");
    assert_gone(&proxy, &[("/fails", false), ("/other", false)]);
    assert!(proxy.metric("headwater_cache_purged_total{kind=\"invalidated\"}") >= 15.0);
}

#[test]
fn places_of_other_origins_are_not_taken_away() {
    let origin = Origin::answering(|request| match request.method() {
        "GET" => answer(200, &["Cache-Control: max-age=60"], "body"),
        _ => answer(200, &["Location: http://elsewhere.test/made"], "done"),
    });
    let proxy = Setup::of(&[&origin]).start();
    fill(&proxy, &["/made"]);
    proxy.connect().ask("POST", "/form", &[], "x");
    assert_gone(&proxy, &[("/made", false)]);
}
