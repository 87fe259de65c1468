//! One version of one file: its validators, and reading no other.
//!
//! An entity tag is a digest of the bytes ([`Tags`]), because times do not tell versions apart:
//! reproducible builds (Nix, Bazel, images with SOURCE_DATE_EPOCH) give all files one time. It
//! holds for all replicas that serve the same bytes. For the same reason a file has a
//! Last-Modified only where its bytes were written at that time.
//!
//! A body is read as one version by the time of the last change, in nanoseconds, and the size.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use super::conditional::Validators;
use super::encoding;
use super::tags::Tags;
use crate::compress::Coding;
use crate::error::{Error, Kind};

const SECOND_NS: i128 = 1_000_000_000;
/// The longest time between the last change of a file's bytes and that of its inode for which the
/// first is believed: archives and copies set it, and then it says nothing of this file.
const BELIEVED_WITHIN_NS: i128 = 60 * SECOND_NS;

/// The time of the last change of a file, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// Since 1970.
    modified_ns: i128,
    bytes: u64,
}

/// Tells one state of one file on this machine from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    pub(super) modified_ns: i128,
    /// When the inode last changed, which nobody can set.
    pub(super) changed_ns: i128,
    pub(super) bytes: u64,
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

    /// `Last-Modified`, in whole seconds. `None` before 1970, where our date format begins, and in
    /// the future, which the field must not name (RFC 9110 §8.8.2.1).
    fn http_date(self, now: SystemTime) -> Option<SystemTime> {
        let seconds = u64::try_from(self.modified_ns.div_euclid(SECOND_NS)).ok()?;
        let date = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        (date <= now).then_some(date)
    }
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: Version::of(metadata).modified_ns,
            changed_ns: i128::from(metadata.ctime()) * SECOND_NS
                + i128::from(metadata.ctime_nsec()),
            bytes: metadata.len(),
        }
    }

    /// Whether the bytes were written when the time of the last change says.
    fn is_time_believed(&self) -> bool {
        (self.changed_ns - self.modified_ns).abs() <= BELIEVED_WITHIN_NS
    }
}

impl Source {
    pub(super) fn new(file: File, version: Version) -> Self {
        Self { file, version }
    }

    /// The validators of this version in a coding: different codings have different tags. Blocks.
    ///
    /// # Errors
    /// [`Kind::Internal`] when the file cannot be read, [`Kind::Truncated`] when it changes
    /// meanwhile.
    pub(super) fn validators(
        &self,
        tags: &Tags,
        coding: Option<Coding>,
        now: SystemTime,
    ) -> Result<Validators, Error> {
        let internal = |error| Error::caused(Kind::Internal, error);
        let identity = Identity::of(&self.file.metadata().map_err(internal)?);
        let tag = tags.of(self, identity, now)?;
        let etag = match coding {
            None => format!("\"{tag}\""),
            Some(coding) => format!("\"{tag}-{}\"", encoding::extension(coding)),
        };
        Ok(Validators {
            etag: HeaderValue::try_from(etag)
                .map_err(|error| Error::caused(Kind::Internal, error))?,
            modified: self.version.http_date(now).filter(|_| identity.is_time_believed()),
        })
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

    #[test]
    fn a_time_is_believed_only_where_the_file_was_written_at_it() {
        let dir = TempDir::new();
        let written = dir.write("now", "12345");
        let set = dir.write_at("set", "12345", UNIX_EPOCH + Duration::from_secs(100));
        let is_believed = |path: &std::path::Path| {
            Identity::of(&path.metadata().expect("is there")).is_time_believed()
        };
        assert!(is_believed(&dir.path().join("now")), "{written:?}");
        assert!(!is_believed(&set));
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
