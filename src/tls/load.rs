//! One certificate: a chain and its key, checked against each other, with what the rest needs to
//! know about them.
//!
//! Expired certificates load, with a warning: refusing them would keep every other site of the
//! file from starting or reloading. Deliberately absent: trust. Whether clients believe the chain
//! is theirs to decide; only its order is looked at.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, DnsName};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::error::{LoadError, Source};
use super::expiry::Validity;
use super::{pem, provider};
use crate::config::model::CertificateFiles;

/// Every scheme that a supported key can sign a handshake with.
const SCHEMES: [SignatureScheme; 10] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// A chain whose first certificate belongs to the key.
#[derive(Debug)]
pub struct Certificate {
    /// What it was read from.
    pub files: CertificateFiles,
    /// What the first certificate is for, in its order; names that no host can have are left out.
    pub names: Vec<CertificateName>,
    pub validity: Validity,
    pub key_kind: KeyKind,
    pub certified: Arc<CertifiedKey>,
    schemes: Vec<SignatureScheme>,
    /// The certificate, counted from 1, that the next one of the file did not issue.
    gap: Option<usize>,
}

/// A host that a certificate is for. Lower case, without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    Exact(String),
    /// `*.example.com` is held as `example.com`: exactly one label before it (RFC 9525 §6.3).
    Wildcard(String),
    Address(IpAddr),
}

/// In the order of preference: a full handshake costs a server 2.9 times as much with RSA of 2048
/// bits as with ECDSA on P-256 (the benchmarks of rustls).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    Ecdsa,
    Ed25519,
    Rsa,
}

/// Reads and checks a chain and its key.
pub fn certificate(files: &CertificateFiles) -> Result<Certificate, LoadError> {
    let path = &files.cert.path;
    let chain = pem::certificates(&files.cert)?;
    let key = pem::private_key(&files.key)?;
    let facts = Facts::read(&chain, path)?;

    let unusable = |source: Source| LoadError::Key { path: files.key.path.clone(), source };
    let key = provider().key_provider.load_private_key(key).map_err(|error| match error {
        // Shown by itself it would begin with "unexpected error".
        rustls::Error::General(reason) => unusable(reason.into()),
        error => unusable(error.into()),
    })?;
    let key_kind = match key.algorithm() {
        SignatureAlgorithm::ECDSA => KeyKind::Ecdsa,
        SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
        SignatureAlgorithm::RSA => KeyKind::Rsa,
        other => return Err(unusable(format!("{other:?} is not supported").into())),
    };
    check_owner(&chain, &key, files)?;

    let schemes = SCHEMES.into_iter().filter(|s| key.choose_scheme(&[*s]).is_some()).collect();
    Ok(Certificate {
        files: files.clone(),
        names: facts.names,
        validity: facts.validity,
        key_kind,
        certified: Arc::new(CertifiedKey::new(chain, key)),
        schemes,
        gap: facts.gap,
    })
}

/// The key must belong to the first certificate; where it belongs to another, the error says so.
fn check_owner(
    chain: &[CertificateDer<'static>],
    key: &Arc<dyn SigningKey>,
    files: &CertificateFiles,
) -> Result<(), LoadError> {
    let path = || files.cert.path.clone();
    let owner = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], Arc::clone(key)).keys_match()
    };
    let mut certificates = chain.iter();
    match certificates.next().map(owner) {
        Some(Ok(())) => return Ok(()),
        Some(Err(rustls::Error::InconsistentKeys(_))) | None => {}
        Some(Err(error)) => {
            let source = error.into();
            return Err(LoadError::Certificate { path: path(), position: 1, source });
        }
    }
    Err(match certificates.position(|certificate| owner(certificate).is_ok()) {
        Some(index) => LoadError::LeafNotFirst { path: path(), position: index + 2 },
        None => LoadError::Mismatch { cert: path(), key: files.key.path.clone() },
    })
}

impl Certificate {
    /// The file of the chain, for messages.
    pub fn path(&self) -> &Path {
        &self.files.cert.path
    }

    /// Whether the key can sign with one of the schemes that a client accepts.
    pub(super) fn can_sign(&self, accepted: &[SignatureScheme]) -> bool {
        self.schemes.iter().any(|scheme| accepted.contains(scheme))
    }

    /// What is doubtful about the certificate at the time `now`, though it can be used.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let path = self.path().display();
        let mut warnings: Vec<_> = self.expiry(now).into_iter().collect();
        if self.names.is_empty() {
            warnings.push(format!(
                "the certificate {path} names no host; it can only answer as the default"
            ));
        }
        if let Some(position) = self.gap {
            warnings.push(format!(
                "the chain in {path} is broken: certificate {} did not issue certificate {position}",
                position + 1
            ));
        }
        warnings
    }

    /// What is to be said about its validity at the time `now`, with the names that it is for.
    pub fn expiry(&self, now: SystemTime) -> Option<String> {
        let path = self.path().display();
        let what = match self.names.as_slice() {
            [] => format!("the certificate {path}"),
            [name] => format!("the certificate {path} for {name}"),
            [name, others @ ..] => {
                format!("the certificate {path} for {name} and {} more", others.len())
            }
        };
        self.validity.warning(&what, now)
    }
}

impl CertificateName {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_name = |name: &str| DnsName::try_from(name).is_ok();
        match text.strip_prefix("*.") {
            Some(parent) => is_name(parent).then(|| Self::Wildcard(parent.to_owned())),
            None => is_name(&text).then_some(Self::Exact(text)),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What is read out of the certificates themselves.
struct Facts {
    names: Vec<CertificateName>,
    validity: Validity,
    gap: Option<usize>,
}

impl Facts {
    fn read(chain: &[CertificateDer<'static>], path: &Path) -> Result<Self, LoadError> {
        let unusable =
            |position, source| LoadError::Certificate { path: path.to_owned(), position, source };
        let mut parsed = Vec::with_capacity(chain.len());
        for (index, der) in chain.iter().enumerate() {
            match X509Certificate::from_der(der) {
                Ok(([], certificate)) => parsed.push(certificate),
                Ok(_) => return Err(unusable(index + 1, "bytes follow the certificate".into())),
                Err(error) => {
                    let reason = format!("it is not in the form of X.509 ({error})");
                    return Err(unusable(index + 1, reason.into()));
                }
            }
        }
        let Some(leaf) = parsed.first() else {
            return Err(unusable(1, "there is none".into()));
        };
        if leaf.version() != X509Version::V3 {
            return Err(unusable(1, "clients accept only version 3 of X.509".into()));
        }
        let gap = parsed
            .iter()
            .zip(parsed.iter().skip(1))
            .position(|(child, parent)| child.issuer().as_raw() != parent.subject().as_raw());
        Ok(Self {
            names: names(leaf).map_err(|error| unusable(1, error))?,
            validity: Validity {
                not_before: leaf.validity().not_before.timestamp(),
                not_after: leaf.validity().not_after.timestamp(),
            },
            gap: gap.map(|index| index + 1),
        })
    }
}

/// The subject's common name counts only where there are no alternative names (RFC 6125 §6.4.4).
fn names(leaf: &X509Certificate<'_>) -> Result<Vec<CertificateName>, Source> {
    let mut names = Vec::new();
    let mut add = |name: Option<CertificateName>| {
        if let Some(name) = name
            && !names.contains(&name)
        {
            names.push(name);
        }
    };
    match leaf.subject_alternative_name()? {
        Some(extension) => extension.value.general_names.iter().map(alternative_name).for_each(add),
        None => leaf
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .for_each(|name| add(CertificateName::parse(name))),
    }
    Ok(names)
}

fn alternative_name(name: &GeneralName<'_>) -> Option<CertificateName> {
    match name {
        // A DNS name that reads as an address is none (RFC 9525 §4.1).
        GeneralName::DNSName(name) => {
            CertificateName::parse(name).filter(|name| !matches!(name, CertificateName::Address(_)))
        }
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| v6()).ok().map(CertificateName::Address)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::tls::testing::{
        self, DAY, Key, chain, file, files, generated, key_pair, older_form,
    };

    fn load(names: &[&str], key: Key) -> Certificate {
        certificate(&files(names, key)).unwrap()
    }

    fn exact(name: &str) -> CertificateName {
        CertificateName::Exact(name.into())
    }

    #[test]
    fn names_are_read_in_the_order_of_the_certificate() {
        let loaded = load(&["Example.COM", "*.example.com", "10.0.0.1", "::1"], Key::Ecdsa);
        assert_eq!(
            loaded.names,
            [
                exact("example.com"),
                CertificateName::Wildcard("example.com".into()),
                CertificateName::Address("10.0.0.1".parse().unwrap()),
                CertificateName::Address("::1".parse().unwrap()),
            ]
        );
        assert_eq!(loaded.names[1].to_string(), "*.example.com");
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        let named = |names: &[&str]| {
            let key = key_pair(Key::Ecdsa);
            let mut params = testing::params(names);
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, "common.test");
            let cert = params.self_signed(&key).unwrap().pem();
            certificate(&testing::pair(&cert, &key.serialize_pem())).unwrap().names
        };
        assert_eq!(named(&[]), [exact("common.test")]);
        assert_eq!(named(&["other.test"]), [exact("other.test")]);
    }

    #[test]
    fn names_that_no_host_can_have_are_left_out() {
        for name in ["*", "f*.example.com", "*.*.example.com", "", "*.", "a b", "1.2.3.400"] {
            assert_eq!(CertificateName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn every_supported_kind_of_key_is_told_apart() {
        assert_eq!(load(&["a.test"], Key::Ecdsa).key_kind, KeyKind::Ecdsa);
        assert_eq!(load(&["a.test"], Key::Ed25519).key_kind, KeyKind::Ed25519);
        let rsa = load(&["a.test"], Key::Rsa);
        assert_eq!(rsa.key_kind, KeyKind::Rsa);
        assert!(rsa.can_sign(&[SignatureScheme::RSA_PKCS1_SHA256]));
        assert!(!rsa.can_sign(&[SignatureScheme::ECDSA_NISTP256_SHA256]));
    }

    #[test]
    fn the_older_forms_of_keys_are_read() {
        for (kind, label) in [(Key::Rsa, "RSA PRIVATE KEY"), (Key::Ecdsa, "EC PRIVATE KEY")] {
            let key = key_pair(kind);
            let cert = testing::params(&["a.test"]).self_signed(&key).unwrap().pem();
            let loaded = certificate(&testing::pair(&cert, &older_form(&key, label)));
            assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
        }
    }

    #[test]
    fn one_file_may_hold_the_key_and_the_chain() {
        let mut both = files(&["a.test"], Key::Ecdsa);
        let joined = [&both.key.bytes[..], &both.cert.bytes[..]].concat();
        both.cert = file("site.pem", &joined);
        both.key = both.cert.clone();
        assert_eq!(certificate(&both).unwrap().names, [exact("a.test")]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let mut mixed = files(&["a.test"], Key::Ecdsa);
        mixed.key = files(&["b.test"], Key::Rsa).key;
        let error = certificate(&mixed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the key site.key does not belong to the certificate site.crt"
        );
    }

    #[test]
    fn swapped_files_are_explained() {
        let mut swapped = files(&["a.test"], Key::Ecdsa);
        std::mem::swap(&mut swapped.cert, &mut swapped.key);
        let error = certificate(&swapped).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no PEM block of a certificate found in site.key; the file holds PRIVATE KEY"
        );
        assert!(error.help().unwrap().contains("swapped"));
    }

    #[test]
    fn a_certificate_in_place_of_the_key_is_explained() {
        let mut twice = files(&["a.test"], Key::Ecdsa);
        twice.key = twice.cert.clone();
        let error = certificate(&twice).unwrap_err();
        assert!(error.to_string().ends_with("the file holds CERTIFICATE"), "{error}");
        assert!(error.help().unwrap().contains("swapped"));
    }

    #[test]
    fn garbage_inside_a_block_is_refused_with_its_position() {
        let mut damaged = files(&["a.test"], Key::Ecdsa);
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        damaged.cert.bytes = [&damaged.cert.bytes[..], &garbage[..]].concat().into();
        let error = certificate(&damaged).unwrap_err();
        assert!(matches!(error, LoadError::Certificate { position: 2, .. }), "{error}");
    }

    #[test]
    fn a_key_that_is_garbage_is_refused() {
        let mut damaged = files(&["a.test"], Key::Ecdsa);
        damaged.key.bytes =
            Arc::from(*b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----");
        let error = certificate(&damaged).unwrap_err();
        assert!(matches!(error, LoadError::Key { .. }), "{error}");
        assert!(error.help().unwrap().contains("ECDSA"));
    }

    #[test]
    fn a_chain_with_the_issuer_first_is_refused() {
        let (leaf, issuer, key) = chain(&["a.test"]);
        let sound = certificate(&testing::pair(&format!("{leaf}{issuer}"), &key)).unwrap();
        assert_eq!(sound.certified.cert.len(), 2);
        assert_eq!(sound.gap, None);

        let reversed = certificate(&testing::pair(&format!("{issuer}{leaf}"), &key)).unwrap_err();
        assert!(matches!(reversed, LoadError::LeafNotFirst { position: 2, .. }), "{reversed}");
    }

    #[test]
    fn a_chain_with_a_stranger_is_only_doubtful() {
        let (leaf, _, key) = chain(&["a.test"]);
        let stranger = files(&["b.test"], Key::Ecdsa).cert.bytes;
        let both = [leaf.as_bytes(), &stranger[..]].concat();
        let mut broken = testing::pair("", &key);
        broken.cert.bytes = both.into();
        let loaded = certificate(&broken).unwrap();
        assert_eq!(
            loaded.warnings(SystemTime::now()),
            ["the chain in site.crt is broken: certificate 2 did not issue certificate 1"]
        );
    }

    #[test]
    fn the_validity_is_judged_by_the_given_time() {
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let days = |days: u64| Duration::from_secs(days * DAY);
        let mut params = testing::params(&["a.test"]);
        params.not_before = start.into();
        params.not_after = (start + days(90)).into();
        let key = key_pair(Key::Ecdsa);
        let cert = params.self_signed(&key).unwrap().pem();
        let loaded = certificate(&testing::pair(&cert, &key.serialize_pem())).unwrap();

        let validity = Validity { not_before: 1_800_000_000, not_after: 1_807_776_000 };
        assert_eq!(loaded.validity, validity);
        let at = |now| loaded.warnings(now);
        assert_eq!(
            at(start - days(1)),
            ["the certificate site.crt for a.test is not valid before 2027-01-15"]
        );
        assert_eq!(at(start + days(59)), Vec::<String>::new());
        assert_eq!(
            at(start + days(61)),
            ["the certificate site.crt for a.test expires on 2027-04-15, in 29 days"]
        );
        assert_eq!(
            at(start + days(91)),
            ["the certificate site.crt for a.test expired on 2027-04-15"]
        );
    }

    #[test]
    fn a_short_lived_certificate_does_not_warn_from_its_first_day() {
        let now = SystemTime::now();
        let loaded = certificate(&generated(&["a.test"], now)).unwrap();
        assert_eq!(loaded.warnings(now), Vec::<String>::new());
    }
}
