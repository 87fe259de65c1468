//! Files of the account and of certificates: for this user alone, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

const ACCOUNT: &str = "account.json";
/// Of files that hold keys, and of the folder that holds these.
const MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Makes the folder, for this user alone, if it is missing.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

pub(super) fn read_account(folder: &Path) -> Option<Vec<u8>> {
    read(folder, ACCOUNT)
}

pub(super) fn write_account(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    write(folder, ACCOUNT, bytes)
}

/// The chain of a pair that is complete.
pub(super) fn read_pair(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let chain = fs::read(folder.join(format!("{name}.crt"))).ok()?;
    folder.join(format!("{name}.key")).is_file().then_some(chain)
}

pub(super) fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    fs::read(folder.join(name)).ok()
}

/// What cannot be removed is read again with the next start.
pub(super) fn remove(folder: &Path, name: &str) {
    if let Err(error) = fs::remove_file(folder.join(name)) {
        tracing::warn!(file = name, %error, "a file cannot be removed");
    }
}

/// The names of files that end so, at most so many.
pub(super) fn names(folder: &Path, end: &str, max: usize) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(end)).take(max).collect()
}

/// The key first: whoever sees one without the other waits for the rest.
pub(super) fn write_pair(folder: &Path, name: &str, chain: &str, key: &str) -> io::Result<()> {
    write(folder, &format!("{name}.key"), key.as_bytes())?;
    write(folder, &format!("{name}.crt"), chain.as_bytes())
}

pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = folder.join(format!(".{name}.new"));
    // What an earlier process left may belong to somebody else.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// An empty one.
    pub(in super::super) fn folder(name: &str) -> PathBuf {
        let name = format!("headwater-acme-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_whole_and_for_us_alone() {
        let folder = folder("store");
        let path = folder.as_path();
        assert!(read_pair(path, "a").is_none() && read_account(path).is_none());
        fs::write(path.join(".a.key.new"), "left over").unwrap();
        write_pair(path, "a", "chain", "key").unwrap();
        write_pair(path, "a", "chain 2", "key 2").unwrap();
        write_account(path, b"{}").unwrap();
        assert_eq!(read_pair(path, "a").as_deref(), Some(&b"chain 2"[..]));
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        for entry in names {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, MODE);
            assert!(!entry.file_name().to_string_lossy().starts_with('.'));
        }
        fs::remove_file(path.join("a.key")).unwrap();
        assert!(read_pair(path, "a").is_none());
        fs::remove_dir_all(path).unwrap();
    }
}
