//! Connections that have changed their protocol: bytes both ways until one side is done.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{PendingTunnel, Protocol};
use super::exchange::Exchange;
use super::forward::Upgraded;
use super::headers;
use super::reply::ReplyBody;
use super::upgrade::{self, Opened};
use crate::body::Body;

/// Bytes moved at once, in each direction.
const BUFFER_BYTES: usize = 16 << 10;

/// How long a stream may take to become a tunnel, once its head was answered.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// Tells the client that its tunnel is open: by a 101, which leaves the rest to the driver of its
/// connection, or on HTTP/2 by a 200, behind which a task goes on with its stream.
pub(super) fn accept(
    mut exchange: Exchange,
    asked: &Parts,
    upgraded: Upgraded,
    idle_max: Duration,
) -> Response<ReplyBody> {
    let Upgraded { mut headers, is_h2: from_h2, tunnel, lease } = upgraded;
    headers.insert(headers::X_REQUEST_ID, exchange.request_id.clone());
    let is_h2 = exchange.connection.protocol == Protocol::H2;
    let status = if is_h2 {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        StatusCode::OK
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = asked.headers.get(UPGRADE) {
            headers.insert(UPGRADE, protocol.clone());
        }
        if let Some(key) = asked.headers.get(SEC_WEBSOCKET_KEY)
            && from_h2
        {
            headers.insert(SEC_WEBSOCKET_ACCEPT, upgrade::accept_of(key.as_bytes()));
        }
        StatusCode::SWITCHING_PROTOCOLS
    };
    exchange.keep_client(&mut headers);
    exchange.status = Some(status);
    let (local, connection) = (exchange.local.clone(), exchange.connection.clone());
    let pending = PendingTunnel { tunnel, exchange, lease, idle_max };
    let mut response = Response::new(ReplyBody::bare(Body::Empty));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if !is_h2 {
        connection.set_tunnel(pending);
        return response;
    }
    response.extensions_mut().insert(Opened);
    if let Some(stream) = asked.extensions.get::<OnUpgrade>().cloned() {
        local.tasks.spawn("tunnel", async move {
            // Fails where the client has left meanwhile.
            if let Ok(Ok(stream)) = timeout(OPENING_MAX, stream).await {
                run_tunnel(TokioIo::new(stream), Bytes::new(), pending).await;
            }
        });
    }
    response
}

/// Moves bytes between the client and the endpoint. `early` is what the client had sent behind
/// its request already. Ends when both directions have, when one fails, or after
/// `timeouts.tunnel` in which no byte moves, be it that one side sends nothing or takes nothing.
pub async fn run_tunnel<C>(client: C, early: Bytes, pending: PendingTunnel)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let PendingTunnel { tunnel, mut exchange, lease: _lease, idle_max } = pending;
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(tunnel.io);
    let activity = Activity { last: Cell::new(Instant::now()), idle_max };
    let received = Cell::new(0);
    let up = copy(&mut client_read, &mut upstream_write, early, &activity, None);
    let down =
        copy(&mut upstream_read, &mut client_write, tunnel.early, &activity, Some(&received));
    // A direction that fails ends the other; one that comes to its end does not.
    let _ = tokio::try_join!(up, down);
    exchange.response_bytes = received.get();
    drop(tunnel.open);
}

/// A direction failed, or nothing has moved for too long.
struct Broken;

/// When bytes last moved, in either direction.
struct Activity {
    last: Cell<Instant>,
    idle_max: Duration,
}

impl Activity {
    fn deadline(&self) -> Instant {
        self.last.get() + self.idle_max
    }

    /// Waits for bytes to move in one direction, as long as some do in either.
    async fn moving<T>(&self, step: impl Future<Output = io::Result<T>>) -> Result<T, Broken> {
        let mut step = pin!(step);
        loop {
            match timeout_at(self.deadline(), &mut step).await {
                Ok(Ok(done)) => {
                    self.last.set(Instant::now());
                    return Ok(done);
                }
                Ok(Err(_)) => return Err(Broken),
                // The other direction may have been busy meanwhile.
                Err(_) if self.deadline() > Instant::now() => {}
                Err(_) => return Err(Broken),
            }
        }
    }
}

/// Copies until the end of `from`, which it passes on. `copied` counts the bytes.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    early: Bytes,
    activity: &Activity,
    copied: Option<&Cell<u64>>,
) -> Result<(), Broken> {
    let count = |bytes: usize| {
        if let Some(copied) = copied {
            copied.set(copied.get() + bytes as u64);
        }
    };
    if !early.is_empty() {
        activity.moving(async { write(to, &early).await }).await?;
        count(early.len());
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = activity.moving(read(from, to, &mut buffer)).await?;
        if read == 0 {
            break;
        }
        activity.moving(async { write(to, &buffer[..read]).await }).await?;
        count(read);
    }
    activity.moving(to.shutdown()).await
}

/// Reads, and meanwhile lets go what `to` had no room for when it was written.
async fn read(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(buffer);
    poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = Pin::new(&mut *to).poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut *from).poll_read(cx, &mut buffer)
    })
    .await?;
    Ok(buffer.filled().len())
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
