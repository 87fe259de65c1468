//! How long the parts of a body may take that comes from a backend.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Kind;
use crate::timer::SlotTimer;

/// The deadlines of a body while it comes.
#[derive(Debug)]
pub struct Patience {
    /// The longest gap between two parts.
    idle: Option<Duration>,
    /// When its end must have come.
    total: Option<Instant>,
    /// When the last part came.
    progress: Instant,
    timer: SlotTimer,
}

impl Patience {
    /// With a body whose head came at `began`.
    pub fn new(
        idle: Option<Duration>,
        total: Option<Instant>,
        began: Instant,
        timer: SlotTimer,
    ) -> Self {
        Self { idle, total, progress: began, timer }
    }

    /// When the last part came.
    pub fn progress(&self) -> Instant {
        self.progress
    }

    /// Notes that a part has come.
    ///
    /// # Errors
    /// [`Kind::Deadline`] where that is too late: a body that never waits would have no end.
    pub fn advance(&mut self) -> Result<(), Kind> {
        self.progress = Instant::now();
        match self.total {
            Some(total) if self.progress >= total => Err(Kind::Deadline),
            _ => Ok(()),
        }
    }

    /// Ready once the part that is waited for is late. `sent` is when the other direction last
    /// moved, where both are under way at once.
    pub fn poll(&mut self, sent: Option<Instant>, cx: &mut Context<'_>) -> Poll<Kind> {
        let progress = sent.map_or(self.progress, |sent| sent.max(self.progress));
        let idle = self.idle.map(|idle| progress + idle);
        let Some(deadline) = [idle, self.total].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let now = Instant::now();
        self.timer.poll_until(deadline, now, cx).map(|()| {
            let is_total = self.total.is_some_and(|total| now >= total);
            if is_total { Kind::Deadline } else { Kind::IdleTimeout }
        })
    }
}
