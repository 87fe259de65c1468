//! Tunnels where HTTP/2 is spoken on one side or on both (RFC 8441).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::support::h2::{self, Session, Upload, full};
use crate::support::h2_origin::{Call as H2Call, H2Origin, Then};
use crate::support::origin::Gate;
use crate::support::{Call, Client, HOST, Origin, Proxy, Setup, answer, ok};

const PRIOR: &str = "protocols = [\"h1\", \"h2\"]";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What an endpoint shows for a key (RFC 6455 §4.2.2).
pub fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

fn switch(call: &mut Call) {
    let accept = accept_of(call.request.header("sec-websocket-key").unwrap());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
    call.send(head.as_bytes());
}

/// Switches and sends everything back.
pub fn echo(call: &mut Call) {
    if call.request.header("upgrade").is_none() {
        call.send(&ok("plain"));
        return;
    }
    switch(call);
    loop {
        let bytes = call.read(1);
        if bytes.is_empty() || !call.send(&bytes) {
            return call.close();
        }
    }
}

/// The same over HTTP/2, where it is asked for a tunnel.
pub fn echo_h2(mut call: H2Call) -> Then {
    if call.request.extensions().get::<::h2::ext::Protocol>().is_none() {
        return call.answer("plain");
    }
    Handle::current().spawn(async move {
        let mut head = Response::new(());
        head.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
        let mut stream = call.respond.send_response(head, false).unwrap();
        let body = call.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            let _ = stream.send_data(data, false);
        }
        let _ = stream.send_data(Bytes::new(), true);
    });
    Then::Continue
}

fn over(endpoint: &dyn std::fmt::Display, pool: &str) -> Setup {
    Setup::empty().listener(PRIOR).process("workers = 1").pool(&[endpoint], pool)
}

async fn assert_echo(io: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &[u8]) {
    let (mut reading, mut writing) = tokio::io::split(io);
    let mut came = vec![0; text.len()];
    let (wrote, read) = tokio::join!(writing.write_all(text), reading.read_exact(&mut came));
    wrote.unwrap();
    read.unwrap();
    assert!(came == text);
}

async fn assert_ended(io: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

/// What a client of HTTP/2 is told that asks for a tunnel.
fn refusal(proxy: &Proxy, protocol: &'static str) -> (u16, HeaderMap, Bytes) {
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let response = session.ask_for_tunnel(protocol).await;
        let full = full(response).await.unwrap();
        // The connection goes on.
        assert!(session.send(h2::get("/settings")).await.is_ok());
        (full.head.status().as_u16(), full.head.headers().clone(), full.body)
    })
}

pub fn ask_h1(proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send(format!(
        "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ));
    client
}

#[test]
fn a_client_of_http_2_has_a_tunnel_to_an_endpoint_of_http_1() {
    let origin = Origin::scripted(echo);
    let proxy = over(&origin, "").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let response = session.ask_for_tunnel("websocket").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for name in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let mut io = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        assert_echo(&mut io, b"\x00\x01binary\r\n\r\n").await;
        assert_echo(&mut io, &b"long".repeat(200_000)).await;
        // Other streams of the connection are none of it.
        assert_eq!(session.get("/other").await.body, "plain");
        io.shutdown().await.unwrap();
        assert_ended(&mut io).await;
    });
    let request = origin.request(1);
    assert_eq!(request.start_line(), "GET /socket?a=b HTTP/1.1");
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(request.header("sec-websocket-version"), Some("13"));
    assert_eq!(request.header("sec-websocket-key").map(str::len), Some(24));
    assert_eq!(proxy.access("/socket")["status"], 200);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
    let series =
        format!("headwater_endpoint_requests_in_flight{{pool=\"app\",endpoint=\"{origin}\"}}");
    proxy.wait_for_metric(&series, 0.0);
}

#[test]
fn keys_are_fresh() {
    let origin = Origin::scripted(echo);
    let proxy = over(&origin, "").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (mut one, mut other) = (session.tunnel().await, session.tunnel().await);
        assert_echo(&mut one, b"one").await;
        assert_echo(&mut other, b"other").await;
    });
    let requests = origin.requests(4);
    let keys: Vec<_> = requests.iter().filter_map(|it| it.header("sec-websocket-key")).collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn what_does_not_show_that_it_understood_is_no_tunnel() {
    for lines in ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"] {
        let origin = Origin::scripted(move |call| {
            if call.request.header("upgrade").is_none() {
                call.send(&ok("plain"));
                return;
            }
            let head = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
            call.send(format!("{head}{lines}\r\n").as_bytes());
            call.wait_for_end();
        });
        let proxy = over(&origin, "retry = false").start();
        assert_eq!(refusal(&proxy, "websocket").0, 502);
    }
}

#[test]
fn a_refusal_is_passed_on_and_a_success_that_is_none_is_not() {
    let origin = Origin::scripted(|call| {
        let declines = call.request.header("upgrade").is_some();
        call.send(&if declines { answer(403, &["X-Why: age"], "no") } else { ok("plain") });
    });
    let proxy = over(&origin, "").start();
    let (status, headers, body) = refusal(&proxy, "websocket");
    assert_eq!((status, &headers["x-why"], &body[..]), (403, &"age".parse().unwrap(), &b"no"[..]));

    let origin = Origin::answering(|_| ok("not a tunnel"));
    let proxy = over(&origin, "").start();
    let (status, headers, body) = refusal(&proxy, "websocket");
    assert_eq!((status, &headers["cache-control"]), (502, &"no-store".parse().unwrap()));
    assert!(body.starts_with(b"<!doctype html>"), "{body:?}");
    assert!(headers.contains_key("x-request-id"));
    assert_eq!(proxy.access("/socket")["status"], 502);
}

#[test]
fn where_there_can_be_no_tunnel_a_client_of_http_2_is_told() {
    let origin = Origin::scripted(echo);
    let closed = over(&origin, "").route("websocket = false").start();
    assert_eq!(refusal(&closed, "websocket").0, 501);
    let open = over(&origin, "").start();
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.0"] {
        assert_eq!(refusal(&open, protocol).0, 501, "{protocol}");
    }
    let fixed = Setup::empty()
        .listener(PRIOR)
        .text("[[route]]\nrespond = { status = 200, body = \"fixed\" }")
        .start();
    assert_eq!(refusal(&fixed, "websocket").0, 501);
    let elsewhere = Setup::empty()
        .listener(PRIOR)
        .text("[[route]]\nredirect = { to = \"https://other.test{path}\", status = 308 }")
        .start();
    assert_eq!(refusal(&elsewhere, "websocket").0, 308);
    let denied = over(&origin, "").route("deny = [\"127.0.0.0/8\"]").start();
    assert_eq!(refusal(&denied, "websocket").0, 403);
}

#[test]
fn a_protocol_is_one_by_name() {
    let origin = H2Origin::tunnelling(echo_h2);
    let proxy = over(&origin, "protocol = \"h2\"").start();
    for protocol in ["h2c", "web/socket/1"] {
        assert_eq!(refusal(&proxy, protocol).0, 501, "{protocol}");
    }
    // Such a request is malformed: its stream ends behind the answer, and the connection goes on.
    for protocol in ["foo bar", " websocket", "x, y", "é"] {
        h2::run(async {
            let mut session = Session::open_plain(proxy.address()).await;
            assert_eq!(session.ask_for_tunnel(protocol).await.status(), 400, "{protocol}");
            assert!(session.send(h2::get("/settings")).await.is_ok());
        });
    }
}

#[test]
fn an_upgrade_that_an_endpoint_of_http_2_cannot_have_is_an_ordinary_request() {
    let origin = H2Origin::scripted(100, echo_h2);
    let proxy = over(&origin, "protocol = \"h2\"").start();
    assert_eq!(proxy.get("/", &["Connection: upgrade", "Upgrade: foo/2"]).text(), "plain");
}

#[test]
fn the_opening_of_a_tunnel_is_edited_as_any_answer() {
    let origin = Origin::scripted(echo);
    let proxy = over(&origin, "").route("response_headers.set = { x-edge = \"e1\" }").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let response = session.ask_for_tunnel("websocket").await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-edge"]),
            (200, &"e1".parse().unwrap())
        );
        assert!(response.headers().contains_key("via"));
    });
    let mut client = ask_h1(&proxy);
    let head = client.answer_head();
    assert_eq!((head.header("x-edge"), head.header("via").is_some()), (Some("e1"), true));
}

#[test]
fn a_client_that_has_left_is_missed_though_the_endpoint_reads_nothing() {
    let gate = crate::support::origin::Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.header("upgrade").is_none() {
            call.send(&ok("plain"));
            return;
        }
        switch(call);
        waits.pass();
    });
    let proxy = over(&origin, "").start();
    h2::run(async {
        let stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
        let (sender, connection) = ::h2::client::handshake(stream).await.unwrap();
        let driver = Handle::current().spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let (settled, _) = sender.send_request(h2::get("/settings").map(|_| ()), true).unwrap();
        settled.await.unwrap();
        let mut connect = h2::request("CONNECT", "/socket", Upload::empty()).map(|_| ());
        connect.extensions_mut().insert(::h2::ext::Protocol::from_static("websocket"));
        let (opened, mut stream) = sender.send_request(connect, false).unwrap();
        let _opened = opened.await.unwrap();
        stream.reserve_capacity(1);
        while let Ok(Some(Ok(room))) =
            timeout(Duration::from_millis(200), std::future::poll_fn(|cx| stream.poll_capacity(cx)))
                .await
        {
            stream.send_data(vec![7; room].into(), false).unwrap();
            stream.reserve_capacity(1);
        }
        driver.abort();
        let in_flight = "headwater_http_requests_in_flight{listener=\"web\"}";
        while proxy.metric(in_flight) > 0.0 {
            // Meanwhile its connection ends.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    gate.open();
}

#[test]
fn a_connect_without_a_protocol_is_405() {
    let origin = Origin::scripted(echo);
    let proxy = over(&origin, "").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let request = http::Request::connect("site.test:443").body(h2::Upload::empty()).unwrap();
        assert_eq!(session.send(request).await.unwrap().status(), 405);
    });
    assert_eq!(origin.count(), 0);
}

#[test]
fn what_is_stored_is_no_answer_to_one_who_wants_a_tunnel() {
    let origin = Origin::scripted(|call| {
        if call.request.header("upgrade").is_some() {
            echo(call);
        } else {
            call.send(&answer(200, &["Cache-Control: max-age=60"], "stored"));
        }
    });
    let proxy = over(&origin, "").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        assert_eq!(session.get("/socket?a=b").await.body, "stored");
        assert_echo(&mut session.tunnel().await, b"not stored").await;
    });
}

#[test]
fn with_http_2_on_both_sides_a_tunnel_is_a_stream_of_each() {
    let origin = H2Origin::tunnelling(echo_h2);
    let proxy = over(&origin, "protocol = \"h2\"").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut one = session.tunnel().await;
        let mut other = session.tunnel().await;
        assert_echo(&mut one, &b"long".repeat(200_000)).await;
        assert_echo(&mut other, b"short").await;
        one.shutdown().await.unwrap();
        assert_ended(&mut one).await;
        assert_echo(&mut other, b"still here").await;
    });
    assert_eq!(origin.connections(), 1);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
}

#[test]
fn an_upgrade_of_http_1_goes_to_an_endpoint_of_http_2_as_extended_connect() {
    let origin = H2Origin::tunnelling(|call| {
        let headers = call.request.headers();
        assert!(!headers.contains_key("sec-websocket-key") && !headers.contains_key("upgrade"));
        assert_eq!(call.request.method(), "CONNECT");
        assert_eq!(call.path(), "/socket");
        echo_h2(call)
    });
    let proxy = over(&origin, "protocol = \"h2\"").start();
    let mut client = ask_h1(&proxy);
    let head = client.answer_head();
    assert_eq!(head.start_line(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(head.header("sec-websocket-protocol"), Some("chat"));
    client.send("hello");
    assert_eq!(client.read_exactly(5), b"hello");
    client.finish();
    client.assert_closed();
}

#[test]
fn an_endpoint_of_http_2_may_not_offer_tunnels_or_decline_one() {
    let origin = H2Origin::scripted(100, |call| call.answer("plain"));
    let proxy = over(&origin, "protocol = \"h2\"").start();
    assert_eq!(refusal(&proxy, "websocket").0, 502);
    let mut client = ask_h1(&proxy);
    assert_eq!(client.answer().status, 502);
    assert_eq!(proxy.access("/socket")["error"], "tunnel_unsupported");
    assert_eq!(proxy.endpoint(&origin)["state"], "usable", "it is not to blame");

    let origin = H2Origin::tunnelling(|mut call| {
        let head = Response::builder().status(403).body(()).unwrap();
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data("no".into(), true).unwrap();
        Then::Continue
    });
    let proxy = over(&origin, "protocol = \"h2\"").start();
    let (status, _, body) = refusal(&proxy, "websocket");
    assert_eq!((status, &body[..]), (403, &b"no"[..]));
    let mut client = ask_h1(&proxy);
    let declined = client.answer();
    assert_eq!((declined.status, declined.text().as_str()), (403, "no"));
    assert_eq!(client.get("/", &[]).status, 403, "the connection goes on");
}

#[test]
fn a_client_that_resets_its_stream_ends_its_tunnel_alone() {
    let origin = Origin::scripted(echo);
    let proxy = over(&origin, "").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (mut kept, mut left) = (session.tunnel().await, session.tunnel().await);
        assert_echo(&mut left, b"x").await;
        drop(left);
        // The reset leaves with this.
        assert_echo(&mut kept, b"still here").await;
        origin.wait_for_closed(1);
        assert_echo(&mut kept, b"and now").await;
    });
    origin.wait_for_closed(2);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
}

#[test]
fn tunnels_over_http_2_live_through_reloads_and_end_with_their_silence() {
    let origin = Origin::scripted(echo);
    let setup = over(&origin, "timeouts.tunnel = \"700ms\"");
    let proxy = setup.start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut io = session.tunnel().await;
        proxy.reload(&setup.clone().pool_lines("retry = false").route("websocket = false"));
        assert_echo(&mut io, b"still here").await;
        // Even one whose pool is gone.
        let gone = "[[route]]\nrespond = { status = 200, body = \"new\" }";
        proxy.reload(&Setup::empty().listener(PRIOR).text(gone));
        assert_echo(&mut io, b"still here").await;
        assert_ended(&mut io).await;
    });
    origin.wait_for_closed(1);
}

#[test]
fn a_stop_waits_for_tunnels_over_http_2_until_its_deadline() {
    let origin = Origin::scripted(echo);
    let mut proxy = over(&origin, "").process("drain_timeout = \"300ms\"").start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut io = session.tunnel().await;
        proxy.terminate();
        proxy.wait_for_log("stopping");
        assert_echo(&mut io, b"until the deadline").await;
        timeout(Duration::from_secs(5), assert_ended(&mut io)).await.unwrap();
    });
    assert_eq!(proxy.exit_code(), 3);
}

#[test]
fn a_tunnel_holds_its_place_at_the_endpoint_until_it_ends() {
    let origin = Origin::scripted(echo);
    let limits = "limits = { requests = 1, queue = 1, queue_timeout = \"100ms\" }";
    let proxy = over(&origin, limits).start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut io = session.tunnel().await;
        let refused = session.send(h2::get("/")).await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        io.shutdown().await.unwrap();
        assert_ended(&mut io).await;
        let series =
            format!("headwater_endpoint_requests_in_flight{{pool=\"app\",endpoint=\"{origin}\"}}");
        proxy.wait_for_metric(&series, 0.0);
        assert_eq!(session.get("/").await.body, "plain");
    });
}

#[test]
fn a_tunnel_goes_where_its_hash_says() {
    let origins = [Origin::scripted(echo), Origin::scripted(echo), Origin::scripted(echo)];
    let [first, second, third] = &origins;
    let proxy = Setup::empty()
        .listener(PRIOR)
        .pool(&[first, second, third], "balance = \"hash\"\nhash_on = \"path\"")
        .start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        for _ in 0..4 {
            let mut io = session.tunnel().await;
            assert_echo(&mut io, b"x").await;
            io.shutdown().await.unwrap();
            assert_ended(&mut io).await;
            // A hash with bounded load looks at what is in flight.
            proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
        }
    });
    let mut tunnels: Vec<_> = origins.iter().map(|it| it.count_of("/socket?a=b")).collect();
    tunnels.sort_unstable();
    assert_eq!(tunnels, [0, 0, 4]);
}

#[test]
fn a_tunnel_has_no_second_try_beside_the_first() {
    // A tunnel is opened when a GET that came after it has had its second try.
    let (opened, doubled) = (Gate::default(), Gate::default());
    let gets = Arc::new(AtomicUsize::new(0));
    let slow = {
        let opened = opened.clone();
        move |call: &mut Call| {
            if call.request.header("upgrade").is_some() {
                opened.pass();
            } else if call.request.target() == "/" {
                match gets.fetch_add(1, Relaxed) {
                    0 => doubled.pass(),
                    _ => doubled.open(),
                }
            }
            echo(call);
        }
    };
    let origins = [slow.clone(), slow].map(Origin::scripted);
    let [first, second] = &origins;
    let pool = "balance = \"round_robin\"\nretry = { hedge_after = \"10ms\" }";
    let proxy = Setup::empty().listener(PRIOR).pool(&[first, second], pool).start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let mut other = Session::open_plain(proxy.address()).await;
        let second_try = async {
            assert_eq!(other.get("/settings").await.body, "plain");
            assert_eq!(other.get("/").await.body, "plain");
            opened.open();
        };
        let (mut io, ()) = tokio::join!(session.tunnel(), second_try);
        assert_echo(&mut io, b"x").await;
    });
    assert_eq!(proxy.metric("headwater_retries_total{pool=\"app\",reason=\"hedge\"}"), 1.0);
    assert_eq!(origins.iter().map(|it| it.count_of("/socket?a=b")).sum::<usize>(), 1);
}
