//! One version of one file: what tells it from the next, and reading no other.
//!
//! A version is the time of the last change, in nanoseconds, and the size. The inode is
//! deliberately absent: replicas that unpacked the same archive must agree on the tag. A change
//! that keeps the size within one tick of the file system's clock goes unseen.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use super::conditional::Validators;
use super::encoding;
use crate::compress::Coding;
use crate::error::{Error, Kind};

const SECOND_NS: i128 = 1_000_000_000;

/// Differs when the content of a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// Since 1970.
    modified_ns: i128,
    bytes: u64,
}

/// An open file of which one version is being sent.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    version: Version,
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let seconds = i128::from(metadata.mtime());
        let modified_ns = seconds * SECOND_NS + i128::from(metadata.mtime_nsec());
        Self { modified_ns, bytes: metadata.len() }
    }

    pub(super) fn is_older_than(self, other: Self) -> bool {
        self.modified_ns < other.modified_ns
    }

    /// Equal versions in different codings have different tags.
    pub(super) fn validators(
        self,
        coding: Option<Coding>,
        now: SystemTime,
    ) -> Result<Validators, Error> {
        let Self { modified_ns, bytes } = self;
        let etag = match coding {
            None => format!("\"{modified_ns:x}-{bytes:x}\""),
            Some(coding) => {
                format!("\"{modified_ns:x}-{bytes:x}-{}\"", encoding::extension(coding))
            }
        };
        let etag =
            HeaderValue::try_from(etag).map_err(|error| Error::caused(Kind::Internal, error))?;
        Ok(Validators { etag, modified: self.http_date(now) })
    }

    /// `Last-Modified`, in whole seconds. `None` before 1970, where our date format begins, and in
    /// the future, which the field must not name (RFC 9110 §8.8.2.1).
    fn http_date(self, now: SystemTime) -> Option<SystemTime> {
        let seconds = u64::try_from(self.modified_ns.div_euclid(SECOND_NS)).ok()?;
        let date = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        (date <= now).then_some(date)
    }
}

impl Source {
    pub(super) fn new(file: File, version: Version) -> Self {
        Self { file, version }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn bytes(&self) -> u64 {
        self.version.bytes
    }

    /// Fills `buffer` from the byte at `offset` on. Blocks.
    ///
    /// # Errors
    /// [`Kind::Truncated`] when the file is no longer in this version: a body must not mix two.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let changed = || Error::caused(Kind::Truncated, "the file changed while it was sent");
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(),
            _ => Error::caused(Kind::Internal, error),
        })?;
        let metadata =
            self.file.metadata().map_err(|error| Error::caused(Kind::Internal, error))?;
        if Version::of(&metadata) == self.version { Ok(()) } else { Err(changed()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TempDir;
    use super::*;

    fn etag(modified_ns: i128, bytes: u64, coding: Option<Coding>) -> HeaderValue {
        let version = Version { modified_ns, bytes };
        version.validators(coding, SystemTime::now()).expect("is a header").etag
    }

    #[test]
    fn a_tag_changes_with_the_nanosecond_the_size_and_the_coding() {
        assert_eq!(etag(100 * SECOND_NS, 5, None), "\"174876e800-5\"");
        assert_eq!(etag(100 * SECOND_NS + 1, 5, None), "\"174876e801-5\"");
        assert_eq!(etag(100 * SECOND_NS, 6, None), "\"174876e800-6\"");
        assert_eq!(etag(100 * SECOND_NS, 5, Some(Coding::Brotli)), "\"174876e800-5-br\"");
        assert_eq!(etag(100 * SECOND_NS, 5, Some(Coding::Gzip)), "\"174876e800-5-gz\"");
    }

    #[test]
    fn last_modified_is_cut_to_the_second_and_never_in_the_future() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let date = |modified_ns| Version { modified_ns, bytes: 0 }.http_date(now);
        assert_eq!(date(100 * SECOND_NS + 999), Some(now));
        assert_eq!(date(101 * SECOND_NS), None);
        assert_eq!(date(-1), None);
        assert_eq!(date(i128::MAX), None);
    }

    #[test]
    fn the_time_and_the_size_come_from_the_file() {
        let dir = TempDir::new();
        let path = dir.write_at("a", "12345", UNIX_EPOCH + Duration::new(100, 7));
        let metadata = path.metadata().expect("is there");
        let expected = Version { modified_ns: 100 * SECOND_NS + 7, bytes: 5 };
        assert_eq!(Version::of(&metadata), expected);
    }

    #[test]
    fn a_source_reads_only_its_own_version() {
        let dir = TempDir::new();
        let [before, after] = [100, 101].map(|at| UNIX_EPOCH + Duration::from_secs(at));
        let path = dir.write_at("a", "plain", before);
        let file = File::open(&path).expect("opens");
        let version = Version::of(&file.metadata().expect("is open"));
        let source = Source::new(file, version);
        let mut buffer = [0; 3];
        assert!(source.read(&mut buffer, 1).is_ok());
        assert_eq!(&buffer, b"lai");

        let mut kind = || source.read(&mut buffer, 1).err().map(|error| error.kind());
        dir.write_at("a", "other", after);
        assert_eq!(kind(), Some(Kind::Truncated));
        dir.write_at("a", "longer", before);
        assert_eq!(kind(), Some(Kind::Truncated));
        dir.write_at("a", "p", before);
        assert_eq!(kind(), Some(Kind::Truncated));
        dir.write_at("a", "plain", before);
        assert_eq!(kind(), None);
    }
}
