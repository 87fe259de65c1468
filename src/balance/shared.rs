//! What a pool keeps as long as its name is in the configuration, whatever a reload changes.

use std::sync::Arc;

use super::budget::Budget;
use super::outlier::Median;
use super::quantile::Quantile;
use super::queue::Queue;
use super::sequence::Cursor;

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Of `round_robin`.
    pub(super) cursor: Cursor,
    pub(super) budget: Budget,
    pub(super) queue: Arc<Queue>,
    /// Of the latencies, for what is slow.
    pub(super) median: Median,
    /// Of the time to the first byte, where hedging goes by it.
    pub(super) quantile: Quantile,
}
