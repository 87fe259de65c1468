//! Listeners behind a CDN or a cloud's load balancer: whom they believe, in what, and whom they
//! serve.

use crate::support::h2::{self, Session, Upload};
use crate::support::proxy::{run_to_end, run_with};
use crate::support::{Client, Folder, HOST, Origin, Proxy, Request, Setup, ok};

/// A field, what it claims, and the fronts that are believed in it.
const FIELDS: [(&str, &str, &[&str]); 11] = [
    ("cf-connecting-ip", "7.7.7.7", &["cloudflare"]),
    ("cf-ray", "230b030023ae2822-SJC", &["cloudflare"]),
    ("cf-visitor", "{\"scheme\":\"https\"}", &["cloudflare"]),
    ("cf_connecting_ip", "7.7.7.7", &[]),
    ("cloudfront-viewer-address", "7.7.7.7:80", &["cloudfront"]),
    ("x-amz-cf-id", "cf-id", &["cloudfront"]),
    ("true-client-ip", "7.7.7.7", &[]),
    ("x-real-ip", "7.7.7.7", &[]),
    ("x-forwarded-port", "8443", &["alb"]),
    ("client-cert", ":claimed:", &[]),
    ("x_real_ip", "7.7.7.7", &[]),
];

/// In which each front names its requests, and the client that it tells of with [`told`].
const FRONTS: [(&str, &str, &str); 4] = [
    ("cloudflare", "cf-ray", "7.7.7.7"),
    ("cloudfront", "x-amz-cf-id", "9.9.9.9"),
    ("alb", "x-amzn-trace-id", "9.9.9.9"),
    ("gclb", "x-cloud-trace-context", "8.8.8.8"),
];

/// How the peer comes to the listener, and whether it is the front.
struct Way {
    lines: &'static str,
    header: &'static str,
    peer: &'static str,
    is_front: bool,
}

const WAYS: [Way; 4] = [
    Way { lines: "trusted = [\"127.0.0.0/8\"]", header: "", peer: "127.0.0.1", is_front: true },
    Way { lines: "trusted = [\"10.0.0.0/8\"]", header: "", peer: "127.0.0.1", is_front: false },
    Way {
        lines: "trusted = [\"127.0.0.0/8\", \"192.0.2.0/24\"]\nproxy_protocol = true",
        header: "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        peer: "192.0.2.7",
        is_front: true,
    },
    Way {
        lines: "trusted = [\"127.0.0.0/8\"]\nproxy_protocol = true",
        header: "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        peer: "192.0.2.7",
        is_front: false,
    },
];

/// All that is told, by whoever it is.
fn told(trace: &str) -> Vec<(String, String)> {
    let common = [
        ("x-forwarded-for", "8.8.8.8, 9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.test"),
        ("forwarded", "for=6.6.6.6"),
    ];
    let all = common.into_iter().chain(FIELDS.map(|(name, value, _)| (name, value)));
    let mut all: Vec<_> = all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if !all.iter().any(|(name, _)| name == trace) {
        all.push((trace.to_owned(), "trace".to_owned()));
    }
    all
}

fn send_h1(proxy: &Proxy, way: &Way, fields: &[(String, String)]) {
    let mut client = Client::connect(proxy.address());
    client.send(way.header);
    let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    assert_eq!(client.get("/h1", &lines).status, 200);
}

fn send_h2(proxy: &Proxy, way: &Way, fields: &[(String, String)]) {
    h2::run(async {
        let mut session = Session::open_plain_after(proxy.address(), way.header.as_bytes()).await;
        let mut request = h2::request("GET", "/h2", Upload::empty());
        *request.uri_mut() = format!("http://{HOST}/h2").parse().unwrap();
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        assert_eq!(session.send(request).await.unwrap().status(), 200);
    });
}

fn check(front: &str, trace: &str, way: &Way, got: &Request) {
    let values = |name: &str| got.headers(name).map(str::to_owned).collect::<Vec<_>>();
    for (name, value, believed) in FIELDS {
        let expected: &[&str] =
            if way.is_front && believed.contains(&front) { &[value] } else { &[] };
        assert_eq!(values(name), expected, "{name} behind {front}, {}", way.lines);
    }
    assert_eq!(values(trace).len(), usize::from(way.is_front), "{trace}, {}", way.lines);
    let peer = way.peer;
    let (chain, scheme) = if way.is_front {
        (format!("8.8.8.8, 9.9.9.9, {peer}"), "https")
    } else {
        (peer.to_owned(), "http")
    };
    assert_eq!(values("x-forwarded-for"), [chain], "{front}");
    assert_eq!(values("x-forwarded-proto"), [scheme], "{front}");
    // No front writes these: what comes in them is the visitor's.
    assert_eq!(values("x-forwarded-host"), [HOST], "{front}");
    assert_eq!(values("forwarded"), [format!("for={peer};host=\"{HOST}\";proto=http")]);
}

#[test]
fn a_front_is_believed_in_what_it_writes_itself_and_others_in_nothing() {
    for (front, trace, client) in FRONTS {
        for way in &WAYS {
            let origin = Origin::answering(|_| ok(""));
            let proxy = Setup::of(&[&origin])
                .listener(&format!("front = \"{front}\"\nprotocols = [\"h2\", \"h1\"]"))
                .listener(way.lines)
                .route("cache = false")
                .start();
            let fields = told(trace);
            send_h1(&proxy, way, &fields);
            send_h2(&proxy, way, &fields);
            for (number, path) in ["/h1", "/h2"].iter().enumerate() {
                check(front, trace, way, &origin.request(number));
                let logged = proxy.access(&format!("\"path\":\"{path}\""));
                let (client, scheme) =
                    if way.is_front { (client, "https") } else { (way.peer, "http") };
                assert_eq!(logged["client_ip"], client, "{front}, {}", way.lines);
                assert_eq!(logged["scheme"], scheme, "{front}, {}", way.lines);
                let id = fields.iter().find(|(name, _)| name == trace).map(|(_, id)| id.as_str());
                assert_eq!(logged["front_id"].as_str(), id.filter(|_| way.is_front), "{front}");
            }
        }
    }
}

/// What a proxy in front of the listener says of an address of Cloudflare's.
const FROM_CLOUDFLARE: &str = "PROXY TCP4 173.245.48.9 198.51.100.1 4711 443\r\n";

#[test]
fn the_addresses_of_cloudflare_are_built_in() {
    let origin = Origin::answering(|_| ok(""));
    let proxy = Setup::of(&[&origin])
        .listener("front = \"cloudflare\"\nproxy_protocol = true\ntrusted = [\"127.0.0.1\"]")
        .route("cache = false\nallow = [\"203.0.113.0/24\"]")
        .start();
    let status = |header: &str, visitor: &str| {
        let mut client = proxy.connect();
        client.send(header);
        client.get("/", &[&format!("CF-Connecting-IP: {visitor}")]).status
    };
    assert_eq!(status(FROM_CLOUDFLARE, "203.0.113.7"), 200);
    assert_eq!(status(FROM_CLOUDFLARE, "192.0.2.7"), 403);
    let stranger = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    assert_eq!(status(stranger, "203.0.113.7"), 403);
    assert_eq!(proxy.metric("headwater_trusted_ranges{listener=\"web\"}"), 22.0);
    assert!(proxy.metric("headwater_trusted_ranges_age_seconds{listener=\"web\"}") >= 0.0);
}

#[test]
fn a_required_front_keeps_all_others_out_but_those_that_are_exempt() {
    let refused = "headwater_connections_rejected_total{listener=\"web\",reason=\"not_front\"}";
    let setup = |lines: &str| {
        Setup::empty()
            .listener("front = \"cloudflare\"\nfront_required = true")
            .listener(lines)
            .text("[[route]]\nrespond = {}\n")
            .start()
    };
    let proxy = setup("");
    let mut client = proxy.connect();
    client.assert_broken_off();
    assert_eq!(proxy.metric(refused), 1.0);

    let proxy = setup("front_exempt = [\"127.0.0.0/8\"]");
    let answer = proxy.get("/", &["CF-Connecting-IP: 7.7.7.7"]);
    assert_eq!(answer.status, 200);
    // Who is let in is not believed for it.
    assert_eq!(proxy.access("\"path\":\"/\"")["client_ip"], "127.0.0.1");
    assert_eq!(proxy.metric(refused), 0.0);
}

const PROBLEM: &str = "headwater_trusted_ranges_problem{listener=\"web\"}";

fn client_of(proxy: &Proxy, path: &str) -> String {
    assert_eq!(proxy.get(path, &["X-Forwarded-For: 9.9.9.9"]).status, 200);
    let logged = proxy.access(&format!("\"path\":\"{path}\""));
    logged["client_ip"].as_str().unwrap().to_owned()
}

#[test]
fn a_list_of_addresses_is_read_again_when_it_changes_and_kept_when_it_goes_bad() {
    let folder = Folder::new();
    folder.write("ranges.txt", "127.0.0.0/8\n");
    let proxy = Setup::empty()
        .listener("front = \"alb\"\ntrusted_from = \"ranges.txt\"")
        .text("[[route]]\nrespond = {}\n")
        .start_in(folder);
    assert_eq!(client_of(&proxy, "/first"), "9.9.9.9");
    assert_eq!(proxy.metric(PROBLEM), 0.0);
    assert!(proxy.metric("headwater_trusted_ranges_age_seconds{listener=\"web\"}") < 600.0);

    for (number, bad) in ["", "# none\n", "0.0.0.0/0\n", "<html>\n"].iter().enumerate() {
        let generation = proxy.generation();
        proxy.folder.write("ranges.txt", bad);
        proxy.wait_for_metric("headwater_config_generation", generation as f64 + 1.0);
        assert_eq!(proxy.metric(PROBLEM), 1.0, "{bad}");
        assert_eq!(client_of(&proxy, &format!("/bad-{number}")), "9.9.9.9", "{bad}");
    }
    assert!(proxy.wait_for_log("0.0.0.0/0 is too wide").contains("the list from before is kept"));

    proxy.folder.write("ranges.txt", "10.0.0.0/8\n192.0.2.0/24\n");
    proxy.wait_for_metric(PROBLEM, 0.0);
    assert_eq!(proxy.metric("headwater_trusted_ranges{listener=\"web\"}"), 2.0);
    assert_eq!(client_of(&proxy, "/others"), "127.0.0.1");
}

#[test]
fn check_says_when_nobody_can_be_believed() {
    let rest = "[[route]]\nrespond = {}\n";
    let listener = "[listener.web]\nbind = \"127.0.0.1:0\"\n";
    for (lines, code, text) in [
        ("front = \"alb\"", 2, "3:9: error: `listener.web.front`: nothing says which peers are"),
        (
            "front = \"cloudfront\"",
            2,
            "trusted_from = \"https://ip-ranges.amazonaws.com/ip-ranges.json\"",
        ),
        ("front_required = true", 2, "every connection would be closed"),
        ("front = \"cloudflare\"\ntrusted_from = \"none.txt\"", 0, "the built-in list is used"),
        ("front = \"alb\"\ntrusted_from = \"none.txt\"", 2, "it does not exist"),
    ] {
        let exit = run_with("check", &format!("{listener}{lines}\n{rest}"));
        assert_eq!(exit.code, Some(code), "{lines}: {}", exit.stderr);
        let said = format!("{}{}", exit.stdout, exit.stderr);
        assert!(said.contains(text), "{text} is not in\n{said}");
    }
    let folder = Folder::new();
    folder.write("wide.txt", "0.0.0.0/0");
    let lines = "front = \"cloudfront\"\ntrusted_from = \"wide.txt\"";
    folder.write("headwater.toml", format!("{listener}{lines}\n{rest}"));
    let exit = run_to_end(&["check", "-c"], &folder.join("headwater.toml"));
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("4:16: error: ") && exit.stderr.contains("too wide"), "{exit:?}");
}
