//! From a request path to a file below the root, and never to one outside.
//!
//! The kernel resolves the path, once, into a handle that cannot read (`O_PATH`), so no FIFO
//! blocks and no device notices. Where the handle really lies is then asked of the kernel
//! (`/proc/self/fd`) and must be below the root; only after that the same handle is opened for
//! reading. No name is resolved twice, so a symlink that is swapped in between changes nothing.
//!
//! The root is opened for each request: where it is itself a symlink that a deployment swaps
//! (a Kubernetes volume, `current -> releases/7`), a request sees one version and the next request
//! the new one. Deliberately absent: a cache of handles, and lists of folders.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::version::{Source, Version};

/// The one folder with a dot that is meant for visitors (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";
/// What answers for a folder.
const INDEX: &str = "index.html";

/// A request path as names below the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    names: PathBuf,
    /// The path ended with a slash.
    is_folder: bool,
}

/// Why there is no file to serve.
#[derive(Debug)]
pub(super) enum Miss {
    /// Nothing is there; the fallback may answer.
    Absent,
    /// There may be something, but it is not ours to show: hidden, outside, or not a file.
    Refused,
    /// The operating system denies it to us.
    Forbidden,
    Failed(io::Error),
}

/// What a request path leads to.
pub(super) enum Located {
    File {
        entry: Entry,
        /// Below the root, as asked for, before symlinks.
        names: PathBuf,
    },
    /// A folder that was asked for without its slash.
    Folder,
}

/// The root as it is for one request.
pub(super) struct Root {
    handle: File,
    /// Without symlinks.
    real: PathBuf,
}

/// A regular file below the root, not yet open for reading.
pub(super) struct Entry {
    handle: File,
    pub(super) version: Version,
}

enum Node {
    Folder,
    File(Entry),
}

impl Wanted {
    /// Takes a path in normal form: `/`, then percent-encoded segments.
    ///
    /// # Errors
    /// [`Miss::Refused`] for a segment that begins with a dot (but a first one
    /// `.well-known`), or that decodes to something with a
    /// slash or a NUL in it. [`Miss::Absent`] for an empty segment: no file has an empty name.
    pub(super) fn parse(path: &str) -> Result<Self, Miss> {
        let below = path.strip_prefix('/').ok_or(Miss::Refused)?;
        if below.is_empty() {
            return Ok(Self { names: PathBuf::new(), is_folder: true });
        }
        let (segments, is_folder) = match below.strip_suffix('/') {
            Some(segments) => (segments, true),
            None => (below, false),
        };
        let mut names = PathBuf::new();
        let mut has_empty = false;
        for (place, segment) in segments.split('/').enumerate() {
            let name: Cow<'_, [u8]> = percent_decode_str(segment).into();
            let is_hidden = name.starts_with(b".") && !(place == 0 && *name == *WELL_KNOWN);
            if is_hidden || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
                return Err(Miss::Refused);
            }
            has_empty |= name.is_empty();
            names.push(OsStr::from_bytes(&name));
        }
        if has_empty { Err(Miss::Absent) } else { Ok(Self { names, is_folder }) }
    }

    /// A file that the operator named, not percent-encoded; dotfiles are his decision.
    pub(super) fn file(path: &str) -> Self {
        Self { names: PathBuf::from(path.trim_start_matches('/')), is_folder: false }
    }
}

impl Root {
    /// # Errors
    /// When the folder is missing or `/proc` is not mounted: nothing can be served then.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let handle = open_handle(folder, libc::O_DIRECTORY)?;
        let real = real_path(&handle)?;
        Ok(Self { handle, real })
    }

    /// The file that answers for `wanted`.
    pub(super) fn locate(&self, wanted: &Wanted) -> Result<Located, Miss> {
        let names = match wanted.is_folder {
            true => wanted.names.join(INDEX),
            false => wanted.names.clone(),
        };
        match self.find(&names)? {
            Node::File(entry) => Ok(Located::File { entry, names }),
            Node::Folder if wanted.is_folder => Err(Miss::Absent),
            Node::Folder => Ok(Located::Folder),
        }
    }

    /// A further file that belongs to a located one.
    pub(super) fn file(&self, names: &Path) -> Option<Entry> {
        match self.find(names) {
            Ok(Node::File(entry)) => Some(entry),
            Ok(Node::Folder) | Err(_) => None,
        }
    }

    fn find(&self, names: &Path) -> Result<Node, Miss> {
        let handle = open_handle(&descriptor_path(&self.handle).join(names), 0)?;
        let metadata = handle.metadata()?;
        if !real_path(&handle)?.starts_with(&self.real) {
            return Err(Miss::Refused);
        }
        match metadata.file_type() {
            kind if kind.is_dir() => Ok(Node::Folder),
            kind if kind.is_file() => {
                Ok(Node::File(Entry { handle, version: Version::of(&metadata) }))
            }
            _ => Err(Miss::Refused),
        }
    }
}

impl Entry {
    /// Opens the same file for reading, whatever its name means by now.
    pub(super) fn open(&self) -> io::Result<Source> {
        let file = File::open(descriptor_path(&self.handle))?;
        Ok(Source::new(file, self.version))
    }
}

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            // A loop of symlinks is as good as no file.
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP) => Self::Absent,
            Some(libc::EACCES | libc::EPERM) => Self::Forbidden,
            _ => Self::Failed(error),
        }
    }
}

/// A handle on whatever is there, without reading it.
fn open_handle(path: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)
}

fn real_path(handle: &File) -> io::Result<PathBuf> {
    std::fs::read_link(descriptor_path(handle)).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read /proc/self/fd: {error}"))
    })
}

/// A path that leads to the open file itself, not to its name.
fn descriptor_path(handle: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::testing::TempDir;
    use super::*;

    /// What a path leads to, in a word or as the content of the file.
    fn outcome(dir: &TempDir, path: &str) -> String {
        let root = Root::open(dir.path()).expect("the folder exists");
        match Wanted::parse(path).and_then(|wanted| root.locate(&wanted)) {
            Ok(Located::File { entry, .. }) => content(&entry),
            Ok(Located::Folder) => "folder".into(),
            Err(miss) => format!("{miss:?}"),
        }
    }

    fn content(entry: &Entry) -> String {
        let source = entry.open().expect("opens");
        let mut buffer = vec![0; source.bytes() as usize];
        source.read(&mut buffer, 0).expect("reads");
        String::from_utf8(buffer).expect("is text")
    }

    #[test]
    fn a_path_is_decoded_segment_by_segment() {
        let dir = TempDir::new();
        dir.write("a b/c+d%.txt", "here");
        dir.write("näh.txt", "there");
        assert_eq!(outcome(&dir, "/a%20b/c+d%25.txt"), "here");
        assert_eq!(outcome(&dir, "/n%C3%A4h.txt"), "there");
    }

    #[test]
    fn a_path_is_decoded_only_once() {
        let dir = TempDir::new();
        dir.write("a.txt", "decoded twice");
        assert_eq!(outcome(&dir, "/%2561.txt"), "Absent");
    }

    #[test]
    fn no_spelling_of_dots_or_slashes_leaves_the_root() {
        let dir = TempDir::new();
        dir.write("outside.txt", "secret");
        dir.write("root/inside.txt", "fine");
        let root = Root::open(&dir.path().join("root")).expect("the folder exists");
        for path in [
            "/../outside.txt",
            "/%2e%2e/outside.txt",
            "/.%2E/outside.txt",
            "/..%2foutside.txt",
            "/..%2Foutside.txt",
            "/inside.txt%2F..%2F..%2Foutside.txt",
            "/a/../../outside.txt",
            "/./inside.txt",
            "/%2Fetc%2Fpasswd",
            "/inside.txt%00.html",
            "outside.txt",
            "",
        ] {
            let located = Wanted::parse(path).and_then(|wanted| root.locate(&wanted));
            assert!(matches!(located, Err(Miss::Refused)), "{path}");
        }
    }

    #[test]
    fn hidden_names_are_refused_anywhere_in_the_path() {
        let dir = TempDir::new();
        dir.write(".env", "secret");
        dir.write(".git/config", "secret");
        dir.write("a/.b/c", "secret");
        for path in ["/.env", "/%2eenv", "/.git/config", "/a/.b/c", "/.absent", "/.git/", "//.env"]
        {
            assert_eq!(outcome(&dir, path), "Refused", "{path}");
        }
    }

    #[test]
    fn an_empty_segment_names_nothing() {
        let dir = TempDir::new();
        dir.write("a/b.txt", "here");
        for path in ["//", "//a/b.txt", "/a//b.txt", "/a//"] {
            assert_eq!(outcome(&dir, path), "Absent", "{path}");
        }
    }

    #[test]
    fn a_folder_answers_with_its_index_or_not_at_all() {
        let dir = TempDir::new();
        dir.write("index.html", "home");
        dir.write("docs/index.html", "docs");
        dir.write("empty/a.txt", "");
        dir.write("odd/index.html/a.txt", "");
        assert_eq!(outcome(&dir, "/"), "home");
        assert_eq!(outcome(&dir, "/docs/"), "docs");
        assert_eq!(outcome(&dir, "/docs"), "folder");
        assert_eq!(outcome(&dir, "/empty/"), "Absent");
        assert_eq!(outcome(&dir, "/odd/"), "Absent");
    }

    #[test]
    fn what_cannot_exist_is_absent() {
        let dir = TempDir::new();
        dir.write("a.txt", "here");
        symlink("loop", dir.path().join("loop")).expect("links");
        let long = format!("/{}", "x".repeat(5000));
        for path in ["/b.txt", "/a.txt/", "/a.txt/b", "/loop", long.as_str()] {
            assert_eq!(outcome(&dir, path), "Absent", "{path}");
        }
    }

    #[test]
    fn a_symlink_may_lead_anywhere_below_the_root_and_nowhere_else() {
        let dir = TempDir::new();
        dir.write("outside/secret.txt", "secret");
        dir.write("root-too/secret.txt", "secret");
        dir.write("root/docs/a.txt", "fine");
        let root = dir.path().join("root");
        for (target, link) in [
            ("docs/a.txt", "inside.txt"),
            ("../root/docs", "there-and-back"),
            ("../outside/secret.txt", "file.txt"),
            ("../outside", "folder"),
            ("../root-too", "sibling"),
        ] {
            symlink(target, root.join(link)).expect("links");
        }
        symlink("/etc/passwd", root.join("absolute")).expect("links");
        let root = Root::open(&root).expect("the folder exists");
        let locate = |path| Wanted::parse(path).and_then(|wanted| root.locate(&wanted));
        for path in ["/inside.txt", "/there-and-back/a.txt"] {
            assert!(matches!(locate(path), Ok(Located::File { .. })), "{path}");
        }
        for path in
            ["/file.txt", "/folder/secret.txt", "/folder", "/sibling/secret.txt", "/absolute"]
        {
            assert!(matches!(locate(path), Err(Miss::Refused)), "{path}");
        }
    }

    #[test]
    fn a_volume_that_swaps_its_data_link_is_followed() {
        let dir = TempDir::new();
        dir.write("..v1/page.html", "one");
        dir.write("..v2/page.html", "two");
        symlink("..v1", dir.path().join("..data")).expect("links");
        symlink("..data/page.html", dir.path().join("page.html")).expect("links");
        assert_eq!(outcome(&dir, "/page.html"), "one");
        symlink("..v2", dir.path().join("..next")).expect("links");
        fs::rename(dir.path().join("..next"), dir.path().join("..data")).expect("renames");
        assert_eq!(outcome(&dir, "/page.html"), "two");
        assert_eq!(outcome(&dir, "/..data/page.html"), "Refused");
    }

    #[test]
    fn a_request_sees_one_version_of_a_root_that_is_swapped() {
        let dir = TempDir::new();
        dir.write("v1/page.html", "one");
        dir.write("v2/page.html", "two");
        let current = dir.path().join("current");
        symlink("v1", &current).expect("links");
        let before = Root::open(&current).expect("the folder exists");
        symlink("v2", dir.path().join("next")).expect("links");
        fs::rename(dir.path().join("next"), &current).expect("renames");
        let after = Root::open(&current).expect("the folder exists");
        for (root, expected) in [(before, "one"), (after, "two")] {
            let entry = root.file(Path::new("page.html")).expect("is there");
            assert_eq!(content(&entry), expected);
        }
    }

    #[test]
    fn a_file_replaced_after_it_was_found_is_still_the_one_that_was_found() {
        let dir = TempDir::new();
        dir.write("a.txt", "found");
        dir.write("b.txt", "replaced");
        let root = Root::open(dir.path()).expect("the folder exists");
        let entry = root.file(Path::new("a.txt")).expect("is there");
        fs::rename(dir.path().join("b.txt"), dir.path().join("a.txt")).expect("renames");
        assert_eq!(content(&entry), "found");
    }

    #[test]
    fn only_regular_files_are_served() {
        let dir = TempDir::new();
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket"));
        assert!(socket.is_ok());
        let fifo = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status();
        assert!(fifo.is_ok_and(|status| status.success()));
        assert_eq!(outcome(&dir, "/socket"), "Refused");
        assert_eq!(outcome(&dir, "/fifo"), "Refused");
        let devices = Root::open(Path::new("/dev")).expect("exists");
        assert!(matches!(
            Wanted::parse("/null").and_then(|wanted| devices.locate(&wanted)),
            Err(Miss::Refused)
        ));
    }

    #[test]
    fn an_error_of_the_operating_system_is_a_miss_only_if_it_is_about_the_path() {
        let miss = |code| Miss::from(io::Error::from_raw_os_error(code));
        assert!(matches!(miss(libc::ENOENT), Miss::Absent));
        assert!(matches!(miss(libc::EACCES), Miss::Forbidden));
        assert!(matches!(miss(libc::EPERM), Miss::Forbidden));
        assert!(matches!(miss(libc::EMFILE), Miss::Failed(_)));
        assert!(matches!(miss(libc::EIO), Miss::Failed(_)));
    }

    #[test]
    fn a_root_that_is_missing_or_no_folder_is_an_error() {
        let dir = TempDir::new();
        dir.write("file", "");
        assert!(Root::open(&dir.path().join("absent")).is_err());
        assert!(Root::open(&dir.path().join("file")).is_err());
    }
}
