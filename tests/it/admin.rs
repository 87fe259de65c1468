//! The admin API: who may ask, and what it says.

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use crate::support::origin::Refusing;
use crate::support::{Answer, Client, Folder, Origin, Proxy, Setup, cacheable, ok};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

fn ask(proxy: &Proxy, method: &str, path: &str, fields: &str) -> Answer {
    let mut client = Client::connect(proxy.admin());
    client.send(format!("{method} {path} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n"));
    client.answer()
}

#[test]
fn a_running_process_is_alive_and_ready() {
    let proxy = Setup::empty().text(HELLO).start();
    for path in ["/livez", "/readyz"] {
        let answer = proxy.api_get(path);
        assert_eq!((answer.status, answer.text().trim()), (200, "ok"), "{path}");
    }
}

#[test]
fn why_an_endpoint_cannot_be_reached_is_told_without_checks_too() {
    let refusing = Refusing::new();
    let proxy = Setup::of(&[&refusing]).start();
    assert_eq!(proxy.get("/", &[]).status, 502);
    let reason = proxy.endpoint(&refusing)["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("its last connect failed: connection refused"), "{reason}");
    let line = proxy.wait_for_log("endpoint set aside");
    assert!(line.contains("reason=\"connection refused\""), "{line}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let proxy = Setup::of(&[&plain]).pool_lines("tls = { sni = \"app.test\" }").start();
    assert_eq!(proxy.get("/", &[]).status, 502);
    let reason = proxy.endpoint(&plain)["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("its last connect failed: TLS: "), "{reason}");
}

#[test]
fn an_empty_pool_is_told_and_counts_only_where_it_is_required() {
    let refusing = Refusing::new();
    let health = "health = { tcp = true, interval = \"50ms\" }";
    let proxy = Setup::of(&[&refusing]).pool_lines(health).start();
    proxy.wait_for_state(&refusing, "set_aside");
    let answer = proxy.api_get("/readyz");
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("app"), "{}", answer.text());

    let required = "[admin]\nbind = \"127.0.0.1:0\"\nready_requires = [\"app\"]";
    let proxy = Setup::of(&[&refusing]).pool_lines(health).text(required).start();
    proxy.wait_for_state(&refusing, "set_aside");
    let answer = proxy.api_get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("app"), "{}", answer.text());
    assert_eq!(proxy.api_get("/livez").status, 200);
}

#[test]
fn it_is_not_ready_before_the_first_verdict() {
    let origin = Origin::scripted(|call| call.wait_for_end());
    let proxy = Setup::of(&[&origin])
        .pool_lines("health = { path = \"/\", timeout = \"60s\", interval = \"60s\" }")
        .start();
    origin.requests(1);
    let answer = proxy.api_get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("app"), "{}", answer.text());
}

#[test]
fn the_metrics_are_valid_and_complete() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).pool_lines("health = { path = \"/up\" }").start();
    for _ in 0..2 {
        proxy.get("/", &[]);
    }
    proxy.wait_for_access("\"hit\"");
    let text = proxy.api_get("/metrics").text();
    let (mut typed, mut seen) = (HashSet::new(), HashSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned()), "{name} stands twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(series.to_owned()), "{series} stands twice");
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| typed.contains(*name)))
                .unwrap_or(name);
            assert!(typed.contains(family), "{series} has no type");
        }
    }
    for family in [
        "http_requests_total",
        "http_request_duration_seconds",
        "http_requests_in_flight",
        "http_request_bytes_total",
        "http_response_bytes_total",
        "cache_requests_total",
        "cache_bytes",
        "cache_bytes_max",
        "cache_objects",
        "cache_evictions_total",
        "upstream_requests_total",
        "upstream_duration_seconds",
        "upstream_connect_seconds",
        "upstream_connections",
        "endpoint_healthy",
        "endpoint_requests_in_flight",
        "endpoint_latency_ewma_seconds",
        "health_checks_total",
        "ejections_total",
        "retries_total",
        "retry_budget_exhausted_total",
        "connections",
        "connections_accepted_total",
        "connections_rejected_total",
        "http_parse_errors_total",
        "config_generation",
        "config_last_reload_successful",
        "config_last_reload_timestamp_seconds",
        "config_reloads_total",
        "access_log_dropped_total",
        "build_info",
    ] {
        assert!(typed.contains(&format!("headwater_{family}")), "{family} is missing");
    }
    assert!(typed.contains("process_resident_memory_bytes"));
    let requests = "headwater_http_requests_total{listener=\"web\",route=\"app\",code=\"200\"}";
    assert_eq!(proxy.metric(requests), 2.0);
    assert_eq!(proxy.metric("headwater_http_response_bytes_total{route=\"app\"}"), 8.0);
    assert_eq!(proxy.metric("headwater_http_request_duration_seconds_count{route=\"app\"}"), 2.0);
}

#[test]
fn labels_come_from_closed_sets_only() {
    let origin = Origin::answering(|_| b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n".to_vec());
    let proxy = Setup::of(&[&origin]).route("hosts = [\"site.test\"]").start();
    proxy.get("/secret-path", &[]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: secret-host.test\r\n\r\n");
    assert_eq!(client.answer().status, 404);
    proxy.wait_for_access("secret-host");
    let text = proxy.api_get("/metrics").text();
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains("route=\"none\",code=\"404\""), "{text}");
    assert!(text.contains("code=\"2xx\"") && !text.contains("code=\"299\""), "{text}");
}

#[test]
fn a_token_guards_all_but_probes_and_scrapes() {
    let folder = Folder::new();
    folder.write("token", "s3cret\n");
    let proxy = Setup::empty()
        .text("[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"token\"")
        .text(HELLO)
        .start_in(folder);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask(&proxy, "GET", path, "Host: any.test\r\n").status, 200, "{path}");
    }
    for (fields, status) in [
        ("Host: any.test\r\n", 401),
        ("Host: any.test\r\nAuthorization: Bearer wrong\r\n", 401),
        ("Host: any.test\r\nAuthorization: Basic s3cret\r\n", 401),
        ("Host: any.test\r\nAuthorization: Bearer s3cret\r\n", 200),
    ] {
        assert_eq!(ask(&proxy, "GET", "/api/status", fields).status, status, "{fields}");
    }
    let fields = "Host: any.test\r\nAuthorization: Bearer s3cret\r\n";
    assert_eq!(ask(&proxy, "POST", "/api/reload", fields).status, 200);
    let config = ask(&proxy, "GET", "/api/config", fields).text();
    assert!(!config.contains("s3cret"), "{config}");
}

#[test]
fn without_a_token_a_browser_that_was_led_here_is_refused() {
    let proxy = Setup::empty().text(HELLO).start();
    for (fields, status) in [
        ("Host: evil.test\r\n", 403),
        ("Host: localhost.evil.test\r\n", 403),
        ("Host: 127.0.0.1:80\r\n", 200),
        ("Host: [::1]\r\n", 200),
        ("Host: localhost:9901\r\n", 200),
        ("Host: localhost\r\nOrigin: http://evil.test\r\n", 403),
    ] {
        assert_eq!(ask(&proxy, "GET", "/api/status", fields).status, status, "{fields}");
    }
    for (fields, status) in [
        ("Host: localhost\r\n", 415),
        ("Host: localhost\r\nContent-Type: text/plain\r\n", 415),
        ("Host: localhost\r\nContent-Type: application/json\r\n", 200),
    ] {
        assert_eq!(ask(&proxy, "POST", "/api/reload", fields).status, status, "{fields}");
    }
}

#[test]
fn the_status_tells_the_process_in_figures() {
    let proxy = Setup::empty().process("workers = 2").text(HELLO).start();
    proxy.get("/", &[]);
    let status = proxy.api_get("/api/status").json();
    assert_eq!(status["pid"], proxy.pid());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["workers"], 2);
    assert_eq!(status["generation"], 1);
    assert_eq!(status["state"], "running");
    assert_eq!(status["listeners"][0]["name"], "web");
    assert_eq!(status["listeners"][0]["addresses"][0], proxy.address().to_string());
}

#[test]
fn what_runs_is_described() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/path", &[]);
    proxy.get("/path", &[]);
    proxy.wait_for_metric(
        "headwater_http_requests_total{listener=\"web\",route=\"app\",code=\"200\"}",
        2.0,
    );
    let routes = proxy.api_get("/api/routes").json();
    let route = &routes["routes"][0];
    assert_eq!((&route["name"], &route["pool"]), (&"app".into(), &"app".into()));
    assert_eq!((&route["requests"], &route["cache"]["hit"]), (&2.into(), &1.into()));
    let endpoint = proxy.endpoint(&origin);
    assert_eq!((&endpoint["state"], &endpoint["in_flight"]), (&"usable".into(), &0.into()));
    assert!(endpoint["latency_ms"].as_f64().unwrap() > 0.0);
    let cache = proxy.api_get("/api/cache").text();
    assert!(cache.contains("site.test/path"), "{cache}");
    let config = proxy.api_get("/api/config").json();
    assert_eq!(config["process"]["workers"], 1);
}

#[test]
fn what_cannot_be_asked_is_said_plainly() {
    let proxy = Setup::empty().text(HELLO).start();
    let host = "Host: localhost\r\nContent-Type: application/json\r\n";
    assert_eq!(ask(&proxy, "GET", "/nowhere", host).status, 404);
    let wrong = ask(&proxy, "GET", "/api/reload", host);
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(ask(&proxy, "POST", "/api/status", host).status, 405);
    for (body, word) in [
        ("{\"url\":[]}", "url"),
        ("{\"urls\":[\"/relative\"]}", "/relative"),
        ("{\"urls\":\"x\"}", "urls"),
        ("{}", "urls"),
        ("[]", "object"),
        ("{", "EOF"),
    ] {
        let answer = proxy.api_post("/api/cache/purge", body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains(word), "{body}: {}", answer.text());
    }
}

#[test]
fn the_api_may_listen_on_a_unix_socket_or_not_at_all() {
    let folder = Folder::new();
    let socket = format!("unix:{}", folder.join("admin.sock").display());
    let proxy =
        Setup::empty().text("[admin]\nbind = \"unix:admin.sock\"").text(HELLO).start_in(folder);
    // Its own proxy can be asked through another one.
    let outer = Setup::of(&[&socket]).route("cache = false").start();
    assert_eq!(outer.get("/livez", &[]).text().trim(), "ok");
    assert_eq!(outer.get("/api/status", &[]).json()["pid"], proxy.pid());

    let off = Setup::empty().text("[admin]\nbind = \"off\"").text(HELLO).start();
    assert_eq!(off.get("/", &[]).text(), "hello");
    assert!(!off.log().iter().any(|line| line.contains("admin API")));
}

#[test]
fn readiness_can_be_asked_by_command() {
    let proxy = Setup::empty().text(HELLO).start();
    let code = |address: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command.args(["ready", "--admin", address]).output().unwrap().status.code()
    };
    assert_eq!(code(&proxy.admin().to_string()), Some(0));
    assert_ne!(code(&Refusing::new().address.to_string()), Some(0));
    assert_ne!(code(&Origin::answering(|_| ok("")).to_string()), Some(2));
}
