//! Certificates by ACME, from the test server of Let's Encrypt.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::pebble::{Informing, Pebble, Terms};
use crate::support::{Authority, Client, Dns, Folder, Origin, Proxy, Setup, Tls, eventually, ok};

const HOSTS: [&str; 2] = ["a.test", "b.test"];
const HOUR: u32 = 3600;

/// What a test of certificates needs. The first certificate of the listener is for other names.
struct Stage {
    authority: Authority,
    origin: Origin,
    folder: Folder,
    dns: Dns,
    terms: Terms,
}

impl Stage {
    fn new(life: u32) -> Self {
        let (authority, folder, dns) = (Authority::new(), Folder::new(), Dns::start());
        authority.write(&folder, "first", &["first.test"]);
        std::fs::create_dir(folder.join("certs")).unwrap();
        for host in HOSTS {
            dns.say(host, &["127.0.0.1"]);
        }
        let origin = Origin::answering(|_| ok("x"));
        Self { authority, origin, folder, dns, terms: Terms::living(life) }
    }

    fn pebble(&self) -> Pebble {
        Pebble::start(&self.folder, &self.authority, &self.dns, self.terms)
    }

    /// Holds a certificate of another authority.
    fn hold(&self, hosts: &[&str]) -> String {
        let held = self.authority.issue(hosts);
        std::fs::write(self.folder.join("certs/site.crt"), &held.cert).unwrap();
        std::fs::write(self.folder.join("certs/site.key"), &held.key).unwrap();
        held.cert
    }

    fn setup(&self, directory: &str, lines: &str) -> Setup {
        let Terms { http_port, tls_port, .. } = self.terms;
        Setup::of(&[&self.origin])
            .listener("https_redirect = true")
            .listener(&format!("bind = \"127.0.0.1:{http_port}\""))
            .text(&format!(
                "[listener.tls]\nbind = \"127.0.0.1:{tls_port}\"\n\
                 tls.certificates = [{{ cert = \"first.crt\", key = \"first.key\" }}]\n\
                 tls.directory = \"certs\"\n\
                 [acme]\ndirectory = \"{directory}\"\nca = \"ca.crt\"\n\
                 accept_terms = true\nfolder = \"certs\"\n\
                 contact = [\"mailto:ops@example.com\"]\n\
                 certificates = {{ site = {HOSTS:?} }}\n{lines}\n"
            ))
    }

    fn start(&mut self, pebble: &Pebble, lines: &str) -> Proxy {
        let directory = format!("https://127.0.0.1:{}/dir", pebble.port);
        self.setup(&directory, lines).start_in(self.take_folder())
    }

    fn take_folder(&mut self) -> Folder {
        std::mem::take(&mut self.folder)
    }
}

/// What OpenSSL says of the certificate that it is shown for a host.
fn shown(proxy: &Proxy, host: &str) -> String {
    let address = proxy.address_of("tls").to_string();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", host])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (before, _) = text.split_once("-----END CERTIFICATE-----").unwrap();
    before.to_owned()
}

fn wait_for_issued(proxy: &Proxy) -> String {
    eventually("the certificate to be served", || {
        Some(shown(proxy, HOSTS[0])).filter(|text| text.contains("Pebble Intermediate CA"))
    })
}

fn orders(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("headwater_acme_orders_total{{result=\"{result}\"}}"))
}

fn handshakes(proxy: &Proxy, result: &str) -> f64 {
    let series = format!("headwater_tls_handshakes_total{{listener=\"tls\",result=\"{result}\"}}");
    proxy.metric(&series)
}

fn status(proxy: &Proxy) -> Value {
    proxy.api_get("/api/acme").json()["certificates"][0].clone()
}

#[test]
fn a_certificate_is_issued_served_and_renewed_after_two_thirds_of_its_life() {
    let mut stage = Stage::new(12);
    let pebble = stage.pebble();
    let proxy = stage.start(&pebble, "");
    proxy.wait_for_log("certificate issued certificate=");
    let first = wait_for_issued(&proxy);
    assert_eq!(status(&proxy)["renewal_by"], "life");
    for name in ["account.json", "site.crt", "site.key"] {
        let file = std::fs::metadata(proxy.folder.join("certs").join(name)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
    }
    eventually("the renewal", || (orders(&proxy, "issued") >= 2.0).then_some(()));
    eventually("the next certificate", || (shown(&proxy, HOSTS[0]) != first).then_some(()));
    assert_eq!(orders(&proxy, "failed"), 0.0);
    // Nothing of the challenge is left, and what is not one of ours goes to the route.
    assert_eq!(proxy.get("/.well-known/acme-challenge/none", &[]).text(), "x");
    assert_eq!(proxy.get("/other", &[]).status, 308);
}

#[test]
fn an_authority_may_look_by_a_handshake() {
    let mut stage = Stage::new(HOUR);
    let (pebble, authority) = (stage.pebble(), Authority::new());
    let proxy = stage.start(&pebble, "challenge = \"tls-alpn-01\"");
    let certificate = wait_for_issued(&proxy);
    for host in HOSTS {
        assert_eq!(shown(&proxy, host), certificate, "{host}");
    }
    // It looks at each host, and may do so from several places.
    let looks = handshakes(&proxy, "challenge");
    assert!(looks >= HOSTS.len() as f64, "{looks}");
    assert_eq!(handshakes(&proxy, "failed"), 0.0);
    proxy.wait_for_log("an authority has looked at a host");
    // Whoever offers the same when nothing is to be seen has no protocol in common with us.
    let late = Tls::with(&authority, &rustls::version::TLS13, &["acme-tls/1"]);
    let refused = Client::try_tls(proxy.address_of("tls"), &late.named(HOSTS[0])).unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    assert_eq!(handshakes(&proxy, "challenge"), looks);
}

#[test]
fn a_validation_that_fails_keeps_what_there_is_and_waits() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let mut stage = Stage::new(HOUR);
        let held = stage.hold(&["old.test"]);
        let pebble = stage.pebble();
        // Nobody answers where the authority looks.
        stage.terms = Terms::living(HOUR);
        let proxy = stage.start(&pebble, &format!("challenge = \"{challenge}\""));
        let line = proxy.wait_for_log("certificate not issued");
        assert!(line.contains(".test: ") && line.contains("wait=120s"), "{line}");
        let kept = std::fs::read_to_string(proxy.folder.join("certs/site.crt")).unwrap();
        assert_eq!(kept, held);
        assert_eq!((orders(&proxy, "issued"), orders(&proxy, "failed")), (0.0, 1.0));
        let status = status(&proxy);
        // What is held is for other hosts.
        assert_eq!((&status["state"], &status["failures"]), (&json!("missing"), &json!(1)));
        assert!(status["error"].as_str().unwrap().contains(".test: "), "{status}");
        assert!(status["waits_until"].is_u64(), "{status}");
    }
}

#[test]
fn a_certificate_is_replaced_and_the_old_one_revoked() {
    let mut stage = Stage::new(HOUR);
    let pebble = stage.pebble();
    let proxy = stage.start(&pebble, "");
    let first = wait_for_issued(&proxy);
    let key = std::fs::read(proxy.folder.join("certs/site.key")).unwrap();
    let old = status(&proxy)["serial"].as_str().unwrap().to_owned();
    assert_eq!(pebble.status_of(&old)["Status"], "Valid");

    let body = json!({ "reason": "keyCompromise" }).to_string();
    assert_eq!(proxy.api_post("/api/acme/site/replace", &body).status, 202);
    eventually("the new one", || (orders(&proxy, "issued") >= 2.0).then_some(()));
    proxy.wait_for_log("certificate revoked");
    // By then the new one is served, of a new key.
    let second = shown(&proxy, HOSTS[0]);
    assert!(second.contains("Pebble Intermediate CA") && second != first, "{second}");
    assert_ne!(std::fs::read(proxy.folder.join("certs/site.key")).unwrap(), key);
    let said = pebble.status_of(&old);
    assert_eq!((&said["Status"], &said["Reason"]), (&json!("Revoked"), &json!(1)), "{said}");
    let status = status(&proxy);
    let new = status["serial"].as_str().unwrap();
    assert_eq!(pebble.status_of(new)["Status"], "Valid");
    assert_eq!(status["replacing"], Value::Null);
    let revocation = &status["revocation"];
    assert_eq!(
        (&revocation["serial"], &revocation["reason"]),
        (&json!(old), &json!("keyCompromise"))
    );
    assert!(revocation["revoked"].is_u64(), "{revocation}");
    let revoked = "headwater_acme_revocations_total{result=\"revoked\"}";
    assert_eq!((proxy.metric(revoked), orders(&proxy, "issued")), (1.0, 2.0));
    // Nothing of it is left to be done by the next process.
    let left = std::fs::read_dir(proxy.folder.join("certs")).unwrap();
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().ends_with("revoke")));
}

#[test]
fn a_replacement_that_fails_revokes_nothing() {
    let mut stage = Stage::new(HOUR);
    let pebble = stage.pebble();
    stage.hold(&HOSTS);
    stage.terms = Terms::living(HOUR);
    let proxy = stage.start(&pebble, "");
    let before = shown(&proxy, HOSTS[0]);
    assert_eq!(proxy.api_post("/api/acme/site/replace", "").status, 202);
    proxy.wait_for_log("certificate not issued");
    assert_eq!(shown(&proxy, HOSTS[0]), before);
    let status = status(&proxy);
    // It is still wanted, and waits.
    assert_eq!((&status["replacing"], &status["state"]), (&json!("superseded"), &json!("held")));
    assert_eq!(status["revocation"], Value::Null);
    assert!(status["waits_until"].is_u64(), "{status}");
}

#[test]
fn an_authority_says_when_to_renew() {
    let mut stage = Stage::new(HOUR);
    let pebble = stage.pebble();
    let informing = Informing::start(&pebble);
    let folder = Folder::new();
    stage.authority.write(&folder, "front", &["127.0.0.1"]);
    let front = Setup::of(&[&informing.origin])
        .listener("tls.certificates = [{ cert = \"front.crt\", key = \"front.key\" }]")
        .start_in(folder);
    let setup = stage.setup(&format!("https://{}/dir", front.address()), "");
    let proxy = setup.start_in(stage.take_folder());
    let first = wait_for_issued(&proxy);
    let asked = eventually("a look at the renewal", || informing.asked().pop());
    let serial = status(&proxy)["serial"].clone();
    // What it says is too late for a life of an hour.
    eventually("the plan", || status(&proxy)["explanation"].is_string().then_some(()));
    assert_eq!(status(&proxy)["renewal_by"], "life");

    informing.say(&asked, ["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"]);
    // It is asked again in six hours; a reload of the table asks at once.
    proxy.reload(&setup.text("# again\n"));
    assert_eq!(informing.asked().len(), 1, "nothing has changed for these certificates");
    let file = proxy.folder.join("headwater.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("ops@example.com", "edge@example.com")).unwrap();
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
    eventually("the next certificate", || (shown(&proxy, HOSTS[0]) != first).then_some(()));
    assert_eq!(informing.replaced(), [asked.as_str()]);
    eventually("a look at the new one", || informing.asked().pop().filter(|last| *last != asked));
    assert_ne!(status(&proxy)["serial"], serial);
    assert_eq!(orders(&proxy, "failed"), 0.0);
}

#[test]
fn from_nothing_a_certificate_of_ours_stands_in_until_the_first_is_issued() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let mut stage = Stage::new(HOUR);
        std::fs::remove_dir(stage.folder.join("certs")).unwrap();
        let Terms { http_port, tls_port, .. } = stage.terms;
        let pebble_port = Pebble::start(&stage.folder, &stage.authority, &stage.dns, stage.terms);
        let setup = Setup::of(&[&stage.origin])
            .listener("https_redirect = true")
            .listener(&format!("bind = \"127.0.0.1:{http_port}\""))
            .text(&format!(
                "[listener.tls]\nbind = \"127.0.0.1:{tls_port}\"\n\
                 tls.directory = \"state/certs\"\n\
                 [acme]\ndirectory = \"https://127.0.0.1:{}/dir\"\nca = \"ca.crt\"\n\
                 accept_terms = true\nfolder = \"state/certs\"\nchallenge = \"{challenge}\"\n\
                 certificates = {{ site = {HOSTS:?} }}\n",
                pebble_port.port
            ));
        let proxy = setup.start_in(stage.take_folder());
        let first = shown(&proxy, HOSTS[1]);
        assert!(
            first.contains("headwater, until one is issued") || first.contains("Pebble"),
            "{challenge}: {first}"
        );
        wait_for_issued(&proxy);
        for host in HOSTS {
            assert!(!shown(&proxy, host).contains("headwater"), "{challenge}: {host}");
        }
        let folder = std::fs::metadata(proxy.folder.join("state/certs")).unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
        // Lost files are ordered anew; meanwhile nobody is shown a certificate of ours.
        for name in ["site.crt", "site.key"] {
            std::fs::remove_file(proxy.folder.join("state/certs").join(name)).unwrap();
        }
        assert_eq!(proxy.api_post("/api/reload", "").status, 200);
        assert!(!shown(&proxy, HOSTS[0]).contains("headwater"), "{challenge}");
    }
}

#[test]
fn where_no_authority_answers_the_stand_in_goes_on() {
    let mut stage = Stage::new(HOUR);
    stage.folder.write("ca.crt", stage.authority.pem());
    let setup = Setup::of(&[&stage.origin]).text(&format!(
        "[listener.tls]\nbind = \"127.0.0.1:0\"\ntls.directory = \"new\"\n\
         [acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nca = \"ca.crt\"\n\
         accept_terms = true\nfolder = \"new\"\ncertificates = {{ site = {HOSTS:?} }}\n"
    ));
    let proxy = setup.start_in(stage.take_folder());
    eventually("an order to fail", || (orders(&proxy, "failed") >= 1.0).then_some(()));
    let first = shown(&proxy, HOSTS[0]);
    assert!(first.contains("headwater, until one is issued"), "{first}");
    proxy.reload(&setup.text("[pool.more]\nendpoints = [\"127.0.0.1:1\"]"));
    assert_eq!(shown(&proxy, HOSTS[1]), first, "a reload makes no other");
}

#[test]
fn a_trial_needs_no_certificate_at_all() {
    let stage = Stage::new(HOUR);
    let proxy = Setup::of(&[&stage.origin])
        .route("hosts = [\"trial.test\"]")
        .text("[listener.tls]\nbind = \"127.0.0.1:0\"\ntls = \"self-signed\"")
        .start();
    let certificate = shown(&proxy, "trial.test");
    assert!(certificate.contains("headwater trial"), "{certificate}");
    let address = proxy.address_of("tls");
    let url = format!("https://trial.test:{}/", address.port());
    let output = Command::new("curl")
        .args(["-sk", "--resolve", &format!("trial.test:{}:127.0.0.1", address.port()), &url])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x");
}
