//! The writing side of a flight: from the first byte of a response to its entry in the store.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::Cache;
use super::entry::{ENTRY_OVERHEAD, Entry, Head};
use super::flight::Flight;
use super::key::{Key, KeyBuffer, KeyHasher};
use super::key_spec;
use super::outcome::{Marks, Outcome, Scope, Shared, Variant};
use super::reuse::Fault;
use super::search::SearchRule;
use super::storable::Refusal;
use super::vary::VaryFields;
use crate::body::StoredBody;
use crate::error::Kind;
use crate::memory::Charge;

/// Bodies are kept in pieces of allocations of this size.
const CHUNK_BYTES: usize = 64 << 10;

/// The duty to settle a flight. Dropped without that, it fails the flight.
#[derive(Debug)]
pub struct Lead {
    cache: Arc<Cache>,
    flight: Arc<Flight>,
    /// Under which the flight is found.
    key: Key,
    company: Company,
    /// The flight that it is to help out.
    beside: Option<Arc<Flight>>,
    /// What it brings is not to be stored.
    passing: bool,
}

/// Who may share a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Anybody,
    /// It is for one request; what comes of it says little about others.
    Nobody,
}

/// A response on its way into the store and to the readers of its flight.
#[derive(Debug)]
pub struct Fill {
    lead: Lead,
    shared: Arc<Shared>,
    /// For the head of the entry; `None` once the body goes on unstored.
    charge: Option<Charge>,
    /// Charged for in the flight, in bytes.
    charged: u64,
    /// The allocation that pieces are cut from.
    chunk: BytesMut,
    received: u64,
}

impl Lead {
    pub(super) fn new(cache: Arc<Cache>, flight: Arc<Flight>, key: Key, company: Company) -> Self {
        Self { cache, flight, key, company, beside: None, passing: false }
    }

    /// The same beside a fetch that others wait for.
    pub(super) fn beside(mut self, flight: Arc<Flight>) -> Self {
        self.beside = Some(flight);
        self
    }

    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    pub fn hasher(&self) -> &KeyHasher {
        &self.cache.hasher
    }

    /// What it brings is shared with all who wait, but not stored.
    pub fn pass(&mut self) {
        self.passing = true;
    }

    /// The answer may not be shared: whoever waits fetches alone, and so do, for a while, those
    /// who come later.
    pub fn refuse(self, refusal: Refusal) {
        let is_about_the_url = !matches!(refusal, Refusal::Authorization | Refusal::Method);
        if is_about_the_url && (self.company == Company::Anybody || self.beside.is_some()) {
            self.cache.lately.refused(self.flight.primary.as_ref().hash());
            self.cache.remember_uncacheable(&self.key, &self.flight);
        } else if is_about_the_url {
            self.cache.renew_uncacheable(&self.key);
        }
        self.cache.land(&self.key, &self.flight);
        self.flight.settle(Outcome::Alone(refusal));
        if let Some(flight) = &self.beside {
            flight.disperse(refusal);
        }
    }

    /// The fetch failed before there was an answer to share. Those who wait go on by themselves,
    /// several at once, and so do for a moment those who come later. An error that the origin
    /// answered to one request says nothing where nobody else waited for it.
    pub fn fail(self, fault: Fault) {
        let counts = matches!(fault, Fault::Kind(_)) || self.flight.has_followers();
        if self.company == Company::Anybody && counts {
            self.cache.lately.failed(self.flight.primary.as_ref().hash(), Instant::now());
        }
        self.cache.land(&self.key, &self.flight);
        self.flight.settle(Outcome::Failed(fault));
    }

    /// Another fetch brought a fresh response meanwhile, or this one will bring none: whoever waits
    /// looks again.
    pub fn found(self) {
        self.cache.land(&self.key, &self.flight);
        self.flight.settle(Outcome::Found);
    }

    /// The origin confirmed `stored`; `head` is what has become of its head, and `request` holds
    /// the fields that were forwarded.
    pub fn confirm(
        mut self,
        stored: &Arc<Entry>,
        mut head: Head,
        request: &HeaderMap,
    ) -> Arc<Entry> {
        let Ok((scope, charge)) = self.place(&mut head, request) else {
            // No room: it stays as it is, and answers those who wait.
            let primary = self.flight.primary.clone();
            let scope = Scope { primary, search: None, variant: None };
            self.flight.settle(Outcome::Confirmed { entry: stored.clone(), scope });
            return stored.clone();
        };
        let registration = self.cache.tags.register(&self.key, &head.tags);
        let entry = stored.with_head(head, charge).registered(self.flight.began, registration);
        let entry = Arc::new(entry);
        self.cache.publish(&self.key, &self.flight, &entry);
        self.flight.settle(Outcome::Confirmed { entry: entry.clone(), scope });
        self.overtake(false);
        entry
    }

    /// There is an answer for everybody, so nobody need wait for another fetch. Where it is still
    /// on its way, others are to find it.
    fn overtake(&self, is_on_its_way: bool) {
        self.cache.lately.shared(self.flight.primary.as_ref().hash(), self.flight.took());
        if self.cache.condemns(&self.flight) {
            // Who came after the purge waits for something newer.
            return;
        }
        let replaced = self.cache.take_over(&self.key, &self.flight, is_on_its_way);
        for other in replaced.iter().chain(&self.beside) {
            if !Arc::ptr_eq(other, &self.flight) {
                other.settle(Outcome::Overtaken(self.flight.clone()));
            }
        }
    }

    /// What the origin has now is not `stored`, which must not be used any more.
    pub fn forget(self, stored: &Arc<Entry>) {
        self.cache.store.remove_entry(self.key.as_ref(), stored);
    }

    /// Finds the place of a response in the store, and moves the flight there.
    fn place(&mut self, head: &mut Head, request: &HeaderMap) -> Result<(Scope, Charge), Refusal> {
        let scope = self.scope(head, request)?;
        let key = scope.variant.as_ref().map_or(&scope.primary, |variant| &variant.key).clone();
        if let Some(tag) = key_spec::url_tag(scope.primary.as_ref(), &self.cache.hasher) {
            head.tags = head.tags.iter().copied().chain([tag]).collect();
        }
        let charge = self.cache.store.reserve(head_bytes(head, &key)).ok_or(Refusal::TooLarge)?;
        let marks = Marks { tags: head.tags.clone(), by_search: scope.search.is_some() };
        // A flight has one answer.
        let _ = self.flight.marks.set(marks);
        self.cache.move_flight(&self.key, &key, &self.flight);
        self.key = key;
        Ok((scope, charge))
    }

    /// Which requests a response answers.
    fn scope(&self, head: &Head, request: &HeaderMap) -> Result<Scope, Refusal> {
        let (cache, url) = (&self.cache, self.flight.primary.as_ref());
        let headers = head.fields.to_map(0);
        let search = match SearchRule::of(&headers) {
            None => None,
            Some(rule) => Some(cache.search(url, rule).ok_or(Refusal::TooLarge)?),
        };
        let mut buffer = KeyBuffer::default();
        let form = search.as_ref().and_then(|it| it.key(url, &mut buffer, &cache.hasher));
        let primary = form.unwrap_or(url).to_owned();
        if search.is_some() {
            // What was stored for this very query would be found before what takes its place.
            cache.store.remove(url);
        }
        // Of a URL that varies, a response that does not say so is one variant like the others.
        let fields = VaryFields::of(&headers).or_else(|| cache.known_variance(&primary));
        let variant = match fields {
            None => None,
            Some(fields) => {
                let known = cache.vary(&primary, &fields, request);
                let (fields, key) = known.ok_or(Refusal::TooLarge)?;
                Some(Variant { fields, key })
            }
        };
        Ok(Scope { primary, search, variant })
    }

    /// Shares a response that may be stored. `request` holds the fields that were forwarded.
    /// Gives the lead back if there is no room for the body.
    pub fn fill(
        mut self,
        mut head: Head,
        length: Option<u64>,
        request: &HeaderMap,
    ) -> Result<Fill, (Self, Refusal)> {
        let body_bytes = length.unwrap_or(CHUNK_BYTES as u64);
        if length.is_some_and(|length| length > self.cache.object_bytes_max()) {
            return Err((self, Refusal::TooLarge));
        }
        let Some(body) = self.cache.store.reserve(body_bytes) else {
            return Err((self, Refusal::TooLarge));
        };
        let (scope, charge) = match self.place(&mut head, request) {
            Ok(placed) => placed,
            Err(refusal) => return Err((self, refusal)),
        };
        let charged = body.bytes();
        self.flight.hold(body);
        let is_stored = !self.passing;
        let shared = Arc::new(Shared { head, length, scope, is_stored });
        self.flight.settle(Outcome::Streaming(shared.clone()));
        self.overtake(true);
        Ok(Fill {
            lead: self,
            shared,
            charge: Some(charge),
            charged,
            chunk: BytesMut::new(),
            received: 0,
        })
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // First, so that nobody who is woken finds it again.
        self.cache.land(&self.key, &self.flight);
        self.flight.settle(Outcome::Failed(Fault::Kind(Kind::Internal)));
        self.flight.finish(Err(Kind::Internal));
    }
}

impl Fill {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.lead.flight
    }

    /// Takes the next bytes of the body. False when they are of no more use: the body is not
    /// stored, and nobody reads it.
    pub async fn push(&mut self, mut data: Bytes) -> bool {
        self.received += data.len() as u64;
        if self.charge.is_some() {
            self.keep(&mut data);
            if data.is_empty() {
                return true;
            }
            self.give_up();
        }
        self.lead.flight.push(data);
        self.lead.flight.room().await
    }

    /// From here on the body is not stored.
    fn give_up(&mut self) {
        self.charge = None;
        self.chunk = BytesMut::new();
        self.lead.flight.stop_storing();
        if self.received > self.lead.cache.object_bytes_max() {
            self.lead.cache.remember_uncacheable(&self.lead.key, &self.lead.flight);
        }
        // Later requests can no longer join from the beginning.
        self.lead.cache.land(&self.lead.key, &self.lead.flight);
    }

    /// Waits until nobody has a use for the rest of the body. What is stored always has one.
    pub async fn deserted(&self) {
        if self.charge.is_some() {
            return std::future::pending().await;
        }
        self.lead.flight.deserted().await;
    }

    /// Moves bytes into the store's own allocations: those of a connection are larger than what is
    /// in them. What may not be stored is left.
    fn keep(&mut self, data: &mut Bytes) {
        if self.received > self.lead.cache.object_bytes_max() {
            return;
        }
        // A body that is larger than it was said to be has been refused by its parser before.
        let left = self.shared.length.map(|length| length + data.len() as u64 - self.received);
        while !data.is_empty() {
            if self.chunk.capacity() == self.chunk.len() {
                let size = left.map_or(CHUNK_BYTES, |left| {
                    usize::try_from(left)
                        .unwrap_or(CHUNK_BYTES)
                        .clamp(data.len().min(CHUNK_BYTES), CHUNK_BYTES)
                });
                if !self.charge_chunk(size as u64, self.received - data.len() as u64) {
                    return;
                }
                self.chunk = BytesMut::with_capacity(size);
            }
            let take = data.len().min(self.chunk.capacity() - self.chunk.len());
            self.chunk.extend_from_slice(&data.split_to(take));
            self.lead.flight.push(self.chunk.split().freeze());
        }
    }

    /// Bodies of known length are charged for at once, others chunk by chunk. `kept` bytes have
    /// their place.
    fn charge_chunk(&mut self, size: u64, kept: u64) -> bool {
        if self.shared.length.is_some() || kept + size <= self.charged {
            return true;
        }
        let Some(more) = self.lead.cache.store.reserve(size) else { return false };
        self.charged += size;
        self.lead.flight.hold(more);
        true
    }

    /// The body is complete: it becomes an entry.
    pub fn finish(mut self) {
        let charge = self.charge.take().filter(|_| self.shared.is_stored);
        let flight = &self.lead.flight;
        let Some((head, body)) = charge.zip(flight.share_charge(self.received)) else {
            flight.finish(Ok(()));
            return;
        };
        let pieces = flight.pieces();
        let stored = if self.received <= CHUNK_BYTES as u64 {
            // In one piece of exactly its size.
            let mut whole = Vec::with_capacity(self.received as usize);
            pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
            StoredBody::whole(whole, body)
        } else {
            StoredBody::new(pieces, body)
        };
        let tags = &self.shared.head.tags;
        let registration = self.lead.cache.tags.register(&self.lead.key, tags);
        let entry = Entry::new(self.shared.head.clone(), stored, head);
        let entry = Arc::new(entry.registered(self.lead.flight.began, registration));
        self.lead.cache.publish(&self.lead.key, &self.lead.flight, &entry);
        self.lead.flight.finish(Ok(()));
    }

    /// The body broke off: its readers see that, and nothing is stored.
    pub fn fail(self, kind: Kind) {
        self.lead.flight.finish(Err(kind));
    }
}

fn head_bytes(head: &Head, key: &Key) -> u64 {
    head.bytes() + key.bytes_len() as u64 + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Context;

    use http::HeaderValue;

    use super::super::testing::{config, head, led, lookup, url, with_field};
    use super::super::{FlightReader, Join, Lookup};
    use super::*;

    fn cache(object_bytes_max: u64) -> Arc<Cache> {
        Cache::new(&config(8 << 20, object_bytes_max), 1)
    }

    fn key(cache: &Cache) -> Key {
        url(cache, "/", None)
    }

    fn lead(cache: &Arc<Cache>) -> Lead {
        led(cache, &key(cache), &HeaderMap::new())
    }

    fn begin(lead: Lead, head: Head) -> Fill {
        lead.fill(head, None, &HeaderMap::new()).map_err(|(_, refusal)| refusal).unwrap()
    }

    fn look_up(cache: &Cache, request: &HeaderMap) -> Lookup {
        lookup(cache, &key(cache), request)
    }

    async fn end_of(mut reader: FlightReader) -> Option<Kind> {
        loop {
            let next =
                |cx: &mut Context<'_>| http_body::Body::poll_frame(Pin::new(&mut reader), cx);
            match poll_fn(next).await {
                Some(Ok(_)) => {}
                end => return end.and_then(Result::err).map(|error| error.kind()),
            }
        }
    }

    #[tokio::test]
    async fn a_lead_that_is_dropped_fails_its_flight_and_makes_way() {
        let cache = cache(1 << 20);
        let first = lead(&cache);
        let Join::Follow(flight) = cache.join(key(&cache).as_ref(), &HeaderMap::new()) else {
            unreachable!("a fetch is under way")
        };
        drop(first);
        let outcome = flight.outcome().await;
        assert!(matches!(outcome, Outcome::Failed(Fault::Kind(Kind::Internal))));
        drop(lead(&cache));
    }

    #[tokio::test]
    async fn a_fill_that_is_dropped_breaks_its_readers_off_and_stores_nothing() {
        let cache = cache(1 << 20);
        let mut fill = begin(lead(&cache), head(60));
        let reader = fill.flight().read(None).unwrap();
        assert!(fill.push(Bytes::from("abc")).await);
        drop(fill);
        assert_eq!(end_of(reader).await, Some(Kind::Internal));
        assert!(matches!(look_up(&cache, &HeaderMap::new()), Lookup::Absent));
        assert_eq!(cache.bytes(), 0);
    }

    #[tokio::test]
    async fn what_outgrew_the_store_goes_on_for_its_readers_and_is_remembered() {
        let cache = cache(1000);
        let mut fill = begin(lead(&cache), head(60));
        let reader = fill.flight().read(None).unwrap();
        assert!(fill.push(Bytes::from(vec![0; 1001])).await);
        fill.finish();
        assert_eq!(end_of(reader).await, None);
        assert!(matches!(look_up(&cache, &HeaderMap::new()), Lookup::Uncacheable));
    }

    #[tokio::test]
    async fn a_confirmation_that_adds_a_vary_moves_to_the_key_of_its_variant() {
        let cache = cache(1 << 20);
        begin(lead(&cache), head(60)).finish();
        let Lookup::Fresh(stored) = look_up(&cache, &HeaderMap::new()) else {
            unreachable!("it was stored")
        };
        let varies = with_field(head(60), "vary", "accept");
        let mut request = HeaderMap::new();
        request.insert("accept", HeaderValue::from_static("a"));
        lead(&cache).confirm(&stored, varies, &request);
        assert!(matches!(look_up(&cache, &request), Lookup::Fresh(_)));
        assert!(matches!(look_up(&cache, &HeaderMap::new()), Lookup::Absent));
    }

    async fn all_of(mut reader: FlightReader) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let next =
                |cx: &mut Context<'_>| http_body::Body::poll_frame(Pin::new(&mut reader), cx);
            match poll_fn(next).await {
                Some(Ok(frame)) => body.extend_from_slice(&frame.into_data().unwrap()),
                end => {
                    assert!(end.is_none(), "{end:?}");
                    return body;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_body_for_which_there_is_no_more_room_goes_on_byte_for_byte() {
        let cache = Cache::new(&config(512 << 10, 128 << 10), 1);
        // Room for one chunk more, and no second one.
        let _taken = cache.store.reserve((512 << 10) - (100 << 10)).unwrap();
        let body: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let mut fill = begin(lead(&cache), head(60));
        let reader = fill.flight().read(None).unwrap();
        for part in [&body[..60_000], &body[60_000..]] {
            assert!(fill.push(Bytes::copy_from_slice(part)).await);
        }
        assert!(fill.charge.is_none(), "it outgrew the room");
        fill.finish();
        assert_eq!(all_of(reader).await, body);
    }

    #[tokio::test]
    async fn what_is_read_stays_charged_for_though_its_entry_has_gone() {
        for (bytes, pieces) in [(1000_usize, 1), (200_000, 4)] {
            let cache = cache(1 << 20);
            let none = HeaderMap::new();
            let filled = lead(&cache).fill(head(60), Some(bytes as u64), &none);
            let mut fill = filled.map_err(|(_, refusal)| refusal).unwrap();
            let reader = fill.flight().read(Some(bytes as u64)).unwrap();
            for _ in 0..pieces {
                assert!(fill.push(Bytes::from(vec![0; bytes / pieces])).await);
            }
            fill.finish();
            let Lookup::Fresh(entry) = look_up(&cache, &none) else { unreachable!("stored") };
            // As an eviction would.
            cache.store.remove(key(&cache).as_ref());
            assert!(cache.bytes() >= bytes as u64);
            let piece = entry.body.chunks()[0].clone();
            drop(entry);
            assert!(cache.bytes() >= bytes as u64, "somebody reads the flight");
            drop(reader);
            assert!(cache.bytes() >= bytes as u64, "somebody holds a piece");
            drop(piece);
            assert_eq!(cache.bytes(), 0);
        }
    }
}
