//! The TLS configuration of a listener.
//!
//! Sessions are resumed by stateless tickets only. A session cache would be a lock that every
//! handshake takes, and memory that strangers fill; tickets cost neither, and their keys are made
//! anew every six hours (each is accepted for twelve). The caller keeps the tickets of a listener
//! across reloads and never shares them between listeners: rustls does not check that two
//! configurations demand the same of a client, so a shared key would carry a session from a
//! listener without client authentication into one with it.
//!
//! Deliberately absent: client authentication, 0-RTT (a replayed request is a request), certificate
//! compression, and a fragment size: full records are the fastest.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};

use super::error::LoadError;
use super::resolver::CertificateSet;
use super::{alpn, provider};
use crate::config::model::{ListenerTls, Protocols, TlsVersion};

/// TLS 1.3 tickets per full handshake: browsers open connections in pairs and use each ticket once.
const TICKETS_PER_HANDSHAKE: usize = 2;

/// The ticket keys of one listener, rotated by themselves.
pub fn tickets() -> Result<Arc<dyn ProducesTickets>, LoadError> {
    Ok(Ticketer::new()?)
}

/// The configuration that a listener accepts with.
pub fn server_config(
    tls: &ListenerTls,
    certificates: Arc<CertificateSet>,
    protocols: Protocols,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, LoadError> {
    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn(protocols);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    // Every suite on offer is strong, and only the client knows whether it has AES in hardware.
    config.ignore_client_order = false;
    config.max_fragment_size = None;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls::{
        HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme, SupportedProtocolVersion,
    };

    use super::*;
    use crate::tls::ListenerTlsState;
    use crate::tls::testing::{Accepting, Key, files, handshake, listener};

    const BOTH: Protocols = Protocols { h1: true, h2: true };
    const ONLY_H1: Protocols = Protocols { h1: true, h2: false };

    fn server(sites: &[(&[&str], Key)], protocols: Protocols) -> Arc<ServerConfig> {
        with_tickets(sites, protocols, tickets().unwrap())
    }

    fn with_tickets(
        sites: &[(&[&str], Key)],
        protocols: Protocols,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Arc<ServerConfig> {
        let tls = listener(sites.iter().map(|(names, key)| files(names, *key)).collect());
        ListenerTlsState::build(&tls, protocols, tickets).unwrap().config
    }

    fn one_site() -> Arc<ServerConfig> {
        server(&[(&["a.test"], Key::Ecdsa)], BOTH)
    }

    #[tokio::test]
    async fn the_certificate_is_chosen_by_sni() {
        let server = server(
            &[
                (&["default.test"], Key::Ecdsa),
                (&["a.test"], Key::Ecdsa),
                (&["*.b.test"], Key::Ecdsa),
            ],
            BOTH,
        );
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
        let server = server(&[(&["a.test"], Key::Rsa), (&["a.test"], Key::Ecdsa)], BOTH);
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
        let only_h1 = server(&[(&["a.test"], Key::Ecdsa)], ONLY_H1);
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
        let strict = ListenerTlsState::build(&tls, BOTH, tickets().unwrap()).unwrap().config;
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
        let keys = tickets().unwrap();
        let client = Accepting::with_version(version).config();
        let before = with_tickets(sites, BOTH, Arc::clone(&keys));
        let full = handshake(&before, &client, "a.test").await.unwrap();
        assert_eq!(full.kind(), Some(HandshakeKind::Full));
        let again = handshake(&before, &client, "a.test").await.unwrap();
        assert_eq!(again.kind(), Some(HandshakeKind::Resumed));

        let reloaded = with_tickets(sites, BOTH, keys);
        let after = handshake(&reloaded, &client, "a.test").await.unwrap();
        assert_eq!(after.kind(), Some(HandshakeKind::Resumed));

        let stranger = with_tickets(sites, BOTH, tickets().unwrap());
        let elsewhere = handshake(&stranger, &client, "a.test").await.unwrap();
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
