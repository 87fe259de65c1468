//! Certificates and handshakes in memory, for the tests of this module.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use x509_parser::asn1_rs::{Any, FromDer, OctetString, Sequence};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::state::Plan;
use super::{generate, provider};
use crate::config::diagnostics::{FileId, Span};
use crate::config::model::{CertificateFiles, FileContent, ListenerTls, Protocols, TlsVersion};

pub(super) const DAY: u64 = 24 * 60 * 60;
const PIPE_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Ecdsa,
    Ed25519,
    Rsa,
}

/// RSA keys take long to find, so all tests share one.
pub(super) fn key_pair(key: Key) -> KeyPair {
    static RSA: LazyLock<String> =
        LazyLock::new(|| KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem());
    match key {
        Key::Ecdsa => KeyPair::generate().unwrap(),
        Key::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        Key::Rsa => KeyPair::from_pem(&RSA).unwrap(),
    }
}

/// Valid for two thousand years, with the first name as its subject.
pub(super) fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let subject = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, subject);
    params
}

/// A leaf, the authority that issued it, and the key of the leaf.
pub(super) fn chain(names: &[&str]) -> (String, String, String) {
    let mut authority = params(&["authority.test"]);
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority.clone(), key_pair(Key::Ecdsa));
    let key = key_pair(Key::Ecdsa);
    let leaf = params(names).signed_by(&key, &issuer).unwrap();
    (leaf.pem(), authority.self_signed(issuer.key()).unwrap().pem(), key.serialize_pem())
}

/// Self-signed files.
pub(super) fn files(names: &[&str], key: Key) -> CertificateFiles {
    let key = key_pair(key);
    pair(&params(names).self_signed(&key).unwrap().pem(), &key.serialize_pem())
}

/// What the demonstration would use.
pub(super) fn generated(names: &[&str], now: SystemTime) -> CertificateFiles {
    let made = generate::self_signed(names, now).unwrap();
    pair(&made.cert, &made.key)
}

pub(super) fn pair(cert: &str, key: &str) -> CertificateFiles {
    CertificateFiles {
        cert: file("site.crt", cert.as_bytes()),
        key: file("site.key", key.as_bytes()),
        span: span(0),
    }
}

pub(super) fn file(path: &str, bytes: &[u8]) -> FileContent {
    FileContent { path: PathBuf::from(path), bytes: bytes.into() }
}

pub(super) fn span(start: u32) -> Span {
    Span { file: FileId(0), start, end: start + 1 }
}

pub(super) fn listener(certificates: Vec<CertificateFiles>) -> ListenerTls {
    ListenerTls {
        certificates,
        directory: None,
        self_signed: None,
        min_version: TlsVersion::V1_2,
        ticket_keys: None,
        client_auth: Vec::new(),
    }
}

/// For a listener called `web` that speaks both protocols.
pub(super) fn plan(tls: &ListenerTls) -> Plan<'_> {
    Plan { listener: "web", tls, protocols: Protocols { h1: true, h2: true } }
}

/// The key within PKCS#8, in the form that its kind had before: PKCS#1 or SEC1.
pub(super) fn older_form(key: &KeyPair, label: &str) -> String {
    let (_, pkcs8) = Sequence::from_der(key.serialized_der()).unwrap();
    let (rest, _version) = Any::from_der(&pkcs8.content).unwrap();
    let (rest, _algorithm) = Any::from_der(rest).unwrap();
    let (_, inner) = OctetString::from_der(rest).unwrap();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(inner.as_ref()))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |bits, i| bits << 8 | group.get(i).map_or(0, |b| usize::from(*b)));
        for place in 0..4 {
            let sextet = bits >> (18 - 6 * place) & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

/// A client that believes every certificate and accepts only some signatures.
#[derive(Debug, Clone)]
pub(super) struct Accepting {
    pub(super) schemes: Vec<SignatureScheme>,
    /// `None`: both.
    pub(super) version: Option<&'static SupportedProtocolVersion>,
}

impl Default for Accepting {
    fn default() -> Self {
        let schemes = provider().signature_verification_algorithms.supported_schemes();
        Self { schemes, version: None }
    }
}

impl Accepting {
    pub(super) fn with_version(version: &'static SupportedProtocolVersion) -> Self {
        Self { version: Some(version), ..Self::default() }
    }

    pub(super) fn config(self) -> Arc<ClientConfig> {
        let versions = self.version.map_or(rustls::DEFAULT_VERSIONS.to_vec(), |one| vec![one]);
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self))
            .with_no_client_auth();
        Arc::new(config)
    }
}

impl ServerCertVerifier for Accepting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Both ends of a connection after its handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    client: client::TlsStream<DuplexStream>,
    server: server::TlsStream<DuplexStream>,
}

/// Connects in memory and sends one byte, with which TLS 1.3 brings the tickets. The error is the
/// client's, if it has one.
pub(super) async fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<Handshake> {
    let (near, far) = duplex(PIPE_BYTES);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (client, server) = tokio::join!(
        TlsConnector::from(Arc::clone(client)).connect(name, near),
        TlsAcceptor::from(Arc::clone(server)).accept(far),
    );
    let (mut client, mut server) = (client?, server?);
    server.write_all(b"!").await?;
    server.flush().await?;
    client.read_u8().await?;
    Ok(Handshake { client, server })
}

impl Handshake {
    fn leaf(&self) -> X509Certificate<'_> {
        let (_, connection) = self.client.get_ref();
        X509Certificate::from_der(&connection.peer_certificates().unwrap()[0]).unwrap().1
    }

    /// The common name of the server's certificate.
    pub(super) fn certificate_name(&self) -> String {
        let leaf = self.leaf();
        leaf.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    }

    pub(super) fn key(&self) -> Key {
        match self.leaf().public_key().parsed().unwrap() {
            PublicKey::EC(_) => Key::Ecdsa,
            PublicKey::RSA(_) => Key::Rsa,
            _ => Key::Ed25519,
        }
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.server.get_ref().1.alpn_protocol()
    }

    pub(super) fn version(&self) -> Option<ProtocolVersion> {
        self.server.get_ref().1.protocol_version()
    }

    pub(super) fn group(&self) -> Option<NamedGroup> {
        self.server.get_ref().1.negotiated_key_exchange_group().map(|group| group.name())
    }

    /// As both ends see it.
    pub(super) fn kind(&self) -> Option<HandshakeKind> {
        let kind = self.server.get_ref().1.handshake_kind();
        (kind == self.client.get_ref().1.handshake_kind()).then_some(kind).flatten()
    }
}
