use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::diagnostics::{FileId, Span};
use crate::config::model::CertificateFiles;
use crate::tls::generate::self_signed;
use crate::tls::{load, provider};

fn quick(body_bytes_max: usize) -> Bounds {
    let patience = Duration::from_secs(5);
    Bounds { connect_timeout: patience, total_timeout: patience, body_bytes_max }
}

fn get(url: String) -> Request<Bytes> {
    Request::get(url).body(Bytes::new()).unwrap()
}

/// Reads a head and says `answer`.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer).await.unwrap();
    stream.shutdown().await.unwrap();
    String::from_utf8(head).unwrap()
}

/// One plain call, and the head that the server saw.
async fn call(bytes: &[u8], path: &str) -> (Result<Response<Bytes>, Error>, String) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", server.local_addr().unwrap());
    let client = Client::new(None, quick(10)).unwrap();
    let accept = async { answer(server.accept().await.unwrap().0, bytes).await };
    tokio::join!(client.send(get(url)), accept)
}

#[tokio::test]
async fn an_answer_is_read_whole_whatever_its_status() {
    let (answer, head) = call(b"HTTP/1.1 429 No\r\nretry-after: 7\r\n\r\nslow", "/a?b=c").await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (429, &b"slow"[..]));
    assert_eq!(answer.headers()["retry-after"], "7");
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: 127.0.0.1:"), "{head}");
    assert!(head.contains("\r\nuser-agent: headwater/"), "{head}");
}

#[tokio::test]
async fn a_body_over_the_bound_is_an_error() {
    let (answer, _) = call(b"HTTP/1.1 200 OK\r\n\r\n01234567890", "/").await;
    let error = answer.unwrap_err();
    assert_eq!(error.step(), Step::Answer);
    assert!(error.to_string().ends_with("its body is larger than 10 bytes"), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    for broken in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"] {
        let (answer, _) = call(broken, "/secret").await;
        let error = answer.unwrap_err();
        assert_eq!((error.step(), error.is_timeout()), (Step::Answer, false));
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_with_the_total_timeout() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", server.local_addr().unwrap());
    let error = Client::new(None, quick(10)).unwrap().send(get(url)).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(None, quick(10)).unwrap();
    let error = client.send(get(format!("http://{gone}/"))).await.unwrap_err();
    assert_eq!(error.step(), Step::Connect);
    assert!(error.to_string().starts_with(&format!("cannot connect to {gone}: ")), "{error}");
}

#[tokio::test]
async fn urls_that_cannot_be_called_are_refused() {
    let client = Client::new(None, quick(10)).unwrap();
    for url in ["/path", "ftp://host/", "http://user:password@host/"] {
        let error = client.send(get(url.to_owned())).await.unwrap_err();
        assert_eq!(error.step(), Step::Url, "{url}");
        assert!(!error.to_string().contains("password"), "{error}");
    }
}

/// A TLS call to a server whose certificate is for `name`, by `localhost`.
async fn secure(name: &str, trusts_it: bool) -> Result<Response<Bytes>, Error> {
    let [own, other] = [name, "localhost"].map(|name| {
        let made = self_signed(&[name], SystemTime::now()).unwrap();
        let file =
            |bytes: &str| FileContent { path: "a.pem".into(), bytes: bytes.as_bytes().into() };
        let span = Span { file: FileId(0), start: 0, end: 1 };
        CertificateFiles { cert: file(&made.cert), key: file(&made.key), span }
    });
    let certified = load::certificate(&own).unwrap().certified;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", server.local_addr().unwrap().port());
    let ca = if trusts_it { &own } else { &other };
    let client = Client::new(Some(&ca.cert), quick(10)).unwrap();
    let accept = async {
        let stream = acceptor.accept(server.accept().await?.0).await?;
        answer(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        io::Result::Ok(())
    };
    tokio::join!(client.send(get(url)), accept).0
}

#[tokio::test]
async fn tls_trusts_the_given_authority_for_the_name_alone() {
    assert_eq!(&secure("localhost", true).await.unwrap().body()[..], b"ok");
    for (name, trusts_it) in [("localhost", false), ("other.test", true)] {
        let error = secure(name, trusts_it).await.unwrap_err();
        assert_eq!(error.step(), Step::Tls, "{error}");
    }
}

#[tokio::test]
async fn a_call_may_move_between_threads() {
    let client = Client::new(None, quick(10)).unwrap();
    let call: std::pin::Pin<Box<dyn Future<Output = _> + Send>> =
        Box::pin(async move { client.send(get("/path".to_owned())).await });
    assert!(call.await.is_err());
}
