//! Snapshots for the tests of what watches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{ConnectionLimit, Resources, Snapshot};
use crate::cache::Cache;
use crate::config;
use crate::files::Reader;

/// A snapshot of these pools, written as in the configuration file, with a listener and a route
/// to the first pool. The pools may name the `files`, each a name and its text.
pub fn snapshot(pools: &str, files: &[(&str, &str)], previous: Option<&Snapshot>) -> Snapshot {
    let first = pools.split_once("[pool.").unwrap().1.split_once(']').unwrap().0;
    let text =
        format!("{pools}\n[listener.web]\nbind = \"127.0.0.1:0\"\n[[route]]\npool = \"{first}\"\n");
    of_text(&text, files, previous)
}

/// A snapshot of a whole configuration.
pub fn of_text(text: &str, files: &[(&str, &str)], previous: Option<&Snapshot>) -> Snapshot {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("headwater-snapshot-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let path = folder.join("headwater.toml");
    std::fs::write(&path, text).unwrap();
    let loaded = config::load(&path, &|_| None);
    std::fs::remove_dir_all(&folder).unwrap();
    let config = match loaded.into_config() {
        Ok(accepted) => Arc::new(accepted.config),
        Err(refused) => {
            unreachable!("{}", config::diagnostics::render(&refused.diagnostics, &refused.sources))
        }
    };
    let resources = Resources {
        cache: Cache::new(&config.cache, 1),
        under_way: Arc::default(),
        challenges: Arc::default(),
        files: Reader::start(1, 1).unwrap(),
        connections: ConnectionLimit::of_process(1000),
    };
    Snapshot::build(config, previous, &resources).unwrap()
}
