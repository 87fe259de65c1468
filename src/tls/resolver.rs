//! Which certificate answers a client, and whether a request came to the wrong one.
//!
//! Names are looked up as RFC 9525 matches them: an exact name before a wildcard, and a wildcard
//! stands for exactly one label. Among equals a key that is cheap to sign with comes first, as far
//! as the client accepts it. A client that names no host, or an unknown one, is answered as if it
//! had asked for the first name of the first certificate.
//!
//! Lookups allocate nothing and lock nothing. Deliberately absent: choosing by the validity of a
//! certificate, which would make the answer depend on the clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::load::{Certificate, CertificateName};
use crate::config::model::HostPattern;

/// The longest host name, in bytes (RFC 1035 §2.3.4).
pub(super) const HOST_BYTES_MAX: usize = 253;

// The keys come from the operator, only the look-ups from strangers: no flooding is possible and
// a fast hash will do.
type Map<K> = HashMap<K, Vec<usize>, foldhash::fast::RandomState>;

/// The certificates of one listener.
#[derive(Debug, Default)]
pub struct CertificateSet {
    certificates: Vec<Arc<Certificate>>,
    /// Lists of indexes into `certificates`, in the order of preference.
    exact: Map<String>,
    /// By the name without its `*.`.
    wildcard: Map<String>,
    address: Map<IpAddr>,
    default: Vec<usize>,
}

impl CertificateSet {
    /// The first certificate is the default. An empty set answers nobody.
    pub fn new(certificates: Vec<Arc<Certificate>>) -> Self {
        let mut preference: Vec<usize> = (0..certificates.len()).collect();
        // Stable, so that the order of the configuration decides among equal kinds.
        preference.sort_by_key(|index| certificates.get(*index).map(|c| c.key_kind));

        let mut set = Self::default();
        for index in preference {
            for name in certificates.get(index).into_iter().flat_map(|c| &c.names) {
                match name {
                    CertificateName::Exact(name) => set.exact.entry(name.clone()).or_default(),
                    CertificateName::Wildcard(name) => {
                        set.wildcard.entry(name.clone()).or_default()
                    }
                    CertificateName::Address(address) => set.address.entry(*address).or_default(),
                }
                .push(index);
            }
        }
        set.default = match certificates.first().and_then(|first| first.names.first()) {
            Some(CertificateName::Exact(name)) => set.exact.get(name),
            Some(CertificateName::Wildcard(name)) => set.wildcard.get(name),
            Some(CertificateName::Address(address)) => set.address.get(address),
            None => None,
        }
        .cloned()
        .unwrap_or_else(|| vec![0]);
        set.certificates = certificates;
        set
    }

    /// In the order of the configuration.
    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }

    /// The certificate for a client that asks for `sni` and accepts `schemes`. Where it accepts
    /// none of the keys, the preferred one, so that the handshake fails for that reason.
    pub fn select(&self, sni: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Certificate> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = sni.and_then(|sni| normal(sni, &mut buffer));
        let (exact, wildcard) = match host.map(|host| self.named(host)) {
            None | Some(([], [])) => (self.default.as_slice(), &[][..]),
            Some(named) => named,
        };
        let mut candidates = exact
            .iter()
            .chain(wildcard)
            .filter_map(|index| self.certificates.get(*index).map(Arc::as_ref));
        let preferred = candidates.next()?;
        if preferred.can_sign(schemes) {
            return Some(preferred);
        }
        candidates.find(|candidate| candidate.can_sign(schemes)).or(Some(preferred))
    }

    /// Whether a request for `host` (without port) belongs on another connection than one opened
    /// for `sni`: the certificates for `sni` do not cover the host, and another one here does
    /// (421, RFC 9110 §15.5.20).
    ///
    /// Connections without SNI are not to be asked about: old clients send every Host over them.
    pub fn misdirected(&self, sni: &str, host: &str) -> bool {
        if sni.eq_ignore_ascii_case(host) {
            return false;
        }
        let used = self.presented(sni);
        let mut buffer = [0; HOST_BYTES_MAX];
        let Some(name) = normal(host, &mut buffer) else {
            return false;
        };
        let (exact, wildcard) = self.named(name);
        let address = match host_address(name) {
            Some(address) => self.address.get(&address).map_or(&[][..], Vec::as_slice),
            None => &[],
        };
        let mut covering = exact.iter().chain(wildcard).chain(address).peekable();
        covering.peek().is_some() && !covering.any(|index| used.contains(index))
    }

    /// Whether there is a certificate for a host, or for all hosts of a wildcard.
    pub fn covers(&self, host: &HostPattern) -> bool {
        match host {
            HostPattern::Exact(name) => {
                let address = host_address(name);
                self.named(name) != (&[], &[])
                    || address.is_some_and(|address| self.address.contains_key(&address))
            }
            HostPattern::Wildcard(parent) => self.wildcard.contains_key(parent.as_str()),
        }
    }

    /// The certificates one of which a client saw that asked for `sni`. A wildcard beside an exact
    /// name is left out: only clients that cannot use the exact one ever see it.
    pub(super) fn presented(&self, sni: &str) -> &[usize] {
        let mut buffer = [0; HOST_BYTES_MAX];
        match normal(sni, &mut buffer).map(|sni| self.named(sni)) {
            None | Some(([], [])) => &self.default,
            Some(([], wildcard)) => wildcard,
            Some((exact, _)) => exact,
        }
    }

    /// The certificates with exactly this name, and those with a wildcard for it.
    fn named(&self, host: &str) -> (&[usize], &[usize]) {
        let exact = self.exact.get(host);
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty());
        let wildcard = parent.and_then(|(_, parent)| self.wildcard.get(parent));
        (exact.map_or(&[], Vec::as_slice), wildcard.map_or(&[], Vec::as_slice))
    }
}

impl ResolvesServerCert for CertificateSet {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.select(hello.server_name(), hello.signature_schemes())
            .map(|certificate| Arc::clone(&certificate.certified))
    }
}

/// The address that a host names; IPv6 with or without brackets.
fn host_address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

/// The host in lower case and without trailing dot, as the maps hold it; `None` if it is too long
/// to be in one.
pub(super) fn normal<'a>(host: &'a str, buffer: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host);
    }
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests {
    use SignatureScheme as Scheme;

    use super::*;
    use crate::tls::load::{KeyKind, certificate};
    use crate::tls::testing::{Key, files};

    const ANY: [Scheme; 2] = [Scheme::ECDSA_NISTP256_SHA256, Scheme::RSA_PSS_SHA256];
    const RSA_ONLY: [Scheme; 2] = [Scheme::RSA_PSS_SHA256, Scheme::RSA_PKCS1_SHA256];

    fn set(certificates: &[(&[&str], Key)]) -> CertificateSet {
        let load = |(names, key): &(&[&str], Key)| certificate(&files(names, *key)).unwrap();
        CertificateSet::new(certificates.iter().map(load).map(Arc::new).collect())
    }

    /// The first name and the kind of the certificate that is chosen.
    fn chosen(set: &CertificateSet, sni: Option<&str>, schemes: &[Scheme]) -> (String, KeyKind) {
        let certificate = set.select(sni, schemes).unwrap();
        (certificate.names[0].to_string(), certificate.key_kind)
    }

    fn chosen_name(set: &CertificateSet, sni: &str) -> String {
        chosen(set, Some(sni), &ANY).0
    }

    fn sites() -> CertificateSet {
        set(&[
            (&["default.test"], Key::Ecdsa),
            (&["*.example.com"], Key::Ecdsa),
            (&["www.example.com", "example.com"], Key::Ecdsa),
            (&["10.0.0.1", "2001:db8::1"], Key::Ecdsa),
        ])
    }

    #[test]
    fn an_exact_name_wins_over_a_wildcard() {
        let set = sites();
        assert_eq!(chosen_name(&set, "www.example.com"), "www.example.com");
        assert_eq!(chosen_name(&set, "api.example.com"), "*.example.com");
        assert_eq!(chosen_name(&set, "example.com"), "www.example.com");
    }

    #[test]
    fn the_case_and_a_trailing_dot_make_no_difference() {
        let set = sites();
        assert_eq!(chosen_name(&set, "WWW.Example.com."), "www.example.com");
        assert_eq!(chosen_name(&set, "API.EXAMPLE.COM"), "*.example.com");
    }

    #[test]
    fn unknown_absent_and_absurd_names_get_the_default() {
        let set = sites();
        let long = "A".repeat(HOST_BYTES_MAX + 1);
        for sni in ["a.b.example.com", ".example.com", "", ".", "other.test", &long] {
            assert_eq!(chosen_name(&set, sni), "default.test", "{sni}");
        }
        assert_eq!(chosen(&set, None, &ANY).0, "default.test");
    }

    #[test]
    fn a_wildcard_can_be_the_default() {
        let set = set(&[(&["*.a.test"], Key::Ecdsa), (&["b.test"], Key::Ecdsa)]);
        assert_eq!(chosen(&set, None, &ANY).0, "*.a.test");
    }

    #[test]
    fn an_empty_set_answers_nobody() {
        assert!(CertificateSet::new(Vec::new()).select(Some("a.test"), &ANY).is_none());
    }

    #[test]
    fn ecdsa_comes_before_rsa_whatever_the_order_of_the_files() {
        let set = set(&[(&["a.test"], Key::Rsa), (&["a.test"], Key::Ecdsa)]);
        assert_eq!(chosen(&set, Some("a.test"), &ANY).1, KeyKind::Ecdsa);
        assert_eq!(chosen(&set, Some("a.test"), &RSA_ONLY).1, KeyKind::Rsa);
        assert_eq!(chosen(&set, None, &ANY).1, KeyKind::Ecdsa);
        assert_eq!(chosen(&set, None, &RSA_ONLY).1, KeyKind::Rsa);
    }

    #[test]
    fn among_equal_kinds_the_first_file_wins() {
        let set = set(&[(&["a.test", "b.test"], Key::Ecdsa), (&["b.test"], Key::Ecdsa)]);
        assert_eq!(chosen_name(&set, "b.test"), "a.test");
    }

    #[test]
    fn a_client_that_cannot_use_the_exact_certificate_gets_the_wildcard() {
        let set = set(&[(&["www.a.test"], Key::Ecdsa), (&["*.a.test"], Key::Rsa)]);
        assert_eq!(chosen(&set, Some("www.a.test"), &RSA_ONLY).0, "*.a.test");
    }

    #[test]
    fn a_client_that_accepts_no_key_gets_the_preferred_one() {
        let set = set(&[(&["a.test"], Key::Ecdsa)]);
        assert_eq!(chosen(&set, Some("a.test"), &RSA_ONLY).1, KeyKind::Ecdsa);
    }

    #[test]
    fn a_host_that_another_certificate_covers_is_misdirected() {
        let set = sites();
        assert!(set.misdirected("default.test", "www.example.com"));
        assert!(set.misdirected("www.example.com", "Default.test."));
        for address in ["10.0.0.1", "[2001:db8::1]", "[2001:DB8:0::1]"] {
            assert!(set.misdirected("default.test", address), "{address}");
        }
        // The client saw the certificate with the exact name, not the wildcard.
        assert!(set.misdirected("www.example.com", "api.example.com"));
    }

    #[test]
    fn a_host_that_the_same_certificate_covers_is_not_misdirected() {
        let set = sites();
        assert!(!set.misdirected("www.example.com", "example.com"));
        assert!(!set.misdirected("api.example.com", "www2.example.com"));
        assert!(!set.misdirected("WWW.example.com", "www.example.com"));
        // A wildcard certificate was shown and covers the host, though another is more exact.
        assert!(!set.misdirected("api.example.com", "www.example.com"));
    }

    #[test]
    fn a_host_that_no_certificate_covers_is_not_misdirected() {
        let set = sites();
        assert!(!set.misdirected("default.test", "unknown.test"));
        assert!(!set.misdirected("unknown.test", "other.test"));
        assert!(!set.misdirected("default.test", ""));
    }

    #[test]
    fn an_unknown_sni_counts_as_the_default() {
        let set = sites();
        assert!(!set.misdirected("unknown.test", "default.test"));
        assert!(set.misdirected("unknown.test", "www.example.com"));
    }
}
