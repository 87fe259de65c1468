//! A deadline that moves often and fires rarely.
//!
//! Moving a tokio timer costs a lock and a walk of its wheel. Deadlines of a busy connection move
//! with every request, nearly always to later; so the timer is left where it is and looks, when it
//! fires, whether the deadline has moved on. A timer that is no longer needed is left armed for
//! the same reason: one that fires for nothing wakes its task once.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the sleep will wake the task, if it is armed.
    armed: Option<Instant>,
}

impl LazyTimer {
    /// Ready once `deadline` has passed. Otherwise the task is woken then, or earlier to ask again.
    /// The task must be the same at every call.
    pub fn poll_until(
        &mut self,
        deadline: Instant,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if now >= deadline {
            return Poll::Ready(());
        }
        if self.armed.is_some_and(|armed| now < armed && armed <= deadline) {
            return Poll::Pending;
        }
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => self.sleep.insert(Box::pin(sleep_until(deadline))),
        };
        self.armed = Some(deadline);
        ready!(sleep.as_mut().poll(cx));
        self.armed = None;
        Poll::Ready(())
    }
}

impl LazyTimer {
    /// Wakes the task within `after`, counted from now or from an earlier call, to look again.
    pub fn keep_armed(&mut self, after: Duration, cx: &mut Context<'_>) {
        if self.armed.is_some() && self.sleep.as_ref().is_some_and(|sleep| !sleep.is_elapsed()) {
            return;
        }
        let now = Instant::now();
        self.armed = None;
        if self.poll_until(now + after, now, cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Where a task keeps a timer between the requests that need one.
#[derive(Clone, Default)]
pub struct TimerSlot(Rc<Cell<Option<LazyTimer>>>);

impl fmt::Debug for TimerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimerSlot")
    }
}

/// A timer on loan from its slot.
#[derive(Debug, Default)]
pub struct SlotTimer {
    timer: LazyTimer,
    slot: Option<TimerSlot>,
}

impl TimerSlot {
    /// The timer of the slot, which must belong to the task that will poll it.
    pub fn take(&self) -> SlotTimer {
        SlotTimer { timer: self.0.take().unwrap_or_default(), slot: Some(self.clone()) }
    }
}

impl Deref for SlotTimer {
    type Target = LazyTimer;

    fn deref(&self) -> &LazyTimer {
        &self.timer
    }
}

impl DerefMut for SlotTimer {
    fn deref_mut(&mut self) -> &mut LazyTimer {
        &mut self.timer
    }
}

impl Drop for SlotTimer {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.0.set(Some(std::mem::take(&mut self.timer)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_on_fires_at_its_new_time() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        let mut deadline = start + Duration::from_secs(1);
        let mut moved = false;
        poll_fn(|cx| {
            let now = Instant::now();
            let result = timer.poll_until(deadline, now, cx);
            if !moved {
                moved = true;
                deadline = start + Duration::from_secs(5);
            }
            result
        })
        .await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_forward_fires_early() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        poll_fn(|cx| {
            let _ = timer.poll_until(start + Duration::from_secs(60), start, cx);
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll_until(start + Duration::from_secs(2), Instant::now(), cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_goes_back_to_its_slot_and_serves_the_next_request() {
        let slot = TimerSlot::default();
        let start = Instant::now();
        for seconds in 1..=3 {
            let mut timer = slot.take();
            let deadline = start + Duration::from_secs(seconds);
            poll_fn(|cx| timer.poll_until(deadline, Instant::now(), cx)).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert!(slot.take().sleep.is_some());
    }
}
