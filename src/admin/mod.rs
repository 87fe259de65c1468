//! The admin API: what the process is doing, and the few things that may be asked of it.
//!
//! It runs on the control plane. What it shows is read from the published snapshot and its
//! atomics; what takes long (a scrape, a walk over the cache) runs on a thread aside, so that
//! health checks go on meanwhile. What changes the process as a whole is a [`Command`] to its
//! owner, which answers.
//!
//! ```text
//! socket, serve      bind, accept, one connection
//! places             who may stay, and who gives way
//! router, guard      which call, and who may make it
//! request, reply     bodies in, answers out
//! readiness, metrics, status, routes, pools, manual, cache, purge, acme    one call each
//! ```
//!
//! Deliberately absent: TLS (bind to a loopback address, a unix socket or a private network), and
//! what a reload or a drain does.

mod acme;
mod cache;
mod explain;
mod fronts;
mod guard;
mod manual;
mod metrics;
mod places;
mod pools;
mod purge;
mod readiness;
mod reloads;
mod reply;
mod request;
mod router;
mod routes;
mod serve;
mod socket;
mod status;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use reloads::ReloadLog;
pub use serve::serve;
pub use socket::{AdminSocket, BindError, bind};

use crate::config::diagnostics::Report;
use crate::config::model::{BindAddress, Name};
use crate::lines::Lines;
use crate::purge as purge_fronts;
use crate::shutdown::Stop;
use crate::snapshot::Snapshot;

/// What the API shows and whom it asks.
#[derive(Debug)]
pub struct Context {
    pub published: Arc<ArcSwap<Snapshot>>,
    pub stop: Stop,
    pub commands: mpsc::Sender<Command>,
    pub reloads: Arc<ReloadLog>,
    /// Of the caches in front of us.
    pub purges: purge_fronts::Shared,
    /// By ACME.
    pub certificates: crate::acme::Shared,
    /// Data-plane threads.
    pub workers: usize,
    /// Where each listener accepts, with the ports that the kernel chose; empty before they do.
    pub addresses: Arc<ArcSwap<Vec<(Name, BindAddress)>>>,
    pub program_log: Lines,
    pub access_log: Lines,
    pub started: Instant,
}

/// What the API asks of the process.
#[derive(Debug)]
pub enum Command {
    /// Load the configuration again, and say what came of it.
    Reload(oneshot::Sender<ReloadAnswer>),
    /// Finish what is open, then exit.
    Drain,
}

/// What came of a reload.
#[derive(Debug)]
pub enum ReloadAnswer {
    Accepted {
        generation: u64,
        /// False if the content was the same as before.
        changed: bool,
        warnings: Vec<Report>,
    },
    /// The old configuration stays.
    Refused { problems: Vec<Report> },
}
