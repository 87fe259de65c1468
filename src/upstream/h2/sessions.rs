//! The HTTP/2 connections of one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep};

use super::resets::Clients;
use super::session::{self, Owner, Place, Purpose, Session};
use crate::balance::{Endpoint, OpenConnection};
use crate::error::{Error, Kind};
use crate::shutdown::Tasks;
use crate::upstream::connect::Dialer;
use crate::upstream::connections::{Keep, Reclaim};

/// Connections in use and at rest, by the id of their endpoint.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Sessions {
    known: RefCell<HashMap<u64, Rc<Known>, foldhash::fast::RandomState>>,
    clients: Rc<Clients>,
}

/// The connections to one endpoint.
#[derive(Debug, Default)]
struct Known {
    sessions: RefCell<Vec<Rc<Session>>>,
    /// One is opened at a time: the requests that wait for it share it.
    opening: Mutex<()>,
    /// Wakes one that waits, when a request has ended.
    freed: Rc<Notify>,
    /// How often opening has failed, and why it did last.
    failures: Cell<u64>,
    failure: RefCell<Option<(Kind, String)>>,
}

/// How a connection is opened where there is none with a place.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    pub dialer: &'a Dialer,
    pub server_name: Option<&'a ServerName<'static>>,
    pub reclaim: &'a Reclaim,
    /// Where connections are driven.
    pub tasks: &'a Tasks,
    pub purpose: Purpose,
    pub keep: Keep,
}

impl Sessions {
    /// A place on an open connection.
    pub(in crate::upstream) fn take(
        &self,
        endpoint: &Endpoint,
        (purpose, keep): (Purpose, Keep),
        now: Instant,
    ) -> Option<Place> {
        self.known.borrow().get(&endpoint.id)?.take((purpose, keep), now)
    }

    /// A place on a connection that is opened for it, or was opened by another request meanwhile;
    /// and whether it was opened here.
    ///
    /// # Errors
    /// There is no connection; the same for all that waited for it.
    pub(in crate::upstream) async fn open(
        &self,
        endpoint: &Arc<Endpoint>,
        opening: Opening<'_>,
    ) -> Result<(Place, bool), Error> {
        let known = self.known.borrow_mut().entry(endpoint.id).or_default().clone();
        let failures = known.failures.get();
        let patience = opening.dialer.connect_timeout + opening.dialer.slot_timeout;
        let terms = (opening.purpose, opening.keep);
        let _turn = tokio::select! {
            biased;
            turn = known.opening.lock() => turn,
            place = known.freed(terms) => return Ok((place, false)),
            () = sleep(patience) => return Err(Kind::ConnectTimeout.into()),
        };
        if let Some(place) = known.take(terms, Instant::now()) {
            return Ok((place, false));
        }
        if known.failures.get() != failures
            && let Some((kind, why)) = &*known.failure.borrow()
        {
            return Err(Error::caused(*kind, io::Error::other(why.clone())));
        }
        let open = tokio::select! {
            biased;
            open = opening.dialer.slot(endpoint, opening.reclaim) => open?,
            place = known.freed(terms) => return Ok((place, false)),
        };
        match opening.session(endpoint, open, &known.freed, &self.clients).await {
            Ok(session) => {
                known.sessions.borrow_mut().push(session.clone());
                let place = session.place(opening.purpose, opening.keep, Instant::now());
                place.map(|place| (place, true)).ok_or_else(|| Kind::Connect.into())
            }
            Err(error) => {
                known.failures.set(known.failures.get() + 1);
                let why = opening.dialer.why_unconnected(&error);
                *known.failure.borrow_mut() = Some((error.kind(), why));
                Err(error)
            }
        }
    }

    /// Whether a client has given up so many requests that have not ended that it gets no more.
    pub(in crate::upstream) fn is_shut_to(&self, client: IpAddr) -> bool {
        self.clients.has_too_many(client)
    }

    /// Closes what has rested long enough, and everything of endpoints for which `is_known` says no
    /// once its requests have ended.
    pub(in crate::upstream) fn sweep(&self, is_known: impl Fn(u64) -> bool) {
        let now = Instant::now();
        self.known.borrow_mut().retain(|id, known| {
            let is_known = is_known(*id);
            known.sessions.borrow_mut().retain(|session| {
                if !is_known || session.has_rested(now) {
                    session.retire();
                }
                !session.is_retired()
            });
            !known.sessions.borrow().is_empty() || Rc::strong_count(known) > 1
        });
    }

    /// Closes a connection that rests, if it is in the way of another worker's.
    pub(in crate::upstream) fn reclaim(&self, endpoint_id: u64, connections_max: usize) {
        if let Some(known) = self.known.borrow().get(&endpoint_id)
            && let Some(resting) = known.sessions.borrow().iter().find(|session| session.is_idle())
            && resting.endpoint().must_give_way(connections_max)
        {
            resting.retire();
        }
    }

    /// Closes a connection that rests, whomever it is to.
    pub(in crate::upstream) fn give_one_up(&self) {
        let known = self.known.borrow();
        let one = known.values().find_map(|known| {
            known.sessions.borrow().iter().find(|session| session.is_idle()).cloned()
        });
        if let Some(one) = one {
            one.retire();
        }
    }

    pub(in crate::upstream) fn close_all(&self) {
        for known in self.known.borrow().values() {
            known.sessions.borrow().iter().for_each(|session| session.retire());
        }
        self.known.borrow_mut().clear();
    }

    pub(in crate::upstream) fn is_empty(&self) -> bool {
        self.known.borrow().is_empty()
    }
}

impl Known {
    /// The next place that a request gives back. Whoever asks has a bound on the wait.
    async fn freed(&self, terms: (Purpose, Keep)) -> Place {
        loop {
            self.freed.notified().await;
            if let Some(place) = self.take(terms, Instant::now()) {
                return place;
            }
        }
    }

    fn take(&self, (purpose, keep): (Purpose, Keep), now: Instant) -> Option<Place> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| !session.is_retired());
        sessions.iter().find_map(|session| session.place(purpose, keep, now))
    }
}

impl Opening<'_> {
    async fn session(
        &self,
        endpoint: &Arc<Endpoint>,
        open: OpenConnection,
        freed: &Rc<Notify>,
        clients: &Rc<Clients>,
    ) -> Result<Rc<Session>, Error> {
        let (io, deadline) = self.dialer.dial_stream(endpoint, self.server_name, None).await?;
        let owner = Owner { endpoint, open, freed, clients };
        let (session, driver) = session::open(io, owner, self.keep, deadline).await?;
        self.tasks.spawn("HTTP/2 connection to an endpoint", driver.run());
        Ok(session)
    }
}
