//! One probe: a connection, and what is asked on it.
//!
//! Reasons of failures are plain words, because operators read them.

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use tokio::time::{Instant, timeout_at};

use super::{grpc, http as over_http};
use crate::balance::Endpoint;
use crate::config::model::{Health, Probe, ProbeFields, Protocol};
use crate::error::Kind;
use crate::snapshot::Balanced;
use crate::upstream::{shown, why_unconnected};

/// Why a probe failed, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There was no connection, or TLS failed.
    Connect(String),
    /// There was no answer, or not the right one.
    Answer(String),
    /// We had no descriptor, port or memory for it, which says nothing about the endpoint.
    Ours(String),
}

/// Whom a request is for.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) host: HeaderValue,
    pub(super) scheme: Scheme,
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Connect(reason) | Self::Answer(reason) | Self::Ours(reason) => reason,
        }
    }
}

impl Target {
    fn of(balanced: &Balanced, endpoint: &Endpoint, fields: &ProbeFields) -> Result<Self, Failure> {
        let host = match &fields.host {
            Some(host) => host.clone(),
            None => HeaderValue::try_from(balanced.default_host(endpoint))
                .map_err(|error| Failure::Answer(error.to_string()))?,
        };
        let scheme = if balanced.dialer.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Self { protocol: balanced.protocol, host, scheme })
    }

    /// The whole of it, as HTTP/2 has it.
    pub(super) fn uri(&self, path: PathAndQuery) -> Result<Uri, http::Error> {
        let authority = self.host.as_bytes();
        Uri::builder().scheme(self.scheme.clone()).authority(authority).path_and_query(path).build()
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
    let tls = balanced.probe_tls().zip(name.as_ref());
    let io = balanced.dialer.open(endpoint, health.port, tls, None, deadline).await.map_err(
        |error| {
            let why = why_unconnected(&error, health.timeout);
            if error.kind() == Kind::Exhausted { Failure::Ours(why) } else { Failure::Connect(why) }
        },
    )?;
    let asking = async {
        match &health.probe {
            Probe::Tcp => Ok(()),
            Probe::Http(probe) => {
                let target = Target::of(balanced, endpoint, &probe.fields)?;
                over_http::check(io, &target, probe).await.map_err(Failure::Answer)
            }
            Probe::Grpc { service, fields } => {
                let target = Target::of(balanced, endpoint, fields)?;
                let asked = (service.as_str(), fields);
                grpc::check(io, &target, asked, health.timeout).await.map_err(Failure::Answer)
            }
        }
    };
    timeout_at(deadline, asking).await.unwrap_or_else(|_| {
        Err(Failure::Answer(format!("no answer within {}", shown(health.timeout))))
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio_rustls::TlsAcceptor;

    use super::super::converse::{Beside, HEAD_BYTES_MAX};
    use super::*;
    use crate::config::model::HttpProbe;
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
    async fn a_body_must_contain_what_it_is_to_contain() {
        let health = "health = { path = \"/\", body_contains = \"all is well\" }";
        let ok = |body: &str| {
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n")
        };
        let parts = ok("8\r\nso: all \r\n8\r\nis well.\r\n");
        assert_eq!(answered(&parts, health).await.0, Ok(()));
        let other = ok("6\r\nbroken\r\n");
        let absent = failed("the body does not contain \"all is well\"");
        assert_eq!(answered(&other, health).await.0, absent);
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(answered(empty, health).await.0, absent);
        // Only so much is looked through, and nothing of an answer that is wrong anyway.
        let late = format!("11000\r\n{}all is well\r\n", "x".repeat(0x11000 - 11));
        assert_eq!(answered(&ok(&late), health).await.0, absent);
        let status = parts.replace("200 OK", "500 No");
        assert_eq!(answered(&status, health).await.0, failed("status 500"));
        let cut = parts.replace("8\r\nis well.", "9\r\nis we");
        let cut = cut.trim_end_matches("0\r\n\r\n").trim_end();
        let (listener, address) = listener().await;
        let close = async { drop(origin(&listener, cut).await) };
        let (result, ()) = tokio::join!(probed(&address, health, &[]), close);
        assert!(matches!(result, Err(Failure::Answer(_))), "{result:?}");
    }

    #[tokio::test]
    async fn a_probe_has_fields_of_its_own() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let health = "health = { path = \"/\", headers = { user-agent = \"me\", X-A = \"1\" } }";
        let (result, head) = answered(ok, health).await;
        assert_eq!(result, Ok(()));
        assert!(
            head.contains("\r\nx-a: 1\r\n") && head.contains("\r\nuser-agent: me\r\n"),
            "{head}"
        );
        assert!(!head.contains("headwater-health"), "{head}");
    }

    type Answering = fn(&Request<Incoming>) -> (u16, &'static [u8], &'static str);

    /// Takes one connection and answers over HTTP/2: a status, a body, and the gRPC status of its
    /// trailers.
    async fn h2_origin(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, answer: Answering) {
        let service = service_fn(move |request: Request<Incoming>| {
            let (status, body, code) = answer(&request);
            let trailers = HeaderMap::from_iter([(
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )]);
            let body = Full::new(Bytes::from_static(body))
                .with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let beside = Beside::default();
        let serving =
            server::Builder::new(beside.clone()).serve_connection(TokioIo::new(stream), service);
        let _ = beside.run(serving).await;
    }

    async fn over_h2(rest: &str, answer: Answering) -> Result<(), Failure> {
        let (listener, address) = listener().await;
        let origin = async { h2_origin(listener.accept().await.unwrap().0, answer).await };
        tokio::select! {
            result = probed(&address, rest, &[]) => result,
            () = origin => failed("the origin ended"),
        }
    }

    const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

    #[tokio::test]
    async fn a_grpc_probe_asks_for_its_service() {
        let health =
            "health = { grpc = \"shop.Cart\", host = \"shop\", headers = { x-a = \"1\" } }";
        let result = over_h2(health, |request| {
            let field = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok());
            let uri = request.uri().to_string();
            let fields = ["content-type", "te", "grpc-timeout", "x-a"].map(field);
            let right = uri == "http://shop/grpc.health.v1.Health/Check"
                && request.method() == "POST"
                && fields == [Some("application/grpc"), Some("trailers"), Some("2000m"), Some("1")];
            (200, SERVING, if right { "0" } else { "2" })
        });
        assert_eq!(result.await, Ok(()));
        let refused = over_h2("health = { grpc = \"\" }", |_| (200, b"", "5")).await;
        assert_eq!(refused, failed("gRPC status 5: it does not know the service"));
        let busy = over_h2("health = { grpc = \"\" }", |_| (200, b"\0\0\0\0\x02\x08\x02", "0"));
        assert_eq!(busy.await, failed("it says that it is not serving"));
    }

    #[tokio::test]
    async fn a_grpc_probe_of_a_server_that_speaks_something_else_fails_in_words() {
        let (listener, address) = listener().await;
        let health = "health = { grpc = \"\" }";
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream
        };
        let (result, _stream) = tokio::join!(probed(&address, health, &[]), answer);
        let Err(Failure::Answer(reason)) = result else { unreachable!("it speaks HTTP/1.1") };
        assert!(reason.starts_with("no answer over HTTP/2: "), "{reason}");
    }

    #[tokio::test]
    async fn where_endpoints_speak_http_2_so_do_probes() {
        let (listener, address) = listener().await;
        let snapshot = snapshot(&format!("[pool.app]\nendpoints = [\"{address}\"]\n"), &[], None);
        let balanced = snapshot.backends["app"].balanced().unwrap();
        let endpoint = &balanced.pool.members()[0].endpoint;
        let deadline = Instant::now() + Duration::from_secs(10);
        let io = balanced.dialer.open(endpoint, None, None, None, deadline).await.unwrap();
        let target = Target {
            protocol: Protocol::H2,
            host: HeaderValue::from_static("app.test"),
            scheme: Scheme::HTTP,
        };
        let probe = HttpProbe {
            method: http::Method::GET,
            path: PathAndQuery::from_static("/up?x"),
            fields: ProbeFields::default(),
            expect: crate::config::model::StatusSet(vec![(200, 200)]),
            body_contains: Some("well".to_owned()),
        };
        let origin = h2_origin(listener.accept().await.unwrap().0, |request| {
            let right = request.uri() == "http://app.test/up?x" && request.method() == "GET";
            (if right { 200 } else { 400 }, b"all is well", "0")
        });
        tokio::select! {
            result = over_http::check(io, &target, &probe) => assert_eq!(result, Ok(())),
            () = origin => unreachable!("the origin waits"),
        }
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

    /// Takes one TLS connection, if its handshake succeeds.
    async fn tls_accept(
        listener: &TcpListener,
        identity: &SelfSigned,
        alpn: &[&[u8]],
    ) -> Option<tokio_rustls::server::TlsStream<tokio::net::TcpStream>> {
        use rustls_pki_types::pem::PemObject;
        use rustls_pki_types::{CertificateDer, PrivateKeyDer};

        let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()
    }

    /// Answers one request through TLS.
    async fn tls_origin(listener: &TcpListener, identity: &SelfSigned) {
        if let Some(mut stream) = tls_accept(listener, identity, &[]).await {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
            let _ = stream.read(&mut head).await;
        }
    }

    #[tokio::test]
    async fn a_grpc_probe_through_tls_agrees_on_http_2() {
        let own = certificate();
        let (listener, address) = listener().await;
        let rest = "tls = { ca = \"ca.pem\" }\nhealth = { grpc = \"\" }";
        let files = [("ca.pem", own.cert.as_str())];
        let origin = async {
            let stream = tls_accept(&listener, &own, &[b"http/1.1", b"h2"]).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            h2_origin(stream, |request| {
                let right = request.uri().scheme() == Some(&Scheme::HTTPS);
                (200, SERVING, if right { "0" } else { "2" })
            })
            .await;
        };
        tokio::select! {
            result = probed(&address, rest, &files) => assert_eq!(result, Ok(())),
            () = origin => unreachable!("the origin waits"),
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
