//! The edge cache: what is stored, what may be, and fetches that many requests share.
//!
//! Pure rules first ([`date`], [`control`], [`policy`], [`freshness`], [`storable`], [`reuse`], [`conditional`], and `vary`), then
//! what holds state: the `store`, [`Flight`]s with their [`Fill`]s, and the log of purges. The
//! cache opens no socket: it is told what an origin answered. It runs on every worker at once; a
//! hit takes one short read lock on a shard of the store, a miss one lock on a shard of the
//! flights.

pub mod conditional;
pub mod control;
pub mod date;
mod entry;
mod fill;
mod flight;
pub mod freshness;
mod inspect;
pub mod key;
mod metrics;
pub mod policy;
mod purge;
mod rendition;
pub mod reuse;
pub mod status;
pub mod storable;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod variants;
mod vary;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

pub use entry::{Entry, Head, not_modified_headers};
use fill::Company;
pub use fill::{Fill, Lead};
pub use flight::{Flight, FlightReader, Outcome, Shared};
pub use inspect::EntrySummary;
use key::{CarriedHash, Key, KeyBuffer, KeyHasher, KeyRef};
use metrics::CacheStats;
use purge::PurgeLog;
pub use purge::{PathTarget, Target};
pub use rendition::{Coded, Making, Rendition, Renditions};
use store::{Slot, Store};
use variants::{Uncacheable, Variants};
use vary::VaryFields;

use crate::config::model;

/// How long a URL whose answer could not be stored is fetched by every request alone.
const UNCACHEABLE_FOR: Duration = Duration::from_secs(60);
/// Shards of the table of flights.
const FLIGHT_SHARDS: usize = 64;

type Flights = HashMap<Key, Arc<Flight>, CarriedHash>;

/// The cache of one process.
pub struct Cache {
    store: Store,
    flights: Box<[Mutex<Flights>]>,
    purges: PurgeLog,
    hasher: KeyHasher,
    object_bytes_max: AtomicU64,
    /// For sets of variants, each with another one.
    serials: AtomicU64,
    stats: CacheStats,
}

/// What is known about a request's URL and variant.
#[derive(Debug)]
pub enum Lookup {
    Fresh(Arc<Entry>),
    /// Stored, but not to be used without asking the origin.
    Stale(Arc<Entry>),
    Absent,
    /// Recent answers could not be stored: fetch without waiting for others.
    Uncacheable,
}

/// How a request that found nothing fresh goes on.
#[derive(Debug)]
pub enum Join {
    Lead(Lead),
    Follow(Arc<Flight>),
    /// A fetch is under way that can no longer be read from its beginning.
    Alone,
}

impl Cache {
    pub fn new(config: &model::Cache, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            store: Store::new(config.memory_bytes_max, workers),
            flights: (0..FLIGHT_SHARDS).map(|_| Mutex::default()).collect(),
            purges: PurgeLog::default(),
            hasher: KeyHasher::default(),
            object_bytes_max: AtomicU64::new(config.object_bytes_max),
            serials: AtomicU64::new(1),
            stats: CacheStats::default(),
        })
    }

    /// Takes over new bounds; what is stored stays as far as it fits.
    pub fn reconfigure(&self, config: &model::Cache) {
        self.object_bytes_max.store(config.object_bytes_max, Ordering::Relaxed);
        if config.memory_bytes_max != self.bytes_max() {
            self.store.set_bytes_max(config.memory_bytes_max);
        }
    }

    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    pub fn bytes(&self) -> u64 {
        self.store.memory.used()
    }

    pub fn bytes_max(&self) -> u64 {
        self.store.memory.bytes_max()
    }

    pub fn objects(&self) -> u64 {
        self.store.entries()
    }

    pub fn evictions(&self) -> u64 {
        self.store.evictions.value()
    }

    pub fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max.load(Ordering::Relaxed)
    }

    /// Looks a request up. `request` gives its fields as they would be forwarded; they are asked
    /// for only where the URL varies.
    pub fn lookup<F: Borrow<HeaderMap>>(
        &self,
        primary: KeyRef<'_>,
        request: impl FnOnce() -> F,
        variant: &mut KeyBuffer,
        now: Instant,
    ) -> Lookup {
        let slot = match self.store.get(primary) {
            Some(Slot::Variants(variants)) => {
                let request = request();
                let fields = &variants.fields;
                self.store.get(fields.variant_key(primary, request.borrow(), variant, &self.hasher))
            }
            slot => slot,
        };
        match slot {
            Some(Slot::Entry(entry)) if !entry.is_live() => Lookup::Absent,
            Some(Slot::Entry(entry)) if entry.head.is_fresh(now) => Lookup::Fresh(entry),
            Some(Slot::Entry(entry)) => Lookup::Stale(entry),
            Some(Slot::Uncacheable(mark)) if now < mark.until => Lookup::Uncacheable,
            _ => Lookup::Absent,
        }
    }

    /// Joins the fetch that is under way for the request, or takes the lead of a new one.
    pub fn join(self: &Arc<Self>, primary: KeyRef<'_>, request: &HeaderMap) -> Join {
        let began = self.purges.epoch();
        let key = self.request_key(primary, request);
        let flight = Arc::new(Flight::new(primary.to_owned(), began));
        match self.flights(&key).entry(key.clone()) {
            Place::Vacant(place) => {
                place.insert(flight.clone());
            }
            Place::Occupied(mut place) => {
                let running = place.get();
                if !self.purges.condemns(running.began, primary) {
                    return if running.is_joinable() {
                        Join::Follow(running.clone())
                    } else {
                        Join::Alone
                    };
                }
                place.insert(flight.clone());
            }
        }
        Join::Lead(Lead::new(self.clone(), flight, key, Company::Anybody))
    }

    /// The fetch under way that a request may read from its beginning, without leading one itself.
    pub fn running(&self, primary: KeyRef<'_>, request: &HeaderMap) -> Option<Arc<Flight>> {
        let key = self.request_key(primary, request);
        let running = self.flights(&key).get(&key).cloned()?;
        let is_open = running.is_joinable() && !self.purges.condemns(running.began, primary);
        is_open.then_some(running)
    }

    /// Lets others find a flight that began as a lead for one request, and turned out to be for
    /// everybody.
    fn announce(&self, key: &Key, flight: &Arc<Flight>) {
        self.flights(key).entry(key.clone()).or_insert_with(|| flight.clone());
    }

    /// A lead that nobody finds, for a fetch whose answer may turn out to be storable.
    pub fn lead_alone(self: &Arc<Self>, primary: KeyRef<'_>, request: &HeaderMap) -> Lead {
        let flight = Arc::new(Flight::new(primary.to_owned(), self.purges.epoch()));
        Lead::new(self.clone(), flight, self.request_key(primary, request), Company::Nobody)
    }

    /// Under what an answer to this request is stored, as far as that is known.
    fn request_key(&self, primary: KeyRef<'_>, request: &HeaderMap) -> Key {
        match self.store.get(primary) {
            Some(Slot::Variants(variants)) => {
                variants.fields.variant_key_owned(primary, request, &self.hasher)
            }
            _ => primary.to_owned(),
        }
    }

    /// Removes what `target` covers, and condemns what is on its way. How many stored variants it
    /// were. After the return no later request sees any of them.
    pub fn purge(&self, target: &Target) -> u64 {
        self.purges.enter(target.clone());
        match target {
            Target::All => {
                let count = self.store.clear();
                self.stats.purged_all.add(count);
                count
            }
            Target::Url(key) => {
                let count = self.remove_url(key.as_ref());
                self.stats.purged_urls.add(count);
                count
            }
            Target::Path(_) => {
                let mut keys = Vec::new();
                self.store.for_each(|key, _| {
                    if target.covers(key.as_ref()) {
                        keys.push(key.clone());
                    }
                });
                let count = keys.iter().map(|key| self.remove_url(key.as_ref())).sum();
                self.stats.purged_urls.add(count);
                count
            }
        }
    }

    fn remove_url(&self, key: KeyRef<'_>) -> u64 {
        match self.store.remove(key) {
            Some(Slot::Entry(entry)) => {
                entry.set_live(false);
                1
            }
            Some(Slot::Variants(variants)) => {
                variants.keys().iter().map(|key| self.remove_url(key.as_ref())).sum()
            }
            _ => 0,
        }
    }

    fn flights(&self, key: &Key) -> MutexGuard<'_, Flights> {
        // The middle bits: the high and low ones choose places inside the maps.
        let shard = (key.as_ref().hash() >> 24) as usize % FLIGHT_SHARDS;
        self.flights[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a flight off the table, if it is still the one under its key.
    fn land(&self, key: &Key, flight: &Arc<Flight>) {
        if let Place::Occupied(place) = self.flights(key).entry(key.clone())
            && Arc::ptr_eq(place.get(), flight)
        {
            place.remove();
        }
    }

    /// Puts a flight under the key of its variant, once that is known.
    fn move_flight(&self, from: &Key, to: &Key, flight: &Arc<Flight>) {
        if from == to {
            return;
        }
        self.flights(to).entry(to.clone()).or_insert_with(|| flight.clone());
        self.land(from, flight);
    }

    /// Notes that a URL varies; the fields by which it does and the key of this variant. `None`
    /// if there is no room to remember it.
    fn vary(
        &self,
        flight: &Flight,
        fields: &VaryFields,
        request: &HeaderMap,
    ) -> Option<(VaryFields, Key)> {
        let primary = flight.primary.as_ref();
        let known = match self.store.get(primary) {
            Some(Slot::Variants(known)) => Some(known),
            _ => None,
        };
        let fields = known.as_ref().map_or_else(|| fields.clone(), |k| k.fields.union(fields));
        let known = match known {
            Some(known) if known.fields == fields => known,
            known => {
                // Variants selected by fewer fields can no longer be found; they go.
                for old in known.iter().flat_map(|known| known.keys()) {
                    self.remove_url(old.as_ref());
                }
                let serial = self.serials.fetch_add(1, Ordering::Relaxed);
                let charge = self.store.reserve(entry::ENTRY_OVERHEAD)?;
                let variants = Arc::new(Variants::new(fields.with_serial(serial), charge));
                self.store.insert(flight.primary.clone(), Slot::Variants(variants.clone()));
                variants
            }
        };
        if !known.fields.fits(request) {
            return None;
        }
        let key = known.fields.variant_key_owned(primary, request, &self.hasher);
        let charge = self.store.reserve(key.bytes_len() as u64 + entry::ENTRY_OVERHEAD)?;
        if let Some(oldest) = known.add(key.clone(), charge) {
            self.remove_url(oldest.as_ref());
        }
        Some((known.fields.clone(), key))
    }

    /// Stores an entry, unless a purge came after its fetch began.
    fn publish(&self, key: &Key, flight: &Flight, entry: &Arc<Entry>) {
        let primary = flight.primary.as_ref();
        if self.purges.condemns(flight.began, primary) {
            return;
        }
        self.store.insert(key.clone(), Slot::Entry(entry.clone()));
        // A purge that came in between either finds the entry or is found here.
        if self.purges.condemns(flight.began, primary) {
            self.store.remove_entry(key.as_ref(), entry);
        } else {
            entry.set_live(true);
        }
    }

    /// Notes that an answer could not be stored. What is stored and fresh, or has variants, says
    /// more about the URL than that one answer.
    fn remember_uncacheable(&self, key: &Key, flight: &Flight) {
        if self.purges.condemns(flight.began, flight.primary.as_ref()) {
            return;
        }
        let now = Instant::now();
        match self.store.get(key.as_ref()) {
            Some(Slot::Variants(_)) => return,
            Some(Slot::Entry(entry)) if entry.is_live() && entry.head.is_fresh(now) => return,
            _ => {}
        }
        if let Some(charge) = self.store.reserve(entry::ENTRY_OVERHEAD + key.bytes_len() as u64) {
            let mark = Uncacheable::new(now + UNCACHEABLE_FOR, charge);
            self.store.insert(key.clone(), Slot::Uncacheable(Arc::new(mark)));
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} of {} bytes)", self.bytes(), self.bytes_max())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;

    use super::key::primary;
    use super::storable::Refusal;
    use super::testing::head;
    use super::*;

    fn cache(memory_bytes_max: u64) -> Arc<Cache> {
        Cache::new(&testing::config(memory_bytes_max, memory_bytes_max / 4), 1)
    }

    fn url(cache: &Cache, path: &str) -> Key {
        primary("h", path, None, &mut KeyBuffer::default(), cache.hasher()).to_owned()
    }

    fn asking(language: &str) -> HeaderMap {
        let mut request = HeaderMap::new();
        let value = HeaderValue::from_str(language).expect("a field value");
        request.insert("accept-language", value);
        request
    }

    async fn fill(lead: Lead, request: &HeaderMap, vary: Option<&'static str>) {
        let mut head = head(60);
        if let Some(vary) = vary {
            head.headers.insert("vary", HeaderValue::from_static(vary));
        }
        let mut fill =
            lead.fill(head, Some(3), request).map_err(|(_, refusal)| refusal).expect("room");
        assert!(fill.push(Bytes::from_static(b"abc")).await);
        fill.finish();
    }

    async fn store(cache: &Arc<Cache>, key: &Key, request: &HeaderMap, vary: Option<&'static str>) {
        let Join::Lead(lead) = cache.join(key.as_ref(), request) else {
            unreachable!("nobody else fetches")
        };
        fill(lead, request, vary).await;
    }

    fn is_hit(cache: &Cache, key: &Key, request: &HeaderMap) -> bool {
        let found =
            cache.lookup(key.as_ref(), || request, &mut KeyBuffer::default(), Instant::now());
        matches!(found, Lookup::Fresh(_))
    }

    #[tokio::test]
    async fn a_confirmation_for_one_request_stands_for_its_variant_only() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/v");
        store(&cache, &key, &asking("en"), Some("accept-language")).await;
        let lookup =
            cache.lookup(key.as_ref(), || asking("en"), &mut KeyBuffer::default(), Instant::now());
        let Lookup::Fresh(entry) = lookup else { unreachable!("it is stored") };
        let lead = cache.lead_alone(key.as_ref(), &asking("en"));
        lead.confirm(&entry, head(60), &asking("en"));
        assert!(is_hit(&cache, &key, &asking("en")));
        assert!(!is_hit(&cache, &key, &asking("de")));
    }

    #[tokio::test]
    async fn an_answer_that_may_not_be_stored_takes_nothing_that_is_fresh_away() {
        let cache = cache(8 << 20);
        for (path, vary) in [("/plain", None), ("/varies", Some("accept-language"))] {
            let key = url(&cache, path);
            store(&cache, &key, &asking("en"), vary).await;
            cache.lead_alone(key.as_ref(), &asking("en")).refuse(Refusal::Authorization);
            let Join::Lead(lead) = cache.join(key.as_ref(), &asking("en")) else {
                unreachable!("nobody else fetches")
            };
            lead.refuse(Refusal::SetCookie);
            assert!(is_hit(&cache, &key, &asking("en")), "{path}");
        }
        let key = url(&cache, "/private");
        let Join::Lead(lead) = cache.join(key.as_ref(), &asking("en")) else {
            unreachable!("nobody else fetches")
        };
        lead.refuse(Refusal::Private);
        let found =
            cache.lookup(key.as_ref(), HeaderMap::new, &mut KeyBuffer::default(), Instant::now());
        assert!(matches!(found, Lookup::Uncacheable));
    }

    #[tokio::test]
    async fn a_purge_covers_variants_whose_set_was_forgotten() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/v");
        store(&cache, &key, &asking("en"), Some("accept-language")).await;
        // As an eviction would.
        cache.store.remove(key.as_ref());
        cache.purge(&Target::Url(key.clone()));
        store(&cache, &key, &asking("fr"), Some("accept-language")).await;
        assert!(is_hit(&cache, &key, &asking("fr")));
        assert!(!is_hit(&cache, &key, &asking("en")));
    }

    #[tokio::test]
    async fn a_fetch_that_began_before_a_purge_stores_nothing() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a");
        let Join::Lead(lead) = cache.join(key.as_ref(), &HeaderMap::new()) else {
            unreachable!("nobody else fetches")
        };
        cache.purge(&Target::All);
        fill(lead, &HeaderMap::new(), None).await;
        assert!(!is_hit(&cache, &key, &HeaderMap::new()));
        store(&cache, &key, &HeaderMap::new(), None).await;
        assert!(is_hit(&cache, &key, &HeaderMap::new()));
    }

    #[tokio::test]
    async fn remembered_variants_are_charged_for_and_long_ones_are_not_remembered() {
        let cache = cache(64 << 20);
        let key = url(&cache, "/v");
        let before = cache.bytes();
        for number in 0..40 {
            let request = asking(&format!("{number}{}", "x".repeat(4000)));
            store(&cache, &key, &request, Some("accept-language")).await;
        }
        // Sixteen entries with their keys, and the keys once more.
        let used = cache.bytes() - before;
        assert!((16 * 2 * 4000..64 * 4000).contains(&used), "{used}");
        let long = asking(&"x".repeat(5000));
        let Join::Lead(lead) = cache.join(key.as_ref(), &long) else {
            unreachable!("nobody else fetches")
        };
        let mut varies = head(60);
        varies.headers.insert("vary", HeaderValue::from_static("accept-language"));
        assert!(lead.fill(varies, Some(3), &long).is_err());
        cache.purge(&Target::All);
        assert_eq!(cache.bytes(), 0);
    }
}
