//! HTTP/2 between the proxy and endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::runtime::Handle;

use crate::support::client as h1;
use crate::support::h2::{self, Session, Upload, full};
use crate::support::h2_origin::{Call, H2Origin, Then};
use crate::support::{Authority, Folder, Origin, Proxy, Setup, eventually, ok};

const PRIOR: &str = "protocols = [\"h1\", \"h2\"]";

fn start(origin: &H2Origin, pool: &str) -> Proxy {
    let pool = format!("protocol = \"h2\"\n{pool}");
    Setup::empty()
        .listener(PRIOR)
        .process("workers = 1")
        .pool(&[origin], &pool)
        .route("cache = false")
        .start()
}

fn echoing() -> H2Origin {
    H2Origin::scripted(100, Call::echo)
}

#[test]
fn requests_share_a_connection() {
    let origin = H2Origin::scripted(100, |call| {
        let host = call.request.uri().authority().unwrap().to_string();
        let path = call.path();
        call.answer(format!("{host}{path}"))
    });
    let proxy = start(&origin, "");
    for number in 0..10 {
        let answer = proxy.get(&format!("/{number}"), &[]);
        assert_eq!(answer.status, 200);
        assert!(String::from_utf8_lossy(answer.body()).ends_with(&format!("/{number}")));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn connections_grow_by_the_streams_that_the_endpoint_allows() {
    let held = std::sync::Mutex::new(Vec::new());
    let origin = H2Origin::scripted(2, move |call| {
        let mut held = held.lock().unwrap();
        held.push(call);
        if held.len() == 6 {
            for call in held.drain(..) {
                call.answer("x");
            }
        }
        Then::Continue
    });
    let proxy = start(&origin, "");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut answers = Vec::new();
        for _ in 0..6 {
            session.sender.ready().await.unwrap();
            answers.push(session.sender.send_request(h2::get("/")));
        }
        for answer in answers {
            assert_eq!(full(answer.await.unwrap()).await.unwrap().body, "x");
        }
    });
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_refused_post_goes_again_unseen() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let count = refusals.clone();
    let origin = H2Origin::scripted(100, move |call| {
        if count.fetch_add(1, Ordering::SeqCst) < 3 { call.refuse() } else { call.echo() }
    });
    let proxy = start(&origin, "retry = { attempts = 4 }");
    let answer = h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (sender, upload) = Upload::channel();
        let answer = session.send(h2::request("POST", "/", upload));
        let body = async {
            sender.send(Frame::data(Bytes::from_static(b"once"))).await.unwrap();
            drop(sender);
        };
        let (answer, ()) = tokio::join!(answer, body);
        full(answer.unwrap()).await.unwrap()
    });
    assert_eq!((answer.head.status().as_u16(), &answer.body[..]), (200, &b"once"[..]));
    assert_eq!(refusals.load(Ordering::SeqCst), 4);
}

#[test]
fn goaway_fails_no_request() {
    let origin = H2Origin::scripted(100, |call| {
        let is_last = call.number == 4;
        call.answer("x");
        if is_last { Then::GoAway } else { Then::Continue }
    });
    let proxy = start(&origin, "retry = false");
    let mut client = proxy.connect();
    for _ in 0..50 {
        client.send(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    assert!(origin.connections() >= 5);
}

#[test]
fn both_directions_stream_at_once_with_trailers_at_the_end_of_each() {
    let origin = echoing();
    let proxy = start(&origin, "");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (sender, upload) = Upload::channel();
        let mut request = h2::request("POST", "/", upload);
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let mut answer = session.send(request).await.unwrap().into_body();
        for number in 0..200_u8 {
            sender.send(Frame::data(vec![number; 200].into())).await.unwrap();
            let mut got = Vec::new();
            while got.len() < 200 {
                got.extend(answer.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            assert_eq!(got, [number; 200]);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        sender.send(Frame::trailers(trailers)).await.unwrap();
        drop(sender);
        let end = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(end["grpc-status"], "0");
    });
}

#[test]
fn a_client_that_leaves_cancels_its_stream_alone() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = cancelled.clone();
    let origin = H2Origin::scripted(100, move |mut call| {
        if call.path() != "/held" {
            return call.answer("x");
        }
        let count = count.clone();
        Handle::current().spawn(async move {
            std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        });
        Then::Continue
    });
    let proxy = start(&origin, "");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        session.sender.ready().await.unwrap();
        let held = session.sender.send_request(h2::get("/held"));
        assert_eq!(session.get("/").await.body, "x");
        drop(held);
    });
    eventually("the stream is cancelled", || (cancelled.load(Ordering::SeqCst) == 1).then_some(()));
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_answer_that_breaks_off_is_seen_to() {
    let origin = H2Origin::scripted(100, |mut call| {
        let mut stream = call.respond.send_response(http::Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"part"), false).unwrap();
        Handle::current().spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.send_reset(::h2::Reason::INTERNAL_ERROR);
        });
        Then::Continue
    });
    let proxy = start(&origin, "");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let answer = session.send(h2::get("/")).await.unwrap();
        assert!(full(answer).await.is_err());
    });
}

#[test]
fn an_endpoint_that_does_not_speak_h2_is_a_502_or_unavailable_to_grpc() {
    let origin = Origin::answering(|_| ok("x"));
    let proxy = Setup::empty()
        .listener(PRIOR)
        .pool(&[&origin], "protocol = \"h2\"\ntimeouts.connect = \"1s\"")
        .route("cache = false")
        .start();
    assert_eq!(proxy.get("/", &[]).status, 502);
    let reason = proxy.endpoint(&origin).to_string();
    assert!(reason.contains("does not speak HTTP/2"), "{reason}");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut request = h2::request("POST", "/", Upload::empty());
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let answer = full(session.send(request).await.unwrap()).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.head.headers()["grpc-status"], "14");
        assert!(answer.head.headers().contains_key("grpc-message"));
    });
}

#[test]
fn a_connection_that_breaks_fails_a_post_and_not_a_get() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let origin = H2Origin::scripted(100, move |call| {
        let is_first = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if is_first { Then::Break } else { call.answer("x") }
    });
    let proxy = start(&origin, "");
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let answer = session.send(h2::request("POST", "/", Upload::empty())).await.unwrap();
        assert_eq!(answer.status(), 502);
    });
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[test]
fn silence_is_bounded_by_the_timeouts_of_the_pool() {
    let origin = H2Origin::scripted(100, |mut call| {
        Handle::current().spawn(async move {
            if call.path() == "/idle" {
                let head = http::Response::new(());
                let mut stream = call.respond.send_response(head, false).unwrap();
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            } else {
                let _ = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            }
        });
        Then::Continue
    });
    let proxy =
        start(&origin, "timeouts = { first_byte = \"100ms\", idle = \"100ms\" }\nretry = false");
    assert_eq!(proxy.get("/", &[]).status, 504);
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let answer = session.send(h2::get("/idle")).await.unwrap();
        assert!(full(answer).await.is_err());
        let mut call = h2::request("POST", "/", Upload::empty());
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let answer = session.send(call).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["grpc-status"]),
            (200, &"4".parse().unwrap())
        );
    });
}

#[test]
fn with_tls_http_2_is_agreed_on_by_alpn() {
    let authority = Authority::new();
    let inner = |protocols: &str| {
        let folder = Folder::new();
        authority.write(&folder, "site", &["inner.test"]);
        let tls = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]";
        Setup::empty()
            .listener(&format!("{tls}\nprotocols = {protocols}"))
            .text(
                "[[route]]\nhosts = [\"site.test\"]\nrespond = { status = 200, body = \"inner\" }",
            )
            .start_in(folder)
    };
    let through = |inner: &Proxy| {
        let folder = Folder::new();
        folder.write("ca.pem", authority.pem());
        let tls = "tls = { sni = \"inner.test\", ca = \"ca.pem\" }";
        let proxy = Setup::of(&[&inner.address()])
            .pool_lines(&format!("protocol = \"h2\"\nretry = false\n{tls}"))
            .start_in(folder);
        proxy.get("/over-tls", &[]).status
    };
    let both = inner("[\"h1\", \"h2\"]");
    assert_eq!(through(&both), 200);
    assert_eq!(both.access("/over-tls")["protocol"], "HTTP/2.0");
    assert_eq!(through(&inner("[\"h1\"]")), 502);
}

#[test]
fn probes_go_over_tls_and_http_2_as_requests_do() {
    let authority = Authority::new();
    let folder = Folder::new();
    authority.write(&folder, "site", &["inner.test"]);
    let tls = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]";
    let inner = Setup::empty()
        .listener(&format!("{tls}\nprotocols = [\"h1\", \"h2\"]"))
        .text("[[route]]\nhosts = [\"probe.test\"]\nrespond = { status = 200, body = \"up\" }")
        .start_in(folder);
    let outer = |protocol: &str, path: &str, sni: &str| {
        let folder = Folder::new();
        folder.write("ca.pem", authority.pem());
        Setup::of(&[&inner.address()])
            .pool_lines(&format!(
                "protocol = \"{protocol}\"\ntls = {{ sni = \"{sni}\", ca = \"ca.pem\" }}\n\
                 health = {{ path = \"{path}\", host = \"probe.test\", interval = \"50ms\" }}"
            ))
            .start_in(folder)
    };
    for (protocol, spoken, path) in [("h1", "HTTP/1.1", "/one"), ("h2", "HTTP/2.0", "/two")] {
        let proxy = outer(protocol, path, "inner.test");
        eventually("the verdict", || {
            (proxy.endpoint(&inner.address())["health"] == "healthy").then_some(())
        });
        assert_eq!(inner.access(path)["protocol"], spoken);
        let proxy = outer(protocol, path, "other.test");
        eventually("the verdict", || {
            (proxy.endpoint(&inner.address())["health"] == "unhealthy").then_some(())
        });
        let reason = proxy.endpoint(&inner.address())["reason"].to_string();
        assert!(reason.contains("certificate"), "{reason}");
    }
}

#[test]
fn reloads_keep_connections_and_removed_endpoints_lose_theirs_behind_the_last_answer() {
    let (first, second) = (echoing(), echoing());
    let setup = |origin: &H2Origin| {
        Setup::empty()
            .listener(PRIOR)
            .process("workers = 1")
            .pool(&[origin], "protocol = \"h2\"")
            .route("cache = false")
    };
    let proxy = setup(&first).start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (sender, upload) = Upload::channel();
        let mut answer = session.send(h2::request("POST", "/", upload)).await.unwrap().into_body();
        let before = proxy.generation();
        proxy.reload(&setup(&second));
        assert!(proxy.generation() > before);
        sender.send(Frame::data(Bytes::from_static(b"late"))).await.unwrap();
        drop(sender);
        let data = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "late");
    });
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[test]
fn a_call_may_be_silent_for_longer_than_a_body_and_ends_with_its_status_when_its_pod_does() {
    let held = std::sync::Mutex::new(Vec::new());
    let origin = H2Origin::scripted(100, move |mut call| {
        if call.path() == "/break" {
            return Then::Break;
        }
        let head = http::Response::builder().header("content-type", "application/grpc");
        let head = head.body(()).unwrap();
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data("message".into(), false).unwrap();
        held.lock().unwrap().push((call, stream));
        Then::Continue
    });
    let pool = "protocol = \"h2\"\ntimeouts = { tunnel = \"400ms\", idle = \"50ms\" }";
    let proxy = Setup::empty()
        .listener(&format!("{PRIOR}\ntimeouts.body = \"50ms\""))
        .pool(&[&origin], pool)
        .start();
    let call = |path: &str, upload| {
        let mut call = h2::request("POST", path, upload);
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        call
    };
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (_sender, upload) = Upload::channel();
        let begun = std::time::Instant::now();
        let answer = session.send(call("/silent", upload)).await.unwrap();
        let ended = full(answer).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(400));
        assert_eq!(ended.trailers.unwrap()["grpc-status"], "4");

        let (_sender, upload) = Upload::channel();
        let answer = session.send(call("/next", upload)).await.unwrap();
        assert_eq!(session.send(h2::get("/break")).await.unwrap().status(), 502);
        let broken = full(answer).await.unwrap();
        let trailers = broken.trailers.unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &broken.body[..]),
            (&"14".parse().unwrap(), &b"message"[..])
        );
        assert!(trailers.contains_key("grpc-message"));
    });
    assert_eq!(proxy.access("/next")["error"], "truncated");
}

#[test]
fn at_the_limit_of_connections_requests_wait_for_those_before_them() {
    let origin = H2Origin::scripted(2, |call| {
        Handle::current().spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            call.answer("x");
        });
        Then::Continue
    });
    let proxy = start(&origin, "limits = { connections = 1, queue_timeout = \"5s\" }");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut answers = Vec::new();
        for number in 0..30 {
            session.sender.ready().await.unwrap();
            answers.push(session.sender.send_request(h2::get(&format!("/{number}"))));
        }
        for answer in answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
}

#[test]
fn answers_without_a_body_have_none_for_a_client_of_http_1() {
    let origin = H2Origin::scripted(100, |mut call| {
        let head = http::Response::builder();
        let head = match call.path().as_str() {
            "/204" => head.status(204),
            "/304" => head.status(304).header("content-length", "5").header("etag", "\"a\""),
            _ => head.header("content-length", "5"),
        };
        call.respond.send_response(head.body(()).unwrap(), true).unwrap();
        Then::Continue
    });
    let proxy = start(&origin, "");
    let mut client = proxy.connect();
    for (path, status, length) in [("/204", 204, None), ("/304", 304, Some("5"))] {
        let answer = client.get(path, &[]);
        assert_eq!((answer.status, answer.body()), (status, &b""[..]));
        assert_eq!(answer.header("content-length"), length.filter(|_| status != 304));
    }
    client.send("HEAD / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let answer = client.head_answer();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    assert_eq!(client.get("/204", &[]).status, 204, "the connection goes on");
}

#[test]
fn fields_of_one_hop_do_not_reach_an_endpoint() {
    let origin = H2Origin::scripted(100, |call| {
        let headers = call.request.headers();
        let of_hop = ["connection", "keep-alive", "upgrade", "transfer-encoding", "x-hop", "host"];
        let found: Vec<_> = of_hop.iter().filter(|name| headers.contains_key(**name)).collect();
        let text = format!("{found:?} {:?} {:?}", headers["te"], headers["cookie"]);
        call.answer(text)
    });
    let proxy = start(&origin, "");
    let fields = [
        "Connection: keep-alive, x-hop, te",
        "Keep-Alive: timeout=5",
        "X-Hop: 1",
        "TE: trailers, gzip",
        "Cookie: a=b; c=d",
    ];
    assert_eq!(proxy.get("/", &fields).text(), "[] \"trailers\" \"a=b; c=d\"");
}

#[test]
fn a_length_that_is_not_kept_breaks_the_answer() {
    let origin = H2Origin::scripted(100, |mut call| {
        let head = http::Response::builder().header("content-length", "10").body(()).unwrap();
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data("four".into(), call.path() == "/short").unwrap();
        if call.path() == "/long" {
            stream.send_data("and far more".into(), true).unwrap();
        }
        Then::Continue
    });
    let proxy = Setup::empty()
        .pool(&[&origin], "protocol = \"h2\"\nretry = false\ntimeouts.idle = \"300ms\"")
        .route("cache = { ttl = \"60s\" }")
        .start();
    for path in ["/short", "/long", "/silent"] {
        for _ in 0..2 {
            let mut client = proxy.connect();
            client.send(h1::request("GET", path, &["Connection: close"]));
            let all = String::from_utf8(client.rest()).unwrap();
            let body = all.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            assert!(all.starts_with("HTTP/1.1 502") || body.len() < 10, "{path}: {all}");
            assert!(!all.contains("hit"), "{path}: {all}");
        }
    }
}

#[test]
fn who_reads_nothing_stops_the_other_end() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let origin = H2Origin::scripted(100, move |mut call| {
        let count = count.clone();
        Handle::current().spawn(async move {
            let head = http::Response::new(());
            let mut stream = call.respond.send_response(head, false).unwrap();
            loop {
                stream.reserve_capacity(16 << 10);
                let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(Ok(bytes)) = capacity else { return };
                if stream.send_data(vec![b'x'; bytes].into(), false).is_err() {
                    return;
                }
                count.fetch_add(bytes, Ordering::SeqCst);
            }
        });
        Then::Continue
    });
    let proxy = start(&origin, "");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let mut before = 0;
    let mut looks = 0;
    eventually("the endpoint to stop", || {
        let now = sent.load(Ordering::SeqCst);
        looks = if now == before && now > 0 { looks + 1 } else { 0 };
        before = now;
        (looks > 40).then_some(())
    });
    assert!(before < 32 << 20, "{before} bytes");
    drop(client);

    let held = std::sync::Mutex::new(Vec::new());
    let origin = H2Origin::scripted(100, move |call| {
        held.lock().unwrap().push(call);
        Then::Continue
    });
    let proxy = start(&origin, "");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 67108864\r\n\r\n");
    let pushed = client.push(64 << 20, Duration::from_millis(200));
    assert!(pushed < 32 << 20, "{pushed} bytes");
}
