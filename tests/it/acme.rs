//! Certificates by ACME, from the test server of Let's Encrypt (Debian package `pebble`).

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use crate::support::{Authority, Folder, Origin, Proxy, Setup, eventually, ok};

const HOST: &str = "localhost";

/// A running server; killed when dropped.
struct Pebble {
    child: Child,
    port: u16,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Begins with a certificate of the same authority that the proxy trusts for it. Certificates live
/// for so many seconds; challenges are looked for at `http_port`.
fn pebble(folder: &Folder, authority: &Authority, http_port: u16, life: u32) -> Pebble {
    folder.write("ca.crt", authority.pem());
    authority.write(folder, "pebble", &["127.0.0.1"]);
    let port = free_port();
    let path = |name: &str| folder.join(name).display().to_string();
    let config = serde_json::json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{port}"),
        "managementListenAddress": format!("127.0.0.1:{}", free_port()),
        "certificate": path("pebble.crt"), "privateKey": path("pebble.key"),
        "httpPort": http_port, "tlsPort": free_port(), "ocspResponderURL": "",
        "externalAccountBindingRequired": false, "certificateValidityPeriod": life,
    } });
    let file = folder.write("pebble.json", config.to_string());
    let child = Command::new("pebble")
        .arg("-config")
        .arg(file)
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pebble = Pebble { child, port };
    eventually("pebble", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    pebble
}

fn setup(origin: &Origin, pebble_port: u16, http_port: u16) -> Setup {
    Setup::of(&[origin])
        .listener("https_redirect = true")
        .listener(&format!("bind = \"127.0.0.1:{http_port}\""))
        .text(&format!(
            "[listener.tls]\nbind = \"127.0.0.1:0\"\n\
             tls.certificates = [{{ cert = \"first.crt\", key = \"first.key\" }}]\n\
             tls.directory = \"certs\"\n\
             [acme]\ndirectory = \"https://127.0.0.1:{pebble_port}/dir\"\nca = \"ca.crt\"\n\
             accept_terms = true\nfolder = \"certs\"\n\
             contact = [\"mailto:ops@example.com\"]\ncertificates = {{ site = [\"{HOST}\"] }}\n"
        ))
}

fn folder(authority: &Authority) -> Folder {
    let folder = Folder::new();
    authority.write(&folder, "first", &["first.test"]);
    std::fs::create_dir(folder.join("certs")).unwrap();
    folder
}

/// What OpenSSL says of the certificate that it is shown for the host.
fn shown(proxy: &Proxy) -> String {
    let address = proxy.address_of("tls").to_string();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", HOST])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (before, _) = text.split_once("-----END CERTIFICATE-----").unwrap();
    before.to_owned()
}

fn orders(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("headwater_acme_orders_total{{result=\"{result}\"}}"))
}

#[test]
fn a_certificate_is_issued_served_and_renewed_after_two_thirds_of_its_life() {
    let (authority, origin) = (Authority::new(), Origin::answering(|_| ok("x")));
    let folder = folder(&authority);
    let http_port = free_port();
    let pebble = pebble(&folder, &authority, http_port, 12);
    let proxy = setup(&origin, pebble.port, http_port).start_in(folder);
    proxy.wait_for_log("certificate issued certificate=");
    let first = eventually("the certificate to be served", || {
        Some(shown(&proxy)).filter(|text| text.contains("Pebble Intermediate CA"))
    });
    for name in ["account.json", "site.crt", "site.key"] {
        let file = std::fs::metadata(proxy.folder.join("certs").join(name)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
    }
    eventually("the renewal", || (orders(&proxy, "issued") >= 2.0).then_some(()));
    eventually("the next certificate", || (shown(&proxy) != first).then_some(()));
    assert_eq!(orders(&proxy, "failed"), 0.0);
    // Nothing of the challenge is left, and what is not one of ours goes to the route.
    assert_eq!(proxy.get("/.well-known/acme-challenge/none", &[]).text(), "x");
    assert_eq!(proxy.get("/other", &[]).status, 308);
}

#[test]
fn a_validation_that_fails_keeps_what_there_is_and_waits() {
    let (authority, origin) = (Authority::new(), Origin::answering(|_| ok("x")));
    let folder = folder(&authority);
    let held = authority.issue(&["old.test"]);
    std::fs::write(folder.join("certs/site.crt"), &held.cert).unwrap();
    std::fs::write(folder.join("certs/site.key"), &held.key).unwrap();
    // Nobody answers where the authority looks.
    let pebble = pebble(&folder, &authority, free_port(), 3600);
    let proxy = setup(&origin, pebble.port, free_port()).start_in(folder);
    let line = proxy.wait_for_log("certificate not issued");
    assert!(line.contains("localhost") && line.contains("wait=120s"), "{line}");
    let kept = std::fs::read_to_string(proxy.folder.join("certs/site.crt")).unwrap();
    assert_eq!(kept, held.cert);
    assert_eq!((orders(&proxy, "issued"), orders(&proxy, "failed")), (0.0, 1.0));
}
