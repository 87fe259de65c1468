//! What makes two requests the same: the key and its rules, `Vary`, `No-Vary-Search`.

use crate::support::{Answer, Client, Origin, Proxy, Setup, answer};

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").unwrap_or("none").starts_with("headwater; hit")
}

/// An origin that answers with these fields, and a route with these lines.
fn serving(fields: &'static [&'static str], route: &str) -> (Origin, Proxy) {
    let origin = Origin::answering(move |_| {
        let all: Vec<&str> =
            ["Cache-Control: max-age=60"].into_iter().chain(fields.iter().copied()).collect();
        answer(200, &all, "body")
    });
    let proxy = Setup::of(&[&origin]).route(route).start();
    (origin, proxy)
}

/// Asks for the first, then whether each of the others is answered from the store.
#[track_caller]
fn assert_hits(client: &mut Client, first: (&str, &[&str]), others: &[(&str, &[&str], bool)]) {
    client.get(first.0, first.1);
    for (target, fields, hit) in others {
        let answer = client.get(target, fields);
        assert_eq!(is_hit(&answer), *hit, "{target} {fields:?}");
    }
}

#[test]
fn parameters_of_a_query_count_as_the_route_says() {
    let cases: [(&str, &[(&str, bool)]); 4] = [
        ("none\"", &[("/?x=1", true), ("/", true)]),
        ("{ only = [\"v\"] }", &[("/?v=1&utm=2", true), ("/?v=2", false), ("/", false)]),
        (
            "{ ignore = [\"utm_*\"] }",
            &[("/?v=1&utm_a=2", true), ("/?utm_a=1&v=1", true), ("/?v=1&utm=1", false)],
        ),
        ("all\"", &[("/?v=1", true), ("/?v=1&", false)]),
    ];
    for (rule, others) in cases {
        let rule = if rule.starts_with('{') { rule.to_owned() } else { format!("\"{rule}") };
        let (_origin, proxy) = serving(&[], &format!("cache.key.query = {rule}"));
        let mut client = proxy.connect();
        client.get("/?v=1", &[]);
        for (target, hit) in others {
            assert_eq!(is_hit(&client.get(target, &[])), *hit, "{rule} {target}");
        }
    }
}

#[test]
fn the_query_goes_to_the_origin_as_it_came() {
    let (origin, proxy) = serving(&[], "cache.key = { query = \"none\", sort_query = true }");
    proxy.get("/?b=1&a=2", &[]);
    assert_eq!(origin.request(0).target(), "/?b=1&a=2");
}

#[test]
fn parameters_are_sorted_where_the_route_says_so() {
    let (_origin, proxy) = serving(&[], "cache.key.sort_query = true");
    assert_hits(
        &mut proxy.connect(),
        ("/?b=1&a=2&b=0", &[]),
        &[("/?a=2&b=1&b=0", &[], true), ("/?a=2&b=0&b=1", &[], false)],
    );
}

#[test]
fn headers_and_cookies_can_be_parts_of_the_key_and_a_purge_of_the_url_finds_them() {
    let (_origin, proxy) =
        serving(&[], "cache.key = { headers = [\"x-device\"], cookies = [\"lang\"] }");
    let mut client = proxy.connect();
    let phone: &[&str] = &["X-Device: phone", "Cookie: a=1; lang=de"];
    assert_hits(
        &mut client,
        ("/", phone),
        &[
            ("/", &["X-Device: phone", "Cookie: lang=de; b=2"], true),
            ("/", &["X-Device: phone", "Cookie: lang=en"], false),
            ("/", &["X-Device: tv", "Cookie: lang=de"], false),
            ("/", &[], false),
        ],
    );
    assert_eq!(proxy.purge(r#"{"urls":["http://site.test/other"]}"#), 0);
    let purged = format!(r#"{{"urls":["http://{}/"]}}"#, crate::support::HOST);
    assert_eq!(proxy.purge(&purged), 4);
    assert!(!is_hit(&client.get("/", phone)));
}

#[test]
fn a_route_with_conditions_keeps_its_responses_apart() {
    let origin = Origin::answering(|request| {
        answer(200, &["Cache-Control: max-age=60"], request.header("x-via").unwrap_or("none"))
    });
    let setup = Setup::of(&[&origin]).text(
        "[listener.other]\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"other\"\npool = \"app\"\nlisteners = [\"other\"]\n\
         request_headers.set = { x-via = \"other\" }",
    );
    let proxy = setup.start();
    assert_eq!(proxy.get("/", &[]).text(), "none");
    let mut other = Client::connect(proxy.address_of("other"));
    assert_eq!(other.get("/", &[]).text(), "other");
    assert!(is_hit(&other.get("/", &[])) && is_hit(&proxy.get("/", &[])));
    let purged = format!(r#"{{"urls":["http://{}/"]}}"#, crate::support::HOST);
    assert_eq!(proxy.purge(&purged), 2);
}

#[test]
fn requests_with_certain_cookies_or_headers_go_past_the_cache() {
    let (origin, proxy) =
        serving(&[], "cache.bypass = { cookies = [\"session*\"], headers = [\"x-preview\"] }");
    let mut client = proxy.connect();
    client.get("/", &[]);
    for (field, detail) in
        [("Cookie: a=1; session_x=2", "bypass-cookie"), ("X-Preview: 1", "bypass-header")]
    {
        let answer = client.get("/", &[field]);
        let words = format!("headwater; fwd=bypass; detail={detail}");
        assert_eq!(answer.header("cache-status"), Some(words.as_str()));
    }
    assert_eq!(origin.count(), 3);
    assert!(is_hit(&client.get("/", &["Cookie: a=1"])));
}

/// RFC 9111 §4.1.
#[test]
fn preferences_are_compared_by_what_they_mean() {
    let (_origin, proxy) = serving(&["Vary: Accept-Language"], "");
    assert_hits(
        &mut proxy.connect(),
        ("/", &["Accept-Language: en, de;q=0.8"]),
        &[
            ("/", &["Accept-Language: de;q=0.80,EN"], true),
            ("/", &["Accept-Language: EN", "Accept-Language: de;q=0.8"], true),
            ("/", &["Accept-Language: de, en;q=0.8"], false),
            ("/", &[], false),
        ],
    );
}

/// draft-ietf-httpbis-no-vary-search.
#[test]
fn a_response_can_say_which_parameters_make_no_difference() {
    let (origin, proxy) = serving(&["No-Vary-Search: params=(\"utm\"), key-order"], "");
    let mut client = proxy.connect();
    assert_hits(
        &mut client,
        ("/?a=1&utm=x&b=2", &[]),
        &[
            ("/?b=2&a=1", &[], true),
            ("/?b=2&utm=z&a=%31", &[], true),
            ("/?a=1", &[], false),
            ("/other?a=1&b=2", &[], false),
        ],
    );
    assert_eq!(origin.count(), 3);
    let purged = format!(r#"{{"urls":["http://{}/?utm=q&a=1&b=2"]}}"#, crate::support::HOST);
    assert_eq!(proxy.purge(&purged), 1);
    assert!(!is_hit(&client.get("/?b=2&a=1", &[])));
}

#[test]
fn variants_are_bounded_and_the_oldest_goes_first() {
    let origin =
        Origin::answering(|_| answer(200, &["Cache-Control: max-age=60", "Vary: X-V"], "body"));
    let proxy = Setup::of(&[&origin]).text("[cache]\nvariants_max = 2").start();
    let mut client = proxy.connect();
    for variant in ["X-V: 1", "X-V: 2", "X-V: 3"] {
        client.get("/", &[variant]);
    }
    assert!(is_hit(&client.get("/", &["X-V: 3"])) && is_hit(&client.get("/", &["X-V: 2"])));
    assert!(!is_hit(&client.get("/", &["X-V: 1"])));
}

/// RFC 9211 §2.7.
#[test]
fn the_key_is_shown_where_the_operator_wants_it() {
    let origin = Origin::answering(|_| answer(200, &["Cache-Control: max-age=60"], "body"));
    let setup = Setup::of(&[&origin]).route("cache.key.query = { only = [\"a\"] }");
    let proxy = setup.text("[cache]\nstatus_key = true").start();
    proxy.get("/%7Ex?b=1&a=2", &[]);
    let hit = proxy.get("/~x?a=2", &[]);
    let words = hit.header("cache-status").unwrap();
    let key = format!("; key=\"{}/~x?a=2\"", crate::support::HOST);
    assert!(is_hit(&hit) && words.ends_with(&key), "{words}");
}
