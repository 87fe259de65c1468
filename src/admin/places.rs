//! Places of connections: who may stay, and who gives way to a new one.
//!
//! Probes and scrapes decide whether this process gets traffic, so nobody who merely connects may
//! keep them out. Connections that ask for nothing, or do not read what they asked for, give way to
//! new ones, the longest silent first; and connections that carry probes and scrapes have places of
//! their own, which no other call takes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Connections that are new or carry calls other than probes and scrapes.
const CONNECTIONS_MAX: usize = 64;
/// Connections whose last request was a probe or a scrape.
const PROBES_MAX: usize = 32;
/// Connections above [`CONNECTIONS_MAX`] that may say whether they are for a probe, while all others
/// are being answered.
const UNKNOWN_MAX: usize = 32;

/// How long a client may take for its next step: a head, or taking a part of an answer.
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// From a head to the end of its answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Places {
    taken: RefCell<Vec<Rc<Seat>>>,
    freed: Notify,
}

/// One connection.
#[derive(Debug)]
struct Seat {
    /// Its last request was a probe or a scrape.
    probes: Cell<bool>,
    /// A request is being answered; otherwise it is its client's turn.
    is_answering: Cell<bool>,
    /// The last step that the client took.
    progress: Cell<Instant>,
    last_head: Cell<Instant>,
    gives_way: Cell<bool>,
    told: Notify,
}

/// The place of one connection, until it is dropped.
#[derive(Debug, Clone)]
pub(super) struct Place(Rc<Owned>);

#[derive(Debug)]
struct Owned {
    places: Rc<Places>,
    seat: Rc<Seat>,
}

impl Places {
    /// A place for a new connection, waited for while all others are being answered.
    pub(super) async fn take(self: &Rc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                break;
            }
            freed.await;
        }
        let now = Instant::now();
        let seat = Rc::new(Seat {
            probes: Cell::new(false),
            is_answering: Cell::new(false),
            progress: Cell::new(now),
            last_head: Cell::new(now),
            gives_way: Cell::new(false),
            told: Notify::new(),
        });
        self.taken.borrow_mut().push(seat.clone());
        Place(Rc::new(Owned { places: self.clone(), seat }))
    }

    fn has_room(&self) -> bool {
        let count = self.count(false);
        count < CONNECTIONS_MAX || self.make_room(false) || count < CONNECTIONS_MAX + UNKNOWN_MAX
    }

    /// Connections of one kind that stay.
    fn count(&self, probes: bool) -> usize {
        let taken = self.taken.borrow();
        taken.iter().filter(|seat| seat.probes.get() == probes && !seat.gives_way.get()).count()
    }

    /// Has that connection of a kind give way whose client took its last step before all others.
    fn make_room(&self, probes: bool) -> bool {
        let taken = self.taken.borrow();
        let silent = taken.iter().filter(|seat| {
            seat.probes.get() == probes && !seat.gives_way.get() && !seat.is_answering.get()
        });
        let Some(oldest) = silent.min_by_key(|seat| seat.progress.get()) else { return false };
        oldest.gives_way.set(true);
        oldest.told.notify_one();
        true
    }
}

impl Place {
    /// A head has come, of a probe or a scrape or of another call. False if there is no place for
    /// another of its kind.
    #[must_use]
    pub(super) fn begin(&self, is_probe: bool) -> bool {
        let Owned { places, seat } = &*self.0;
        let now = Instant::now();
        seat.progress.set(now);
        seat.last_head.set(now);
        seat.is_answering.set(true);
        let max = if is_probe { PROBES_MAX } else { CONNECTIONS_MAX };
        seat.probes.set(is_probe);
        places.count(is_probe) <= max || places.make_room(is_probe)
    }

    /// The answer is there, to be taken by the client.
    pub(super) fn answered(&self) {
        self.0.seat.is_answering.set(false);
        self.progress();
    }

    /// The client took a part of an answer.
    pub(super) fn progress(&self) {
        self.0.seat.progress.set(Instant::now());
    }

    /// Waits until the connection has to end, and why.
    pub(super) async fn over(&self) -> &'static str {
        let seat = &self.0.seat;
        loop {
            if seat.gives_way.get() {
                return "gives way to another";
            }
            let whole = seat.last_head.get() + EXCHANGE_TIMEOUT;
            let step = seat.progress.get() + CLIENT_TIMEOUT;
            let end = if seat.is_answering.get() { whole } else { whole.min(step) };
            if Instant::now() >= end {
                return "client takes too long";
            }
            // What is being answered may become the client's turn meanwhile.
            let look = end.min(Instant::now() + CLIENT_TIMEOUT);
            let _ = tokio::time::timeout_at(look, seat.told.notified()).await;
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().retain(|seat| !Rc::ptr_eq(seat, &self.seat));
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gives_way(place: &Place) -> bool {
        place.0.seat.gives_way.get()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_silent_connection_gives_way_to_a_new_one() {
        let places = Rc::new(Places::default());
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            held.push(places.take().await);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(held[0].begin(false), "it is being answered");
        held[1].progress();
        let _new = places.take().await;
        let given: Vec<usize> = (0..held.len()).filter(|it| gives_way(&held[*it])).collect();
        assert_eq!(given, [2]);
        assert_eq!(held[2].over().await, "gives way to another");
    }

    #[tokio::test(start_paused = true)]
    async fn probes_find_a_place_while_all_others_are_being_answered() {
        let places = Rc::new(Places::default());
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            held.push(places.take().await);
            assert!(held.last().expect("a place").begin(false));
        }
        let (probe, other) = (places.take().await, places.take().await);
        assert!(probe.begin(true));
        assert!(!other.begin(false), "its kind has no place");
        assert!(!held.iter().any(gives_way));
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_do_not_take_the_places_of_probes() {
        let places = Rc::new(Places::default());
        let scrape = places.take().await;
        assert!(scrape.begin(true));
        scrape.answered();
        let mut held = Vec::new();
        for _ in 0..300 {
            held.push(places.take().await);
        }
        assert!(!gives_way(&scrape));
        assert!(held.iter().filter(|place| !gives_way(place)).count() <= CONNECTIONS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_a_time_for_each_step_and_for_the_whole() {
        let places = Rc::new(Places::default());
        let place = places.take().await;
        let start = Instant::now();
        let reads = async {
            for _ in 0..3 {
                tokio::time::sleep(CLIENT_TIMEOUT / 2).await;
                place.progress();
            }
        };
        tokio::join!(place.over(), reads);
        assert_eq!(start.elapsed(), CLIENT_TIMEOUT / 2 * 5);

        let place = places.take().await;
        let start = Instant::now();
        assert!(place.begin(false));
        place.over().await;
        assert_eq!(start.elapsed(), EXCHANGE_TIMEOUT);
    }
}
