//! One data-plane thread: its runtime, its sockets, its upstream connections.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::listener::{Accepting, Door, ListenSocket, ListenerName, Registry, accept};
use crate::metrics;
use crate::outbox;
use crate::proxy::AccessLog;
use crate::proxy::local::Local;
use crate::shutdown::{Phase, Stop, Tasks};
use crate::snapshot::Snapshot;
use crate::supervisor::Beat;
use crate::upstream::{self, Claim, Reclaim};

/// Sockets that may wait to be taken over by a worker.
const SOCKETS_QUEUED: usize = 1024;
/// Requests to close a resting connection that may wait.
const RECLAIMS_QUEUED: usize = 256;
/// How long log lines gather before they are handed on.
const LOG_INTERVAL: Duration = Duration::from_millis(100);
/// How often resting upstream connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// All workers, as the control plane reaches them.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[mpsc::Sender<Accepting>]>);

/// The threads of all workers.
#[derive(Debug)]
pub struct Threads(Vec<JoinHandle<usize>>);

/// What a worker is started with.
#[derive(Debug)]
pub struct Seed {
    pub published: Arc<ArcSwap<Snapshot>>,
    pub log: AccessLog,
    pub stop: Stop,
    /// Says that the worker has its turns.
    pub beat: Beat,
}

/// Starts a worker for each seed.
pub fn start(seeds: Vec<Seed>) -> io::Result<(Workers, Threads)> {
    let (mailboxes, reclaims): (Vec<_>, Vec<_>) =
        seeds.iter().map(|_| mpsc::channel(RECLAIMS_QUEUED)).unzip();
    let reclaim = Reclaim::new(mailboxes);
    let mut mailboxes = Vec::new();
    let mut threads = Vec::new();
    for (index, (seed, reclaims)) in seeds.into_iter().zip(reclaims).enumerate() {
        let (sockets, queue) = mpsc::channel(SOCKETS_QUEUED);
        let reclaim = reclaim.clone();
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        threads.push(thread.spawn(move || {
            metrics::set_shard(index + 1);
            run(seed, queue, reclaims, reclaim)
        })?);
        mailboxes.push(sockets);
    }
    Ok((Workers(mailboxes.into()), Threads(threads)))
}

impl Workers {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Gives each worker its socket of an address, or its sockets.
    pub async fn take(
        &self,
        sockets: Vec<ListenSocket>,
        listener: &ListenerName,
        stop: &CancellationToken,
        door: Door,
    ) {
        let door = Arc::new(door);
        for (worker, socket) in self.0.iter().cycle().zip(sockets) {
            let (listener, stop, door) = (listener.clone(), stop.clone(), door.clone());
            let accepting = Accepting { socket, listener, stop, door };
            if worker.send(accepting).await.is_err() {
                tracing::error!("a worker has ended and takes no socket");
            }
        }
    }
}

impl Threads {
    /// Waits for all of them, blocking; how many requests they cut off.
    pub fn join(self) -> usize {
        let join = |thread: JoinHandle<usize>| {
            thread.join().unwrap_or_else(|_| {
                tracing::error!("a worker panicked");
                1
            })
        };
        self.0.into_iter().map(join).sum()
    }
}

fn run(
    seed: Seed,
    sockets: mpsc::Receiver<Accepting>,
    reclaims: mpsc::Receiver<Claim>,
    reclaim: Reclaim,
) -> usize {
    let runtime =
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "a worker has no runtime");
                return 0;
            }
        };
    let tasks = Tasks::default();
    let local =
        Rc::new(Local::new(seed.published, reclaim, seed.log, tasks.clone(), seed.stop.clone()));
    let work = work(local.clone(), tasks, sockets, reclaims, seed.stop, seed.beat);
    let cut = runtime.block_on(work);
    // Everything that still runs is dropped with the runtime, its log lines included.
    drop(runtime);
    local.log.flush();
    cut
}

/// Runs until the stop; how many requests were cut off by its deadline.
async fn work(
    local: Rc<Local>,
    tasks: Tasks,
    mut sockets: mpsc::Receiver<Accepting>,
    reclaims: mpsc::Receiver<Claim>,
    mut stop: Stop,
    beat: Beat,
) -> usize {
    let registry = Rc::new(Registry::default());
    let accepting = Tasks::default();
    let housekeeping = Tasks::default();
    housekeeping.spawn("outbox", outbox::run());
    let turns = local.encoders.turns.clone();
    housekeeping.spawn("encoders", async move { turns.pace().await });
    housekeeping.spawn("log", hand_on_log_lines(local.clone()));
    housekeeping.spawn("sweep", sweep(local.clone(), beat));
    housekeeping.spawn("reclaim", close_on_request(local.clone(), reclaims));
    let mut stops = Vec::new();
    let begin = |socket: Accepting, stops: &mut Vec<CancellationToken>| {
        stops.retain(|stop| !stop.is_cancelled());
        stops.push(socket.stop.clone());
        let serve = accept(local.clone(), socket, registry.clone(), tasks.clone());
        accepting.spawn("accept", serve);
    };
    loop {
        tokio::select! {
            biased;
            () = stop.reached(Phase::Draining) => break,
            socket = sockets.recv() => match socket {
                Some(socket) => begin(socket, &mut stops),
                None => stop.reached(Phase::Draining).await,
            },
        }
    }
    // A socket that waits to be taken over may have connections in its queue already.
    while let Ok(socket) = sockets.try_recv() {
        begin(socket, &mut stops);
    }
    registry.drain();
    for stop in stops {
        stop.cancel();
    }
    let ended = async {
        accepting.ended(Duration::MAX).await;
        tasks.ended(Duration::MAX).await
    };
    tokio::select! {
        _ = ended => 0,
        () = stop.reached(Phase::Aborting) => registry.active(),
    }
}

async fn hand_on_log_lines(local: Rc<Local>) {
    let mut tick = tokio::time::interval(LOG_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        local.log.flush();
    }
}

async fn sweep(local: Rc<Local>, beat: Beat) {
    let mut tick = tokio::time::interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut felt = upstream::felt();
    loop {
        tick.tick().await;
        beat.beat();
        // Whoever cannot close what rests feels a want too: look-ups, probes, the admin API.
        let felt_now = upstream::felt();
        if std::mem::replace(&mut felt, felt_now) != felt_now {
            local.connections.give_half_up();
        }
        // Taking the snapshot also lets go of the one before, on a worker without requests.
        let snapshot = local.snapshot();
        if !local.connections.is_empty() {
            let known = snapshot.endpoint_ids();
            local.connections.sweep(|id| known.contains(&id));
        }
    }
}

async fn close_on_request(local: Rc<Local>, mut reclaims: mpsc::Receiver<Claim>) {
    while let Some(claim) = reclaims.recv().await {
        local.connections.reclaim(claim);
    }
}
