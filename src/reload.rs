//! Taking a new configuration while running.
//!
//! Load → validate → build → bind → swap once → close what is not wanted any more. Whatever fails
//! before the swap leaves the process as it was, but for the log, a metric and the status page.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::admin::{ReloadAnswer, ReloadLog};
use crate::bindings::{Bindings, Change};
use crate::compile::{self, Compiled};
use crate::config::diagnostics::{Diagnostic, Report, Sources};
use crate::config::model::{BindAddress, Name};
use crate::config::{Loaded, Refused};
use crate::discovery;
use crate::fixed::Fixed;
use crate::lines::{Lines, Sink};
use crate::logging::ProgramLog;
use crate::proxy::access_log;
use crate::snapshot::{Resources, Snapshot};
use crate::supervisor::Supervisor;
use crate::watch::Watcher;
use crate::worker::Workers;

/// How often the contents are compared, for changes whose events were missed.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// How long names of endpoints may take to be resolved before a new configuration is used.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

/// Who wants a reload.
#[derive(Debug)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    Admin(oneshot::Sender<ReloadAnswer>),
}

/// Everything that a swap concerns.
#[derive(Debug)]
pub struct Reloader {
    pub path: PathBuf,
    pub published: Arc<ArcSwap<Snapshot>>,
    pub resources: Resources,
    pub workers: Workers,
    pub bindings: Bindings,
    /// For the status page.
    pub addresses: Arc<ArcSwap<Vec<(Name, BindAddress)>>>,
    pub access_log: Lines,
    pub program_log: ProgramLog,
    pub reloads: Arc<ReloadLog>,
    pub generations: watch::Sender<u64>,
    pub descriptors_max: u64,
    /// Of the files that the running configuration came from.
    pub digest: u64,
    /// What is doubtful about the running configuration.
    pub warnings: Vec<Report>,
    /// What only a restart changes.
    pub fixed: Fixed,
    /// Who started the process, and is told of reloads.
    pub supervisor: Supervisor,
    /// Of files that were refused: without a change they are not looked at again.
    pub refused: Option<u64>,
}

/// What is ready to be swapped in.
struct Ready {
    compiled: Compiled,
    change: Change,
    /// Where the access log goes from now on, if that changes.
    sink: Option<Sink>,
}

impl Reloader {
    /// Begins to accept, then follows the files and answers the triggers.
    pub async fn run(
        mut self,
        first: Change,
        files: Vec<PathBuf>,
        mut triggers: mpsc::Receiver<Trigger>,
    ) {
        self.bindings.apply(first, &self.workers).await;
        self.addresses.store(Arc::new(self.bindings.addresses()));
        self.tell_ready();
        let mut watcher = Watcher::default();
        (watcher, _) = follow(watcher, files).await;
        // What changed between reading the files and watching them has made no event.
        let mut poll = Instant::now();
        loop {
            let trigger = tokio::select! {
                trigger = triggers.recv() => match trigger {
                    Some(trigger) => Some(trigger),
                    None => return,
                },
                () = watcher.changed() => None,
                () = sleep_until(poll) => None,
            };
            poll = Instant::now() + POLL_INTERVAL;
            let path = self.path.clone();
            let Ok(loaded) = tokio::task::spawn_blocking(move || compile::load(&path)).await else {
                tracing::error!("loading the configuration panicked; the old one goes on");
                continue;
            };
            let is_new;
            (watcher, is_new) = follow(watcher, loaded.files.clone()).await;
            if is_new {
                poll = Instant::now();
            }
            let is_asked = trigger.is_some();
            if !is_asked && Some(loaded.digest) == self.refused {
                continue;
            }
            let is_new = loaded.digest != self.digest || loaded.has_errors();
            if is_asked || is_new {
                self.supervisor.reloading();
            }
            let answer = self.reload(loaded, is_asked).await;
            if is_asked || is_new {
                self.tell_ready();
            }
            if let Some(Trigger::Admin(asker)) = trigger {
                // Fails if the asker has left.
                let _ = asker.send(answer);
            }
        }
    }

    fn tell_ready(&self) {
        self.supervisor.ready(|| {
            let generation = self.published.load().generation;
            match self.refused {
                None => format!("serving configuration {generation}"),
                Some(_) => format!("serving configuration {generation}; a later one was refused"),
            }
        });
    }

    async fn reload(&mut self, loaded: Loaded, is_asked: bool) -> ReloadAnswer {
        let digest = loaded.digest;
        if digest == self.digest && !loaded.has_errors() {
            let generation = self.published.load().generation;
            if is_asked || self.refused.is_some() {
                self.refused = None;
                self.reloads.succeeded(generation);
                tracing::info!(generation, "configuration is unchanged");
            }
            let warnings = self.warnings.clone();
            return ReloadAnswer::Accepted { generation, changed: false, warnings };
        }
        match self.prepare(loaded).await {
            Ok(ready) => {
                self.refused = None;
                self.digest = digest;
                self.swap(ready).await
            }
            Err(refused) => {
                self.refused = Some(digest);
                self.refuse(&refused)
            }
        }
    }

    async fn prepare(&self, mut loaded: Loaded) -> Result<Ready, Box<Refused>> {
        self.fixed.hold(&mut loaded);
        let previous = self.published.load_full();
        let resources = self.resources.clone();
        let descriptors_max = self.descriptors_max;
        // Keys and certificates are read and checked: not for a thread that answers probes.
        let compiling = tokio::task::spawn_blocking(move || {
            compile::compile(loaded, Some(&previous), &resources, descriptors_max)
        });
        let compiled = compiling.await.unwrap_or_else(|_| {
            let problem = Diagnostic::placeless("compiling the configuration panicked");
            Err(Box::new(Refused { diagnostics: vec![problem], sources: Sources::default() }))
        })?;
        let running = self.published.load_full();
        let config = compiled.snapshot.config.clone();
        let mut problems = Vec::new();
        let change = self
            .bindings
            .prepare(&config.listeners, self.workers.count())
            .map_err(|found| problems.extend(found.problems))
            .ok();
        let target = &config.log.access.to;
        let is_new = *target != running.config.log.access.to;
        let sink = match is_new {
            true => access_log::opened(target.clone()).await.map(Some),
            false => Ok(None),
        };
        let sink = sink.map_err(|error| {
            problems
                .push(Diagnostic::placeless(format!("log.access.to cannot be opened: {error}")));
        });
        let (Some(change), Ok(sink)) = (change, sink) else {
            return Err(Box::new(Refused {
                diagnostics: problems,
                sources: (*compiled.snapshot.sources).clone(),
            }));
        };
        discovery::resolve_all(&compiled.snapshot, Some(&running), RESOLVE_PATIENCE).await;
        Ok(Ready { compiled, change, sink })
    }

    async fn swap(&mut self, ready: Ready) -> ReloadAnswer {
        let Ready { compiled: Compiled { snapshot, warnings }, change, sink } = ready;
        let before = self.published.load_full();
        let generation = snapshot.generation;
        self.resources.cache.reconfigure(&snapshot.config.cache);
        self.program_log.change(&before.config.log, &snapshot.config.log);
        if let Some(sink) = sink
            && let Err(error) = self.access_log.switch(move || Ok(sink))
        {
            tracing::error!(%error, "the access log goes on where it was");
        }
        self.published.store(Arc::new(snapshot));
        self.bindings.apply(change, &self.workers).await;
        self.addresses.store(Arc::new(self.bindings.addresses()));
        self.generations.send_replace(generation);
        self.reloads.succeeded(generation);
        let warnings = reports(&warnings, &self.published.load().sources);
        log_all(&warnings);
        self.warnings.clone_from(&warnings);
        tracing::info!(generation, "configuration reloaded");
        ReloadAnswer::Accepted { generation, changed: true, warnings }
    }

    fn refuse(&self, refused: &Refused) -> ReloadAnswer {
        let problems = reports(&refused.diagnostics, &refused.sources);
        log_all(&problems);
        let generation = self.published.load().generation;
        tracing::error!(generation, "configuration refused; the running one goes on");
        let text: String =
            refused.diagnostics.iter().map(|problem| problem.render(&refused.sources)).collect();
        self.reloads.failed(text);
        ReloadAnswer::Refused { problems }
    }
}

/// Follows these paths, on a thread that may block: they may lie where a disk hangs.
async fn follow(mut watcher: Watcher, paths: Vec<PathBuf>) -> (Watcher, bool) {
    let following = tokio::task::spawn_blocking(move || {
        let is_new = watcher.follow(&paths);
        (watcher, is_new)
    });
    following.await.unwrap_or_else(|error| {
        tracing::error!(%error, "files are not watched, only polled");
        (Watcher::default(), false)
    })
}

fn reports(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<Report> {
    diagnostics.iter().map(|diagnostic| diagnostic.report(sources)).collect()
}

/// One event for each problem or warning.
pub fn log_all(reports: &[Report]) {
    for report in reports {
        let Report { file, line, column, severity, message, help, lint } = report;
        let place = file.as_ref().map(|file| format!("{file}:{line}:{column}"));
        match severity {
            crate::config::diagnostics::Severity::Error => {
                tracing::error!(place, help, lint, "{message}");
            }
            crate::config::diagnostics::Severity::Warning => {
                tracing::warn!(place, help, lint, "{message}");
            }
        }
    }
}
