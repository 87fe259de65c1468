//! Certificates from an authority that speaks ACME (RFC 8555), by HTTP-01.
//!
//! ```text
//! held    what a folder holds of a certificate, and when it is to be renewed; pure
//! store   files that only we can read, written whole or not at all
//! http    the calls of the protocol over our own client
//! order   one order: challenges, key, chain
//! ```
//!
//! What is issued is written as `NAME.crt` and `NAME.key` into one folder; a listener whose
//! `tls.directory` is that folder takes it up as it does whatever appears there. A failure changes
//! nothing that is held, and is tried again after a while that doubles.
//!
//! Deliberately absent: challenges by TLS-ALPN and DNS, hints of the authority on renewal
//! (RFC 9773), revocation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::challenges::Challenges;
use crate::config::model::{Acme, AcmeCertificate};
use crate::shutdown::{Phase, Stop};
use crate::snapshot::Snapshot;

mod held;
mod http;
mod order;
mod store;

use held::Held;

/// How often it is looked whether something is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the files are read, so that one that was taken away is missed.
const READ_INTERVAL: Duration = Duration::from_secs(60);
/// For one order, from its first call to the chain.
const ORDER_TIMEOUT: Duration = Duration::from_secs(180);
/// After an order that failed; doubled with each that follows. Public authorities take five
/// failures an hour.
const BACK_OFF_MIN: Duration = Duration::from_secs(120);
const BACK_OFF_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// Gets and renews certificates until the process drains.
pub async fn run(published: Arc<ArcSwap<Snapshot>>, mut stop: Stop) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.reached(Phase::Draining) => return,
        }
        let snapshot = published.load_full();
        tokio::select! {
            () = work.step(snapshot.config.acme.as_ref(), &snapshot.challenges) => {}
            () = stop.reached(Phase::Draining) => return,
        }
    }
}

/// What is known of the certificates that are configured.
#[derive(Debug, Default)]
struct Work {
    acme: Option<Acme>,
    known: HashMap<Arc<str>, Known>,
}

#[derive(Debug)]
struct Known {
    renewal: SystemTime,
    read_at: Instant,
    failures: u32,
    not_before: Instant,
}

impl Work {
    /// Orders what is due, one after the other.
    async fn step(&mut self, acme: Option<&Acme>, challenges: &Arc<Challenges>) {
        if self.acme.as_ref() != acme {
            // Whoever changed it wants to see whether it works now.
            self.acme = acme.cloned();
            self.known.clear();
        }
        let Some(acme) = acme else { return };
        for certificate in &acme.certificates {
            if self.is_due(acme, certificate, Instant::now()) {
                self.order(acme, certificate, challenges).await;
            }
        }
    }

    fn is_due(&mut self, acme: &Acme, certificate: &AcmeCertificate, now: Instant) -> bool {
        let known = self.known.entry(certificate.name.clone()).or_insert_with(|| Known {
            renewal: renewal(acme, certificate),
            read_at: now,
            failures: 0,
            not_before: now,
        });
        if known.read_at + READ_INTERVAL <= now {
            (known.renewal, known.read_at) = (renewal(acme, certificate), now);
        }
        known.not_before <= now && known.renewal <= SystemTime::now()
    }

    async fn order(
        &mut self,
        acme: &Acme,
        certificate: &AcmeCertificate,
        challenges: &Arc<Challenges>,
    ) {
        let name = &*certificate.name;
        let ordered = timeout(ORDER_TIMEOUT, order::issue(acme, certificate, challenges)).await;
        let result = ordered.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let result = result.and_then(|issued| {
            held::covers(&issued.chain, certificate)?;
            store::write_pair(&acme.folder, name, &issued.chain, &issued.key)
                .map_err(|error| format!("its files cannot be written: {error}"))
        });
        let Some(known) = self.known.get_mut(&certificate.name) else { return };
        match result {
            Ok(()) => {
                challenges.issued.increment();
                (known.failures, known.renewal) = (0, renewal(acme, certificate));
                tracing::info!(certificate = name, "certificate issued");
            }
            Err(why) => {
                challenges.failed.increment();
                let wait = back_off(known.failures);
                known.failures = known.failures.saturating_add(1);
                known.not_before = Instant::now() + wait;
                tracing::error!(certificate = name, why, ?wait, "certificate not issued");
            }
        }
    }
}

fn back_off(failures: u32) -> Duration {
    BACK_OFF_MIN.saturating_mul(1 << failures.min(16)).min(BACK_OFF_MAX)
}

/// When a certificate is to be ordered: long ago, where there is none that fits.
fn renewal(acme: &Acme, certificate: &AcmeCertificate) -> SystemTime {
    let held = store::read_pair(&acme.folder, &certificate.name);
    let held = held.and_then(|chain| Held::of(&chain)).filter(|held| held.covers(certificate));
    held.map_or(SystemTime::UNIX_EPOCH, |held| held.renewal())
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
