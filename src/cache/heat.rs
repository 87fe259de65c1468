//! What is asked for most, by a sample of the hits of each worker.
//!
//! One hit in 64 is looked at; of those a bounded number of keys is counted, and a new one takes the
//! place and the count of the one with the lowest (the space-saving algorithm). So what is really
//! hot is always among them, and a count is never too low.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::key::{CarriedHash, Key, KeyRef};

/// Hits for one that is looked at.
pub(super) const SAMPLED_EVERY: u32 = 64;
/// Keys that a worker counts.
const KEYS_MAX: usize = 128;

/// The hot keys of one worker.
#[derive(Debug, Default)]
pub(super) struct Heat {
    hits: AtomicU32,
    /// Only its worker and a look at the figures ever lock it.
    counts: Mutex<HashMap<Key, u64, CarriedHash>>,
}

impl Heat {
    pub(super) fn note(&self, key: KeyRef<'_>) {
        if self.hits.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED_EVERY) {
            self.count(key);
        }
    }

    #[cold]
    fn count(&self, key: KeyRef<'_>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key.to_owned();
        if let Some(count) = counts.get_mut(&key) {
            *count += 1;
            return;
        }
        let mut inherited = 0;
        if counts.len() >= KEYS_MAX {
            let coldest = counts.iter().min_by_key(|(_, count)| **count);
            let coldest = coldest.map(|(key, count)| (key.clone(), *count));
            if let Some((coldest, count)) = coldest {
                counts.remove(&coldest);
                inherited = count;
            }
        }
        counts.insert(key, inherited + 1);
    }

    /// Adds its counts, in hits.
    pub(super) fn add_to(&self, sum: &mut HashMap<Key, u64, CarriedHash>) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, count) in counts.iter() {
            *sum.entry(key.clone()).or_default() += count * u64::from(SAMPLED_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::{KeyBuffer, KeyHasher};
    use super::*;

    #[test]
    fn what_is_hot_is_found_among_much_that_is_not() {
        let (heat, hasher) = (Heat::default(), KeyHasher::default());
        let key =
            |name: u32| KeyBuffer::default().part(&name.to_le_bytes()).key(&hasher).to_owned();
        for round in 0..10_000_u32 {
            heat.count(key(0).as_ref());
            heat.count(key(round + 1).as_ref());
        }
        let mut sum = HashMap::default();
        heat.add_to(&mut sum);
        assert_eq!(sum.len(), KEYS_MAX);
        let hottest = sum.iter().max_by_key(|(_, count)| **count).expect("keys");
        assert_eq!(*hottest.0, key(0));
        assert!(*hottest.1 >= 10_000 * u64::from(SAMPLED_EVERY));
    }
}
