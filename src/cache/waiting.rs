//! The waiting side of a flight: for what it comes to, be it by another fetch, and for a turn to
//! begin a fetch beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flight::{Flight, Phase, State};
use super::outcome::Outcome;
use super::storable::Refusal;

/// Endpoints that are remembered as being asked.
const ENDPOINTS_MAX: usize = 64;

impl Flight {
    /// Waits until the fetch is settled. It always is: its lead settles it when dropped.
    pub async fn outcome(&self) -> Outcome {
        self.when(|state| match &state.phase {
            Phase::Settled(outcome) => Some(outcome.clone()),
            Phase::Waiting => None,
        })
        .await
    }

    /// Waits until there is something for those who did not begin it, or a turn to begin a fetch
    /// beside it, which there is after a `wait`.
    pub async fn outcome_or_turn(self: &Arc<Self>, wait: Duration) -> Result<Outcome, Turn> {
        loop {
            let settled = self.settled.notified();
            let next = {
                let mut state = self.state();
                if let Some(outcome) = state.outcome_for_others() {
                    return Ok(outcome);
                }
                let now = tokio::time::Instant::now();
                if state.turns.take(wait, now) {
                    return Err(Turn { flight: self.clone(), has_failed: false });
                }
                state.turns.next(wait, now)
            };
            match next {
                None => settled.await,
                Some(next) => drop(tokio::time::timeout_at(next, settled).await),
            }
        }
    }

    /// A turn to begin a fetch beside it, if there is one at this moment.
    pub fn turn(self: &Arc<Self>, wait: Duration) -> Option<Turn> {
        let mut state = self.state();
        let may_begin = state.outcome_for_others().is_none()
            && state.turns.take(wait, tokio::time::Instant::now());
        may_begin.then(|| Turn { flight: self.clone(), has_failed: false })
    }

    /// Waits until there is an answer for everybody, be it of another fetch.
    pub async fn shared(&self) -> Outcome {
        self.when(|state| match &state.phase {
            Phase::Settled(outcome) if outcome.is_for_everybody() => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until another fetch has brought an answer for everybody.
    pub async fn overtaken(&self) -> Outcome {
        self.when(|state| match &state.phase {
            Phase::Settled(outcome @ Outcome::Overtaken(_)) => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    async fn when<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            let settled = self.settled.notified();
            if let Some(found) = look(&self.state()) {
                return found;
            }
            settled.await;
        }
    }

    /// Whether an answer for everybody has come.
    pub fn is_shared(&self) -> bool {
        matches!(&self.state().phase, Phase::Settled(outcome) if outcome.is_for_everybody())
    }

    /// Settles the outcome; only the first call counts, unless all that had come was that another
    /// fetch was earlier.
    pub(super) fn settle(&self, outcome: Outcome) {
        {
            let mut state = self.state();
            let is_open = match &state.phase {
                Phase::Waiting => true,
                Phase::Settled(Outcome::Overtaken(_)) => {
                    matches!(outcome, Outcome::Streaming(_) | Outcome::Confirmed { .. })
                }
                Phase::Settled(_) => false,
            };
            if !is_open {
                return;
            }
            state.phase = Phase::Settled(outcome);
            state.progressed = Instant::now();
        }
        self.settled.notify_waiters();
    }

    /// Lets all go on who wait for it: an answer to one of them was for that one only.
    pub(super) fn disperse(&self, refusal: Refusal) {
        self.state().dispersed = Some(refusal);
        self.settled.notify_waiters();
    }

    /// Whether others wait beside the request that it was begun for.
    pub(super) fn has_followers(&self) -> bool {
        self.state().waiting > 1
    }

    /// How long ago it began.
    pub(super) fn took(&self) -> Duration {
        self.state().turns.began().elapsed()
    }

    /// Notes that an endpoint is being asked.
    pub fn note_endpoint(&self, id: u64) {
        let endpoints = &mut self.state().endpoints;
        if endpoints.len() < ENDPOINTS_MAX && !endpoints.contains(&id) {
            endpoints.push(id);
        }
    }

    /// Endpoints that were asked, by id. Another fetch is better made elsewhere.
    pub fn endpoints(&self) -> Vec<u64> {
        self.state().endpoints.clone()
    }
}

impl State {
    /// What there is for those who did not begin the fetch.
    fn outcome_for_others(&self) -> Option<Outcome> {
        match (&self.phase, self.dispersed) {
            (Phase::Settled(outcome), _) => Some(outcome.clone()),
            (Phase::Waiting, Some(refusal)) => Some(Outcome::Alone(refusal)),
            (Phase::Waiting, None) => None,
        }
    }
}

/// The right to make a fetch beside the one that a flight began with, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    flight: Arc<Flight>,
    has_failed: bool,
}

impl Turn {
    /// The fetch brought no answer for anybody: others may take its place.
    pub fn fail(mut self) {
        self.has_failed = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.flight.state().turns.end(self.has_failed);
        self.flight.settled.notify_waiters();
    }
}
