//! Certificates from an authority that speaks ACME (RFC 8555), by HTTP-01 or TLS-ALPN-01.
//!
//! ```text
//! held        what a chain is for, and how long it lives; pure
//! renewal     when it is renewed: as the authority says (RFC 9773), or by its life; pure
//! known       all of that for one certificate of the configuration, and how its orders went
//! board       the same for those who ask, and replacements that are wanted
//! store       files that only we can read, written whole or not at all
//! http        the calls of the protocol over our own client
//! authority   the account, renewal information, revocation
//! order       one order: challenges, key, chain
//! revoke      what was replaced and is to be revoked, over restarts
//! ```
//!
//! What is issued is written as `NAME.crt` and `NAME.key` into one folder; a listener whose
//! `tls.directory` is that folder takes it up as it does whatever appears there. A failure changes
//! nothing that is held, and is tried again after a while that doubles.
//!
//! Deliberately absent: challenges by DNS, wildcards, accounts that are bound to others.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::balance::Rng;
use crate::challenges::Challenges;
use crate::config::model::{Acme, AcmeCertificate};
use crate::shutdown::{Phase, Stop};
use crate::snapshot::Snapshot;

mod authority;
mod board;
mod held;
mod http;
mod known;
mod order;
mod renewal;
mod revoke;
mod store;

pub use board::{Board, Reason, Unknown};

use authority::News;
use known::Known;
use renewal::ASK_MAX;
use revoke::Pending;

/// How often it is looked whether something is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// For one order, from its first call to the chain.
const ORDER_TIMEOUT: Duration = Duration::from_secs(180);
/// For a look at renewal information, and for a revocation.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// After an order that failed; doubled with each that follows. Public authorities take five
/// failures an hour.
const BACK_OFF_MIN: Duration = Duration::from_secs(120);
const BACK_OFF_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// A handle for those who ask and the one who works.
pub type Shared = Arc<Board>;

/// Makes the folder that certificates are kept in, before anybody looks into it.
///
/// # Errors
/// It is missing and cannot be made.
pub fn make_folder(acme: &Acme) -> io::Result<()> {
    store::make(&acme.folder)
}

/// Gets and renews certificates until the process drains.
pub async fn run(published: Arc<ArcSwap<Snapshot>>, board: Shared, mut stop: Stop) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work::new(board);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.reached(Phase::Draining) => return,
        }
        let snapshot = published.load_full();
        tokio::select! {
            () = work.step(&snapshot) => {}
            () = stop.reached(Phase::Draining) => return,
        }
    }
}

/// What is known of the certificates that are configured.
#[derive(Debug)]
struct Work {
    board: Shared,
    acme: Option<Acme>,
    known: HashMap<Arc<str>, Known>,
    revocations: Vec<Pending>,
    rng: Rng,
}

impl Work {
    fn new(board: Shared) -> Self {
        Self {
            board,
            acme: None,
            known: HashMap::new(),
            revocations: Vec::new(),
            rng: Rng::from_entropy(),
        }
    }

    /// Orders what is due, one after the other; then the rest, which is less urgent.
    async fn step(&mut self, snapshot: &Snapshot) {
        let (acme, challenges) = (snapshot.config.acme.as_ref(), &snapshot.challenges);
        if self.acme.as_ref() != acme {
            self.begin(acme);
        }
        let Some(acme) = acme else { return };
        for certificate in &acme.certificates {
            if self.is_due(acme, certificate) {
                self.order(acme, certificate, challenges).await;
            }
        }
        self.revoke(acme, snapshot).await;
        self.ask(acme).await;
    }

    /// Whoever has changed the configuration wants to see whether it works now.
    fn begin(&mut self, acme: Option<&Acme>) {
        let now = Instant::now();
        self.acme = acme.cloned();
        self.board.retain(acme);
        self.known.clear();
        if let Some(acme) = acme
            && let Err(error) = store::make(&acme.folder)
        {
            let folder = acme.folder.display();
            tracing::error!(%folder, %error, "the folder of certificates cannot be made");
        }
        self.revocations = acme.map(|acme| revoke::pending(&acme.folder, now)).unwrap_or_default();
        for pending in &self.revocations {
            self.board.show_revocation(&pending.name, pending.shown(None));
        }
    }

    fn is_due(&mut self, acme: &Acme, certificate: &AcmeCertificate) -> bool {
        let (folder, now) = (&acme.folder, Instant::now());
        let is_new = !self.known.contains_key(&certificate.name);
        let known = self
            .known
            .entry(certificate.name.clone())
            .or_insert_with(|| Known::read(folder, certificate, now));
        if known.refresh(folder, certificate, now) || is_new {
            self.board.show(&certificate.name, known.status(false, now));
        }
        known.is_due(self.board.wanted(&certificate.name), now)
    }

    async fn order(
        &mut self,
        acme: &Acme,
        certificate: &AcmeCertificate,
        challenges: &Arc<Challenges>,
    ) {
        let name = &certificate.name;
        let Some(known) = self.known.get_mut(name) else { return };
        self.board.show(name, known.status(true, Instant::now()));
        let held = known.held.as_ref().map(|held| &held.leaf);
        let order = order::issue(acme, certificate, held, challenges);
        let result = timeout(ORDER_TIMEOUT, order).await;
        let result = result.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let wanted = self.board.wanted(name);
        let result = result.and_then(|issued| {
            held::covers(&issued.chain, certificate)?;
            if let (Some(wanted), Some(held)) = (wanted, &known.held) {
                revoke::note(&acme.folder, name, held, wanted.reason)
                    .map_err(|error| format!("no note of the revocation: {error}"))?;
            }
            store::write_pair(&acme.folder, name, &issued.chain, &issued.key)
                .map_err(|error| format!("its files cannot be written: {error}"))
        });
        let now = Instant::now();
        match result {
            Ok(()) => {
                challenges.issued.increment();
                known.issued(&acme.folder, certificate, now);
                let serial = known.held.as_ref().map(|held| &*held.serial);
                tracing::info!(certificate = &**name, serial, "certificate issued");
            }
            Err(why) => {
                challenges.failed.increment();
                let wait = known.failed(&why, now);
                tracing::error!(certificate = &**name, why, ?wait, "certificate not issued");
                self.board.tried(name);
                self.board.show(name, known.status(false, now));
                return;
            }
        }
        self.board.show(name, known.status(false, now));
        if wanted.is_some() {
            self.board.replaced(name);
            self.revocations = revoke::pending(&acme.folder, now);
            for pending in self.revocations.iter().filter(|it| it.name == *name) {
                self.board.show_revocation(name, pending.shown(None));
            }
        }
    }

    /// Revokes what was replaced, one at a time.
    async fn revoke(&mut self, acme: &Acme, snapshot: &Snapshot) {
        let (now, challenges) = (Instant::now(), &snapshot.challenges);
        let is_due = |it: &Pending| it.is_due(is_served(snapshot, &it.leaf), now);
        let Some(index) = self.revocations.iter().position(is_due) else { return };
        let pending = &mut self.revocations[index];
        let call = async {
            let account = authority::account(acme).await?;
            authority::revoke(&account, &pending.leaf, pending.reason).await
        };
        let result = timeout(CALL_TIMEOUT, call).await;
        let result = result.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let (certificate, serial) = (pending.name.clone(), pending.serial.clone());
        self.board.show_revocation(&certificate, pending.shown(Some(&result)));
        match &result {
            Ok(()) => {
                challenges.revoked.increment();
                tracing::info!(certificate = &*certificate, serial, "certificate revoked");
            }
            Err(why) => {
                challenges.not_revoked.increment();
                let wait = pending.failed(Instant::now());
                let certificate = &*certificate;
                tracing::error!(certificate, serial, why, ?wait, "certificate not revoked");
            }
        }
        if pending.is_over(&result) {
            pending.forget(&acme.folder);
            self.revocations.swap_remove(index);
        }
    }

    /// Asks the authority when to renew, for one certificate at a time. What it does not say is
    /// decided by the life.
    async fn ask(&mut self, acme: &Acme) {
        let now = Instant::now();
        let due = self.known.iter_mut().find(|(_, it)| it.held.is_some() && it.ask_at <= now);
        let Some((name, known)) = due else { return };
        let Some(leaf) = known.held.as_ref().map(|held| held.leaf.clone()) else { return };
        let call = async {
            match authority::kept_account(acme).await? {
                Some(account) => authority::news(&account, &leaf).await,
                None => Ok(News::None),
            }
        };
        let news = timeout(CALL_TIMEOUT, call).await;
        let news = news.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let now = Instant::now();
        let taken = news.and_then(|news| match news {
            News::Window(window, again) => known.suggested(window, again, self.rng.unit(), now),
            News::None => {
                known.ask_at = now + ASK_MAX;
                Ok(())
            }
        });
        match taken {
            Ok(()) => self.board.show(name, known.status(false, now)),
            Err(why) => {
                let wait = known.asked_in_vain(now);
                tracing::warn!(certificate = &**name, why, ?wait, "no renewal information");
            }
        }
    }
}

/// Whether a listener still shows a certificate.
fn is_served(snapshot: &Snapshot, leaf: &CertificateDer<'_>) -> bool {
    let tls = snapshot.listeners.values().filter_map(|listener| listener.tls.as_ref());
    let mut served = tls.flat_map(|tls| tls.certificates.certificates());
    served.any(|it| it.certified.cert.first() == Some(leaf))
}

fn back_off(failures: u32) -> Duration {
    BACK_OFF_MIN.saturating_mul(1 << failures.min(16)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_below_the_limits_of_public_authorities() {
        let waits: Vec<u64> = (0..5).map(|failures| back_off(failures).as_secs()).collect();
        assert_eq!(waits, [120, 240, 480, 960, 1920]);
        assert!(waits.iter().sum::<u64>() > 3600);
        assert_eq!(back_off(40), BACK_OFF_MAX);
    }
}
