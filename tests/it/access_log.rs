//! What is written about each request.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{HOST, Origin, Setup, answer, cacheable, eventually, ok};

const HELLO: &str = "[[route]]\nname = \"hello\"\nrespond = { status = 200, body = \"hello\" }";

#[test]
fn a_json_line_has_what_is_known_of_a_request() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let fields = ["User-Agent: test \"quoted\"", "Referer: http://a.test/\\"];
    let miss = client.ask("POST", "/a%20b?c=d", &fields, "four");
    client.get("/a%20b?c=d", &[]);
    client.get("/a%20b?c=d", &[]);
    let line = proxy.access("\"POST\"");
    for (key, expected) in [
        ("client_ip", Value::from("127.0.0.1")),
        ("peer_ip", "127.0.0.1".into()),
        ("listener", "web".into()),
        ("route", "app".into()),
        ("method", "POST".into()),
        ("scheme", "http".into()),
        ("host", HOST.into()),
        ("path", "/a%20b".into()),
        ("query", "c=d".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("request_bytes", 4.into()),
        ("response_bytes", 4.into()),
        ("cache", "bypass".into()),
        ("pool", "app".into()),
        ("endpoint", origin.to_string().into()),
        ("attempts", 1.into()),
        ("request_id", miss.header("x-request-id").unwrap().into()),
        ("user_agent", "test \"quoted\"".into()),
        ("referer", "http://a.test/\\".into()),
    ] {
        assert_eq!(line[key], expected, "{key} in {line}");
    }
    for key in ["duration_ms", "upstream_ms"] {
        assert!(line[key].as_f64().unwrap() >= 0.0, "{key} in {line}");
    }
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(line.get("error").is_none(), "{line}");
    let hit = proxy.access("\"hit\"");
    assert_eq!((&hit["attempts"], hit.get("endpoint")), (&0.into(), None), "{hit}");
}

#[test]
fn a_combined_line_is_what_tools_expect() {
    let proxy = Setup::empty().log("access.format = \"combined\"").text(HELLO).start();
    proxy.get("/a?b", &["Referer: http://a.test/", "User-Agent: a \"b\""]);
    proxy.get("/bare", &[]);
    let line = proxy.wait_for_access("/a?b");
    let (begin, rest) = line.split_once(" [").unwrap();
    let (time, rest) = rest.split_once("] ").unwrap();
    assert_eq!(begin, "127.0.0.1 - -");
    assert_eq!((time.len(), time.ends_with(" +0000")), (26, true), "{time}");
    assert_eq!(rest, "\"GET /a?b HTTP/1.1\" 200 5 \"http://a.test/\" \"a \\\"b\\\"\"");
    assert!(proxy.wait_for_access("/bare").ends_with("200 5 \"-\" \"-\""));
}

#[test]
fn a_template_says_what_it_is_told_to() {
    let proxy = Setup::empty()
        .log("access.format = \"{client_ip} {status} {path} {query}|\"")
        .text(HELLO)
        .start();
    proxy.get("/a?b", &[]);
    assert_eq!(proxy.wait_for_access("/a"), "127.0.0.1 200 /a b|");
}

#[test]
fn a_request_cannot_write_lines_of_its_own() {
    let proxy = Setup::empty().log("access.format = \"combined\"").text(HELLO).start();
    let mut client = proxy.connect();
    client.send(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: a\tb\u{e9}\x7f\r\n\r\n"));
    let status = client.broken_answer("GET").status;
    if status == 200 {
        let line = proxy.wait_for_access("/x");
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
    }
}

#[test]
fn errors_are_named() {
    let origin = Origin::scripted(|call| call.close());
    let proxy = Setup::of(&[&origin]).route("hosts = [\"site.test\"]").start();
    proxy.get("/reset", &[]);
    let line = proxy.access("/reset");
    assert_eq!((&line["status"], &line["error"]), (&502.into(), &"reset".into()));
    assert_eq!(line["attempts"], 2);
    let mut client = proxy.connect();
    client.send("GET /lost HTTP/1.1\r\nHost: other.test\r\n\r\n");
    client.answer();
    let line = proxy.access("/lost");
    assert_eq!((&line["status"], &line["error"]), (&404.into(), &"no_route".into()));
}

#[test]
fn samples_leave_out_what_went_well_only() {
    let proxy = Setup::empty()
        .log("access.sample = 0.0")
        .text("[[route]]\npaths = [\"/well\"]\nrespond = { status = 200 }")
        .start();
    for _ in 0..10 {
        proxy.get("/well", &[]);
    }
    proxy.get("/lost", &[]);
    proxy.wait_for_access("/lost");
    let content = fs::read_to_string(proxy.folder.join("access.log")).unwrap();
    assert_eq!(content.lines().count(), 1, "{content}");
}

#[test]
fn sigusr1_opens_the_file_anew() {
    let proxy = Setup::empty().text(HELLO).start();
    proxy.get("/before", &[]);
    proxy.wait_for_access("/before");
    let (log, old) = (proxy.folder.join("access.log"), proxy.folder.join("access.log.1"));
    fs::rename(&log, &old).unwrap();
    proxy.signal(Signal::Usr1);
    eventually("the new file", || {
        proxy.get("/after", &[]);
        log.exists().then_some(())
    });
    proxy.get("/last", &[]);
    proxy.wait_for_access("/last");
    assert!(!fs::read_to_string(old).unwrap().contains("/last"));
}

#[test]
fn it_goes_to_standard_output_or_nowhere() {
    let proxy = Setup::empty().log("access.to = \"stdout\"").text(HELLO).start();
    proxy.get("/shown", &[]);
    let line: Value = serde_json::from_str(&proxy.wait_for_output("/shown")).unwrap();
    assert_eq!(line["route"], "hello");
    proxy.reload(&Setup::empty().log("access.to = \"off\"").text(HELLO));
    assert_eq!(proxy.get("/hidden", &[]).status, 200);
}

#[test]
fn a_client_that_leaves_inside_the_answer_is_told_apart() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        call.wait_for_end();
    });
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    client.send(format!("GET /left HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert_eq!(client.answer_head().start_line(), "HTTP/1.1 200 OK");
    drop(client);
    let line = proxy.access("/left");
    assert_eq!(line["error"], "client_gone", "{line}");
}

#[test]
fn the_last_of_several_tries_is_the_one_that_is_named() {
    let bad = Origin::answering(|_| answer(503, &[], "bad"));
    let good = Origin::answering(|_| ok("good"));
    let proxy =
        Setup::of(&[&bad, &good]).pool_lines("balance = \"round_robin\"\noutlier = false").start();
    for number in 0..2 {
        proxy.get(&format!("/{number}"), &[]);
        let line = proxy.access(&format!("\"/{number}\""));
        assert_eq!(line["endpoint"], good.to_string(), "{line}");
    }
    let tries = (0..2).map(|n| proxy.access(&format!("\"/{n}\""))["attempts"].as_u64().unwrap());
    assert_eq!(tries.sum::<u64>(), 2 + bad.count() as u64);
}
