//! How the answers of an endpoint turn out, kept while somebody in its pool fails: nothing is
//! written for a pool in which all is well.
//!
//! Requests fall into a few kinds by the hash of their path, or of what the pool hashes on. So an
//! endpoint that fails where its peers do not can be told from a request that fails everywhere, and
//! that only happened to go to one of them more often.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::outlier::Typical;

/// Kinds of requests.
pub(super) const KINDS: usize = 64;
/// How long a window of answers is, and with fewer answers than so many.
const WINDOW_MILLIS: u32 = 60_000;
const WINDOW_LONG_MILLIS: u32 = 600_000;
pub(super) const ANSWERS_MIN: u32 = 200;
/// The weight of one answer in the share of errors, one that is an error and one that is not.
const ERROR_WEIGHT: f32 = 0.2;
const GOOD_WEIGHT: f32 = 0.1;

/// What the endpoints of a pool share. It lives as long as the pool's name.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The number of the window; 0 while nobody fails.
    window: AtomicU32,
    windows: AtomicU32,
    begun: AtomicU32,
    /// When somebody failed last.
    failed: AtomicU32,
    /// An endpoint has failed where nobody could judge it.
    pub(super) is_due: AtomicBool,
    /// The median of the latencies.
    pub(super) median: Typical,
}

impl Watch {
    /// The number of the window, if somebody fails.
    #[inline]
    pub(super) fn window(&self) -> Option<u32> {
        Some(self.window.load(Ordering::Relaxed)).filter(|window| *window != 0)
    }

    /// Somebody failed; the number of the window.
    pub(super) fn failed(&self, now_millis: u32) -> u32 {
        self.failed.store(now_millis, Ordering::Relaxed);
        self.window().unwrap_or_else(|| self.begin(now_millis))
    }

    fn begin(&self, now_millis: u32) -> u32 {
        let window = self.windows.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        self.begun.store(now_millis, Ordering::Relaxed);
        self.window.store(window, Ordering::Relaxed);
        window
    }

    /// Ends a window that is old, after this many answers of all; nobody is watched any more
    /// where nobody has failed in as long a time.
    pub(super) fn roll(&self, answers: impl FnOnce() -> u32, now_millis: u32) {
        let age = now_millis.wrapping_sub(self.begun.load(Ordering::Relaxed));
        if age < WINDOW_MILLIS || (age < WINDOW_LONG_MILLIS && answers() < ANSWERS_MIN) {
            return;
        }
        let quiet = now_millis.wrapping_sub(self.failed.load(Ordering::Relaxed));
        if quiet >= WINDOW_MILLIS {
            self.window.store(0, Ordering::Relaxed);
        } else {
            self.begin(now_millis);
        }
    }
}

/// The answers of one endpoint in this window.
#[derive(Debug)]
pub(super) struct Record {
    window: AtomicU32,
    answers: AtomicU32,
    /// The kinds of which some request succeeded, a bit each.
    good: AtomicU64,
    failed: [AtomicU16; KINDS],
    /// The share of errors among the last answers, an `f32`.
    errors: AtomicU32,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            window: AtomicU32::default(),
            answers: AtomicU32::default(),
            good: AtomicU64::default(),
            failed: [const { AtomicU16::new(0) }; KINDS],
            errors: AtomicU32::default(),
        }
    }
}

/// The kind of a request.
fn kind_of(key: u64) -> usize {
    (key >> 58) as usize
}

impl Record {
    fn enter(&self, window: u32) {
        if self.window.load(Ordering::Relaxed) == window {
            return;
        }
        self.answers.store(0, Ordering::Relaxed);
        self.good.store(0, Ordering::Relaxed);
        for count in &self.failed {
            count.store(0, Ordering::Relaxed);
        }
        self.window.store(window, Ordering::Relaxed);
    }

    /// An answer was good.
    pub(super) fn good(&self, key: u64, window: u32) {
        self.enter(window);
        self.answers.fetch_add(1, Ordering::Relaxed);
        let bit = 1 << kind_of(key);
        if self.good.load(Ordering::Relaxed) & bit == 0 {
            self.good.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// One failed; how many of its kind have.
    pub(super) fn failed(&self, key: u64, window: u32) -> u32 {
        self.enter(window);
        self.answers.fetch_add(1, Ordering::Relaxed);
        let count = &self.failed[kind_of(key)];
        let failed = count.load(Ordering::Relaxed).saturating_add(1);
        count.store(failed, Ordering::Relaxed);
        u32::from(failed)
    }

    pub(super) fn forget(&self) {
        self.window.store(0, Ordering::Relaxed);
    }

    /// Of `window`: answers, kinds of which some were good, and how many of each failed.
    pub(super) fn of(&self, window: u32) -> Counts {
        if self.window.load(Ordering::Relaxed) != window {
            return Counts { answers: 0, good: 0, failed: [0; KINDS] };
        }
        let failed = std::array::from_fn(|kind| self.failed[kind].load(Ordering::Relaxed));
        let (answers, good) =
            (self.answers.load(Ordering::Relaxed), self.good.load(Ordering::Relaxed));
        Counts { answers, good, failed }
    }

    /// The share of errors among the last answers, from 0 to 1.
    #[inline]
    pub(super) fn errors(&self) -> f32 {
        f32::from_bits(self.errors.load(Ordering::Relaxed))
    }

    pub(super) fn follow_error(&self) {
        let share = self.errors();
        self.errors.store((share + (1.0 - share) * ERROR_WEIGHT).to_bits(), Ordering::Relaxed);
    }

    /// Written only where there have been errors.
    #[inline]
    pub(super) fn follow_good(&self) {
        let share = self.errors();
        if share > 0.0 {
            let share = if share < 0.01 { 0.0 } else { share * (1.0 - GOOD_WEIGHT) };
            self.errors.store(share.to_bits(), Ordering::Relaxed);
        }
    }
}

/// What a [`Record`] holds at one time.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) answers: u32,
    pub(super) good: u64,
    pub(super) failed: [u16; KINDS],
}

impl Counts {
    pub(super) fn failed(&self) -> u32 {
        self.failed.iter().map(|count| u32::from(*count)).sum()
    }

    /// Kinds of which some failed.
    fn kinds_failed(&self) -> u32 {
        self.failed.iter().filter(|count| **count > 0).count() as u32
    }
}

/// An endpoint beside its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Comparison {
    answers: u32,
    /// All that failed, and as many as would have failed with its peers.
    failed: u32,
    alike: u32,
    /// Of the requests that succeed with peers: those that failed, and what failed with a typical
    /// peer.
    unlike: u32,
    usual: u32,
}

impl Comparison {
    /// `is_bound` says that each key goes to an endpoint of its own, so that peers have seen none of
    /// the same: there it takes failures of several kinds, and more of them than are good.
    pub(super) fn of(own: &Counts, peers: &[Counts], is_bound: bool) -> Self {
        let peers: Vec<_> = peers.iter().filter(|peer| peer.answers > 0).collect();
        let typical = |count: &dyn Fn(&Counts) -> u32| {
            let mut counts: Vec<u32> = peers.iter().map(|peer| count(peer)).collect();
            counts.sort_unstable();
            // The lower median: most peers may not fail, but all of them may be few.
            counts.get(counts.len().saturating_sub(1) / 2).copied().unwrap_or(0)
        };
        let failed = own.failed();
        let mut comparison = Self { answers: own.answers, failed, alike: 0, unlike: 0, usual: 0 };
        if is_bound {
            let usual = typical(&Counts::failed);
            comparison.alike = (2 * usual).min(failed);
            if own.kinds_failed() >= 3 && own.kinds_failed() > own.good.count_ones() / 2 {
                (comparison.unlike, comparison.usual) = (failed, usual);
            }
            return comparison;
        }
        for (kind, own_failed) in own.failed.iter().enumerate().filter(|(_, count)| **count > 0) {
            let own_failed = u32::from(*own_failed);
            let usual = typical(&|counts| u32::from(counts.failed[kind]));
            comparison.alike += (2 * usual).min(own_failed);
            let good = peers.iter().filter(|peer| peer.good & (1 << kind) != 0).count();
            if good > 0 && 2 * good >= peers.len() {
                comparison.unlike += own_failed;
                comparison.usual += usual;
            }
        }
        comparison
    }

    /// Whether the peers fail as well.
    pub(super) fn is_alike(self) -> bool {
        self.failed > 0 && 2 * self.alike >= self.failed
    }

    /// Whether so many failures in a row are its own: what failed succeeds with its peers.
    pub(super) fn is_own(self, in_a_row: u32) -> bool {
        self.unlike >= in_a_row && self.unlike > 2 * self.usual
    }

    /// Whether it fails so much more often than its peers that it is no chance: by three standard
    /// deviations of the difference, twice as often, and at least every tenth time.
    pub(super) fn is_outlier(self, failed_min: u32) -> bool {
        let (own, usual) = (f64::from(self.unlike), f64::from(self.usual));
        self.is_own(failed_min)
            && 10 * self.unlike >= self.answers
            && own - usual >= 3.0 * (own + usual).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each kind: its number, and how many were good and failed.
    fn counts(kinds: &[(usize, u32, u16)]) -> Counts {
        let mut counts = Counts { answers: 0, good: 0, failed: [0; KINDS] };
        for (kind, good, failed) in kinds {
            counts.answers += good + u32::from(*failed);
            counts.good |= u64::from(*good > 0) << kind;
            counts.failed[*kind] = *failed;
        }
        counts
    }

    fn compared(own: &[(usize, u32, u16)], peers: &[&[(usize, u32, u16)]]) -> Comparison {
        let peers: Vec<_> = peers.iter().map(|kinds| counts(kinds)).collect();
        Comparison::of(&counts(own), &peers, false)
    }

    #[test]
    fn one_that_fails_where_its_peers_do_not_is_an_outlier() {
        let well: &[_] = &[(1, 50, 0), (2, 50, 0)];
        assert!(compared(&[(1, 0, 5)], &[well, well]).is_own(5));
        assert!(!compared(&[(1, 0, 5)], &[well, well]).is_outlier(5));
        assert!(compared(&[(1, 20, 9)], &[well, well]).is_outlier(5));
        // Rarely, and by chance.
        assert!(!compared(&[(1, 200, 9)], &[well, well]).is_outlier(5));
        let same: &[_] = &[(1, 20, 4)];
        assert!(!compared(&[(1, 20, 9)], &[same, same]).is_outlier(5));
    }

    #[test]
    fn a_request_that_fails_everywhere_speaks_against_nobody() {
        let same: &[_] = &[(1, 50, 0), (7, 0, 30)];
        let own = compared(&[(1, 50, 0), (7, 0, 40)], &[same, same]);
        assert!(own.is_alike() && !own.is_own(5) && !own.is_outlier(5));
        // Nor where it happened to go to one of them only.
        let own = compared(&[(7, 0, 40)], &[&[(1, 50, 0)], &[(1, 50, 0)]]);
        assert!(!own.is_own(5) && !own.is_outlier(5));
        // Nor without anybody to compare with.
        assert!(!compared(&[(1, 50, 40)], &[]).is_own(5));
    }

    #[test]
    fn most_peers_decide_what_is_usual() {
        let (well, ill): (&[_], &[_]) = (&[(1, 50, 0)], &[(1, 0, 40)]);
        assert!(compared(&[(1, 0, 40)], &[well, well, ill]).is_outlier(5));
        assert!(compared(&[(1, 0, 40)], &[well, ill]).is_outlier(5));
        assert!(!compared(&[(1, 0, 40)], &[ill]).is_outlier(5));
    }

    #[test]
    fn where_keys_have_endpoints_of_their_own_it_takes_failures_of_several() {
        let compared = |own: &[_]| {
            let peers = [counts(&[(40, 9, 0), (41, 9, 0)]), counts(&[(50, 9, 0), (51, 9, 0)])];
            Comparison::of(&counts(own), &peers, true)
        };
        assert!(compared(&[(1, 0, 4), (2, 0, 3), (3, 0, 3)]).is_outlier(5));
        assert!(!compared(&[(1, 0, 10)]).is_own(5));
        assert!(
            !compared(&[
                (1, 0, 4),
                (2, 0, 3),
                (3, 0, 3),
                (4, 9, 0),
                (5, 9, 0),
                (6, 9, 0),
                (7, 9, 0),
                (8, 9, 0),
                (9, 9, 0)
            ])
            .is_own(5)
        );
    }

    #[test]
    fn a_window_ends_with_time_and_with_quiet() {
        let watch = Watch::default();
        let record = Record::default();
        assert_eq!(watch.window(), None);
        let first = watch.failed(1000);
        record.failed(0, first);
        assert_eq!(record.of(first).failed(), 1);
        watch.roll(|| ANSWERS_MIN, 30_000);
        assert_eq!(watch.failed(50_000), first);
        watch.roll(|| ANSWERS_MIN - 1, 62_000);
        assert_eq!(watch.window(), Some(first));
        watch.roll(|| ANSWERS_MIN, 62_000);
        let second = watch.window().unwrap();
        assert_ne!(second, first);
        assert_eq!(record.of(second).failed(), 0);
        watch.roll(|| ANSWERS_MIN, 200_000);
        assert_eq!(watch.window(), None);
    }
}
