//! What is known of certificates, for whoever asks, and what is asked for: the side of an API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::held::Held;
use super::renewal;
use crate::config::model::Acme;

/// Why a certificate is revoked (RFC 5280 §5.3.1): the reasons that are a subscriber's to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    Unspecified,
    KeyCompromise,
    AffiliationChanged,
    #[default]
    Superseded,
    CessationOfOperation,
}

/// A replacement that is wanted until it has been issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) reason: Reason,
    /// Once it has failed it waits as a renewal does.
    pub(super) is_tried: bool,
}

/// What is known of one certificate.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) held: Option<Held>,
    pub(super) is_ordering: bool,
    pub(super) renewal: SystemTime,
    pub(super) because: renewal::Reason,
    pub(super) explanation: Option<String>,
    pub(super) failures: u32,
    /// Of the last order.
    pub(super) error: Option<String>,
    /// Before which no order goes out.
    pub(super) not_before: Option<SystemTime>,
}

/// What was revoked, or is still to be.
#[derive(Debug, Clone)]
pub(super) struct Revocation {
    pub(super) serial: String,
    pub(super) reason: Reason,
    pub(super) revoked: Option<SystemTime>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Default)]
struct Known {
    statuses: BTreeMap<Arc<str>, Status>,
    /// The last one of each certificate.
    revocations: BTreeMap<Arc<str>, Revocation>,
    /// Names are those of the configuration, so there are never more.
    wanted: BTreeMap<Arc<str>, Wanted>,
}

/// Where certificates stand, and which are to be replaced.
#[derive(Debug, Default)]
pub struct Board(Mutex<Known>);

/// There is no certificate of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

impl Board {
    /// Has a certificate ordered anew, with a new key, and the one that is held now revoked once the
    /// new one is served. Asking again changes the reason only.
    ///
    /// # Errors
    /// The configuration has no such certificate.
    pub fn replace(&self, acme: &Acme, name: &str, reason: Reason) -> Result<(), Unknown> {
        let mut names = acme.certificates.iter().map(|it| &it.name);
        let name = names.find(|it| ***it == *name).ok_or(Unknown)?;
        self.known().wanted.insert(name.clone(), Wanted { reason, is_tried: false });
        Ok(())
    }

    /// The certificates of the configuration.
    pub fn describe(&self, acme: Option<&Acme>) -> Value {
        let known = self.known();
        let certificates: Vec<Value> = acme
            .into_iter()
            .flat_map(|acme| &acme.certificates)
            .map(|it| {
                let status = known.statuses.get(&it.name);
                let mut shown = status.map_or_else(|| json!({}), describe);
                shown["name"] = json!(&*it.name);
                shown["hosts"] = it.hosts.iter().map(|host| &**host).collect();
                shown["replacing"] = json!(known.wanted.get(&it.name).map(|it| it.reason));
                shown["revocation"] = json!(known.revocations.get(&it.name).map(revocation));
                shown
            })
            .collect();
        json!({
            "directory": acme.map(|acme| &*acme.directory),
            "challenge": acme.map(|acme| acme.challenge.as_str()),
            "certificates": certificates,
        })
    }

    pub(super) fn wanted(&self, name: &str) -> Option<Wanted> {
        self.known().wanted.get(name).copied()
    }

    pub(super) fn tried(&self, name: &str) {
        if let Some(wanted) = self.known().wanted.get_mut(name) {
            wanted.is_tried = true;
        }
    }

    pub(super) fn replaced(&self, name: &str) {
        self.known().wanted.remove(name);
    }

    pub(super) fn show(&self, name: &Arc<str>, status: Status) {
        self.known().statuses.insert(name.clone(), status);
    }

    pub(super) fn show_revocation(&self, name: &Arc<str>, revocation: Revocation) {
        self.known().revocations.insert(name.clone(), revocation);
    }

    /// Another configuration: what is not in it any more is forgotten.
    pub(super) fn retain(&self, acme: Option<&Acme>) {
        let names = || acme.into_iter().flat_map(|acme| &acme.certificates).map(|it| &it.name);
        let mut known = self.known();
        known.statuses.clear();
        known.wanted.retain(|name, _| names().any(|it| it == name));
        known.revocations.retain(|name, _| names().any(|it| it == name));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn describe(status: &Status) -> Value {
    let held = status.held.as_ref();
    let state = match held {
        _ if status.is_ordering => "ordering",
        Some(_) => "held",
        None => "missing",
    };
    json!({
        "state": state,
        "serial": held.map(|held| &held.serial),
        "not_before": held.map(|held| seconds(held.not_before)),
        "not_after": held.map(|held| seconds(held.not_after)),
        "renewal": held.map(|_| seconds(status.renewal)),
        "renewal_by": status.because.as_str(),
        "explanation": status.explanation,
        "failures": status.failures,
        "error": status.error,
        "waits_until": status.not_before.map(seconds),
    })
}

fn revocation(revocation: &Revocation) -> Value {
    json!({
        "serial": revocation.serial,
        "reason": revocation.reason,
        "revoked": revocation.revoked.map(seconds),
        "error": revocation.error,
    })
}
