//! Certificates of clients: who must show one, which are refused, what the endpoint is told, and
//! that no session and no open connection gets around it.

use rustls::HandshakeKind;

use crate::support::client::request;
use crate::support::h2::{self, Session};
use crate::support::{
    Authority, Client, Folder, HOST, Origin, Pair, Proxy, Setup, Tls, eventually, ok,
};

const FAILURES: &str = "headwater_tls_handshake_failures_total{listener=\"web\",peer=\"other\"";

/// A site, its authority and that of its clients.
struct Scene {
    sites: Authority,
    clients: Authority,
    origin: Origin,
}

impl Scene {
    fn new() -> Self {
        let origin = Origin::answering(|_| ok("hello"));
        Self { sites: Authority::new(), clients: Authority::called("clients"), origin }
    }

    fn folder(&self) -> Folder {
        let folder = Folder::new();
        self.sites.write(&folder, "site", &[HOST, "open.test", "*.secure.test"]);
        folder.write("clients.crt", self.clients.pem());
        folder.write("clients.crl", self.clients.revoking(&[13]));
        folder
    }

    fn setup(&self, client_auth: &str) -> Setup {
        Setup::of(&[&self.origin])
            .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
            .listener(client_auth)
    }

    fn start(&self, client_auth: &str) -> Proxy {
        let proxy = self.setup(client_auth).start_in(self.folder());
        // Answered by whoever watches the files, who then watches.
        assert_eq!(proxy.api_post("/api/reload", "").status, 200);
        proxy
    }

    fn anonymous(&self) -> Tls {
        Tls::new(&self.sites)
    }

    fn showing(&self, pair: &Pair) -> Tls {
        self.anonymous().showing(&self.sites, pair)
    }
}

const REQUIRED: &str = "tls.client_auth = { mode = \"require\", ca = \"clients.crt\", \
                        crl = \"clients.crl\" }";
const REQUESTED: &str = "tls.client_auth = { mode = \"request\", ca = \"clients.crt\" }";
const BY_HOST: &str = "tls.client_auth = { mode = \"require\", ca = \"clients.crt\", \
                       hosts = [\"*.secure.test\"] }";

fn get(client: &mut Client, host: &str, target: &str) -> u16 {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.answer().status
}

#[test]
fn a_bad_client_certificate_is_refused_counted_by_reason_and_logged_once() {
    let scene = Scene::new();
    let proxy = scene.start(REQUIRED);
    let strangers = Authority::called("strangers");
    for (pair, reason) in [
        (Some(scene.clients.expired(&["client.test"])), "certificate_expired"),
        (Some(scene.clients.client(13)), "certificate_revoked"),
        (Some(strangers.client(7)), "certificate_unknown_issuer"),
        (None, "certificate_missing"),
    ] {
        let tls = pair.map_or_else(|| scene.anonymous(), |pair| scene.showing(&pair));
        assert!(!Client::is_accepted(proxy.address(), &tls), "{reason}");
        proxy.wait_for_metric(&format!("{FAILURES},reason=\"{reason}\"}}"), 1.0);
        let line = proxy.wait_for_log(&format!("reason=\"{reason}\""));
        for part in ["client certificate refused", "peer=127.0.0.1", &format!("sni=\"{HOST}\"")] {
            assert!(line.contains(part), "{line}");
        }
    }
    let refused = proxy.log();
    let refused = refused.iter().filter(|line| line.contains("client certificate refused"));
    assert_eq!(refused.count(), 4);
    let failed = "headwater_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    assert_eq!(proxy.metric(failed), 4.0);
    assert!(Client::is_accepted(proxy.address(), &scene.showing(&scene.clients.client(7))));
}

#[test]
fn the_endpoint_is_told_of_the_certificate_and_of_no_forged_one() {
    let scene = Scene::new();
    let proxy = scene.start(REQUESTED);
    let pair = scene.clients.client(7);
    let forged = ["Client-Cert: :forged:", "client-cert-chain: :forged:", "client_cert: :forged:"];

    Client::tls(proxy.address(), &scene.showing(&pair)).get("/", &forged);
    let told = scene.origin.request(0);
    let encoded = pair.cert.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
    assert_eq!(told.headers("client-cert").collect::<Vec<_>>(), [format!(":{encoded}:")]);
    assert_eq!(told.header("client-cert-chain"), None);
    assert_eq!(told.header("client_cert"), None);

    Client::tls(proxy.address(), &scene.anonymous()).get("/", &forged);
    let told = scene.origin.request(1);
    for name in ["client-cert", "client-cert-chain", "client_cert"] {
        assert_eq!(told.header(name), None, "{name}");
    }
}

#[test]
fn only_hosts_that_demand_a_certificate_get_one() {
    let scene = Scene::new();
    let proxy = scene.start(BY_HOST);
    let open = scene.anonymous().named("open.test");
    let mut client = Client::tls(proxy.address(), &open);
    assert_eq!(get(&mut client, "open.test", "/"), 200);

    let secure = scene.anonymous().named("a.secure.test");
    assert!(!Client::is_accepted(proxy.address(), &secure));
    let secure = scene.showing(&scene.clients.client(7)).named("a.secure.test");
    let mut client = Client::tls(proxy.address(), &secure);
    assert_eq!(get(&mut client, "a.secure.test", "/"), 200);
    assert!(scene.origin.request(1).header("client-cert").is_some());
    // The host that asks for nothing is told nothing.
    assert_eq!(get(&mut client, "open.test", "/"), 200);
    assert_eq!(scene.origin.request(2).header("client-cert"), None);
}

#[test]
fn a_request_for_a_host_that_demands_more_is_misdirected() {
    let scene = Scene::new();
    let proxy = scene.start(BY_HOST);
    for tls in [scene.anonymous().named("open.test"), scene.anonymous().nameless()] {
        let mut client = Client::tls(proxy.address(), &tls);
        for host in ["a.secure.test", "A.SECURE.TEST", "a.secure.test.", "a.secure.test:443"] {
            assert_eq!(get(&mut client, host, "/"), 421, "{host}");
        }
        assert_eq!(get(&mut client, "open.test", "/"), 200, "the connection goes on");
    }
    assert_eq!(proxy.access("unproven_client")["status"], 421);
    h2::run(async {
        let mut tls = Tls::with(&scene.sites, &rustls::version::TLS13, &["h2"]);
        tls.name = "open.test".to_owned();
        let mut session = Session::open(proxy.address(), &tls).await;
        let ask = |host: &str| {
            let uri = format!("https://{host}/");
            http::Request::get(uri).body(h2::Upload::empty()).unwrap()
        };
        let answer = session.send(ask("b.secure.test")).await.unwrap();
        assert_eq!(answer.status(), 421);
        let answer = session.send(ask("open.test")).await.unwrap();
        assert_eq!(answer.status(), 200);
    });
}

#[test]
fn a_reload_that_demands_more_binds_open_connections() {
    let scene = Scene::new();
    let proxy = scene.start("");
    let mut client = Client::tls(proxy.address(), &scene.anonymous().named("a.secure.test"));
    assert_eq!(get(&mut client, "a.secure.test", "/"), 200);
    proxy.reload(&scene.setup(BY_HOST));
    assert_eq!(get(&mut client, "a.secure.test", "/"), 421);
    assert_eq!(get(&mut client, "open.test", "/"), 200);
    proxy.reload(&scene.setup(""));
    assert_eq!(get(&mut client, "a.secure.test", "/"), 200);
}

#[test]
fn an_open_connection_is_judged_anew_when_authorities_or_lists_change() {
    let scene = Scene::new();
    let proxy = scene.start(REQUIRED);
    let mut good = Client::tls(proxy.address(), &scene.showing(&scene.clients.client(7)));
    let mut bad = Client::tls(proxy.address(), &scene.showing(&scene.clients.client(8)));
    assert_eq!((get(&mut good, HOST, "/"), get(&mut bad, HOST, "/")), (200, 200));

    // Read without being told.
    proxy.folder.write("clients.crl", scene.clients.revoking(&[8, 13]));
    eventually("the list to count", || (get(&mut bad, HOST, "/") == 421).then_some(()));
    assert_eq!(get(&mut good, HOST, "/"), 200);
    assert!(!Client::is_accepted(proxy.address(), &scene.showing(&scene.clients.client(8))));

    let others = Authority::called("others");
    proxy.folder.write("clients.crl", others.revoking(&[13]));
    proxy.folder.write("clients.crt", others.pem());
    eventually("the authority to count", || (get(&mut good, HOST, "/") == 421).then_some(()));
    assert!(Client::is_accepted(proxy.address(), &scene.showing(&others.client(7))));
}

#[test]
fn a_session_from_before_does_not_get_around_what_is_asked_now() {
    for keys in [false, true] {
        let scene = Scene::new();
        let folder = scene.folder();
        folder.write("tickets.keys", "ab".repeat(48));
        let keys = if keys { "tls.ticket_keys = \"tickets.keys\"\n" } else { "" };
        let proxy = scene.setup(keys).start_in(folder);
        let anonymous = scene.anonymous();
        let resumes = |tls: &Tls| {
            let mut client = Client::tls(proxy.address(), tls);
            assert_eq!(client.get("/", &[]).status, 200);
            client.session().handshake_kind() == Some(HandshakeKind::Resumed)
        };
        assert!(!resumes(&anonymous));
        assert!(resumes(&anonymous));
        let known = scene.showing(&scene.clients.client(7));
        assert!(!resumes(&known));
        assert!(resumes(&known));

        proxy.reload(&scene.setup(&format!("{keys}{REQUIRED}")));
        assert!(!Client::is_accepted(proxy.address(), &anonymous));
        assert!(!resumes(&known), "the ticket was given out on other terms");
        assert!(resumes(&known));
    }
}

#[test]
fn a_resumed_session_is_still_told_to_the_endpoint() {
    let scene = Scene::new();
    let proxy = scene.start(REQUIRED);
    let tls = scene.showing(&scene.clients.client(7));
    for is_resumed in [false, true] {
        let mut client = Client::tls(proxy.address(), &tls);
        assert_eq!(client.get("/", &[]).status, 200);
        let kind = client.session().handshake_kind();
        assert_eq!(kind == Some(HandshakeKind::Resumed), is_resumed);
    }
    let told = |number| scene.origin.request(number).header("client-cert").map(str::to_owned);
    assert!(told(0).is_some());
    assert_eq!(told(0), told(1));
}

#[test]
fn variants_by_client_certificate_are_told_apart_in_the_cache() {
    let scene = Scene::new();
    let origin = Origin::answering(|request| {
        let who =
            request.header("client-cert").map_or("nobody".to_owned(), |it| it.len().to_string());
        let body = format!("{who} {}", request.header("client-cert").unwrap_or_default());
        crate::support::answer(200, &["Cache-Control: max-age=60", "Vary: Client-Cert"], &body)
    });
    let folder = scene.folder();
    let proxy = Setup::of(&[&origin])
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .listener(REQUESTED)
        .start_in(folder);
    let ask = |tls: &Tls| Client::tls(proxy.address(), tls).get("/a", &[]).text();
    let (one, two) = (scene.clients.client(1), scene.clients.client(2));
    let answers: Vec<_> = [
        scene.showing(&one),
        scene.showing(&two),
        scene.anonymous(),
        scene.showing(&one),
        scene.anonymous(),
    ]
    .iter()
    .map(ask)
    .collect();
    assert_eq!(answers[0], answers[3]);
    assert_eq!(answers[2], answers[4]);
    assert_ne!(answers[0], answers[1]);
    assert_eq!(answers[2], "nobody ");
    assert_eq!(origin.count(), 3);
}

#[test]
fn cloudflares_global_certificate_is_warned_of_and_demanded() {
    let scene = Scene::new();
    let proxy = scene.start("tls.client_auth = { mode = \"cloudflare\" }");
    proxy.wait_for_log("not that it came through your zone");
    assert!(!Client::is_accepted(proxy.address(), &scene.showing(&scene.clients.client(7))));
    assert_eq!(proxy.metric(&format!("{FAILURES},reason=\"certificate_unknown_issuer\"}}")), 1.0);
}

#[test]
fn an_early_request_is_not_answered_before_the_certificate_is_judged() {
    let scene = Scene::new();
    let proxy = scene.start(REQUIRED);
    if let Ok(mut client) = Client::try_tls(proxy.address(), &scene.anonymous()) {
        let _ = client.try_send(request("GET", "/", &[]));
        let rest = client.rest();
        assert!(!rest.starts_with(b"HTTP/1.1"), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(scene.origin.count(), 0);
}
