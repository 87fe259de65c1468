//! What a chain is for, and when it is to be renewed.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::GeneralName;

use crate::config::model::AcmeCertificate;

/// Of a life, after which a certificate is renewed: long before its end, so that failures have time
/// to be noticed, and right for lives of six days and of ninety.
const RENEW_AFTER: (u64, u64) = (2, 3);

/// The first certificate of a chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Unix time, seconds.
    not_before: u64,
    not_after: u64,
    hosts: Vec<String>,
}

impl Held {
    /// `None` where there is no certificate that can be read.
    pub(super) fn of(chain: &[u8]) -> Option<Self> {
        let leaf = CertificateDer::pem_slice_iter(chain).next()?.ok()?;
        let (_, leaf) = parse_x509_certificate(&leaf).ok()?;
        let names = leaf.subject_alternative_name().ok().flatten()?;
        let hosts = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let seconds = |time: i64| u64::try_from(time).ok();
        Some(Self {
            not_before: seconds(leaf.validity().not_before.timestamp())?,
            not_after: seconds(leaf.validity().not_after.timestamp())?,
            hosts: hosts.collect(),
        })
    }

    pub(super) fn covers(&self, certificate: &AcmeCertificate) -> bool {
        let has = |host: &str| self.hosts.iter().any(|held| held == host);
        certificate.hosts.iter().all(|host| has(host))
    }

    pub(super) fn renewal(&self) -> SystemTime {
        let life = self.not_after.saturating_sub(self.not_before);
        let share = life / RENEW_AFTER.1 * RENEW_AFTER.0;
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.not_before.saturating_add(share))
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
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let now = SystemTime::now();
        let made = self_signed(&["a.test", "b.test"], now).unwrap();
        let held = Held::of(made.cert.as_bytes()).unwrap();
        let life = held.not_after - held.not_before;
        let until = held.renewal().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(until - held.not_before, life / 3 * 2);
        let wanted = |hosts: &[&str]| AcmeCertificate {
            name: "x".into(),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
        };
        assert!(held.covers(&wanted(&["b.test"])) && !held.covers(&wanted(&["a.test", "c.test"])));
        assert_eq!(Held::of(b"nonsense"), None);
        assert!(covers(&made.cert, &wanted(&["c.test"])).is_err());
    }
}
