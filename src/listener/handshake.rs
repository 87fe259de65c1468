//! The TLS handshake: in time, on the terms of the name that is asked for, and why it failed.
//!
//! The ClientHello is read first, whatever pieces it comes in; it costs nothing yet. Then a place
//! among the handshakes under way is taken, because what follows does: signatures, and memory that
//! waits for the client.
//!
//! A certificate authority that looks whether a host is ours gets its handshake, and no more.

use std::io;
use std::sync::Arc;

use rustls::server::{Acceptor, ClientHello};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::challenges::Challenges;
use crate::proxy::client::{Ends, TlsFacts};
use crate::proxy::local::Local;
use crate::snapshot::Listener;
use crate::snapshot::stats::{HandshakeResult, Side};
use crate::tls::{self, ClientPolicy, Failure, ListenerTlsState};

/// Why there is no TLS.
enum Ending {
    /// It was a challenge, which ends with the handshake.
    Challenge,
    Timeout,
    /// No place among the handshakes came free in time.
    Limit,
    /// The client closed or broke off.
    Closed,
    Failed(Failure, Option<io::Error>),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Failed(Failure::of(&error), Some(error)),
        }
    }
}

/// Finishes the handshake, or counts why not.
pub(super) async fn handshake(
    local: &Local,
    listener: &Listener,
    tls: &ListenerTlsState,
    ends: &Ends,
    socket: Socket,
) -> Option<(TlsStream<Socket>, TlsFacts)> {
    let started = Instant::now();
    let mut sni = None;
    let outcome = accept(local, listener, tls, socket, started, &mut sni).await;
    let stats = &listener.stats;
    let result = match &outcome {
        Ok(_) => HandshakeResult::Ok,
        Err(Ending::Challenge) => {
            let (name, peer) = (&listener.spec.name, ends.peer.ip());
            tracing::info!(listener = %name, %peer, sni, "an authority has looked at a host");
            HandshakeResult::Challenge
        }
        Err(Ending::Timeout) => HandshakeResult::Timeout,
        Err(Ending::Limit) => HandshakeResult::Limit,
        Err(Ending::Closed) => HandshakeResult::Closed,
        Err(Ending::Failed(failure, error)) => {
            let side = if ends.is_trusted(listener) { Side::Trusted } else { Side::Other };
            stats.handshake_failures[side as usize][*failure as usize].increment();
            log(listener, ends, sni.as_deref(), *failure, error.as_ref());
            HandshakeResult::Failed
        }
    };
    stats.handshakes[result as usize].increment();
    let (stream, policy) = outcome.ok()?;
    stats.handshake.observe(started.elapsed());
    let session = stream.get_ref().1;
    tracing::debug!(
        listener = %listener.spec.name,
        peer = %ends.peer.ip(),
        sni,
        version = ?session.protocol_version(),
        suite = ?session.negotiated_cipher_suite().map(|suite| suite.suite()),
        group = ?session.negotiated_key_exchange_group().map(|group| group.name()),
        kind = ?session.handshake_kind(),
        "TLS handshake done"
    );
    let chain = session.peer_certificates().filter(|_| policy.is_some());
    let chain = chain.unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    Some((stream, TlsFacts { sni, policy, chain }))
}

async fn accept(
    local: &Local,
    listener: &Listener,
    tls: &ListenerTlsState,
    socket: Socket,
    started: Instant,
    sni: &mut Option<Box<str>>,
) -> Result<(TlsStream<Socket>, Option<Arc<ClientPolicy>>), Ending> {
    let deadline = started + listener.spec.timeouts.handshake;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let start = timeout_at(deadline, hello).await.map_err(|_| Ending::Timeout)??;
    *sni = start.client_hello().server_name().map(Box::from);
    let _place = match listener.handshakes.try_connect() {
        Some(place) => place,
        None => {
            let place = Box::pin(listener.handshakes.connect());
            timeout_at(deadline, place).await.map_err(|_| Ending::Limit)?
        }
    };
    if let Some(config) = challenge(&local.snapshot().challenges, &start.client_hello()) {
        let accepting = start.into_stream(config);
        let mut stream = timeout_at(deadline, accepting).await.map_err(|_| Ending::Timeout)??;
        // Who has seen the certificate may be gone before we are.
        let _ = timeout_at(deadline, stream.shutdown()).await;
        return Err(Ending::Challenge);
    }
    let (configs, policy) = tls.accept(sni.as_deref());
    let config = configs.for_offer(start.client_hello().cipher_suites()).clone();
    let accepting = start.into_stream(config);
    let stream = timeout_at(deadline, accepting).await.map_err(|_| Ending::Timeout)??;
    if let Some(policy) = policy {
        check_again(&stream, policy)?;
    }
    Ok((stream, policy.cloned()))
}

/// The handshake of an open challenge, where this is one. One for a host without ends like all that
/// have no protocol in common with us.
fn challenge(challenges: &Challenges, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
    if !challenges.has_hosts() || !tls::challenge::is_asked_for(hello) {
        return None;
    }
    challenges.handshake(hello.server_name()?)
}

/// A resumed session says what the client showed when it was a new one; meanwhile that may have
/// expired.
fn check_again(stream: &TlsStream<Socket>, policy: &ClientPolicy) -> Result<(), Ending> {
    let session = stream.get_ref().1;
    if session.handshake_kind() != Some(HandshakeKind::Resumed) {
        return Ok(());
    }
    let Some(chain) = session.peer_certificates() else { return Ok(()) };
    policy.admits(chain).map_err(|error| {
        let failure = Failure::of_tls(&error);
        Ending::Failed(failure, Some(io::Error::new(io::ErrorKind::InvalidData, error)))
    })
}

/// One line: for operators where a client's certificate was refused, else for the curious.
fn log(
    listener: &Listener,
    ends: &Ends,
    sni: Option<&str>,
    failure: Failure,
    error: Option<&io::Error>,
) {
    let (name, peer, reason) = (&listener.spec.name, ends.peer.ip(), failure.as_str());
    let error = error.map(ToString::to_string);
    if failure.is_about_client_certificate() {
        tracing::warn!(listener = %name, %peer, sni, reason, error, "client certificate refused");
    } else {
        tracing::debug!(listener = %name, %peer, sni, reason, error, "TLS handshake failed");
    }
}
