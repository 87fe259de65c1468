//! Counters that cost a worker no shared cache line, and their Prometheus exposition.
//!
//! Every data-plane thread has a shard of its own in each counter; a scrape adds the shards up.
//! Labels exist only at scrape time: the hot path holds the counters of its listener, route and
//! pool and never formats a label. Deliberately absent: a global registry. What owns a feature
//! owns its counters and writes them into an [`Exposition`] when asked.

mod exposition;
mod histogram;
mod per_worker;
pub mod status;

pub use exposition::{Exposition, Family};
pub use histogram::{Histogram, HistogramCells, LATENCY_BOUNDS, Totals};
pub use per_worker::{Counter, Gauge, PerWorker, set_shard, set_shards};
