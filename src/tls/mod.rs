//! TLS on both sides: certificates for the clients of a listener, trust towards the endpoints of
//! a pool.
//!
//! [`ListenerTlsState::build`] turns the PEM files of a listener into rustls configurations that
//! choose a certificate by SNI, one for each set of terms that clients are accepted on;
//! [`client_config`] does the same for a pool. Every configuration is built on one explicit
//! [`provider`] (aws-lc-rs, with the hybrid X25519MLKEM768 first), never on the default of the
//! process, so no dependency can change the cryptography.
//!
//! Deliberately absent: sockets and timeouts (the listener and `upstream` own them), OCSP stapling,
//! 0-RTT.

use std::sync::{Arc, LazyLock};

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};

use crate::config::model::Protocols;

pub mod challenge;
pub mod client;
pub mod client_auth;
mod compression;
pub mod error;
pub mod expiry;
pub mod failure;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod generate;
pub mod load;
mod pem;
pub mod resolver;
mod secret_lines;
mod server;
pub mod state;
#[cfg(test)]
mod testing;
mod tickets;

pub use client::{client_config, client_trusting, server_name};
pub use client_auth::{ClientPolicies, ClientPolicy};
pub use error::LoadError;
pub use failure::Failure;
pub use load::{Certificate, CertificateName, KeyKind};
pub use resolver::CertificateSet;
pub use server::ServerConfigs;
pub use state::ListenerTlsState;

/// The ALPN name of HTTP/2; whatever else a connection agrees on is HTTP/1.
pub const ALPN_H2: &[u8] = b"h2";
/// The ALPN name of HTTP/1.1.
pub const ALPN_H1: &[u8] = b"http/1.1";

/// Clients that speak nothing newer say so, and would be refused if it were not known.
const ALPN_H1_0: &[u8] = b"http/1.0";

/// What a listener agrees to speak, the preferred first.
fn alpn(protocols: Protocols) -> Vec<Vec<u8>> {
    let h2: &[&[u8]] = if protocols.h2 { &[ALPN_H2] } else { &[] };
    let h1: &[&[u8]] = if protocols.h1 { &[ALPN_H1, ALPN_H1_0] } else { &[] };
    [h2, h1].concat().into_iter().map(<[u8]>::to_vec).collect()
}

/// Every suite, the cheapest first where AES is done by hardware; 128 bits are as safe.
const CIPHER_SUITES: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The one source of cryptography of the process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let cipher_suites = CIPHER_SUITES.to_vec();
        Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
    });
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    #[test]
    fn the_hybrid_post_quantum_group_is_preferred() {
        assert_eq!(provider().kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }
}
