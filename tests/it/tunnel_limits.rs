//! How many tunnels there may be, and that requests have their places whatever tunnels do.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use crate::support::h2::{self, Session, full};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Gate;
use crate::support::{Client, Origin, Proxy, Setup, ok};
use crate::tunnels_h2::{ask_h1, echo, echo_h2};

const PRIOR: &str = "protocols = [\"h1\", \"h2\"]";

fn setup(endpoints: &[&dyn std::fmt::Display], lines: &str) -> Setup {
    Setup::of(endpoints).listener(PRIOR).pool_lines(lines).route("cache = false")
}

fn open_h1(proxy: &Proxy) -> Result<Client, u16> {
    let mut client = ask_h1(proxy);
    let head = client.answer_head();
    match head.start_line() {
        "HTTP/1.1 101 Switching Protocols" => Ok(client),
        other => Err(other.split(' ').nth(1).unwrap().parse().unwrap()),
    }
}

/// A connection and the tunnel through it.
async fn open_h2(proxy: &Proxy) -> Result<(Session, TokioIo<Upgraded>), u16> {
    let mut session = Session::open_plain(proxy.address()).await;
    let response = session.ask_for_tunnel("websocket").await;
    match response.status().as_u16() {
        200 => Ok((session, TokioIo::new(hyper::upgrade::on(response).await.unwrap()))),
        other => {
            full(response).await.unwrap();
            Err(other)
        }
    }
}

fn tunnels(proxy: &Proxy) -> f64 {
    proxy.metric("headwater_tunnels{pool=\"app\"}")
}

fn rejected(proxy: &Proxy) -> f64 {
    proxy.metric("headwater_tunnels_rejected_total{pool=\"app\",reason=\"limit\"}")
}

/// With a limit of four: the fifth is refused, others are served, and who ends makes room.
fn assert_bounded(proxy: &Proxy) {
    let mut open: Vec<_> = (0..4).map(|_| open_h1(proxy).expect("a place")).collect();
    assert_eq!(open_h1(proxy).err(), Some(503));
    assert_eq!((tunnels(proxy), rejected(proxy)), (4.0, 1.0));
    let logged = proxy.access("\"error\":\"tunnel_limit\"");
    assert_eq!((logged["status"].as_u64(), logged["method"].as_str()), (Some(503), Some("GET")));
    for _ in 0..3 {
        assert_eq!(proxy.get("/other", &[]).text(), "plain");
    }
    open.pop();
    proxy.wait_for_metric("headwater_tunnels{pool=\"app\"}", 3.0);
    h2::run(async {
        let other = open_h2(proxy).await.expect("the place of the one that has ended");
        assert_eq!(tunnels(proxy), 4.0);
        assert_eq!(open_h2(proxy).await.err(), Some(503));
        drop(other);
    });
    drop(open);
    proxy.wait_for_metric("headwater_tunnels{pool=\"app\"}", 0.0);
    assert_eq!(rejected(proxy), 2.0);
}

#[test]
fn tunnels_to_an_endpoint_are_bounded_and_requests_have_the_other_places() {
    let origin = Origin::scripted(echo);
    let proxy = setup(&[&origin], "limits = { connections = 8, queue = 0 }").start();
    assert_bounded(&proxy);
}

#[test]
fn over_http_2_tunnels_are_bounded_as_streams() {
    let origin = H2Origin::tunnelling(echo_h2);
    let lines = "protocol = \"h2\"\nlimits = { requests = 8, queue = 0 }";
    let proxy = setup(&[&origin], lines).start();
    assert_bounded(&proxy);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn tunnels_take_half_of_the_streams_of_a_connection() {
    let origin = H2Origin::tunnelling_at_most(4, echo_h2);
    let lines = "protocol = \"h2\"\nlimits = { connections = 2, queue_timeout = \"100ms\" }";
    let proxy = setup(&[&origin], lines).start();
    let open: Vec<_> = (0..4).map(|_| open_h1(&proxy).expect("a stream")).collect();
    assert_eq!(origin.connections(), 2);
    // There is no third connection for it.
    assert_eq!(open_h1(&proxy).err(), Some(503));
    assert_eq!(proxy.get("/other", &[]).text(), "plain");
    drop(open);
}

#[test]
fn a_tunnel_goes_to_the_endpoint_that_has_a_place_for_it() {
    let (one, two) = (Origin::scripted(echo), Origin::scripted(echo));
    let lines = "balance = \"round_robin\"\nlimits.tunnels = 3\nretry = false";
    let proxy = setup(&[&one, &two], lines).start();
    let open: Vec<_> = (0..6).map(|_| open_h1(&proxy).expect("a place")).collect();
    assert_eq!(open_h1(&proxy).err(), Some(503));
    for origin in [&one, &two] {
        assert_eq!(proxy.endpoint(origin)["tunnels"], 3);
    }
    drop(open);
}

#[test]
fn a_request_for_a_tunnel_that_the_endpoint_declines_takes_no_place_of_one() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            call.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\n");
            gate.pass();
            call.send(b"body");
        })
    };
    let proxy = setup(&[&origin], "limits.tunnels = 1").start();
    let mut declined: Vec<_> = (0..3).map(|_| ask_h1(&proxy)).collect();
    for client in &mut declined {
        // One after the other: each has its place until the endpoint has answered.
        let head = client.answer_head();
        assert!(head.start_line().contains("403") || head.start_line().contains("503"));
    }
    proxy.wait_for_metric("headwater_tunnels{pool=\"app\"}", 0.0);
    assert!(ask_h1(&proxy).answer_head().start_line().contains("403"));
    gate.open();
}

#[test]
fn no_tunnel_waits_in_the_queue_and_none_is_made_where_the_limit_is_zero() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            if call.body() {
                call.send(&ok("plain"));
            }
        })
    };
    let lines = "limits = { connections = 1, tunnels = 0, queue_timeout = \"10s\" }";
    let proxy = setup(&[&origin], lines).start();
    let mut first = proxy.connect();
    first.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", crate::support::HOST));
    origin.request(0);
    // It would have to wait behind the first.
    assert_eq!(open_h1(&proxy).err(), Some(503));
    gate.open();
    assert_eq!(first.answer().text(), "plain");
}

#[test]
fn a_limit_that_leaves_nothing_to_requests_is_warned_of() {
    let origin = Origin::answering(|_| ok("plain"));
    let proxy = setup(&[&origin], "limits = { connections = 4, tunnels = 4 }").start();
    let line = proxy.wait_for_log("pool.app.limits.tunnels");
    assert!(line.contains("silent tunnels can take all 4 places of an endpoint"), "{line}");
}

/// Many more than there are places leave everybody else alone.
#[test]
fn a_flood_of_silent_tunnels_costs_no_request() {
    let origin = Origin::scripted(echo);
    let lines = "limits = { connections = 64, queue = 0 }\ntimeouts.tunnel = \"1h\"";
    let proxy = setup(&[&origin], lines).start();
    let opened: Vec<_> = (0..100).map(|_| open_h1(&proxy)).collect();
    assert_eq!(opened.iter().filter(|it| it.is_ok()).count(), 32);
    let mut clients: Vec<_> = (0..32).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(format!("GET /other HTTP/1.1\r\nHost: {}\r\n\r\n", crate::support::HOST));
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(rejected(&proxy), 68.0);
}
