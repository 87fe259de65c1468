//! Clients on slow lines: what they send slowly, or read slowly, is at nobody's cost but their own.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::support::h2::{self, Session, Upload, full};
use crate::support::origin::Gate;
use crate::support::{Client, HOST, Origin, Proxy, Setup, chunk, ok};

const KIB: usize = 1 << 10;

/// Begins to send a body of this length.
fn posting(proxy: &Proxy, length: usize, beginning: impl AsRef<[u8]>) -> Client {
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"));
    client.send(beginning);
    client
}

fn echoing() -> Origin {
    Origin::answering(|request| ok(&request.body))
}

/// Lets time pass that a bound is about.
fn be_silent_for(length: Duration) {
    let (_sender, never) = mpsc::sync_channel::<()>(1);
    assert!(never.recv_timeout(length).is_err());
}

// What they send.

#[test]
fn small_bodies_that_come_slowly_hold_no_endpoint() {
    let origin = echoing();
    let proxy = Setup::of(&[&origin]).pool_lines("limits.connections = 1").start();
    let mut clients: Vec<_> = (0..8).map(|_| posting(&proxy, 8, "slow")).collect();
    let mut chunked = proxy.connect();
    chunked.send(format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    chunked.send(chunk(b"slow"));
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 9.0);
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(origin.count(), 1);
    for client in &mut clients {
        client.send("down");
        assert_eq!(client.answer().text(), "slowdown");
    }
    chunked.send([chunk(b"down"), chunk(b"")].concat());
    assert_eq!(chunked.answer().text(), "slowdown");
    assert_eq!(origin.request(9).header("transfer-encoding"), Some("chunked"));
}

#[test]
fn a_body_that_comes_byte_by_byte_arrives_whole() {
    let origin = echoing();
    let proxy = Setup::of(&[&origin]).start();
    let body: Vec<u8> = (0..2 * KIB).map(|at| (at % 251) as u8).collect();
    let mut client = posting(&proxy, body.len(), "");
    for byte in body.chunks(1) {
        client.send(byte);
    }
    assert_eq!(client.answer().body(), body);
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    let chunks: Vec<u8> = body.chunks(1).flat_map(chunk).collect();
    client.send([chunks, chunk(b"")].concat());
    assert_eq!(client.answer().body(), body);
}

#[test]
fn behind_its_beginning_a_longer_body_is_streamed() {
    let origin = echoing();
    let proxy = Setup::of(&[&origin]).pool_lines("buffer.request = \"4KiB\"").start();
    let body: Vec<u8> = (0..64 * KIB).map(|at| (at % 251) as u8).collect();
    let mut client = posting(&proxy, body.len(), &body[..5 * KIB]);
    origin.requests(1);
    client.send(&body[5 * KIB..]);
    assert_eq!(client.answer().body(), body);
}

#[test]
fn without_a_buffer_a_body_is_streamed_from_its_first_byte() {
    for (pool, route, process) in [
        ("buffer.request = \"0B\"", "", ""),
        ("", "buffer = false", ""),
        // Where the memory is spent it is the same: what has come goes on.
        ("", "", "buffer_memory = \"0B\""),
    ] {
        let origin = echoing();
        let setup = Setup::of(&[&origin]).pool_lines(pool).route(route).process(process);
        let proxy = setup.start();
        let mut client = posting(&proxy, 8, "slow");
        origin.requests(1);
        client.send("down");
        assert_eq!(client.answer().text(), "slowdown");
    }
}

#[test]
fn a_body_of_unknown_length_that_pauses_may_be_answered_before_its_end() {
    let origin = Origin::scripted(|call| {
        call.read(9);
        call.send(&ok("early"));
        call.close();
    });
    let proxy = Setup::of(&[&origin]).listener("protocols = [\"h2\"]").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (body, upload) = Upload::channel();
        body.send(Frame::data(Bytes::from_static(b"beginning"))).await.unwrap();
        let answer = session.send(h2::request("POST", "/", upload)).await.unwrap();
        assert_eq!(full(answer).await.unwrap().body, "early");
    });
}

#[test]
fn an_upload_that_is_answered_as_it_comes_is_no_matter_of_pace() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let got = call.read(9);
            call.send(&chunk(&got));
        }
        call.send(&chunk(b""));
        call.close();
    });
    let proxy = Setup::of(&[&origin])
        .listener("timeouts = { body_rate = \"1MiB/s\", body_grace = \"300ms\" }")
        .route("buffer = false")
        .start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    client.answer_head();
    for _ in 0..3 {
        be_silent_for(Duration::from_millis(200));
        client.send(chunk(b"part"));
        assert_eq!(client.read_exactly(14), b"9\r\n4\r\npart\r\n\r\n");
    }
}

#[test]
fn a_body_that_is_too_slow_is_408_and_one_line_in_the_log() {
    let origin = echoing();
    let timeouts = "timeouts = { body_rate = \"10MiB/s\", body_grace = \"300ms\" }";
    for buffer in ["", "buffer = false"] {
        let proxy = Setup::of(&[&origin]).listener(timeouts).route(buffer).start();
        let mut client = posting(&proxy, 8, "slow");
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (408, true));
        client.assert_closed();
        let line = proxy.access("body_too_slow");
        assert_eq!((&line["status"], &line["client_ip"]), (&408.into(), &"127.0.0.1".into()));
        assert_eq!(proxy.endpoint(&origin)["state"], "usable");
    }
    let proxy = Setup::of(&[&origin])
        .listener(timeouts)
        .listener("protocols = [\"h2\"]")
        .route("paths = [\"/\"]")
        .text("[[route]]\nrespond = {}")
        .start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (_body, upload) = Upload::channel();
        let answer = session.send(h2::request("POST", "/", upload)).await.unwrap();
        assert_eq!(answer.status(), 408);
        // Only the stream has ended.
        assert_eq!(session.get("/other").await.head.status(), 200);
    });
    proxy.wait_for_access("body_too_slow");
}

#[test]
fn time_in_which_nobody_reads_is_not_the_clients() {
    const BYTES: usize = 32 * KIB * KIB;
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.body();
            call.send(&ok(call.request.body.len().to_string()));
        })
    };
    let proxy = Setup::of(&[&origin])
        .listener("timeouts = { body_rate = \"64MiB/s\", body_grace = \"500ms\" }")
        .start();
    let mut client = posting(&proxy, BYTES, "");
    let taken = client.push(BYTES, Duration::from_millis(700));
    assert!(taken < BYTES, "the endpoint takes nothing");
    be_silent_for(Duration::from_millis(700));
    gate.open();
    client.send(vec![b'x'; BYTES - taken]);
    assert_eq!(client.answer().text(), BYTES.to_string());
}

#[test]
fn an_upload_that_breaks_off_at_its_beginning_is_seen_by_nobody() {
    let origin = echoing();
    let proxy = Setup::of(&[&origin]).start();
    drop(posting(&proxy, 8, "slow"));
    proxy.wait_for_access("\"POST\"");
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(origin.count(), 1);
}

// What they read slowly.

/// An HTTP/2 client that takes heads and not a byte of a body, as this address.
async fn zero_window(proxy: &Proxy) -> Session {
    Session::open_plain_with(proxy.address(), |client| {
        client.initial_stream_window_size(0);
    })
    .await
}

/// A request of the client at `ip`, as a trusted proxy tells.
fn of(ip: &str, path: &str) -> http::Request<Upload> {
    let mut request = h2::get(path);
    request.headers_mut().insert("x-forwarded-for", ip.parse().unwrap());
    request
}

/// Answers `/large` with 1 MiB, `/medium` with 40 KiB, and all else with a word.
fn sized() -> Origin {
    Origin::answering(|request| match request.target() {
        "/large" => ok(vec![b'x'; KIB * KIB]),
        "/medium" => ok(vec![b'x'; 40 * KIB]),
        _ => ok("quick"),
    })
}

const SMALL: &str = "limits = { connections = 4, queue_timeout = \"5s\" }\nretry = false";
const FRONT: &str = "protocols = [\"h2\"]\ntrusted = [\"127.0.0.0/8\"]";

#[test]
fn answers_that_fit_are_taken_from_the_endpoint_whatever_the_reader_does() {
    let origin = sized();
    let proxy =
        Setup::of(&[&origin]).listener(FRONT).pool_lines(SMALL).route("cache = false").start();
    h2::run(async {
        let mut greedy = zero_window(&proxy).await;
        let mut held = Vec::new();
        for _ in 0..12 {
            held.push(greedy.send(of("192.0.2.1", "/medium")).await.unwrap());
        }
        let mut other = Session::open_plain(proxy.address()).await;
        let answer = other.send(of("192.0.2.2", "/")).await.unwrap();
        assert_eq!(full(answer).await.unwrap().body, "quick");
        let answer = other.send(of("192.0.2.2", "/medium")).await.unwrap();
        assert_eq!(full(answer).await.unwrap().body.len(), 40 * KIB);
    });
}

#[test]
fn a_client_that_reads_slowly_over_http_1_gets_all_of_it() {
    let origin = sized();
    for lines in ["", "buffer.response = \"0B\"", "buffer.response = \"1MiB\""] {
        let proxy = Setup::of(&[&origin]).pool_lines(lines).route("cache = false").start();
        let mut client = proxy.connect();
        for path in ["/large", "/medium", "/large", "/"] {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            let head = client.answer_head();
            let length = head.header("content-length").unwrap().parse().unwrap();
            be_silent_for(Duration::from_millis(20));
            let body = client.read_exactly(length);
            assert!(body.iter().all(|byte| *byte == b'x') || body == b"quick");
        }
    }
}

#[test]
fn what_a_client_holds_and_does_not_read_is_called_in_for_others() {
    let origin = sized();
    let proxy =
        Setup::of(&[&origin]).listener(FRONT).pool_lines(SMALL).route("cache = false").start();
    h2::run(async {
        let mut greedy = zero_window(&proxy).await;
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(greedy.send(of("192.0.2.1", "/large")).await.unwrap());
        }
        let mut other = Session::open_plain(proxy.address()).await;
        let answer = other.send(of("192.0.2.2", "/")).await.unwrap();
        assert_eq!(full(answer).await.unwrap().body, "quick");
        // Only as much as is needed, and the connection stays.
        assert!(full(held.remove(0)).await.is_err());
        let answer = other.send(of("192.0.2.2", "/large")).await.unwrap();
        assert_eq!(full(answer).await.unwrap().body.len(), KIB * KIB);
        // It has places again once it holds none.
        held.clear();
        assert_eq!(greedy.send(of("192.0.2.1", "/")).await.unwrap().status(), 200);
    });
    let line = proxy.access("client_share");
    assert_eq!((&line["status"], &line["client_ip"]), (&200.into(), &"192.0.2.1".into()));
}

#[test]
fn what_a_client_holds_and_does_not_send_is_called_in_for_others() {
    let origin = Origin::answering(|request| ok(request.body.len().to_string()));
    let proxy = Setup::of(&[&origin])
        .listener("trusted = [\"127.0.0.0/8\"]")
        .pool_lines(SMALL)
        .pool_lines("buffer.request = \"0B\"")
        .start();
    let post = |ip: &str| {
        let mut client = proxy.connect();
        let fields = format!("X-Forwarded-For: {ip}\r\nContent-Length: 8");
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n\r\nslow"));
        client
    };
    let mut greedy: Vec<_> = (0..4).map(|_| post("192.0.2.1")).collect();
    origin.requests(4);
    let mut modest = post("192.0.2.2");
    origin.requests(5);
    modest.send("down");
    assert_eq!(modest.answer().text(), "8");
    let line = proxy.access("client_share");
    assert_eq!((&line["status"], &line["client_ip"]), (&503.into(), &"192.0.2.1".into()));
    // The others go on.
    for client in &mut greedy {
        let _ = client.try_send("down");
    }
    let answers = greedy.iter_mut().map(|client| client.answer().status);
    assert_eq!(answers.filter(|status| *status == 200).count(), 3);
}

#[test]
fn the_requests_of_a_client_that_has_its_share_wait_behind_all_others() {
    let (first, held) = (Gate::default(), Gate::default());
    let origin = {
        let (first, held) = (first.clone(), held.clone());
        Origin::scripted(move |call| {
            match call.request.target() {
                "/first" => first.pass(),
                _ => held.pass(),
            }
            call.send(&ok(""));
        })
    };
    let limits = "limits = { connections = 2, queue = 3, queue_timeout = \"9s\" }\nretry = false";
    let proxy = Setup::of(&[&origin])
        .listener("trusted = [\"127.0.0.0/8\"]")
        .pool_lines(limits)
        .route("cache = false")
        .start();
    let ask = |path: &str, ip: &str| {
        let mut client = proxy.connect();
        let from = format!("X-Forwarded-For: {ip}");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{from}\r\n\r\n"));
        client
    };
    let mut greedy = vec![ask("/first", "192.0.2.1"), ask("/held", "192.0.2.1")];
    origin.requests(2);
    for waiting in 1..=3 {
        greedy.push(ask("/held", "192.0.2.1"));
        proxy.wait_for_metric("headwater_queue_length{pool=\"app\"}", f64::from(waiting));
    }
    // The queue is full of one client: its last request makes room for another one's.
    let mut modest = ask("/held", "192.0.2.2");
    let refused = greedy.pop().unwrap().answer();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let line = proxy.access("client_share");
    assert_eq!((&line["status"], &line["client_ip"]), (&503.into(), &"192.0.2.1".into()));
    first.open();
    let third = origin.request(2);
    assert!(third.header("x-forwarded-for").unwrap().starts_with("192.0.2.2"), "{third:?}");
    held.open();
    assert_eq!(modest.answer().status, 200);
    for client in &mut greedy {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn a_client_that_is_alone_may_hold_every_place() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.send(&ok(""));
        })
    };
    let proxy = Setup::of(&[&origin]).pool_lines(SMALL).route("cache = false").start();
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = proxy.connect();
            client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            client
        })
        .collect();
    origin.requests(4);
    proxy.wait_for_metric("headwater_queue_length{pool=\"app\"}", 4.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
}
