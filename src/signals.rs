//! The signals that mean something to us, and those that must not end the process by accident.
//!
//! A signal that nobody has asked for ends a process unless somebody receives it. What is received
//! and never looked at is ignored. Left as they are: those that tell of a crash, those that stop and
//! continue a job, and those that are ignored anyway.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals without a meaning here. SIGXFSZ comes where a log has grown to the limit on files; then
/// its writing fails, which is counted.
const IGNORED: [i32; 8] = [
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXFSZ,
];

/// Real-time signals. The first two belong to the C library.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Signals that ask for something beside a stop. Received from their making on: one that comes while
/// the process starts waits for its turn.
#[derive(Debug)]
pub struct Signals {
    /// SIGHUP: reload.
    pub hangup: Signal,
    /// SIGUSR1: open the access log anew.
    pub reopen: Signal,
    _ignored: Vec<Signal>,
}

/// Signals that ask for a stop.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub fn new() -> io::Result<Self> {
        let ignored = IGNORED.into_iter().chain(REAL_TIME);
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            // One that the system does not let us have keeps its effect.
            _ignored: ignored.filter_map(|it| signal(SignalKind::from_raw(it)).ok()).collect(),
        })
    }
}

impl StopSignals {
    /// Must be called within a runtime. Until then they end the process at once.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}
