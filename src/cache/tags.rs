//! Which stored responses carry a tag, for purges.
//!
//! An entry that has tags holds a `Registration`; for each tag there is a posting in the list of
//! that tag, and the entry knows where. So a list is found at once, and a posting goes with its
//! entry in constant time, however long the list is. Tags are known by their keyed hashes only: a
//! collision would purge too much, which is harmless, and needs the process's secret to be made.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderName};

use super::key::{CarriedHash, Key, KeyHasher};

/// Lists are spread over this many locks.
const SHARDS: usize = 64;
/// Tags that one response may have; one with more is not stored, because it could not be purged.
pub const TAGS_MAX: usize = 1024;
/// What a tag of an entry costs, in bytes: a posting, its place, and its share of the index.
pub(super) const TAG_BYTES: u64 = 72;

const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// A tag's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    /// Tags are compared without regard to case.
    pub fn new(tag: &[u8], hasher: &KeyHasher) -> Self {
        Self(hasher.hash(b't', &tag.to_ascii_lowercase()))
    }

    /// A tag that no response can carry by itself, for the cache's own use.
    pub(super) fn own(kind: u8, bytes: &[u8], hasher: &KeyHasher) -> Self {
        Self(hasher.hash(kind, bytes))
    }

    pub(super) fn hash(self) -> u64 {
        self.0
    }
}

/// The tags of a response: those of `Cache-Tag`, a list, those of `Surrogate-Key`, parted by
/// spaces, and those that its route adds. Sorted, each once.
pub fn tags_of(headers: &HeaderMap, of_route: &[String], hasher: &KeyHasher) -> Vec<Tag> {
    let lists = headers.get_all(CACHE_TAG);
    let listed = lists.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let keys = headers.get_all(SURROGATE_KEY);
    let spaced = keys.iter().flat_map(|line| line.as_bytes().split(u8::is_ascii_whitespace));
    let mut tags: Vec<Tag> = listed
        .chain(spaced)
        .map(<[u8]>::trim_ascii)
        .filter(|tag| !tag.is_empty())
        .chain(of_route.iter().map(String::as_bytes))
        // One more than may be, so that it shows.
        .take(TAGS_MAX + 1)
        .map(|tag| Tag::new(tag, hasher))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Lists of entries by tag.
#[derive(Debug)]
pub(super) struct TagIndex {
    shards: Box<[Mutex<Lists>]>,
}

type Lists = HashMap<u64, Vec<Posting>, CarriedHash>;

/// An entry in the list of one of its tags.
#[derive(Debug)]
struct Posting {
    tagged: Arc<Tagged>,
    /// Which of its tags.
    tag: u32,
}

/// What the index knows of an entry.
#[derive(Debug)]
pub(super) struct Tagged {
    pub(super) key: Key,
    tags: Box<[Position]>,
}

#[derive(Debug)]
struct Position {
    tag: Tag,
    /// In the list of the tag; read and written under its lock.
    at: AtomicU32,
}

/// Keeps an entry in the lists of its tags.
#[derive(Debug)]
pub(super) struct Registration {
    index: Arc<TagIndex>,
    tagged: Arc<Tagged>,
}

impl TagIndex {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() })
    }

    /// Enters what is going to be stored under `key`; `None` where it has no tags.
    pub(super) fn register(self: &Arc<Self>, key: &Key, tags: &[Tag]) -> Option<Registration> {
        if tags.is_empty() {
            return None;
        }
        let positions = tags.iter().map(|tag| Position { tag: *tag, at: AtomicU32::new(0) });
        let tagged = Arc::new(Tagged { key: key.clone(), tags: positions.collect() });
        for (position, number) in tagged.tags.iter().zip(0..) {
            let mut lists = self.lists(position.tag);
            let list = lists.entry(position.tag.0).or_default();
            position.at.store(u32::try_from(list.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
            list.push(Posting { tagged: tagged.clone(), tag: number });
        }
        Some(Registration { index: self.clone(), tagged })
    }

    /// What carries a tag now.
    pub(super) fn tagged(&self, tag: Tag) -> Vec<Arc<Tagged>> {
        let lists = self.lists(tag);
        let list = lists.get(&tag.0).map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|posting| posting.tagged.clone()).collect()
    }

    fn remove(&self, position: &Position) {
        let mut lists = self.lists(position.tag);
        let Place::Occupied(mut place) = lists.entry(position.tag.0) else { return };
        let list = place.get_mut();
        let at = position.at.load(Ordering::Relaxed);
        list.swap_remove(at as usize);
        if let Some(moved) = list.get(at as usize) {
            moved.tagged.tags[moved.tag as usize].at.store(at, Ordering::Relaxed);
        }
        if list.is_empty() {
            place.remove();
        } else if list.len() < list.capacity() / 4 {
            list.shrink_to(list.len() * 2);
        }
        if lists.len() < lists.capacity() / 8 {
            let keep = lists.len() * 2;
            lists.shrink_to(keep);
        }
    }

    fn lists(&self, tag: Tag) -> MutexGuard<'_, Lists> {
        // The middle bits: the high and low ones choose places inside the maps.
        let shard = &self.shards[(tag.0 >> 24) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    pub(super) fn is_of(&self, tagged: &Arc<Tagged>) -> bool {
        Arc::ptr_eq(&self.tagged, tagged)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for position in &self.tagged.tags {
            self.index.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::key::KeyBuffer;
    use super::*;

    fn tags(names: &[&str], hasher: &KeyHasher) -> Vec<Tag> {
        names.iter().map(|name| Tag::new(name.as_bytes(), hasher)).collect()
    }

    fn key(name: &str, hasher: &KeyHasher) -> Key {
        KeyBuffer::default().part(name.as_bytes()).key(hasher).to_owned()
    }

    #[test]
    fn tags_come_from_both_fields_and_the_route_in_any_case() {
        let hasher = KeyHasher::default();
        let mut headers = HeaderMap::new();
        headers.append(CACHE_TAG, HeaderValue::from_static("a, B,,c d"));
        headers.append(CACHE_TAG, HeaderValue::from_static("e"));
        headers.append(SURROGATE_KEY, HeaderValue::from_static("A  f\tg"));
        let mut expected = tags(&["a", "b", "c d", "e", "f", "g", "h"], &hasher);
        expected.sort_unstable();
        assert_eq!(tags_of(&headers, &["H".to_owned()], &hasher), expected);
    }

    #[test]
    fn an_entry_leaves_all_its_lists_wherever_it_stands_in_them() {
        let hasher = KeyHasher::default();
        let index = TagIndex::new();
        let names = ["one", "two", "three", "four"];
        let all = Tag::new(b"all", &hasher);
        let mut registrations: Vec<_> = names
            .iter()
            .map(|name| {
                let mut own = tags(&[name], &hasher);
                own.push(all);
                index.register(&key(name, &hasher), &own)
            })
            .collect();
        assert_eq!(index.tagged(all).len(), 4);
        for left in [1, 0, 1, 0] {
            registrations.remove(left);
            let keys: Vec<Key> = index.tagged(all).iter().map(|it| it.key.clone()).collect();
            assert_eq!(keys.len(), registrations.len());
            for registration in registrations.iter().flatten() {
                assert!(keys.contains(&registration.tagged.key));
                let own = registration.tagged.tags[0].tag;
                assert!(registration.is_of(&index.tagged(own)[0]));
            }
        }
        assert!(index.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn without_tags_there_is_nothing_to_register() {
        let hasher = KeyHasher::default();
        assert!(TagIndex::new().register(&key("x", &hasher), &[]).is_none());
    }
}
