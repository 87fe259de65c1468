//! Certificates and keys out of PEM files, and what a file holds when they are not there.

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::error::{Block, Contents, LoadError};
use crate::config::model::FileContent;

/// Labels of a file that an error names.
const LABELS_MAX: usize = 4;
/// RFC 7468 labels are short; a longer one is no label.
const LABEL_BYTES_MAX: usize = 40;
/// What every structure in DER begins with, and no text.
const DER_SEQUENCE: u8 = 0x30;

/// All certificates of a file, in its order; at least one.
pub(super) fn certificates(file: &FileContent) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let chain = CertificateDer::pem_slice_iter(&file.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| broken(file, source))?;
    if chain.is_empty() {
        return Err(missing(file, Block::Certificate));
    }
    Ok(chain)
}

/// All revocation lists of a file; at least one. Authorities also publish them as they are, in DER.
pub(super) fn revocation_lists(
    file: &FileContent,
) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
    if file.bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![file.bytes.to_vec().into()]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&file.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| broken(file, source))?;
    if lists.is_empty() {
        return Err(missing(file, Block::RevocationList));
    }
    Ok(lists)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key(file: &FileContent) -> Result<PrivateKeyDer<'static>, LoadError> {
    match PrivateKeyDer::from_pem_slice(&file.bytes) {
        Ok(key) => Ok(key),
        // The older encryption keeps the label of a plain key and adds header lines; the newer one
        // has a label of its own.
        Err(_) if is_encrypted(&file.bytes) => {
            Err(LoadError::EncryptedKey { path: file.path.clone() })
        }
        Err(pem::Error::NoItemsFound) => Err(missing(file, Block::PrivateKey)),
        Err(source) => Err(broken(file, source)),
    }
}

fn broken(file: &FileContent, source: pem::Error) -> LoadError {
    LoadError::Pem { path: file.path.clone(), source }
}

fn missing(file: &FileContent, wanted: Block) -> LoadError {
    LoadError::NoBlock { path: file.path.clone(), wanted, found: contents(&file.bytes) }
}

fn is_encrypted(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        text.lines().any(|line| {
            line.starts_with("Proc-Type: 4,ENCRYPTED")
                || line.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        })
    })
}

fn contents(bytes: &[u8]) -> Contents {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Contents::Binary;
    };
    if text.trim().is_empty() {
        return Contents::Empty;
    }
    let mut labels: Vec<String> = Vec::new();
    for label in text.lines().filter_map(label) {
        if labels.len() < LABELS_MAX && !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    }
    if labels.is_empty() { Contents::Text } else { Contents::Blocks(labels) }
}

fn label(line: &str) -> Option<&str> {
    let label = line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
    let plain = label.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    (plain && !label.is_empty() && label.len() <= LABEL_BYTES_MAX).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::file;

    fn key_error(bytes: &[u8]) -> LoadError {
        private_key(&file("site.key", bytes)).unwrap_err()
    }

    #[test]
    fn an_empty_file_is_called_empty() {
        let error = certificates(&file("site.crt", b"\n")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no PEM block of a certificate found in site.crt; the file is empty"
        );
    }

    #[test]
    fn text_without_a_block_is_told_apart_from_binary_content() {
        let text = key_error(b"hello").to_string();
        assert!(text.ends_with("the file holds no PEM block at all"), "{text}");
        let der = key_error(&[0x30, 0x82, 0xff, 0x00]);
        assert!(der.to_string().ends_with("the file is binary"), "{der}");
        assert!(der.help().unwrap().contains("-inform DER"));
    }

    #[test]
    fn other_blocks_are_named_once() {
        let block = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
        let error = key_error(block.repeat(3).as_bytes()).to_string();
        assert!(error.ends_with("the file holds X509 CRL"), "{error}");
    }

    #[test]
    fn both_forms_of_an_encrypted_key_are_recognised() {
        let newer =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                     DEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for text in [newer, older] {
            let error = key_error(text.as_bytes());
            assert!(matches!(error, LoadError::EncryptedKey { .. }), "{error}");
            assert!(error.help().unwrap().contains("openssl pkey -in site.key"));
        }
    }

    #[test]
    fn a_block_that_is_cut_off_is_broken() {
        let error = key_error(b"-----BEGIN PRIVATE KEY-----\nAAAA\n");
        assert_eq!(
            error.to_string(),
            "a PEM block in site.key is broken: the line `-----END PRIVATE KEY-----` is missing"
        );
    }

    #[test]
    fn a_request_in_place_of_a_certificate_is_explained() {
        let block =
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        let error = certificates(&file("site.crt", block.as_bytes())).unwrap_err();
        assert!(error.help().unwrap().contains("authority"), "{error}");
    }
}
