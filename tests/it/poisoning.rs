//! Answers that one client brings about under the key of another.

use crate::support::{Client, Origin, Setup, answer};

/// Redirects to whatever the request makes it believe, and says what it was asked for.
fn gullible() -> Origin {
    Origin::answering(|request| {
        let said = |name: &str| request.header(name).unwrap_or("-").to_owned();
        let location = format!("Location: https://{}{}", said("host"), request.target());
        let believed = [
            "x-original-url",
            "x-http-method-override",
            "x-host",
            "x-forwarded-host",
            "x-forwarded-scheme",
            "x-forwarded-prefix",
            "front-end-https",
            "x-client-ip",
        ];
        let body = believed.map(said).join(" ");
        answer(301, &[&location, "Cache-Control: max-age=60"], body)
    })
}

fn ask(client: &mut Client, target: &str, fields: &[&str]) -> String {
    client.send(format!("GET {target} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n")));
    let answer = client.answer();
    assert_eq!(answer.status, 301, "{fields:?}");
    format!("{} {}", answer.header("location").unwrap(), answer.text())
}

#[test]
fn no_spelling_of_the_authority_reaches_another_visitor() {
    let origin = gullible();
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for (number, host) in [
        "open.test:1337",
        "OPEN.TEST",
        "open.test.",
        "open.test:",
        "open.test:00080",
        "Open.test.:80",
        "open.test:443",
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/{number}");
        ask(&mut client, &target, &[&format!("Host: {host}")]);
        let own = ask(&mut client, &target, &["Host: open.test"]);
        assert!(own.starts_with(&format!("https://open.test{target} ")), "after {host}: {own}");
    }
}

#[test]
fn spellings_that_mean_the_same_share_what_is_stored_and_are_forwarded_as_one() {
    let origin = gullible();
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for host in ["open.test", "OPEN.test", "open.test.", "open.test:80", "open.test:"] {
        ask(&mut client, "/", &[&format!("Host: {host}")]);
    }
    assert_eq!(origin.count(), 1);
    for host in ["open.test:1337", "Open.Test.:01337"] {
        ask(&mut client, "/", &[&format!("Host: {host}")]);
    }
    assert_eq!(origin.count(), 2);
    assert_eq!(origin.request(1).header("host"), Some("open.test:1337"));
    assert_eq!(origin.request(1).header("x-forwarded-host"), Some("open.test:1337"));
    proxy.purge("{\"urls\":[\"http://open.test/\"]}");
    ask(&mut client, "/", &["Host: open.test"]);
    ask(&mut client, "/", &["Host: open.test:1337"]);
    assert_eq!(origin.count(), 4, "a purge of a URL is one for all ports");
}

#[test]
fn an_absolute_target_stands_above_host() {
    let origin = gullible();
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let got = ask(&mut client, "http://open.test/a", &["Host: evil.test"]);
    assert!(got.starts_with("https://open.test/a "), "{got}");
    assert_eq!(origin.request(0).header("host"), Some("open.test"));
    let own = ask(&mut client, "/a", &["Host: open.test"]);
    assert!(own.starts_with("https://open.test/a "), "{own}");
    assert_eq!(origin.count(), 1);
}

const OVERRIDES: [&str; 9] = [
    "X-Original-URL: /evil",
    "X-HTTP-Method-Override: DELETE",
    "X-Host: evil.test",
    "X-Forwarded-Host: evil.test",
    "X-Forwarded-Scheme: http",
    "X-Forwarded-Prefix: /evil",
    "X_Original_URL: /evil",
    "Front-End-Https: on",
    "X-Client-IP: 192.0.2.1",
];

#[test]
fn fields_that_override_what_is_asked_for_end_at_a_cache() {
    let origin = gullible();
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let clean = ask(&mut client, "/clean", &["Host: open.test"]).replace("clean", "");
    for (number, field) in OVERRIDES.into_iter().enumerate() {
        let target = format!("/{number}");
        ask(&mut client, &target, &["Host: open.test", field]);
        let own = ask(&mut client, &target, &["Host: open.test"]);
        assert_eq!(own.replace(&number.to_string(), ""), clean, "{field}");
    }
    for request in origin.requests(OVERRIDES.len() + 1) {
        for name in ["x-original-url", "x_original_url", "x-host", "proxy", "x-client-ip"] {
            assert_eq!(request.header(name), None, "{request:?}");
        }
    }
}

#[test]
fn where_nothing_is_stored_only_what_tells_of_the_client_is_kept_back() {
    let origin = gullible();
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    let fields =
        [&["Host: open.test", "Proxy: evil", "Proxy-Authorization: Basic a"], &OVERRIDES[..]];
    ask(&mut client, "/", &fields.concat());
    let request = origin.request(0);
    for (name, value) in [
        ("x-original-url", Some("/evil")),
        ("x-http-method-override", Some("DELETE")),
        ("x-forwarded-host", Some("open.test")),
        ("x-forwarded-scheme", None),
        ("front-end-https", None),
        ("x-client-ip", None),
        ("proxy", None),
        ("proxy-authorization", None),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
}

#[test]
fn a_route_may_let_an_override_through_or_have_it_in_its_key() {
    let origin = gullible();
    let lines = "cache = { forward = [\"X-Forwarded-Prefix\"], key.headers = [\"X-Host\"] }";
    let proxy = Setup::of(&[&origin]).route(lines).start();
    let mut client = proxy.connect();
    let fields = ["Host: open.test", "X-Forwarded-Prefix: /app", "X-Host: a", "X-Original-URL: /b"];
    ask(&mut client, "/", &fields);
    let request = origin.request(0);
    assert_eq!(request.header("x-forwarded-prefix"), Some("/app"));
    assert_eq!(request.header("x-host"), Some("a"));
    assert_eq!(request.header("x-original-url"), None);
    ask(&mut client, "/", &["Host: open.test", "X-Host: b"]);
    assert_eq!(origin.count(), 2, "another key");
}

#[test]
fn a_parameter_in_another_spelling_brings_nothing_under_the_key_of_the_plain_one() {
    let origin = gullible();
    let lines = "cache.key.query = { only = [\"v\"] }";
    let proxy = Setup::of(&[&origin]).route(lines).start();
    let mut client = proxy.connect();
    for (number, pair) in ["%76=evil", "a=1;v=evil", "v[]=evil", "+v=evil"].into_iter().enumerate()
    {
        ask(&mut client, &format!("/{number}?v=1&{pair}"), &["Host: open.test"]);
        let own = ask(&mut client, &format!("/{number}?v=1"), &["Host: open.test"]);
        assert!(!own.contains("evil"), "{own}");
    }
    ask(&mut client, "/x?v=1", &["Host: open.test"]);
    let shared = ask(&mut client, "/x?v=1&utm=2", &["Host: open.test"]);
    assert!(!shared.contains("utm"), "what does not count is shared: {shared}");
}

#[test]
fn http_and_https_have_answers_of_their_own() {
    let origin = gullible();
    let proxy = Setup::of(&[&origin]).listener("trusted = [\"127.0.0.0/8\"]").start();
    let mut client = proxy.connect();
    for proto in ["http", "https", "http", "https"] {
        ask(&mut client, "/", &["Host: open.test", &format!("X-Forwarded-Proto: {proto}")]);
    }
    assert_eq!(origin.count(), 2);
}
