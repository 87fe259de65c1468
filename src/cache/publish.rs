//! What becomes of a response once its fetch may store it: its place among the variants of its URL,
//! and in the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::Cache;
use super::entry::{ENTRY_OVERHEAD, Entry};
use super::flight::Flight;
use super::key::{Key, KeyBuffer, KeyRef};
use super::search::SearchRule;
use super::store::Slot;
use super::variants::{self, Search, Searches, Uncacheable, Variants};
use super::vary::VaryFields;

/// How long after the last answer that could not be stored every request for its URL is made alone.
const UNCACHEABLE_FOR: Duration = Duration::from_secs(60);

impl Cache {
    /// Notes what a response said of its query. `None` if there is no room to remember it.
    pub(super) fn search(&self, primary: KeyRef<'_>, rule: SearchRule) -> Option<Search> {
        let url = primary.url()?;
        self.has_searches.store(true, Ordering::Relaxed);
        let known = self.searches(url.host, url.path);
        let mut rules = known.iter().flat_map(|known| known.rules());
        if let Some(search) = rules.find(|search| search.is(&rule)) {
            return Some(search.clone());
        }
        let mut buffer = KeyBuffer::default();
        let key = variants::searches_key(url.host, url.path, &mut buffer, &self.hasher).to_owned();
        let search = Search::new(rule, self.serials.fetch_add(1, Ordering::Relaxed));
        let bytes = known.as_ref().map_or(0, |known| known.bytes_len())
            + key.bytes_len() as u64
            + ENTRY_OVERHEAD;
        let searches = Searches::with(known.as_deref(), search.clone(), self.store.reserve(bytes)?);
        self.store.insert(key, Slot::Searches(Arc::new(searches)));
        Some(search)
    }

    /// The fields by which a URL is known to vary.
    pub(super) fn known_variance(&self, primary: &Key) -> Option<VaryFields> {
        match self.store.get(primary.as_ref()) {
            Some(Slot::Variants(known)) => Some(known.fields.clone()),
            _ => None,
        }
    }

    /// Notes that a URL varies; the fields by which it does and the key of this variant. `None`
    /// if there is no room to remember it.
    pub(super) fn vary(
        &self,
        primary: &Key,
        fields: &VaryFields,
        request: &HeaderMap,
    ) -> Option<(VaryFields, Key)> {
        let known = match self.store.get(primary.as_ref()) {
            Some(Slot::Variants(known)) => Some(known),
            _ => None,
        };
        let fields = known.as_ref().map_or_else(|| fields.clone(), |k| k.fields.union(fields));
        let known = match known {
            Some(known) if known.fields == fields => known,
            known => {
                // Variants selected by fewer fields can no longer be found; they go.
                for old in known.iter().flat_map(|known| known.keys()) {
                    self.store.remove(old.as_ref());
                }
                let serial = self.serials.fetch_add(1, Ordering::Relaxed);
                let charge = self.store.reserve(ENTRY_OVERHEAD)?;
                let variants = Arc::new(Variants::new(fields.with_serial(serial), charge));
                self.store.insert(primary.clone(), Slot::Variants(variants.clone()));
                variants
            }
        };
        if !known.fields.fits(request) {
            return None;
        }
        let key = known.fields.variant_key_owned(primary.as_ref(), request, &self.hasher);
        let charge = self.store.reserve(key.bytes_len() as u64 + ENTRY_OVERHEAD)?;
        for oldest in known.add(key.clone(), charge, self.variants_max.load(Ordering::Relaxed)) {
            self.store.remove(oldest.as_ref());
        }
        Some((known.fields.clone(), key))
    }

    /// Stores an entry, unless a purge came after its fetch began.
    pub(super) fn publish(&self, key: &Key, flight: &Flight, entry: &Arc<Entry>) {
        if self.condemns(flight) {
            return;
        }
        self.store.insert(key.clone(), Slot::Entry(entry.clone()));
        // A purge that came in between either finds the entry or is found here.
        if self.condemns(flight) {
            self.store.remove_entry(key.as_ref(), entry);
        } else {
            entry.publish();
        }
    }

    /// Notes that an answer could not be stored. What is stored and fresh, or has variants, says
    /// more about the URL than that one answer.
    pub(super) fn remember_uncacheable(&self, key: &Key, flight: &Flight) {
        if self.condemns(flight) {
            return;
        }
        let now = Instant::now();
        match self.store.get(key.as_ref()) {
            Some(Slot::Variants(_) | Slot::Searches(_)) => return,
            Some(Slot::Entry(entry)) if entry.is_live() && entry.is_fresh(now) => return,
            _ => {}
        }
        if let Some(charge) = self.store.reserve(ENTRY_OVERHEAD + key.bytes_len() as u64) {
            let mark = Uncacheable::new(now, UNCACHEABLE_FOR, charge);
            self.store.insert(key.clone(), Slot::Uncacheable(Arc::new(mark)));
        }
    }

    /// Another answer could not be stored: what is remembered of that stays so for as long again.
    pub(super) fn renew_uncacheable(&self, key: &Key) {
        if let Some(Slot::Uncacheable(mark)) = self.store.get(key.as_ref()) {
            mark.renew(Instant::now(), UNCACHEABLE_FOR);
        }
    }
}
