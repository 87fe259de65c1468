//! The waker that hyper's driver of a connection gets.
//!
//! Sender, driver and body of a connection are polled by one task, one after the other, but
//! hyper's parts wake each other as if they were three. A wake-up that comes while the task is
//! polling them anyway only has to be remembered; it would run the whole task again for nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// How often work that wakes itself is polled in one go.
const ROUNDS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Gate {
    state: Arc<State>,
    waker: Waker,
}

#[derive(Debug)]
struct State {
    /// The task that uses the connection; `None` while it rests.
    task: Mutex<Option<Waker>>,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(Ordering::Acquire) {
            self.woken.store(true, Ordering::Release);
            return;
        }
        match &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(task) => task.wake_by_ref(),
            None => self.woken.store(true, Ordering::Release),
        }
    }
}

impl Gate {
    pub(super) fn new() -> Self {
        let state = Arc::new(State {
            task: Mutex::new(None),
            polling: AtomicBool::new(false),
            woken: AtomicBool::new(false),
        });
        Self { waker: Waker::from(state.clone()), state }
    }

    /// Names the task that is to be woken by what happens from now on.
    pub(super) fn set_task(&self, task: &Waker) {
        let mut known = self.state.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    /// Whether something has happened that nobody has looked at.
    pub(super) fn is_woken(&self) -> bool {
        self.state.woken.load(Ordering::Acquire)
    }

    /// Nobody is to be woken.
    pub(super) fn clear_task(&self) {
        *self.state.task.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Polls `work`, again while it wakes itself without being ready, a few times: an endpoint that
    /// never stops sending, or a used-up budget of the runtime, must not hold the worker.
    pub(super) fn poll<T>(&self, mut work: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let mut context = Context::from_waker(&self.waker);
        self.state.polling.store(true, Ordering::Release);
        let mut result = Poll::Pending;
        for _ in 0..ROUNDS_MAX {
            self.state.woken.store(false, Ordering::Release);
            result = work(&mut context);
            if result.is_ready() || !self.state.woken.load(Ordering::Acquire) {
                break;
            }
        }
        self.state.polling.store(false, Ordering::Release);
        // What woke it between the last look and this line must not be lost.
        if self.state.woken.swap(false, Ordering::AcqRel) && result.is_pending() {
            self.waker.wake_by_ref();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn work_that_wakes_itself_is_polled_again_without_waking_the_task() {
        let (gate, count) = (Gate::new(), Arc::new(Count::default()));
        gate.set_task(&Waker::from(count.clone()));
        let mut polls = 0;
        let result: Poll<()> = gate.poll(|cx| {
            polls += 1;
            if polls < 3 {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        assert!(result.is_pending());
        assert_eq!((polls, count.0.load(Ordering::Relaxed)), (3, 0));
    }

    #[test]
    fn work_that_never_stops_waking_itself_gives_way() {
        let (gate, count) = (Gate::new(), Arc::new(Count::default()));
        gate.set_task(&Waker::from(count.clone()));
        let mut polls = 0;
        let result: Poll<()> = gate.poll(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(result.is_pending());
        assert_eq!((polls, count.0.load(Ordering::Relaxed)), (ROUNDS_MAX, 1));
    }

    #[test]
    fn a_wake_up_from_outside_wakes_the_task_of_the_moment() {
        let (gate, count) = (Gate::new(), Arc::new(Count::default()));
        let mut kept = None;
        let _: Poll<()> = gate.poll(|cx| {
            kept = Some(cx.waker().clone());
            Poll::Pending
        });
        let kept = kept.expect("it was polled");
        kept.wake_by_ref();
        gate.set_task(&Waker::from(count.clone()));
        kept.wake_by_ref();
        gate.clear_task();
        kept.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
