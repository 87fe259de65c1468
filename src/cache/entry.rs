//! A stored response.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_LOCATION, DATE, ETAG, EXPIRES, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Cache;
use super::purge::Mode;
use super::rendition::{RENDITIONS_BYTES, Renditions};
use super::storable::Terms;
use super::tags::{Registration, TAG_BYTES, Tag, Tagged};
use crate::body::StoredBody;
use crate::compress::eligible::BODY_BYTES_MIN;
use crate::fields::Fields;
use crate::memory::Charge;

/// What an entry costs beside its head and body: the entry itself, its place in the index and in
/// the store's queues, and the allocator's rounding. Measured by `benches/scale`.
pub(super) const ENTRY_OVERHEAD: u64 = 576;
/// Between two background refreshes of one response.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// The head of a stored or arriving response, with what was known when it came.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: StatusCode,
    /// End-to-end fields, as they are sent again; without `Age`.
    pub fields: Fields,
    /// `Headwater-Cache-Control`, which is for us and never sent on.
    pub own_control: Option<Box<HeaderValue>>,
    pub terms: Terms,
    /// Its age when it came.
    pub initial_age: Duration,
    pub received: Instant,
    /// It may be sent in a content coding to whoever takes one.
    pub may_code: bool,
    /// By which it may be purged.
    pub tags: Box<[Tag]>,
}

/// A complete response in the store.
#[derive(Debug)]
pub struct Entry {
    pub head: Head,
    pub body: StoredBody,
    /// Its codings, once somebody asked for one. A weight must not change, so their bytes are in the
    /// count of memory alone; they go with the entry.
    renditions: OnceLock<Arc<Renditions>>,
    /// The purge epoch at which its fetch began.
    pub(super) began: u64,
    /// Where its tags are listed.
    registration: Option<Registration>,
    /// Bits of `marks`.
    marks: AtomicU8,
    /// When it was purged softly, in milliseconds after it was received, and one; 0 if it was not.
    expired_at: AtomicU64,
    /// When the next refresh may begin, in milliseconds after it was received.
    refresh_at: AtomicU64,
    /// For the head and what belongs to it; the body carries its own.
    charge: Charge,
}

/// What has become of an entry.
mod marks {
    /// It is published.
    pub(super) const LIVE: u8 = 1;
    /// It is purged, and not to be served whatever else is said.
    pub(super) const DEAD: u8 = 2;
    /// A purge has counted it as removed.
    pub(super) const REMOVED: u8 = 4;
    /// A purge has counted it as expired.
    pub(super) const EXPIRED: u8 = 8;
}

impl Head {
    pub fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.received)
    }

    /// Seconds until it is stale, negative afterwards.
    pub fn ttl(&self, now: Instant) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        seconds(self.terms.lifetime).saturating_sub(seconds(self.age(now)))
    }

    pub fn is_fresh(&self, now: Instant) -> bool {
        !self.terms.revalidate_always && self.age(now) < self.terms.lifetime
    }

    /// Length of its text and index, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let own =
            self.own_control.as_ref().map_or(0, |value| size_of::<HeaderValue>() + value.len());
        (self.fields.bytes() + own) as u64 + self.tags.len() as u64 * TAG_BYTES
    }

    /// Takes over the fields of an answer that confirmed this response (RFC 9111 §3.2); its cookies
    /// only where cookies are stored.
    pub fn freshened(&self, update: &HeaderMap, with_cookies: bool) -> HeaderMap {
        let mut headers = self.fields.to_map(update.len());
        let had_tag = headers.contains_key(ETAG);
        for name in update.keys() {
            // The tag is the same one, but for its strength.
            let stays = stays(name) || (*name == SET_COOKIE && !with_cookies);
            if stays || (*name == ETAG && had_tag) {
                continue;
            }
            headers.remove(name);
            for value in update.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers
    }
}

/// Whether a field of a 200 belongs to the 304 in its place (RFC 9110 §15.4.5): those that guide
/// caches do, those that describe the body do not.
pub fn is_of_not_modified(name: &HeaderName) -> bool {
    const KEPT: [HeaderName; 6] = [CACHE_CONTROL, CONTENT_LOCATION, DATE, ETAG, EXPIRES, VARY];
    !name.as_str().starts_with("content-") || KEPT.contains(name)
}

/// Fields that a confirmation does not replace. `Content-Length` must not (RFC 9111 §3.2); the
/// coding, range and digest belong to the very bytes that are stored, and are what §3.2 lets a
/// cache keep that depends on them.
fn stays(name: &HeaderName) -> bool {
    matches!(name.as_str(), "content-length" | "content-encoding" | "content-range" | "content-md5")
}

impl Entry {
    pub fn new(head: Head, body: StoredBody, charge: Charge) -> Self {
        Self {
            head,
            body,
            renditions: OnceLock::new(),
            began: 0,
            registration: None,
            marks: AtomicU8::new(0),
            expired_at: AtomicU64::new(0),
            refresh_at: AtomicU64::new(0),
            charge,
        }
    }

    /// Of a fetch that began at this epoch, with its tags entered.
    pub(super) fn registered(self, began: u64, registration: Option<Registration>) -> Self {
        Self { began, registration, ..self }
    }

    /// With the body of this one, and its codings, and another head.
    pub(super) fn with_head(&self, head: Head, charge: Charge) -> Self {
        let renditions = if head.may_code { self.renditions.clone() } else { OnceLock::new() };
        Self { renditions, ..Self::new(head, self.body.clone(), charge) }
    }

    /// The codings of its body. `None` where it may not be sent in one, or there is no room to
    /// remember any.
    pub fn renditions(&self, cache: &Cache) -> Option<&Arc<Renditions>> {
        if !self.head.may_code || self.body.bytes() < BODY_BYTES_MIN {
            return None;
        }
        if let Some(renditions) = self.renditions.get() {
            return Some(renditions);
        }
        let charge = cache.store.reserve(RENDITIONS_BYTES)?;
        Some(self.renditions.get_or_init(|| Arc::new(Renditions::new(charge))))
    }

    /// The same, if somebody has asked for one before.
    pub fn known_renditions(&self) -> Option<&Renditions> {
        self.renditions.get().map(|renditions| &**renditions)
    }

    /// Takes the right to begin a refresh, if nobody has had it a moment ago: an origin that fails
    /// at once is not asked again by every request.
    pub fn claim_refresh(&self, now: Instant) -> bool {
        let now = self.millis(now);
        let at = self.refresh_at.load(Ordering::Relaxed);
        let next = now.saturating_add(u64::try_from(REFRESH_INTERVAL.as_millis()).unwrap_or(0));
        now >= at
            && self
                .refresh_at
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Milliseconds after it was received.
    fn millis(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.head.received);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it is published and not purged.
    pub fn is_live(&self) -> bool {
        self.marks.load(Ordering::Acquire) & (marks::LIVE | marks::DEAD) == marks::LIVE
    }

    pub(super) fn publish(&self) {
        self.marks.fetch_or(marks::LIVE, Ordering::Release);
    }

    /// Purges it; false if a purge of this kind or a harder one has counted it before.
    pub(super) fn purge(&self, mode: Mode, now: Instant) -> bool {
        let counted = match mode {
            Mode::Remove => marks::REMOVED,
            Mode::Expire => marks::EXPIRED,
        };
        self.mark(mode, now);
        let before = self.marks.fetch_or(counted, Ordering::AcqRel);
        before & (counted | marks::REMOVED) == 0
    }

    /// The same without counting it.
    pub(super) fn mark(&self, mode: Mode, now: Instant) {
        match mode {
            Mode::Remove => {
                self.marks.fetch_or(marks::DEAD, Ordering::AcqRel);
            }
            Mode::Expire => {
                let now = self.millis(now).saturating_add(1);
                let _ =
                    self.expired_at.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    /// When it was purged softly.
    pub fn expired(&self) -> Option<Instant> {
        let at = self.expired_at.load(Ordering::Acquire).checked_sub(1)?;
        self.head.received.checked_add(Duration::from_millis(at))
    }

    /// Whether it may be used without asking the origin.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.head.is_fresh(now) && self.expired_at.load(Ordering::Acquire) == 0
    }

    /// How long it has been stale; `None` while it is fresh.
    pub(super) fn past_end(&self, now: Instant) -> Option<Duration> {
        let purged = self.expired().map(|at| now.saturating_duration_since(at));
        let past = self.head.age(now).checked_sub(self.head.terms.lifetime);
        purged.max(past)
    }

    /// Seconds until it is stale, negative afterwards.
    pub fn ttl(&self, now: Instant) -> i64 {
        let ttl = self.head.ttl(now);
        self.expired().map_or(ttl, |at| {
            let since = now.saturating_duration_since(at).as_secs();
            ttl.min(i64::try_from(since).map_or(i64::MIN, |since| -since))
        })
    }

    /// Whether this is the entry that an index knows so.
    pub(super) fn is_registered_as(&self, tagged: &Arc<Tagged>) -> bool {
        self.registration.as_ref().is_some_and(|registration| registration.is_of(tagged))
    }

    /// What the entry holds in the store, in bytes.
    pub(super) fn weight(&self) -> u64 {
        self.charge.bytes() + self.body.bytes()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http::header::CONTENT_LENGTH;

    use super::*;
    use crate::cache::testing::head;
    use crate::memory::Memory;

    #[test]
    fn age_counts_from_the_origin_and_freshness_ends_with_the_lifetime() {
        let head = head(10);
        let at = |seconds| head.received + Duration::from_secs(seconds);
        assert_eq!(head.age(at(3)).as_secs(), 8);
        assert_eq!(head.ttl(at(3)), 2);
        assert!(head.is_fresh(at(4)));
        assert!(!head.is_fresh(at(5)));
        assert_eq!(head.ttl(at(8)), -3);
    }

    #[test]
    fn what_must_always_be_revalidated_is_never_fresh() {
        let mut head = head(10);
        head.terms.revalidate_always = true;
        assert!(!head.is_fresh(head.received));
    }

    #[test]
    fn a_304_describes_no_body() {
        let fields = head(1).fields;
        let text = Bytes::copy_from_slice(fields.values());
        let headers = fields.map_over(&text, 0, is_of_not_modified);
        assert!(headers.contains_key(ETAG));
        assert!(!headers.contains_key("content-type"));
        assert!(!headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn a_confirmation_replaces_fields_but_not_those_of_the_body() {
        let mut update = HeaderMap::new();
        update.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        update.insert("content-encoding", HeaderValue::from_static("gzip"));
        update.insert("content-type", HeaderValue::from_static("text/html"));
        update.insert("set-cookie", HeaderValue::from_static("a=b"));
        update.append("x-a", HeaderValue::from_static("1"));
        update.append("x-a", HeaderValue::from_static("2"));
        let headers = head(1).freshened(&update, false);
        assert_eq!(headers[CONTENT_LENGTH], "3");
        assert_eq!(headers["content-type"], "text/html");
        assert!(!headers.contains_key("content-encoding"));
        assert!(!headers.contains_key("set-cookie"));
        assert_eq!(head(1).freshened(&update, true)["set-cookie"], "a=b");
        assert_eq!(headers.get_all("x-a").iter().count(), 2);
        assert_eq!(headers[ETAG], "\"a\"");
    }

    #[test]
    fn refreshes_of_one_response_keep_a_distance() {
        let response = head(1);
        let at = |millis| response.received + Duration::from_millis(millis);
        let charge = Memory::new(1 << 20).charge(1).unwrap();
        let entry = Entry::new(response.clone(), StoredBody::new(Vec::new(), ()), charge);
        assert!(entry.claim_refresh(at(10)));
        assert!(!entry.claim_refresh(at(259)));
        assert!(entry.claim_refresh(at(260)));
    }
}
