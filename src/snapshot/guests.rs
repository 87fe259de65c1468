//! Who holds the places of the process, so that under pressure the idle give way: first those of
//! the client with the most connections, of them the oldest.
//!
//! One table for all workers. It is locked when a connection comes or goes, and looked through when
//! there is no place for another; requests only note in their own connection whether it is idle.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::limit::ConnectionLimit;

/// Of so many connections one is asked to give way at once, so that looking for them costs each
/// newcomer little.
const OPEN_PER_ASKED: usize = 64;
/// How long a connection that was asked counts as one that is about to go, in milliseconds.
const LEAVING_MAX: u64 = 200;
/// Says that a connection was not asked.
const NEVER: u64 = u64::MAX;
/// The idle time of a connection that is at work.
const AT_WORK: u64 = u64::MAX;

/// The open connections of the process.
#[derive(Debug)]
pub(super) struct Guests {
    started: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    seats: Vec<Option<Seat>>,
    free: Vec<usize>,
    /// How many connections each client has.
    clients: HashMap<IpAddr, Arc<AtomicUsize>>,
}

#[derive(Debug)]
struct Seat {
    standing: Arc<Standing>,
    client: IpAddr,
    count: Arc<AtomicUsize>,
    limit: Arc<ConnectionLimit>,
}

/// What a connection is at, as other workers see it.
#[derive(Debug)]
struct Standing {
    /// Since when it has been idle, in milliseconds of the process.
    idle_since: AtomicU64,
    /// When it was asked to give way, as `idle_since`.
    asked_at: AtomicU64,
    asked: Notify,
}

/// An open connection in the table, until it is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    standing: Arc<Standing>,
    seat: usize,
}

impl Guests {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), table: Mutex::default() })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(AT_WORK - 1)
    }

    /// Counts a connection in, idle.
    pub(super) fn enter(self: &Arc<Self>, limit: &Arc<ConnectionLimit>, address: IpAddr) -> Guest {
        let standing = Arc::new(Standing {
            idle_since: AtomicU64::new(self.now()),
            asked_at: AtomicU64::new(NEVER),
            asked: Notify::new(),
        });
        let client = client(address);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.count_in(client);
        let seat = Seat { standing: standing.clone(), client, count, limit: limit.clone() };
        let index = match table.free.pop() {
            Some(index) => index,
            None => {
                table.seats.push(None);
                table.seats.len() - 1
            }
        };
        table.seats[index] = Some(seat);
        Guest { guests: self.clone(), standing, seat: index }
    }

    /// Asks some idle connections to give way to so many newcomers: those of one listener, or any
    /// whose listener has more than its own places. Returns how many go.
    pub(super) fn ask(&self, of: Option<&Arc<ConnectionLimit>>, newcomers: usize) -> usize {
        let now = self.now();
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving = 0;
        let mut idle: Vec<_> = table
            .seats
            .iter()
            .flatten()
            .filter(|seat| match of {
                Some(limit) => Arc::ptr_eq(limit, &seat.limit),
                None => seat.limit.is_beyond_its_own(),
            })
            .filter_map(|seat| {
                let since = seat.standing.idle_since.load(Ordering::Relaxed);
                if since == AT_WORK {
                    return None;
                }
                match seat.standing.asked_at.load(Ordering::Relaxed) {
                    NEVER => {
                        let count = seat.count.load(Ordering::Relaxed);
                        return Some((Reverse(count), since, seat));
                    }
                    at => leaving += usize::from(now.saturating_sub(at) < LEAVING_MAX),
                }
                None
            })
            .collect();
        let open = table.seats.len() - table.free.len();
        let batch = (open / OPEN_PER_ASKED).max(1);
        let missing = newcomers.max(batch).saturating_sub(leaving);
        let wanted = batch.min(missing).min(idle.len());
        if wanted == 0 {
            return leaving;
        }
        idle.select_nth_unstable_by_key(wanted - 1, |(count, since, _)| (*count, *since));
        for (.., seat) in &idle[..wanted] {
            seat.standing.asked_at.store(now, Ordering::Relaxed);
            seat.standing.asked.notify_one();
        }
        leaving + wanted
    }
}

impl Table {
    fn count_in(&mut self, client: IpAddr) -> Arc<AtomicUsize> {
        let count = self.clients.entry(client).or_default();
        count.fetch_add(1, Ordering::Relaxed);
        count.clone()
    }

    fn count_out(&mut self, client: IpAddr) {
        if let Some(count) = self.clients.get(&client)
            && count.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.clients.remove(&client);
        }
    }
}

impl Guest {
    /// Counts the connection as another client's, as a proxy in front says.
    pub fn rename(&self, address: IpAddr) {
        let client = client(address);
        let mut table = self.guests.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = table.seats[self.seat].as_ref().map(|seat| seat.client) else { return };
        if before == client {
            return;
        }
        table.count_out(before);
        let count = table.count_in(client);
        if let Some(seat) = &mut table.seats[self.seat] {
            (seat.client, seat.count) = (client, count);
        }
    }

    /// Notes that a request is under way.
    pub fn set_at_work(&self) {
        self.standing.idle_since.store(AT_WORK, Ordering::Relaxed);
    }

    /// Notes that none is any more.
    pub fn set_idle(&self) {
        // Whoever was asked while a request came may be asked again.
        self.standing.asked_at.store(NEVER, Ordering::Relaxed);
        self.standing.idle_since.store(self.guests.now(), Ordering::Relaxed);
    }

    /// Waits until the connection is asked to give way.
    pub async fn asked(&self) {
        self.standing.asked.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut table = self.guests.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = table.seats[self.seat].take() {
            table.count_out(seat.client);
            table.free.push(self.seat);
        }
    }
}

/// One client: an address, of IPv6 the network that a client has to itself.
fn client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn is_asked(guest: &Guest) -> bool {
        guest.standing.asked_at.load(Ordering::Relaxed) != NEVER
    }

    /// Of a process that has run for a while.
    fn guests() -> Arc<Guests> {
        let started = Instant::now().checked_sub(Duration::from_secs(10)).expect("a late moment");
        Arc::new(Guests { started, table: Mutex::default() })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_greediest_gives_way_first_and_of_it_the_oldest_that_is_idle() {
        let process = ConnectionLimit::of_process(100);
        let limit = ConnectionLimit::new(100, &process);
        let guests = guests();
        let modest = guests.enter(&limit, address(1));
        modest.set_idle();
        let greedy: Vec<_> = (0..3).map(|_| guests.enter(&limit, address(2))).collect();
        for (guest, since) in greedy.iter().zip([5, 3, 9]) {
            guest.standing.idle_since.store(since, Ordering::Relaxed);
        }
        greedy[1].set_at_work();
        assert_eq!(guests.ask(Some(&limit), 1), 1);
        assert!(is_asked(&greedy[0]));
        assert_eq!(guests.ask(Some(&limit), 1), 1, "it is about to go");
        assert!(!is_asked(&greedy[2]));
        assert_eq!(guests.ask(Some(&limit), 2), 2);
        assert!(is_asked(&greedy[2]) && !is_asked(&greedy[1]) && !is_asked(&modest));
        assert_eq!(guests.ask(Some(&limit), 9), 3);
        assert!(is_asked(&modest));
        assert_eq!(guests.ask(Some(&limit), 9), 3);
        greedy[1].set_idle();
        assert_eq!(guests.ask(Some(&limit), 9), 4);
    }

    #[test]
    fn a_client_is_forgotten_with_its_last_connection_and_a_network_of_ipv6_is_one() {
        let process = ConnectionLimit::of_process(100);
        let limit = ConnectionLimit::new(100, &process);
        let guests = Guests::new();
        let first = guests.enter(&limit, "2001:db8::1".parse().expect("an address"));
        let second = guests.enter(&limit, "2001:db8::2".parse().expect("an address"));
        assert_eq!(guests.table.lock().expect("not poisoned").clients.len(), 1);
        second.rename(address(1));
        assert_eq!(guests.table.lock().expect("not poisoned").clients.len(), 2);
        drop((first, second));
        let table = guests.table.lock().expect("not poisoned");
        assert!(table.clients.is_empty() && table.free.len() == table.seats.len());
    }

    #[test]
    fn connections_of_another_listener_are_asked_for_places_of_the_process_only() {
        let process = ConnectionLimit::of_process(100);
        let (a, b) = (ConnectionLimit::new(100, &process), ConnectionLimit::new(100, &process));
        let guests = guests();
        let _guest = guests.enter(&a, address(1));
        assert_eq!(guests.ask(Some(&b), 1), 0);
        // It is among the places that are its listener's own.
        assert_eq!(guests.ask(None, 1), 0);
        assert_eq!(guests.ask(Some(&a), 1), 1);
    }
}
