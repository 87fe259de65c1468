//! How often things were asked for that are stored only from several requests on.
//!
//! Two rows of small counters, of which the lower counts (a count-min sketch): a collision can only
//! let something in too early. All are halved now and then, so that what was asked for long ago is
//! forgotten.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Counters in a row; two rows are 128 KiB.
const COUNTERS: usize = 1 << 16;
/// Uses between two halvings.
const HALVED_EVERY: u32 = 1 << 19;

/// Counts of uses by the hashes of keys.
#[derive(Debug)]
pub(super) struct Uses {
    rows: [Box<[AtomicU8]>; 2],
    counted: AtomicU32,
}

impl Default for Uses {
    fn default() -> Self {
        let row = || (0..COUNTERS).map(|_| AtomicU8::new(0)).collect();
        Self { rows: [row(), row()], counted: AtomicU32::new(0) }
    }
}

impl Uses {
    /// Counts one use; how many there were lately, this one included.
    pub(super) fn count(&self, hash: u64) -> u32 {
        if self.counted.fetch_add(1, Ordering::Relaxed) % HALVED_EVERY == HALVED_EVERY - 1 {
            self.halve();
        }
        let increment = |row: &[AtomicU8], at: u64| {
            let counter = &row[at as usize % COUNTERS];
            let before = counter.load(Ordering::Relaxed);
            let after = before.saturating_add(1);
            // Of two increments at once one may be lost; a third request makes up for it.
            counter.store(after, Ordering::Relaxed);
            u32::from(after)
        };
        let [first, second] = &self.rows;
        increment(first, hash).min(increment(second, hash >> 32))
    }

    fn halve(&self) {
        for counter in self.rows.iter().flat_map(|row| row.iter()) {
            counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_by_key_and_forgotten_with_time() {
        let uses = Uses::default();
        let (a, b) = (0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321);
        assert_eq!([uses.count(a), uses.count(a), uses.count(b)], [1, 2, 1]);
        for _ in 0..1000 {
            uses.count(a);
        }
        assert_eq!(uses.count(a), 255);
        uses.halve();
        assert_eq!((uses.count(a), uses.count(b)), (128, 1));
    }
}
