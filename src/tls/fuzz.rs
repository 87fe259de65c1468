//! PEM files, for the fuzzer.

use super::pem;
use crate::config::model::FileContent;

/// Reads certificates and a key; what is wrong must be sayable.
pub fn pem(data: &[u8]) {
    let file = FileContent { path: "fuzz.pem".into(), bytes: data.into() };
    if let Err(error) = pem::certificates(&file) {
        let _ = error.to_string();
    }
    if let Err(error) = pem::private_key(&file) {
        let _ = error.to_string();
    }
}
