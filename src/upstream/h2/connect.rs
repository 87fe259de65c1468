//! A tunnel through one stream: extended CONNECT (RFC 8441).

use h2::ext::Protocol;
use http::header::SEC_WEBSOCKET_KEY;
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;

use super::exchange::{Answered, Exchange, ExchangeHead, Uploading, assemble, failed, unprocessed};
use super::session::Place;
use super::stream::Stream;
use super::stream_io::StreamIo;
use crate::error::Kind;
use crate::timer::LazyTimer;
use crate::upstream::Deadlines;
use crate::upstream::connection::{SendError, Tunnel};
use crate::upstream::io::UpstreamIo;

use bytes::Bytes;

/// What an endpoint answered.
#[derive(Debug)]
pub enum Connected {
    /// It has opened the tunnel, with these fields.
    Tunnel { headers: HeaderMap, tunnel: Tunnel, came: Instant },
    /// It has not.
    Declined(Answered),
}

/// Asks the endpoint to take a stream for `protocol`, and waits for the head of its answer.
///
/// # Errors
/// [`Kind::NoTunnel`] of an endpoint that does not offer extended CONNECT; otherwise as
/// [`Exchange::send`].
pub async fn connect(
    place: Place,
    head: ExchangeHead<'_>,
    protocol: &HeaderValue,
    deadlines: &Deadlines,
    started: Instant,
    timer: &mut LazyTimer,
) -> Result<Connected, SendError> {
    let unfit = || failed(Kind::BadRequest("the protocol of the tunnel has no name"));
    let protocol = Protocol::from(protocol.to_str().map_err(|_| unfit())?);
    let mut request = assemble(head, None)
        .map_err(|error| SendError { source: Some(error.into()), ..failed(Kind::Internal) })?;
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(protocol);
    // RFC 8441 §5: HTTP/2 does without.
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    let Some(mut sender) = place.sender() else { return Err(unprocessed(None)) };
    // RFC 8441 §3: told in its SETTINGS, which have come.
    if !sender.is_extended_connect_protocol_enabled() {
        return Err(failed(Kind::TunnelUnsupported));
    }
    let sent = sender.send_request(request, false);
    drop(sender);
    let halves = match sent {
        Ok(sent) => sent,
        Err(error) => {
            place.retire();
            return Err(unprocessed(Some(error)));
        }
    };
    let mut stream = Stream::new(halves, false, place, head.client);
    let mut nothing = Uploading::nothing();
    let waits = (deadlines, head.request.nudge);
    let answer = nothing.answer(&mut stream, None, waits, started, timer).await?;
    if !answer.status().is_success() {
        // It takes nothing more. Where that fails, its answer tells why.
        if let Some(sender) = stream.sender() {
            let _ = sender.send_data(Bytes::new(), true);
        }
        stream.set_sent();
        return Exchange::begin(answer, nothing, stream).map(Connected::Declined);
    }
    let came = Instant::now();
    stream.session().heard(came);
    let (parts, ()) = answer.into_parts();
    let io = UpstreamIo::shared(StreamIo::new(stream));
    let tunnel = Tunnel { io, early: Bytes::new(), open: None };
    Ok(Connected::Tunnel { headers: parts.headers, tunnel, came })
}
