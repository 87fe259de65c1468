//! One HTTP/2 connection to an endpoint.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

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
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    _counted: IdleConnection,
}

/// What drives a session, until it ends.
pub(super) struct Driver {
    connection: client::Connection<UpstreamIo, Bytes>,
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
    (endpoint, open, freed): (&Arc<Endpoint>, OpenConnection, &Rc<Notify>),
    keep: Keep,
    deadline: Instant,
) -> Result<(Rc<Session>, Driver), Error> {
    if io.agreed().is_some_and(|agreed| agreed != Some(b"h2")) {
        return Err(unfit("it did not agree on it in TLS"));
    }
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
        Ok(Ok((sender, connection))) => {
            Ok(begin(sender, connection, (endpoint, open, freed), keep))
        }
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
    mut connection: client::Connection<UpstreamIo, Bytes>,
    (endpoint, open, freed): (&Arc<Endpoint>, OpenConnection, &Rc<Notify>),
    keep: Keep,
) -> (Rc<Session>, Driver) {
    let now = Instant::now();
    let session = Rc::new(Session {
        endpoint: endpoint.clone(),
        sender: RefCell::new(Some(sender)),
        streams: Cell::new(0),
        tunnels: Cell::new(0),
        is_used: Cell::new(false),
        refused: Cell::new(None),
        heard: Cell::new(now),
        keep: Cell::new(keep),
        rest: RefCell::new(None),
        freed: freed.clone(),
    });
    let driver = Driver {
        ping: connection.ping_pong(),
        connection,
        session: session.clone(),
        pong_by: None,
        next: now + PING_INTERVAL,
        timer: LazyTimer::default(),
        is_closing: false,
        _open: open,
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
        let max = self.sender.borrow().as_ref()?.current_max_send_streams().min(STREAMS_MAX);
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

    /// Something came on the connection.
    pub(super) fn heard(&self, now: Instant) {
        self.session.heard.set(now);
    }

    /// The endpoint takes no more requests on the connection.
    pub(super) fn retire(&self) {
        self.session.retire();
    }

    /// A request that has waited since then got no answer: if no other did, the connection is dead.
    pub(super) fn suspect(&self, since: Instant) {
        if self.session.heard.get() <= since {
            self.session.retire();
        }
    }

    /// The endpoint has refused a request: it has more than it wants.
    pub(super) fn refused(&self) {
        self.session.refused.set(Some(Instant::now() + REFUSED_FOR));
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
            if self.timer.poll_until(deadline, now, cx).is_pending() {
                return Poll::Pending;
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
    }
}
