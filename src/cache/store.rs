//! Where entries are kept: two quick_cache stores under one bound of bytes.
//!
//! quick_cache splits its capacity between shards and refuses what is heavier than a shard's
//! share, so small objects live in a store with many shards and large ones in one with few. Both
//! may grow to the whole bound; what binds is [`Memory`], which also counts running fills and
//! removed entries that are still being sent. When it is exhausted, room is made by eviction from
//! the two in proportion to what they hold, which gives both the same time of residence.
//!
//! quick_cache has no call that evicts a given amount. A pinned item of the wanted weight that is
//! inserted and removed again has that effect, by the cache's own policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache as QuickCache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use super::entry::{ENTRY_OVERHEAD, Entry};
use super::key::{CarriedHash, Key, KeyRef};
use super::sweep::Listed;
use super::variants::{Searches, Uncacheable, Variants};
use crate::memory::{Charge, Memory};
use crate::metrics::Counter;

/// Entries up to this weight live in the store with many shards, in bytes.
const SMALL_BYTES_MAX: u64 = 1 << 20;
const SMALL_SHARDS_PER_WORKER: usize = 8;
/// A shard of the small store holds at least this many of its heaviest entries.
const SMALL_SHARD_BYTES_MIN: u64 = 4 * SMALL_BYTES_MAX;
/// With a tenth above the bound for each store, an object of a quarter of it fits a shard.
const LARGE_SHARDS: usize = 4;
/// Shards are never exactly even; this much above the bound lets the store as a whole reach it.
const SLACK_DIVISOR: u64 = 10;
/// Mean size that the index is laid out for, in bytes.
const MEAN_BYTES: u64 = 16 << 10;
/// Eviction frees at least this share of the bound at a time, so that it is not asked for every
/// object.
const EVICTION_SHARE: u64 = 256;
/// Rounds in which room is looked for before a fill goes on unstored.
const EVICTION_ROUNDS: usize = 64;

/// What a key leads to.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    Entry(Arc<Entry>),
    /// The URL varies: which variants there are, and by which fields.
    Variants(Arc<Variants>),
    /// What the responses of a path said of its queries.
    Searches(Arc<Searches>),
    /// Its answers were not storable a short while ago.
    Uncacheable(Arc<Uncacheable>),
    /// Makes room; never seen outside of [`Tier::evict`].
    Ballast(u64),
}

#[derive(Debug, Clone, Copy)]
struct SlotWeight;

impl Weighter<Key, Slot> for SlotWeight {
    fn weight(&self, _: &Key, slot: &Slot) -> u64 {
        slot.weight()
    }
}

impl Slot {
    fn weight(&self) -> u64 {
        match self {
            Self::Entry(entry) => entry.weight(),
            Self::Variants(_) | Self::Searches(_) | Self::Uncacheable(_) => ENTRY_OVERHEAD,
            Self::Ballast(bytes) => *bytes,
        }
    }
}

/// Collects what an insertion pushed out, to be dropped after the shard's lock.
#[derive(Debug, Clone, Copy)]
struct CollectEvicted;

impl Lifecycle<Key, Slot> for CollectEvicted {
    type RequestState = Vec<(Key, Slot)>;

    fn is_pinned(&self, _: &Key, slot: &Slot) -> bool {
        matches!(slot, Slot::Ballast(_))
    }

    fn on_evict(&self, evicted: &mut Self::RequestState, key: Key, slot: Slot) {
        evicted.push((key, slot));
    }
}

/// One quick_cache and the weight of each of its shards.
struct Tier {
    cache: QuickCache<Key, Slot, SlotWeight, CarriedHash, CollectEvicted>,
    shard_bytes: Box<[AtomicU64]>,
    /// Entries, without what is remembered beside them.
    entries: AtomicU64,
    /// One key for each shard, for ballast.
    ballast_keys: Box<[Key]>,
}

/// The two tiers and their bound.
pub(super) struct Store {
    small: Tier,
    large: Tier,
    pub(super) memory: Arc<Memory>,
    /// What goes first.
    pub(super) listed: Listed,
    /// Chooses the tier to evict from.
    draws: AtomicU64,
    pub(super) evictions: Counter,
}

impl Store {
    pub(super) fn new(bytes_max: u64, workers: usize) -> Self {
        let small_shards = (workers * SMALL_SHARDS_PER_WORKER)
            .next_power_of_two()
            .min(usize::try_from(bytes_max / SMALL_SHARD_BYTES_MIN).unwrap_or(usize::MAX).max(1));
        Self {
            small: Tier::new(bytes_max, small_shards, MEAN_BYTES),
            large: Tier::new(bytes_max, LARGE_SHARDS, 2 * SMALL_BYTES_MAX),
            memory: Memory::new(bytes_max),
            listed: Listed::default(),
            draws: AtomicU64::new(0),
            evictions: Counter::default(),
        }
    }

    /// Moves the bound, evicting what no longer fits.
    pub(super) fn set_bytes_max(&self, bytes_max: u64) {
        self.memory.set_bytes_max(bytes_max);
        for tier in [&self.small, &self.large] {
            tier.set_capacity(bytes_max);
        }
        let excess = self.memory.used().saturating_sub(bytes_max);
        if excess > 0 {
            self.evict(excess);
        }
    }

    pub(super) fn get(&self, key: KeyRef<'_>) -> Option<Slot> {
        self.small.cache.get(&key).or_else(|| self.large.cache.get(&key))
    }

    /// The same without counting as a use.
    pub(super) fn peek(&self, key: KeyRef<'_>) -> Option<Slot> {
        self.small.cache.peek(&key).or_else(|| self.large.cache.peek(&key))
    }

    /// Puts a slot under a key, in place of what was there.
    pub(super) fn insert(&self, key: Key, slot: Slot) {
        let (home, other) = if slot.weight() > SMALL_BYTES_MAX {
            (&self.large, &self.small)
        } else {
            (&self.small, &self.large)
        };
        other.remove(key.as_ref());
        let evicted = home.insert(key, slot);
        self.evictions.add(evicted);
    }

    pub(super) fn remove(&self, key: KeyRef<'_>) -> Option<Slot> {
        self.small.remove(key).or_else(|| self.large.remove(key))
    }

    /// Removes `entry` from its key; false if another one has taken its place.
    pub(super) fn remove_entry(&self, key: KeyRef<'_>, entry: &Arc<Entry>) -> bool {
        let is_it = |slot: &Slot| matches!(slot, Slot::Entry(held) if Arc::ptr_eq(held, entry));
        self.small.remove_if(key, is_it) || self.large.remove_if(key, is_it)
    }

    /// Removes what is remembered of answers that were not storable.
    pub(super) fn remove_mark(&self, key: KeyRef<'_>) {
        self.small.remove_if(key, |slot| matches!(slot, Slot::Uncacheable(_)));
    }

    /// Charges `bytes`, making room where needed. `None` if that much cannot be freed, because
    /// it is in use or because it is more than the bound.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Charge> {
        for _ in 0..EVICTION_ROUNDS {
            if let Some(charge) = self.memory.charge(bytes) {
                return Some(charge);
            }
            let bound = self.memory.bytes_max();
            let needed = (self.memory.used() + bytes).saturating_sub(bound);
            if bytes > bound || self.evict(needed.max(bound / EVICTION_SHARE)) == 0 {
                return None;
            }
        }
        None
    }

    /// Evicts about `bytes`, what is known to be stale first; how much it was.
    fn evict(&self, bytes: u64) -> u64 {
        let mut freed = 0;
        while freed < bytes
            && let Some((key, entry)) = self.listed.next()
        {
            if self.remove_entry(key.as_ref(), &entry) {
                self.evictions.increment();
                freed += entry.weight();
            }
        }
        for _ in 0..EVICTION_ROUNDS {
            let (small, large) = (self.small.bytes(), self.large.bytes());
            if small + large == 0 || freed >= bytes {
                break;
            }
            let draw = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let tier = if draw % (small + large) < large { &self.large } else { &self.small };
            let (count, weight) = tier.evict(bytes - freed);
            self.evictions.add(count);
            freed += weight;
        }
        freed
    }

    /// Calls `visit` with every key and slot. Other threads may change the store meanwhile.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Key, &Slot)) {
        for tier in [&self.small, &self.large] {
            for (key, slot) in tier.cache.iter() {
                visit(&key, &slot);
            }
        }
    }

    pub(super) fn entries(&self) -> u64 {
        [&self.small, &self.large].iter().map(|tier| tier.entries.load(Ordering::Relaxed)).sum()
    }
}

impl Tier {
    fn new(bytes_max: u64, shards: usize, mean_bytes: u64) -> Self {
        let items = usize::try_from(bytes_max / mean_bytes).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        options
            .shards(shards)
            // quick_cache lowers the number of shards when they would have few items each.
            .estimated_items_capacity(items.max(shards * 32))
            .weight_capacity(capacity(bytes_max));
        #[expect(clippy::expect_used, reason = "fails only where a capacity is not set")]
        let options = options.build().expect("both capacities are set");
        let cache =
            QuickCache::with_options(options, SlotWeight, CarriedHash::default(), CollectEvicted);
        let count = cache.num_shards();
        let ballast_keys = (0..count).map(|shard| ballast_key(&cache, shard)).collect();
        let shard_bytes = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { cache, shard_bytes, entries: AtomicU64::new(0), ballast_keys }
    }

    fn set_capacity(&self, bytes_max: u64) {
        let before: Vec<(Key, Slot)> = self.cache.iter().collect();
        self.cache.set_capacity(capacity(bytes_max));
        for (key, slot) in before {
            if !self.cache.contains_key(&key.as_ref()) {
                self.discount(&key, &slot);
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.shard_bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    /// Takes what left the store out of the counts.
    fn discount(&self, key: &Key, slot: &Slot) {
        let shard = &self.shard_bytes[self.cache.shard_index(&key.as_ref())];
        shard.fetch_sub(slot.weight(), Ordering::Relaxed);
        if matches!(slot, Slot::Entry(_)) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many entries it pushed out for room.
    fn insert(&self, key: Key, slot: Slot) -> u64 {
        let shard = self.cache.shard_index(&key.as_ref());
        // Counted before it can be evicted again by another thread.
        self.shard_bytes[shard].fetch_add(slot.weight(), Ordering::Relaxed);
        if matches!(slot, Slot::Entry(_)) {
            self.entries.fetch_add(1, Ordering::Relaxed);
        }
        let mut evicted = Vec::new();
        self.cache.insert_with_lifecycle(key.clone(), slot, &mut evicted);
        let mut count = 0;
        for (evicted_key, slot) in &evicted {
            self.discount(evicted_key, slot);
            count += u64::from(matches!(slot, Slot::Entry(_)) && *evicted_key != key);
        }
        count
    }

    fn remove(&self, key: KeyRef<'_>) -> Option<Slot> {
        let (key, slot) = self.cache.remove(&key)?;
        self.discount(&key, &slot);
        Some(slot)
    }

    fn remove_if(&self, key: KeyRef<'_>, condition: impl FnOnce(&Slot) -> bool) -> bool {
        let removed = self.cache.remove_if(&key, condition);
        if let Some((key, slot)) = &removed {
            self.discount(key, slot);
        }
        removed.is_some()
    }

    /// Evicts about `bytes` from the heaviest shard; how many entries, and their weight.
    fn evict(&self, bytes: u64) -> (u64, u64) {
        let loads = self.shard_bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        let Some((shard, held)) = loads.enumerate().max_by_key(|(_, held)| *held) else {
            return (0, 0);
        };
        let free = self.cache.shard_capacity().saturating_sub(held);
        let ballast = Slot::Ballast(free + bytes.min(held));
        let mut evicted = Vec::new();
        let key = &self.ballast_keys[shard];
        self.cache.insert_with_lifecycle(key.clone(), ballast, &mut evicted);
        self.cache.remove(&key.as_ref());
        let (mut count, mut weight) = (0, 0);
        for (key, slot) in &evicted {
            if matches!(slot, Slot::Ballast(_)) {
                continue;
            }
            self.discount(key, slot);
            count += u64::from(matches!(slot, Slot::Entry(_)));
            weight += slot.weight();
        }
        (count, weight)
    }
}

fn capacity(bytes_max: u64) -> u64 {
    bytes_max + bytes_max / SLACK_DIVISOR
}

/// Some key that falls into `shard`.
fn ballast_key(
    cache: &QuickCache<Key, Slot, SlotWeight, CarriedHash, CollectEvicted>,
    shard: usize,
) -> Key {
    let mut hash = 0_u64;
    loop {
        let key = Key::ballast(hash);
        if cache.shard_index(&key.as_ref()) == shard {
            return key;
        }
        hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::key::{KeyBuffer, KeyHasher};
    use super::super::testing::head;
    use super::*;
    use crate::body::StoredBody;

    const MIB: u64 = 1 << 20;

    fn key(hasher: &KeyHasher, name: &str) -> Key {
        let mut buffer = KeyBuffer::default();
        buffer.part(name.as_bytes());
        buffer.key(hasher).to_owned()
    }

    fn entry(store: &Store, bytes: usize) -> Option<Arc<Entry>> {
        let body_charge = store.reserve(bytes as u64)?;
        let charge = store.reserve(ENTRY_OVERHEAD)?;
        let body = StoredBody::new(vec![Bytes::from(vec![0; bytes])], body_charge);
        Some(Arc::new(Entry::new(head(60), body, charge)))
    }

    #[test]
    fn what_is_held_never_exceeds_the_bound_whatever_the_mix_of_sizes() {
        let store = Store::new(64 * MIB, 2);
        let hasher = KeyHasher::default();
        let sizes = [1 << 10, 16 << 10, 200 << 10, 900 << 10, 3 << 20, 8 << 20];
        let mut stored = 0_u64;
        for round in 0.. {
            let bytes = sizes[round % sizes.len()];
            let entry = entry(&store, bytes).expect("nothing is in use, so there is room");
            store.insert(key(&hasher, &round.to_string()), Slot::Entry(entry));
            assert!(store.memory.used() <= 64 * MIB);
            stored += bytes as u64;
            if stored > 640 * MIB {
                break;
            }
        }
        assert!(store.memory.used() > 48 * MIB, "{} of 64 MiB used", store.memory.used() / MIB);
        assert!(store.evictions.value() > 0);
    }

    #[test]
    fn small_objects_alone_may_fill_the_whole_bound() {
        let store = Store::new(16 * MIB, 2);
        let hasher = KeyHasher::default();
        for round in 0..40_000 {
            let entry = entry(&store, 1024).expect("room");
            store.insert(key(&hasher, &round.to_string()), Slot::Entry(entry));
        }
        assert!(store.memory.used() > 15 * MIB, "{}", store.memory.used());
    }

    #[test]
    fn an_object_of_a_quarter_of_the_bound_is_kept() {
        let store = Store::new(64 * MIB, 2);
        let key = key(&KeyHasher::default(), "large");
        let entry = entry(&store, 16 << 20).expect("room");
        store.insert(key.clone(), Slot::Entry(entry));
        assert!(store.get(key.as_ref()).is_some());
    }

    #[test]
    fn what_is_still_being_read_is_counted_and_can_keep_a_fill_out() {
        let store = Store::new(8 * MIB, 1);
        let key = key(&KeyHasher::default(), "x");
        let reader = entry(&store, 2 << 20).expect("room");
        store.insert(key.clone(), Slot::Entry(reader.clone()));
        store.remove(key.as_ref());
        assert!(store.memory.used() > 2 * MIB);
        assert!(store.reserve(7 * MIB).is_none());
        drop(reader);
        assert_eq!(store.memory.used(), 0);
        assert!(store.reserve(7 * MIB).is_some());
    }

    #[test]
    fn a_lowered_bound_evicts_at_once() {
        let store = Store::new(16 * MIB, 1);
        let hasher = KeyHasher::default();
        for round in 0..15 {
            let entry = entry(&store, 1 << 20).expect("room");
            store.insert(key(&hasher, &round.to_string()), Slot::Entry(entry));
        }
        store.set_bytes_max(4 * MIB);
        assert!(store.memory.used() <= 4 * MIB, "{}", store.memory.used());
    }

    #[test]
    fn replacing_an_entry_frees_the_old_one() {
        let store = Store::new(8 * MIB, 1);
        let key = key(&KeyHasher::default(), "x");
        for bytes in [1 << 10, 2 << 20, 1 << 10] {
            let entry = entry(&store, bytes).expect("room");
            store.insert(key.clone(), Slot::Entry(entry));
            assert!(store.memory.used() < bytes as u64 + 2 * ENTRY_OVERHEAD + 1024);
        }
        assert_eq!(store.evictions.value(), 0);
        store.remove(key.as_ref());
        assert_eq!(store.memory.used(), 0);
    }
}
