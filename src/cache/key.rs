//! What an object is stored under.
//!
//! A key is a sequence of parts, each with its length before it, so that no two different
//! sequences are the same bytes. Its hash is computed once, with a secret of the process, and
//! serves the store, the table of flights and their shards alike.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::RandomState;

/// An owned key.
#[derive(Clone)]
pub struct Key {
    hash: u64,
    bytes: Arc<[u8]>,
}

/// A key built in a buffer that is used again for the next request.
#[derive(Debug, Clone, Copy)]
pub struct KeyRef<'a> {
    hash: u64,
    bytes: &'a [u8],
}

/// Collects the parts of a key.
#[derive(Debug, Default)]
pub struct KeyBuffer {
    bytes: Vec<u8>,
}

/// Hashes keys with a secret that is new in each process: clients choose the keys.
#[derive(Debug, Clone, Default)]
pub struct KeyHasher(RandomState);

/// The parts of a key, as far as they are of its URL.
#[derive(Debug, Clone, Copy)]
pub(super) struct UrlParts<'a> {
    pub(super) host: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) query: Option<&'a [u8]>,
    /// Further parts, with their lengths.
    pub(super) rest: &'a [u8],
}

impl KeyHasher {
    /// The hash of something that is no key; `kind` tells such things apart.
    pub(super) fn hash(&self, kind: u8, bytes: &[u8]) -> u64 {
        self.0.hash_one((kind, bytes))
    }
}

/// The key of a URL before what it varies on: the one order of the parts that look-ups and purges
/// share. Host and path are in their normal forms, the query is as it was sent.
pub fn primary<'a>(
    host: &str,
    path: &str,
    query: Option<&str>,
    buffer: &'a mut KeyBuffer,
    hasher: &KeyHasher,
) -> KeyRef<'a> {
    buffer.clear();
    buffer.part(host.as_bytes()).part(path.as_bytes()).optional(query.map(str::as_bytes));
    buffer.key(hasher)
}

impl KeyBuffer {
    pub fn clear(&mut self) -> &mut Self {
        self.bytes.clear();
        self
    }

    /// Adds a part; longer ones than 4 GiB cannot come from a request.
    pub fn part(&mut self, part: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(part);
        self
    }

    /// Adds a part that is optional; none differs from an empty one.
    pub fn optional(&mut self, part: Option<&[u8]>) -> &mut Self {
        match part {
            Some(part) => self.part(part),
            None => {
                self.bytes.extend_from_slice(&u32::MAX.to_le_bytes());
                self
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds parts that have their lengths.
    pub(super) fn parts(&mut self, parts: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(parts);
        self
    }

    pub fn key<'a>(&'a self, hasher: &KeyHasher) -> KeyRef<'a> {
        KeyRef { hash: hasher.0.hash_one(self.bytes.as_slice()), bytes: &self.bytes }
    }

    /// Starts with the parts of `key`, to add more.
    pub fn start_with(&mut self, key: KeyRef<'_>) {
        self.bytes.clear();
        self.bytes.extend_from_slice(key.bytes);
    }
}

impl<'a> KeyRef<'a> {
    /// Takes the key of a URL apart; `None` for one that is none.
    pub(super) fn url(self) -> Option<UrlParts<'a>> {
        let (host, rest) = next_part(self.bytes)?;
        let (path, rest) = next_part(rest)?;
        let (query, rest) = next_part(rest)?;
        Some(UrlParts { host: host?, path: path?, query, rest })
    }
}

impl KeyRef<'_> {
    pub fn to_owned(self) -> Key {
        Key { hash: self.hash, bytes: self.bytes.into() }
    }

    pub fn hash(self) -> u64 {
        self.hash
    }
}

impl Key {
    /// A key of no request, with this hash.
    pub(super) fn ballast(hash: u64) -> Self {
        Self { hash, bytes: Arc::from([]) }
    }

    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { hash: self.hash, bytes: &self.bytes }
    }

    /// Length of the parts with their lengths, in bytes.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The parts, for showing; parts that are no text are shown with replacements.
    pub fn parts(&self) -> Vec<Option<String>> {
        let mut parts = Vec::new();
        let mut rest: &[u8] = &self.bytes;
        while let Some((part, tail)) = next_part(rest) {
            parts.push(part.map(|part| String::from_utf8_lossy(part).into_owned()));
            rest = tail;
        }
        parts
    }
}

/// The first part, and what follows.
fn next_part(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, tail) = bytes.split_first_chunk::<4>()?;
    match u32::from_le_bytes(*length) {
        u32::MAX => Some((None, tail)),
        length => tail.split_at_checked(length as usize).map(|(part, tail)| (Some(part), tail)),
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl equivalent::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.hash == key.hash && *self.bytes == *key.bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.parts()).finish()
    }
}

/// Passes on the hash that a key already carries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CarriedHash(u64);

impl Hasher for CarriedHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Keys write exactly one `u64`; anything else still gets a usable hash.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

impl BuildHasher for CarriedHash {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> Key {
        let hasher = KeyHasher(RandomState::default());
        let mut buffer = KeyBuffer::default();
        for part in parts {
            buffer.part(part.as_bytes());
        }
        buffer.key(&hasher).to_owned()
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        assert_ne!(key(&["ab", "c"]).bytes, key(&["a", "bc"]).bytes);
        assert_eq!(key(&["ab", "c"]).parts(), [Some("ab".into()), Some("c".into())]);
    }

    #[test]
    fn an_absent_part_differs_from_an_empty_one() {
        let mut absent = KeyBuffer::default();
        absent.optional(None);
        let mut empty = KeyBuffer::default();
        empty.optional(Some(b""));
        assert_ne!(absent.bytes, empty.bytes);
    }

    #[test]
    fn the_key_of_a_url_can_be_taken_apart() {
        let hasher = KeyHasher::default();
        let mut buffer = KeyBuffer::default();
        primary("h", "/p", Some("q"), &mut buffer, &hasher);
        buffer.part(b"more");
        let parts = buffer.key(&hasher).url().expect("a URL");
        assert_eq!((parts.host, parts.path, parts.query), (&b"h"[..], &b"/p"[..], Some(&b"q"[..])));
        assert_eq!(parts.rest.len(), 8);
        let without = primary("h", "/p", None, &mut buffer, &hasher).url().expect("a URL");
        assert_eq!(without.query, None);
        assert!(key(&["h", "/p"]).as_ref().url().is_none());
    }

    #[test]
    fn a_borrowed_key_finds_the_owned_one() {
        let hasher = KeyHasher::default();
        let mut buffer = KeyBuffer::default();
        buffer.part(b"example.com").part(b"/");
        let owned = buffer.key(&hasher).to_owned();
        let mut map = std::collections::HashMap::with_hasher(CarriedHash::default());
        map.insert(owned.clone(), 1);
        assert_eq!(map.get(&owned), Some(&1));
        assert!(equivalent::Equivalent::equivalent(&buffer.key(&hasher), &owned));
    }
}
