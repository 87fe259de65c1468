//! What one client gives up on a connection to an endpoint that all share, and what its end costs
//! the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::support::h2_origin::{Call, H2Origin, Then};
use crate::support::{Client, HOST, Proxy, Setup, eventually};

/// More resets than a connection may send in the time of a test.
const RESETS_MAX: usize = 100;

/// What an origin has seen, and what it waits for.
#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
}

impl Seen {
    fn wait_for(&self, count: usize) {
        eventually("calls", || (self.calls.load(Ordering::SeqCst) >= count).then_some(()));
    }
}

/// Answers `/held` when told to, and `/endless` never; both count their resets.
fn origin(resets_max: usize) -> (H2Origin, Arc<Seen>, Arc<Semaphore>) {
    let (seen, gate) = (Arc::new(Seen::default()), Arc::new(Semaphore::new(0)));
    let (seeing, waiting) = (seen.clone(), gate.clone());
    let origin = H2Origin::calm(resets_max, move |mut call: Call| {
        seeing.calls.fetch_add(1, Ordering::SeqCst);
        let gate = waiting.clone();
        match call.path().as_str() {
            "/endless" => {
                Handle::current().spawn(async move { call.reset().await });
            }
            "/begun" => {
                Handle::current().spawn(async move {
                    let mut stream = call.respond.send_response(Response::new(()), false).unwrap();
                    let _ = stream.send_data(Bytes::from_static(b"part"), false);
                    let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                });
            }
            "/held" => {
                Handle::current().spawn(async move {
                    tokio::select! {
                        permit = gate.acquire() => permit.unwrap().forget(),
                        () = call.reset() => return,
                    }
                    call.answer("held");
                });
            }
            _ => drop(call.answer("plain")),
        }
        Then::Continue
    });
    (origin, seen, gate)
}

fn start(origin: &dyn std::fmt::Display, pool: &str) -> Proxy {
    Setup::of(&[origin])
        .listener("trusted = [\"127.0.0.1/32\"]")
        .pool_lines(&format!("protocol = \"h2\"\n{pool}"))
        .route("cache = false")
        .start()
}

fn ask(proxy: &Proxy, path: &str, client: &str) -> Client {
    let mut asking = proxy.connect();
    asking
        .send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\n\r\n"));
    asking
}

/// Asks and leaves, once the origin has the request.
fn give_up(proxy: &Proxy, seen: &Seen, path: &str, count: usize, client: &str) {
    let before = seen.calls.load(Ordering::SeqCst);
    for number in 1..=count {
        let asking = ask(proxy, path, client);
        seen.wait_for(before + number);
        drop(asking);
    }
    let series = "headwater_http_requests_in_flight{listener=\"web\"}";
    let neighbours = before as f64;
    eventually("those that left", || (proxy.metric(series) <= neighbours).then_some(()));
}

#[test]
fn what_one_client_gives_up_is_reset_in_measure_and_costs_the_others_nothing() {
    let (origin, seen, gate) = origin(RESETS_MAX);
    let proxy = start(&origin, "retry = false");
    let neighbours: Vec<_> = (0..20).map(|_| ask(&proxy, "/held", "192.0.2.1")).collect();
    seen.wait_for(20);
    let began = Instant::now();
    give_up(&proxy, &seen, "/endless", 200, "192.0.2.2");
    let allowed = 10.0 + 5.0 * (began.elapsed().as_secs_f64() + 1.0);
    assert!(origin.resets() >= 10, "{}", origin.resets());
    assert!(origin.resets() as f64 <= allowed * origin.connections() as f64);
    // Another connection has taken over where half of one was taken.
    assert!((2..=8).contains(&origin.connections()), "{}", origin.connections());
    assert_eq!(proxy.get("/other", &[]).text(), "plain");
    gate.add_permits(20);
    for mut neighbour in neighbours {
        assert_eq!(neighbour.answer().text(), "held");
    }
    assert_eq!(origin.goaways(), 0);
    assert_eq!(proxy.get("/other", &[]).text(), "plain");
}

#[test]
fn what_ends_by_itself_is_not_reset() {
    let (origin, seen, gate) = origin(usize::MAX);
    let proxy = start(&origin, "");
    let began = Instant::now();
    for _ in 0..20 {
        give_up(&proxy, &seen, "/held", 20, "192.0.2.2");
        gate.add_permits(20);
    }
    // No more than its measure, of 400.
    let allowed = 10.0 + 5.0 * (began.elapsed().as_secs_f64() + 1.0);
    assert!(origin.resets() as f64 <= allowed, "{} in {:?}", origin.resets(), began.elapsed());
    assert_eq!(origin.connections(), 1);
    assert_eq!(proxy.get("/other", &[]).text(), "plain");
}

#[test]
fn what_was_given_up_is_reset_when_its_time_has_come() {
    let (origin, seen, _) = origin(usize::MAX);
    let proxy = start(&origin, "");
    give_up(&proxy, &seen, "/endless", 14, "192.0.2.2");
    eventually("the last resets", || (origin.resets() == 14).then_some(()));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn where_no_connection_may_take_over_requests_still_have_places() {
    let (origin, seen, _) = origin(usize::MAX);
    let proxy = start(&origin, "limits.connections = 1");
    give_up(&proxy, &seen, "/endless", 150, "192.0.2.2");
    assert_eq!(proxy.get("/other", &[]).text(), "plain");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_client_with_many_that_have_not_ended_gets_no_further_request() {
    let (origin, seen, _) = origin(usize::MAX);
    let proxy = start(&origin, "");
    let (mut given_up, mut held) = (0, Vec::new());
    let refused = loop {
        // A connection ends, with all that was given up on it, when nobody else is on it.
        if given_up % 10 == 0 {
            held.push(ask(&proxy, "/endless", "192.0.2.9"));
            let wanted = given_up + held.len();
            let calls = || seen.calls.load(Ordering::SeqCst);
            eventually("the call of a neighbour", || (calls() >= wanted).then_some(()));
        }
        let mut asking = ask(&proxy, "/endless", "192.0.2.2");
        let answered = eventually("a call, or a refusal", || {
            if seen.calls.load(Ordering::SeqCst) > given_up + held.len() {
                return Some(false);
            }
            let log = std::fs::read_to_string(proxy.folder.join("access.log")).unwrap_or_default();
            log.contains("too_many_abandoned").then_some(true)
        });
        if answered {
            break asking.answer();
        }
        given_up += 1;
        assert!(given_up < 2000);
    };
    assert_eq!(refused.status, 429);
    assert!(given_up >= 256, "{given_up}");
    let logged = proxy.access("too_many_abandoned");
    assert_eq!(logged["client_ip"], "192.0.2.2");
    let mut other = ask(&proxy, "/other", "192.0.2.3");
    assert_eq!(other.answer().text(), "plain");
}

#[test]
fn an_answer_that_has_begun_is_given_up_like_one_that_has_not() {
    let (origin, seen, _) = origin(usize::MAX);
    let proxy = start(&origin, "");
    for number in 1..=30 {
        let mut asking = ask(&proxy, "/begun", "192.0.2.2");
        seen.wait_for(number);
        asking.answer_head();
    }
    assert_eq!(proxy.get("/other", &[]).text(), "plain");
    assert_eq!(origin.connections(), 1);
}

// An endpoint of bare frames.

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [head.as_slice(), &stream.to_be_bytes(), payload].concat()
}

/// The kind, the flags and the stream of the next frame.
fn next_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    stream.read_exact(&mut vec![0; length as usize]).ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// Ends its first connection by a GOAWAY that names the first of so many requests as the last that it
/// has begun with; answers all that come on others.
fn dismissing(after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                stream.read_exact(&mut [0; 24]).ok()?;
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
                let mut requests = Vec::new();
                loop {
                    let (kind, flags, id) = next_frame(&mut stream)?;
                    match kind {
                        SETTINGS if flags & ACK == 0 => {
                            stream.write_all(&frame(SETTINGS, ACK, 0, &[])).ok()?;
                        }
                        HEADERS if number > 0 => {
                            // :status 200, of the static table.
                            let answer = frame(HEADERS, END_STREAM | END_HEADERS, id, &[0x88]);
                            stream.write_all(&answer).ok()?;
                        }
                        HEADERS => requests.push(id),
                        _ => {}
                    }
                    if requests.len() == after {
                        let (last, why) = (requests[0].to_be_bytes(), ENHANCE_YOUR_CALM);
                        let said = [last, why.to_be_bytes()].concat();
                        stream.write_all(&frame(GOAWAY, 0, 0, &said)).ok()?;
                        return Some(());
                    }
                }
            });
        }
    });
    address
}

/// The statuses of so many requests that meet the GOAWAY, that of the first one first.
fn dismissed(method: &str, count: usize, pool: &str) -> (Vec<u16>, Proxy) {
    let proxy = start(&dismissing(count), pool);
    let mut asking = Vec::new();
    for number in 0..count {
        let mut client = proxy.connect();
        client.send(format!(
            "{method} /{number} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx"
        ));
        asking.push(client);
        // One after the other, so that the first is the first.
        let series = "headwater_http_requests_in_flight{listener=\"web\"}";
        if number + 1 < count {
            proxy.wait_for_metric(series, (number + 1) as f64);
        }
    }
    let statuses = asking.iter_mut().map(|client| client.answer().status).collect();
    (statuses, proxy)
}

#[test]
fn a_goaway_costs_no_request_that_can_be_sent_again_and_no_try() {
    let (statuses, proxy) = dismissed("PUT", 5, "retry = false");
    assert_eq!(statuses, [200; 5]);
    for number in 0..5 {
        assert_eq!(proxy.access(&format!("\"/{number}\""))["attempts"], 1);
    }
    let (statuses, proxy) = dismissed("PUT", 5, "retry.budget = \"0%\"");
    assert_eq!(statuses, [200; 5]);
    assert_eq!(proxy.metric("headwater_retries_total{pool=\"app\",reason=\"reset\"}"), 0.0);
    assert_eq!(proxy.pool()["endpoints"][0]["state"], "usable");
}

#[test]
fn a_request_that_may_have_been_begun_with_is_sent_again_only_if_it_may_be() {
    let (statuses, proxy) = dismissed("POST", 5, "");
    assert_eq!(statuses, [502, 200, 200, 200, 200]);
    assert_eq!(proxy.access("\"/0\"")["error"], "reset");
    assert_eq!(proxy.access("\"/4\"")["attempts"], 1);
}
