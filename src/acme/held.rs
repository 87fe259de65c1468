//! What a chain is for, and how long it lives.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::GeneralName;

use crate::config::model::AcmeCertificate;

/// The first certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// In hexadecimal.
    pub(super) serial: String,
    pub(super) leaf: CertificateDer<'static>,
    hosts: Vec<String>,
}

impl Held {
    /// `None` where there is no certificate that can be read.
    pub(super) fn of(chain: &[u8]) -> Option<Self> {
        Self::of_leaf(CertificateDer::pem_slice_iter(chain).next()?.ok()?)
    }

    pub(super) fn of_leaf(der: CertificateDer<'static>) -> Option<Self> {
        let (_, leaf) = parse_x509_certificate(&der).ok()?;
        let names = leaf.subject_alternative_name().ok().flatten()?;
        let hosts = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let time = |seconds: i64| {
            let seconds = u64::try_from(seconds).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let not_before = time(leaf.validity().not_before.timestamp())?;
        let not_after = time(leaf.validity().not_after.timestamp())?;
        let (serial, hosts) = (leaf.serial.to_str_radix(16), hosts.collect());
        Some(Self { not_before, not_after, serial, hosts, leaf: der })
    }

    pub(super) fn covers(&self, certificate: &AcmeCertificate) -> bool {
        let has = |host: &str| self.hosts.iter().any(|held| held == host);
        certificate.hosts.iter().all(|host| has(host))
    }

    pub(super) fn life(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// What was issued is what was ordered.
///
/// # Errors
/// It is not.
pub(super) fn covers(chain: &str, certificate: &AcmeCertificate) -> Result<(), String> {
    match Held::of(chain.as_bytes()) {
        Some(held) if held.covers(certificate) => Ok(()),
        Some(_) => Err("the authority issued it for other hosts".to_owned()),
        None => Err("the authority sent no certificate".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::generate::self_signed;

    #[test]
    fn a_chain_is_for_the_hosts_that_it_names() {
        let made = self_signed(&["a.test", "b.test"], SystemTime::now()).unwrap();
        let held = Held::of(made.cert.as_bytes()).unwrap();
        let wanted = |hosts: &[&str]| AcmeCertificate {
            name: "x".into(),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
        };
        assert!(held.covers(&wanted(&["b.test"])) && !held.covers(&wanted(&["a.test", "c.test"])));
        assert_eq!(Held::of(b"nonsense"), None);
        assert!(covers(&made.cert, &wanted(&["c.test"])).is_err());
    }
}
