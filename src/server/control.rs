//! What a running process is asked by signals and the admin API, and its stop.

use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Exit, FLUSH_PATIENCE_MAX, FLUSH_PATIENCE_MIN, Stopped};
use crate::admin::Command;
use crate::config::model::{Config, Process};
use crate::lines::Lines;
use crate::proxy::access_log;
use crate::reload::Trigger;
use crate::shutdown::{Phase, Shutdown};
use crate::signals::{Signals, StopSignals};
use crate::snapshot::Snapshot;
use crate::supervisor::Supervisor;
use crate::worker::Threads;

/// How long the workers may take to let go once the deadline has passed.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// Where signals and commands arrive.
pub(super) struct Control {
    pub(super) stop: StopSignals,
    pub(super) signals: Signals,
    pub(super) triggers: mpsc::Sender<Trigger>,
    pub(super) shutdown: Shutdown,
    pub(super) access_log: Lines,
    pub(super) supervisor: Supervisor,
}

impl Control {
    /// Answers signals and commands until one of them is to stop.
    pub(super) async fn until_stop(
        &mut self,
        published: &ArcSwap<Snapshot>,
        mut asked: mpsc::Receiver<Command>,
    ) {
        loop {
            let Signals { hangup, reopen, .. } = &mut self.signals;
            let trigger = tokio::select! {
                () = self.stop.received() => return tracing::info!("stopping: asked by a signal"),
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

    /// Opening takes as long as the file system likes, and nobody waits for it.
    fn reopen_log(&self, config: &Config) {
        let target = config.log.access.to.clone();
        if let Err(error) = self.access_log.switch(move || access_log::open(&target)) {
            tracing::error!(%error, "the access log cannot be opened; the old one goes on");
        }
    }

    /// Stops: not ready → not accepting → nothing open, or cut at the deadline.
    pub(super) async fn drain(&mut self, process: &Process, threads: Threads) -> Stopped {
        self.supervisor.stopping();
        self.shutdown.enter(Phase::Leaving);
        let mut hurried = tokio::select! {
            () = sleep(process.shutdown_delay) => false,
            () = self.stop.received() => true,
        };
        self.shutdown.enter(Phase::Draining);
        let mut joined = tokio::task::spawn_blocking(move || threads.join());
        let deadline = Instant::now() + process.drain_timeout;
        let mut cut = None;
        if !hurried {
            tokio::select! {
                joined = &mut joined => cut = Some(joined),
                () = sleep_until(deadline) => {}
                () = self.stop.received() => hurried = true,
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
        let exit = match cut {
            Some(0) => {
                tracing::info!("stopped");
                Exit::Clean
            }
            cut => {
                tracing::warn!(connections = cut, hurried, "stopped, cutting off what was open");
                Exit::Cut
            }
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        let patience = patience.clamp(FLUSH_PATIENCE_MIN, FLUSH_PATIENCE_MAX);
        Stopped { exit, flush_by: std::time::Instant::now() + patience }
    }
}
