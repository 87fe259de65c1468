//! The process: build → bind → start workers and control plane → wait → drain.
//!
//! Everything that serves requests runs on the workers; this thread runs the control plane, which
//! is quick and never blocks.

mod control;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::admin::{self, AdminSocket};
use crate::bindings::{Bindings, Change, Unbound};
use crate::cache::Cache;
use crate::compile::{self, Compiled};
use crate::config::diagnostics::{self, Sources};
use crate::config::model::Config;
use crate::console::Console;
use crate::files::Reader;
use crate::fixed::Fixed;
use crate::front_lists::FrontLists;
use crate::lines::{Lines, Sink};
use crate::listener::Inherited;
use crate::logging::{self, ProgramLog};
use crate::proxy::{AccessLog, access_log};
use crate::purge::Purges;
use crate::reload::{self, Reloader};
use crate::shutdown::{Phase, Shutdown, Stop, Tasks};
use crate::signals::{Signals, StopSignals};
use crate::snapshot::{ConnectionLimit, Resources, Snapshot};
use crate::supervisor::{Beats, Supervisor};
use crate::worker::{self, Seed, Threads, Workers};
use crate::{acme, discovery, expiry, front_lists, health, metrics, outgoing, purge};
use control::Control;

/// Threads for file work, for the whole process.
const FILE_THREADS: usize = 8;
/// File jobs that may wait for one of them.
const FILE_JOBS_QUEUED: usize = 256;
/// Admin commands and reload requests that may wait.
const COMMANDS_QUEUED: usize = 16;
/// How long names of endpoints may take to be resolved at the start.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long lists of fronts' addresses may take to be fetched at the start.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a port that is in use is asked for at the start, and how often.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether the cache is to be swept.
const SWEEP_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stop waits for purges of the caches in front of us, once nothing else is open.
const PURGE_PATIENCE: Duration = Duration::from_secs(3);

/// How long a stop waits for what takes the logs: at least, and as far as the drain had time left.
const FLUSH_PATIENCE_MIN: Duration = Duration::from_millis(250);
const FLUSH_PATIENCE_MAX: Duration = Duration::from_secs(2);

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was open has ended.
    Clean,
    /// It could not start: a port, a file, a thread.
    StartFailed,
    /// A wrong command line or configuration.
    Refused,
    /// The deadline of the drain has cut something off.
    Cut,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::StartFailed => 1,
            Self::Refused => 2,
            Self::Cut => 3,
        }
    }
}

/// Reads, validates and compiles a configuration; prints what is wrong with it.
pub fn check(path: &Path) -> Exit {
    let console = Console::Direct;
    match prepare(path, &console) {
        Ok(prepared) => {
            let Compiled { warnings, snapshot } = &prepared.compiled;
            console.report(&diagnostics::render(warnings, &snapshot.sources));
            let config = &snapshot.config;
            console.report(&format!(
                "{}: ok, {} listeners, {} pools, {} routes\n",
                path.display(),
                config.listeners.len(),
                config.pools.len(),
                config.routes.len()
            ));
            Exit::Clean
        }
        Err(exit) => exit,
    }
}

/// Reads, validates and compiles a configuration, for whoever only looks at it.
pub fn compiled(path: &Path) -> Result<Compiled, Exit> {
    prepare(path, &Console::Direct).map(|prepared| prepared.compiled)
}

/// Runs the proxy until it is told to stop.
pub fn run(path: &Path) -> Exit {
    // Before there are other threads, since it changes the environment.
    let inherited = Inherited::take();
    let stderr =
        Sink::stderr().and_then(|stderr| Lines::start("program log", stderr, logging::QUEUE_BYTES));
    let stderr = match stderr {
        Ok(stderr) => stderr,
        Err(error) => {
            return start_failed(&Console::Direct, &format!("no thread for logs: {error}"));
        }
    };
    let console = Console::Queued(stderr.clone());
    let Stopped { exit, flush_by } = start(path, &console, &stderr, inherited);
    // Who does not read has to do without what is left.
    stderr.finish(flush_by);
    exit
}

fn start(
    path: &Path,
    console: &Console,
    stderr: &Lines,
    (inherited, problems): (Inherited, Vec<String>),
) -> Stopped {
    let runtime =
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return start_failed(console, &format!("no runtime: {error}")).into(),
        };
    let entered = runtime.enter();
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return no_signals(console, &error).into(),
    };
    drop(entered);
    let prepared = match prepare(path, console) {
        Ok(prepared) => prepared,
        Err(exit) => return exit.into(),
    };
    let log = &prepared.compiled.snapshot.config.log;
    let program_log = ProgramLog::start(log, stderr.clone());
    logging::log_panics();
    for problem in problems {
        tracing::warn!("{problem}");
    }
    let supervisor = match Supervisor::of_environment() {
        Ok(supervisor) => supervisor,
        Err(error) => {
            return start_failed(console, &format!("no thread for the supervisor: {error}")).into();
        }
    };
    let given = Given { signals, inherited, supervisor };
    let serving = serve(prepared, path, (program_log, stderr), console, given);
    let stopped = runtime.block_on(serving);
    // File and name look-ups that hang are nobody's concern any more.
    runtime.shutdown_background();
    stopped
}

/// How a process ends, and by when its logs must be written.
struct Stopped {
    exit: Exit,
    flush_by: std::time::Instant,
}

impl From<Exit> for Stopped {
    fn from(exit: Exit) -> Self {
        Self { exit, flush_by: std::time::Instant::now() + FLUSH_PATIENCE_MAX }
    }
}

/// What the process was started with beside its arguments.
struct Given {
    signals: Signals,
    inherited: Inherited,
    supervisor: Supervisor,
}

/// A configuration that is ready to run, and what the process has for it.
struct Prepared {
    compiled: Compiled,
    resources: Resources,
    descriptors_max: u64,
    files: Vec<PathBuf>,
    digest: u64,
}

fn prepare(path: &Path, console: &Console) -> Result<Prepared, Exit> {
    let descriptors_max = compile::raise_descriptors();
    let loaded = compile::load(path);
    let (files, digest) = (loaded.files.clone(), loaded.digest);
    let workers = loaded.draft.process.workers;
    metrics::set_shards(workers + 1);
    let reader = Reader::start(FILE_THREADS, FILE_JOBS_QUEUED)
        .map_err(|error| start_failed(console, &format!("no threads for files: {error}")))?;
    let resources = Resources {
        cache: Cache::new(&loaded.draft.cache, workers),
        under_way: Arc::default(),
        challenges: Arc::default(),
        files: reader,
        connections: ConnectionLimit::of_process(compile::connections_max(descriptors_max)),
    };
    let compiled =
        compile::compile(loaded, None, &resources, descriptors_max).map_err(|refused| {
            console.report(&diagnostics::render(&refused.diagnostics, &refused.sources));
            Exit::Refused
        })?;
    Ok(Prepared { compiled, resources, descriptors_max, files, digest })
}

/// Everything that must be ours before the first request, or the start fails.
struct Opened {
    admin: Option<AdminSocket>,
    bindings: Bindings,
    change: Change,
    access_log: Lines,
}

/// Makes the folders that the configuration names and that only we write to.
fn make_folders(config: &Config, console: &Console) -> Result<(), Exit> {
    let Some(acme) = &config.acme else { return Ok(()) };
    acme::make_folder(acme).map_err(|error| {
        let folder = acme.folder.display();
        start_failed(console, &format!("acme.folder: {folder} cannot be made: {error}"))
    })
}

async fn open(
    config: &Config,
    sources: &Sources,
    console: &Console,
    inherited: Inherited,
) -> Result<Opened, Exit> {
    make_folders(config, console)?;
    let mut problems = String::new();
    let admin = match config.admin.as_ref().map(|admin| admin::bind(&admin.bind)).transpose() {
        Ok(socket) => socket,
        Err(error) => {
            problems.push_str(&format!("error: admin.bind: {error}\n"));
            None
        }
    };
    let bindings = Bindings::new(inherited);
    for address in bindings.unused(&config.listeners) {
        tracing::warn!(%address, "an inherited socket that no listener binds: nobody accepts there");
    }
    match prepare_bindings(&bindings, config).await {
        Ok(change) if problems.is_empty() => {
            let sink = access_log::opened(config.log.access.to.clone()).await;
            let access_log = sink.and_then(access_log::start).map_err(|error| {
                start_failed(console, &format!("log.access.to cannot be opened: {error}"))
            })?;
            Ok(Opened { admin, bindings, change, access_log })
        }
        prepared => {
            let found = prepared.err().unwrap_or_default().problems;
            console.report(&(problems + &diagnostics::render(&found, sources)));
            Err(Exit::StartFailed)
        }
    }
}

/// Binds everything. What is in use may be about to be let go by a process that ends just now, as
/// the one before this.
async fn prepare_bindings(bindings: &Bindings, config: &Config) -> Result<Change, Unbound> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match bindings.prepare(&config.listeners, config.process.workers) {
            Err(unbound) if unbound.is_in_use && Instant::now() < deadline => {
                sleep(BIND_PAUSE).await;
            }
            prepared => return prepared,
        }
    }
}

async fn serve(
    prepared: Prepared,
    path: &Path,
    (program_log, stderr): (ProgramLog, &Lines),
    console: &Console,
    given: Given,
) -> Stopped {
    let Prepared { compiled, resources, descriptors_max, files, digest } = prepared;
    let Compiled { snapshot, warnings } = compiled;
    let sources = snapshot.sources.clone();
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.report(&sources)).collect();
    reload::log_all(&warnings);
    let Given { signals, inherited, supervisor } = given;
    let mut stop = match StopSignals::new() {
        Ok(stop) => stop,
        Err(error) => return no_signals(console, &error).into(),
    };
    let beginning = async {
        let opened = open(&snapshot.config, &sources, console, inherited).await?;
        discovery::resolve_all(&snapshot, None, RESOLVE_PATIENCE).await;
        let mut lists = FrontLists::new()
            .map_err(|error| start_failed(console, &format!("no list can be fetched: {error}")))?;
        lists.first(&snapshot, FETCH_PATIENCE).await;
        Ok((opened, lists))
    };
    let begun = tokio::select! {
        begun = beginning => begun,
        () = stop.received() => {
            tracing::info!("stopped by a signal before anything was served");
            Err(Exit::Clean)
        }
    };
    let (Opened { admin, bindings, change, access_log }, lists) = match begun {
        Ok(begun) => begun,
        Err(exit) => return exit.into(),
    };

    let published = Arc::new(ArcSwap::from_pointee(snapshot));
    let shutdown = Shutdown::default();
    let beats = Beats::new(published.load().config.process.workers);
    let (workers, threads) = match start_workers(&published, &access_log, &shutdown, &beats) {
        Ok(started) => started,
        Err(error) => {
            return start_failed(console, &format!("workers cannot be started: {error}")).into();
        }
    };
    let (commands, asked) = mpsc::channel(COMMANDS_QUEUED);
    let (triggers, triggered) = mpsc::channel(COMMANDS_QUEUED);
    let (generations, generation) = watch::channel(1);
    let purges = Arc::<Purges>::default();
    let certificates = Arc::<acme::Board>::default();
    let context = admin::Context {
        published: published.clone(),
        stop: shutdown.stop(),
        commands,
        reloads: Arc::default(),
        purges: purges.clone(),
        certificates: certificates.clone(),
        workers: workers.count(),
        addresses: Arc::default(),
        program_log: stderr.clone(),
        access_log: access_log.clone(),
        started: Instant::now(),
    };
    let reloader = Reloader {
        path: path.to_owned(),
        published: published.clone(),
        resources,
        workers,
        bindings,
        addresses: context.addresses.clone(),
        access_log: access_log.clone(),
        program_log,
        reloads: context.reloads.clone(),
        generations,
        descriptors_max,
        digest,
        warnings,
        fixed: Fixed::of(&published.load().config),
        supervisor: supervisor.clone(),
        refused: None,
    };
    let tasks = Tasks::default();
    let mut draining = shutdown.stop();
    let (changes, changed) = watch::channel(0);
    let health = health::run(published.clone(), generation.clone(), changed, shutdown.stop());
    tasks.spawn("health", health);
    let discovery = discovery::run(published.clone(), generation, changes, shutdown.stop());
    tasks.spawn("discovery", discovery);
    if let Some(socket) = admin {
        tracing::info!(address = %socket.address(), "admin API listening");
        tasks.spawn("admin", admin::serve(socket, Rc::new(context), tasks.clone()));
    }
    match outgoing::Client::new(None, outgoing::Bounds::default()) {
        Ok(client) => {
            let run = purge::run(purges.clone(), published.clone(), client, shutdown.stop());
            tasks.spawn("purge", run);
        }
        Err(error) => tracing::error!(%error, "the caches in front are not purged"),
    }
    start_acme(published.clone(), certificates, shutdown.stop());
    tasks.spawn("front lists", front_lists::run(lists, published.clone(), shutdown.stop()));
    tasks.spawn("expiry", expiry::run(published.clone(), shutdown.stop()));
    tasks.spawn("cache sweeper", sweep(published.clone(), shutdown.stop()));
    tasks.spawn("reload", async move {
        tokio::select! {
            () = reloader.run(change, files, triggered) => {}
            () = draining.reached(Phase::Draining) => {}
        }
    });
    tasks.spawn("supervisor", supervisor.clone().watch(beats));
    let access = access_log.clone();
    let mut control = Control { stop, signals, triggers, shutdown, access_log: access, supervisor };
    control.until_stop(&published, asked).await;
    let Stopped { exit, flush_by } = control.drain(&published.load().config.process, threads).await;
    let unfinished = purges.finished(PURGE_PATIENCE).await;
    if unfinished > 0 {
        tracing::error!(unfinished, "stopped before the caches in front were purged");
    }
    // Both logs have the same time: who reads neither does not hold a stop twice.
    let flush_by = flush_by.max(std::time::Instant::now() + FLUSH_PATIENCE_MIN);
    // On a thread of its own: purges and whoever else is left go on meanwhile.
    let flushed = tokio::task::spawn_blocking(move || access_log.finish(flush_by));
    if !flushed.await.unwrap_or(false) {
        tracing::warn!("the access log is cut: what takes it is too slow");
    }
    Stopped { exit, flush_by }
}

/// Runs on a thread of its own: its folder may lie where a disk hangs.
fn start_acme(published: Arc<ArcSwap<Snapshot>>, board: Arc<acme::Board>, stop: Stop) {
    let thread = std::thread::Builder::new().name("acme".to_owned());
    let started = thread.spawn(move || match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(acme::run(published, board, stop)),
        Err(error) => tracing::error!(%error, "certificates are not ordered: no runtime"),
    });
    if let Err(error) = started {
        tracing::error!(%error, "certificates are not ordered: no thread");
    }
}

/// Has the cache walked over when it is due, on a thread of its own.
async fn sweep(published: Arc<ArcSwap<Snapshot>>, mut stop: Stop) {
    let started = Instant::now();
    let mut ticks = interval(SWEEP_LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.reached(Phase::Draining) => return,
        }
        let (cache, uptime) = (published.load().cache.clone(), started.elapsed());
        if cache.is_sweep_due(uptime) {
            let now = Instant::now().into_std();
            let walk = tokio::task::spawn_blocking(move || cache.sweep(now, uptime)).await;
            match walk {
                Ok(removed) => tracing::debug!(removed, "cache swept"),
                Err(error) => tracing::error!(%error, "the walk over the cache failed"),
            }
        }
    }
}

fn start_workers(
    published: &Arc<ArcSwap<Snapshot>>,
    access_log: &Lines,
    shutdown: &Shutdown,
    beats: &Beats,
) -> io::Result<(Workers, Threads)> {
    let seed = |index| Seed {
        published: published.clone(),
        log: AccessLog::new(access_log.clone()),
        stop: shutdown.stop(),
        beat: beats.of(index),
    };
    worker::start((0..published.load().config.process.workers).map(seed).collect())
}

fn no_signals(console: &Console, error: &io::Error) -> Exit {
    start_failed(console, &format!("signals cannot be received: {error}"))
}

fn start_failed(console: &Console, why: &str) -> Exit {
    console.report(&format!("error: {why}\n"));
    Exit::StartFailed
}
