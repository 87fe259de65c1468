//! Certificates, authorities and lists that are about to expire, in the log while the process runs.
//!
//! A start and every reload say what they find. In between the clock goes on: an end that comes
//! nearer than a month, a week or a day is said when it does, and again each day.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};

use crate::shutdown::{Phase, Stop};
use crate::snapshot::Snapshot;
use crate::tls::expiry::Standing;

/// How often the clock is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How often the same is said.
const REPEAT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Watches until the process drains.
pub async fn run(published: Arc<ArcSwap<Snapshot>>, mut stop: Stop) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.reached(Phase::Draining) => return,
        }
        let now = SystemTime::now();
        let snapshot = published.load_full();
        let listeners = snapshot.listeners.values().filter_map(|listener| listener.tls.as_ref());
        let found = listeners.flat_map(|tls| tls.expiries(now)).collect();
        for text in told.due(snapshot.generation, found, now) {
            tracing::warn!("{text}");
        }
    }
}

/// What is said of something, and how near its end is.
type Found = Vec<(Standing, String)>;

/// What was said last, and when. Holds what the running configuration holds.
#[derive(Debug, Default)]
struct Told {
    generation: u64,
    /// By the text without the days that are left.
    known: HashMap<String, (Standing, SystemTime)>,
}

impl Told {
    /// What of `found` is to be said now.
    fn due(&mut self, generation: u64, found: Found, now: SystemTime) -> Vec<String> {
        // What is new has been said by whoever took it in.
        let is_new = generation != self.generation;
        self.generation = generation;
        let mut due = Vec::new();
        let mut known = HashMap::with_capacity(found.len());
        for (standing, text) in found {
            let subject = text.split(", in ").next().unwrap_or_default().to_owned();
            let before = self.known.get(&subject).copied();
            let is_due = !is_new
                && before.is_none_or(|(last, at)| {
                    let since = now.duration_since(at).unwrap_or_default();
                    last != standing || since >= REPEAT_AFTER
                });
            let said = match before {
                Some((_, at)) if !is_due && !is_new => at,
                _ => now,
            };
            known.insert(subject, (standing, said));
            if is_due {
                due.push(text);
            }
        }
        self.known = known;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::expiry::Notice;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ending(notice: Notice) -> Found {
        vec![(Standing::Ending(notice), "a.crt expires on 2027-01-01, in some days".to_owned())]
    }

    #[test]
    fn an_end_is_said_when_it_comes_nearer_and_then_once_a_day() {
        let mut told = Told::default();
        let start = SystemTime::UNIX_EPOCH;
        let mut said =
            |generation, found, hours| told.due(generation, found, start + HOUR * hours).len();
        // The start has said it.
        assert_eq!(said(1, ending(Notice::Month), 0), 0);
        assert_eq!(said(1, ending(Notice::Month), 23), 0);
        assert_eq!(said(1, ending(Notice::Month), 24), 1);
        assert_eq!(said(1, ending(Notice::Month), 25), 0);
        assert_eq!(said(1, ending(Notice::Week), 26), 1);
        assert_eq!(said(1, ending(Notice::Week), 49), 0);
        assert_eq!(said(1, ending(Notice::Week), 50), 1);
    }

    #[test]
    fn what_begins_to_be_said_between_reloads_is_said_at_once() {
        let mut told = Told::default();
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(told.due(1, Vec::new(), now).len(), 0);
        assert_eq!(told.due(1, ending(Notice::Month), now + HOUR).len(), 1);
        // Said by the reload itself.
        assert_eq!(told.due(2, ending(Notice::Day), now + HOUR * 2).len(), 0);
        assert_eq!(told.due(2, Vec::new(), now + HOUR * 3).len(), 0);
        assert!(told.known.is_empty());
    }
}
