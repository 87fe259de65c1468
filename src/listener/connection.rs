//! One accepted connection: what comes before HTTP, HTTP, and its proper end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::handshake::handshake;
use super::io::{ClientIo, DRAIN_IDLE};
use super::proxy_protocol;
use super::socket::{Socket, Stream};
use super::stream::StreamExecutor;
use super::transport::Transport;
use crate::memory::Charge;
use crate::proxy::client::{ClientConnection, Ends, Protocol, TlsFacts};
use crate::proxy::local::Local;
use crate::proxy::{self, run_tunnel};
use crate::snapshot::stats::{ParseError, Rejection};
use crate::snapshot::{Guest, Listener};
use crate::tls::{ALPN_H1, ALPN_H2};
use crate::upstream::AheadDriver;

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Send buffer of one HTTP/2 stream, in bytes.
const STREAM_BUFFER_BYTES: usize = 64 << 10;
/// Receive windows of HTTP/2, in bytes. h2 derives its budget for small frames from the second.
/// The window of a connection is the sum of those of its streams, so that uploads that nobody reads
/// stop no other, as far as there is room for it in the process; so much it is anyway.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// RFC 9113 §6.9.1.
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// Streams of one connection that h2 may reset for what the client sends on them. Such a reset ends
/// its request at once, as one by the client does, so that none costs more than that.
const LOCAL_RESETS_MAX: usize = 1 << 20;
/// Room that hyper's parser has above our own limits, which are applied before it.
const PARSER_SLACK_BYTES: usize = 8 << 10;
/// How long a connection whose client still sends is read before it is closed, and how long it may
/// be silent meanwhile: as long as that our answer may be on its way (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(30);
const LINGER_GAP: Duration = Duration::from_secs(5);
/// The same while we drain.
const DRAIN_LINGER_GAP: Duration = Duration::from_secs(1);
/// Fields above which hyper needs to be told.
const HYPER_HEADERS_DEFAULT: usize = 100;

/// Keeps a worker's connections known, so that a drain can tell them.
pub(crate) trait Register {
    type Registered;
    fn register(&self, connection: &Rc<ClientConnection>) -> Self::Registered;
}

/// An accepted socket.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) ends: Ends,
    /// Cancelled when its listener goes: what has not begun by then has little time to.
    pub(crate) closing: CancellationToken,
    /// Whose it is, among all that have a place.
    pub(crate) guest: Option<Guest>,
}

/// Serves an accepted socket to its end.
pub(crate) async fn serve(
    local: Rc<Local>,
    listener: Arc<Listener>,
    mut accepted: Accepted,
    register: &impl Register,
) {
    let guest = accepted.guest.take();
    // Each stage in a box of its own: what an idle connection holds is the last of them only.
    let arrived = {
        let mut arriving = Box::pin(arrive_in_time(&local, &listener, accepted));
        match &guest {
            None => arriving.await,
            Some(guest) => tokio::select! {
                biased;
                arrived = &mut arriving => arrived,
                () = guest.asked() => None,
            },
        }
    };
    let Some((Arrived { transport, protocol, ends, tls }, is_leaving)) = arrived else { return };
    if let Some(guest) = &guest {
        guest.rename(ends.peer.ip());
    }
    let connection = Rc::new(ClientConnection::new(listener, ends, protocol, tls, guest));
    let _registered = register.register(&connection);
    if is_leaving {
        connection.drain();
    }
    let io = ClientIo::new(transport, connection.clone());
    let mut driven = match protocol {
        Protocol::H1 => serve_h1(local, connection.clone(), io),
        Protocol::H2 => serve_h2(local, connection.clone(), io),
    };
    loop {
        tokio::select! {
            biased;
            () = &mut driven => return,
            // The I/O ends, which the driver asks now.
            () = connection.asked_to_give_way() => connection.give_way(),
        }
    }
}

/// A connection on which HTTP can begin.
struct Arrived {
    transport: Transport,
    protocol: Protocol,
    ends: Ends,
    tls: Option<TlsFacts>,
}

/// A connection on which HTTP can begin, and whether it is to end with its first request. Of a
/// client that says nothing, or too slowly, a closing listener lets go.
async fn arrive_in_time(
    local: &Local,
    listener: &Listener,
    accepted: Accepted,
) -> Option<(Arrived, bool)> {
    let Accepted { stream, ends, closing, .. } = accepted;
    let socket = Socket::new(stream, listener.spec.timeouts.write);
    let late = async {
        closing.cancelled().await;
        sleep(DRAIN_IDLE).await;
    };
    let arrived = tokio::select! {
        biased;
        arrived = arrive(local, listener, ends, socket) => arrived?,
        () = late => return None,
    };
    Some((arrived, closing.is_cancelled()))
}

/// What comes before HTTP: the word of a proxy in front, TLS, and which HTTP it is to be.
async fn arrive(
    local: &Local,
    listener: &Listener,
    ends: Ends,
    mut socket: Socket,
) -> Option<Arrived> {
    let ends = match listener.spec.proxy_protocol {
        true => proxy_protocol::read(listener, ends, &mut socket).await?,
        false => ends,
    };
    if !listener.admits(ends.peer.ip(), ends.is_trusted(listener)) {
        listener.stats.rejected[Rejection::NotFront as usize].increment();
        tracing::debug!(listener = %listener.spec.name, peer = %ends.peer.ip(), "not the front");
        return None;
    }
    let Some(tls) = &listener.tls else {
        let protocol = plain_protocol(listener, &ends, &mut socket).await?;
        return Some(Arrived { transport: Transport::Plain(socket), protocol, ends, tls: None });
    };
    let (stream, facts) = handshake(local, listener, tls, &ends, socket).await?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(ALPN_H2) => Protocol::H2,
        _ if listener.spec.protocols.h1 => Protocol::H1,
        _ => Protocol::H2,
    };
    Some(Arrived { transport: Transport::Tls(Box::new(stream)), protocol, ends, tls: Some(facts) })
}

/// What a client without TLS speaks.
async fn plain_protocol(listener: &Listener, ends: &Ends, socket: &mut Socket) -> Option<Protocol> {
    let (h1, h2) = (listener.spec.protocols.h1, listener.spec.protocols.h2);
    if !(h1 && h2) {
        return Some(if h2 { Protocol::H2 } else { Protocol::H1 });
    }
    // A proxy that took the client's TLS off may say what was agreed on.
    match ends.announced.as_ref().and_then(|announced| announced.alpn.as_deref()) {
        Some(ALPN_H2) => return Some(Protocol::H2),
        Some(ALPN_H1) => return Some(Protocol::H1),
        _ => {}
    }
    timeout(listener.spec.timeouts.header, told_protocol(socket)).await.ok()?.ok()
}

/// What a client without TLS speaks, by its first bytes (RFC 9113 §3.3, §3.4).
async fn told_protocol(socket: &mut Socket) -> io::Result<Protocol> {
    let mut bytes = Vec::with_capacity(PREFACE.len());
    let protocol = loop {
        let mut more = [0; PREFACE.len()];
        let count = socket.read(&mut more[bytes.len()..]).await?;
        bytes.extend_from_slice(&more[bytes.len()..][..count]);
        if count == 0 || !PREFACE.starts_with(&bytes) {
            break Protocol::H1;
        }
        if bytes.len() == PREFACE.len() {
            break Protocol::H2;
        }
    };
    socket.unread(bytes);
    Ok(protocol)
}

type Driven = Pin<Box<dyn Future<Output = ()>>>;

fn serve_h1(local: Rc<Local>, connection: Rc<ClientConnection>, io: ClientIo) -> Driven {
    let service = {
        let (local, connection) = (local.clone(), connection.clone());
        service_fn(move |request: Request<Incoming>| proxy::handle(&local, &connection, request))
    };
    let mut http = h1_builder(&connection).serve_connection(TokioIo::new(io), service);
    Box::pin(async move {
        let mut ahead = AheadDriver::default();
        let result = poll_fn(|cx| {
            connection.register(cx.waker());
            local.ahead.clear();
            match http.poll_without_shutdown(cx) {
                Poll::Ready(result) => Poll::Ready(Ok(result)),
                Poll::Pending => match ahead.poll(&local.ahead, cx) {
                    Ok(()) => Poll::Pending,
                    Err(why) => Poll::Ready(Err(why)),
                },
            }
        })
        .await;
        let mut parts = None;
        match result {
            Ok(result) => {
                if let Err(error) = &result {
                    note_error(&connection, error);
                }
                parts = Some(http.into_parts());
            }
            Err(why) => local.cut(why, || parts = Some(http.into_parts())),
        }
        if let Some(parts) = parts {
            drop(local);
            end_h1(&connection, parts).await;
        }
    })
}

fn h1_builder(connection: &ClientConnection) -> http1::Builder {
    let limits = &connection.listener.spec.limits;
    let mut builder = http1::Builder::new();
    let head_bytes = limits.uri_bytes_max + limits.header_bytes_max + PARSER_SLACK_BYTES;
    builder.max_header_size(head_bytes).max_buf_size(head_bytes.max(64 << 10));
    if limits.headers_max > HYPER_HEADERS_DEFAULT {
        builder.max_headers(limits.headers_max);
    }
    builder
}

/// What becomes of a connection that hyper is done with. Boxed: an open one does not carry it.
fn end_h1<S>(
    connection: &Rc<ClientConnection>,
    parts: http1::Parts<TokioIo<ClientIo>, S>,
) -> Driven {
    let io = parts.io.into_inner();
    match connection.take_tunnel() {
        Some(tunnel) => Box::pin(run_tunnel(io.into_tunnel(), parts.read_buf, tunnel)),
        None => Box::pin(close(io, connection.clone())),
    }
}

/// Ends the connection so that the last answer arrives: what the client still sends is read for a
/// while, because the kernel answers unread bytes with a reset.
async fn close(mut io: ClientIo, connection: Rc<ClientConnection>) {
    let linger = io.may_have_unread_input();
    if timeout(LINGER, io.shutdown()).await.is_err() || !linger {
        return;
    }
    let mut io = io.into_tunnel();
    let drain = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let draining = connection.draining_since();
            let gap = if draining.is_some() { DRAIN_LINGER_GAP } else { LINGER_GAP };
            let Ok(Ok(read)) = timeout(gap, io.read(&mut buffer)).await else { break };
            // A stop does not wait for who goes on sending what nobody wants.
            if read == 0 || draining.is_some_and(|since| since.elapsed() > DRAIN_IDLE) {
                break;
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}

fn serve_h2(local: Rc<Local>, connection: Rc<ClientConnection>, io: ClientIo) -> Driven {
    let spec = &connection.listener.spec;
    let executor = StreamExecutor {
        local: local.clone(),
        connection: connection.clone(),
        write_timeout: spec.timeouts.write,
    };
    let of_streams = u64::from(spec.limits.streams_max) * u64::from(STREAM_WINDOW_BYTES);
    let window = connection
        .listener
        .limit
        .window(of_streams.saturating_sub(u64::from(CONNECTION_WINDOW_BYTES)));
    let more = window.as_ref().map_or(0, Charge::bytes);
    let window_bytes = u32::try_from(more).unwrap_or(0).saturating_add(CONNECTION_WINDOW_BYTES);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(spec.limits.streams_max)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window_bytes.min(WINDOW_BYTES_MAX))
        .max_header_list_size(u32::try_from(spec.limits.header_bytes_max).unwrap_or(u32::MAX));
    let service = {
        let connection = connection.clone();
        service_fn(move |request: Request<Incoming>| proxy::handle(&local, &connection, request))
    };
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    Box::pin(async move {
        let _window = window;
        let mut http = Pin::new(&mut http);
        let mut leaving = false;
        let result = poll_fn(|cx| {
            connection.register(cx.waker());
            if !leaving && connection.leaving_since().is_some() {
                leaving = true;
                // GOAWAY in two steps; what is open goes on. How long the client may take to answer
                // the first is for its I/O to say.
                http.as_mut().graceful_shutdown();
            }
            let result = http.as_mut().poll(cx);
            if result.is_pending() && !leaving && connection.leaving_since().is_some() {
                cx.waker().wake_by_ref();
            }
            result
        })
        .await;
        if let Err(error) = &result {
            note_error(&connection, error);
        }
    })
}

/// Counts what hyper's parsers refused.
fn note_error(connection: &ClientConnection, error: &hyper::Error) {
    tracing::debug!(listener = %connection.listener.spec.name, %error, "connection ended");
    if error.is_parse_too_large() {
        connection.count_parse_error(ParseError::HeadTooLarge);
    } else if error.is_parse() {
        connection.count_parse_error(ParseError::Malformed);
    }
}
