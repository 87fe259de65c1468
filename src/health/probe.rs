//! One probe: a connection, and for HTTP one request on it.
//!
//! Reasons of failures are plain words, because operators read them. Deliberately absent: the
//! body of the answer; its head decides.

use std::error::Error as StdError;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::balance::Endpoint;
use crate::config::model::{Health, Probe};
use crate::error::{Error, Kind};
use crate::snapshot::Balanced;
use crate::upstream::UpstreamIo;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Fields in the head of an answer.
const FIELDS_MAX: usize = 100;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("headwater-health/", env!("CARGO_PKG_VERSION")));

/// Why a probe failed, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There was no connection, or TLS failed.
    Connect(String),
    /// There was no answer, or not the right one.
    Answer(String),
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Connect(reason) | Self::Answer(reason) => reason,
        }
    }
}

/// Probes `endpoint` once, within the `timeout` of its checks.
pub(super) async fn probe(
    balanced: &Balanced,
    endpoint: &Endpoint,
    health: &Health,
) -> Result<(), Failure> {
    if !endpoint.is_resolved() {
        return Err(Failure::Answer("the name is not resolved".to_owned()));
    }
    let deadline = Instant::now() + health.timeout;
    let name = balanced.server_name(endpoint);
    let dialer = &balanced.dialer;
    let io = dialer
        .open(endpoint, health.port, name.as_ref(), None, deadline)
        .await
        .map_err(|error| Failure::Connect(why_unconnected(&error, health.timeout)))?;
    let Probe::Http { method, path, host, expect } = &health.probe else { return Ok(()) };
    let request = Request::builder()
        .method(method)
        .uri(path.as_str())
        .header(HOST, host.clone().map_or_else(|| default_host(endpoint), Ok)?)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .map_err(|error| Failure::Answer(error.to_string()))?;
    match timeout_at(deadline, exchange(io, request)).await {
        Ok(Ok(status)) if expect.contains(status) => Ok(()),
        Ok(Ok(status)) => Err(Failure::Answer(format!("status {}", status.as_u16()))),
        Ok(Err(error)) => Err(Failure::Answer(why_unanswered(&error))),
        Err(_) => Err(Failure::Answer(format!("no answer within {}", shown(health.timeout)))),
    }
}

fn default_host(endpoint: &Endpoint) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(Balanced::default_host(&endpoint.address))
        .map_err(|error| Failure::Answer(error.to_string()))
}

/// Sends the request and waits for the head of the answer.
async fn exchange(
    io: UpstreamIo,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, hyper::Error> {
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(FIELDS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(io))
        .await?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // It has delivered the answer by then, or never will.
        _ = connection => response.await,
    };
    response.map(|response| response.status())
}

fn why_unconnected(error: &Error, timeout: Duration) -> String {
    if error.kind() == Kind::ConnectTimeout {
        return format!("no connection within {}", shown(timeout));
    }
    let Some(error) = error.cause().and_then(|cause| cause.downcast_ref::<io::Error>()) else {
        return error.to_string();
    };
    match error.kind() {
        io::ErrorKind::TimedOut => format!("no connection within {}", shown(timeout)),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        // Connecting alone reads nothing, so this is the handshake.
        io::ErrorKind::UnexpectedEof => "TLS: connection closed during the handshake".to_owned(),
        _ => why_io_failed(error),
    }
}

fn why_io_failed(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(tls) = inner {
        return format!("TLS: {tls}");
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed without an answer".to_owned(),
        _ => error.to_string(),
    }
}

fn why_unanswered(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        return "the head of the answer is too large".to_owned();
    }
    if error.is_parse() || error.is_parse_status() {
        return "the answer is not HTTP/1.1".to_owned();
    }
    if error.is_incomplete_message() {
        return "connection closed without an answer".to_owned();
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => why_io_failed(source),
        None => error.to_string(),
    }
}

fn shown(timeout: Duration) -> String {
    if timeout.subsec_nanos() == 0 {
        format!("{} s", timeout.as_secs())
    } else {
        format!("{} ms", timeout.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::snapshot::testing::snapshot;
    use crate::tls::generate::{SelfSigned, self_signed};
    use crate::tls::provider;

    /// Probes the only endpoint of a pool, defined by the rest of its section and its files.
    async fn probed(address: &str, rest: &str, files: &[(&str, &str)]) -> Result<(), Failure> {
        let text = format!("[pool.app]\nendpoints = [\"{address}\"]\n{rest}\n");
        let snapshot = snapshot(&text, files, None);
        let balanced = snapshot.backends["app"].balanced().unwrap();
        let health = balanced.pool.health().unwrap();
        probe(balanced, &balanced.pool.members()[0].endpoint, health).await
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// Takes one connection, reads a request head, answers, and keeps the connection.
    async fn origin(listener: &TcpListener, answer: &str) -> (String, tokio::net::TcpStream) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        (String::from_utf8(head).unwrap(), stream)
    }

    async fn answered(answer: &str, rest: &str) -> (Result<(), Failure>, String) {
        let (listener, address) = listener().await;
        let (result, (head, _)) =
            tokio::join!(probed(&address, rest, &[]), origin(&listener, answer));
        (result, head.replace(&address, "ADDRESS"))
    }

    fn failed(reason: &str) -> Result<(), Failure> {
        Err(Failure::Answer(reason.to_owned()))
    }

    #[tokio::test]
    async fn the_request_names_the_endpoint_and_the_prober() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
        let (result, head) = answered(ok, "health = { path = \"/up?q=1\" }").await;
        assert_eq!(result, Ok(()));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            head,
            format!(
                "GET /up?q=1 HTTP/1.1\r\nhost: ADDRESS\r\nuser-agent: headwater-health/{version}\r\n\
                 connection: close\r\n\r\n"
            )
        );
        let custom = "health = { path = \"/\", method = \"HEAD\", host = \"app.test\" }";
        let (result, head) = answered(ok, custom).await;
        assert_eq!(result, Ok(()));
        assert!(head.starts_with("HEAD / HTTP/1.1\r\nhost: app.test\r\n"), "{head}");
    }

    #[tokio::test]
    async fn only_expected_statuses_are_healthy() {
        let found = "HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n";
        let (result, _) = answered(found, "health = { path = \"/\" }").await;
        assert_eq!(result, failed("status 302"));
        let expecting = "health = { path = \"/\", expect = [\"200-399\"] }";
        assert_eq!(answered(found, expecting).await.0, Ok(()));
    }

    #[tokio::test]
    async fn what_is_not_http_or_too_large_is_said_so() {
        let health = "health = { path = \"/\" }";
        let (result, _) = answered("220 mail.test ESMTP\r\n", health).await;
        assert_eq!(result, failed("the answer is not HTTP/1.1"));
        let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let (result, _) = answered(&large, health).await;
        assert_eq!(result, failed("the head of the answer is too large"));
    }

    #[tokio::test]
    async fn a_connection_that_closes_first_is_no_answer() {
        let (listener, address) = listener().await;
        let close = async { drop(origin(&listener, "").await) };
        let (result, ()) = tokio::join!(probed(&address, "health = { path = \"/\" }", &[]), close);
        assert_eq!(result, failed("connection closed without an answer"));
    }

    #[tokio::test]
    async fn an_endpoint_that_hangs_does_not_answer_within_the_timeout() {
        let (_listener, address) = listener().await;
        let health = "health = { path = \"/\", timeout = \"50ms\" }";
        assert_eq!(probed(&address, health, &[]).await, failed("no answer within 50 ms"));
        assert_eq!(shown(Duration::from_secs(2)), "2 s");
    }

    #[tokio::test]
    async fn a_tcp_probe_is_content_with_a_connection_to_its_port() {
        let (_listener, address) = listener().await;
        assert_eq!(probed(&address, "health = { tcp = true }", &[]).await, Ok(()));

        let port = address.rsplit_once(':').unwrap().1;
        let (closed, other) = self::listener().await;
        drop(closed);
        let health = format!("health = {{ tcp = true, port = {port} }}");
        assert_eq!(probed(&other, &health, &[]).await, Ok(()));
        let refused = Failure::Connect("connection refused".to_owned());
        assert_eq!(probed(&other, "health = { tcp = true }", &[]).await, Err(refused));
    }

    #[tokio::test]
    async fn a_unix_socket_is_probed_and_its_absence_said() {
        let name = format!("headwater-probe-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let address = format!("unix:{}", path.display());
        let missing = Failure::Connect("there is no such socket".to_owned());
        assert_eq!(probed(&address, "health = { tcp = true }", &[]).await, Err(missing));
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(probed(&address, "health = { tcp = true }", &[]).await, Ok(()));
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_name_without_address_fails_without_connecting() {
        let result = probed("a.test:80", "health = { tcp = true }", &[]).await;
        assert_eq!(result, failed("the name is not resolved"));
    }

    fn certificate() -> SelfSigned {
        self_signed(&["127.0.0.1"], SystemTime::now()).unwrap()
    }

    /// Takes one TLS connection and answers a request on it.
    async fn tls_origin(listener: &TcpListener, identity: &SelfSigned) {
        use rustls_pki_types::pem::PemObject;
        use rustls_pki_types::{CertificateDer, PrivateKeyDer};

        let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
            let _ = stream.read(&mut head).await;
        }
    }

    #[tokio::test]
    async fn with_tls_the_certificate_is_verified() {
        let (own, strange) = (certificate(), certificate());
        let rest = "tls = { ca = \"ca.pem\" }\nhealth = { path = \"/\" }";
        let verify = async |ca: &str| {
            let (listener, address) = listener().await;
            let files = [("ca.pem", ca)];
            tokio::join!(probed(&address, rest, &files), tls_origin(&listener, &own)).0
        };
        assert_eq!(verify(&own.cert).await, Ok(()));
        let Err(Failure::Connect(reason)) = verify(&strange.cert).await else {
            unreachable!("a strange certificate is refused")
        };
        assert!(reason.starts_with("TLS: invalid peer certificate"), "{reason}");
    }
}
