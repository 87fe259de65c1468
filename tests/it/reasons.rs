//! What operators are told of an answer that could not be used.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::{Origin, Setup, ok};

/// Answers that break a rule, and words that say which.
const BROKEN: [(&str, &[u8], &str); 8] = [
    (
        "/name",
        b"HTTP/1.1 200 OK\r\nX Powered By: me\r\n\r\n",
        "malformed field name: \"X Powered By\"",
    ),
    ("/colon", b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n", "a line without a colon is no field"),
    (
        "/length",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok",
        "Content-Length is not one number: \"2x\"",
    ),
    (
        "/lengths",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "Content-Length is not one number",
    ),
    (
        "/coding",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "not chunked alone: \"gzip, chunked\"",
    ),
    ("/status", b"HTTP/1.1 abc\r\n\r\n", "the status line is malformed"),
    ("/tls", b"\x15\x03\x01\x00\x02\x02\x46", "the endpoint speaks TLS"),
    ("/cut", b"HTTP/1.1 200 OK\r\nContent-", "connection closed within the head"),
];

#[test]
fn an_answer_that_breaks_a_rule_is_a_502_whose_reason_operators_find() {
    let origin = Origin::scripted(|call| {
        let target = call.request.target().to_owned();
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "Link: </a>\r\n".repeat(300));
        let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(200 << 10));
        let broken = BROKEN.iter().find(|(of, ..)| *of == target).map(|(_, answer, _)| *answer);
        call.send(match target.as_str() {
            "/many" => many.as_bytes(),
            "/large" => large.as_bytes(),
            _ => broken.unwrap_or_default(),
        });
        call.close();
    });
    let proxy = Setup::of(&[&origin]).pool_lines("retry = false\noutlier = false").start();
    let others = [
        ("/many", "too many fields"),
        ("/large", "the head is too large"),
        ("/none", "connection closed without an answer"),
    ];
    let all = BROKEN.iter().map(|(target, _, reason)| (*target, *reason)).chain(others);
    for (target, reason) in all {
        assert_eq!(proxy.get(target, &[]).status, 502, "{target}");
        let line = proxy.access(&format!("\"{target}\""));
        let told = line["reason"].as_str().unwrap_or_default();
        assert!(told.contains(reason), "{line}");
        let last = proxy.endpoint(&origin)["last_error"].clone();
        assert_eq!(last["reason"], line["reason"], "{last}");
        assert_eq!(last["error"], line["error"], "{last}");
    }
    let line = proxy.wait_for_log("bad answer");
    assert!(line.contains("X Powered By") && line.contains(&origin.to_string()), "{line}");
}

#[test]
fn a_body_that_breaks_a_rule_is_told_like_a_head() {
    let origin = Origin::scripted(|call| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: no-store\r\n\r\n5\r\nhello\r\n";
        call.send(head);
        call.send(b"zz\r\n");
        call.close();
    });
    let setup = Setup::of(&[&origin]).pool_lines("retry = false\noutlier = false");
    let proxy = setup.route("cache = false").start();
    let mut client = proxy.connect();
    client.send("GET /a HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let line = proxy.access("\"/a\"");
    assert_eq!(line["reason"], "a chunk has no size", "{line}");
    assert_eq!(proxy.endpoint(&origin)["last_error"]["reason"], line["reason"]);
    proxy.wait_for_log("a chunk has no size");
}

#[test]
fn a_folded_field_reaches_the_client_on_one_line() {
    let folded = b"HTTP/1.1 200 OK\r\nContent-Security-Policy: default-src 'self';\r\n    img-src *\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::answering(|_| folded.to_vec());
    let answer = Setup::of(&[&origin]).start().get("/", &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-security-policy"), Some("default-src 'self'; img-src *"));
}

#[test]
fn a_refused_request_names_its_rule_in_the_log() {
    let origin = Origin::answering(|_| ok("ok"));
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/a", &["Host: b.test"]);
    let line = proxy.access("\"bad_request\"");
    assert!(line["reason"].is_string(), "{line}");
}

#[test]
fn tls_that_fails_is_told_in_plain_words() {
    // Answers in plain HTTP whatever it is asked.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in plain.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let setup = Setup::empty().pool(&[&address], "tls = {}\nretry = false");
    let proxy = setup.route("cache = false").start();
    assert_eq!(proxy.get("/a", &[]).status, 502);
    let line = proxy.access("\"/a\"");
    let reason = "TLS: what came is not TLS; does the endpoint speak it on this port?";
    assert_eq!(line["reason"], reason, "{line}");
    assert_eq!(proxy.endpoint(&address)["last_error"]["reason"], reason);
}
