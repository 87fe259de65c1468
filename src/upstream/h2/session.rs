//! One HTTP/2 connection to an endpoint.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::goaway::{LastStream, Watched};
use super::resets::{Clients, Resets};
use super::stream::GivenUp;
use crate::balance::{Endpoint, IdleConnection, OpenConnection};
use crate::error::{Error, Kind};
use crate::timer::LazyTimer;
use crate::upstream::connections::Keep;
use crate::upstream::io::UpstreamIo;

/// Requests on one connection at once, whatever more its peer allows.
const STREAMS_MAX: usize = 128;
/// How much of one answer may be under way or wait for its reader, in bytes.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for a connection: readers that are slow never stop the others.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX as u32 * STREAM_WINDOW_BYTES;
/// The largest head of an answer, in bytes as RFC 9113 §6.5.2 counts them.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// Streams that were reset and whose late frames are still expected.
const RESET_STREAMS_MAX: usize = 1024;
/// How often a connection in use is asked for a sign of life: servers of gRPC close those that ask
/// more often than every five minutes.
const PING_INTERVAL: Duration = Duration::from_secs(310);
/// How long a PING may stay unanswered, and how long a connection may take to close.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection that refused a request gets none.
const REFUSED_FOR: Duration = Duration::from_millis(100);

/// A connection that requests share.
#[derive(Debug)]
pub(super) struct Session {
    endpoint: Arc<Endpoint>,
    /// `None` once it takes no more requests; what is under way ends.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    streams: Cell<usize>,
    /// Those of them that are tunnels.
    tunnels: Cell<usize>,
    /// It has carried a request before.
    is_used: Cell<bool>,
    refused: Cell<Option<Instant>>,
    /// When something came last.
    heard: Cell<Instant>,
    keep: Cell<Keep>,
    rest: RefCell<Option<Rest>>,
    /// Wakes one that waits for a place.
    freed: Rc<Notify>,
    /// Named by a GOAWAY.
    last: LastStream,
    resets: Resets,
    /// Streams that nobody wants any more and that could not be reset at once.
    given_up: RefCell<VecDeque<GivenUp>>,
    clients: Rc<Clients>,
    /// Of what drives the connection.
    driver: RefCell<Option<Waker>>,
    has_ended: Cell<bool>,
}

/// Who has a connection.
pub(super) struct Owner<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) open: OpenConnection,
    pub(super) freed: &'a Rc<Notify>,
    pub(super) clients: &'a Rc<Clients>,
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    _counted: IdleConnection,
}

/// What drives a session, until it ends.
pub(super) struct Driver {
    connection: client::Connection<Watched, Bytes>,
    session: Rc<Session>,
    ping: Option<PingPong>,
    /// When the PING that is under way must have been answered.
    pong_by: Option<Instant>,
    /// When the next is sent, or the connection must have closed.
    next: Instant,
    timer: LazyTimer,
    is_closing: bool,
    _open: OpenConnection,
}

/// A request's place on a connection.
#[derive(Debug)]
pub struct Place {
    session: Rc<Session>,
    purpose: Purpose,
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Request,
    /// It may be taken for long: half of a connection's places are for requests alone.
    Tunnel,
}

/// Agrees on HTTP/2 with the endpoint, before `deadline`.
pub(super) async fn open(
    io: UpstreamIo,
    owner: Owner<'_>,
    keep: Keep,
    deadline: Instant,
) -> Result<(Rc<Session>, Driver), Error> {
    if io.agreed().is_some_and(|agreed| agreed != Some(b"h2")) {
        return Err(unfit("it did not agree on it in TLS"));
    }
    let last = LastStream::default();
    let io = Watched::new(io, last.clone());
    let agreeing = async {
        let (sender, mut connection) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_concurrent_reset_streams(RESET_STREAMS_MAX)
            .enable_push(false)
            // Nothing is sent before the endpoint has shown that it speaks HTTP/2.
            .initial_max_send_streams(0)
            .handshake::<_, Bytes>(io)
            .await?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
            Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        Ok::<_, h2::Error>((sender, connection))
    };
    match timeout_at(deadline, agreeing).await {
        Ok(Ok((sender, connection))) => Ok(begin(sender, connection, last, owner, keep)),
        Ok(Err(error)) => Err(unfit(&error.to_string())),
        Err(_) => Err(unfit("it sent no SETTINGS in time")),
    }
}

fn unfit(why: &str) -> Error {
    let text = format!("the endpoint does not speak HTTP/2: {why}");
    Error::caused(Kind::Connect, io::Error::other(text))
}

fn begin(
    sender: SendRequest<Bytes>,
    mut connection: client::Connection<Watched, Bytes>,
    last: LastStream,
    owner: Owner<'_>,
    keep: Keep,
) -> (Rc<Session>, Driver) {
    let now = Instant::now();
    let session = Rc::new(Session {
        endpoint: owner.endpoint.clone(),
        sender: RefCell::new(Some(sender)),
        streams: Cell::new(0),
        tunnels: Cell::new(0),
        is_used: Cell::new(false),
        refused: Cell::new(None),
        heard: Cell::new(now),
        keep: Cell::new(keep),
        rest: RefCell::new(None),
        freed: owner.freed.clone(),
        last,
        resets: Resets::new(now),
        given_up: RefCell::default(),
        clients: owner.clients.clone(),
        driver: RefCell::default(),
        has_ended: Cell::new(false),
    });
    let driver = Driver {
        ping: connection.ping_pong(),
        connection,
        session: session.clone(),
        pong_by: None,
        next: now + PING_INTERVAL,
        timer: LazyTimer::default(),
        is_closing: false,
        _open: owner.open,
    };
    (session, driver)
}

impl Session {
    /// Takes a place, if there is one.
    pub(super) fn place(
        self: &Rc<Self>,
        purpose: Purpose,
        keep: Keep,
        now: Instant,
    ) -> Option<Place> {
        if self.is_retired() {
            return None;
        }
        let max = self.streams_max();
        let is_refusing = self.refused.get().is_some_and(|until| now < until);
        if self.streams.get() >= max || is_refusing {
            return None;
        }
        if purpose == Purpose::Tunnel {
            if self.tunnels.get() >= max.div_ceil(2) {
                return None;
            }
            self.tunnels.set(self.tunnels.get() + 1);
        }
        self.keep.set(keep);
        self.rest.borrow_mut().take();
        self.streams.set(self.streams.get() + 1);
        Some(Place { session: self.clone(), purpose })
    }

    /// Takes no more requests, and closes when those under way have ended.
    pub(super) fn retire(&self) {
        self.sender.borrow_mut().take();
        self.rest.borrow_mut().take();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.sender.borrow().is_none()
    }

    /// Nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.rest.borrow().as_ref().is_some_and(|rest| now >= rest.until)
    }

    /// The last stream that the endpoint may have begun with, once it has said so.
    pub(super) fn last_stream(&self) -> Option<u32> {
        self.last.get()
    }

    pub(super) fn goaway(&self) -> &LastStream {
        &self.last
    }

    pub(super) fn clients(&self) -> &Rc<Clients> {
        &self.clients
    }

    /// Something came on the connection.
    pub(super) fn heard(&self, now: Instant) {
        self.heard.set(now);
    }

    /// A request that has waited since then got no answer: if no other did, the connection is dead.
    pub(super) fn suspect(&self, since: Instant) {
        if self.heard.get() <= since {
            self.retire();
        }
    }

    /// The endpoint has refused a request: it has more than it wants.
    pub(super) fn refused(&self) {
        self.refused.set(Some(Instant::now() + REFUSED_FOR));
    }

    /// Resets a stream, or leaves it to end where the endpoint would take it amiss.
    pub(super) fn give_up(&self, stream: GivenUp) {
        let is_first = self.given_up.borrow().is_empty();
        if self.has_ended.get() || (is_first && self.resets.take(Instant::now())) {
            return drop(stream);
        }
        let mut given_up = self.given_up.borrow_mut();
        given_up.push_back(stream);
        let has_too_many = given_up.len() > self.streams_max() / 2 && !self.is_retired();
        // Another connection takes over, if there may be one.
        let is_replaceable = self.endpoint.connections_open() < self.keep.get().open_max;
        let oldest = (has_too_many && !is_replaceable).then(|| given_up.pop_front()).flatten();
        drop(given_up);
        if has_too_many && is_replaceable {
            tracing::debug!(endpoint = %self.endpoint.address, "HTTP/2 connection has too many given up requests and takes no more");
            self.retire();
        }
        drop(oldest);
        self.wake_driver();
    }

    fn streams_max(&self) -> usize {
        let sender = self.sender.borrow();
        let allowed = sender.as_ref().map_or(STREAMS_MAX, SendRequest::current_max_send_streams);
        allowed.min(STREAMS_MAX)
    }

    /// Lets go of given up streams that have ended, and resets others as far as that may be; when
    /// the next may be reset, where there is one.
    fn poll_given_up(&self, cx: &mut Context<'_>) -> Option<Instant> {
        if self.given_up.borrow().is_empty() {
            return None;
        }
        // What is dropped may come back here, as the place that it gives back.
        let mut over = Vec::new();
        let mut given_up = self.given_up.take();
        for _ in 0..given_up.len() {
            let Some(mut stream) = given_up.pop_front() else { break };
            match stream.poll_end(cx) {
                Poll::Ready(()) => over.push(stream),
                Poll::Pending => given_up.push_back(stream),
            }
        }
        let now = Instant::now();
        while !given_up.is_empty() && self.resets.take(now) {
            over.extend(given_up.pop_front());
        }
        let next = (!given_up.is_empty()).then(|| self.resets.next());
        self.given_up.replace(given_up);
        drop(over);
        next
    }

    /// Nothing is under way but what nobody wants any more, and nothing will be.
    fn is_for_nobody(&self) -> bool {
        let given_up = self.given_up.borrow().len();
        given_up > 0 && self.is_retired() && given_up == self.streams.get()
    }

    fn wake_driver(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    fn register_driver(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Rests, or closes where it may not.
    fn rest(&self) {
        let keep = self.keep.get();
        let may = !keep.idle_for.is_zero() && !self.endpoint.must_give_way(keep.open_max);
        let counted = may.then(|| self.endpoint.idle_connection(keep.idle_max)).flatten();
        match counted {
            Some(counted) if !self.is_retired() => {
                let until = Instant::now() + keep.idle_for;
                *self.rest.borrow_mut() = Some(Rest { until, _counted: counted });
            }
            _ => self.retire(),
        }
    }
}

impl Place {
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.session.is_used.set(true);
        self.session.sender.borrow().clone()
    }

    pub fn is_reused(&self) -> bool {
        self.session.is_used.get()
    }

    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// The endpoint takes no more requests on the connection.
    pub(super) fn retire(&self) {
        self.session.retire();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let session = &self.session;
        session.streams.set(session.streams.get().saturating_sub(1));
        if self.purpose == Purpose::Tunnel {
            session.tunnels.set(session.tunnels.get().saturating_sub(1));
        }
        if self.session.is_idle() {
            self.session.rest();
        }
        self.session.freed.notify_one();
    }
}

impl Driver {
    /// Drives the connection until it has ended.
    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(endpoint = %self.session.endpoint.address, %error, "HTTP/2 connection ended");
            }
            return Poll::Ready(());
        }
        self.session.register_driver(cx.waker());
        let mut next_reset = self.session.poll_given_up(cx);
        if self.session.is_for_nobody() {
            return Poll::Ready(());
        }
        let now = Instant::now();
        if let (Some(_), Some(ping)) = (self.pong_by, &mut self.ping)
            && ping.poll_pong(cx).is_ready()
        {
            self.pong_by = None;
            self.session.heard.set(now);
        }
        if self.session.is_retired() && self.session.is_idle() && !self.is_closing {
            self.is_closing = true;
            self.next = now + PATIENCE;
        }
        loop {
            let deadline = self.pong_by.unwrap_or(self.next);
            let soonest = next_reset.map_or(deadline, |reset| reset.min(deadline));
            if self.timer.poll_until(soonest, now, cx).is_pending() {
                return Poll::Pending;
            }
            if now < deadline {
                next_reset = self.session.poll_given_up(cx);
                if next_reset.is_some_and(|reset| reset <= now) {
                    // The clock has gone on meanwhile.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if self.is_closing || self.pong_by.is_some() {
                return Poll::Ready(());
            }
            self.next = now + PING_INTERVAL;
            if !self.session.is_idle()
                && let Some(ping) = &mut self.ping
                && ping.send_ping(Ping::opaque()).is_ok()
            {
                self.pong_by = Some(now + PATIENCE);
                // So that it is woken by the answer.
                if ping.poll_pong(cx).is_ready() {
                    self.pong_by = None;
                }
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.session.retire();
        // Streams that nobody waits for hold the session themselves.
        self.session.has_ended.set(true);
        drop(self.session.given_up.take());
    }
}
