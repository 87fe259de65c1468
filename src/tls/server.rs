//! The TLS configurations of a listener.
//!
//! Sessions are resumed by stateless tickets only. A session cache would be a lock that every
//! handshake takes, and memory that strangers fill; tickets cost neither.
//!
//! Deliberately absent: 0-RTT (a replayed request is a request), and a fragment size: full records
//! are the fastest.

use std::sync::Arc;

use rustls::compress::CompressionCache;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig};

use super::compression::COMPRESSORS;
use super::error::LoadError;
use super::resolver::CertificateSet;
use super::{alpn, provider};
use crate::config::model::{Protocols, TlsVersion};

/// TLS 1.3 tickets per full handshake: browsers open connections in pairs and use each ticket once.
const TICKETS_PER_HANDSHAKE: usize = 2;

/// How connections are accepted on one set of terms.
#[derive(Debug, Clone)]
pub struct ServerConfigs {
    /// Takes the suite that is first in our order.
    by_our_order: Arc<ServerConfig>,
    /// Takes the suite that is first in the client's.
    by_their_order: Arc<ServerConfig>,
}

impl ServerConfigs {
    fn of(config: ServerConfig) -> Self {
        let [mut by_our_order, mut by_their_order] = [config.clone(), config];
        by_our_order.ignore_client_order = true;
        by_their_order.ignore_client_order = false;
        Self { by_our_order: Arc::new(by_our_order), by_their_order: Arc::new(by_their_order) }
    }

    /// The one for a client that offers these suites. A client whose first is ChaCha20 has no AES in
    /// hardware, and would pay for ours.
    pub fn for_offer(&self, suites: &[CipherSuite]) -> &Arc<ServerConfig> {
        // Names that nobody has (RFC 8701) may come first.
        let first = suites.iter().find(|suite| !matches!(suite, CipherSuite::Unknown(_)));
        match first {
            Some(
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ) => &self.by_their_order,
            _ => &self.by_our_order,
        }
    }

    pub(super) fn ticketer(&self) -> Arc<dyn ProducesTickets> {
        self.by_our_order.ticketer.clone()
    }
}

/// What the configurations of a listener have in common.
pub(super) struct Common {
    pub(super) certificates: Arc<CertificateSet>,
    pub(super) protocols: Protocols,
    pub(super) min_version: TlsVersion,
}

impl Common {
    /// The configurations that accept on these terms. `tickets` must be of these terms alone.
    pub(super) fn configs(
        &self,
        tickets: Arc<dyn ProducesTickets>,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<ServerConfigs, LoadError> {
        let versions: &[_] = match self.min_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(
                verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth),
            )
            .with_cert_resolver(self.certificates.clone());
        config.alpn_protocols = alpn(self.protocols);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets;
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        config.cert_compressors = COMPRESSORS.to_vec();
        // The compressors keep what they have made.
        config.cert_compression_cache = Arc::new(CompressionCache::Disabled);
        config.max_fragment_size = None;
        Ok(ServerConfigs::of(config))
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme, SupportedProtocolVersion,
    };

    use super::*;
    use crate::tls::ListenerTlsState;
    use crate::tls::state::Plan;
    use crate::tls::testing::{Accepting, Key, files, handshake, listener, plan};

    fn state(sites: &[(&[&str], Key)], previous: Option<&ListenerTlsState>) -> ListenerTlsState {
        let tls = listener(sites.iter().map(|(names, key)| files(names, *key)).collect());
        ListenerTlsState::build(&plan(&tls), previous).unwrap()
    }

    fn accepting(state: &ListenerTlsState) -> Arc<ServerConfig> {
        state.accept(None).0.for_offer(&[]).clone()
    }

    fn server(sites: &[(&[&str], Key)]) -> Arc<ServerConfig> {
        accepting(&state(sites, None))
    }

    fn one_site() -> Arc<ServerConfig> {
        server(&[(&["a.test"], Key::Ecdsa)])
    }

    #[tokio::test]
    async fn the_certificate_is_chosen_by_sni() {
        let server = server(&[
            (&["default.test"], Key::Ecdsa),
            (&["a.test"], Key::Ecdsa),
            (&["*.b.test"], Key::Ecdsa),
        ]);
        let client = Accepting::default().config();
        for (asked, answered) in [
            ("a.test", "a.test"),
            ("www.b.test", "*.b.test"),
            ("c.test", "default.test"),
            ("192.0.2.1", "default.test"),
        ] {
            let done = handshake(&server, &client, asked).await.unwrap();
            assert_eq!(done.certificate_name(), answered);
        }
    }

    #[tokio::test]
    async fn a_modern_client_gets_ecdsa_and_an_old_one_rsa() {
        let server = server(&[(&["a.test"], Key::Rsa), (&["a.test"], Key::Ecdsa)]);
        let modern = Accepting::default().config();
        let done = handshake(&server, &modern, "a.test").await.unwrap();
        assert_eq!(done.key(), Key::Ecdsa);

        let schemes = vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
        for version in [&TLS12, &TLS13] {
            let old = Accepting { schemes: schemes.clone(), version: Some(version) }.config();
            let done = handshake(&server, &old, "a.test").await.unwrap();
            assert_eq!(done.key(), Key::Rsa);
        }
    }

    #[tokio::test]
    async fn http_2_is_preferred_where_it_is_on() {
        let client = |names: &[&str]| {
            let mut config = (*Accepting::default().config()).clone();
            config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            Arc::new(config)
        };
        let both = one_site();
        let tls = listener(vec![files(&["a.test"], Key::Ecdsa)]);
        let only_h1 = Plan { protocols: Protocols { h1: true, h2: false }, ..plan(&tls) };
        let only_h1 = accepting(&ListenerTlsState::build(&only_h1, None).unwrap());
        let old_first = client(&["http/1.1", "h2"]);
        for (server, client, agreed) in [
            (&both, &old_first, Some("h2")),
            (&both, &client(&["http/1.1"]), Some("http/1.1")),
            (&both, &client(&["http/1.0"]), Some("http/1.0")),
            (&both, &client(&[]), None),
            (&only_h1, &old_first, Some("http/1.1")),
        ] {
            let done = handshake(server, client, "a.test").await.unwrap();
            assert_eq!(done.alpn(), agreed.map(str::as_bytes));
        }
        assert!(handshake(&only_h1, &client(&["h2"]), "a.test").await.is_err());
    }

    #[tokio::test]
    async fn a_client_of_tls_1_2_is_served_unless_the_minimum_is_1_3() {
        let client = Accepting::with_version(&TLS12).config();
        let done = handshake(&one_site(), &client, "a.test").await.unwrap();
        assert_eq!(done.version(), Some(ProtocolVersion::TLSv1_2));

        let mut tls = listener(vec![files(&["a.test"], Key::Ecdsa)]);
        tls.min_version = TlsVersion::V1_3;
        let strict = accepting(&ListenerTlsState::build(&plan(&tls), None).unwrap());
        let refused = handshake(&strict, &client, "a.test").await.unwrap_err();
        assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    }

    #[tokio::test]
    async fn keys_are_agreed_on_with_the_hybrid_group() {
        let client = Accepting::default().config();
        let done = handshake(&one_site(), &client, "a.test").await.unwrap();
        assert_eq!(done.group(), Some(NamedGroup::X25519MLKEM768));
    }

    async fn resumes(version: &'static SupportedProtocolVersion) {
        let sites: &[(&[&str], Key)] = &[(&["a.test"], Key::Ecdsa)];
        let client = Accepting::with_version(version).config();
        let before = state(sites, None);
        let full = handshake(&accepting(&before), &client, "a.test").await.unwrap();
        assert_eq!(full.kind(), Some(HandshakeKind::Full));
        let again = handshake(&accepting(&before), &client, "a.test").await.unwrap();
        assert_eq!(again.kind(), Some(HandshakeKind::Resumed));

        let reloaded = state(sites, Some(&before));
        let after = handshake(&accepting(&reloaded), &client, "a.test").await.unwrap();
        assert_eq!(after.kind(), Some(HandshakeKind::Resumed));

        let stranger = state(sites, None);
        let elsewhere = handshake(&accepting(&stranger), &client, "a.test").await.unwrap();
        assert_eq!(elsewhere.kind(), Some(HandshakeKind::Full));
    }

    #[tokio::test]
    async fn sessions_of_tls_1_2_resume_by_ticket_across_a_reload() {
        resumes(&TLS12).await;
    }

    #[tokio::test]
    async fn sessions_of_tls_1_3_resume_by_ticket_across_a_reload() {
        resumes(&TLS13).await;
    }
}
