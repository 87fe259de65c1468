//! Pebble, the ACME server for tests of Let's Encrypt (Debian package `pebble`), and a proxy in front
//! of it that knows of renewal information (RFC 9773), which Pebble 2.4 does not.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Authority, Client, Dns, Folder, Origin, Request, Tls, eventually};

/// A running server; killed when dropped.
pub struct Pebble {
    child: Child,
    pub port: u16,
    management: u16,
    tls: Tls,
}

/// Where it looks at hosts, and what it issues.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub http_port: u16,
    pub tls_port: u16,
    /// Of certificates, in seconds.
    pub life: u32,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Terms {
    pub fn living(life: u32) -> Self {
        Self { http_port: free_port(), tls_port: free_port(), life }
    }
}

impl Pebble {
    /// Begins with a certificate of the authority, which it also writes as `ca.crt`.
    pub fn start(folder: &Folder, authority: &Authority, dns: &Dns, terms: Terms) -> Self {
        folder.write("ca.crt", authority.pem());
        authority.write(folder, "pebble", &["127.0.0.1"]);
        let (port, management) = (free_port(), free_port());
        let path = |name: &str| folder.join(name).display().to_string();
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("pebble.crt"), "privateKey": path("pebble.key"),
            "httpPort": terms.http_port, "tlsPort": terms.tls_port, "ocspResponderURL": "",
            "externalAccountBindingRequired": false, "certificateValidityPeriod": terms.life,
        } });
        let file = folder.write("pebble.json", config.to_string());
        let child = Command::new("pebble")
            .arg("-config")
            .arg(file)
            .arg("-dnsserver")
            .arg(dns.address.to_string())
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            // Each order is looked at anew.
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pebble = Self { child, port, management, tls: Tls::new(authority).named("127.0.0.1") };
        for port in [port, management] {
            eventually("pebble", || TcpStream::connect(("127.0.0.1", port)).ok());
        }
        pebble
    }

    /// The status of a certificate, and why it was revoked, by its serial number in hexadecimal.
    pub fn status_of(&self, serial: &str) -> Value {
        let address = SocketAddr::from(([127, 0, 0, 1], self.management));
        Client::tls(address, &self.tls).get(&format!("/cert-status-by-serial/{serial}"), &[]).json()
    }
}

/// What the proxy has heard and is to say.
#[derive(Debug, Default)]
struct Renewals {
    /// The windows by certificate, each a beginning and an end; others get a far one.
    windows: HashMap<String, [String; 2]>,
    asked: Vec<String>,
    replaced: Vec<String>,
}

/// A proxy of one Pebble that adds renewal information; it wants TLS in front of it, because signed
/// requests name their URL.
pub struct Informing {
    pub origin: Origin,
    renewals: Arc<Mutex<Renewals>>,
}

const RENEWAL_INFO: &str = "/renewal-info/";
const FAR: [&str; 2] = ["2090-01-01T00:00:00Z", "2090-01-02T00:00:00Z"];

impl Informing {
    pub fn start(pebble: &Pebble) -> Self {
        let renewals = Arc::<Mutex<Renewals>>::default();
        let (shared, tls) = (renewals.clone(), pebble.tls.clone());
        let address = SocketAddr::from(([127, 0, 0, 1], pebble.port));
        let origin =
            Origin::answering(move |request| match request.target().strip_prefix(RENEWAL_INFO) {
                Some(certificate) => informed(&mut shared.lock().unwrap(), certificate),
                None => passed(&mut shared.lock().unwrap(), request, address, &tls),
            });
        Self { origin, renewals }
    }

    /// Says from now on when a certificate is to be renewed.
    pub fn say(&self, certificate: &str, window: [&str; 2]) {
        let window = window.map(str::to_owned);
        self.renewals.lock().unwrap().windows.insert(certificate.to_owned(), window);
    }

    /// The certificates that were asked about.
    pub fn asked(&self) -> Vec<String> {
        self.renewals.lock().unwrap().asked.clone()
    }

    /// Those that new orders were said to replace.
    pub fn replaced(&self) -> Vec<String> {
        self.renewals.lock().unwrap().replaced.clone()
    }
}

fn informed(renewals: &mut Renewals, certificate: &str) -> Vec<u8> {
    renewals.asked.push(certificate.to_owned());
    let window = renewals.windows.get(certificate);
    let [start, end] = window.cloned().unwrap_or_else(|| FAR.map(str::to_owned));
    let body = json!({
        "suggestedWindow": { "start": start, "end": end },
        "explanationURL": "https://authority.test/incident",
    });
    answered("200 OK", &["Retry-After: 21600".to_owned()], &body.to_string())
}

fn answered(status: &str, fields: &[String], body: &str) -> Vec<u8> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Asks Pebble, which writes the host that it is asked by into its URLs.
fn passed(renewals: &mut Renewals, request: &Request, to: SocketAddr, tls: &Tls) -> Vec<u8> {
    let body = String::from_utf8(request.body.clone()).unwrap();
    let host = request.header("host").unwrap();
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n",
        request.method(),
        request.target(),
        body.len()
    );
    if let Some(kind) = request.header("content-type") {
        head += &format!("Content-Type: {kind}\r\n");
    }
    let mut client = Client::tls(to, tls);
    client.send(format!("{head}\r\n{body}"));
    let answer = match request.method() {
        "HEAD" => client.head_answer(),
        _ => client.answer(),
    };
    let kept = ["content-type", "location", "link", "replay-nonce", "retry-after"];
    let fields: Vec<_> = kept
        .iter()
        .filter_map(|name| answer.header(name).map(|value| format!("{name}: {value}")))
        .collect();
    let mut text = answer.text();
    if request.target() == "/dir" {
        text = with(
            &text,
            "renewalInfo",
            format!("https://{host}{}", RENEWAL_INFO.trim_end_matches('/')),
        );
    } else if let Some(replaced) = replaces(&body) {
        renewals.replaced.push(replaced.clone());
        text = with(&text, "replaces", replaced);
    }
    answered(&answer.status.to_string(), &fields, &text)
}

fn with(text: &str, key: &str, value: String) -> String {
    let mut object: Value = serde_json::from_str(text).unwrap();
    object[key] = value.into();
    object.to_string()
}

/// What a signed order says that it replaces.
fn replaces(body: &str) -> Option<String> {
    let signed: Value = serde_json::from_str(body).ok()?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(signed["payload"].as_str()?).ok()?;
    let order: Value = serde_json::from_slice(&payload).ok()?;
    Some(order["replaces"].as_str()?.to_owned())
}
