//! Which route a request takes, and what a route does with it before it is sent on.

use crate::support::{Authority, Client, Folder, HOST, Origin, Proxy, Setup, Tls, ok};

/// Answers with the target it was asked for.
fn echo() -> Origin {
    Origin::answering(|request| ok(request.target()))
}

/// A proxy whose routes answer with their names.
fn named(routes: &[(&str, &str)]) -> Proxy {
    let routes = routes.iter().map(|(name, conditions)| {
        format!(
            "[[route]]\nname = \"{name}\"\n{conditions}\n\
             respond = {{ status = 200, body = \"{name}\" }}\n"
        )
    });
    Setup::empty().text(&routes.collect::<String>()).start()
}

/// The route that answers for a URL without its scheme.
fn route_of(client: &mut Client, url: &str) -> String {
    let (host, path) = url.split_at(url.find('/').unwrap());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let answer = client.answer();
    if answer.status == 200 { answer.text() } else { answer.status.to_string() }
}

#[test]
fn a_request_reaches_the_endpoint_of_its_route() {
    let origin = echo();
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get("/a/b?c=d", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "/a/b?c=d"));
}

#[test]
fn the_more_exact_host_wins_whatever_the_order_of_the_file() {
    let proxy = named(&[
        ("any", ""),
        ("wide", r#"hosts = ["*.example.com"]"#),
        ("narrow", r#"hosts = ["*.eu.example.com"]"#),
        ("exact", r#"hosts = ["www.eu.example.com"]"#),
    ]);
    let mut client = proxy.connect();
    for (url, route) in [
        ("www.eu.example.com/", "exact"),
        ("WWW.EU.EXAMPLE.COM:8080/", "exact"),
        ("www.eu.example.com./", "exact"),
        ("a.b.eu.example.com/", "narrow"),
        ("eu.example.com/", "wide"),
        ("example.com/", "any"),
        ("notexample.com/", "any"),
    ] {
        assert_eq!(route_of(&mut client, url), route, "{url}");
    }
}

#[test]
fn the_more_exact_path_wins_within_a_host() {
    let proxy = named(&[
        ("rest", r#"hosts = ["a.test"]"#),
        (
            "regex",
            r#"hosts = ["a.test"]
                     paths = ["~^/[a-z]+/[0-9]+$"]"#,
        ),
        (
            "short",
            r#"hosts = ["a.test"]
                     paths = ["/api/*"]"#,
        ),
        (
            "long",
            r#"hosts = ["a.test"]
                    paths = ["/api/v2/*"]"#,
        ),
        (
            "exact",
            r#"hosts = ["a.test"]
                     paths = ["/api/v2/list"]"#,
        ),
        ("elsewhere", r#"paths = ["/only-here"]"#),
    ]);
    let mut client = proxy.connect();
    for (url, route) in [
        ("a.test/api/v2/list", "exact"),
        ("a.test/api/v2/lists", "long"),
        ("a.test/api/v2", "long"),
        ("a.test/api/v2/", "long"),
        ("a.test/api/v20", "short"),
        ("a.test/api/7", "short"),
        ("a.test/users/7", "regex"),
        ("a.test/apis", "rest"),
        ("a.test/only-here", "rest"),
        ("b.test/only-here", "elsewhere"),
        ("b.test/other", "404"),
    ] {
        assert_eq!(route_of(&mut client, url), route, "{url}");
    }
}

#[test]
fn a_request_that_no_route_of_a_host_matches_falls_to_the_next_level() {
    let proxy = named(&[
        (
            "exact",
            r#"hosts = ["a.b.test"]
                     paths = ["/one"]"#,
        ),
        (
            "wildcard",
            r#"hosts = ["*.b.test"]
                        paths = ["/two"]"#,
        ),
        ("any", r#"paths = ["/three"]"#),
    ]);
    let mut client = proxy.connect();
    for (url, route) in [
        ("a.b.test/one", "exact"),
        ("a.b.test/two", "wildcard"),
        ("a.b.test/three", "any"),
        ("a.b.test/four", "404"),
    ] {
        assert_eq!(route_of(&mut client, url), route, "{url}");
    }
}

#[test]
fn priority_breaks_a_tie() {
    let proxy = named(&[
        ("low", r#"paths = ["~^/x"]"#),
        ("high", "paths = [\"~^/y|x\"]\npriority = 1"),
        ("one", r#"paths = ["/p"]"#),
        ("two", "paths = [\"/p\"]\npriority = 2"),
    ]);
    assert_eq!(route_of(&mut proxy.connect(), "a.test/p"), "two");
}

#[test]
fn a_route_may_be_for_one_listener_only() {
    let proxy = Setup::empty()
        .text(
            r#"
            [listener.side]
            bind = "127.0.0.1:0"
            [[route]]
            listeners = ["side"]
            respond = { status = 200, body = "side" }
            "#,
        )
        .start();
    let mut side = Client::connect(proxy.address_of("side"));
    assert_eq!(side.get("/", &[]).text(), "side");
    assert_eq!(proxy.get("/", &[]).status, 404);
}

#[test]
fn an_unknown_host_is_404_with_a_request_id_and_never_stored() {
    let proxy = named(&[("known", r#"hosts = ["known.test"]"#)]);
    let mut client = proxy.connect();
    let page = client.get("/", &[]);
    assert_eq!(page.status, 404);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let id = page.header("x-request-id").unwrap();
    assert!(page.text().contains(id), "{}", page.text());

    let problem = client.get("/", &["Accept: application/json"]);
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem.json()["status"], 404);
    assert_eq!(problem.json()["request_id"], problem.header("x-request-id").unwrap());
}

#[test]
fn paths_are_routed_and_forwarded_in_their_normal_form() {
    let origin = echo();
    let proxy = Setup::of(&[&origin]).route(r#"paths = ["/shop/*"]"#).start();
    let mut client = proxy.connect();
    for (sent, forwarded) in [
        ("/shop/%61%2Db", "/shop/a-b"),
        ("/x/../shop/a", "/shop/a"),
        ("/x/%2e%2E/shop/./a", "/shop/a"),
        ("/shop//a", "/shop//a"),
        ("/shop/a%2Fb", "/shop/a%2Fb"),
        ("/shop/a%2fb%c3%a9", "/shop/a%2Fb%C3%A9"),
        ("/shop/a?x=%61/../b", "/shop/a?x=%61/../b"),
        ("/shop/..%2Fa", "/shop/..%2Fa"),
    ] {
        let answer = client.get(sent, &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, forwarded), "{sent}");
    }
    assert_eq!(client.get("/shop/../other", &[]).status, 404);
    assert_eq!(client.get("/%2e%2e/shop/%2e%2e/other", &[]).status, 404);
}

#[test]
fn a_path_without_a_normal_form_is_400() {
    let proxy = named(&[("any", "")]);
    for path in ["/a%00b", "/a%zz", "/a%2", "/a\\b"] {
        let answer = proxy.get(path, &[]);
        assert_eq!(answer.status, 400, "{path}");
    }
}

#[test]
fn the_absolute_form_of_a_target_names_the_host() {
    let origin = Origin::answering(|request| ok(&request.head));
    let proxy = Setup::of(&[&origin]).route(r#"hosts = ["one.test"]"#).start();
    let mut client = proxy.connect();
    client.send("GET http://one.test/a?b HTTP/1.1\r\nHost: one.test\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("GET /a?b HTTP/1.1\r\n"), "{}", answer.text());
    assert_eq!(origin.request(0).header("host"), Some("one.test"));
    client.send("GET http://two.test/ HTTP/1.1\r\nHost: one.test\r\n\r\n");
    assert_eq!(client.answer().status, 404, "Host is ignored (RFC 9112 §3.2.2)");
}

#[test]
fn a_redirect_fills_in_what_was_asked_for() {
    let proxy = Setup::empty()
        .text(
            r#"
            [[route]]
            hosts = ["old.test"]
            redirect = { to = "https://new.test{path}{query}", status = 301 }
            [[route]]
            hosts = ["plain.test"]
            redirect = { to = "https://{host}/" }
            "#,
        )
        .start();
    let mut client = proxy.connect();
    client.send("GET /a%20b/%61?c=d HTTP/1.1\r\nHost: old.test\r\n\r\n");
    let moved = client.answer();
    assert_eq!(moved.status, 301);
    assert_eq!(moved.header("location"), Some("https://new.test/a%20b/a?c=d"));
    client.send("GET /a HTTP/1.1\r\nHost: plain.test\r\n\r\n");
    let permanent = client.answer();
    assert_eq!(permanent.status, 308);
    assert_eq!(permanent.header("location"), Some("https://plain.test/"));
}

#[test]
fn a_fixed_response_has_its_status_body_and_headers() {
    let proxy = Setup::empty()
        .text(
            r#"
            [[route]]
            respond = { status = 418, body = "teapot\n", headers = { content-type = "text/plain", x-pot = "yes" } }
            "#,
        )
        .start();
    let mut client = proxy.connect();
    let answer = client.get("/", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (418, "teapot\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("x-pot"), Some("yes"));
    client.send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let head = client.head_answer();
    assert_eq!(head.header("content-length"), Some("7"));
    assert_eq!(client.get("/", &[]).status, 418, "nothing followed the head");
}

#[test]
fn rewriting_strips_and_adds_whole_segments_and_replaces_the_host() {
    let origin = Origin::answering(|request| ok(&request.head));
    let proxy = Setup::of(&[&origin])
        .route(
            r#"
            paths = ["/api/*"]
            rewrite = { strip_prefix = "/api", add_prefix = "/v2", host = "internal" }
            "#,
        )
        .start();
    let mut client = proxy.connect();
    for (sent, forwarded) in [
        ("/api/users?a=b", "/v2/users?a=b"),
        ("/api", "/v2/"),
        ("/api/", "/v2/"),
        ("/api/a%2Fb", "/v2/a%2Fb"),
    ] {
        let head = client.get(sent, &[]).text();
        assert!(head.starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")), "{sent}: {head}");
    }
    let request = origin.request(0);
    assert_eq!(request.headers("host").collect::<Vec<_>>(), ["internal"]);
    assert_eq!(request.header("x-forwarded-host"), Some(HOST));
}

#[test]
fn a_body_larger_than_the_route_allows_is_413() {
    let origin = Origin::answering(|request| ok(request.body.len().to_string()));
    let proxy = Setup::of(&[&origin]).route("body_max = \"10B\"").start();
    let mut client = proxy.connect();
    assert_eq!(client.ask("POST", "/", &[], "0123456789").text(), "10");

    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 11\r\n\r\n"));
    let refused = client.answer();
    assert_eq!(refused.status, 413);
    assert!(refused.closes());
    client.assert_closed();
    assert_eq!(origin.count(), 1, "an announced length is refused before it is forwarded");

    let mut client = proxy.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n"
    ));
    client.send("012345\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
}

#[test]
fn plain_requests_are_redirected_to_https_with_their_host_and_query() {
    let proxy = Setup::empty()
        .listener("https_redirect = true")
        .text(
            r#"
            [listener.other]
            bind = "127.0.0.1:0"
            https_redirect = 8443
            [[route]]
            respond = { status = 200, body = "plain" }
            "#,
        )
        .start();
    let answer = proxy.get("/a%20b?c", &[]);
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("https://site.test/a%20b?c"));
    let answer = Client::connect(proxy.address_of("other")).get("/", &[]);
    assert_eq!(answer.header("location"), Some("https://site.test:8443/"));
    // A certificate authority asks over http.
    assert_eq!(proxy.get("/.well-known/acme-challenge/token", &[]).text(), "plain");
    let mut nameless = proxy.connect();
    nameless.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(nameless.answer().status, 400);
}

#[test]
fn a_request_for_another_certificate_of_the_listener_is_421() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "one", &["one.test"]);
    authority.write(&folder, "two", &["two.test"]);
    let proxy = Setup::empty()
        .listener(
            r#"tls.certificates = [{ cert = "one.crt", key = "one.key" },
                                   { cert = "two.crt", key = "two.key" }]"#,
        )
        .text("[[route]]\nrespond = { status = 200, body = \"here\" }")
        .start_in(folder);
    let tls = Tls::new(&authority).named("one.test");
    let status = |tls: &Tls, host: &str| {
        let mut client = Client::tls(proxy.address(), tls);
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer().status
    };
    assert_eq!(status(&tls, "one.test"), 200);
    assert_eq!(status(&tls, "two.test"), 421);
    assert_eq!(status(&tls, "unknown.test"), 200, "nobody here has a certificate for it");
}
