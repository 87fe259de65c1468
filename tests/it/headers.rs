//! Fields that are added, replaced and taken off on the way.

use crate::support::{Authority, Client, Folder, HOST, Origin, Request, Setup, Tls, answer, ok};

fn mute() -> Origin {
    Origin::answering(|_| ok(""))
}

fn all(request: &Request, name: &str) -> Vec<String> {
    request.headers(name).map(str::to_owned).collect()
}

#[test]
fn an_untrusted_peer_cannot_say_who_the_client_is() {
    let origin = mute();
    let proxy = Setup::of(&[&origin]).start();
    proxy.get(
        "/",
        &[
            "X-Forwarded-For: 9.9.9.9",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil.test",
            "Forwarded: for=9.9.9.9",
            "CF-Connecting-IP: 9.9.9.9",
            "True-Client-IP: 9.9.9.9",
            "X-Real-IP: 9.9.9.9",
            "X-Request-Id: forged",
        ],
    );
    let request = origin.request(0);
    assert_eq!(all(&request, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all(&request, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&request, "x-forwarded-host"), [HOST]);
    assert_eq!(all(&request, "forwarded"), [format!("for=127.0.0.1;host=\"{HOST}\";proto=http")]);
    for name in ["cf-connecting-ip", "true-client-ip", "x-real-ip"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_ne!(request.header("x-request-id"), Some("forged"));
}

#[test]
fn a_trusted_peer_is_believed_and_appended_to() {
    let origin = mute();
    let proxy = Setup::of(&[&origin])
        .listener("trusted = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
        .route("request_headers.set = { x-client = \"{client_ip} {scheme}\" }")
        .start();
    let answer = proxy.get(
        "/",
        &[
            "X-Forwarded-For: 1.1.1.1, 9.9.9.9, 10.1.1.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: shop.test",
            "Forwarded: for=9.9.9.9",
            "X-Request-Id: from-outside",
        ],
    );
    let request = origin.request(0);
    assert_eq!(all(&request, "x-forwarded-for"), ["1.1.1.1, 9.9.9.9, 10.1.1.1, 127.0.0.1"]);
    assert_eq!(all(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&request, "x-forwarded-host"), ["shop.test"]);
    assert!(request.header("forwarded").unwrap().starts_with("for=9.9.9.9, for=127.0.0.1;"));
    assert_eq!(request.header("x-client"), Some("9.9.9.9 https"));
    assert_eq!(request.header("x-request-id"), Some("from-outside"));
    assert_eq!(answer.header("x-request-id"), Some("from-outside"));
    assert_eq!(proxy.access("from-outside")["client_ip"], "9.9.9.9");
}

#[test]
fn a_header_with_one_address_may_tell_the_client() {
    let origin = mute();
    let proxy = Setup::of(&[&origin])
        .listener("trusted = [\"127.0.0.1/32\"]\nclient_ip_header = \"cf-connecting-ip\"")
        .route("request_headers.set = { x-client = \"{client_ip}\" }")
        .start();
    proxy.get("/", &["CF-Connecting-IP: 2001:db8::7"]);
    assert_eq!(origin.request(0).header("x-client"), Some("2001:db8::7"));
}

#[test]
fn over_tls_the_endpoint_is_told_of_https() {
    let (authority, folder, origin) = (Authority::new(), Folder::new(), mute());
    authority.write(&folder, "site", &[HOST]);
    let proxy = Setup::of(&[&origin])
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .start_in(folder);
    Client::tls(proxy.address(), &Tls::new(&authority)).get("/", &[]);
    assert_eq!(origin.request(0).header("x-forwarded-proto"), Some("https"));
}

#[test]
fn the_request_id_is_one_for_the_endpoint_the_client_and_the_log() {
    let origin = mute();
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get("/", &[]);
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(origin.request(0).header("x-request-id"), Some(id));
    assert_eq!(proxy.access(id)["status"], 200);
    assert_ne!(proxy.get("/", &[]).header("x-request-id"), Some(id));
}

#[test]
fn fields_of_one_hop_end_here_both_ways() {
    let origin = Origin::answering(|_| {
        answer(
            200,
            &[
                "Connection: keep-alive, X-Hop",
                "Keep-Alive: timeout=5",
                "X-Hop: secret",
                "Proxy-Connection: keep-alive",
                "X-End: kept",
            ],
            "",
        )
    });
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get(
        "/",
        &[
            "Connection: keep-alive, X-Mine",
            "X-Mine: secret",
            "Keep-Alive: timeout=9",
            "Proxy-Connection: keep-alive",
            "TE: gzip",
            "X-End: kept",
        ],
    );
    let request = origin.request(0);
    for name in ["x-mine", "keep-alive", "proxy-connection", "te", "connection"] {
        assert_eq!(request.header(name), None, "{name} was forwarded");
    }
    for name in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.header(name), None, "{name} was sent back");
    }
    assert_eq!(request.header("x-end"), Some("kept"));
    assert_eq!(answer.header("x-end"), Some("kept"));
}

#[test]
fn connection_cannot_take_off_what_frames_or_routes_a_message() {
    let origin = Origin::answering(|request| ok(&request.body));
    let proxy = Setup::of(&[&origin]).start();
    let fields = ["Connection: Host, Content-Length, X-Forwarded-For"];
    let answer = proxy.connect().ask("POST", "/", &fields, "whole");
    assert_eq!(answer.text(), "whole");
    assert_eq!(origin.request(0).header("host"), Some(HOST));
    assert_eq!(origin.request(0).header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn via_names_us_both_ways_behind_those_before() {
    let origin = Origin::answering(|_| answer(200, &["Via: 1.1 inner"], ""));
    let proxy = Setup::of(&[&origin]).text("[cache]\nname = \"edge-7\"").start();
    let answer = proxy.get("/", &["Via: 1.0 outer"]);
    assert_eq!(all(&origin.request(0), "via"), ["1.0 outer, 1.1 edge-7"]);
    assert_eq!(answer.header("via"), Some("1.1 inner, 1.1 edge-7"));
}

#[test]
fn a_trace_is_passed_on_or_begun() {
    let origin = mute();
    let proxy = Setup::of(&[&origin]).start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = proxy.connect();
    client.get("/", &[&format!("traceparent: {trace}")]);
    client.get("/", &[]);
    assert_eq!(origin.request(0).header("traceparent"), Some(trace));
    let made = origin.request(1);
    let made = made.header("traceparent").unwrap();
    let parts: Vec<_> = made.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{made}");
    assert!(parts[1].chars().any(|c| c != '0'), "{made}");
}

#[test]
fn a_route_edits_fields_both_ways_with_templates() {
    let origin = Origin::answering(|_| answer(200, &["Server: secret", "X-Add: theirs"], ""));
    let proxy = Setup::of(&[&origin])
        .route(
            r#"
            request_headers = { set = { x-set = "{host}{path} {scheme} {client_ip} {request_id}" }, add = { x-add = "ours" }, remove = ["cookie"] }
            response_headers = { set = { x-id = "{request_id}" }, add = { x-add = "ours" }, remove = ["server"] }
            "#,
        )
        .start();
    let answer = proxy.get("/a/b?c", &["Cookie: a=b", "X-Set: theirs", "X-Add: theirs"]);
    let id = answer.header("x-request-id").unwrap();
    let request = origin.request(0);
    assert_eq!(all(&request, "x-set"), [format!("{HOST}/a/b http 127.0.0.1 {id}")]);
    assert_eq!(all(&request, "x-add"), ["theirs", "ours"]);
    assert_eq!(request.header("cookie"), None);
    assert_eq!(answer.header("x-id"), Some(id));
    assert_eq!(all(&answer.message, "x-add"), ["theirs", "ours"]);
    assert_eq!(answer.header("server"), None);
}

#[test]
fn the_host_is_the_clients_in_normal_form_unless_it_is_rewritten() {
    let origin = mute();
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: Shop.Test:8080\r\n\r\n");
    client.answer();
    assert_eq!(all(&origin.request(0), "host"), ["shop.test:8080"]);
}

#[test]
fn an_answer_without_a_date_is_given_one() {
    let origin = mute();
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.message.headers("date").count(), 1);
}

#[test]
fn error_pages_tell_nothing_about_the_inside() {
    let refusing = crate::support::origin::Refusing::new();
    let proxy = Setup::of(&[&refusing]).pool_lines("retry = false").start();
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let text = answer.text();
    assert!(text.contains(answer.header("x-request-id").unwrap()), "{text}");
    assert!(!text.contains("127.0.0.1") && !text.contains("app"), "{text}");
}

#[test]
fn fields_about_the_client_are_not_believed_with_underscores_either() {
    let origin = Origin::answering(|_| ok("ok"));
    let proxy = Setup::of(&[&origin]).start();
    let fields = ["X_Forwarded_For: 192.0.2.9", "x_real_ip: 192.0.2.9", "my_field: kept"];
    assert_eq!(proxy.get("/", &fields).status, 200);
    let request = origin.request(0);
    assert_eq!(request.header("x_forwarded_for"), None);
    assert_eq!(request.header("x_real_ip"), None);
    assert_eq!(request.header("my_field"), Some("kept"));
}

#[test]
fn a_request_of_http_1_0_without_host_is_sent_on_with_an_empty_one() {
    let origin = Origin::answering(|_| ok("ok"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(origin.request(0).header("host"), Some(""));
}
