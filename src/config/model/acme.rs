//! Certificates that we get ourselves.

use std::path::PathBuf;
use std::sync::Arc;

use super::{FileContent, SpanOf};

/// An authority that speaks ACME (RFC 8555), and what it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Acme {
    /// The URL of its directory.
    pub directory: Arc<str>,
    /// Who is trusted to be it; `None`: the roots of the system.
    pub ca: Option<FileContent>,
    /// Where it may write to, `mailto:…`.
    pub contact: Vec<Arc<str>>,
    /// How it sees that a host is ours.
    pub challenge: Challenge,
    /// Where that is written, or else where the table begins.
    pub challenge_span: SpanOf,
    /// Of the account and the certificates.
    pub folder: PathBuf,
    pub certificates: Vec<AcmeCertificate>,
}

/// How an authority sees that a host is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// By a request on port 80 (RFC 8555 §8.3).
    Http01,
    /// By a handshake on port 443 (RFC 8737).
    TlsAlpn01,
}

impl Challenge {
    pub const ALL: [Self; 2] = [Self::Http01, Self::TlsAlpn01];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// Of its files.
    pub name: Arc<str>,
    /// Host names in lower case, at least one.
    pub hosts: Vec<Arc<str>>,
}
