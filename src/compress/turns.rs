//! Turns of the encoders of one worker.
//!
//! An encoder that worked whenever its task is polled would take a slice for each body in every
//! round of the worker, and a crowd of bodies would hold up everybody else for all their slices
//! together. So one encoder works in a round, for a [slice of time](TURN_MAX); then all that is
//! ready has its turn, sockets included, before the next encoder is called. However many bodies
//! are being encoded, a neighbour waits for one slice.
//!
//! Between rounds stands [`Turns::pace`], a task of the worker. Without that, on threads that serve
//! nobody, every encoder may work at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::encode::Effort;

/// How long an encoder goes on in its turn; the piece at hand is finished, which takes at most
/// about half a millisecond more.
pub const TURN_MAX: Duration = Duration::from_micros(200);
/// An encoder that does not come for its turn loses it after this: its client may take nothing.
const PATIENCE: Duration = Duration::from_millis(5);

/// With so many waiting for their turn, further bodies are encoded with less effort.
const BUSY: usize = 4;
/// With so many, further bodies are sent as they are.
const OVERLOADED: usize = 16;

/// How much the encoders of a worker have to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Easy,
    Busy,
    Overloaded,
}

#[derive(Debug, Default)]
pub struct Turns {
    /// In the order in which they came.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
    /// The one whose turn it is.
    called: Cell<Option<u64>>,
    /// Somebody has worked in this round.
    is_spent: Cell<bool>,
    last_id: Cell<u64>,
    /// Of the task between rounds; `None` where there is none.
    pacer: RefCell<Option<Waker>>,
}

/// The place of one encoder among those that wait. Dropped, it is given up.
#[derive(Debug)]
pub struct Ticket {
    turns: Rc<Turns>,
    id: u64,
}

impl Turns {
    pub fn ticket(self: &Rc<Self>) -> Ticket {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        Ticket { turns: self.clone(), id }
    }

    pub fn load(&self) -> Load {
        match self.waiting.borrow().len() {
            ..BUSY => Load::Easy,
            BUSY..OVERLOADED => Load::Busy,
            _ => Load::Overloaded,
        }
    }

    /// Takes the turn of this round for something small, unless somebody has it or waits for it.
    pub fn take_now(&self) -> bool {
        if self.pacer.borrow().is_none() {
            return true;
        }
        if self.is_spent.get() || self.called.get().is_some() || !self.waiting.borrow().is_empty() {
            return false;
        }
        self.is_spent.set(true);
        self.wake_pacer();
        true
    }

    /// Calls one encoder after the other, with a round of all other tasks in between.
    pub async fn pace(&self) {
        let _end = End(self);
        loop {
            poll_fn(|cx| self.poll_work(cx)).await;
            // Woken behind all that is ready, once the sockets were asked.
            tokio::task::yield_now().await;
            self.is_spent.set(false);
            if !self.call() {
                continue;
            }
            let called = Instant::now();
            while self.called.get().is_some() && called.elapsed() < PATIENCE {
                tokio::task::yield_now().await;
            }
            self.called.set(None);
        }
    }

    /// Waits until somebody has worked or wants to.
    fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_spent.get() || !self.waiting.borrow().is_empty() {
            return Poll::Ready(());
        }
        let pacer = &mut *self.pacer.borrow_mut();
        if !pacer.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *pacer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn call(&self) -> bool {
        let Some((id, waker)) = self.waiting.borrow_mut().pop_front() else { return false };
        self.called.set(Some(id));
        waker.wake();
        true
    }

    fn wake_pacer(&self) {
        if let Some(pacer) = &*self.pacer.borrow() {
            pacer.wake_by_ref();
        }
    }

    fn leave(&self, id: u64) {
        self.waiting.borrow_mut().retain(|(waiting, _)| *waiting != id);
        if self.called.get() == Some(id) {
            self.called.set(None);
        }
    }
}

/// From here on nobody waits.
struct End<'a>(&'a Turns);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.pacer.replace(None);
        self.0.called.set(None);
        for (_, waker) in self.0.waiting.take() {
            waker.wake();
        }
    }
}

impl Ticket {
    /// Ready when it is this encoder's turn, which lasts until [`Self::end`].
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let turns = &self.turns;
        if turns.pacer.borrow().is_none() || turns.called.get() == Some(self.id) {
            return Poll::Ready(());
        }
        let mut waiting = turns.waiting.borrow_mut();
        match waiting.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                waiting.push_back((self.id, cx.waker().clone()));
                turns.wake_pacer();
            }
        }
        Poll::Pending
    }

    /// Ends the turn.
    pub fn end(&self) {
        if self.turns.called.get() == Some(self.id) {
            self.turns.called.set(None);
            self.turns.is_spent.set(true);
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// The effort that is right for a body that begins now.
    pub fn effort(&self) -> Effort {
        match self.turns.load() {
            Load::Easy => Effort::Passing,
            Load::Busy | Load::Overloaded => Effort::Hurried,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.turns.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `test` beside the task between rounds.
    async fn paced<T>(test: impl AsyncFnOnce(&Rc<Turns>) -> T) -> T {
        let turns = Rc::new(Turns::default());
        tokio::select! {
            biased;
            () = turns.pace() => unreachable!("it never ends"),
            result = test(&turns) => result,
        }
    }

    #[tokio::test]
    async fn encoders_work_one_after_the_other_and_others_in_between() {
        let order = paced(async |turns| {
            let order = RefCell::new(Vec::new());
            let encoder = async |name: char| {
                let ticket = turns.ticket();
                for _ in 0..3 {
                    ticket.turn().await;
                    order.borrow_mut().push(name);
                    ticket.end();
                }
            };
            let other = async {
                for _ in 0..6 {
                    tokio::task::yield_now().await;
                    order.borrow_mut().push('-');
                }
            };
            tokio::join!(encoder('a'), encoder('b'), other);
            order.into_inner()
        })
        .await;
        let encoders: String = order.iter().filter(|name| **name != '-').collect();
        assert_eq!(encoders, "ababab");
        let together = order.windows(2).filter(|pair| pair[0] != '-' && pair[1] != '-').count();
        assert!(together < 4, "{order:?}");
    }

    #[tokio::test]
    async fn an_encoder_that_does_not_come_for_its_turn_holds_nobody_up() {
        paced(async |turns| {
            let (absent, present) = (turns.ticket(), turns.ticket());
            assert!(absent.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            present.turn().await;
            present.end();
            drop(absent);
        })
        .await;
    }

    #[tokio::test]
    async fn something_small_is_done_at_once_when_nobody_else_works() {
        paced(async |turns| {
            tokio::task::yield_now().await;
            assert!(turns.take_now());
            assert!(!turns.take_now(), "once a round");
            while !turns.take_now() {
                tokio::task::yield_now().await;
            }
            let ticket = turns.ticket();
            assert!(ticket.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert!(!turns.take_now(), "somebody waits");
        })
        .await;
    }

    #[test]
    fn the_more_wait_the_less_effort() {
        let turns = Rc::new(Turns::default());
        *turns.pacer.borrow_mut() = Some(Waker::noop().clone());
        let mut cx = Context::from_waker(Waker::noop());
        let mut loads = Vec::new();
        let tickets: Vec<Ticket> = (0..=OVERLOADED)
            .map(|_| {
                loads.push(turns.load());
                let ticket = turns.ticket();
                assert!(ticket.poll(&mut cx).is_pending());
                ticket
            })
            .collect();
        assert_eq!((loads[0], loads[BUSY]), (Load::Easy, Load::Busy));
        assert_eq!(loads[OVERLOADED], Load::Overloaded);
        assert_eq!(tickets[0].effort(), Effort::Hurried);
        drop(tickets);
        assert_eq!(turns.load(), Load::Easy);
    }
}
