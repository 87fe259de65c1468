//! A client's connection, as its requests and its I/O see it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use base64::Engine as _;
use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::forwarded::Told;
use crate::error::Kind;
use crate::snapshot::stats::ParseError;
use crate::snapshot::{Guest, Listener};
use crate::timer::TimerSlot;
use crate::tls::ClientPolicy;
use crate::upstream::Tunnel;

/// One connection; it never leaves its worker.
#[derive(Debug)]
pub struct ClientConnection {
    pub listener: Arc<Listener>,
    pub ends: Ends,
    pub protocol: Protocol,
    /// `None` without TLS.
    pub tls: Option<TlsFacts>,
    /// Whether forwarding headers of this peer are believed.
    pub is_trusted: bool,
    pub opened: Instant,
    requests: Cell<u64>,
    active: Cell<u32>,
    idle_since: Cell<Instant>,
    read_at: Cell<Instant>,
    write_blocked_at: Cell<Option<Instant>>,
    is_refusing: Cell<bool>,
    violation: Cell<Option<(u64, &'static str)>>,
    draining_since: Cell<Option<Instant>>,
    expired_since: Cell<Option<Instant>>,
    /// Its place, which it gives up when it is idle and others need it.
    guest: Option<Guest>,
    gives_way: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<PendingTunnel>>,
    timers: TimerSlot,
    told: RefCell<Option<Told>>,
    /// Whether what the client showed meets other terms than those of its handshake.
    judged: RefCell<Option<(Arc<ClientPolicy>, bool)>>,
    certificate: OnceCell<Option<HeaderValue>>,
}

/// What the TLS handshake of a connection came to.
#[derive(Debug)]
pub struct TlsFacts {
    /// The name that was asked for.
    pub sni: Option<Box<str>>,
    /// What was asked of the client.
    pub policy: Option<Arc<ClientPolicy>>,
    /// What it showed and is believed, its own certificate first; empty if nothing.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Both ends of a connection, as its socket or a PROXY header has them.
#[derive(Debug, Clone)]
pub struct Ends {
    pub peer: Peer,
    /// Where the client connected to; `None` for unix sockets.
    pub local: Option<SocketAddr>,
    /// What a PROXY header said; `None` where there is none.
    pub announced: Option<Box<Announced>>,
}

/// What a PROXY header says beside the addresses.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    /// It carried the client's address.
    pub has_address: bool,
    /// The client came over TLS, which ended there.
    pub is_tls: bool,
    pub authority: Option<Box<str>>,
    pub alpn: Option<Box<[u8]>>,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

/// An upstream connection that waits for the client's side of an upgrade.
#[derive(Debug)]
pub struct PendingTunnel {
    pub tunnel: Tunnel,
    /// Ends with the tunnel: the counts of the request that opened it.
    pub exchange: super::exchange::Exchange,
    pub lease: crate::balance::Lease,
    /// How long it may be silent in both directions.
    pub idle_max: Duration,
}

impl Peer {
    /// A unix peer counts as this machine.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address.ip().to_canonical(),
            Self::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

impl Ends {
    pub fn new(peer: Peer, local: Option<SocketAddr>) -> Self {
        Self { peer, local, announced: None }
    }

    /// Whether the peer is one whose forwarding headers are believed. Who sends PROXY headers does
    /// not look at the requests behind them.
    pub fn is_trusted(&self, listener: &Listener) -> bool {
        self.announced.as_ref().is_none_or(|announced| announced.has_address)
            && listener.trusted.contains(self.peer.ip())
    }
}

impl ClientConnection {
    pub fn new(
        listener: Arc<Listener>,
        ends: Ends,
        protocol: Protocol,
        tls: Option<TlsFacts>,
        guest: Option<Guest>,
    ) -> Self {
        let now = Instant::now();
        Self {
            is_trusted: ends.is_trusted(&listener),
            listener,
            ends,
            protocol,
            tls,
            opened: now,
            requests: Cell::new(0),
            active: Cell::new(0),
            idle_since: Cell::new(now),
            read_at: Cell::new(now),
            write_blocked_at: Cell::new(None),
            is_refusing: Cell::new(false),
            violation: Cell::new(None),
            draining_since: Cell::new(None),
            expired_since: Cell::new(None),
            guest,
            gives_way: Cell::new(false),
            waker: RefCell::new(None),
            tunnel: RefCell::new(None),
            timers: TimerSlot::default(),
            told: RefCell::new(None),
            judged: RefCell::new(None),
            certificate: OnceCell::new(),
        }
    }

    /// The peer's address.
    pub fn peer_ip(&self) -> IpAddr {
        self.ends.peer.ip()
    }

    /// Whether the client came over TLS, to us or to the proxy that says so.
    pub fn is_https(&self) -> bool {
        self.tls.is_some() || self.ends.announced.as_ref().is_some_and(|it| it.is_tls)
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.is_https() { "https" } else { "http" }
    }

    /// Whether what the client showed is what `policy` asks for, be it that a reload or another host
    /// asks.
    pub(super) fn meets(&self, policy: &Arc<ClientPolicy>) -> bool {
        let Some(facts) = &self.tls else { return false };
        if facts.policy.as_ref().is_some_and(|own| own.asks_the_same_as(policy)) {
            return true;
        }
        let mut judged = self.judged.borrow_mut();
        if let Some((known, verdict)) = &*judged
            && Arc::ptr_eq(known, policy)
        {
            return *verdict;
        }
        let verdict = policy.admits(&facts.chain).is_ok();
        *judged = Some((policy.clone(), verdict));
        verdict
    }

    /// The client's own certificate, as endpoints are told of it (RFC 9440 §2.2).
    pub(super) fn certificate(&self) -> Option<&HeaderValue> {
        let made = self.certificate.get_or_init(|| {
            let own = self.tls.as_ref()?.chain.first()?;
            let encoded = base64::engine::general_purpose::STANDARD.encode(own);
            HeaderValue::try_from(format!(":{encoded}:")).ok()
        });
        made.as_ref()
    }

    /// Where the task that answers a request of this connection keeps its timer.
    pub fn timers(&self) -> TimerSlot {
        match self.protocol {
            Protocol::H1 => self.timers.clone(),
            // Every stream is a task of its own.
            Protocol::H2 => TimerSlot::default(),
        }
    }

    /// What endpoints are told of this connection. Kept for the authority that was asked for last,
    /// nearly always the only one.
    pub(super) fn told(&self, authority: &str) -> Told {
        let mut told = self.told.borrow_mut();
        if let Some(told) = told.as_ref().filter(|told| told.is_about(authority)) {
            return told.clone();
        }
        let authority =
            HeaderValue::from_str(authority).unwrap_or_else(|_| HeaderValue::from_static(""));
        told.insert(Told::new(self, authority)).clone()
    }

    /// Notes when bytes came last.
    pub fn set_read_at(&self, now: Instant) {
        self.read_at.set(now);
    }

    /// Notes that something is to be refused once the requests before it have ended.
    pub fn set_refusing(&self) {
        self.is_refusing.set(true);
    }

    /// Notes that the client takes less than there is to be written.
    pub fn set_write_blocked_at(&self, now: Instant) {
        self.write_blocked_at.set(Some(now));
    }

    /// When that was so last.
    pub fn write_blocked_at(&self) -> Option<Instant> {
        self.write_blocked_at.get()
    }

    /// When the request that is beginning came: one reading of the clock for both.
    pub fn arrival(&self) -> Instant {
        match self.protocol {
            Protocol::H1 => self.read_at.get(),
            Protocol::H2 => Instant::now(),
        }
    }

    /// Counts a request in; its number on this connection, from 1.
    pub fn begin_request(&self) -> u64 {
        self.active.set(self.active.get() + 1);
        if self.active.get() == 1
            && let Some(guest) = &self.guest
        {
            guest.set_at_work();
            self.gives_way.set(false);
        }
        self.requests.set(self.requests.get() + 1);
        self.requests.get()
    }

    pub fn end_request(&self, now: Instant) {
        self.active.set(self.active.get().saturating_sub(1));
        if self.active.get() == 0 {
            self.idle_since.set(now);
            if let Some(guest) = &self.guest {
                guest.set_idle();
            }
            if self.protocol == Protocol::H2 || self.is_refusing.get() {
                // The connection's own task must begin to count its idle time, or go on to refuse
                // what came behind this request.
                self.wake();
            }
        }
    }

    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    pub fn is_active(&self) -> bool {
        self.active.get() > 0
    }

    /// Waits until the place is needed by others.
    pub async fn asked_to_give_way(&self) {
        match &self.guest {
            Some(guest) => guest.asked().await,
            None => std::future::pending().await,
        }
    }

    /// Notes that an idle connection is to end at once.
    pub fn give_way(&self) {
        self.gives_way.set(!self.is_active());
    }

    pub fn gives_way(&self) -> bool {
        self.gives_way.get()
    }

    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Notes that the head with this number breaks a rule of framing.
    pub fn set_violation(&self, violation: Option<(u64, &'static str)>) {
        self.violation.set(violation);
    }

    /// The rule that the request with this number breaks, or one before it did.
    pub fn violation_of(&self, number: u64) -> Option<&'static str> {
        self.violation.get().filter(|(broken, _)| *broken <= number).map(|(_, rule)| rule)
    }

    /// Tells the connection to end when its requests have.
    pub fn drain(&self) {
        if self.draining_since.get().is_none() {
            self.draining_since.set(Some(Instant::now()));
            self.wake();
        }
    }

    pub fn draining_since(&self) -> Option<Instant> {
        self.draining_since.get()
    }

    /// Notes that the connection has been idle for too long; its driver ends it properly.
    pub fn expire(&self) {
        if self.expired_since.get().is_none() {
            self.expired_since.set(Some(Instant::now()));
        }
    }

    /// Since when the client is to be told goodbye, for whichever reason.
    pub fn leaving_since(&self) -> Option<Instant> {
        self.expired_since.get().or(self.draining_since.get())
    }

    pub fn register(&self, waker: &Waker) {
        let mut registered = self.waker.borrow_mut();
        if !registered.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub fn set_tunnel(&self, tunnel: PendingTunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    pub fn take_tunnel(&self) -> Option<PendingTunnel> {
        self.tunnel.borrow_mut().take()
    }

    pub fn count_parse_error(&self, error: ParseError) {
        self.listener.stats.parse_errors[error as usize].increment();
    }

    /// Counts a request that was refused for its form.
    pub fn count_refused(&self, kind: Kind) {
        let error = match kind {
            Kind::BadRequest(_) => ParseError::Malformed,
            Kind::UriTooLong => ParseError::UriTooLong,
            Kind::HeadTooLarge => ParseError::HeadTooLarge,
            _ => return,
        };
        self.count_parse_error(error);
    }
}
