//! Places for client connections: who holds them idle gives way to who comes.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::support::h2::{self, Session, Upload, full};
use crate::support::origin::Gate;
use crate::support::{HOST, Origin, Proxy, Setup, ok};

/// A client with an address of its own.
struct From(TcpStream);

impl From {
    fn connect(proxy: &Proxy, last: u8) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let own = SocketAddr::new(IpAddr::from([127, 0, 0, last]), 0);
        socket.bind(&own.into()).unwrap();
        socket.connect(&proxy.address().into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(socket.into())
    }

    fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).unwrap();
    }

    fn ask(&mut self, target: &str) {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    }

    /// Whether an answer comes, and no end of the connection.
    fn is_answered(&mut self) -> bool {
        let mut bytes = [0; 4096];
        matches!(self.0.read(&mut bytes), Ok(count) if bytes[..count].starts_with(b"HTTP/1.1 200"))
    }

    fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 4096]), Ok(1..))
    }
}

fn start(connections: u32, gate: &Gate) -> (Proxy, Origin) {
    let gate = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() == "/held" {
            gate.pass();
        }
        call.send(&ok("x"));
    });
    let setup = Setup::of(&[&origin])
        .process("workers = 2")
        .listener(&format!("limits.connections = {connections}\nprotocols = [\"h1\", \"h2\"]"))
        .route("cache = false");
    (setup.start(), origin)
}

#[test]
fn idle_connections_of_the_greediest_client_give_way_to_who_comes() {
    let (proxy, _origin) = start(30, &Gate::default());
    let mut modest = From::connect(&proxy, 2);
    modest.ask("/");
    assert!(modest.is_answered());
    let mut greedy: Vec<_> = (0..29).map(|_| From::connect(&proxy, 1)).collect();
    for (number, client) in greedy.iter_mut().enumerate() {
        match number % 4 {
            // At rest, in the middle of a head of either version, and silent.
            0 => {
                client.ask("/");
                assert!(client.is_answered());
            }
            1 => client.send("GET / HTTP/1.1\r\nHo"),
            2 => client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            _ => {}
        }
    }
    proxy.wait_for_metric("headwater_connections{listener=\"web\"}", 30.0);
    let mut others: Vec<_> = (0..10)
        .map(|_| {
            let mut client = From::connect(&proxy, 3);
            client.ask("/");
            assert!(client.is_answered(), "there was no place for it");
            client
        })
        .collect();
    modest.ask("/again");
    assert!(modest.is_answered(), "it had to go though others had more");
    for client in &mut others {
        client.ask("/again");
        assert!(client.is_answered());
    }
    proxy.wait_for_metric("headwater_connections{listener=\"web\"}", 30.0);
}

#[test]
fn who_is_at_work_keeps_its_place() {
    let gate = Gate::default();
    let (proxy, origin) = start(3, &gate);
    let mut at_work = From::connect(&proxy, 1);
    at_work.ask("/held");
    origin.requests(1);
    let mut idle: Vec<_> = (0..2).map(|_| From::connect(&proxy, 1)).collect();
    for _ in 0..4 {
        let mut client = From::connect(&proxy, 1);
        client.ask("/");
        assert!(client.is_answered());
        idle.push(client);
    }
    assert!(idle[0].is_closed() && idle[1].is_closed());
    gate.open();
    assert!(at_work.is_answered());
}

#[test]
fn an_idle_connection_of_http2_that_gives_way_is_told() {
    let (proxy, _origin) = start(1, &Gate::default());
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        assert_eq!(session.get("/").await.body, "x");
        let newcomer = tokio::task::spawn_blocking(move || {
            let mut client = From::connect(&proxy, 2);
            client.ask("/");
            (client.is_answered(), proxy)
        });
        assert!(newcomer.await.unwrap().0);
        // No error: it was a GOAWAY.
        session.driver.await.unwrap().unwrap();
    });
}

#[test]
fn uploads_that_nobody_reads_leave_room_for_others_on_their_connection() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() == "/stalled" {
            return waits.pass();
        }
        call.body();
        call.send(&ok("taken"));
    });
    let setup = Setup::of(&[&origin])
        .listener("protocols = [\"h2\"]\ntimeouts = { body = \"60s\" }")
        .route("cache = false\nbody_max = \"1GiB\"");
    let proxy = setup.start();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        let piece = Bytes::from(vec![0; 64 << 10]);
        let mut stalled = Vec::new();
        for _ in 0..6 {
            let (frames, upload) = Upload::channel();
            session.sender.ready().await.unwrap();
            let answer = session.sender.send_request(h2::request("PUT", "/stalled", upload));
            let answer = tokio::runtime::Handle::current().spawn(answer);
            let wait = Duration::from_millis(300);
            while let Ok(Ok(())) =
                tokio::time::timeout(wait, frames.send(Frame::data(piece.clone()))).await
            {
            }
            stalled.push((frames, answer));
        }
        for _ in 0..3 {
            let (frames, upload) = Upload::channel();
            let sending = async {
                for _ in 0..8 {
                    frames.send(Frame::data(piece.clone())).await.unwrap();
                }
                drop(frames);
            };
            let answering = async {
                let answer = session.send(h2::request("PUT", "/fine", upload)).await.unwrap();
                full(answer).await.unwrap()
            };
            let ((), answer) = tokio::join!(sending, answering);
            assert_eq!(answer.body, "taken");
        }
        gate.open();
    });
}
