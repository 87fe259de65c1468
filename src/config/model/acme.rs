//! Certificates that we get ourselves.

use std::path::PathBuf;
use std::sync::Arc;

use super::FileContent;

/// An authority that speaks ACME (RFC 8555), and what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The URL of its directory.
    pub directory: Arc<str>,
    /// Who is trusted to be it; `None`: the roots of the system.
    pub ca: Option<FileContent>,
    /// Where it may write to, `mailto:…`.
    pub contact: Vec<Arc<str>>,
    /// Of the account and the certificates.
    pub folder: PathBuf,
    pub certificates: Vec<AcmeCertificate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// Of its files.
    pub name: Arc<str>,
    /// Host names in lower case, at least one.
    pub hosts: Vec<Arc<str>>,
}
