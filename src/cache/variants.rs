//! What is remembered about a URL beside its entries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::key::{Key, KeyBuffer, KeyHasher, KeyRef, UrlParts};
use super::search::SearchRule;
use super::vary::VaryFields;
use crate::memory::Charge;

/// Rules of one path about its queries that are remembered. The oldest is forgotten first.
const RULES_MAX: usize = 4;
/// Begins the part of a key that stands for a query without what makes no difference. No query
/// holds a control character.
const SEARCH: u8 = 0;

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
    noted: Instant,
    /// Milliseconds from then on.
    counts_for: AtomicU64,
    _charge: Charge,
}

impl Variants {
    pub(super) fn new(fields: VaryFields, charge: Charge) -> Self {
        Self { fields, keys: Mutex::default(), _charge: charge }
    }

    /// Remembers a variant, for purges; the keys of those that had to make room, the oldest.
    pub(super) fn add(&self, key: Key, charge: Charge, variants_max: usize) -> Vec<Key> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().any(|(known, _)| *known == key) {
            return Vec::new();
        }
        keys.push((key, charge));
        let excess = keys.len().saturating_sub(variants_max);
        keys.drain(..excess).map(|(key, _)| key).collect()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|(key, _)| key.clone()).collect()
    }
}

/// What the responses of one path said of its queries.
#[derive(Debug)]
pub(super) struct Searches {
    /// The latest first.
    rules: Vec<Search>,
    _charge: Charge,
}

/// A rule about queries, and what it has in the keys of the responses that follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    rule: Arc<SearchRule>,
    /// Once it is forgotten, none of the responses is found again.
    serial: u64,
}

impl Search {
    pub(super) fn new(rule: SearchRule, serial: u64) -> Self {
        Self { rule: Arc::new(rule), serial }
    }

    pub(super) fn is(&self, rule: &SearchRule) -> bool {
        *self.rule == *rule
    }

    /// What stands for a query in keys.
    pub(super) fn form(&self, query: Option<&[u8]>) -> Vec<u8> {
        let mut form = KeyBuffer::default();
        self.rule.push(query, &mut form);
        let mut bytes = vec![SEARCH];
        bytes.extend_from_slice(&self.serial.to_le_bytes());
        bytes.extend_from_slice(form.bytes());
        bytes
    }

    /// The key of a URL with this form of its query; `None` for what is no URL.
    pub(super) fn key<'a>(
        &self,
        key: KeyRef<'_>,
        buffer: &'a mut KeyBuffer,
        hasher: &KeyHasher,
    ) -> Option<KeyRef<'a>> {
        let url = key.url().filter(|url| !is_form(url))?;
        let form = self.form(url.query);
        Some(buffer.clear().part(url.host).part(url.path).part(&form).parts(url.rest).key(hasher))
    }
}

impl Searches {
    /// With one more rule.
    pub(super) fn with(known: Option<&Self>, search: Search, charge: Charge) -> Self {
        let mut rules = vec![search];
        rules.extend(known.iter().flat_map(|it| it.rules.iter().cloned()));
        rules.truncate(RULES_MAX);
        Self { rules, _charge: charge }
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Search> {
        self.rules.iter()
    }

    pub(super) fn bytes_len(&self) -> u64 {
        self.rules.iter().map(|search| search.rule.bytes_len() as u64).sum()
    }
}

/// The key under which the rules of a path are.
pub(super) fn searches_key<'a>(
    host: &[u8],
    path: &[u8],
    buffer: &'a mut KeyBuffer,
    hasher: &KeyHasher,
) -> KeyRef<'a> {
    buffer.clear().part(host).part(path).part(&[SEARCH]).key(hasher)
}

fn is_form(url: &UrlParts<'_>) -> bool {
    url.query.is_some_and(|query| query.first() == Some(&SEARCH))
}

impl Uncacheable {
    pub(super) fn new(noted: Instant, counts_for: Duration, charge: Charge) -> Self {
        let counts_for = AtomicU64::new(millis(counts_for));
        Self { noted, counts_for, _charge: charge }
    }

    pub(super) fn counts(&self, now: Instant) -> bool {
        let age = millis(now.saturating_duration_since(self.noted));
        age < self.counts_for.load(Ordering::Relaxed)
    }

    /// Makes it count for so long from now on.
    pub(super) fn renew(&self, now: Instant, counts_for: Duration) {
        let age = now.saturating_duration_since(self.noted);
        self.counts_for.fetch_max(millis(age + counts_for), Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_not_storable_counts_for_its_time_from_the_latest_such_answer_on() {
        let charge = Memory::new(1).charge(1).expect("room");
        let noted = Instant::now();
        let mark = Uncacheable::new(noted, MINUTE, charge);
        for minutes in 0..5 {
            let now = noted + MINUTE * minutes + MINUTE / 2;
            assert!(mark.counts(now), "{minutes}");
            mark.renew(now + MINUTE / 3, MINUTE);
        }
        // An older answer that is noted later takes nothing away.
        mark.renew(noted, MINUTE);
        assert!(mark.counts(noted + MINUTE * 5));
        assert!(!mark.counts(noted + MINUTE * 6));
    }
}
