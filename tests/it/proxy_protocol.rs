//! The PROXY protocol: taken from trusted proxies only, and told to endpoints.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::support::h2::{self, Session};
use crate::support::{Authority, Client, Folder, HOST, Origin, Proxy, Setup, Tls, eventually, ok};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TRUSTED: &str = "trusted = [\"127.0.0.0/8\"]\nproxy_protocol = true";

/// A header of version 2 with this command, these addresses and fields.
fn v2(is_local: bool, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut rest = vec![192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 187];
    for (kind, value) in tlvs {
        rest.push(*kind);
        rest.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        rest.extend(*value);
    }
    let command = if is_local { 0x20 } else { 0x21 };
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, 0x11], &length, &rest].concat()
}

fn start(listener: &str) -> (Origin, Proxy) {
    let origin = Origin::answering(|_| ok("hello"));
    let proxy = Setup::of(&[&origin]).listener(listener).start();
    (origin, proxy)
}

fn ask(proxy: &Proxy, header: &[u8]) -> u16 {
    let mut client = Client::connect(proxy.address());
    client.send(header);
    client.get("/", &[]).status
}

fn rejected(reason: &str) -> String {
    format!("headwater_connections_rejected_total{{listener=\"web\",reason=\"{reason}\"}}")
}

#[test]
fn the_address_in_the_header_is_the_client() {
    let (origin, proxy) = start(TRUSTED);
    for (number, header) in [V1.to_vec(), v2(false, &[])].iter().enumerate() {
        assert_eq!(ask(&proxy, header), 200);
        let request = origin.request(number);
        assert_eq!(request.header("x-forwarded-for"), Some("192.0.2.7"));
        assert!(request.header("forwarded").unwrap().starts_with("for=192.0.2.7;"));
    }
    let line = proxy.access("192.0.2.7");
    assert_eq!((&line["client_ip"], &line["peer_ip"]), (&"192.0.2.7".into(), &"192.0.2.7".into()));
}

#[test]
fn a_connection_without_a_header_is_closed_and_counted() {
    let (origin, proxy) = start(TRUSTED);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PROXY TCP9 a b c d\r\n"] {
        let mut client = Client::connect(proxy.address());
        client.send(bytes);
        client.assert_closed();
    }
    proxy.wait_for_metric(&rejected("proxy_header"), 2.0);
    let mut client = Client::connect(proxy.address());
    client.send(&V1[..9]);
    client.finish();
    client.assert_closed();
    proxy.wait_for_metric(&rejected("proxy_header"), 3.0);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let (_origin, proxy) = start(&format!("{TRUSTED}\ntimeouts.header = \"150ms\""));
    let mut client = Client::connect(proxy.address());
    client.send(&V1[..20]);
    client.assert_closed();
    proxy.wait_for_metric(&rejected("proxy_header"), 1.0);
}

#[test]
fn a_proxy_that_is_not_trusted_is_closed_and_counted() {
    let (origin, proxy) = start("trusted = [\"10.0.0.0/8\"]\nproxy_protocol = true");
    let mut client = Client::connect(proxy.address());
    let _ = client.try_send(V1);
    client.assert_closed();
    proxy.wait_for_metric(&rejected("untrusted"), 1.0);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_check_of_the_proxy_itself_keeps_its_address_and_is_not_believed() {
    let (origin, proxy) = start(TRUSTED);
    for (number, header) in [b"PROXY UNKNOWN\r\n".to_vec(), v2(true, &[])].iter().enumerate() {
        let mut client = Client::connect(proxy.address());
        client.send(header);
        assert_eq!(client.get("/", &["X-Forwarded-For: 9.9.9.9"]).status, 200);
        assert_eq!(origin.request(number).header("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn the_header_comes_before_tls() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let origin = Origin::answering(|_| ok("hello"));
    let proxy = Setup::of(&[&origin])
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .listener(TRUSTED)
        .start_in(folder);
    let tls = Tls::new(&authority);
    let mut client = Client::try_tls_after(proxy.address(), V1, &tls).unwrap();
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(origin.request(0).header("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(origin.request(0).header("x-forwarded-proto"), Some("https"));
    assert!(Client::try_tls(proxy.address(), &tls).is_err());
}

#[test]
fn a_proxy_that_took_tls_off_says_so() {
    let (origin, proxy) = start(&format!("{TRUSTED}\nhsts = \"365d\"\nhttps_redirect = true"));
    let ssl = v2(false, &[(0x20, &[1, 0, 0, 0, 0])]);
    let mut client = Client::connect(proxy.address());
    client.send(ssl);
    let answer = client.get("/", &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    assert_eq!(origin.request(0).header("x-forwarded-proto"), Some("https"));

    let mut client = Client::connect(proxy.address());
    client.send(v2(false, &[]));
    let answer = client.get("/", &[]);
    assert_eq!((answer.status, answer.header("strict-transport-security")), (308, None));
}

#[test]
fn http2_with_prior_knowledge_is_told_apart_behind_a_header() {
    let (origin, proxy) = start(&format!("{TRUSTED}\nprotocols = [\"h2\", \"h1\"]"));
    // Byte by byte, the preface behind it included.
    let mut client = Client::connect(proxy.address());
    for byte in [V1, b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n"].concat() {
        client.send([byte]);
    }
    assert_eq!(client.answer().status, 200);
    h2::run(async {
        for header in [V1.to_vec(), v2(false, &[(1, b"h2")])] {
            let mut session = Session::open_plain_after(proxy.address(), &header).await;
            assert_eq!(session.get("/").await.head.status(), 200);
        }
    });
    assert_eq!(origin.request(2).header("x-forwarded-for"), Some("192.0.2.7"));
}

/// An endpoint that answers every connection once, and gives out what came on it.
fn raw_origin() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::sync_channel(8);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            while !bytes.windows(11).any(|it| it == b" HTTP/1.1\r\n")
                || !bytes.ends_with(b"\r\n\r\n")
            {
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => bytes.extend(&buffer[..count]),
                    _ => break,
                }
            }
            let _ = stream.write_all(&ok("hello"));
            if sender.send(bytes).is_err() {
                return;
            }
        }
    });
    (address, received)
}

#[test]
fn an_endpoint_is_told_who_each_connection_is_for() {
    let origin = Origin::answering(|_| ok("hello"));
    let proxy = Setup::of(&[&origin])
        .listener("trusted = [\"127.0.0.1\"]")
        .pool_lines("proxy_protocol = \"v1\"")
        .route("cache = false")
        .start();
    let mut client = Client::connect(proxy.address());
    let (here, there) = (client.local_address(), proxy.address());
    assert_eq!(client.get("/", &[]).status, 200);
    let line = format!("PROXY TCP4 {} {} {} {}", here.ip(), there.ip(), here.port(), there.port());
    assert_eq!(origin.request(0).start_line(), line);
    // One connection of ours may carry requests of several clients.
    assert_eq!(client.get("/", &["X-Forwarded-For: 9.9.9.9"]).status, 200);
    let line = format!("PROXY TCP4 9.9.9.9 {} 0 {}", there.ip(), there.port());
    assert_eq!(origin.request(1).start_line(), line);
    assert_eq!(client.get("/", &["X-Forwarded-For: 2001:db8::7"]).status, 200);
    let line = format!("PROXY TCP6 2001:db8::7 ::ffff:{} 0 {}", there.ip(), there.port());
    assert_eq!(origin.request(2).start_line(), line);
    assert_eq!(origin.connections(), 3, "none serves another client");
    origin.wait_for_closed(3);
}

#[test]
fn version_2_carries_the_protocol_and_the_name_that_were_asked_for() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let (address, received) = raw_origin();
    let proxy = Setup::of(&[&address])
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .pool_lines("proxy_protocol = \"v2\"")
        .route("cache = false")
        .text("[listener.plain]\nbind = \"127.0.0.1:0\"")
        .start_in(folder);
    let told = || {
        let bytes = received.recv_timeout(crate::support::PATIENCE).unwrap();
        let (header, length) =
            proxy_header::ProxyHeader::parse(&bytes, proxy_header::ParseConfig::default()).unwrap();
        assert!(bytes[length..].starts_with(b"GET / HTTP/1.1\r\n"));
        header.into_owned()
    };
    let mut client = Client::tls(proxy.address(), &Tls::new(&authority));
    assert_eq!(client.get("/", &[]).status, 200);
    let header = told();
    assert_eq!(header.proxied_address().unwrap().destination, proxy.address());
    assert_eq!((header.alpn(), header.authority()), (Some(&b"http/1.1"[..]), Some(HOST)));
    h2::run(async {
        let tls = Tls::with(&authority, &rustls::version::TLS13, &["h2"]);
        let mut session = Session::open(proxy.address(), &tls).await;
        assert_eq!(session.get("/").await.head.status(), 200);
    });
    assert_eq!(told().alpn(), Some(&b"h2"[..]));
    let mut client = Client::connect(proxy.address_of("plain"));
    assert_eq!(client.get("/", &[]).status, 200);
    let header = told();
    assert_eq!((header.alpn(), header.authority()), (None, Some(HOST)));
}

#[test]
fn two_proxies_in_a_row_pass_the_client_on() {
    let (origin, back) = start(TRUSTED);
    for version in ["v1", "v2"] {
        let front = Setup::of(&[&back.address()])
            .listener("trusted = [\"127.0.0.1\"]")
            .pool_lines(&format!("proxy_protocol = {version:?}"))
            .start();
        let answer = front.get(&format!("/{version}"), &["X-Forwarded-For: 192.0.2.9"]);
        assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
    }
    for number in 0..2 {
        assert_eq!(origin.request(number).header("x-forwarded-for"), Some("192.0.2.9"));
    }
}

#[test]
fn checks_of_health_are_for_nobody() {
    let origin = Origin::answering(|_| ok(""));
    let proxy = Setup::of(&[&origin])
        .pool_lines("proxy_protocol = \"v1\"\nhealth = { path = \"/up\", interval = \"50ms\" }")
        .start();
    assert_eq!(
        origin.request(0).head.lines().take(2).collect::<Vec<_>>(),
        ["PROXY UNKNOWN", "GET /up HTTP/1.1"]
    );
    eventually("the check to have passed", || {
        (proxy.endpoint(&origin)["health"] == "healthy").then_some(())
    });
}
