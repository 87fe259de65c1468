//! What whoever started the process is told of it: readiness, reloads, the stop, and signs of life
//! (`sd_notify`, for a unit of systemd with `Type=notify`).
//!
//! Words go through a bounded queue to a thread of their own: the other side may be slow to take
//! them. Without `NOTIFY_SOCKET` in the environment nothing is said and nothing runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Words that may wait to be taken.
const WORDS_QUEUED: usize = 16;
/// The name of the variable that says where to.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Signs of life in each period after which a missing one ends the process.
const SIGNS_A_PERIOD: u32 = 3;

/// The other side, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Supervisor(Option<SyncSender<Word>>);

#[derive(Debug)]
enum Word {
    Ready(String),
    Reloading,
    Stopping,
    Alive,
}

/// When each worker last had a turn, in seconds since the start of the process.
#[derive(Debug, Clone)]
pub struct Beats {
    started: Instant,
    last: Arc<[AtomicU64]>,
}

/// One worker's share of [`Beats`]. Dropped with its worker, which is missed no more unless it has
/// panicked.
#[derive(Debug)]
pub struct Beat {
    beats: Beats,
    index: usize,
}

impl Supervisor {
    /// The one that the environment names.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn of_environment() -> io::Result<Self> {
        if std::env::var_os(SOCKET).is_none() {
            return Ok(Self::default());
        }
        let (words, told) = sync_channel(WORDS_QUEUED);
        std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || tell(&told))?;
        Ok(Self(Some(words)))
    }

    /// Says that requests are served; `status` is for people.
    pub fn ready(&self, status: impl FnOnce() -> String) {
        if self.0.is_some() {
            self.say(Word::Ready(status()));
        }
    }

    /// Says that a reload has begun; `ready` ends it.
    pub fn reloading(&self) {
        self.say(Word::Reloading);
    }

    /// Says that the process is about to end.
    pub fn stopping(&self) {
        self.say(Word::Stopping);
    }

    fn say(&self, word: Word) {
        if let Some(words) = &self.0
            && words.try_send(word).is_err()
        {
            tracing::debug!("the supervisor takes nothing");
        }
    }

    /// Gives signs of life as often as they are asked for, as long as every worker has its turns.
    pub async fn watch(self, beats: Beats) {
        let Some(period) = sd_notify::watchdog_enabled().filter(|_| self.0.is_some()) else {
            return;
        };
        let mut ticks = interval((period / SIGNS_A_PERIOD).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match beats.silence() {
                silence if silence <= (period / 2).max(BEAT_SLACK) => self.say(Word::Alive),
                silence => tracing::error!(?silence, "a worker has had no turn"),
            }
        }
    }
}

/// How long a worker may be silent at least: its beats are a second apart.
const BEAT_SLACK: Duration = Duration::from_secs(3);

fn tell(words: &Receiver<Word>) {
    while let Ok(word) = words.recv() {
        let told = match &word {
            Word::Ready(status) => {
                sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
            }
            Word::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
            Word::Stopping => {
                sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("draining")])
            }
            Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        };
        if let Err(error) = told {
            tracing::warn!(%error, ?word, "the supervisor cannot be told");
        }
    }
}

impl Beats {
    pub fn new(workers: usize) -> Self {
        let last = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self { started: Instant::now(), last }
    }

    pub fn of(&self, index: usize) -> Beat {
        Beat { beats: self.clone(), index }
    }

    /// How long the worker has had no turn that is waiting longest.
    fn silence(&self) -> Duration {
        let oldest = self.last.iter().map(|last| last.load(Ordering::Relaxed)).min();
        self.started.elapsed().saturating_sub(Duration::from_secs(oldest.unwrap_or(u64::MAX)))
    }
}

impl Beat {
    /// Says that the worker has its turn now.
    pub fn beat(&self) {
        self.set(self.beats.started.elapsed().as_secs());
    }

    fn set(&self, seconds: u64) {
        if let Some(last) = self.beats.last.get(self.index) {
            last.store(seconds, Ordering::Relaxed);
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.set(u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_missed_until_it_has_ended() {
        let beats = Beats::new(2);
        let (first, second) = (beats.of(0), beats.of(1));
        tokio::time::advance(Duration::from_secs(10)).await;
        first.beat();
        assert_eq!(beats.silence().as_secs(), 10);
        second.beat();
        assert_eq!(beats.silence().as_secs(), 0);
        tokio::time::advance(Duration::from_secs(5)).await;
        first.beat();
        drop(second);
        assert_eq!(beats.silence().as_secs(), 0);
        drop(first);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(beats.silence().as_secs(), 0);
    }
}
