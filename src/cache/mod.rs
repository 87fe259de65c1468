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
#[cfg(fuzzing)]
pub mod fuzz;
mod heat;
mod inspect;
pub mod key;
pub mod key_spec;
mod lately;
mod metrics;
#[cfg(test)]
mod oracle;
mod outcome;
pub mod policy;
mod preference;
mod publish;
mod purge;
mod rendition;
pub mod reuse;
mod search;
pub mod status;
pub mod storable;
mod store;
mod sweep;
pub mod tags;
#[cfg(test)]
pub(crate) mod testing;
mod turns;
mod uses;
mod variants;
mod vary;
mod waiting;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

pub use entry::{Entry, Head, is_of_not_modified};
use fill::Company;
pub use fill::{Fill, Lead};
pub use flight::{Flight, FlightReader, Waiting};
use heat::Heat;
pub use inspect::EntrySummary;
use key::{CarriedHash, Key, KeyBuffer, KeyHasher, KeyRef};
use lately::Lately;
use metrics::CacheStats;
use outcome::Marks;
pub use outcome::{Outcome, Scope, Shared};
use purge::PurgeLog;
pub use purge::{Broad, Mode, Purged, Removed, Target, TooManyPurges, UrlTarget};
pub use rendition::{Coded, Making, Rendition, Renditions};
use store::{Slot, Store};
use tags::TagIndex;
use uses::Uses;
use variants::Searches;
pub use waiting::Turn;

use crate::config::model::{self, MinUses};
use crate::metrics::PerWorker;

/// Shards of the table of flights.
const FLIGHT_SHARDS: usize = 64;

type Flights = HashMap<Key, Arc<Flight>, CarriedHash>;

/// The cache of one process.
pub struct Cache {
    store: Store,
    flights: Box<[Mutex<Flights>]>,
    purges: PurgeLog,
    tags: Arc<TagIndex>,
    hasher: KeyHasher,
    object_bytes_max: AtomicU64,
    variants_max: AtomicUsize,
    /// For sets of variants and rules about queries, each with another one.
    serials: AtomicU64,
    /// A response has said something of its query.
    has_searches: AtomicBool,
    uses: Uses,
    lately: Lately,
    heat: PerWorker<Heat>,
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
            tags: TagIndex::new(),
            hasher: KeyHasher::default(),
            object_bytes_max: AtomicU64::new(config.object_bytes_max),
            variants_max: AtomicUsize::new(config.variants_max),
            serials: AtomicU64::new(1),
            has_searches: AtomicBool::new(false),
            uses: Uses::default(),
            lately: Lately::default(),
            heat: PerWorker::default(),
            stats: CacheStats::default(),
        })
    }

    /// Takes over new bounds; what is stored stays as far as it fits.
    pub fn reconfigure(&self, config: &model::Cache) {
        self.object_bytes_max.store(config.object_bytes_max, Ordering::Relaxed);
        self.variants_max.store(config.variants_max, Ordering::Relaxed);
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

    /// Fetches that requests may join, at this moment.
    pub fn fetches(&self) -> u64 {
        let held = |flights: &Mutex<Flights>| {
            flights.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
        };
        self.flights.iter().map(held).sum()
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
        let entry = match self.find(primary, request, variant) {
            Some(Slot::Entry(entry)) => entry,
            Some(Slot::Uncacheable(mark)) if mark.counts(now) => return Lookup::Uncacheable,
            _ => return Lookup::Absent,
        };
        self.purges.overtake(primary, &entry);
        if !entry.is_live() {
            Lookup::Absent
        } else if entry.is_fresh(now) {
            Lookup::Fresh(entry)
        } else {
            Lookup::Stale(entry)
        }
    }

    /// What is under the key of a request, or under that of one whose query makes no difference.
    fn find<F: Borrow<HeaderMap>>(
        &self,
        primary: KeyRef<'_>,
        request: impl FnOnce() -> F,
        buffer: &mut KeyBuffer,
    ) -> Option<Slot> {
        let slot = match self.store.get(primary) {
            Some(Slot::Entry(entry)) => return Some(Slot::Entry(entry)),
            None => match self.find_by_search(primary) {
                Some((key, slot)) => return self.select(key.as_ref(), slot, request, buffer),
                None => return None,
            },
            Some(slot) => slot,
        };
        self.select(primary, slot, request, buffer)
    }

    fn select<F: Borrow<HeaderMap>>(
        &self,
        primary: KeyRef<'_>,
        slot: Slot,
        request: impl FnOnce() -> F,
        buffer: &mut KeyBuffer,
    ) -> Option<Slot> {
        let Slot::Variants(variants) = slot else { return Some(slot) };
        let request = request();
        let fields = &variants.fields;
        self.store.get(fields.variant_key(primary, request.borrow(), buffer, &self.hasher))
    }

    /// What is stored for another query that makes no difference, and its key.
    fn find_by_search(&self, primary: KeyRef<'_>) -> Option<(Key, Slot)> {
        let url = primary.url()?;
        let searches = self.searches(url.host, url.path)?;
        let mut buffer = KeyBuffer::default();
        searches.rules().find_map(|search| {
            let key = search.key(primary, &mut buffer, &self.hasher)?;
            Some((key.to_owned(), self.store.get(key)?))
        })
    }

    /// What the responses of a path said of its queries.
    fn searches(&self, host: &[u8], path: &[u8]) -> Option<Arc<Searches>> {
        if !self.has_searches.load(Ordering::Relaxed) {
            return None;
        }
        let mut buffer = KeyBuffer::default();
        let key = variants::searches_key(host, path, &mut buffer, &self.hasher);
        match self.store.get(key) {
            Some(Slot::Searches(searches)) => Some(searches),
            _ => None,
        }
    }

    /// Joins the fetch that is under way for the request, or takes the lead of a new one.
    pub fn join(self: &Arc<Self>, primary: KeyRef<'_>, request: &HeaderMap) -> Join {
        let began = self.purges.epoch();
        let key = self.request_key(primary, request);
        let width = self.lately.width(primary.hash(), Instant::now());
        let flight = Arc::new(Flight::new(primary.to_owned(), began, width));
        match self.flights(&key).entry(key.clone()) {
            Place::Vacant(place) => {
                place.insert(flight.clone());
            }
            Place::Occupied(mut place) => {
                let running = place.get();
                if !self.condemns(running) && !running.has_stalled() {
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
        let is_open = running.is_joinable() && !running.has_stalled() && !self.condemns(&running);
        is_open.then_some(running)
    }

    /// Whether a purge came after a fetch had begun, so that nobody who comes later may have its
    /// answer.
    pub fn condemns(&self, flight: &Flight) -> bool {
        let (primary, marks) = (flight.primary.as_ref(), flight.marks.get());
        self.purges.condemns(flight.began, primary, marks, &self.hasher)
    }

    /// Puts a flight with an answer for everybody in the place of one that has none, which is given
    /// back. Where nobody is to find it, the place is left empty.
    fn take_over(&self, key: &Key, flight: &Arc<Flight>, is_found: bool) -> Option<Arc<Flight>> {
        match self.flights(key).entry(key.clone()) {
            Place::Vacant(place) => {
                if is_found {
                    place.insert(flight.clone());
                }
                None
            }
            Place::Occupied(mut place) => {
                let running = place.get().clone();
                if Arc::ptr_eq(&running, flight)
                    || (running.is_shared() && !running.has_stalled() && !self.condemns(&running))
                {
                    return None;
                }
                if is_found {
                    place.insert(flight.clone());
                } else {
                    place.remove();
                }
                Some(running)
            }
        }
    }

    /// How long the head of the last answer to this key took, if that was one for everybody.
    pub fn took_lately(&self, key: KeyRef<'_>) -> Option<Duration> {
        self.lately.took(key.hash())
    }

    /// A lead beside a fetch that is under way for the same: whichever brings an answer for
    /// everybody first has it for those who wait for the other.
    pub fn lead_beside(
        self: &Arc<Self>,
        primary: KeyRef<'_>,
        request: &HeaderMap,
        flight: &Arc<Flight>,
    ) -> Lead {
        self.lead_alone(primary, request).beside(flight.clone())
    }

    /// A lead that nobody finds, for a fetch whose answer may turn out to be storable.
    pub fn lead_alone(self: &Arc<Self>, primary: KeyRef<'_>, request: &HeaderMap) -> Lead {
        let flight = Arc::new(Flight::new(primary.to_owned(), self.purges.epoch(), 1));
        Lead::new(self.clone(), flight, self.request_key(primary, request), Company::Nobody)
    }

    /// Under what an answer to this request is stored, as far as that is known.
    fn request_key(&self, primary: KeyRef<'_>, request: &HeaderMap) -> Key {
        let of = |primary: KeyRef<'_>, slot: Option<Slot>| match slot {
            Some(Slot::Variants(variants)) => {
                variants.fields.variant_key_owned(primary, request, &self.hasher)
            }
            _ => primary.to_owned(),
        };
        let slot = self.store.peek(primary);
        if slot.is_none() && self.has_searches.load(Ordering::Relaxed) {
            if let Some((key, slot)) = self.find_by_search(primary) {
                return of(key.as_ref(), Some(slot));
            }
            let searches = primary.url().and_then(|url| self.searches(url.host, url.path));
            let latest = searches.as_ref().and_then(|searches| searches.rules().next());
            let mut buffer = KeyBuffer::default();
            if let Some(key) = latest.and_then(|it| it.key(primary, &mut buffer, &self.hasher)) {
                return key.to_owned();
            }
        }
        of(primary, slot)
    }

    /// Counts a use of what is not stored yet; whether that makes it worth storing.
    pub fn is_used_enough(&self, key: KeyRef<'_>, min: MinUses) -> bool {
        min.0 <= 1 || self.uses.count(key.hash()) >= min.0
    }

    /// Notes a hit, so that it can be told what is asked for most.
    pub fn note_hit(&self, key: KeyRef<'_>) {
        self.heat.local().note(key);
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
}

/// Whether a response with these fields answers queries other than its own (`No-Vary-Search`).
pub fn says_something_of_queries(headers: &HeaderMap) -> bool {
    search::SearchRule::of(headers).is_some()
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} of {} bytes)", self.bytes(), self.bytes_max())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::storable::Refusal;
    use super::testing::{cache, head, is_hit, led, store, url, with_field};
    use super::*;

    fn asking(language: &str) -> HeaderMap {
        let value = HeaderValue::from_str(language).expect("a field value");
        [(http::header::ACCEPT_LANGUAGE, value)].into_iter().collect()
    }

    const VARY: [(&str, &str); 1] = [("vary", "accept-language")];

    #[tokio::test]
    async fn a_confirmation_for_one_request_stands_for_its_variant_only() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/v", None);
        store(&cache, &key, &asking("en"), &VARY).await;
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
        for (path, vary) in [("/plain", &[][..]), ("/varies", &VARY[..])] {
            let key = url(&cache, path, None);
            store(&cache, &key, &asking("en"), vary).await;
            cache.lead_alone(key.as_ref(), &asking("en")).refuse(Refusal::Authorization);
            led(&cache, &key, &asking("en")).refuse(Refusal::SetCookie);
            assert!(is_hit(&cache, &key, &asking("en")), "{path}");
        }
        let key = url(&cache, "/private", None);
        led(&cache, &key, &asking("en")).refuse(Refusal::Private);
        let found =
            cache.lookup(key.as_ref(), HeaderMap::new, &mut KeyBuffer::default(), Instant::now());
        assert!(matches!(found, Lookup::Uncacheable));
    }

    #[tokio::test]
    async fn remembered_variants_are_charged_for_and_long_ones_are_not_remembered() {
        let cache = cache(64 << 20);
        let key = url(&cache, "/v", None);
        let before = cache.bytes();
        for number in 0..40 {
            let request = asking(&format!("{number}{}", "x".repeat(4000)));
            store(&cache, &key, &request, &VARY).await;
        }
        // Sixteen entries with their keys, and the keys once more.
        let used = cache.bytes() - before;
        assert!((16 * 2 * 4000..64 * 4000).contains(&used), "{used}");
        let long = asking(&"x".repeat(5000));
        let lead = led(&cache, &key, &long);
        let varies = with_field(head(60), "vary", "accept-language");
        assert!(lead.fill(varies, Some(3), &long).is_err());
        drop(cache.purge(&[Target::Broad(Broad::All)], Mode::Remove).expect("few purges"));
        assert_eq!(cache.bytes(), 0);
    }

    #[tokio::test]
    async fn as_many_variants_are_kept_as_the_configuration_says_and_the_oldest_goes_first() {
        let cache = cache(8 << 20);
        cache.variants_max.store(2, Ordering::Relaxed);
        let key = url(&cache, "/v", None);
        for language in ["en", "de", "fr"] {
            store(&cache, &key, &asking(language), &VARY).await;
        }
        let held = ["en", "de", "fr"].map(|language| is_hit(&cache, &key, &asking(language)));
        assert_eq!((held, cache.objects()), ([false, true, true], 2));
    }

    #[tokio::test]
    async fn queries_that_make_no_difference_share_a_response_and_its_fetch() {
        let cache = cache(8 << 20);
        let none = HeaderMap::new();
        let says = [("no-vary-search", "params=(\"utm\")")];
        let query = |query| url(&cache, "/p", Some(query));
        store(&cache, &query("id=1&utm=a"), &none, &says).await;
        assert!(is_hit(&cache, &query("utm=b&id=1"), &none));
        assert!(is_hit(&cache, &query("id=1"), &none));
        assert!(!is_hit(&cache, &query("id=2"), &none));
        let lead = led(&cache, &query("id=3&utm=a"), &none);
        let followed = cache.join(query("id=3&utm=b").as_ref(), &none);
        assert!(matches!(followed, Join::Follow(_)), "the rule is known");
        drop(lead);
        // Another rule for the same path lives beside the first.
        let other = [("no-vary-search", "key-order, params=(\"x\")")];
        store(&cache, &query("a=1&b=2&x=3"), &none, &other).await;
        assert!(is_hit(&cache, &query("b=2&a=1"), &none));
        assert!(is_hit(&cache, &query("id=1&utm=c"), &none));
        assert_eq!(cache.objects(), 2);
    }

    #[tokio::test]
    async fn a_response_whose_query_counts_again_replaces_the_one_for_which_it_did_not() {
        let cache = cache(8 << 20);
        let none = HeaderMap::new();
        let key = url(&cache, "/p", Some("utm=a"));
        store(&cache, &key, &none, &[]).await;
        let says = [("no-vary-search", "params=(\"utm\")")];
        let lead = cache.lead_alone(key.as_ref(), &none);
        testing::fill(lead, &none, &says).await;
        assert!(is_hit(&cache, &url(&cache, "/p", Some("utm=b")), &none));
        assert_eq!(cache.objects(), 1, "the plain one is gone");
    }
}
