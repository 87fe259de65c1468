//! A self-signed certificate for demonstrations, made in memory.
//!
//! Deliberately absent: anything for real clients. Nobody trusts what this makes.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// Long enough for a demonstration, too short for production.
const VALIDITY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Clients whose clock is this far behind still accept the certificate.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// Both parts in PEM.
#[derive(Debug)]
pub struct SelfSigned {
    pub cert: String,
    pub key: String,
}

/// A certificate for host names, wildcards and addresses with an ECDSA key on P-256.
///
/// # Errors
/// A name that no certificate can carry.
pub fn self_signed(names: &[&str], now: SystemTime) -> Result<SelfSigned, rcgen::Error> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    signed_for("headwater demonstration", names, VALIDITY, now)
}

/// A certificate for `names` and its key, with `title` as its subject, valid for `life` from `now` on.
///
/// # Errors
/// A name that is none.
pub fn signed_for(
    title: &str,
    names: Vec<String>,
    life: Duration,
    now: SystemTime,
) -> Result<SelfSigned, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, title);
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + life).into();
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok(SelfSigned { cert: cert.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::load::{KeyKind, certificate};
    use crate::tls::testing;

    #[test]
    fn what_is_generated_loads_and_is_valid_now() {
        let now = SystemTime::now();
        let made = self_signed(&["localhost", "*.demo.test", "127.0.0.1"], now).unwrap();
        let loaded = certificate(&testing::pair(&made.cert, &made.key)).unwrap();
        assert_eq!(loaded.key_kind, KeyKind::Ecdsa);
        assert_eq!(loaded.warnings(now), Vec::<String>::new());
        let names: Vec<String> = loaded.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["localhost", "*.demo.test", "127.0.0.1"]);
    }

    #[test]
    fn a_name_outside_ascii_is_an_error() {
        assert!(self_signed(&["bücher.test"], SystemTime::now()).is_err());
    }
}
