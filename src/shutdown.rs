//! Stopping: the phase that a process is in, and tasks that somebody waits for.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Not ready any more, but still accepting: whoever routes to us needs time to notice.
    Leaving,
    /// Accepting nothing; what is open ends.
    Draining,
    /// The deadline has passed: what is open is cut.
    Aborting,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
            Self::Aborting => "aborting",
        }
    }
}

/// The stop as its initiator sees it.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<Phase>);

/// The stop as everybody else sees it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Phase>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Shutdown {
    /// Goes on to `phase`; going back is not possible.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let forward = *current < phase;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    pub fn stop(&self) -> Stop {
        Stop(self.0.subscribe())
    }
}

impl Stop {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Resolves when `phase` or a later one is reached.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender lives as long as the process; without it there is nothing left to wait for.
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}

/// The tasks of one thread, each with a name, that can be waited for.
#[derive(Debug, Clone, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Runs a task on the current thread. Its name stands in the log if it panics.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let named = NameOnPanic(name);
        let token = self.0.token();
        tokio::task::spawn_local(async move {
            let _token = token;
            task.await;
            drop(named);
        });
    }

    /// How many are running.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until all have ended, for at most `patience`; whether they did.
    pub async fn ended(&self, patience: Duration) -> bool {
        self.0.close();
        tokio::time::timeout(patience, self.0.wait()).await.is_ok()
    }
}

/// Logs the name of a task that unwinds.
struct NameOnPanic(&'static str);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward() {
        let shutdown = Shutdown::default();
        let mut stop = shutdown.stop();
        shutdown.enter(Phase::Draining);
        shutdown.enter(Phase::Leaving);
        stop.reached(Phase::Leaving).await;
        assert_eq!(stop.phase(), Phase::Draining);
    }

    #[tokio::test]
    async fn tasks_are_waited_for_with_patience() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let tasks = Tasks::default();
                let (release, wait) = tokio::sync::oneshot::channel::<()>();
                tasks.spawn("waits", async {
                    let _ = wait.await;
                });
                assert!(!tasks.ended(Duration::from_millis(1)).await);
                drop(release);
                assert!(tasks.ended(Duration::from_secs(5)).await);
            })
            .await;
    }
}
