//! The connections of one worker: HTTP/1.1 at rest, and all of HTTP/2.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::Connection;
use super::h2::{Opening, Place, Purpose, Sessions};
use crate::balance::{Endpoint, IdleConnection};
use crate::error::Error;

/// Connections at rest, by the id of their endpoint.
#[derive(Debug, Default)]
pub struct Connections {
    idle: RefCell<HashMap<u64, Vec<Idle>, foldhash::fast::RandomState>>,
    h2: Sessions,
}

/// On which terms a connection is kept after a response.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Connections at rest for the endpoint, over all workers.
    pub idle_max: usize,
    /// How long it may rest; zero closes it.
    pub idle_for: Duration,
    /// Open connections to the endpoint, over all workers: at that many none rests in the way of
    /// another worker.
    pub open_max: usize,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    until: Instant,
    _counted: IdleConnection,
}

impl Connections {
    /// The connection to `endpoint` that rested last, if there is a usable one. With `certain`
    /// the kernel is asked whether the endpoint has closed it meanwhile: a request that must not
    /// be sent twice goes only on one that is still open.
    pub fn take(
        &self,
        endpoint: &Endpoint,
        certain: bool,
        now: Instant,
    ) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&endpoint.id)?;
        while let Some(Idle { mut connection, until, .. }) = list.pop() {
            if now < until && connection.is_ready() && (!certain || connection.is_quiet()) {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Puts a connection to rest after its response, `now` or a moment later, if it can carry another request.
    pub fn give_back(self: &Rc<Self>, mut connection: Box<Connection>, keep: Keep, now: Instant) {
        if keep.idle_for.is_zero() || !connection.rest() {
            return;
        }
        if connection.endpoint().must_give_way(keep.open_max) {
            return;
        }
        let Some(counted) = connection.endpoint().idle_connection(keep.idle_max) else { return };
        let id = connection.endpoint().id;
        let idle = Idle { connection, until: now + keep.idle_for, _counted: counted };
        self.idle.borrow_mut().entry(id).or_default().push(idle);
    }

    /// A place on an open HTTP/2 connection to `endpoint`.
    pub fn take_place(
        &self,
        endpoint: &Endpoint,
        terms: (Purpose, Keep),
        now: Instant,
    ) -> Option<Place> {
        self.h2.take(endpoint, terms, now)
    }

    /// Whether a client has given up so many requests over HTTP/2 that have not ended that it gets no
    /// more.
    pub fn is_shut_to(&self, client: IpAddr) -> bool {
        self.h2.is_shut_to(client)
    }

    /// A place on an HTTP/2 connection that is opened for it, and whether it was: another request
    /// may have opened one meanwhile.
    ///
    /// # Errors
    /// There is no connection; the same for all that waited for it.
    pub async fn open_place(
        &self,
        endpoint: &Arc<Endpoint>,
        opening: Opening<'_>,
    ) -> Result<(Place, bool), Error> {
        self.h2.open(endpoint, opening).await
    }

    /// Closes what has rested long enough or was closed by its endpoint, and everything of
    /// endpoints for which `is_known` says no.
    pub fn sweep(&self, is_known: impl Fn(u64) -> bool) {
        let now = Instant::now();
        self.h2.sweep(&is_known);
        self.idle.borrow_mut().retain(|id, list| {
            if is_known(*id) {
                list.retain_mut(|idle| now < idle.until && idle.connection.is_ready());
            } else {
                list.clear();
            }
            !list.is_empty()
        });
    }

    /// Closes the connection to an endpoint that has rested longest, if another worker has not
    /// done it by now.
    pub fn reclaim(&self, claim: Claim) {
        let Claim::Of { endpoint_id, connections_max } = claim else { return self.give_one_up() };
        self.h2.reclaim(endpoint_id, connections_max);
        if let Some(list) = self.idle.borrow_mut().get_mut(&endpoint_id)
            && let Some(oldest) = list.first()
            && oldest.connection.endpoint().must_give_way(connections_max)
        {
            list.remove(0);
        }
    }

    /// Closes one connection that rests, whomever it is to: its descriptor is wanted.
    pub fn give_one_up(&self) {
        let one = self.idle.borrow_mut().values_mut().find_map(|list| {
            let has_one = !list.is_empty();
            has_one.then(|| list.remove(0))
        });
        match one {
            Some(idle) => drop(idle),
            None => self.h2.give_one_up(),
        }
    }

    /// Closes half of what rests: descriptors are wanted.
    pub fn give_half_up(&self) {
        let resting: usize = self.idle.borrow().values().map(Vec::len).sum();
        for _ in 0..=resting / 2 {
            self.give_one_up();
        }
    }

    /// Closes everything that rests.
    pub fn close_all(&self) {
        self.idle.borrow_mut().clear();
        self.h2.close_all();
    }

    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.h2.is_empty()
    }
}

/// Asks all workers to close a resting connection, when an endpoint's limit is reached by
/// connections that rest elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Reclaim(Arc<[mpsc::Sender<Claim>]>);

/// Why a connection that rests is to be closed.
#[derive(Debug, Clone, Copy)]
pub enum Claim {
    /// A connection is wanted to an endpoint that has so many.
    Of { endpoint_id: u64, connections_max: usize },
    /// A connection is wanted, and no descriptor is left for one.
    Any,
}

impl Reclaim {
    pub fn new(workers: Vec<mpsc::Sender<Claim>>) -> Self {
        Self(workers.into())
    }

    pub fn ask(&self, endpoint: &Endpoint, connections_max: usize) {
        self.send(Claim::Of { endpoint_id: endpoint.id, connections_max });
    }

    pub fn ask_for_any(&self) {
        self.send(Claim::Any);
    }

    /// A worker whose mailbox is full has such work before it anyway.
    fn send(&self, claim: Claim) {
        for worker in &*self.0 {
            let _ = worker.try_send(claim);
        }
    }
}
