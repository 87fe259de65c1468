//! TLS on both sides: certificates for the clients of a listener, trust towards the endpoints of
//! a pool.
//!
//! [`ListenerTlsState::build`] turns the PEM files of a listener into a rustls configuration that
//! chooses a certificate by SNI; [`client_config`] does the same for a pool. Every configuration
//! is built on one explicit [`provider`] (aws-lc-rs, with the hybrid X25519MLKEM768 first), never
//! on the default of the process, so no dependency can change the cryptography.
//!
//! Deliberately absent: sockets and timeouts (the listener and `upstream` own them), client
//! authentication, certificate compression, OCSP stapling, 0-RTT.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ProducesTickets;

use crate::config::diagnostics::Span;
use crate::config::model::{ListenerTls, Protocols};

pub mod client;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod generate;
pub mod load;
mod pem;
pub mod resolver;
pub mod server;
#[cfg(test)]
mod testing;

pub use client::{client_config, server_name};
pub use error::LoadError;
pub use load::{Certificate, CertificateName, KeyKind};
pub use resolver::CertificateSet;
pub use server::{server_config, tickets};

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

/// The one source of cryptography of the process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// What a listener needs to accept TLS.
#[derive(Debug)]
pub struct ListenerTlsState {
    pub config: Arc<ServerConfig>,
    /// The certificates that `config` chooses from, in the order of the configuration.
    pub certificates: Arc<CertificateSet>,
}

impl ListenerTlsState {
    /// Reads every certificate of a listener; the errors are those of all broken ones.
    ///
    /// `tickets` must have been made for this listener alone and must outlive reloads, else
    /// clients cannot resume their sessions after one.
    pub fn build(
        tls: &ListenerTls,
        protocols: Protocols,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<Self, Vec<(Span, LoadError)>> {
        let mut certificates = Vec::with_capacity(tls.certificates.len());
        let mut errors = Vec::new();
        for files in &tls.certificates {
            match load::certificate(files) {
                Ok(certificate) => certificates.push(certificate),
                Err(error) => errors.push((files.span, error)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let certificates = Arc::new(CertificateSet::new(certificates));
        match server_config(tls, Arc::clone(&certificates), protocols, tickets) {
            Ok(config) => Ok(Self { config, certificates }),
            // Not the fault of one certificate; the first shows at least the right listener.
            Err(error) => {
                Err(tls.certificates.iter().take(1).map(|files| files.span).zip([error]).collect())
            }
        }
    }

    /// What is doubtful about the certificates at the time `now`; `tls` is what they were built
    /// from and lends the places.
    pub fn warnings(&self, tls: &ListenerTls, now: SystemTime) -> Vec<(Span, String)> {
        let places = tls.certificates.iter().map(|files| files.span);
        self.certificates
            .certificates()
            .iter()
            .zip(places)
            .flat_map(|(certificate, span)| {
                certificate.warnings(now).into_iter().map(move |warning| (span, warning))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::NamedGroup;

    use super::testing::{DAY, Key, files, listener, span};
    use super::*;

    const BOTH: Protocols = Protocols { h1: true, h2: true };

    #[test]
    fn the_hybrid_post_quantum_group_is_preferred() {
        assert_eq!(provider().kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn every_broken_certificate_of_a_listener_is_reported_with_its_place() {
        let mut broken = files(&["a.test"], Key::Ecdsa);
        broken.cert.bytes = Arc::from(*b"");
        broken.span = span(10);
        let sound = files(&["b.test"], Key::Ecdsa);
        let mut swapped = files(&["c.test"], Key::Ecdsa);
        std::mem::swap(&mut swapped.cert, &mut swapped.key);
        swapped.span = span(30);

        let tls = listener(vec![broken, sound, swapped]);
        let errors = ListenerTlsState::build(&tls, BOTH, tickets().unwrap()).unwrap_err();
        let places: Vec<Span> = errors.iter().map(|(span, _)| *span).collect();
        assert_eq!(places, [span(10), span(30)]);
    }

    #[test]
    fn a_warning_points_at_its_own_certificate() {
        let now = SystemTime::now();
        let long = files(&["a.test"], Key::Ecdsa);
        let mut brief = testing::generated(&["b.test"], now);
        brief.span = span(20);
        let tls = listener(vec![long, brief]);
        let state = ListenerTlsState::build(&tls, BOTH, tickets().unwrap()).unwrap();

        assert_eq!(state.warnings(&tls, now), []);
        let later = state.warnings(&tls, now + Duration::from_secs(30 * DAY));
        assert_eq!(later.len(), 1);
        assert_eq!(later[0].0, span(20));
        assert!(later[0].1.contains("expired"), "{}", later[0].1);
    }
}
