//! HTTP/2 between client and proxy.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use rustls::version::TLS13;

use crate::support::h2::{self, Session, Upload, full};
use crate::support::origin::Gate;
use crate::support::{
    Authority, Client, Folder, HOST, Origin, Proxy, Setup, Tls, answer, cacheable, chunk, ok,
};

const SITE: &str = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]";

fn start(setup: Setup) -> (Tls, Proxy) {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let proxy = setup.listener(SITE).start_in(folder);
    (Tls::with(&authority, &TLS13, &["h2"]), proxy)
}

#[test]
fn a_request_over_h2_reaches_an_endpoint_that_speaks_h1() {
    let origin = Origin::answering(|_| answer(200, &["Connection: X-Hop", "X-Hop: a"], "body"));
    let (tls, proxy) = start(Setup::of(&[&origin]));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        let mut request = h2::get("/a%61?b");
        request.headers_mut().append("cookie", "a=1".parse().unwrap());
        request.headers_mut().append("cookie", "b=2".parse().unwrap());
        request.headers_mut().append("te", "trailers".parse().unwrap());
        let answer = full(session.send(request).await.unwrap()).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), &answer.body[..]), (200, &b"body"[..]));
        for name in ["connection", "x-hop", "transfer-encoding", "keep-alive"] {
            assert!(!answer.head.headers().contains_key(name), "{name}");
        }
    });
    let request = origin.request(0);
    assert_eq!(request.start_line(), "GET /aa?b HTTP/1.1");
    assert_eq!(request.headers("host").collect::<Vec<_>>(), [HOST]);
    assert_eq!(request.headers("cookie").collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!(request.header("te"), Some("trailers"));
    assert_eq!(request.header("via"), Some("2 headwater"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(proxy.access("/a%61")["protocol"], "HTTP/2.0");
}

#[test]
fn streams_of_one_connection_are_answered_independently() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() == "/held" {
            waits.pass();
        }
        let target = call.request.target().to_owned();
        call.send(&ok(target));
    });
    let (tls, proxy) = start(Setup::of(&[&origin]).route("cache = false"));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        session.sender.ready().await.unwrap();
        let held = session.sender.send_request(h2::get("/held"));
        let mut others = Vec::new();
        for number in 0..100 {
            session.sender.ready().await.unwrap();
            others.push(session.sender.send_request(h2::get(&format!("/{number}"))));
        }
        for (number, other) in others.into_iter().enumerate() {
            let answer = full(other.await.unwrap()).await.unwrap();
            assert_eq!(answer.body, format!("/{number}"));
        }
        gate.open();
        assert_eq!(full(held.await.unwrap()).await.unwrap().body, "/held");
    });
    assert_eq!(proxy.metric("headwater_connections_accepted_total{listener=\"web\"}"), 1.0);
}

#[test]
fn large_bodies_pass_unharmed_both_ways() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 64;
    let origin = Origin::answering(|request| ok(&request.body));
    let (tls, proxy) = start(Setup::of(&[&origin]));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        let (frames, upload) = Upload::channel();
        let sending = async move {
            for number in 0..PIECES {
                let piece = Bytes::from(vec![number as u8; PIECE]);
                frames.send(Frame::data(piece)).await.unwrap();
            }
        };
        let answering = async {
            full(session.send(h2::request("PUT", "/", upload)).await.unwrap()).await.unwrap()
        };
        let ((), answer) = tokio::join!(sending, answering);
        assert_eq!(answer.body.len(), PIECES * PIECE);
        assert!(answer.body.chunks(PIECE).zip(0..).all(|(it, n)| it.iter().all(|byte| *byte == n)));
    });
    assert_eq!(origin.request(0).header("transfer-encoding"), Some("chunked"));
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::scripted(|call| {
        call.body();
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        call.send(&[&chunk(b"body")[..], b"0\r\nX-Sum: 42\r\n\r\n"].concat());
    });
    let (tls, proxy) = start(Setup::of(&[&origin]));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        let (frames, upload) = Upload::channel();
        let mut request = h2::request("POST", "/", upload);
        request.headers_mut().append("te", "trailers".parse().unwrap());
        request.headers_mut().append("trailer", "x-up".parse().unwrap());
        let sending = async move {
            frames.send(Frame::data(Bytes::from_static(b"data"))).await.unwrap();
            let trailers = [("x-up".parse().unwrap(), "7".parse().unwrap())];
            frames.send(Frame::trailers(trailers.into_iter().collect())).await.unwrap();
        };
        let answering = async { full(session.send(request).await.unwrap()).await.unwrap() };
        let ((), answer) = tokio::join!(sending, answering);
        assert_eq!(answer.body, "body");
        assert_eq!(answer.trailers.unwrap().get("x-sum").unwrap(), "42");
    });
    let request = origin.request(0);
    assert_eq!(request.text(), "data");
    assert_eq!(request.trailers.to_lowercase(), "x-up: 7\r\n");
}

#[test]
fn an_answer_that_breaks_off_resets_its_stream_and_no_other() {
    let origin = Origin::scripted(|call| {
        if call.request.target() == "/broken" {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            call.close();
        } else {
            call.send(&ok("whole"));
        }
    });
    let (tls, proxy) = start(Setup::of(&[&origin]));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        let broken = session.send(h2::get("/broken")).await;
        let broken = match broken {
            Ok(response) => full(response).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(broken.is_err(), "it looks complete");
        assert_eq!(session.get("/whole").await.body, "whole");
    });
}

#[test]
fn a_stream_that_its_client_resets_ends_its_exchange_and_no_other() {
    let origin = Origin::scripted(|call| match call.request.target() {
        "/left" => call.wait_for_end(),
        _ => {
            call.send(&ok("whole"));
        }
    });
    let (tls, proxy) = start(Setup::of(&[&origin]).route("cache = false"));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        session.sender.ready().await.unwrap();
        let left = session.sender.send_request(h2::get("/left"));
        let waited = tokio::task::spawn_blocking(move || {
            origin.requests(1);
            origin
        });
        let origin = tokio::select! {
            _ = left => panic!("it was answered"),
            origin = waited => origin.unwrap(),
        };
        // The future is gone, and the stream with it.
        let closed = tokio::task::spawn_blocking(move || {
            origin.wait_for_closed(1);
            origin
        });
        let _origin = closed.await.unwrap();
        assert_eq!(session.get("/whole").await.body, "whole");
    });
    assert_eq!(proxy.access("/left")["status"], 499);
}

#[test]
fn an_upgrade_is_not_offered_over_h2_and_a_cached_answer_is() {
    let origin = Origin::answering(|_| cacheable("body"));
    let (tls, proxy) = start(Setup::of(&[&origin]));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        session.get("/").await;
        let hit = session.get("/").await;
        let status = hit.head.headers().get("cache-status").unwrap().to_str().unwrap();
        assert!(status.starts_with("headwater; hit"), "{status}");
        assert_eq!(hit.body, "body");
        let head = session.send(h2::request("HEAD", "/", Upload::empty())).await.unwrap();
        assert_eq!(head.headers().get("content-length").unwrap(), "4");
        assert_eq!(full(head).await.unwrap().body, "");
    });
    assert_eq!(origin.count(), 1);
}

#[test]
fn limits_hold_over_h2_too() {
    let origin = Origin::answering(|_| ok(""));
    let setup = Setup::of(&[&origin])
        .listener("limits = { header_bytes = \"4KiB\", headers = 20, uri_bytes = \"1KiB\" }")
        .route("body_max = \"10B\"");
    let (tls, proxy) = start(setup);
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        let long = format!("/{}", "a".repeat(2000));
        assert_eq!(session.get(&long).await.head.status(), 414);
        let mut many = h2::get("/");
        for number in 0..30 {
            let name: http::HeaderName = format!("x-{number}").parse().unwrap();
            many.headers_mut().append(name, "y".parse().unwrap());
        }
        assert_eq!(session.send(many).await.unwrap().status(), 431);
        let (frames, upload) = Upload::channel();
        let sending = async move {
            // The stream may be closed before all of it was taken.
            let _ = frames.send(Frame::data(Bytes::from_static(b"too much for it"))).await;
        };
        let request = h2::request("POST", "/", upload);
        let ((), refused) = tokio::join!(sending, session.send(request));
        assert_eq!(refused.unwrap().status(), 413);
        assert_eq!(session.get("/").await.head.status(), 200, "the connection goes on");
    });
}

#[test]
fn a_host_that_differs_from_the_authority_is_400() {
    let origin = Origin::answering(|_| ok(""));
    let (tls, proxy) = start(Setup::of(&[&origin]));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        let mut request = h2::get("/");
        request.headers_mut().append("host", "other.test".parse().unwrap());
        assert_eq!(session.send(request).await.unwrap().status(), 400);
    });
    assert_eq!(origin.count(), 0);
}

#[test]
fn prior_knowledge_is_enough_on_a_plain_listener() {
    let origin = Origin::answering(|_| ok("plain"));
    let proxy = Setup::of(&[&origin]).listener("protocols = [\"h2\"]").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        assert_eq!(session.get("/").await.body, "plain");
    });
}

#[test]
fn a_plain_listener_tells_both_protocols_apart_by_the_first_bytes() {
    let origin = Origin::answering(|_| ok("plain"));
    let proxy = Setup::of(&[&origin]).listener("protocols = [\"h2\", \"h1\"]").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        assert_eq!(session.get("/").await.body, "plain");
    });
    // A byte at a time, and beginning like HTTP/2.
    for head in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PRIX / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut client = proxy.connect();
        for byte in head.bytes() {
            client.send([byte]);
        }
        assert_eq!(client.answer().body(), b"plain");
        assert_eq!(client.get("/again", &[]).body(), b"plain");
    }
}

#[test]
fn a_stop_says_goodbye_and_finishes_what_is_open() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() == "/held" {
            waits.pass();
        }
        call.send(&ok("finished"));
    });
    let (tls, mut proxy) = start(Setup::of(&[&origin]).route("cache = false"));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        session.sender.ready().await.unwrap();
        let held = session.sender.send_request(h2::get("/held"));
        session.get("/before").await;
        proxy.terminate();
        // Requests are answered until the goodbye has come; none is taken and lost.
        loop {
            match session.send(h2::get("/meanwhile")).await {
                Ok(answer) => assert_eq!(answer.status(), 200),
                Err(error) => break assert!(error.is_canceled(), "{error:?}"),
            }
        }
        gate.open();
        assert_eq!(full(held.await.unwrap()).await.unwrap().body, "finished");
        session.driver.await.unwrap().unwrap();
    });
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn an_idle_connection_is_said_goodbye_to() {
    let (tls, proxy) = start(
        Setup::empty()
            .listener("timeouts.idle = \"200ms\"")
            .text("[[route]]\nrespond = { status = 200 }"),
    );
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        session.get("/").await;
        session.driver.await.unwrap().unwrap();
    });
}

#[test]
fn a_reader_that_stalls_one_stream_does_not_stall_the_others() {
    let origin = Origin::scripted(|call| {
        if call.request.target() == "/endless" {
            call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while call.send(&chunk(&[b'x'; 16 << 10])) {}
        } else {
            call.send(&ok("small"));
        }
    });
    let (tls, proxy) =
        start(Setup::of(&[&origin]).listener("timeouts.write = \"500ms\"").route("cache = false"));
    h2::run(async {
        let mut session = Session::open(proxy.address(), &tls).await;
        // Nobody reads its body: the window of the stream fills, and that is all.
        let mut stalled = session.send(h2::get("/endless")).await.unwrap();
        for _ in 0..20 {
            assert_eq!(session.get("/small").await.body, "small");
        }
        // After the write timeout the stream is reset, and its endpoint let go.
        let closed = tokio::task::spawn_blocking(move || {
            origin.wait_for_closed(1);
            origin
        });
        let _origin = closed.await.unwrap();
        let mut result = Ok(());
        while let Some(frame) = stalled.body_mut().frame().await {
            result = frame.map(drop);
            if result.is_err() {
                break;
            }
        }
        assert!(result.is_err(), "it looks complete");
        assert_eq!(session.get("/small").await.body, "small");
    });
}

#[test]
fn what_is_not_h2_ends_the_connection() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let proxy = Setup::empty()
        .listener(SITE)
        .text("[[route]]\nrespond = { status = 200 }")
        .start_in(folder);
    let tls = Tls::with(&authority, &TLS13, &["h2"]);
    let mut client = Client::tls(proxy.address(), &tls);
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let rest = client.rest();
    assert!(!rest.starts_with(b"HTTP/1.1"), "{rest:?}");
}
