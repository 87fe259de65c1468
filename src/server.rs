//! One process: build, bind, start, wait, drain.
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config;
use crate::files::Reader;
use crate::listener::{Accepting, bind};
use crate::metrics;
use crate::proxy::LogWriter;
use crate::shutdown::{Phase, Shutdown};
use crate::snapshot::{Resources, Snapshot};
use crate::worker::{self, Seed};

pub fn run(path: &Path) -> i32 {
    let loaded = config::load(path, &|name| std::env::var(name).ok());
    let accepted = match loaded.into_config() {
        Ok(a) => a,
        Err(r) => {
            eprintln!("{}", config::diagnostics::render(&r.diagnostics, &r.sources));
            return 2;
        }
    };
    let config = Arc::new(accepted.config);
    let workers = config.process.workers;
    metrics::set_shards(workers + 1);
    let resources = Resources {
        cache: Cache::new(&config.cache, workers),
        files: Reader::start(4, 256).unwrap(),
    };
    let (snapshot, _) = Snapshot::build(config.clone(), None, &resources).unwrap();
    let published = Arc::new(ArcSwap::from_pointee(snapshot));
    let log = LogWriter::start(&config.log.access.to).unwrap();
    let shutdown = Shutdown::default();
    let seeds = (0..workers)
        .map(|_| Seed { published: published.clone(), log: log.handle(), stop: shutdown.stop() })
        .collect();
    let handles = worker::start(seeds).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        for l in &config.listeners {
            for b in &l.bind {
                let bound = bind::bind(&b.value, workers).unwrap();
                eprintln!("listening {}", bound.address);
                let stop = CancellationToken::new();
                for (w, s) in handles.iter().zip(bound.sockets) {
                    w.take(Accepting { socket: s, listener: l.name.clone(), stop: stop.clone() })
                        .await;
                }
            }
        }
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        term.recv().await;
    });
    shutdown.enter(Phase::Draining);
    let cut: usize = handles.into_iter().map(|h| h.join()).sum();
    log.finish();
    if cut > 0 { 3 } else { 0 }
}
