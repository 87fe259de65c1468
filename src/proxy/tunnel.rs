//! Connections that have changed their protocol: bytes both ways until one side is done.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded as ClientStream};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::client::{PendingTunnel, Protocol};
use super::deliver::{self, Asked};
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

/// How often it is looked whether the client is still there.
const WATCH_INTERVAL: Duration = Duration::from_secs(3);

/// The client's end of a tunnel.
pub trait ClientEnd: AsyncRead + AsyncWrite + Unpin {
    /// Whether the client is known to have left for good, though nobody reads from it or writes to
    /// it. Asked by the task that does.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool;
}

/// A stream of HTTP/2.
impl ClientEnd for TokioIo<ClientStream> {
    /// RST_STREAM, or the end of the connection, ends what writes to the stream.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(Pin::new(self).poll_flush(cx), Poll::Ready(Err(_)))
    }
}

/// Tells the client that its tunnel is open: by a 101, which leaves the rest to the driver of its
/// connection, or on HTTP/2 by a 200, behind which a task goes on with its stream.
pub(super) fn accept(
    mut exchange: Exchange,
    parts: &Parts,
    asked: &Asked<'_>,
    upgraded: Upgraded,
    idle_max: Duration,
) -> Response<ReplyBody> {
    let Upgraded { mut headers, is_h2: from_h2, tunnel, lease } = upgraded;
    let came_as = if from_h2 { Version::HTTP_2 } else { Version::HTTP_11 };
    headers::append_via(&mut headers, exchange.snapshot.via.hop(came_as));
    headers.insert(headers::X_REQUEST_ID, exchange.request_id.clone());
    if let Some(route) = exchange.route() {
        let edits = &route.spec.response_headers;
        headers::edit(&mut headers, edits, || deliver::values(&exchange, asked));
    }
    let is_h2 = exchange.connection.protocol == Protocol::H2;
    let status = if is_h2 {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        StatusCode::OK
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = parts.headers.get(UPGRADE) {
            headers.insert(UPGRADE, protocol.clone());
        }
        if let Some(key) = parts.headers.get(SEC_WEBSOCKET_KEY)
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
    if let Some(stream) = parts.extensions.get::<OnUpgrade>().cloned() {
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
/// its request already. Ends when both directions have, when one fails, when the client is gone, or
/// after `timeouts.tunnel` in which no byte moves, be it that one side sends nothing or takes
/// nothing.
pub async fn run_tunnel(client: impl ClientEnd, early: Bytes, pending: PendingTunnel) {
    let PendingTunnel { tunnel, exchange, lease: _lease, idle_max } = pending;
    let client = RefCell::new(client);
    let upstream = RefCell::new(tunnel.io);
    let counted = Counted { exchange, sent: Cell::new(0), received: Cell::new(0) };
    let activity = Activity { last: Cell::new(Instant::now()), idle_max };
    let up = copy(&client, &upstream, early, &activity, &counted.sent);
    let down = copy(&upstream, &client, tunnel.early, &activity, &counted.received);
    tokio::select! {
        // A direction that fails ends the other; one that comes to its end does not.
        _ = async { tokio::try_join!(up, down) } => {}
        () = left(&client) => {}
    }
    drop(tunnel.open);
}

/// Counts the bytes of a tunnel for the log, however it ends.
struct Counted {
    exchange: Exchange,
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.exchange.tunnelled_bytes = self.sent.get();
        self.exchange.response_bytes = self.received.get();
    }
}

/// Waits until the client is gone. While an endpoint takes nothing, nothing is read, and nobody
/// else would see it.
async fn left(client: &RefCell<impl ClientEnd>) {
    loop {
        sleep(WATCH_INTERVAL).await;
        if poll_fn(|cx| Poll::Ready(client.borrow_mut().is_gone(cx))).await {
            return;
        }
    }
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
    from: &RefCell<impl AsyncRead + Unpin>,
    to: &RefCell<impl AsyncWrite + Unpin>,
    early: Bytes,
    activity: &Activity,
    copied: &Cell<u64>,
) -> Result<(), Broken> {
    if !early.is_empty() {
        write(to, &early, activity, copied).await?;
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = activity.moving(read(from, to, &mut buffer)).await?;
        if read == 0 {
            break;
        }
        write(to, &buffer[..read], activity, copied).await?;
    }
    activity.moving(poll_fn(|cx| Pin::new(&mut *to.borrow_mut()).poll_shutdown(cx))).await
}

/// Reads, and meanwhile lets go what `to` had no room for when it was written.
async fn read(
    from: &RefCell<impl AsyncRead + Unpin>,
    to: &RefCell<impl AsyncWrite + Unpin>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(buffer);
    poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = Pin::new(&mut *to.borrow_mut()).poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut *from.borrow_mut()).poll_read(cx, &mut buffer)
    })
    .await?;
    Ok(buffer.filled().len())
}

/// Writes all of `bytes`, and lets them go.
async fn write(
    to: &RefCell<impl AsyncWrite + Unpin>,
    bytes: &[u8],
    activity: &Activity,
    written: &Cell<u64>,
) -> Result<(), Broken> {
    let mut left = bytes;
    while !left.is_empty() {
        let write = poll_fn(|cx| Pin::new(&mut *to.borrow_mut()).poll_write(cx, left));
        let count = activity.moving(write).await?;
        if count == 0 {
            return Err(Broken);
        }
        written.set(written.get() + count as u64);
        left = &left[count..];
    }
    activity.moving(poll_fn(|cx| Pin::new(&mut *to.borrow_mut()).poll_flush(cx))).await
}
