//! Stopping: nothing that was accepted is lost, and nothing lasts for ever.

use rustix::process::Signal;

use crate::support::origin::Gate;
use crate::support::{Authority, Client, Folder, HOST, Origin, Proxy, Setup, eventually, h2, ok};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

/// An origin that answers once its gate is open, and a proxy in front.
fn gated(process: &str) -> (Gate, Origin, Proxy) {
    gated_on("", process)
}

fn gated_on(listener: &str, process: &str) -> (Gate, Origin, Proxy) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() == "/held" {
            waits.pass();
        }
        call.send(&ok("finished"));
    });
    let proxy = Setup::of(&[&origin]).listener(listener).process(process).start();
    (gate, origin, proxy)
}

/// A request that is under way.
fn hold(origin: &Origin, proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send(format!("GET /held HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    client
}

#[test]
fn an_idle_process_ends_at_once() {
    for signal in [Signal::Term, Signal::Int] {
        let mut proxy = Setup::empty().text(HELLO).start();
        proxy.signal(signal);
        assert_eq!(proxy.exit_code(), 0);
        proxy.wait_for_log("stopped");
    }
}

#[test]
fn requests_under_way_are_finished() {
    let (gate, origin, mut proxy) = gated("workers = 2");
    let mut held = hold(&origin, &proxy);
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    assert!(proxy.is_running());
    gate.open();
    let answer = held.answer();
    assert_eq!(answer.text(), "finished");
    assert!(answer.closes());
    held.assert_closed();
    assert_eq!(proxy.exit_code(), 0);
    assert_eq!(proxy.access("/held")["status"], 200, "its line was still written");
}

#[test]
fn an_idle_connection_gets_one_more_request_answered() {
    let mut proxy = Setup::empty().text(HELLO).start();
    let mut client = proxy.connect();
    assert!(!client.get("/", &[]).closes());
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    let last = client.get("/", &[]);
    assert_eq!(last.text(), "hello");
    assert!(last.closes());
    client.assert_closed();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_connection_that_has_asked_nothing_yet_gets_an_answer_too() {
    let mut proxy = Setup::empty().text(HELLO).start();
    let mut client = proxy.connect();
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let answer = client.answer();
    assert_eq!(answer.text(), "hello");
    assert!(answer.closes());
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn every_connection_that_the_kernel_took_is_served() {
    let mut proxy = Setup::empty().process("workers = 2").text(HELLO).start();
    let clients = (0..100).map(|_| {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        client
    });
    let clients: Vec<_> = clients.collect();
    proxy.terminate();
    for mut client in clients {
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn readiness_is_off_before_the_listeners_are() {
    let mut proxy = Setup::empty().process("shutdown_delay = \"1h\"").text(HELLO).start();
    assert_eq!(proxy.api_get("/readyz").status, 200);
    proxy.terminate();
    eventually("unreadiness", || (proxy.api_get("/readyz").status == 503).then_some(()));
    assert_eq!(proxy.api_get("/livez").status, 200);
    assert_eq!(proxy.api_get("/api/status").json()["state"], "leaving");
    let answer = proxy.get("/", &[]);
    assert_eq!(answer.text(), "hello");
    // The second signal cuts the delay short.
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn the_deadline_cuts_what_is_still_open() {
    let (_gate, origin, mut proxy) = gated("drain_timeout = \"200ms\"");
    let mut held = hold(&origin, &proxy);
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 3);
    assert!(held.rest().is_empty());
    proxy.wait_for_log("cutting off");
    assert_eq!(proxy.access("/held")["status"], 499);
}

#[test]
fn a_second_signal_stops_at_once() {
    let (_gate, origin, mut proxy) = gated("drain_timeout = \"1h\"");
    let _held = hold(&origin, &proxy);
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 3);
}

#[test]
fn the_api_drains_like_a_signal() {
    let (gate, origin, mut proxy) = gated("");
    let mut held = hold(&origin, &proxy);
    assert_eq!(proxy.api_post("/api/drain", "").status, 202);
    proxy.wait_for_refusal(proxy.address());
    eventually("unreadiness", || (proxy.api_get("/readyz").status == 503).then_some(()));
    assert_eq!(proxy.api_post("/api/drain", "").status, 202, "asking again cuts nothing short");
    assert_eq!(proxy.api_post("/api/reload", "").status, 503);
    gate.open();
    assert_eq!(held.answer().text(), "finished");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_body_that_still_comes_is_taken() {
    let origin = Origin::answering(|request| ok(&request.body));
    // The endpoint shows when the request has come.
    let mut proxy = Setup::of(&[&origin]).route("buffer = false").start();
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n01234"));
    origin.requests(1);
    proxy.terminate();
    proxy.wait_for_refusal(proxy.address());
    client.send("56789");
    assert_eq!(client.answer().text(), "0123456789");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_socket_file_is_taken_over_by_the_next_process() {
    let setup = Setup::empty().listener("bind = [\"127.0.0.1:0\", \"unix:web.sock\"]").text(HELLO);
    let mut first = setup.start();
    first.terminate();
    assert_eq!(first.exit_code(), 0);
    let again = Proxy::start(std::mem::take(&mut first.folder));
    let address = format!("unix:{}", again.folder.join("web.sock").display());
    let outer = Setup::of(&[&address]).start();
    assert_eq!(outer.get("/", &[]).text(), "hello");
}

/// The preface of an HTTP/2 client, whose table of header fields has no size, and one request.
fn h2_request(settings: &[u8]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, settings.len() as u8, 4, 0, 0, 0, 0, 0]);
    bytes.extend(settings);
    let mut block = vec![0x82, 0x86, 0x84, 0x01, HOST.len() as u8];
    block.extend(HOST.bytes());
    bytes.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

/// Frames up to the first of `kind`; that one's payload.
fn frame_of(client: &mut Client, kind: u8) -> Vec<u8> {
    loop {
        let head = client.read_exactly(9);
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = client.read_exactly(length);
        if head[3] == kind {
            return payload;
        }
    }
}

fn h2_proxy() -> Proxy {
    let listener = "protocols = [\"h2\"]";
    let process = "drain_timeout = \"1h\"";
    Setup::empty().process(process).listener(listener).text(HELLO).start()
}

const DATA: u8 = 0;
const GOAWAY: u8 = 7;

#[test]
fn a_client_of_h2_that_answers_no_goodbye_does_not_hold_the_stop() {
    let mut proxy = h2_proxy();
    let mut client = proxy.connect();
    client.send(h2_request(&[]));
    assert_eq!(frame_of(&mut client, DATA), b"hello");
    proxy.terminate();
    let (first, second) = (frame_of(&mut client, GOAWAY), frame_of(&mut client, GOAWAY));
    assert_eq!(first[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    // It may send again elsewhere what came after its one request.
    assert_eq!(second[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
    client.assert_closed();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_client_of_h2_that_only_sends_pings_does_not_hold_the_stop() {
    let mut proxy = h2_proxy();
    let mut client = proxy.connect();
    client.send(h2_request(&[]));
    assert_eq!(frame_of(&mut client, DATA), b"hello");
    proxy.terminate();
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    eventually("the connection to end", || client.try_send(ping).err());
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_client_of_h2_that_makes_no_room_for_the_rest_of_its_answer_does_not_hold_the_stop() {
    let mut proxy = h2_proxy();
    let mut client = proxy.connect();
    // SETTINGS_INITIAL_WINDOW_SIZE is 1.
    client.send(h2_request(&[0, 4, 0, 0, 0, 1]));
    assert_eq!(frame_of(&mut client, DATA), b"h");
    proxy.wait_for_access("\"status\":200");
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_request_of_h2_that_is_under_way_is_finished() {
    let (gate, origin, proxy) = gated_on("protocols = [\"h2\"]", "drain_timeout = \"1h\"");
    let (mut proxy, _origin) = h2::run(async {
        let mut session = h2::Session::open_plain(proxy.address()).await;
        assert_eq!(session.get("/first").await.head.status(), 200);
        let held = session.send(h2::get("/held"));
        let waits = async {
            tokio::task::spawn_blocking(move || {
                origin.requests(2);
                proxy.terminate();
                proxy.wait_for_refusal(proxy.address());
                gate.open();
                (proxy, origin)
            })
            .await
            .unwrap()
        };
        let (answer, stopped) = tokio::join!(held, waits);
        let answer = h2::full(answer.unwrap()).await.unwrap();
        assert_eq!(&answer.body[..], b"finished");
        session.driver.await.unwrap().unwrap();
        stopped
    });
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn clients_that_say_nothing_or_half_do_not_hold_the_stop() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let patient = "protocols = [\"h2\", \"h1\"]\ntimeouts = { header = \"1h\", handshake = \"1h\", idle = \"1h\" }";
    let mut proxy = Setup::empty()
        .process("drain_timeout = \"1h\"")
        .listener(patient)
        .text(&format!(
            "[listener.secure]\nbind = \"127.0.0.1:0\"\n{patient}\n\
             tls.certificates = [{{ cert = \"site.crt\", key = \"site.key\" }}]\n\
             [listener.told]\nbind = \"127.0.0.1:0\"\n{patient}\nproxy_protocol = true\n\
             trusted = [\"127.0.0.1\"]\n{HELLO}"
        ))
        .start_in(folder);
    let mut clients = Vec::new();
    for (listener, said) in [
        ("web", ""),
        ("web", "PRI * HTTP"),
        ("web", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("web", "GET / HTTP/1.1\r\nHo"),
        ("secure", ""),
        ("secure", "\x16\x03\x01"),
        ("told", ""),
        ("told", "PROXY TCP4"),
    ] {
        let mut client = Client::connect(proxy.address_of(listener));
        client.send(said);
        clients.push(client);
    }
    let accepted = "headwater_connections_accepted_total{listener=\"web\"}";
    proxy.wait_for_metric(accepted, 4.0);
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_full_listener_closes_as_soon_as_any_other() {
    let (gate, origin, mut proxy) = gated_on("limits.connections = 1", "drain_timeout = \"1h\"");
    let mut first = hold(&origin, &proxy);
    let mut second = proxy.connect();
    let rejected = "headwater_connections_rejected_total{listener=\"web\",reason=\"limit\"}";
    proxy.wait_for_metric(rejected, 1.0);
    proxy.terminate();
    assert!(second.rest().is_empty(), "there is no place for it, and it is told");
    gate.open();
    assert_eq!(first.answer().text(), "finished", "the first goes on until it has ended");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_process_that_is_stopped_leaves_its_port_to_the_next_while_it_finishes() {
    let (gate, origin, mut proxy) = gated("drain_timeout = \"1h\"");
    let mut held = hold(&origin, &proxy);
    let address = proxy.address();
    proxy.terminate();
    // It waits for the port as long as a process needs to let go of it.
    let next = Setup::empty().listener(&format!("bind = \"{address}\"")).text(HELLO).start();
    assert_eq!(next.get("/", &[]).text(), "hello");
    assert!(proxy.is_running());
    gate.open();
    assert_eq!(held.answer().text(), "finished");
    assert_eq!(proxy.exit_code(), 0);
}
