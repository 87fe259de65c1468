//! Reading files: the configuration's own, and those that it names.
//!
//! Every file is read at most once per load, so that all users of it see the same bytes. What was
//! read, tried or listed is remembered: a watcher follows these paths, and the digest tells
//! whether anything changed. Paths are kept as named, symbolic links included: it is the link
//! that a deployment swaps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bound on every single file, in bytes: configurations and certificates are far smaller.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Default)]
pub(super) struct Files {
    read: BTreeMap<PathBuf, Result<Arc<[u8]>, String>>,
    listed: BTreeSet<PathBuf>,
}

impl Files {
    /// The bytes of a regular file, or why there are none, in words that follow "cannot read it:".
    pub(super) fn read(&mut self, path: &Path) -> Result<Arc<[u8]>, String> {
        if let Some(known) = self.read.get(path) {
            return known.clone();
        }
        let content = read_bounded(path);
        self.read.insert(path.to_owned(), content.clone());
        content
    }

    /// Names of the files in a folder that match a pattern of `*` and `?`, sorted. As in a shell,
    /// names with a leading dot match no leading wildcard.
    pub(super) fn matching(&mut self, folder: &Path, pattern: &str) -> Vec<PathBuf> {
        self.listed.insert(folder.to_owned());
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with('.') == pattern.starts_with('.'))
            .filter(|name| matches(pattern.as_bytes(), name.as_bytes()))
            .collect();
        names.sort();
        names.into_iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
    }

    /// The folders in a folder, sorted; hidden ones are left out.
    pub(super) fn folders(&mut self, folder: &Path) -> Vec<PathBuf> {
        self.listed.insert(folder.to_owned());
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        let mut folders: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| !is_hidden(name))
            .map(|name| folder.join(name))
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        folders
    }

    /// Everything that a change could come from.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        self.read.keys().chain(&self.listed).cloned().collect()
    }

    /// Equal for equal paths with equal contents. An added file shows by being read.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.read.hash(&mut hasher);
        self.listed.hash(&mut hasher);
        hasher.finish()
    }
}

fn read_bounded(path: &Path) -> Result<Arc<[u8]>, String> {
    // Asked before opening: to open a pipe could wait forever.
    let metadata = std::fs::metadata(path).map_err(|error| why(&error))?;
    if metadata.is_dir() {
        return Err("it is a folder".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let file = File::open(path).map_err(|error| why(&error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| why(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes.into())
}

pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a name matches a pattern of `*` (any run) and `?` (any one character).
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // The last star, and how much of the name it has taken; only the last one needs retrying.
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == name[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else {
                    return false;
                };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                from = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn names_match_by_star_and_question_mark() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*.toml", ".toml", true),
            ("*", "", true),
            ("?.toml", "a.toml", true),
            ("?.toml", "ab.toml", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn matching_files_are_sorted_and_hidden_ones_left_out() {
        let folder = Folder::new();
        for name in ["b.toml", "a.toml", ".c.toml", "d.txt", "e.toml/x"] {
            folder.write(name, "");
        }
        let mut files = Files::default();
        let found = files.matching(folder.path(), "*.toml");
        assert_eq!(found, [folder.path().join("a.toml"), folder.path().join("b.toml")]);
        assert_eq!(files.matching(Path::new("/nowhere"), "*"), Vec::<PathBuf>::new());
        assert_eq!(files.watched(), [PathBuf::from("/nowhere"), folder.path().to_owned()]);
    }

    #[test]
    fn a_file_is_read_once_and_failures_are_said_in_words() {
        let folder = Folder::new();
        let path = folder.write("a", "one");
        let mut files = Files::default();
        assert_eq!(&*files.read(&path).unwrap(), b"one");
        folder.write("a", "two");
        assert_eq!(&*files.read(&path).unwrap(), b"one");
        assert_eq!(files.read(&folder.path().join("b")), Err("it does not exist".to_owned()));
        assert_eq!(files.read(folder.path()), Err("it is a folder".to_owned()));
        let large = folder.write("large", &"x".repeat(FILE_BYTES_MAX as usize + 1));
        assert!(files.read(&large).unwrap_err().contains("1048576 bytes"));
        assert!(files.read(Path::new("/dev/zero")).unwrap_err().contains("regular"));
    }

    #[test]
    fn the_digest_follows_the_contents() {
        let folder = Folder::new();
        let path = folder.write("a", "one");
        let digest = || {
            let mut files = Files::default();
            let _content = files.read(&path);
            files.digest()
        };
        let before = digest();
        assert_eq!(before, digest());
        folder.write("a", "two");
        assert_ne!(before, digest());
    }
}
