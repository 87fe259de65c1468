//! What the tests of this module share: a folder that is gone after the test, and loading.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Loaded;

/// A folder of its own for one test.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("headwater-config-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and the folders it needs.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn load(&self, name: &str) -> Loaded {
        super::load(&self.0.join(name), &|_| None)
    }

    /// The text of all diagnostics, with paths relative to this folder.
    pub(super) fn shown(&self, loaded: &Loaded) -> String {
        let text = super::diagnostics::render(&loaded.diagnostics, &loaded.sources);
        text.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is said about one configuration file, `c.toml`.
pub(super) fn diagnostics(text: &str) -> String {
    let folder = Folder::new();
    folder.write("c.toml", text);
    folder.shown(&folder.load("c.toml"))
}

/// What is said about a configuration that consists of the text and whatever it lacks of: a
/// listener (`web`), a pool (`app`) and a route. The text comes first, so lines count as written;
/// top-level keys cannot be given.
pub(super) fn diagnostics_of(text: &str) -> String {
    diagnostics(&completed(text))
}

/// The configuration that a correct text, completed like that, describes.
pub(super) fn config_of(text: &str) -> super::model::Config {
    let folder = Folder::new();
    folder.write("c.toml", &completed(text));
    let loaded = folder.load("c.toml");
    assert_eq!(folder.shown(&loaded), "", "{text}");
    loaded.draft
}

fn completed(text: &str) -> String {
    let mut text = format!("{text}\n");
    for (mark, section) in [
        ("[listener.", "[listener.web]\nbind = \"127.0.0.1:0\"\n"),
        ("[pool.app", "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n"),
        ("[[route]]", "[[route]]\npool = \"app\"\n"),
    ] {
        if !text.contains(mark) {
            text.push_str(section);
        }
    }
    text
}
