//! Who may come to a route, the operator's own error pages, and strict transport security.

use crate::support::h2::{self, Session};
use crate::support::{Authority, Client, Folder, HOST, Origin, Setup, Tls, answer, ok};

const STS: &str = "strict-transport-security";

#[test]
fn clients_outside_what_is_allowed_get_403() {
    let origin = Origin::answering(|_| ok("hello"));
    let proxy = Setup::of(&[&origin])
        .listener("trusted = [\"127.0.0.1\"]")
        .route("paths = [\"/inside/*\"]\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndeny = [\"10.9.0.0/16\"]")
        .text("[[route]]\npool = \"app\"\ndeny = [\"192.0.2.0/24\"]\n")
        .text("[[route]]\npaths = [\"/fixed\"]\nrespond = {}\nallow = [\"10.0.0.0/8\"]\n")
        .start();
    let status = |target: &str, client: &str| {
        proxy.get(target, &[&format!("X-Forwarded-For: {client}")]).status
    };
    for (target, client, expected) in [
        ("/inside/", "10.1.1.1", 200),
        ("/inside/", "2001:db8::7", 200),
        ("/inside/", "10.9.1.1", 403),
        ("/inside/", "198.51.100.1", 403),
        ("/", "198.51.100.1", 200),
        ("/", "192.0.2.200", 403),
        ("/fixed", "10.1.1.1", 200),
        ("/fixed", "192.0.2.1", 403),
        ("/fixed", "2001:db8::7", 403),
    ] {
        assert_eq!(status(target, client), expected, "{target} {client}");
    }
    assert_eq!(proxy.access("\"client_ip\":\"10.9.1.1\"")["error"], "forbidden");
    let counted = "headwater_http_requests_total{listener=\"web\",route=\"app\",code=\"403\"}";
    assert_eq!(proxy.metric(counted), 2.0);
}

#[test]
fn an_untrusted_client_cannot_claim_an_address_that_is_allowed() {
    let proxy = Setup::empty().text("[[route]]\nrespond = {}\nallow = [\"10.0.0.0/8\"]").start();
    assert_eq!(proxy.get("/", &["X-Forwarded-For: 10.0.0.1", "X-Real-IP: 10.0.0.1"]).status, 403);
}

fn pages() -> Folder {
    let folder = Folder::new();
    folder.write("down.html", "<h1>Back soon</h1>");
    folder.write("down.json", "{\"back\":\"soon\"}");
    folder.write("site/index.html", "home");
    folder.write("missing.txt", "not here");
    folder
}

#[test]
fn the_operators_page_stands_in_for_ours_with_the_same_fields() {
    let proxy = Setup::of(&[&"127.0.0.1:1"])
        .route("errors = { 502 = \"down.html\", \"500-599\" = \"missing.txt\" }")
        .start_in(pages());
    let answer = proxy.get("/", &[]);
    assert_eq!((answer.status, answer.text()), (502, "<h1>Back soon</h1>".to_owned()));
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("x-request-id").is_some());

    // The endpoint is set aside by now.
    let busy = proxy.get("/", &[]);
    assert_eq!((busy.status, busy.text()), (503, "not here".to_owned()));
    assert!(busy.header("retry-after").is_some());
    let json = proxy.get("/", &["Accept: application/json"]);
    assert_eq!(json.header("content-type"), Some("application/problem+json"));
    let mut client = proxy.connect();
    client.send(crate::support::client::request("HEAD", "/", &[]));
    let head = client.head_answer();
    assert_eq!((head.status, head.header("content-length")), (503, Some("8")));
}

#[test]
fn a_page_in_json_is_for_those_who_ask_for_json_as_well() {
    let proxy = Setup::of(&[&"127.0.0.1:1"])
        .route("errors = { \"502-503\" = \"down.json\" }")
        .start_in(pages());
    for accept in ["*/*", "application/json"] {
        let answer = proxy.get("/", &[&format!("Accept: {accept}")]);
        assert_eq!(answer.text(), "{\"back\":\"soon\"}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[test]
fn an_error_of_the_endpoint_passes_unchanged_and_a_missing_file_gets_the_page() {
    let origin = Origin::answering(|_| answer(503, &[], "from the endpoint"));
    let proxy = Setup::of(&[&origin])
        .route("errors = { 503 = \"down.html\" }")
        .pool_lines("retry = false")
        .text("[pool.files]\nfiles = \"site\"\n")
        .text(
            "[[route]]\npool = \"files\"\npaths = [\"/f/*\"]\nrewrite.strip_prefix = \"/f\"\n\
             errors = { 404 = \"missing.txt\" }\n",
        )
        .start_in(pages());
    assert_eq!(proxy.get("/", &[]).text(), "from the endpoint");
    let missing = proxy.get("/f/nothing", &[]);
    assert_eq!((missing.status, missing.text()), (404, "not here".to_owned()));
    assert_eq!(missing.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(proxy.get("/f/", &[]).text(), "home");
}

#[test]
fn a_page_that_is_rewritten_is_used_from_then_on() {
    let setup = Setup::of(&[&"127.0.0.1:1"]).route("errors = { \"502-503\" = \"down.html\" }");
    let proxy = setup.start_in(pages());
    assert_eq!(proxy.get("/", &[]).text(), "<h1>Back soon</h1>");
    proxy.folder.write("down.html", "later");
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
    assert_eq!(proxy.get("/", &[]).text(), "later");
}

#[test]
fn strict_transport_security_is_told_over_https_only() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let origin = Origin::answering(|_| {
        answer(200, &["Strict-Transport-Security: max-age=1", "Cache-Control: max-age=60"], "")
    });
    let hsts = "hsts = \"365d\"\nhsts_subdomains = true";
    let proxy = Setup::of(&[&origin])
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .listener(hsts)
        .text(&format!("[listener.plain]\nbind = \"127.0.0.1:0\"\ntrusted = [\"127.0.0.1\"]\n{hsts}"))
        .text("[[route]]\npaths = [\"/own\"]\npool = \"app\"\nresponse_headers.set = { strict-transport-security = \"max-age=9\" }")
        .start_in(folder);
    let value = "max-age=31536000; includeSubDomains";
    let all = Some(value);
    let tls = Tls::with(&authority, &rustls::version::TLS13, &["http/1.1"]);
    let mut https = Client::tls(proxy.address(), &tls);
    // A miss, a hit, an error, and a route that says it itself.
    assert_eq!(https.get("/a", &[]).header(STS), all);
    assert_eq!(https.get("/a", &[]).header(STS), all);
    assert_eq!(https.get("/own", &[]).header(STS), Some("max-age=9"));
    let mut client = Client::connect(proxy.address_of("plain"));
    assert_eq!(client.get("/a", &[]).header(STS), None);
    let behind = client.get("/a", &["X-Forwarded-Proto: https"]);
    assert_eq!(behind.header(STS), all, "the visitor came by https");
    assert_eq!(client.get("/%", &["X-Forwarded-Proto: https"]).header(STS), all);
    h2::run(async {
        let tls = Tls::with(&authority, &rustls::version::TLS13, &["h2"]);
        let mut session = Session::open(proxy.address(), &tls).await;
        let answer = session.get("/a").await;
        assert_eq!(answer.head.headers()[STS], value);
    });
}

#[test]
fn ipv6_is_listened_on_and_spoken_to() {
    let origin = Origin::answering(|_| ok("hello"));
    let back = Setup::of(&[&origin]).listener("bind = \"[::1]:0\"").start();
    let front = Setup::of(&[&back.address()])
        .listener("bind = \"[::1]:0\"\ntrusted = [\"::1\"]")
        .route("allow = [\"2001:db8::/32\"]")
        .start();
    let answer = front.get("/", &["X-Forwarded-For: 2001:db8::7"]);
    assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
    assert_eq!(front.get("/", &["X-Forwarded-For: 2001:db9::7"]).status, 403);
    let request = origin.request(0);
    assert_eq!(request.header("x-forwarded-for"), Some("::1"));
    let forwarded = request.header("forwarded").unwrap();
    assert!(forwarded.starts_with("for=\"[::1]\";"), "{forwarded}");
}

#[test]
fn a_unix_socket_is_listened_on_and_spoken_to() {
    let origin = Origin::answering(|_| ok("hello"));
    let folder = Folder::new();
    let socket = format!("unix:{}", folder.join("back.sock").display());
    let _back = Setup::of(&[&origin]).listener(&format!("bind = {socket:?}")).start();
    let front = Setup::of(&[&socket]).start();
    let answer = front.get("/", &[]);
    assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
    // A unix peer counts as this machine.
    assert_eq!(origin.request(0).header("x-forwarded-for"), Some("127.0.0.1"));
}
