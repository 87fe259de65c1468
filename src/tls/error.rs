//! Why a certificate, a key or a trust store cannot be used, and what the operator can do.
//!
//! Deliberately absent: doubts that do not keep a certificate from working
//! ([`Certificate::warnings`](super::Certificate::warnings)) and failed handshakes.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;

use rustls_pki_types::pem;

/// Why TLS cannot be set up as configured.
#[derive(Debug)]
pub enum LoadError {
    /// A file has no PEM block of the kind that is needed.
    NoBlock { path: PathBuf, wanted: Block, found: Contents },
    /// A private key is protected by a passphrase.
    EncryptedKey { path: PathBuf },
    /// A PEM block is broken.
    Pem { path: PathBuf, source: pem::Error },
    /// A certificate cannot be used; `position` counts from 1 within the file.
    Certificate { path: PathBuf, position: usize, source: Source },
    /// The private key is broken or of a kind that is not supported.
    Key { path: PathBuf, source: Source },
    /// The private key belongs to no certificate of the file.
    Mismatch { cert: PathBuf, key: PathBuf },
    /// The private key belongs to a later certificate of the file; counted from 1.
    LeafNotFirst { path: PathBuf, position: usize },
    /// The system has no trusted roots.
    NoSystemRoots { source: Option<Source> },
    /// There is no name or address that the endpoint's certificate could be checked against.
    NoServerName { endpoint: String },
    /// `sni` is neither a host name nor an address.
    BadServerName { name: String },
    /// A pair of a folder cannot be used, and there is no other one.
    Pair { why: String },
    /// A list of revoked certificates cannot be used.
    RevocationList { path: PathBuf, source: Source },
    /// A file of ticket keys cannot be used; the line counts from 1.
    TicketKeys { path: PathBuf, line: Option<usize>, reason: String },
    /// rustls refuses the configuration.
    Config { source: rustls::Error },
}

pub type Source = Box<dyn StdError + Send + Sync>;

/// What is looked for in a PEM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    Certificate,
    PrivateKey,
    RevocationList,
}

/// What a file holds instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    Empty,
    /// Not text: most likely DER or PKCS#12.
    Binary,
    /// Text without any PEM block.
    Text,
    /// The distinct labels of its PEM blocks.
    Blocks(Vec<String>),
}

impl LoadError {
    /// What to do about it, where there is something to say.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoBlock { wanted, found, .. } => missing_block_help(*wanted, found),
            Self::EncryptedKey { path } => Some(format!(
                "the key is read without a passphrase; write it unencrypted with \
                 `openssl pkey -in {} -out NEW.key`",
                path.display()
            )),
            Self::Pem { .. } => Some("the file may be cut off or damaged; copy it again".into()),
            Self::Key { .. } => Some(
                "RSA from 2048 bits, ECDSA on P-256, P-384 or P-521, and Ed25519 keys in PKCS#8, \
                 PKCS#1 or SEC1 are supported"
                    .into(),
            ),
            Self::Mismatch { cert, key } => Some(format!(
                "`openssl x509 -in {} -noout -pubkey` and `openssl pkey -in {} -pubout` must print \
                 the same",
                cert.display(),
                key.display()
            )),
            Self::LeafNotFirst { .. } => Some(
                "put the certificate of the site first, then the one that issued it, and so on"
                    .into(),
            ),
            Self::NoSystemRoots { .. } => Some(
                "install the package ca-certificates, point SSL_CERT_FILE at a bundle, or name the \
                 authority with `tls.ca`"
                    .into(),
            ),
            Self::NoServerName { .. } => Some("set `tls.sni`".into()),
            Self::BadServerName { .. } => {
                Some("use a host name without scheme and port, or an IP address".into())
            }
            Self::TicketKeys { .. } => Some(
                "each line is one key: 48 or 80 random bytes in base64 or hexadecimal, such as \
                 `openssl rand -base64 48` prints"
                    .into(),
            ),
            Self::Pair { .. } => Some(
                "a folder needs at least one pair of NAME.crt and NAME.key that belong together"
                    .into(),
            ),
            Self::Certificate { .. } | Self::RevocationList { .. } | Self::Config { .. } => None,
        }
    }
}

fn missing_block_help(wanted: Block, found: &Contents) -> Option<String> {
    match (found, wanted) {
        (Contents::Binary, Block::Certificate) => {
            Some("if it is DER, convert it with `openssl x509 -inform DER -in FILE -out NEW.crt`")
        }
        (Contents::Binary, Block::PrivateKey) => {
            Some("if it is DER, convert it with `openssl pkey -inform DER -in FILE -out NEW.key`")
        }
        (Contents::Blocks(labels), Block::Certificate) => {
            if labels.iter().any(|label| label.ends_with("PRIVATE KEY")) {
                Some("the file is a key: are `cert` and `key` swapped?")
            } else if labels.iter().any(|label| label.ends_with("CERTIFICATE REQUEST")) {
                Some("a request is not a certificate; use the one that the authority returned")
            } else {
                None
            }
        }
        (Contents::Blocks(labels), Block::PrivateKey) => labels
            .iter()
            .any(|label| label == "CERTIFICATE")
            .then_some("the file is a certificate: are `cert` and `key` swapped?"),
        (Contents::Text, _) => Some(
            "a block begins with a line `-----BEGIN …-----`, with no space or byte order mark \
             before it",
        ),
        (Contents::Empty | Contents::Binary | Contents::Blocks(_), _) => None,
    }
    .map(str::to_owned)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBlock { path, wanted, found } => {
                write!(f, "no PEM block of a {wanted} found in {}; {found}", path.display())
            }
            Self::EncryptedKey { path } => {
                write!(f, "the private key {} is encrypted", path.display())
            }
            Self::Pem { path, source } => {
                write!(f, "a PEM block in {} is broken: ", path.display())?;
                fmt_pem(source, f)
            }
            Self::Certificate { path, position, source } => {
                write!(f, "certificate {position} in {} is not usable: {source}", path.display())
            }
            Self::Key { path, source } => {
                write!(f, "the private key {} is not usable: {source}", path.display())
            }
            Self::Mismatch { cert, key } => write!(
                f,
                "the key {} does not belong to the certificate {}",
                key.display(),
                cert.display()
            ),
            Self::LeafNotFirst { path, position } => write!(
                f,
                "the chain in {} is in the wrong order: the key belongs to certificate {position}",
                path.display()
            ),
            Self::NoSystemRoots { source } => {
                f.write_str("the system has no trusted root certificates")?;
                source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            Self::NoServerName { endpoint } => {
                write!(f, "{endpoint} has no name that its certificate could be checked against")
            }
            Self::BadServerName { name } => {
                write!(f, "`{name}` is not a name that a certificate can have")
            }
            Self::Pair { why } => f.write_str(why),
            Self::RevocationList { path, source } => {
                write!(
                    f,
                    "the list of revoked certificates {} is not usable: {source}",
                    path.display()
                )
            }
            Self::TicketKeys { path, line: Some(line), reason } => {
                write!(f, "line {line} of {} is no ticket key: {reason}", path.display())
            }
            Self::TicketKeys { path, line: None, reason } => {
                write!(f, "{} holds no ticket keys: {reason}", path.display())
            }
            Self::Config { source } => write!(f, "TLS cannot be set up: {source}"),
        }
    }
}

/// The error's own text shows lines as lists of numbers.
fn fmt_pem(error: &pem::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            write!(f, "the line `-----END {}-----` is missing", end_marker.escape_ascii())
        }
        pem::Error::IllegalSectionStart { line } => {
            write!(f, "`{}` does not end with five hyphens", line.escape_ascii())
        }
        error => fmt::Display::fmt(error, f),
    }
}

// Without `source`: the text already tells the whole cause.
impl StdError for LoadError {}

impl From<rustls::Error> for LoadError {
    fn from(source: rustls::Error) -> Self {
        Self::Config { source }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
            Self::RevocationList => "list of revoked certificates",
        })
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::Binary => f.write_str("the file is binary"),
            Self::Text => f.write_str("the file holds no PEM block at all"),
            Self::Blocks(labels) => write!(f, "the file holds {}", labels.join(", ")),
        }
    }
}
