//! Bodies in both directions: streamed, bounded, framed anew, and ended with their other side.

use std::time::Duration;

use crate::support::origin::Gate;
use crate::support::{HOST, Origin, Setup, answer, cacheable, chunk, h2, ok};

const MIB: usize = 1 << 20;

#[test]
fn an_answer_is_streamed_as_it_comes() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            gate.pass();
            call.send(b"4\r\nlast\r\n0\r\n\r\n");
        })
    };
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let head = client.answer_head();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.read_exactly(10), b"5\r\nfirst\r\n");
    gate.open();
    assert_eq!(client.read_exactly(14), b"4\r\nlast\r\n0\r\n\r\n");
}

#[test]
fn a_request_is_streamed_as_it_comes() {
    let origin = Origin::scripted(|call| {
        let first = call.read(10);
        call.send(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-First: {}\r\n\r\ndone",
                String::from_utf8_lossy(&first).replace("\r\n", "|")
            )
            .as_bytes(),
        );
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    client.send("5\r\nfirst\r\n");
    // The rest of the body never comes: the origin answers what it got.
    let answer = client.broken_answer("POST");
    assert_eq!(answer.header("x-first"), Some("5|first|"));
}

#[test]
fn a_large_body_passes_unharmed_both_ways() {
    let origin = Origin::answering(|request| ok(&request.body));
    let proxy = Setup::of(&[&origin]).start();
    let body: Vec<u8> = (0..4 * MIB).map(|at| (at % 251) as u8).collect();
    let mut client = proxy.connect();
    let head = format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(head);
    client.send(&body);
    assert!(client.answer().body() == body, "the body has changed");
}

#[test]
fn a_reader_that_stalls_stalls_its_endpoint() {
    const ALL: usize = 64 * MIB;
    let (pushed, told) = std::sync::mpsc::sync_channel(1);
    let origin = Origin::scripted(move |call| {
        call.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {ALL}\r\n\r\n").as_bytes());
        let taken = call.push(ALL, Duration::from_millis(300));
        pushed.send(taken).unwrap();
        call.push(ALL - taken, Duration::from_secs(10));
    });
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    // What was taken lies in the buffers of two kernel sockets, and little in between.
    let taken = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(taken < 24 * MIB, "{taken} bytes were taken from the endpoint");
    assert_eq!(client.answer().body().len(), ALL);
}

#[test]
fn an_origin_that_stalls_stalls_its_client() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.body();
            call.send(&ok(call.request.body.len().to_string()));
        })
    };
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n", 48 * MIB));
    let taken = client.push(48 * MIB, Duration::from_millis(300));
    assert!(taken < 24 * MIB, "{taken} bytes were taken from the client");
    gate.open();
    client.send(vec![b'x'; 48 * MIB - taken]);
    assert_eq!(client.answer().text(), (48 * MIB).to_string());
}

#[test]
fn chunked_uploads_stay_chunked_and_lengths_stay_lengths() {
    let origin = Origin::answering(|request| ok(&request.body));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n\
         3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    ));
    assert_eq!(client.answer().text(), "abcde");
    assert_eq!(origin.request(0).header("transfer-encoding"), Some("chunked"));
    assert_eq!(origin.request(0).header("content-length"), None);
    assert_eq!(client.ask("POST", "/", &[], "abc").text(), "abc");
    assert_eq!(origin.request(1).header("content-length"), Some("3"));
    assert_eq!(origin.request(1).header("transfer-encoding"), None);
}

#[test]
fn trailers_that_are_of_one_hop_or_about_the_client_end_here() {
    let origin = Origin::scripted(|call| {
        call.body();
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        call.send(
            b"4\r\nbody\r\n0\r\nConnection: close\r\nX-Sum: 42\r\nKeep-Alive: timeout=5\r\n\r\n",
        );
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\nX-Request-Id: mine\r\nX-Up: 7\r\nCF-Connecting-IP: 1.2.3.4\r\n\r\n"
    ));
    let answer = client.answer();
    assert_eq!(answer.text(), "body");
    assert!(!answer.message.trailers.to_lowercase().contains("connection"), "{answer:?}");
    assert_eq!(origin.request(0).trailers.to_lowercase(), "x-up: 7\r\n");
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::scripted(|call| {
        call.body();
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        call.send(&[&chunk(b"body")[..], b"0\r\nX-Sum: 42\r\n\r\n"].concat());
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nTrailer: X-Up\r\n\
         Transfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\nX-Up: 7\r\n\r\n"
    ));
    let answer = client.answer();
    assert_eq!(answer.text(), "body");
    assert_eq!(answer.message.trailers.to_lowercase(), "x-sum: 42\r\n");
    let request = origin.request(0);
    assert_eq!(request.text(), "data");
    assert_eq!(request.trailers.to_lowercase(), "x-up: 7\r\n");
    assert_eq!(request.header("te"), Some("trailers"));
}

#[test]
fn an_answer_to_head_has_a_length_and_no_body() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        let answer = client.head_answer();
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.request(0).method(), "HEAD");
}

#[test]
fn statuses_without_a_body_have_none() {
    let origin = Origin::answering(|request| match request.target() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec(),
        "/empty" => answer(200, &[], ""),
        _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for (path, status) in [("/204", 204), ("/304", 304), ("/empty", 200), ("/chunked", 200)] {
        let answer = client.get(path, &[]);
        assert_eq!((answer.status, answer.body().len()), (status, 0), "{path}");
    }
    assert_eq!(client.get("/304", &[]).header("etag"), Some("\"a\""));
    assert_eq!(client.get("/empty", &[]).header("content-length"), Some("0"));
    assert_eq!(client.get("/204", &[]).header("content-length"), None);
    assert_eq!(origin.connections(), 1, "the framing was understood");
}

#[test]
fn a_body_that_ends_with_its_connection_is_complete() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
        call.close();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let answer = client.get("/", &[]);
    assert_eq!(answer.text(), "until the end");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.get("/", &[]).text(), "until the end", "the client's connection stays");
}

#[test]
fn a_client_of_http_1_0_is_not_sent_chunks() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n"));
    let answer = client.broken_answer("GET");
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), "body");
}

#[test]
fn a_client_that_leaves_before_the_answer_ends_the_exchange() {
    let origin = Origin::scripted(|call| call.wait_for_end());
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    client.send(format!("GET /left HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    drop(client);
    origin.wait_for_closed(1);
    assert_eq!(proxy.access("/left")["status"], 499);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
}

#[test]
fn a_client_that_leaves_inside_the_answer_ends_the_exchange() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while call.send(&chunk(&[b'x'; 16 << 10])) {}
    });
    let proxy = Setup::of(&[&origin]).route("cache = false").start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    client.read_exactly(1000);
    drop(client);
    origin.wait_for_closed(1);
}

#[test]
fn a_client_that_breaks_its_upload_off_is_not_taken_for_complete() {
    let origin = Origin::answering(|_| ok("complete"));
    let proxy = Setup::of(&[&origin]).route("buffer = false").start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\nhalf"));
    origin.requests(1);
    drop(client);
    origin.wait_for_closed(1);
    assert_eq!(origin.request(0).text(), "half");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::answering(|request| ok(request.target()));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let all: String =
        (0..10).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).collect();
    client.send(all);
    for n in 0..10 {
        assert_eq!(client.answer().text(), format!("/{n}"));
    }
}

#[test]
fn a_reader_that_takes_nothing_is_cut_after_the_write_timeout() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while call.send(&chunk(&[b'x'; 64 << 10])) {}
    });
    let proxy =
        Setup::of(&[&origin]).listener("timeouts.write = \"300ms\"").route("cache = false").start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.wait_for_closed(1);
    proxy.wait_for_metric("headwater_connections{listener=\"web\"}", 0.0);
}

/// Answers 411 to a chunked request, and else with how the body was announced.
fn particular() -> Origin {
    Origin::answering(|request| {
        if request.header("transfer-encoding").is_some() {
            return answer(411, &[], "");
        }
        cacheable(request.header("content-length").unwrap_or("none"))
    })
}

#[test]
fn an_empty_body_over_http2_is_no_body() {
    let origin = particular();
    let proxy = Setup::of(&[&origin]).listener("protocols = [\"h2\", \"h1\"]").start();
    h2::run(async {
        let mut session = h2::Session::open_plain(proxy.address()).await;
        for (method, path, length, body) in [
            ("GET", "/get", None, "none"),
            ("GET", "/zero", Some("0"), "none"),
            ("HEAD", "/head", None, ""),
            ("POST", "/post", None, "0"),
            ("DELETE", "/delete", None, "none"),
        ] {
            // Its END_STREAM comes with an empty DATA.
            let mut request = h2::request(method, path, h2::Upload::channel().1);
            if let Some(length) = length {
                request.headers_mut().insert("content-length", length.parse().unwrap());
            }
            let answer = session.send(request).await.unwrap();
            assert_eq!(answer.status(), 200, "{method} {path}");
            assert_eq!(h2::full(answer).await.unwrap().body, body, "{method} {path}");
        }
        let before = origin.count();
        let request = h2::request("GET", "/get", h2::Upload::channel().1);
        let answer = session.send(request).await;
        assert_eq!(h2::full(answer.unwrap()).await.unwrap().body, "none");
        assert_eq!(origin.count(), before, "what is stored answers it");
    });
}

#[test]
fn a_chunked_request_without_a_chunk_is_one_without_a_body() {
    let origin = particular();
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for (method, body) in [("GET", "none"), ("GET", "none"), ("POST", "0")] {
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, body), "{method}");
    }
    assert_eq!(origin.count(), 2, "the second GET was answered from the cache");
}

#[test]
fn a_get_that_has_a_body_keeps_all_of_it() {
    let origin = Origin::scripted(|call| {
        call.body();
        let body = call.request.body.clone();
        call.send(&ok(body));
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for body in ["5\r\nhello\r\n0\r\n\r\n", "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n"] {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!(origin.count(), 2, "and is not answered from the cache");
}
