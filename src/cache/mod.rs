//! The edge cache: what is stored, what may be, and fetches that many requests share.
//!
//! Pure rules first ([`control`], [`freshness`], [`storable`], [`conditional`], and `vary`), then
//! what holds state: the `store`, [`Flight`]s with their [`Fill`]s, and the log of purges. The
//! cache opens no socket: it is told what an origin answered. It runs on every worker at once; a
//! hit takes one short read lock on a shard of the store, a miss one lock on a shard of the
//! flights.

pub mod conditional;
pub mod control;
mod entry;
mod fill;
mod flight;
pub mod freshness;
mod inspect;
pub mod key;
mod metrics;
mod purge;
pub mod status;
pub mod storable;
mod store;
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

pub use entry::{Entry, Head};
pub use fill::{Fill, Lead};
pub use flight::{Flight, FlightReader, Outcome, Shared};
pub use inspect::EntrySummary;
use key::{CarriedHash, Key, KeyBuffer, KeyHasher, KeyRef};
use metrics::CacheStats;
use purge::PurgeLog;
pub use purge::{PathTarget, Target};
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
        let key = match self.store.get(primary) {
            Some(Slot::Variants(variants)) => {
                variants.fields.variant_key_owned(primary, request, &self.hasher)
            }
            _ => primary.to_owned(),
        };
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
        Join::Lead(Lead::new(self.clone(), flight, key))
    }

    /// A lead that nobody finds, for a fetch whose answer may turn out to be storable.
    pub fn lead_alone(self: &Arc<Self>, primary: KeyRef<'_>) -> Lead {
        let key = primary.to_owned();
        let flight = Arc::new(Flight::new(key.clone(), self.purges.epoch()));
        Lead::new(self.clone(), flight, key)
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

    /// Notes that a URL varies; the fields by which it does and the key of this variant.
    fn vary(&self, flight: &Flight, fields: &VaryFields, request: &HeaderMap) -> (VaryFields, Key) {
        let primary = flight.primary.as_ref();
        let known = match self.store.get(primary) {
            Some(Slot::Variants(known)) => Some(known),
            _ => None,
        };
        let fields = known.as_ref().map_or_else(|| fields.clone(), |k| k.fields.union(fields));
        let key = fields.variant_key_owned(primary, request, &self.hasher);
        match known {
            Some(known) if known.fields == fields => {
                if let Some(oldest) = known.add(key.clone()) {
                    self.remove_url(oldest.as_ref());
                }
            }
            known => {
                // Variants selected by fewer fields can no longer be found; they go.
                for old in known.iter().flat_map(|known| known.keys()) {
                    self.remove_url(old.as_ref());
                }
                if let Some(charge) = self.store.reserve(entry::ENTRY_OVERHEAD) {
                    let variants = Variants::new(fields.clone(), vec![key.clone()], charge);
                    self.store.insert(flight.primary.clone(), Slot::Variants(Arc::new(variants)));
                }
            }
        }
        (fields, key)
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

    fn remember_uncacheable(&self, key: &Key, flight: &Flight) {
        if self.purges.condemns(flight.began, flight.primary.as_ref()) {
            return;
        }
        if let Some(charge) = self.store.reserve(entry::ENTRY_OVERHEAD + key.bytes_len() as u64) {
            let mark = Uncacheable::new(Instant::now() + UNCACHEABLE_FOR, charge);
            self.store.insert(key.clone(), Slot::Uncacheable(Arc::new(mark)));
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} of {} bytes)", self.bytes(), self.bytes_max())
    }
}
