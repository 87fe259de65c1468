//! The process: build → bind → start workers and control plane → wait → drain.
//!
//! Everything that serves requests runs on the workers; this thread runs the control plane, which
//! is quick and never blocks.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::admin::{self, AdminSocket, Command};
use crate::bindings::{Bindings, Change, Unbound};
use crate::cache::Cache;
use crate::compile::{self, Compiled};
use crate::config::diagnostics::{self, Sources};
use crate::config::model::{Config, Process};
use crate::files::Reader;
use crate::front_lists::FrontLists;
use crate::listener::Inherited;
use crate::logging::ProgramLog;
use crate::proxy::{LogWriter, Sink};
use crate::purge::Purges;
use crate::reload::{self, Reloader, Trigger};
use crate::shutdown::{Phase, Shutdown, Stop, Tasks};
use crate::snapshot::{ConnectionLimit, Resources, Snapshot};
use crate::worker::{self, Seed, Threads, Workers};
use crate::{acme, discovery, expiry, front_lists, health, metrics, outgoing, purge};

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
/// How long the workers may take to let go once the deadline has passed.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

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
    match prepare(path) {
        Ok(prepared) => {
            let Compiled { warnings, snapshot } = &prepared.compiled;
            report(&diagnostics::render(warnings, &snapshot.sources));
            let config = &snapshot.config;
            report(&format!(
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
    prepare(path).map(|prepared| prepared.compiled)
}

/// Runs the proxy until it is told to stop.
pub fn run(path: &Path) -> Exit {
    // Before there are other threads, since it changes the environment.
    let (inherited, problems) = Inherited::take();
    let prepared = match prepare(path) {
        Ok(prepared) => prepared,
        Err(exit) => return exit,
    };
    let program_log = ProgramLog::start(&prepared.compiled.snapshot.config.log);
    let runtime =
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return start_failed(&format!("no runtime: {error}")),
        };
    for problem in problems {
        tracing::warn!("{problem}");
    }
    let exit = runtime.block_on(serve(prepared, path, program_log, inherited));
    // File and name look-ups that hang are nobody's concern any more.
    runtime.shutdown_background();
    exit
}

/// A configuration that is ready to run, and what the process has for it.
struct Prepared {
    compiled: Compiled,
    resources: Resources,
    descriptors_max: u64,
    files: Vec<PathBuf>,
    digest: u64,
}

fn prepare(path: &Path) -> Result<Prepared, Exit> {
    let descriptors_max = compile::raise_descriptors();
    let loaded = compile::load(path);
    let (files, digest) = (loaded.files.clone(), loaded.digest);
    let workers = loaded.draft.process.workers;
    metrics::set_shards(workers + 1);
    let reader = Reader::start(FILE_THREADS, FILE_JOBS_QUEUED)
        .map_err(|error| start_failed(&format!("no threads for files: {error}")))?;
    let resources = Resources {
        cache: Cache::new(&loaded.draft.cache, workers),
        under_way: Arc::default(),
        challenges: Arc::default(),
        files: reader,
        connections: ConnectionLimit::of_process(compile::connections_max(descriptors_max)),
    };
    let compiled =
        compile::compile(loaded, None, &resources, descriptors_max).map_err(|refused| {
            report(&diagnostics::render(&refused.diagnostics, &refused.sources));
            Exit::Refused
        })?;
    Ok(Prepared { compiled, resources, descriptors_max, files, digest })
}

/// Everything that must be ours before the first request, or the start fails.
struct Opened {
    signals: Signals,
    admin: Option<AdminSocket>,
    bindings: Bindings,
    change: Change,
    access_log: Rc<LogWriter>,
}

async fn open(config: &Config, sources: &Sources, inherited: Inherited) -> Result<Opened, Exit> {
    let signals = Signals::new()
        .map_err(|error| start_failed(&format!("signals cannot be received: {error}")))?;
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
            let access_log = LogWriter::start(&config.log.access.to).map_err(|error| {
                start_failed(&format!("log.access.to cannot be opened: {error}"))
            })?;
            Ok(Opened { signals, admin, bindings, change, access_log: Rc::new(access_log) })
        }
        prepared => {
            let found = prepared.err().unwrap_or_default().problems;
            report(&(problems + &diagnostics::render(&found, sources)));
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
    program_log: ProgramLog,
    inherited: Inherited,
) -> Exit {
    let Prepared { compiled, resources, descriptors_max, files, digest } = prepared;
    let Compiled { snapshot, warnings } = compiled;
    let sources = snapshot.sources.clone();
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.report(&sources)).collect();
    reload::log_all(&warnings);
    let opened = match open(&snapshot.config, &sources, inherited).await {
        Ok(opened) => opened,
        Err(exit) => return exit,
    };
    let Opened { signals, admin, bindings, change, access_log } = opened;
    discovery::resolve_all(&snapshot, RESOLVE_PATIENCE).await;
    let mut lists = match FrontLists::new() {
        Ok(lists) => lists,
        Err(error) => return start_failed(&format!("no list can be fetched: {error}")),
    };
    lists.first(&snapshot, FETCH_PATIENCE).await;

    let published = Arc::new(ArcSwap::from_pointee(snapshot));
    let shutdown = Shutdown::default();
    let (workers, threads) = match start_workers(&published, &access_log, &shutdown) {
        Ok(started) => started,
        Err(error) => return start_failed(&format!("workers cannot be started: {error}")),
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
        access_log_dropped: access_log.dropped(),
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
        refused: None,
    };
    let tasks = Tasks::default();
    let mut stop = shutdown.stop();
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
    tasks.spawn("acme", acme::run(published.clone(), certificates, shutdown.stop()));
    tasks.spawn("front lists", front_lists::run(lists, published.clone(), shutdown.stop()));
    tasks.spawn("expiry", expiry::run(published.clone(), shutdown.stop()));
    tasks.spawn("cache sweeper", sweep(published.clone(), shutdown.stop()));
    tasks.spawn("reload", async move {
        tokio::select! {
            () = reloader.run(change, files, triggered) => {}
            () = stop.reached(Phase::Draining) => {}
        }
    });
    let mut control = Control { signals, triggers, shutdown, access_log: access_log.clone() };
    control.until_stop(&published, asked).await;
    let exit = control.drain(&published.load().config.process, threads).await;
    let unfinished = purges.finished(PURGE_PATIENCE).await;
    if unfinished > 0 {
        tracing::error!(unfinished, "stopped before the caches in front were purged");
    }
    drop((control, published));
    if let Some(log) = Rc::into_inner(access_log) {
        log.finish();
    }
    exit
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
    access_log: &LogWriter,
    shutdown: &Shutdown,
) -> io::Result<(Workers, Threads)> {
    let seed =
        |_| Seed { published: published.clone(), log: access_log.handle(), stop: shutdown.stop() };
    worker::start((0..published.load().config.process.workers).map(seed).collect())
}

/// Where signals and commands arrive.
struct Control {
    signals: Signals,
    triggers: mpsc::Sender<Trigger>,
    shutdown: Shutdown,
    access_log: Rc<LogWriter>,
}

impl Control {
    /// Answers signals and commands until one of them is to stop.
    async fn until_stop(
        &mut self,
        published: &ArcSwap<Snapshot>,
        mut asked: mpsc::Receiver<Command>,
    ) {
        loop {
            let Signals { stop, hangup, reopen } = &mut self.signals;
            let trigger = tokio::select! {
                () = stop.received() => return tracing::info!("stopping: asked by a signal"),
                _ = hangup.recv() => Trigger::Signal,
                _ = reopen.recv() => {
                    self.reopen_log(&published.load().config);
                    continue;
                }
                command = asked.recv() => match command {
                    Some(Command::Reload(asker)) => Trigger::Admin(asker),
                    Some(Command::Drain) => return tracing::info!("stopping: asked by the API"),
                    // Without an admin listener nobody asks.
                    None => std::future::pending().await,
                },
            };
            if self.triggers.try_send(trigger).is_err() {
                tracing::warn!("too many reloads are waiting; this one is dropped");
            }
        }
    }

    fn reopen_log(&self, config: &Config) {
        match Sink::open(&config.log.access.to) {
            Ok(sink) => self.access_log.switch(sink),
            Err(error) => {
                tracing::error!(%error, "the access log cannot be opened; the old one goes on");
            }
        }
    }

    /// Stops: not ready → not accepting → nothing open, or cut at the deadline.
    async fn drain(&mut self, process: &Process, threads: Threads) -> Exit {
        self.shutdown.enter(Phase::Leaving);
        let mut hurried = tokio::select! {
            () = sleep(process.shutdown_delay) => false,
            () = self.signals.stop.received() => true,
        };
        self.shutdown.enter(Phase::Draining);
        let mut joined = tokio::task::spawn_blocking(move || threads.join());
        let deadline = Instant::now() + process.drain_timeout;
        let mut cut = None;
        if !hurried {
            tokio::select! {
                joined = &mut joined => cut = Some(joined),
                () = sleep_until(deadline) => {}
                () = self.signals.stop.received() => hurried = true,
            }
        }
        let cut = match cut {
            Some(cut) => cut.ok(),
            None => {
                self.shutdown.enter(Phase::Aborting);
                let joined = timeout(ABORT_PATIENCE, joined).await;
                joined.ok().and_then(Result::ok)
            }
        };
        match cut {
            Some(0) => {
                tracing::info!("stopped");
                Exit::Clean
            }
            cut => {
                tracing::warn!(connections = cut, hurried, "stopped, cutting off what was open");
                Exit::Cut
            }
        }
    }
}

/// The signals that mean something to us.
struct Signals {
    stop: StopSignals,
    hangup: Signal,
    reopen: Signal,
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}

impl StopSignals {
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_failed(why: &str) -> Exit {
    report(&format!("error: {why}\n"));
    Exit::StartFailed
}

/// Before there is a log, and where a command's own output goes.
fn report(text: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
