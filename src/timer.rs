//! A deadline that moves often and fires rarely.
//!
//! Moving a tokio timer costs a lock and a walk of its wheel. Deadlines of a busy connection move
//! with every request, nearly always to later; so the timer is left where it is and looks, when it
//! fires, whether the deadline has moved on. A timer that is no longer needed is left armed for
//! the same reason: one that fires for nothing wakes its task once.
//!
//! What a timer belongs to may pass from one task to another, as the body of an answer does when a
//! fetch hands it to its client. So a timer knows which task it is armed for, and is armed anew by
//! any other that asks.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Armed>,
}

/// When the sleep will wake a task, and which.
#[derive(Debug)]
struct Armed {
    at: Instant,
    waker: Waker,
}

impl LazyTimer {
    /// Ready once `deadline` has passed. Otherwise the task that asks is woken then, or earlier to
    /// ask again; of several tasks the one that asked last.
    pub fn poll_until(
        &mut self,
        deadline: Instant,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if now >= deadline {
            return Poll::Ready(());
        }
        let armed = self.armed.as_ref().filter(|armed| now < armed.at && armed.at <= deadline);
        let at = match armed {
            Some(armed) if armed.waker.will_wake(cx.waker()) => return Poll::Pending,
            Some(armed) => armed.at,
            None => deadline,
        };
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                sleep
            }
            None => self.sleep.insert(Box::pin(sleep_until(at))),
        };
        self.armed = Some(Armed { at, waker: cx.waker().clone() });
        ready!(sleep.as_mut().poll(cx));
        self.armed = None;
        if at < deadline {
            // It is not due yet, and nothing would wake the task any more.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl LazyTimer {
    /// Wakes the task within `after`, counted from now or from an earlier call, to look again.
    pub fn keep_armed(&mut self, after: Duration, cx: &mut Context<'_>) {
        let is_armed = self.armed.as_ref().is_some_and(|it| it.waker.will_wake(cx.waker()))
            && self.sleep.as_ref().is_some_and(|sleep| !sleep.is_elapsed());
        if is_armed {
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
    /// The timer of the slot; it need not be armed anew where the task of the slot polls it.
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

    /// Asks once, as a task does that is woken by `waker`.
    fn ask(timer: &mut LazyTimer, deadline: Instant, waker: &Waker) -> Poll<()> {
        timer.poll_until(deadline, Instant::now(), &mut Context::from_waker(waker))
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_armed_by_one_task_wakes_the_one_that_it_was_handed_to() {
        for later in [0, 25] {
            let start = Instant::now();
            let mut timer = LazyTimer::default();
            let deadline = start + Duration::from_secs(30);
            assert!(ask(&mut timer, deadline, Waker::noop()).is_pending());
            // Nothing else wakes the other one.
            let deadline = deadline + Duration::from_secs(later);
            poll_fn(|cx| timer.poll_until(deadline, Instant::now(), cx)).await;
            assert_eq!(start.elapsed(), Duration::from_secs(30 + later));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_kept_armed_wakes_the_task_that_it_was_handed_to() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        timer.keep_armed(Duration::from_secs(5), &mut Context::from_waker(Waker::noop()));
        let mut is_first = true;
        poll_fn(|cx| {
            timer.keep_armed(Duration::from_secs(5), cx);
            if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_that_a_timer_is_armed_for_does_not_arm_it_again() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        poll_fn(|cx| {
            for seconds in 10..20 {
                let deadline = start + Duration::from_secs(seconds);
                assert!(timer.poll_until(deadline, start, cx).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        let armed = timer.armed.as_ref().map(|armed| armed.at);
        assert_eq!(armed, Some(start + Duration::from_secs(10)));
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
