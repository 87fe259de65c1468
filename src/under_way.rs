//! Which responses are still under way, by whether they began before a moment.
//!
//! A cache in front of us can store a response that began before a purge after it has cleared what
//! it had. So whoever purges it must know when the last of them has ended. Every response counts
//! itself in the era in which it began, on its own worker; a purge begins a new era and waits for
//! those before it. That costs a response two additions to a cache line of its worker.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::metrics::PerWorker;

/// Eras that may have responses at a time. A new one needs an empty place; where there is none, the
/// current one goes on, and who waits for it waits for what comes later too.
const ERAS: usize = 16;

#[derive(Debug, Default)]
pub struct UnderWay {
    current: AtomicUsize,
    counts: PerWorker<[AtomicI64; ERAS]>,
    /// One turn at a time.
    turning: Mutex<()>,
}

/// The era in which a response began.
#[derive(Debug, Clone, Copy)]
pub struct Era(usize);

/// The eras before a moment.
#[derive(Debug, Clone, Copy)]
pub struct Earlier {
    eras: [bool; ERAS],
}

impl UnderWay {
    /// A response begins: before it looks at anything that a purge changes.
    #[inline]
    pub fn enter(&self) -> Era {
        let era = self.current.load(Ordering::SeqCst);
        if let Some(count) = self.counts.local().get(era) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Era(era)
    }

    /// It has ended.
    #[inline]
    pub fn leave(&self, era: Era) {
        if let Some(count) = self.counts.local().get(era.0) {
            count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Begins a new era; those before it. A response that is not in them looks at what there is
    /// after this call.
    pub fn turn(&self) -> Earlier {
        let _alone = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load(Ordering::SeqCst);
        let next = (1..ERAS).map(|step| (current + step) % ERAS).find(|era| !self.is_busy(*era));
        if let Some(next) = next {
            self.current.store(next, Ordering::SeqCst);
        }
        let mut eras = [false; ERAS];
        for (era, is_busy) in eras.iter_mut().enumerate() {
            *is_busy = Some(era) != next && self.is_busy(era);
        }
        Earlier { eras }
    }

    /// Whether every response of these eras has ended.
    pub fn have_ended(&self, earlier: &mut Earlier) -> bool {
        for (era, is_busy) in earlier.eras.iter_mut().enumerate() {
            *is_busy = *is_busy && self.is_busy(era);
        }
        earlier.eras.iter().all(|is_busy| !is_busy)
    }

    fn is_busy(&self, era: usize) -> bool {
        let counts = self.counts.iter().filter_map(|counts| counts.get(era));
        counts.map(|count| count.load(Ordering::SeqCst)).sum::<i64>() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_waits_for_what_began_before_it_and_for_nothing_else() {
        let under_way = UnderWay::default();
        let first = under_way.enter();
        let mut before = under_way.turn();
        let second = under_way.enter();
        assert!(!under_way.have_ended(&mut before));
        under_way.leave(first);
        assert!(under_way.have_ended(&mut before));
        let mut both = under_way.turn();
        let _third = under_way.enter();
        assert!(!under_way.have_ended(&mut both));
        under_way.leave(second);
        assert!(under_way.have_ended(&mut both));
    }

    #[test]
    fn one_that_lasts_holds_up_only_those_that_turned_after_it_began() {
        let under_way = UnderWay::default();
        let lasting = under_way.enter();
        for _ in 0..100 {
            let brief = under_way.enter();
            let mut earlier = under_way.turn();
            assert!(!under_way.have_ended(&mut earlier));
            under_way.leave(brief);
            assert!(!under_way.have_ended(&mut earlier));
        }
        let mut last = under_way.turn();
        under_way.leave(lasting);
        assert!(under_way.have_ended(&mut last));
    }

    #[test]
    fn without_an_empty_place_a_turn_waits_for_later_ones_too() {
        let under_way = UnderWay::default();
        let mut open = Vec::new();
        for _ in 0..2 * ERAS {
            open.push(under_way.enter());
            under_way.turn();
        }
        let mut earlier = under_way.turn();
        let late = under_way.enter();
        for era in open {
            under_way.leave(era);
        }
        assert!(!under_way.have_ended(&mut earlier));
        under_way.leave(late);
        assert!(under_way.have_ended(&mut earlier));
    }
}
