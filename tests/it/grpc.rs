//! What gRPC needs beside HTTP/2: statuses in trailers for those who read them, long silence, and
//! its health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::runtime::Handle;

use crate::support::h2::{self, Session, Upload, full};
use crate::support::h2_origin::{Call, H2Origin, Then};
use crate::support::{Origin, Proxy, Setup, eventually};

const PRIOR: &str = "protocols = [\"h1\", \"h2\"]";
const TYPE: &str = "application/grpc";

fn start(origin: &dyn std::fmt::Display, pool: &str) -> Proxy {
    let listener = format!("{PRIOR}\ntimeouts.body = \"200ms\"");
    Setup::empty().listener(&listener).process("workers = 1").pool(&[origin], pool).start()
}

fn typed(method: &str, path: &str, upload: Upload) -> Request<Upload> {
    let mut request = h2::request(method, path, upload);
    request.headers_mut().insert("content-type", TYPE.parse().unwrap());
    request
}

/// Answers a check of the gRPC health protocol.
fn serving(mut call: Call, status: u8) -> Then {
    let head = Response::builder().header("content-type", TYPE).body(()).unwrap();
    let mut stream = call.respond.send_response(head, false).unwrap();
    stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    Then::Continue
}

#[test]
fn only_calls_are_told_of_errors_in_trailers_and_no_cache_keeps_them() {
    let origin = H2Origin::scripted(100, |_| Then::Break);
    let proxy = start(&origin, "protocol = \"h2\"\nretry = false");
    let h1 = proxy.connect().ask("POST", "/", &["Content-Type: application/grpc"], "x");
    assert_eq!((h1.status, h1.header("grpc-status")), (502, None));
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let get = session.send(typed("GET", "/", Upload::empty())).await.unwrap();
        assert_eq!(get.status(), 502);
        let call = session.send(typed("POST", "/", Upload::empty())).await.unwrap();
        assert_eq!(call.status(), 200);
        assert_eq!(call.headers()["grpc-status"], "14");
        assert_eq!(call.headers()["cache-control"], "no-store");
    });
}

#[test]
fn an_ordinary_answer_to_a_call_breaks_off_as_any_other() {
    let origin = H2Origin::scripted(100, |mut call| {
        let head = Response::builder().header("content-type", "text/plain").body(()).unwrap();
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"part"), false).unwrap();
        Handle::current().spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            stream.send_reset(::h2::Reason::INTERNAL_ERROR);
        });
        Then::Continue
    });
    let proxy = start(&origin, "protocol = \"h2\"");
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let answer = session.send(typed("POST", "/", Upload::empty())).await.unwrap();
        assert!(full(answer).await.is_err());
    });
}

#[test]
fn a_body_that_says_it_is_a_call_is_no_slower_to_an_endpoint_of_http_1() {
    let origin = Origin::scripted(|call| call.wait_for_end());
    let proxy = start(&origin, "");
    let mut client = proxy.connect();
    let head = "POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 9\r\n";
    client.send(format!("{head}Content-Type: application/grpc\r\n\r\na"));
    assert_eq!(client.answer().status, 408);
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let (_sender, upload) = Upload::channel();
        let answer = session.send(typed("POST", "/", upload)).await.unwrap();
        // To its client it is one.
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["grpc-status"]),
            (200, &"2".parse().unwrap())
        );
    });
}

#[test]
fn an_endpoint_that_refuses_all_is_503_within_the_budget() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let origin = H2Origin::scripted(100, move |call| {
        count.fetch_add(1, Ordering::SeqCst);
        call.refuse()
    });
    let proxy = start(&origin, "protocol = \"h2\"\noutlier = false\nretry = { attempts = 10 }");
    for _ in 0..40 {
        let answer = proxy.get("/", &[]);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    }
    // Ten a second may be, and the window of the budget has ten.
    let tries = calls.load(Ordering::SeqCst);
    assert!((41..=40 + 100).contains(&tries), "{tries}");
    let refused = "headwater_retries_total{pool=\"app\",reason=\"refused\"}";
    assert_eq!(proxy.metric(refused) as usize, tries - 40);
}

#[test]
fn a_service_is_as_well_as_it_says_by_the_health_protocol() {
    let status = Arc::new(AtomicUsize::new(1));
    let said = status.clone();
    let origin = H2Origin::scripted(100, move |call| {
        if call.path() == "/grpc.health.v1.Health/Check" {
            return serving(call, said.load(Ordering::SeqCst) as u8);
        }
        call.answer("x")
    });
    let health = "health = { grpc = \"shop.Cart\", interval = \"50ms\" }";
    let proxy = start(&origin, &format!("protocol = \"h2\"\n{health}"));
    eventually("the first verdict", || {
        (proxy.endpoint(&origin)["health"] == "healthy").then_some(())
    });
    status.store(2, Ordering::SeqCst);
    proxy.wait_for_state(&origin, "unhealthy");
    let reason = proxy.endpoint(&origin)["reason"].to_string();
    assert!(reason.contains("not serving"), "{reason}");
}
