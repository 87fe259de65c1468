//! How many streams may be reset, and what becomes of the others.
//!
//! Since 2023 servers count resets: Netty and gRPC for Java close a connection after 200 in 30 s,
//! h2 for Rust after 20 that came before their requests were looked at, others at rates in between.
//! On a connection that requests of many clients share, one client would decide over all. So each
//! connection may reset a few at once and then so many a second. What is given up beyond that is
//! left to end, with what room its answer had; and where such streams take half of a connection's
//! places, another connection takes over.
//!
//! A client that has many of these on a worker has them at the endpoint, too: it gets no further
//! request there until some have ended.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// Streams of a connection that are reset at once.
const BURST: u32 = 10;
/// Between two further ones. With the burst 160 in 30 s.
const INTERVAL: Duration = Duration::from_millis(200);
/// Requests of one client on a worker that it has given up and that have not ended.
const GIVEN_UP_BY_CLIENT_MAX: usize = 256;

/// A token bucket: how many resets a connection has left.
#[derive(Debug)]
pub(super) struct Resets {
    left: Cell<u32>,
    /// When the first of those that are missing comes back.
    next: Cell<Instant>,
}

impl Resets {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: Cell::new(BURST), next: Cell::new(now) }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self, now: Instant) -> bool {
        while self.left.get() < BURST && self.next.get() <= now {
            self.left.set(self.left.get() + 1);
            self.next.set(self.next.get() + INTERVAL);
        }
        if self.left.get() == 0 {
            return false;
        }
        if self.left.get() == BURST {
            self.next.set(now + INTERVAL);
        }
        self.left.set(self.left.get() - 1);
        true
    }

    /// When there is one, where there is none.
    pub(super) fn next(&self) -> Instant {
        self.next.get()
    }
}

/// How many requests each client of a worker has given up that have not ended.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Clients {
    given_up: RefCell<HashMap<IpAddr, usize, foldhash::fast::RandomState>>,
}

/// One of them in the count of its client, until it has ended.
#[derive(Debug)]
pub(super) struct OfClient {
    clients: Rc<Clients>,
    ip: IpAddr,
}

impl Clients {
    /// Counts one.
    pub(super) fn given_up(self: &Rc<Self>, ip: IpAddr) -> OfClient {
        *self.given_up.borrow_mut().entry(ip).or_default() += 1;
        OfClient { clients: self.clone(), ip }
    }

    /// Whether a client has so many of them that it gets no more.
    pub(in crate::upstream) fn has_too_many(&self, ip: IpAddr) -> bool {
        let given_up = self.given_up.borrow();
        given_up.get(&ip).is_some_and(|count| *count >= GIVEN_UP_BY_CLIENT_MAX)
    }
}

impl Drop for OfClient {
    fn drop(&mut self) {
        let mut given_up = self.clients.given_up.borrow_mut();
        if let Some(count) = given_up.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                given_up.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_resets_a_few_at_once_and_then_so_many_a_second() {
        let start = Instant::now();
        let resets = Resets::new(start);
        let taken = |seconds: f64| {
            let now = start + Duration::from_secs_f64(seconds);
            (0..1000).take_while(|_| resets.take(now)).count()
        };
        assert_eq!(taken(1.0), 10);
        assert_eq!(taken(1.1), 0);
        assert_eq!(resets.next(), start + Duration::from_millis(1200));
        assert_eq!(taken(1.2), 1);
        assert_eq!(taken(2.0), 4);
        // What was not used adds up to the burst and no further.
        assert_eq!(taken(1000.0), 10);
        let later: usize = (1..=300).map(|tenth| taken(1000.0 + f64::from(tenth) / 10.0)).sum();
        assert!((148..=150).contains(&later), "{later}");
    }

    #[test]
    fn requests_that_were_given_up_count_for_their_client_until_they_end() {
        let clients = Rc::new(Clients::default());
        let [one, other] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
        let mut all: Vec<_> = (0..GIVEN_UP_BY_CLIENT_MAX).map(|_| clients.given_up(one)).collect();
        assert!(clients.has_too_many(one) && !clients.has_too_many(other));
        all.pop();
        assert!(!clients.has_too_many(one));
        all.clear();
        assert!(clients.given_up.borrow().is_empty());
    }
}
