//! Whether a connection meets what is asked of the clients of a host.
//!
//! Asked for each request: one connection may carry requests for several hosts, and a reload may
//! ask for more than the connection's handshake did.

use std::sync::Arc;

use super::client::ClientConnection;
use crate::snapshot::Snapshot;
use crate::tls::ClientPolicy;

/// What a host asks of its clients, as far as this connection is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// The client meets it.
    Met,
    /// It would have to come with another connection.
    Unmet,
}

/// `host` in its normal form.
pub(super) fn of(connection: &ClientConnection, snapshot: &Snapshot, host: &str) -> Asked {
    if !snapshot.asks_clients || connection.tls.is_none() {
        return Asked::Nothing;
    }
    match policy(connection, snapshot, host) {
        None => Asked::Nothing,
        Some(policy) if connection.meets(policy) => Asked::Met,
        Some(_) => Asked::Unmet,
    }
}

/// What is asked now; a listener that is gone asks what it did.
fn policy<'a>(
    connection: &'a ClientConnection,
    snapshot: &'a Snapshot,
    host: &str,
) -> Option<&'a Arc<ClientPolicy>> {
    let accepted = &connection.listener;
    let listener = snapshot.listeners.get(&accepted.spec.name).unwrap_or(accepted);
    listener.tls.as_ref()?.clients.of(Some(host).filter(|host| !host.is_empty()))
}
