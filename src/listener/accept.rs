//! Accepting connections on one socket of one worker.

use std::cell::RefCell;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bind::ListenSocket;
use super::connection::{self, Accepted, Register};
use super::door::Door;
use super::socket::Stream;
use crate::config::model::Name;
use crate::outbox;
use crate::proxy::client::{ClientConnection, Ends, Peer};
use crate::proxy::local::Local;
use crate::shutdown::Tasks;
use crate::snapshot::stats::Rejection;
use crate::snapshot::{Connected, Listener};
use crate::upstream::{is_ours, tell};

/// How long to wait when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// How long handshakes of the kernel that had begun may take before the socket is closed.
const LAST_HANDSHAKES: Duration = Duration::from_millis(100);

/// The name of the listener that a socket belongs to: a reload may give it to another one.
pub type ListenerName = Arc<ArcSwap<Name>>;

/// One socket and what it is for.
#[derive(Debug)]
pub struct Accepting {
    pub socket: ListenSocket,
    pub listener: ListenerName,
    /// Ends the accepting, after the connections that are queued.
    pub stop: CancellationToken,
    pub door: Arc<Door>,
}

/// The open connections of one worker.
#[derive(Debug, Default)]
pub struct Registry {
    connections: RefCell<Vec<Weak<ClientConnection>>>,
    draining: std::cell::Cell<bool>,
}

impl Registry {
    /// Tells every connection, and those to come, to end when its requests have.
    pub fn drain(&self) {
        self.draining.set(true);
        for connection in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            connection.drain();
        }
    }

    fn drain_listener(&self, name: &str) {
        for connection in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            if *connection.listener.spec.name == *name {
                connection.drain();
            }
        }
    }

    /// Connections with a request or a tunnel under way.
    pub fn active(&self) -> usize {
        let connections = self.connections.borrow();
        connections.iter().filter_map(Weak::upgrade).filter(|known| known.is_active()).count()
    }
}

impl Register for Rc<Registry> {
    type Registered = ();

    fn register(&self, connection: &Rc<ClientConnection>) {
        let mut connections = self.connections.borrow_mut();
        // Ended ones are cleared when the list would have to grow.
        if connections.len() == connections.capacity() {
            connections.retain(|known| known.strong_count() > 0);
        }
        connections.push(Rc::downgrade(connection));
        if self.draining.get() {
            connection.drain();
        }
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn new(socket: ListenSocket) -> io::Result<Self> {
        Ok(match socket {
            ListenSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            ListenSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(socket)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<(Stream, Ends)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                let ends = Ends::new(Peer::Tcp(peer), stream.local_addr().ok());
                Ok((Stream::Tcp(outbox::Stream::new(stream)), ends))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Stream::Unix(stream), Ends::new(Peer::Unix, None)))
            }
        }
    }
}

/// Accepts until told to stop.
pub async fn accept(local: Rc<Local>, accepting: Accepting, registry: Rc<Registry>, tasks: Tasks) {
    let Accepting { socket, listener, stop, door } = accepting;
    let socket = match Socket::new(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %listener.load(), %error, "socket cannot be used");
            return;
        }
    };
    let known = local.snapshot().listeners.get(&**listener.load()).cloned();
    let Some(known) = known else {
        tracing::error!(listener = %listener.load(), "socket of a listener that is not configured");
        return;
    };
    let closing = CancellationToken::new();
    let known = RefCell::new(known);
    let acceptor = Acceptor { local, name: listener, known, registry, tasks, stop, closing };
    loop {
        let accepted = tokio::select! {
            biased;
            () = acceptor.stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        acceptor.serve(accepted).await;
    }
    let is_ours = door.shut();
    acceptor.end_connections();
    // What the kernel has accepted for us is ours to serve.
    while is_ours && let Ok(accepted) = timeout(LAST_HANDSHAKES, socket.accept()).await {
        acceptor.serve(accepted).await;
    }
}

struct Acceptor {
    local: Rc<Local>,
    name: ListenerName,
    /// As it was configured last; a listener that is being removed keeps that.
    known: RefCell<Arc<Listener>>,
    registry: Rc<Registry>,
    tasks: Tasks,
    /// Ends the accepting.
    stop: CancellationToken,
    /// Tells connections that have not begun yet that their listener goes.
    closing: CancellationToken,
}

impl Acceptor {
    fn listener(&self) -> Arc<Listener> {
        let mut known = self.known.borrow_mut();
        if let Some(current) = self.local.snapshot().listeners.get(&**self.name.load())
            && !Arc::ptr_eq(current, &known)
        {
            *known = current.clone();
        }
        known.clone()
    }

    /// Waits for a place among the connections, which idle ones give up. Until there is one, no other connection is accepted
    /// from the socket of this one. A socket that closes waits for none.
    async fn place(&self, listener: &Listener) -> Option<Connected> {
        if let Some(place) = listener.limit.try_connect() {
            return Some(place);
        }
        listener.stats.rejected[Rejection::Limit as usize].increment();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            place = listener.limit.connect() => Some(place),
        }
    }

    /// Lets the connections of a listener that is gone end with their requests, those to come
    /// included.
    fn end_connections(&self) {
        let name = &self.known.borrow().spec.name;
        let is_gone = !self.local.snapshot().listeners.contains_key(name);
        if is_gone {
            self.registry.drain_listener(name);
        }
        if is_gone || self.registry.draining.get() {
            self.closing.cancel();
        }
    }

    async fn serve(&self, accepted: io::Result<(Stream, Ends)>) {
        let listener = self.listener();
        let (stream, ends) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                listener.stats.rejected[Rejection::Accept as usize].increment();
                // A client that is gone already says nothing about us.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    if is_ours(&error) {
                        tell(&error, "no connection of a client can be accepted");
                        self.local.connections.give_one_up();
                    } else {
                        tracing::warn!(listener = %listener.spec.name, %error, "accepting failed");
                    }
                    sleep(EXHAUSTED_PAUSE).await;
                }
                return;
            }
        };
        let Some(place) = self.place(&listener).await else { return };
        listener.stats.accepted.increment();
        listener.stats.connections.add(1);
        let counted = Counted(listener.clone());
        let (local, registry) = (self.local.clone(), self.registry.clone());
        let guest = listener.limit.enter(ends.peer.ip());
        let accepted = Accepted { stream, ends, closing: self.closing.clone(), guest };
        self.tasks.spawn("connection", async move {
            let _counted = counted;
            let _place = place;
            connection::serve(local, listener, accepted, &registry).await;
        });
    }
}

/// A connection in its listener's gauge.
struct Counted(Arc<Listener>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.stats.connections.add(-1);
    }
}
