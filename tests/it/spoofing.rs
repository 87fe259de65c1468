//! Who may say who the client is: every field that does, from every kind of peer, through both
//! protocols, with the PROXY protocol and without.

use crate::support::h2::{self, Session, Upload};
use crate::support::{Client, HOST, Origin, Proxy, Request, Setup, ok};

/// A kind of peer, and what is to come of it.
struct Peer {
    name: &'static str,
    listener: &'static str,
    /// What a proxy sends before the first request.
    header: &'static str,
    /// Whom the endpoint is told of where the peer's own claims do not count.
    address: &'static str,
    is_believed: bool,
}

const PEERS: [Peer; 6] = [
    Peer { name: "untrusted", listener: "", header: "", address: "127.0.0.1", is_believed: false },
    Peer {
        name: "trusted",
        listener: "trusted = [\"127.0.0.0/8\"]",
        header: "",
        address: "127.0.0.1",
        is_believed: true,
    },
    Peer {
        name: "others trusted",
        listener: "trusted = [\"10.0.0.0/8\", \"::1\"]",
        header: "",
        address: "127.0.0.1",
        is_believed: false,
    },
    Peer {
        name: "PROXY, address untrusted",
        listener: "trusted = [\"127.0.0.0/8\"]\nproxy_protocol = true",
        header: "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        address: "192.0.2.7",
        is_believed: false,
    },
    Peer {
        name: "PROXY, address trusted",
        listener: "trusted = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\nproxy_protocol = true",
        header: "PROXY TCP4 10.0.0.5 198.51.100.1 4711 443\r\n",
        address: "10.0.0.5",
        is_believed: true,
    },
    Peer {
        name: "PROXY, no address",
        listener: "trusted = [\"127.0.0.0/8\"]\nproxy_protocol = true",
        header: "PROXY UNKNOWN\r\n",
        address: "127.0.0.1",
        is_believed: false,
    },
];

/// A field, what it claims, and what the endpoint gets where that is believed; `{peer}` is the
/// peer. The last is what it gets otherwise.
const FIELDS: [(&str, &str, Option<&str>, Option<&str>); 16] = [
    ("x-forwarded-for", "9.9.9.9", Some("9.9.9.9, {peer}"), Some("{peer}")),
    ("x-forwarded-proto", "https", Some("https"), Some("http")),
    ("x-forwarded-host", "evil.test", Some("evil.test"), Some(HOST)),
    (
        "forwarded",
        "for=9.9.9.9",
        Some("for=9.9.9.9, for={peer};host=\"site.test\";proto=http"),
        Some("for={peer};host=\"site.test\";proto=http"),
    ),
    ("cf-connecting-ip", "9.9.9.9", Some("9.9.9.9"), None),
    ("true-client-ip", "9.9.9.9", Some("9.9.9.9"), None),
    ("x-real-ip", "9.9.9.9", Some("9.9.9.9"), None),
    ("x-request-id", "claimed", Some("claimed"), Some("{made}")),
    // Nobody says these but us.
    ("client-cert", ":claimed:", None, None),
    ("client-cert-chain", ":claimed:", None, None),
    // Many applications read `_` as `-`.
    ("x_forwarded_for", "9.9.9.9", None, None),
    ("x_forwarded-proto", "https", None, None),
    ("cf_connecting_ip", "9.9.9.9", None, None),
    ("x_real_ip", "9.9.9.9", None, None),
    ("client_cert", ":claimed:", None, None),
    ("x_request_id", "claimed", None, None),
];

fn send_h1(proxy: &Proxy, peer: &Peer) {
    let mut client = Client::connect(proxy.address());
    client.send(peer.header);
    let fields: Vec<_> =
        FIELDS.iter().map(|(name, value, ..)| format!("{name}: {value}")).collect();
    let fields: Vec<_> = fields.iter().map(String::as_str).collect();
    assert_eq!(client.get("/h1", &fields).status, 200, "{}", peer.name);
}

fn send_h2(proxy: &Proxy, peer: &Peer) {
    h2::run(async {
        let mut session = Session::open_plain_after(proxy.address(), peer.header.as_bytes()).await;
        let mut request = h2::request("GET", "/h2", Upload::empty());
        *request.uri_mut() = format!("http://{HOST}/h2").parse().unwrap();
        for (name, value, ..) in FIELDS {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let answer = session.send(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{}", peer.name);
    });
}

fn check(peer: &Peer, told: &Request) {
    for (name, claim, believed, otherwise) in FIELDS {
        let expected = if peer.is_believed { believed } else { otherwise };
        let got: Vec<_> = told.headers(name).collect();
        let context = format!("{name} of a peer that is {}: {got:?}", peer.name);
        match expected {
            None => assert!(got.is_empty(), "{context}"),
            Some("{made}") => assert!(got.len() == 1 && got[0] != claim, "{context}"),
            Some(text) => assert_eq!(got, [text.replace("{peer}", peer.address)], "{context}"),
        }
    }
    let client = if peer.is_believed { "9.9.9.9 https" } else { &format!("{} http", peer.address) };
    assert_eq!(told.header("x-client"), Some(client), "the client of a peer that is {}", peer.name);
}

#[test]
fn only_what_should_be_believed_is() {
    for peer in &PEERS {
        let origin = Origin::answering(|_| ok(""));
        let proxy = Setup::of(&[&origin])
            .listener("protocols = [\"h2\", \"h1\"]")
            .listener(peer.listener)
            .route("cache = false\nrequest_headers.set = { x-client = \"{client_ip} {scheme}\" }")
            .start();
        send_h1(&proxy, peer);
        send_h2(&proxy, peer);
        let client = if peer.is_believed { "9.9.9.9" } else { peer.address };
        for (number, path) in ["/h1", "/h2"].iter().enumerate() {
            check(peer, &origin.request(number));
            let logged = proxy.access(&format!("\"path\":\"{path}\""));
            assert_eq!(logged["client_ip"], client, "{}", peer.name);
            assert_eq!(logged["peer_ip"], peer.address, "{}", peer.name);
        }
    }
}

#[test]
fn a_client_cannot_have_our_fields_taken_off_on_the_way() {
    let origin = Origin::answering(|_| ok(""));
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get("/", &["Connection: x-forwarded-for, forwarded, x-request-id, via"]);
    assert_eq!(answer.status, 200);
    let told = origin.request(0);
    for name in ["x-forwarded-for", "forwarded", "x-request-id", "via"] {
        assert_eq!(told.headers(name).count(), 1, "{name}");
    }
}
