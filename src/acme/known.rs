//! What is known of one certificate: what is held, when it is renewed, how orders went.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::back_off;
use super::board::{Status, Wanted};
use super::held::Held;
use super::renewal::{self, ASK_AGAIN_MAX, ASK_MAX, ASK_MIN, Reason, Suggestion, planned};
use super::store;
use crate::config::model::AcmeCertificate;

/// How often the files are read, so that one that was taken away is missed.
const READ_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Known {
    pub(super) held: Option<Held>,
    pub(super) suggestion: Option<Suggestion>,
    /// When the authority is asked for the next one.
    pub(super) ask_at: Instant,
    /// Times that it was asked in vain, in a row.
    asked_in_vain: u32,
    read_at: Instant,
    failures: u32,
    error: Option<String>,
    not_before: Instant,
}

impl Known {
    pub(super) fn read(folder: &Path, certificate: &AcmeCertificate, now: Instant) -> Self {
        Self {
            held: held(folder, certificate),
            suggestion: None,
            ask_at: now,
            asked_in_vain: 0,
            read_at: now,
            failures: 0,
            error: None,
            not_before: now,
        }
    }

    /// Reads the files again where that is due; whether they have changed.
    pub(super) fn refresh(
        &mut self,
        folder: &Path,
        certificate: &AcmeCertificate,
        now: Instant,
    ) -> bool {
        if now < self.read_at + READ_INTERVAL {
            return false;
        }
        self.take(held(folder, certificate), now)
    }

    fn take(&mut self, held: Option<Held>, now: Instant) -> bool {
        self.read_at = now;
        let is_new = held != self.held;
        if is_new {
            // What was said is of another certificate.
            (self.held, self.suggestion) = (held, None);
            (self.ask_at, self.asked_in_vain) = (now, 0);
        }
        is_new
    }

    pub(super) fn renewal(&self) -> (SystemTime, Reason) {
        planned(self.held.as_ref(), self.suggestion.as_ref())
    }

    pub(super) fn is_due(&self, wanted: Option<Wanted>, now: Instant) -> bool {
        let is_allowed = self.not_before <= now;
        match wanted {
            Some(wanted) => !wanted.is_tried || is_allowed,
            None => is_allowed && self.renewal().0 <= SystemTime::now(),
        }
    }

    pub(super) fn issued(&mut self, folder: &Path, certificate: &AcmeCertificate, now: Instant) {
        (self.failures, self.error, self.not_before) = (0, None, now);
        self.take(held(folder, certificate), now);
    }

    /// How long to wait now.
    pub(super) fn failed(&mut self, why: &str, now: Instant) -> Duration {
        let wait = back_off(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.error = Some(why.to_owned());
        self.not_before = now + wait;
        wait
    }

    /// How long to wait until the authority is asked again.
    pub(super) fn asked_in_vain(&mut self, now: Instant) -> Duration {
        let wait = ASK_MIN.saturating_mul(1 << self.asked_in_vain.min(16)).min(ASK_AGAIN_MAX);
        self.asked_in_vain = self.asked_in_vain.saturating_add(1);
        self.ask_at = now + wait;
        wait
    }

    /// Takes a window that the authority has said, for a while.
    pub(super) fn suggested(
        &mut self,
        window: renewal::Window,
        again: Duration,
        random: f64,
        now: Instant,
    ) -> Result<(), String> {
        self.suggestion = Some(Suggestion::new(window, self.suggestion.as_ref(), random)?);
        (self.ask_at, self.asked_in_vain) = (now + again.clamp(ASK_MIN, ASK_MAX), 0);
        Ok(())
    }

    pub(super) fn status(&self, is_ordering: bool, now: Instant) -> Status {
        let (renewal, because) = self.renewal();
        let wait = self.not_before.checked_duration_since(now).filter(|wait| !wait.is_zero());
        let explanation = self.suggestion.as_ref().and_then(|it| it.window.explanation.clone());
        Status {
            held: self.held.clone(),
            is_ordering,
            renewal,
            because,
            explanation,
            failures: self.failures,
            error: self.error.clone(),
            not_before: wait.map(|wait| SystemTime::now() + wait),
        }
    }
}

/// What a folder holds of a certificate that fits.
fn held(folder: &Path, certificate: &AcmeCertificate) -> Option<Held> {
    let chain = store::read_pair(folder, &certificate.name)?;
    Held::of(&chain).filter(|held| held.covers(certificate))
}
