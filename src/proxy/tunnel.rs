//! Connections that have changed their protocol: bytes both ways until one side is done.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response};
use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::client::{PendingTunnel, Protocol};
use super::deliver::{self, Asked};
use super::exchange::Exchange;
use super::headers;
use super::reply::ReplyBody;
use crate::balance::Lease;
use crate::body::Body;
use crate::error::Kind;
use crate::upstream::{ResponseHead, Tunnel};

/// Bytes moved at once, in each direction.
const BUFFER_BYTES: usize = 16 << 10;

/// Answers the client with the endpoint's 101 and leaves the rest to the driver of its
/// connection.
pub(super) fn accept(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    head: ResponseHead,
    tunnel: Tunnel,
    lease: Lease,
    idle_max: Duration,
) -> Response<ReplyBody> {
    if exchange.connection.protocol != Protocol::H1 {
        return deliver::error(exchange, asked.headers, Kind::BadResponse);
    }
    let mut headers = head.headers;
    headers.insert(headers::X_REQUEST_ID, exchange.request_id.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = head.upgrade {
        headers.insert(UPGRADE, protocol);
    }
    exchange.status = Some(head.status);
    let connection = exchange.connection.clone();
    connection.set_tunnel(PendingTunnel { tunnel, exchange, lease, idle_max });
    let mut response = Response::new(ReplyBody::bare(Body::Empty));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    response
}

/// Moves bytes between the client and the endpoint. `early` is what the client had sent behind
/// its request already. Ends when both directions have, or after `timeouts.tunnel` of silence.
pub async fn run_tunnel<C>(client: C, early: Bytes, pending: PendingTunnel)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let PendingTunnel { tunnel, mut exchange, lease: _lease, idle_max } = pending;
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(tunnel.io);
    let activity = Activity { last: Cell::new(Instant::now()), idle_max };
    let up = copy(&mut client_read, &mut upstream_write, early, &activity);
    let down = copy(&mut upstream_read, &mut client_write, tunnel.early, &activity);
    let (_, received) = tokio::join!(up, down);
    exchange.response_bytes = received;
    drop(tunnel.open);
}

/// When bytes last moved, in either direction.
struct Activity {
    last: Cell<Instant>,
    idle_max: Duration,
}

impl Activity {
    fn deadline(&self) -> Instant {
        self.last.get() + self.idle_max
    }
}

/// Copies until the end of `from`, which it passes on; how many bytes it were.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    early: Bytes,
    activity: &Activity,
) -> u64 {
    let mut copied = early.len() as u64;
    if !early.is_empty() && to.write_all(&early).await.is_err() {
        return 0;
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match timeout_at(activity.deadline(), from.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(read)) => read,
            // The other direction may have been busy meanwhile.
            Err(_) if activity.deadline() > Instant::now() => continue,
            Err(_) => break,
        };
        activity.last.set(Instant::now());
        let written = async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        };
        match timeout_at(activity.deadline(), written).await {
            Ok(Ok(())) => copied += read as u64,
            _ => break,
        }
        activity.last.set(Instant::now());
    }
    let _ = to.shutdown().await;
    copied
}
