//! Requests for which we lack what a connection needs: descriptors, ports, memory.
//!
//! That is no endpoint's fault and costs no try. A request waits a moment for something to become
//! free, bounded in time and in number, and connections that rest are given up meanwhile.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::local::{Local, Place};
use crate::error::Error;
use crate::upstream::tell;

/// How long a request waits, all tries together.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pauses between its tries: a random part of this, at least a quarter.
const PAUSE_MAX: Duration = Duration::from_millis(60);
/// Requests of one worker that wait.
const WAITING_MAX: usize = 256;
/// What a worker knows of its shortage.
#[derive(Debug, Default)]
pub struct Shortage {
    waiting: Rc<Cell<usize>>,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Wait {
    until: Instant,
    _place: Place,
}

impl Wait {
    /// A place among those that wait, if there is one.
    pub(super) fn begin(local: &Local) -> Option<Self> {
        let place = Place::take(&local.shortage.waiting, WAITING_MAX)?;
        Some(Self { until: Instant::now() + PATIENCE, _place: place })
    }

    /// Waits a moment, unless that is over, or would be after `deadline`; whether it did.
    pub(super) async fn a_moment(
        &self,
        local: &Local,
        error: &Error,
        deadline: Option<Instant>,
    ) -> bool {
        tell(error, "no connection to an endpoint can be opened");
        local.connections.give_one_up();
        local.reclaim.ask_for_any();
        let pause = PAUSE_MAX.mul_f64(0.25 + 0.75 * local.rng.unit());
        let again = Instant::now() + pause;
        if again > self.until || deadline.is_some_and(|deadline| again > deadline) {
            return false;
        }
        sleep_until(again).await;
        true
    }
}
