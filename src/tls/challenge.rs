//! Handshakes by which a certificate authority sees that a host is ours (TLS-ALPN-01, RFC 8737).
//!
//! Deliberately absent: anything beyond the handshake. No bytes of an application follow it, nothing
//! is asked of the client, and nothing can be resumed.

use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::provider;

/// The ALPN name of such handshakes.
pub const ALPN_ACME: &[u8] = b"acme-tls/1";

/// Bytes of the digest of a key authorization, SHA-256.
const DIGEST_BYTES: usize = 32;

/// Whether a client asks for nothing else (RFC 8737 §3).
pub fn is_asked_for(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(ALPN_ACME) && offered.next().is_none()
}

/// The handshake for a host: with a certificate that nobody is to believe but the authority, which
/// looks for the digest of the key authorization in it.
///
/// # Errors
/// Why there is none, in words.
pub fn config(host: &str, digest: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let certified = certified(host, digest)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no handshake for {host}: {error}"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN_ACME.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Not checked as a chain is: the extension is critical, so that nobody else believes it.
fn certified(host: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    if digest.len() != DIGEST_BYTES {
        return Err("the digest of the key authorization is no SHA-256".to_owned());
    }
    let of_certificate = |error: rcgen::Error| format!("no certificate for {host}: {error}");
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(of_certificate)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(of_certificate)?;
    let certificate = params.self_signed(&key).map_err(of_certificate)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| format!("no key for {host}: {error}"))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;
    use crate::tls::testing::{Accepting, handshake};

    #[test]
    fn the_certificate_holds_the_digest_for_the_host_alone() {
        let digest = [7; DIGEST_BYTES];
        let made = certified("a.test", &digest).unwrap();
        let (_, leaf) = X509Certificate::from_der(&made.cert[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::DNSName("a.test")]);
        // RFC 8737 §3: id-pe-acmeIdentifier, critical, an OCTET STRING of 32 bytes.
        let of_acme = leaf
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .unwrap();
        assert!(of_acme.critical);
        assert_eq!(of_acme.value, [&[4, 32][..], &digest].concat());
        assert!(certified("a.test", b"short").is_err());
    }

    #[tokio::test]
    async fn nothing_else_is_spoken() {
        let server = config("a.test", &[7; DIGEST_BYTES]).unwrap();
        let mut client = (*Accepting::default().config()).clone();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let refused = handshake(&server, &Arc::new(client), "a.test").await.err().unwrap();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
}
