//! Routes that ask more of a request than a host and a path: methods, header fields, parameters,
//! cookies.

use http::Request;

use crate::support::h2::{self, Session, Upload};
use crate::support::proxy::{run_to_end, run_with};
use crate::support::{Answer, Client, Folder, HOST, Origin, Proxy, Setup, answer};

/// A proxy whose routes answer with their names.
fn named(routes: &[(&str, &str)]) -> Proxy {
    Setup::empty().text(&text(routes)).start()
}

fn text(routes: &[(&str, &str)]) -> String {
    let routes = routes.iter().map(|(name, conditions)| {
        format!(
            "[[route]]\nname = \"{name}\"\n{conditions}\n\
             respond = {{ status = 200, body = \"{name}\" }}\n"
        )
    });
    routes.collect()
}

fn ask(client: &mut Client, method: &str, target: &str, fields: &[&str]) -> Answer {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n"));
    client.answer()
}

#[track_caller]
fn assert_route(client: &mut Client, target: &str, fields: &[&str], route: &str) {
    assert_eq!(ask(client, "GET", target, fields).text(), route, "{target} {fields:?}");
}

#[test]
fn a_route_takes_requests_with_its_fields_parameters_and_cookies() {
    let proxy = named(&[
        ("plain", ""),
        ("canary", r#"headers = { X-Canary = "1" }"#),
        ("other", r#"headers = { X-Canary = "2" }"#),
        ("version", r#"query = { v = "~^[3-9]$", "full view" = "*" }"#),
        ("beta", "cookies = { beta = \"~^(on|yes)$\" }\npriority = 2"),
        ("both", "headers = { X-Canary = \"*\" }\ncookies = { beta = \"*\" }\npriority = 1"),
    ]);
    let mut client = proxy.connect();
    for (target, fields, route) in [
        ("/", &[][..], "plain"),
        ("/", &["x-canary: 1"], "canary"),
        ("/", &["x-canary: 2"], "other"),
        ("/", &["x-canary: 3"], "plain"),
        ("/", &["x-canary: 1", "x-canary: 1"], "plain"),
        ("/?v=3", &[], "plain"),
        ("/?v=3&full+view", &[], "version"),
        ("/?%76=%33&full%20view=no", &[], "version"),
        ("/?v=12&full+view", &[], "plain"),
        ("/?v=1&v=3&full+view", &[], "plain"),
        ("/", &["Cookie: a=b; beta=on"], "beta"),
        ("/", &["Cookie: beta=off"], "plain"),
        ("/", &["Cookie: beta=off", "x-canary: 3"], "both"),
        ("/", &["Cookie: beta=on", "x-canary: 1"], "both"),
    ] {
        assert_route(&mut client, target, fields, route);
    }
}

#[test]
fn cookies_are_found_in_the_crumbs_of_http_2() {
    let proxy = Setup::empty()
        .listener("protocols = [\"h2\"]")
        .text(&text(&[("plain", ""), ("beta", r#"cookies = { beta = "on" }"#)]))
        .start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        for (crumbs, route) in [(["a=b", "beta=on"], "beta"), (["a=b", "c=d"], "plain")] {
            let mut request = h2::get("/");
            for crumb in crumbs {
                request.headers_mut().append("cookie", crumb.parse().unwrap());
            }
            let answer = h2::full(session.send(request).await.unwrap()).await.unwrap();
            assert_eq!(answer.body, route);
        }
        let posted: Request<Upload> = h2::request("POST", "/", Upload::empty());
        let answer = h2::full(session.send(posted).await.unwrap()).await.unwrap();
        assert_eq!(answer.body, "plain");
    });
}

#[test]
fn where_only_the_method_fails_the_answer_is_405_with_those_that_are_allowed() {
    let proxy = named(&[
        ("read", "paths = [\"/doc/*\"]\nmethods = [\"GET\", \"HEAD\"]"),
        ("write", "paths = [\"/doc/*\"]\nmethods = [\"PUT\"]\nheaders = { x-key = \"*\" }"),
        ("exact", "hosts = [\"site.test\"]\npaths = [\"/doc/a\"]\nmethods = [\"POST\"]"),
        ("free", "paths = [\"/free\"]"),
    ]);
    let mut client = proxy.connect();
    for (method, target, fields, status, allow) in [
        ("GET", "/doc/b", &[][..], 200, None),
        ("DELETE", "/doc/b", &[], 405, Some("GET, HEAD")),
        ("PUT", "/doc/b", &[], 405, Some("GET, HEAD")),
        ("PUT", "/doc/b", &["x-key: 1"], 200, None),
        ("DELETE", "/doc/a", &["x-key: 1"], 405, Some("GET, HEAD, POST, PUT")),
        ("DELETE", "/free", &[], 200, None),
        ("GET", "/none", &[], 404, None),
    ] {
        let answer = ask(&mut client, method, target, fields);
        let got = (answer.status, answer.header("allow"));
        assert_eq!(got, (status, allow), "{method} {target} {fields:?}");
    }
    let refused = ask(&mut client, "DELETE", "/doc/b", &["Accept: application/json"]);
    assert_eq!(refused.json()["status"], 405);
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert_eq!(proxy.access("\"status\":405")["route"], "none");
    let routes = proxy.api_get("/api/routes").json();
    assert_eq!(routes["routes"][1]["methods"][0], "PUT");
    assert_eq!(routes["routes"][1]["headers"]["x-key"], "(hidden)");
}

#[test]
fn a_tie_that_is_not_provably_disjoint_is_an_error_that_names_both() {
    let listener = "[listener.web]\nbind = \"127.0.0.1:0\"\n";
    let check = |routes: &[(&str, &str)]| run_with("check", &format!("{listener}{}", text(routes)));
    let fine = check(&[
        ("one", r#"headers = { x = "1" }"#),
        ("two", r#"headers = { x = "2" }"#),
        ("get", "methods = [\"GET\"]\nlisteners = [\"web\"]"),
        ("post", "methods = [\"POST\"]\nquery = { a = \"1\" }"),
    ]);
    assert_eq!(fine.code, Some(0), "{}", fine.stderr);
    let tied = check(&[("one", r#"headers = { x = "1" }"#), ("two", r#"query = { x = "1" }"#)]);
    assert_eq!(tied.code, Some(2));
    assert!(
        tied.stderr.contains("error: routes `one` and `two` match the same requests"),
        "{}",
        tied.stderr
    );
}

#[test]
fn routes_that_differ_by_their_conditions_store_apart_and_are_purged_together() {
    let origin = Origin::answering(|request| {
        let canary = request.header("x-canary").unwrap_or("none").to_owned();
        answer(200, &["Cache-Control: max-age=60"], &canary)
    });
    let proxy = Setup::of(&[&origin])
        .text("[[route]]\nname = \"canary\"\npool = \"app\"\nheaders = { x-canary = \"*\" }")
        .start();
    let mut client = proxy.connect();
    for round in 0..2 {
        assert_eq!(client.get("/", &[]).text(), "none");
        assert_eq!(client.get("/", &["x-canary: 1"]).text(), "1");
        assert_eq!(origin.count(), 2, "in round {round}");
    }
    // What the condition does not tell apart is one response.
    assert_eq!(client.get("/", &["x-canary: 2"]).text(), "1");
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/\"]}}")), 2);
    client.get("/", &[]);
    assert_eq!(client.get("/", &["x-canary: 2"]).text(), "2");
    assert_eq!(origin.count(), 4);
}

#[test]
fn explain_knows_conditions() {
    let folder = Folder::new();
    let routes = text(&[
        ("plain", "methods = [\"GET\"]"),
        ("canary", "methods = [\"GET\"]\nheaders = { x-canary = \"1\" }\nquery = { v = \"*\" }"),
    ]);
    let config = format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{routes}");
    let path = folder.write("headwater.toml", config);
    let explain = |arguments: &[&str]| {
        let mut all = vec!["explain"];
        all.extend(arguments);
        all.extend(["http://site.test/a?v=1", "-c"]);
        run_to_end(&all, &path).stdout
    };
    assert!(explain(&[]).contains("route     plain (host *, path /*)"), "{}", explain(&[]));
    let canary = explain(&["-H", "X-Canary: 1"]);
    assert!(canary.contains("route     canary"), "{canary}");
    assert!(
        canary.contains("where methods=GET;header \"x-canary\"=\"1\";query \"v\"=*"),
        "{canary}"
    );
    assert!(canary.contains("before plain, because it has more conditions"), "{canary}");
    let posted = explain(&["-X", "POST"]);
    assert!(posted.contains("none takes POST: 405, Allow: GET"), "{posted}");
}
