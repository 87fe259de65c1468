//! The TLS side of listeners: certificates, ticket keys, what is asked of clients.

use super::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    /// Named one by one; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// Not empty where there are no `certificates`, unless `self_signed` stands in.
    pub directory: Option<CertificateFolder>,
    /// The certificate that we make ourselves, while there is no other.
    pub self_signed: Option<SelfSigned>,
    pub min_version: TlsVersion,
    /// `None`: random keys of this process.
    pub ticket_keys: Option<Located<FileContent>>,
    /// At most one of them is without `hosts`.
    pub client_auth: Vec<ClientAuth>,
}

/// A certificate that nobody has a reason to trust.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfSigned {
    /// At least one, in lower case; wildcards and addresses among them.
    pub names: Vec<String>,
    /// It is all that the listener is to have; otherwise it waits for one by ACME.
    pub is_trial: bool,
    pub span: SpanOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// A certificate chain and its key, as read from two PEM files, not yet parsed.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub cert: FileContent,
    pub key: FileContent,
    /// Where the configuration names them.
    pub span: Span,
}

impl PartialEq for CertificateFiles {
    fn eq(&self, other: &Self) -> bool {
        self.cert == other.cert && self.key == other.key
    }
}

/// A folder whose pairs of files are certificates. What cannot be used of it now may be in the
/// middle of being written: it is no error.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateFolder {
    pub path: PathBuf,
    /// Whether there is such a folder.
    pub exists: bool,
    /// The default first, then by path.
    pub pairs: Vec<FolderPair>,
    pub span: SpanOf,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FolderPair {
    /// The file of the chain, be it there or not: what a pair is known by.
    pub cert: PathBuf,
    /// Or what is missing of it.
    pub files: Result<CertificateFiles, String>,
}

/// What is asked of the clients of some hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientAuth {
    pub mode: ClientAuthMode,
    /// The authorities that are believed; `None`: that of Cloudflare's global certificate.
    pub ca: Option<FileContent>,
    /// Lists of what they have revoked. With any, the state of every certificate must be known.
    pub crl: Vec<FileContent>,
    /// Empty: all hosts that no other one names.
    pub hosts: Vec<HostPattern>,
    pub span: SpanOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuthMode {
    /// No connection without a good certificate.
    Require,
    /// None is fine; a bad one is not.
    Request,
}
