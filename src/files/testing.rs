//! What the tests of this module share.

use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http_body::Body;

use crate::error::Error;

/// A folder for one test, removed at its end.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("headwater-files-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the folder is new");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and the folders that lead to it.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("creates folders");
        fs::write(&path, content).expect("writes");
        path
    }

    /// As [`Self::write`], with the time of the last change.
    pub(super) fn write_at(&self, name: &str, content: &str, modified: SystemTime) -> PathBuf {
        let path = self.write(name, content);
        let file = fs::File::options().write(true).open(&path).expect("opens");
        file.set_modified(modified).expect("sets the time");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The next piece of a body; `None` at its end.
pub(super) async fn next(
    body: &mut (impl Body<Data = Bytes, Error = Error> + Unpin),
) -> Option<Result<Bytes, Error>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().expect("files have no trailers")))
}

/// All of a body.
pub(super) async fn collect(
    mut body: impl Body<Data = Bytes, Error = Error> + Unpin,
) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(chunk) = next(&mut body).await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// So many bytes, of which no two neighbouring kilobytes are equal.
pub(super) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 251 + at) as u8).collect()
}
