//! The TLS configuration of a pool: whom to trust, who we are, and which name is asked for.
//!
//! A pool has one configuration for all its endpoints, so that sessions are resumed. Deliberately
//! absent: connecting (`upstream`), revocation checks.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_native_certs::CertificateResult;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::error::LoadError;
use super::{load, pem, provider};
use crate::config::model::{Address, FileContent, UpstreamTls};

/// Server names whose sessions a pool remembers.
const SESSIONS_MAX: usize = 256;

/// The configuration that a pool connects with; `alpn` are the protocols that it speaks, the
/// preferred first.
pub fn client_config(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, LoadError> {
    let builder = trust(tls.ca.as_ref(), tls.verify)?;
    let mut config = match &tls.identity {
        Some(files) => {
            let identity = SingleCertAndKey::from(load::certificate(files)?.certified);
            builder.with_client_cert_resolver(Arc::new(identity))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// The name that an endpoint is asked for and that its certificate must cover: `sni`, or the
/// endpoint's own name or address. Addresses are verified, but never sent (RFC 6066 §3).
pub fn server_name(tls: &UpstreamTls, address: &Address) -> Result<ServerName<'static>, LoadError> {
    let name = match (&tls.sni, address) {
        (Some(sni), _) => sni,
        (None, Address::Name { host, .. }) => host,
        (None, Address::Socket(socket)) => return Ok(socket.ip().into()),
        (None, Address::Unix(_)) => {
            return Err(LoadError::NoServerName { endpoint: address.to_string() });
        }
    };
    ServerName::try_from(name.clone()).map_err(|_| LoadError::BadServerName { name: name.clone() })
}

/// The configuration of calls of our own, which trust the authorities in `ca`, or those of the
/// system, and show no certificate.
pub fn client_trusting(
    ca: Option<&FileContent>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, LoadError> {
    let mut config = trust(ca, true)?.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

fn trust(
    ca: Option<&FileContent>,
    verify: bool,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, LoadError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(match ca {
        _ if !verify => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms })),
        Some(file) => builder.with_root_certificates(own_roots(file)?),
        None => builder.with_root_certificates(system_roots()?),
    })
}

pub(super) fn own_roots(file: &FileContent) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in pem::certificates(file)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| LoadError::Certificate {
            path: file.path.clone(),
            position: index + 1,
            source: error.into(),
        })?;
    }
    Ok(roots)
}

/// The roots of the system, read once per process: a bundle is some hundred certificates. Only a
/// success is kept, so a reload finds a bundle that was installed later.
fn system_roots() -> Result<Arc<RootCertStore>, LoadError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let roots = readable_roots(rustls_native_certs::load_native_certs())?;
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

fn readable_roots(found: CertificateResult) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    // Bundles hold a few oddities that webpki cannot read; they must not cost the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let source = found.errors.into_iter().next().map(Into::into);
        return Err(LoadError::NoSystemRoots { source });
    }
    Ok(roots)
}

/// `verify = false`: any certificate will do, as long as the endpoint holds its key. Whoever sits
/// between us and the endpoint can pass for it.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
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
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::server::WebPkiClientVerifier;
    use rustls::sign::CertifiedKey;
    use rustls::{HandshakeKind, ServerConfig};

    use super::*;
    use crate::config::model::CertificateFiles;
    use crate::tls::ALPN_H1;
    use crate::tls::testing::{Key, file, files, handshake, span};

    fn upstream() -> UpstreamTls {
        UpstreamTls { sni: None, ca: None, verify: true, identity: None, span: span(0) }
    }

    fn trusting(files: &CertificateFiles) -> UpstreamTls {
        UpstreamTls { ca: Some(files.cert.clone()), ..upstream() }
    }

    fn config(tls: &UpstreamTls) -> Arc<ClientConfig> {
        client_config(tls, &[ALPN_H1]).unwrap()
    }

    /// An endpoint with one certificate.
    fn endpoint(certified: impl Into<SingleCertAndKey>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certified.into()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    fn of(files: &CertificateFiles) -> Arc<ServerConfig> {
        endpoint(load::certificate(files).unwrap().certified)
    }

    fn refusal(result: io::Result<crate::tls::testing::Handshake>) -> String {
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn an_own_authority_is_trusted_and_only_http_1_is_offered() {
        let files = files(&["a.test", "192.0.2.1"], Key::Ecdsa);
        let client = config(&trusting(&files));
        for name in ["a.test", "192.0.2.1"] {
            let done = handshake(&of(&files), &client, name).await.unwrap();
            assert_eq!(done.alpn(), Some(&b"http/1.1"[..]));
        }
    }

    #[tokio::test]
    async fn a_strange_certificate_and_a_wrong_name_are_refused() {
        let known = files(&["a.test"], Key::Ecdsa);
        let strange = files(&["strange.test", "a.test"], Key::Ecdsa);
        let client = config(&trusting(&known));
        let unknown = refusal(handshake(&of(&strange), &client, "a.test").await);
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");
        let misnamed = refusal(handshake(&of(&known), &client, "b.test").await);
        assert!(misnamed.contains("not valid for name \"b.test\""), "{misnamed}");
    }

    #[tokio::test]
    async fn a_second_connection_resumes_the_session() {
        let files = files(&["a.test"], Key::Ecdsa);
        let (server, client) = (of(&files), config(&trusting(&files)));
        handshake(&server, &client, "a.test").await.unwrap();
        let again = handshake(&server, &client, "a.test").await.unwrap();
        assert_eq!(again.kind(), Some(HandshakeKind::Resumed));
    }

    #[tokio::test]
    async fn without_verification_any_certificate_will_do_if_its_owner_signs() {
        let tls = UpstreamTls { verify: false, ..upstream() };
        let (own, other) = (files(&["a.test"], Key::Ecdsa), files(&["a.test"], Key::Rsa));
        assert!(handshake(&of(&own), &config(&tls), "b.test").await.is_ok());

        let [own, other] = [own, other].map(|files| load::certificate(&files).unwrap().certified);
        let stolen = CertifiedKey::new(own.cert.clone(), Arc::clone(&other.key));
        let refused = refusal(handshake(&endpoint(stolen), &config(&tls), "a.test").await);
        assert!(refused.contains("Signature"), "{refused}");
    }

    #[tokio::test]
    async fn an_identity_is_shown_to_an_endpoint_that_asks_for_one() {
        let (site, identity) = (files(&["a.test"], Key::Ecdsa), files(&["me.test"], Key::Ecdsa));
        let roots = Arc::new(own_roots(&identity.cert).unwrap());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap();
        let certified = load::certificate(&site).unwrap().certified;
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        let server = Arc::new(server);

        let anonymous = config(&trusting(&site));
        assert!(handshake(&server, &anonymous, "a.test").await.is_err());
        let known = config(&UpstreamTls { identity: Some(identity), ..trusting(&site) });
        assert!(handshake(&server, &known, "a.test").await.is_ok());
    }

    #[test]
    fn an_authority_file_without_certificates_is_an_error() {
        let tls = UpstreamTls { ca: Some(file("ca.pem", b"")), ..upstream() };
        let error = client_config(&tls, &[]).unwrap_err();
        assert!(matches!(error, LoadError::NoBlock { .. }), "{error}");
    }

    #[test]
    fn a_system_without_roots_is_explained() {
        let error = readable_roots(CertificateResult::default()).unwrap_err();
        assert_eq!(error.to_string(), "the system has no trusted root certificates");
        assert!(error.help().unwrap().contains("ca-certificates"));
    }

    #[test]
    fn an_unreadable_root_does_not_cost_the_others() {
        let mut found = CertificateResult::default();
        let sound = pem::certificates(&files(&["root.test"], Key::Ecdsa).cert).unwrap();
        found.certs.push(CertificateDer::from(vec![0x30, 0x00]));
        found.certs.extend(sound);
        assert_eq!(readable_roots(found).unwrap().len(), 1);
    }

    #[test]
    fn the_name_asked_for_is_sni_then_the_endpoint_itself() {
        let tls = |sni: Option<&str>| UpstreamTls { sni: sni.map(str::to_owned), ..upstream() };
        let name = |sni, address: &Address| server_name(&tls(sni), address);
        let host = Address::Name { host: "app.internal".into(), port: 443 };
        let socket = Address::Socket("[2001:db8::1]:443".parse().unwrap());
        let unix = Address::Unix("/run/app.sock".into());

        assert_eq!(name(Some("site.test"), &host).unwrap().to_str(), "site.test");
        assert_eq!(name(None, &host).unwrap().to_str(), "app.internal");
        assert_eq!(name(None, &socket).unwrap().to_str(), "2001:db8::1");
        assert_eq!(name(Some("site.test"), &unix).unwrap().to_str(), "site.test");
        let nameless = name(None, &unix).unwrap_err();
        assert!(matches!(nameless, LoadError::NoServerName { .. }), "{nameless}");
        let bad = name(Some("https://site.test"), &host).unwrap_err();
        assert!(matches!(bad, LoadError::BadServerName { .. }), "{bad}");
    }
}
