//! Changes of the files that a configuration consists of.
//!
//! What is watched are the folders, not the files: an editor or a deployment replaces files, and
//! Kubernetes swaps the symbolic link `..data` beside them. The first event comes while a change
//! is still going on, so a change counts when nothing has happened for a while. Events can be
//! missing (network file systems, a full queue); whoever cares looks at the contents now and then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A change has ended when nothing has happened for so long.
const QUIET: Duration = Duration::from_millis(300);
/// A change that goes on for longer is looked at all the same.
const QUIET_PATIENCE: Duration = Duration::from_secs(3);

/// Watches the files of the moment.
#[derive(Debug)]
pub struct Watcher {
    /// `None` where the system has no watches left.
    notify: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    files: Arc<Mutex<Watched>>,
    events: mpsc::Receiver<()>,
}

/// Which paths matter.
#[derive(Debug, Default)]
struct Watched {
    /// As named, and as their symbolic links resolve.
    files: BTreeSet<PathBuf>,
    /// Whose every entry matters.
    folders: BTreeSet<PathBuf>,
}

impl Default for Watcher {
    fn default() -> Self {
        let files = Arc::<Mutex<Watched>>::default();
        let (sender, events) = mpsc::channel(1);
        let known = files.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error is a lost event.
            let concerns = event.map_or(true, |event| {
                known.lock().unwrap_or_else(PoisonError::into_inner).concerns(&event)
            });
            if concerns {
                // One that waits already stands for this one too.
                let _ = sender.try_send(());
            }
        });
        let notify = watcher
            .inspect_err(|error| tracing::warn!(%error, "files are not watched, only polled"))
            .ok();
        Self { notify, folders: BTreeSet::new(), files, events }
    }
}

impl Watcher {
    /// Follows these files and folders from now on, and no others. Whether some of them were not
    /// followed before: they may have changed since they were read.
    pub fn follow(&mut self, paths: &[PathBuf]) -> bool {
        let watched = Watched::of(paths);
        let parents = watched.files.iter().filter_map(|file| file.parent().map(Path::to_owned));
        let folders: BTreeSet<_> = parents.chain(watched.folders.iter().cloned()).collect();
        let is_new = {
            let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = !watched.files.is_subset(&known.files)
                || !watched.folders.is_subset(&known.folders);
            *known = watched;
            is_new
        };
        let Some(notify) = &mut self.notify else { return is_new };
        for gone in self.folders.difference(&folders) {
            // A folder that was deleted has lost its watch already.
            let _ = notify.unwatch(gone);
        }
        // All are watched again: one that was deleted and made anew has lost its watch.
        for folder in &folders {
            if let Err(error) = notify.watch(folder, RecursiveMode::NonRecursive) {
                tracing::debug!(folder = %folder.display(), %error, "folder is not watched");
            }
        }
        self.folders = folders;
        is_new
    }

    /// Waits for a change and its end. Safe to drop and call again.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        let patience = Instant::now() + QUIET_PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(patience);
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < patience => {}
                _ => return,
            }
        }
    }
}

impl Watched {
    fn of(paths: &[PathBuf]) -> Self {
        let mut watched = Self::default();
        for path in paths {
            let set = if path.is_dir() { &mut watched.folders } else { &mut watched.files };
            set.insert(path.clone());
            if let Ok(real) = path.canonicalize() {
                set.insert(real);
            }
        }
        watched
    }

    fn concerns(&self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
        {
            return false;
        }
        event.need_rescan() || event.paths.iter().any(|path| self.concerns_path(path))
    }

    fn concerns_path(&self, path: &Path) -> bool {
        let is_swap = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(".."));
        is_swap
            || self.files.contains(path)
            // The folder itself was deleted, moved or made.
            || self.files.iter().any(|file| file.parent() == Some(path))
            || path.parent().is_some_and(|folder| self.folders.contains(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("headwater-watch-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn soon(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(Duration::from_secs(20), watcher.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_written_renamed_over_or_swapped_by_a_link_has_changed() {
        let folder = Folder::new("swap");
        let file = folder.0.join("headwater.toml");
        for version in ["..v1", "..v2"] {
            std::fs::create_dir(folder.0.join(version)).expect("a folder");
            std::fs::write(folder.0.join(version).join("headwater.toml"), version).expect("a file");
        }
        std::os::unix::fs::symlink("..v1", folder.0.join("..data")).expect("a link");
        std::os::unix::fs::symlink("..data/headwater.toml", &file).expect("a link");
        let mut watcher = Watcher::default();
        watcher.follow(std::slice::from_ref(&file));

        std::os::unix::fs::symlink("..v2", folder.0.join("..data_tmp")).expect("a link");
        std::fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).expect("a swap");
        assert!(soon(&mut watcher).await);

        let other = folder.0.join("new");
        std::fs::write(&other, "x").expect("a file");
        std::fs::rename(&other, &file).expect("a rename");
        assert!(soon(&mut watcher).await);

        watcher.follow(std::slice::from_ref(&file));
        std::fs::write(&file, "y").expect("a write");
        assert!(soon(&mut watcher).await);
    }

    #[test]
    fn only_what_is_followed_matters() {
        let watched = Watched {
            files: [PathBuf::from("/etc/headwater/headwater.toml")].into(),
            folders: [PathBuf::from("/etc/headwater/conf.d")].into(),
        };
        let path = |path: &str| watched.concerns_path(Path::new(path));
        assert!(path("/etc/headwater/headwater.toml"));
        assert!(path("/etc/headwater/..data"));
        assert!(path("/etc/headwater/conf.d/a.toml"));
        assert!(path("/etc/headwater"));
        assert!(!path("/etc/headwater/notes.txt"));
        let read = Event::new(EventKind::Access(AccessKind::Read))
            .add_path("/etc/headwater/headwater.toml".into());
        assert!(!watched.concerns(&read));
    }
}
