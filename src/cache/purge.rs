//! Purges, and what they mean for fetches that began before them.
//!
//! A purge first takes an epoch and notes it where later fetches look: for URLs and tags in a table
//! of stripes, which remembers for ever and forgets nothing but what shared a stripe; for what
//! covers many URLs in a log. Then it marks what is stored. Whatever is published afterwards
//! compares the epoch at which it began with both, so that an acknowledged purge can never be
//! undone by a slower fetch.
//!
//! Marking is what counts: every hit reads the mark. For URLs and tags the entries are found by
//! their keys. What covers many URLs is put on a short list that hits look at while a walk over
//! the store marks them one by one. Memory is freed after that.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::entry::Entry;
use super::key::{Key, KeyBuffer, KeyHasher, KeyRef, UrlParts};
use super::key_spec::tag_of_url;
use super::store::Slot;
use super::tags::Tag;
use super::{Cache, Marks};

/// Broad purges that are remembered; a fetch that began before the oldest of them is taken to be
/// hit.
const LOG_MAX: usize = 4096;
/// Places in the table of URLs and tags. A purge condemns what shares its place as well: with a
/// thousand purges a second, one in sixty of the fetches that take a second is not stored.
const STRIPES: usize = 1 << 16;
/// Broad purges whose walks may run at a time.
const WALKS_MAX: usize = 1024;
/// Kinds of hashes in the table.
const URL: u8 = b'U';
const PATH: u8 = b'P';

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One URL with all its variants.
    Url(UrlTarget),
    Tag(Tag),
    Broad(Broad),
}

/// A URL, in normal form, with every form that its query has in a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTarget {
    pub host: String,
    pub path: String,
    pub queries: Vec<Option<String>>,
}

/// What a purge did.
#[derive(Debug)]
#[must_use = "dropping it frees memory, which takes as long as the purge itself"]
pub struct Purged {
    /// Variants, by target.
    pub counts: Vec<u64>,
    /// Nobody finds them any more.
    pub removed: Vec<Removed>,
}

impl Purged {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// An entry that is no longer stored. Its memory is freed when it is dropped.
#[derive(Debug)]
pub struct Removed {
    _entry: Arc<Entry>,
}

/// What covers many URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broad {
    /// A host and path, with every query.
    Path {
        host: String,
        path: String,
    },
    /// All paths of a host that begin so.
    Prefix {
        host: String,
        path: String,
    },
    Host(String),
    All,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is gone.
    Remove,
    /// It is stale: served while it is fetched anew, or where that fails.
    Expire,
}

/// Too many purges that cover many URLs are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyPurges;

impl Target {
    /// The label of metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Broad(Broad::Path { .. }) => "url",
            Self::Tag(_) => "tag",
            Self::Broad(Broad::Prefix { .. }) => "prefix",
            Self::Broad(Broad::Host(_)) => "host",
            Self::Broad(Broad::All) => "all",
        }
    }
}

impl Broad {
    fn covers(&self, url: &UrlParts<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Host(host) => url.host == host.as_bytes(),
            Self::Path { host, path } => url.host == host.as_bytes() && url.path == path.as_bytes(),
            Self::Prefix { host, path } => {
                url.host == host.as_bytes() && url.path.starts_with(path.as_bytes())
            }
        }
    }
}

/// Purges by their epochs.
#[derive(Debug)]
pub(super) struct PurgeLog {
    /// Of the last purge.
    epoch: AtomicU64,
    /// Of the last purge of what falls into a place.
    stripes: Box<[AtomicU64]>,
    /// Of the last broad purge.
    broad_epoch: AtomicU64,
    /// In the order of their epochs.
    recent: Mutex<Vec<(u64, Broad)>>,
    /// Of what the store has not been walked for yet.
    walks: ArcSwap<Vec<Walk>>,
    walking: AtomicUsize,
}

/// A broad purge whose walk is under way.
#[derive(Debug, Clone)]
struct Walk {
    epoch: u64,
    target: Broad,
    mode: Mode,
}

impl Default for PurgeLog {
    fn default() -> Self {
        Self {
            epoch: AtomicU64::new(0),
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            broad_epoch: AtomicU64::new(0),
            recent: Mutex::default(),
            walks: ArcSwap::default(),
            walking: AtomicUsize::new(0),
        }
    }
}

impl PurgeLog {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn stripe(&self, hash: u64) -> &AtomicU64 {
        &self.stripes[(hash >> 32) as usize % STRIPES]
    }

    fn strike(&self, hash: u64) {
        let epoch = self.next_epoch();
        self.stripe(hash).fetch_max(epoch, Ordering::AcqRel);
    }

    /// Whether a purge that came after `began` covers a response for the URL of `key`.
    pub(super) fn condemns(
        &self,
        began: u64,
        key: KeyRef<'_>,
        marks: Option<&Marks>,
        hasher: &KeyHasher,
    ) -> bool {
        if self.epoch() == began {
            return false;
        }
        let struck = |hash: u64| self.stripe(hash).load(Ordering::Acquire) > began;
        let Some(url) = key.url() else { return true };
        struck(url_hash(&url, hasher))
            || marks.is_some_and(|marks| {
                (marks.by_search && struck(path_hash(&url, hasher)))
                    || marks.tags.iter().any(|tag| struck(tag.hash()))
            })
            || self.condemns_broadly(began, &url)
    }

    fn condemns_broadly(&self, began: u64, url: &UrlParts<'_>) -> bool {
        if self.broad_epoch.load(Ordering::Acquire) <= began {
            return false;
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_complete =
            recent.len() < LOG_MAX || recent.first().is_some_and(|it| it.0 <= began + 1);
        !is_complete
            || recent
                .iter()
                .rev()
                .take_while(|(epoch, _)| *epoch > began)
                .any(|(_, target)| target.covers(url))
    }

    /// Enters broad purges; from now on they condemn what began earlier, and hits look at them.
    fn enter(&self, targets: &[&Broad], mode: Mode) -> Result<Vec<u64>, TooManyPurges> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut walks = (**self.walks.load()).clone();
        if walks.len() + targets.len() > WALKS_MAX {
            return Err(TooManyPurges);
        }
        let mut epochs = Vec::with_capacity(targets.len());
        for target in targets {
            let (epoch, target) = (self.next_epoch(), Broad::clone(target));
            if recent.len() == LOG_MAX {
                recent.remove(0);
            }
            recent.push((epoch, target.clone()));
            self.broad_epoch.fetch_max(epoch, Ordering::AcqRel);
            walks.push(Walk { epoch, target, mode });
            epochs.push(epoch);
        }
        self.walking.store(walks.len(), Ordering::Release);
        self.walks.store(Arc::new(walks));
        Ok(epochs)
    }

    /// The store has been walked for these.
    fn walked(&self, epochs: &[u64]) {
        let _recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut walks = (**self.walks.load()).clone();
        walks.retain(|walk| !epochs.contains(&walk.epoch));
        self.walking.store(walks.len(), Ordering::Release);
        self.walks.store(Arc::new(walks));
    }

    /// Marks an entry that a walk has yet to come to; the walk counts it.
    pub(super) fn overtake(&self, key: KeyRef<'_>, entry: &Entry) {
        if self.walking.load(Ordering::Acquire) == 0 {
            return;
        }
        let Some(url) = key.url() else { return };
        for walk in self.walks.load().iter() {
            if walk.epoch > entry.began && walk.target.covers(&url) {
                entry.mark(walk.mode, Instant::now());
            }
        }
    }
}

fn url_hash(url: &UrlParts<'_>, hasher: &KeyHasher) -> u64 {
    let mut buffer = KeyBuffer::default();
    buffer.part(url.host).part(url.path).optional(url.query);
    hasher.hash(URL, buffer.bytes())
}

fn path_hash(url: &UrlParts<'_>, hasher: &KeyHasher) -> u64 {
    let mut buffer = KeyBuffer::default();
    buffer.part(url.host).part(url.path);
    hasher.hash(PATH, buffer.bytes())
}

impl Cache {
    /// Purges what the targets cover, and condemns what is on its way; how many stored variants it
    /// were, by target. After the return no later request sees any of them as it was.
    ///
    /// Broad targets take one walk over the store: not for a thread that serves requests.
    pub fn purge(&self, targets: &[Target], mode: Mode) -> Result<Purged, TooManyPurges> {
        let mut removed = Vec::new();
        let broad: Vec<&Broad> = targets
            .iter()
            .filter_map(|target| match target {
                Target::Broad(broad) => Some(broad),
                _ => None,
            })
            .collect();
        let mut walked = self.walk(&broad, mode, &mut removed)?.into_iter();
        let counts = targets.iter().map(|target| {
            let count = match target {
                Target::Url(url) => self.purge_url(url, mode, &mut removed),
                Target::Tag(tag) => {
                    self.purges.strike(tag.hash());
                    self.purge_tagged(*tag, mode, &mut removed)
                }
                Target::Broad(_) => walked.next().unwrap_or_default(),
            };
            self.stats.purged(target.kind(), count);
            count
        });
        Ok(Purged { counts: counts.collect(), removed })
    }

    /// Removes what an unsafe request has made out of date (RFC 9111 §4.4).
    pub fn invalidate(&self, url: &UrlTarget) {
        let count = self.purge_url(url, Mode::Remove, &mut Vec::new());
        self.stats.purged("invalidated", count);
    }

    fn purge_url(&self, target: &UrlTarget, mode: Mode, removed: &mut Vec<Removed>) -> u64 {
        let (host, path) = (target.host.as_bytes(), target.path.as_bytes());
        let of = |query| UrlParts { host, path, query, rest: &[] };
        for query in &target.queries {
            let url = of(query.as_deref().map(str::as_bytes));
            self.purges.strike(url_hash(&url, &self.hasher));
        }
        self.purges.strike(path_hash(&of(None), &self.hasher));
        let mut buffer = KeyBuffer::default();
        let mut count = 0;
        let mut purge = |query: Option<&[u8]>| {
            let key = buffer.clear().part(host).part(path).optional(query).key(&self.hasher);
            count += self.purge_key(key, mode);
            let tag = tag_of_url(host, path, query, &self.hasher);
            count += self.purge_tagged(tag, mode, removed);
        };
        let searches = self.searches(host, path);
        for query in &target.queries {
            let query = query.as_deref().map(str::as_bytes);
            purge(query);
            for search in searches.iter().flat_map(|it| it.rules()) {
                purge(Some(&search.form(query)));
            }
        }
        count
    }

    /// Purges what is under a key, with its variants.
    fn purge_key(&self, key: KeyRef<'_>, mode: Mode) -> u64 {
        match self.store.peek(key) {
            Some(Slot::Entry(entry)) => {
                let is_new = entry.purge(mode, Instant::now());
                if mode == Mode::Remove {
                    self.store.remove_entry(key, &entry);
                }
                is_new.into()
            }
            Some(Slot::Variants(variants)) => {
                let keys = variants.keys();
                if mode == Mode::Remove {
                    // Nothing of it is found any more; then its parts go.
                    self.store.remove(key);
                }
                keys.iter().map(|key| self.purge_key(key.as_ref(), mode)).sum()
            }
            Some(Slot::Uncacheable(_)) => {
                self.store.remove(key);
                0
            }
            _ => 0,
        }
    }

    fn purge_tagged(&self, tag: Tag, mode: Mode, removed: &mut Vec<Removed>) -> u64 {
        let now = Instant::now();
        let mut marked = Vec::new();
        for tagged in self.tags.tagged(tag) {
            if let Some(Slot::Entry(entry)) = self.store.peek(tagged.key.as_ref())
                && entry.is_registered_as(&tagged)
                && entry.purge(mode, now)
            {
                marked.push((tagged, entry));
            }
        }
        if mode == Mode::Remove {
            for (tagged, entry) in &marked {
                self.store.remove_entry(tagged.key.as_ref(), entry);
            }
        }
        let count = marked.len() as u64;
        removed.extend(marked.into_iter().map(|(_, entry)| Removed { _entry: entry }));
        count
    }

    /// Purges what broad targets cover; how much of each, where several cover it by the first.
    fn walk(
        &self,
        targets: &[&Broad],
        mode: Mode,
        removed: &mut Vec<Removed>,
    ) -> Result<Vec<u64>, TooManyPurges> {
        let mut counts = vec![0; targets.len()];
        if targets.is_empty() {
            return Ok(counts);
        }
        let epochs = self.purges.enter(targets, mode)?;
        let newest = epochs.last().copied().unwrap_or_default();
        let mut found: Vec<(Key, Option<Arc<Entry>>)> = Vec::new();
        let now = Instant::now();
        self.store.for_each(|key, slot| {
            let Some(url) = key.as_ref().url() else { return };
            let Some(covering) = targets.iter().position(|target| target.covers(&url)) else {
                return;
            };
            let entry = match slot {
                Slot::Entry(entry) if entry.began >= newest => return,
                Slot::Entry(entry) => {
                    counts[covering] += u64::from(entry.purge(mode, now));
                    Some(entry.clone())
                }
                // What is remembered beside entries goes with them.
                _ => None,
            };
            if mode == Mode::Remove {
                found.push((key.clone(), entry));
            }
        });
        self.purges.walked(&epochs);
        for (key, entry) in found {
            match entry {
                Some(entry) => {
                    self.store.remove_entry(key.as_ref(), &entry);
                    removed.push(Removed { _entry: entry });
                }
                None => drop(self.store.remove(key.as_ref())),
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::Lookup;
    use super::super::testing::{cache, fill, head, is_hit, led, lookup, store, url};
    use super::*;

    fn none() -> HeaderMap {
        HeaderMap::new()
    }

    fn url_target(path: &str, query: Option<&str>) -> Target {
        let queries = vec![query.map(str::to_owned)];
        Target::Url(UrlTarget { host: "h".into(), path: path.into(), queries })
    }

    fn prefix(path: &str) -> Target {
        Target::Broad(Broad::Prefix { host: "h".into(), path: path.into() })
    }

    fn purge(cache: &Cache, target: Target) -> u64 {
        cache.purge(&[target], Mode::Remove).expect("few purges").count()
    }

    fn tag(cache: &Cache, tag: &str) -> Target {
        Target::Tag(Tag::new(tag.as_bytes(), &cache.hasher))
    }

    /// Every kind of purge that covers `/a/b?c` with the tag `t`.
    fn covering(cache: &Cache) -> Vec<Target> {
        vec![
            url_target("/a/b", Some("c")),
            tag(cache, "T"),
            Target::Broad(Broad::Path { host: "h".into(), path: "/a/b".into() }),
            prefix("/a/"),
            Target::Broad(Broad::Host("h".into())),
            Target::Broad(Broad::All),
        ]
    }

    /// Kinds that do not.
    fn others(cache: &Cache) -> Vec<Target> {
        vec![
            url_target("/a/b", None),
            url_target("/a", Some("c")),
            tag(cache, "u"),
            Target::Broad(Broad::Path { host: "h".into(), path: "/a".into() }),
            prefix("/b"),
            Target::Broad(Broad::Host("i".into())),
        ]
    }

    const TAGGED: [(&str, &str); 1] = [("cache-tag", "s, t")];

    #[tokio::test]
    async fn a_purge_of_any_kind_removes_what_it_covers_and_nothing_else() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a/b", Some("c"));
        for target in covering(&cache) {
            store(&cache, &key, &none(), &TAGGED).await;
            for other in others(&cache) {
                assert_eq!(purge(&cache, other.clone()), 0, "{other:?}");
            }
            assert!(is_hit(&cache, &key, &none()));
            assert_eq!(purge(&cache, target.clone()), 1, "{target:?}");
            assert!(matches!(lookup(&cache, &key, &none()), Lookup::Absent), "{target:?}");
            assert_eq!(purge(&cache, target), 0);
        }
        assert_eq!((cache.objects(), cache.bytes()), (0, 0));
    }

    #[tokio::test]
    async fn a_fetch_that_began_before_a_purge_of_any_kind_stores_nothing() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a/b", Some("c"));
        for (targets, stores) in [(covering(&cache), false), (others(&cache), true)] {
            for target in targets {
                let lead = led(&cache, &key, &none());
                purge(&cache, target.clone());
                fill(lead, &none(), &TAGGED).await;
                assert_eq!(is_hit(&cache, &key, &none()), stores, "{target:?}");
                purge(&cache, Target::Broad(Broad::All));
            }
        }
    }

    #[tokio::test]
    async fn a_confirmation_that_was_asked_for_before_a_purge_does_not_undo_it() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a/b", Some("c"));
        for target in covering(&cache) {
            store(&cache, &key, &none(), &TAGGED).await;
            let Lookup::Fresh(entry) = lookup(&cache, &key, &none()) else {
                unreachable!("it is stored")
            };
            let lead = led(&cache, &key, &none());
            purge(&cache, target.clone());
            let mut head = head(60);
            head.tags = entry.head.tags.clone();
            lead.confirm(&entry, head, &none());
            assert!(matches!(lookup(&cache, &key, &none()), Lookup::Absent), "{target:?}");
        }
    }

    #[tokio::test]
    async fn who_comes_after_a_purge_does_not_join_a_fetch_that_began_before_it() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a/b", Some("c"));
        let lead = led(&cache, &key, &none());
        purge(&cache, prefix("/a"));
        let second = led(&cache, &key, &none());
        assert!(cache.condemns(lead.flight()) && !cache.condemns(second.flight()));
    }

    #[tokio::test]
    async fn a_soft_purge_of_any_kind_leaves_what_it_covers_stale() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a/b", Some("c"));
        for target in covering(&cache) {
            store(&cache, &key, &none(), &TAGGED).await;
            let purge = || {
                let purged = cache.purge(std::slice::from_ref(&target), Mode::Expire);
                purged.map(|purged| purged.counts)
            };
            assert_eq!(purge(), Ok(vec![1]), "{target:?}");
            assert!(matches!(lookup(&cache, &key, &none()), Lookup::Stale(_)), "{target:?}");
            assert_eq!(purge(), Ok(vec![0]), "{target:?}");
            assert_eq!(self::purge(&cache, target.clone()), 1, "{target:?}");
        }
    }

    #[tokio::test]
    async fn a_url_is_purged_with_its_variants_and_with_queries_that_make_no_difference() {
        let cache = cache(8 << 20);
        for language in ["en", "de"] {
            let value = http::HeaderValue::from_static(language);
            let request = [(http::header::ACCEPT_LANGUAGE, value)].into_iter().collect();
            let key = url(&cache, "/v", None);
            store(&cache, &key, &request, &[("vary", "accept-language")]).await;
        }
        assert_eq!(purge(&cache, url_target("/v", None)), 2);
        let says = [("no-vary-search", "params=(\"utm\")")];
        store(&cache, &url(&cache, "/p", Some("id=1&utm=a")), &none(), &says).await;
        assert_eq!(purge(&cache, url_target("/p", Some("id=2"))), 0);
        assert_eq!(purge(&cache, url_target("/p", Some("utm=b&id=1"))), 1);
        // Nobody knew yet, when the purge came, that the two queries are the same.
        let lead = led(&cache, &url(&cache, "/q", Some("utm=a")), &none());
        purge(&cache, url_target("/q", Some("utm=b")));
        fill(lead, &none(), &says).await;
        assert!(!is_hit(&cache, &url(&cache, "/q", Some("utm=b")), &none()));
    }

    #[tokio::test]
    async fn a_purge_covers_variants_whose_set_was_forgotten() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/v", None);
        let asking = |language: &'static str| -> HeaderMap {
            let value = http::HeaderValue::from_static(language);
            [(http::header::ACCEPT_LANGUAGE, value)].into_iter().collect()
        };
        let vary = [("vary", "accept-language")];
        store(&cache, &key, &asking("en"), &vary).await;
        // As an eviction would.
        cache.store.remove(key.as_ref());
        purge(&cache, url_target("/v", None));
        store(&cache, &key, &asking("fr"), &vary).await;
        assert!(is_hit(&cache, &key, &asking("fr")));
        assert!(!is_hit(&cache, &key, &asking("en")));
    }

    #[tokio::test]
    async fn hits_look_at_a_purge_whose_walk_has_not_come_to_them() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a", None);
        store(&cache, &key, &none(), &[]).await;
        let all = Broad::All;
        let epochs = cache.purges.enter(&[&all], Mode::Remove).expect("few purges");
        assert!(matches!(lookup(&cache, &key, &none()), Lookup::Absent));
        store(&cache, &key, &none(), &[]).await;
        assert!(is_hit(&cache, &key, &none()), "it is newer than the purge");
        cache.purges.walked(&epochs);
        assert_eq!(cache.purges.walking.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_unsafe_request_takes_what_is_stored_away() {
        let cache = cache(8 << 20);
        let key = url(&cache, "/a", Some("b"));
        store(&cache, &key, &none(), &[]).await;
        let queries = vec![Some("b".to_owned()), None];
        cache.invalidate(&UrlTarget { host: "h".into(), path: "/a".into(), queries });
        assert!(!is_hit(&cache, &key, &none()));
    }

    #[test]
    fn walks_under_way_are_bounded() {
        let log = PurgeLog::default();
        let all = Broad::All;
        let many: Vec<&Broad> = std::iter::repeat_n(&all, WALKS_MAX).collect();
        let epochs = log.enter(&many, Mode::Remove).expect("as many as may be");
        assert_eq!(log.enter(&[&all], Mode::Remove), Err(TooManyPurges));
        log.walked(&epochs);
        assert!(log.enter(&[&all], Mode::Remove).is_ok());
    }

    #[test]
    fn what_began_before_the_memory_of_the_log_is_condemned() {
        let log = PurgeLog::default();
        let hasher = KeyHasher::default();
        let mut buffer = KeyBuffer::default();
        let key = super::super::key::primary("h", "/a", None, &mut buffer, &hasher);
        let other = Broad::Host("i".into());
        for _ in 0..=LOG_MAX {
            let epochs = log.enter(&[&other], Mode::Remove).expect("one at a time");
            log.walked(&epochs);
        }
        assert!(log.condemns(0, key, None, &hasher));
        assert!(!log.condemns(1, key, None, &hasher));
    }
}
