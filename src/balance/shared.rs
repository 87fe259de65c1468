//! What a pool keeps as long as its name is in the configuration, whatever a reload changes.

use std::sync::Arc;

use super::budget::Budget;
use super::outlier::Typical;
use super::pace::Pace;
use super::quantile::Quantile;
use super::queue::Queue;
use super::record::Watch;
use super::sequence::Cursor;

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Of `round_robin`.
    pub(super) cursor: Cursor,
    pub(super) budget: Budget,
    pub(super) queue: Arc<Queue>,
    pub(super) watch: Arc<Watch>,
    /// Of the latencies, for what is slow.
    pub(super) median: Typical,
    /// Of the latencies, what a quarter does not exceed, for what is slow to `ewma`.
    pub(super) quick: Typical,
    /// Of the time to the first byte, where hedging is automatic.
    pub(super) pace: Pace,
    /// Of the time to the first byte, where hedging goes by it.
    pub(super) quantile: Quantile,
}
