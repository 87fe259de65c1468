//! Entity tags from the bytes of files.
//!
//! A file of up to [`DIGESTED_BYTES_MAX`] is read once for its digest, which is kept for as long
//! as the file is in the same state. A larger one would keep its first client waiting: its tag is
//! made of its times and its size instead, and replicas do not agree on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;

use super::version::{Identity, Source};
use crate::error::Error;

/// The largest file that is read for its tag, in bytes.
const DIGESTED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// One read.
const CHUNK_BYTES: usize = 128 * 1024;
/// Digests that are kept, about 100 bytes each.
const DIGESTS_MAX: usize = 65_536;
/// Bytes of a digest that a tag is made of.
const TAG_BYTES: usize = 16;
/// The clock of a file system ticks: a file that changed this recently may change again without
/// another time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

type Digest = [u8; TAG_BYTES];

/// The digests of files, for all folders of the process.
#[derive(Debug)]
pub(super) struct Tags {
    digests: Cache<Identity, Digest>,
}

impl Default for Tags {
    fn default() -> Self {
        Self { digests: Cache::new(DIGESTS_MAX) }
    }
}

impl Tags {
    /// The opaque part of a file's entity tag. Blocks.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(super) fn of(
        &self,
        source: &Source,
        identity: Identity,
        now: SystemTime,
    ) -> Result<String, Error> {
        if identity.bytes > DIGESTED_BYTES_MAX {
            let Identity { modified_ns, changed_ns, bytes, .. } = identity;
            return Ok(format!("{modified_ns:x}-{bytes:x}-{changed_ns:x}"));
        }
        let digest = match self.digests.get(&identity) {
            Some(digest) => digest,
            None => {
                let digest = digest(source)?;
                if is_settled(&identity, now) {
                    self.digests.insert(identity, digest);
                }
                digest
            }
        };
        Ok(URL_SAFE_NO_PAD.encode(digest))
    }
}

fn is_settled(identity: &Identity, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(now.saturating_sub(SETTLED_AFTER).as_nanos())
        .is_ok_and(|settled| identity.changed_ns < settled)
}

fn digest(source: &Source) -> Result<Digest, Error> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK_BYTES.min(source.bytes() as usize)];
    let mut offset = 0;
    while offset < source.bytes() {
        let bytes = (source.bytes() - offset).min(chunk.len() as u64);
        let part = &mut chunk[..bytes as usize];
        source.read(part, offset)?;
        context.update(part);
        offset += bytes;
    }
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&context.finish().as_ref()[..TAG_BYTES]);
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::super::testing::TempDir;
    use super::super::version::Version;
    use super::*;
    use crate::compress::Coding;

    fn etag(tags: &Tags, path: &std::path::Path, coding: Option<Coding>) -> String {
        let file = std::fs::File::open(path).expect("opens");
        let version = Version::of(&file.metadata().expect("is open"));
        // Later than any test takes, so that digests are kept.
        let now = SystemTime::now() + Duration::from_secs(60);
        let validators = Source::new(file, version).validators(tags, coding, now);
        validators.expect("reads").etag.to_str().expect("is text").to_owned()
    }

    #[test]
    fn files_of_one_time_and_length_have_tags_of_their_bytes() {
        let dir = TempDir::new();
        let tags = Tags::default();
        let at = UNIX_EPOCH + Duration::from_secs(1);
        let [one, two, same] = [("a/x", "version=1"), ("b/x", "version=2"), ("c/x", "version=1")]
            .map(|(path, text)| etag(&tags, &dir.write_at(path, text, at), None));
        assert_ne!(one, two);
        assert_eq!(one, same, "replicas agree");
    }

    #[test]
    fn a_file_that_is_written_over_in_place_gets_another_tag() {
        let dir = TempDir::new();
        let tags = Tags::default();
        let at = UNIX_EPOCH + Duration::from_secs(1);
        let mut seen = Vec::new();
        for text in ["version=1", "version=2", ""] {
            let path = dir.write_at("x", text, at);
            let tag = etag(&tags, &path, None);
            assert!(!seen.contains(&tag), "{text}");
            seen.push(tag);
            // The next write is in another tick of the file system's clock.
            let changed = Identity::of(&path.metadata().expect("is there")).changed_ns;
            while Identity::of(&dir.write_at("y", "", at).metadata().expect("is there")).changed_ns
                == changed
            {}
        }
    }

    #[test]
    fn codings_have_tags_of_their_own() {
        let dir = TempDir::new();
        let path = dir.write_at("x", "text", UNIX_EPOCH);
        let tags = Tags::default();
        let [plain, coded] = [None, Some(Coding::Brotli)].map(|it| etag(&tags, &path, it));
        assert_eq!(coded, format!("{}-br\"", plain.trim_end_matches('"')));
    }

    #[test]
    fn a_large_file_has_a_tag_of_its_times() {
        let dir = TempDir::new();
        let path = dir.write("x", "");
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        file.set_len(DIGESTED_BYTES_MAX + 1).expect("grows");
        let tags = Tags::default();
        let tag = etag(&tags, &path, None);
        assert!(tag.contains("-1000001-"), "{tag}");
        assert_eq!(tags.digests.len(), 0);
    }

    #[test]
    fn a_digest_of_a_file_that_has_just_changed_is_not_kept() {
        let dir = TempDir::new();
        let path = dir.write("x", "text");
        let file = std::fs::File::open(&path).expect("opens");
        let version = Version::of(&file.metadata().expect("is open"));
        let tags = Tags::default();
        let source = Source::new(file, version);
        source.validators(&tags, None, SystemTime::now()).expect("reads");
        assert_eq!(tags.digests.len(), 0);
    }
}
