//! Configuration files: every problem has a place, none is a panic.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use headwater::config::{self, diagnostics};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("headwater-fuzz-{}.toml", std::process::id());
    std::env::temp_dir().join(name)
});

/// Other files are not this target's.
const NAMES_OF_FILES: [&str; 7] = ["include", "cert", "key", "ca", "file", "directory", "\\u"];

libfuzzer_sys::fuzz_target!(|text: &str| {
    if NAMES_OF_FILES.iter().any(|name| text.contains(name)) {
        return;
    }
    if std::fs::write(&*FILE, text).is_ok() {
        let loaded = config::load(&FILE, &|_| None);
        let _ = diagnostics::render(&loaded.diagnostics, &loaded.sources);
    }
});
