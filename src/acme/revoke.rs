//! Certificates that were replaced and are to be revoked.
//!
//! Each is a file until the authority has done it, so that a restart forgets none. The file is
//! there before the new certificate is, and counts for nothing while the old one is still held.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::board::{Reason, Revocation};
use super::held::Held;
use super::{back_off, store};

/// How long listeners may take to serve a new certificate, be it that nobody tells us of changes of
/// files. What is still served then is revoked all the same: its key may be in wrong hands.
const SERVED_MAX: Duration = Duration::from_secs(90);
/// Files that are looked at. There is one where a replacement was asked for and the authority has
/// refused to revoke.
const FILES_MAX: usize = 1000;

/// What such a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    reason: Reason,
    /// The leaf, DER.
    certificate: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) name: Arc<str>,
    pub(super) leaf: CertificateDer<'static>,
    pub(super) reason: Reason,
    pub(super) serial: String,
    not_after: SystemTime,
    file: String,
    failures: u32,
    not_before: Instant,
    since: Instant,
}

/// Notes that what is held is to be revoked once it has been replaced.
pub(super) fn note(folder: &Path, name: &str, held: &Held, reason: Reason) -> std::io::Result<()> {
    let file = format!(".{name}.{}.revoke", held.serial);
    let certificate = held.leaf.to_vec();
    let record = Record { name: name.to_owned(), reason, certificate };
    store::write(folder, &file, &serde_json::to_vec(&record)?)
}

/// What is to be revoked by the files of a folder. What is still held is not, and what has expired
/// need not be: their files go.
pub(super) fn pending(folder: &Path, now: Instant) -> Vec<Pending> {
    let files = store::names(folder, ".revoke", FILES_MAX);
    files.into_iter().filter_map(|file| read(folder, file, now)).collect()
}

fn read(folder: &Path, file: String, now: Instant) -> Option<Pending> {
    let Some((record, gone)) = record(folder, &file) else {
        tracing::warn!(file, "a note of a revocation cannot be read; nothing is revoked by it");
        return None;
    };
    let leaf = gone.leaf;
    let held = store::read_pair(folder, &record.name);
    let held = held.and_then(|chain| CertificateDer::pem_slice_iter(&chain).next()?.ok());
    if held.as_ref() == Some(&leaf) || gone.not_after <= SystemTime::now() {
        store::remove(folder, &file);
        return None;
    }
    Some(Pending {
        name: record.name.into(),
        leaf,
        reason: record.reason,
        serial: gone.serial,
        not_after: gone.not_after,
        file,
        failures: 0,
        not_before: now,
        since: now,
    })
}

/// A note, and the certificate that is in it.
fn record(folder: &Path, file: &str) -> Option<(Record, Held)> {
    let record: Record = serde_json::from_slice(&store::read(folder, file)?).ok()?;
    let gone = Held::of_leaf(CertificateDer::from(record.certificate.clone()))?;
    Some((record, gone))
}

impl Pending {
    pub(super) fn is_due(&self, is_served: bool, now: Instant) -> bool {
        self.not_before <= now && (!is_served || self.since + SERVED_MAX <= now)
    }

    /// It is done, or not worth another call.
    pub(super) fn is_over(&self, result: &Result<(), String>) -> bool {
        result.is_ok() || self.not_after <= SystemTime::now()
    }

    pub(super) fn forget(&self, folder: &Path) {
        store::remove(folder, &self.file);
    }

    /// How long to wait now.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let wait = back_off(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait;
        wait
    }

    pub(super) fn shown(&self, result: Option<&Result<(), String>>) -> Revocation {
        Revocation {
            serial: self.serial.clone(),
            reason: self.reason,
            revoked: matches!(result, Some(Ok(()))).then(SystemTime::now),
            error: result.and_then(|result| result.as_ref().err().cloned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::generate::self_signed;

    #[test]
    fn what_is_still_held_is_not_revoked_and_what_was_replaced_is() {
        let folder = store::tests::folder("revoke");
        let path = folder.as_path();
        let now = Instant::now();
        let made = || self_signed(&["a.test"], SystemTime::now()).unwrap();
        let (old, new) = (made(), made());
        store::write_pair(path, "site", &old.cert, &old.key).unwrap();
        let held = Held::of(old.cert.as_bytes()).unwrap();
        note(path, "site", &held, Reason::KeyCompromise).unwrap();
        store::write_pair(path, "site", &new.cert, &new.key).unwrap();
        let pending_now = pending(path, now);
        assert_eq!(pending_now.len(), 1);
        assert_eq!((&*pending_now[0].name, &pending_now[0].serial), ("site", &held.serial));
        assert_eq!(pending_now[0].reason, Reason::KeyCompromise);
        assert!(!pending_now[0].is_due(true, now) && pending_now[0].is_due(false, now));
        assert!(pending_now[0].is_due(true, now + SERVED_MAX));
        // The order that followed had failed before the process ended.
        store::write_pair(path, "site", &old.cert, &old.key).unwrap();
        assert!(pending(path, now).is_empty());
        store::write_pair(path, "site", &new.cert, &new.key).unwrap();
        assert!(pending(path, now).is_empty(), "the file is gone");
        store::write(path, ".site.1.revoke", b"{}").unwrap();
        assert!(pending(path, now).is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
