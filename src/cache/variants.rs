//! What is remembered about a URL beside its entries.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::key::Key;
use super::vary::VaryFields;
use crate::memory::Charge;

/// Variants of one URL whose keys are remembered, for purges. The oldest is forgotten first, and
/// its entry removed.
const VARIANTS_MAX: usize = 16;

/// A URL whose responses vary.
#[derive(Debug)]
pub(super) struct Variants {
    pub(super) fields: VaryFields,
    /// Oldest first, each with what it holds of the cache's memory.
    keys: Mutex<Vec<(Key, Charge)>>,
    _charge: Charge,
}

/// A URL whose responses were not storable.
#[derive(Debug)]
pub(super) struct Uncacheable {
    pub(super) until: Instant,
    _charge: Charge,
}

impl Variants {
    pub(super) fn new(fields: VaryFields, charge: Charge) -> Self {
        Self { fields, keys: Mutex::default(), _charge: charge }
    }

    /// Remembers a variant; the key of the one that had to make room.
    pub(super) fn add(&self, key: Key, charge: Charge) -> Option<Key> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().any(|(known, _)| *known == key) {
            return None;
        }
        keys.push((key, charge));
        (keys.len() > VARIANTS_MAX).then(|| keys.remove(0).0)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|(key, _)| key.clone()).collect()
    }
}

impl Uncacheable {
    pub(super) fn new(until: Instant, charge: Charge) -> Self {
        Self { until, _charge: charge }
    }
}
