//! Requests that ask for a tunnel: Upgrade of HTTP/1.1 (RFC 9110 §7.8) and extended CONNECT of
//! HTTP/2 (RFC 8441), and what one is as the other.
//!
//! An extended CONNECT goes its way through routes, limits and pools as what it stands for, a GET.
//! Only `tunnel` may then answer it with success: whatever else would, is refused here.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, Version};
use hyper::ext::Protocol;

use super::deliver;
use super::headers;
use super::reply::{Reply, ReplyBody};
use super::respond;
use crate::balance::Rng;
use crate::body::Body;
use crate::error::Kind;

/// RFC 6455 §1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: &[u8] = b"websocket";
/// The longest name of a protocol, in bytes.
const PROTOCOL_BYTES_MAX: usize = 128;

/// Of an answer that opens a tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened;

/// What a request asks its connection, or its stream, to become.
#[derive(Debug, Clone)]
pub(super) struct Upgrade {
    pub protocol: HeaderValue,
    /// What an endpoint of HTTP/1.1 has to show, where the key that asks for it is ours.
    pub accept: Option<HeaderValue>,
}

impl Upgrade {
    /// What a request asks for, with the fields that an endpoint of HTTP/1.1 needs for it.
    pub(super) fn of(parts: &Parts, headers: &mut HeaderMap, rng: &Rng) -> Option<Self> {
        let protocol = asked(parts)?;
        let mut upgrade = Self { protocol, accept: None };
        if parts.version != Version::HTTP_2 || !upgrade.is_websocket() {
            return Some(upgrade);
        }
        let key = new_key(rng);
        let accept = accept_of(key.as_bytes());
        headers.insert(SEC_WEBSOCKET_KEY, key);
        headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        upgrade.accept = Some(accept);
        Some(upgrade)
    }

    pub(super) fn is_websocket(&self) -> bool {
        is_websocket(&self.protocol)
    }
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET)
}

/// The protocol that a request asks for, if it may take the connection over.
pub(super) fn asked(parts: &Parts) -> Option<HeaderValue> {
    let protocol = match parts.version {
        Version::HTTP_11 if !matches!(parts.method, Method::HEAD | Method::CONNECT) => parts
            .headers
            .get(UPGRADE)
            .filter(|_| headers::has_token(&parts.headers, &CONNECTION, "upgrade"))
            // RFC 6455 §4.1: a WebSocket is opened by GET. Others are by any method, such as the
            // POST of docker exec and kubectl attach.
            .filter(|name| parts.method == Method::GET || !is_websocket(name))?
            .clone(),
        Version::HTTP_2 => HeaderValue::from_str(extended(parts)?.as_str()).ok()?,
        _ => return None,
    };
    may_be_tunnelled(&protocol).then_some(protocol)
}

/// The protocol of an extended CONNECT.
pub(super) fn extended(parts: &Parts) -> Option<&Protocol> {
    parts.extensions.get()
}

/// Makes an extended CONNECT the GET that it stands for; whether it is one.
pub(super) fn translate(parts: &mut Parts) -> bool {
    let is_extended = parts.method == Method::CONNECT && extended(parts).is_some();
    if is_extended {
        parts.method = Method::GET;
    }
    is_extended
}

/// Lets no success pass but the opening of a tunnel: to its client any other would be one.
/// `asked` are the fields of the request.
pub(super) fn only_tunnels(reply: Reply, asked: HeaderMap) -> Reply {
    match reply {
        Reply::Now(response) => Reply::Now(response.map(|response| checked(response, &asked))),
        Reply::Later(response) => {
            Reply::Later(Box::pin(async move { checked(response.await, &asked) }))
        }
    }
}

fn checked(response: Response<ReplyBody>, asked: &HeaderMap) -> Response<ReplyBody> {
    let is_opened = response.extensions().get::<Opened>().is_some();
    if !response.status().is_success() || is_opened {
        return response;
    }
    let body = response.into_body();
    let kind = if body.is_from_endpoint() { Kind::BadResponse } else { Kind::NoTunnel };
    match body.into_exchange() {
        Some(exchange) => deliver::error(exchange, asked, kind),
        None => {
            let mut refused = Response::new(ReplyBody::bare(Body::Empty));
            *refused.status_mut() = respond::status_of(kind);
            refused
        }
    }
}

/// Whether a protocol may take a connection over: one alone, by its name and version (RFC 9110
/// §7.8). Behind a changed version of HTTP, or TLS, further requests would go past every rule.
fn may_be_tunnelled(protocol: &HeaderValue) -> bool {
    let name = protocol.as_bytes().to_ascii_lowercase();
    // Methods are tokens, too.
    name.len() <= PROTOCOL_BYTES_MAX
        && name.splitn(2, |byte| *byte == b'/').all(|token| Method::from_bytes(token).is_ok())
        && ![&b"h2c"[..], b"http", b"tls"].iter().any(|version| name.starts_with(version))
}

/// What is shown for a key (RFC 6455 §4.2.2).
pub(super) fn accept_of(key: &[u8]) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(ACCEPT_SUFFIX);
    value(STANDARD.encode(context.finish()))
}

fn new_key(rng: &Rng) -> HeaderValue {
    let (high, low) = (rng.next().to_be_bytes(), rng.next().to_be_bytes());
    value(STANDARD.encode([high, low].concat()))
}

/// Of text that is visible ASCII.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_key_is_shown_as_in_the_example_of_the_rfc() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_extended_connect_is_a_get_with_a_key_of_ours() {
        let mut parts = parts(Version::HTTP_2, &[]);
        parts.method = Method::CONNECT;
        assert!(!translate(&mut parts), "without a protocol it is no such request");
        parts.extensions.insert(Protocol::from_static("websocket"));
        assert!(translate(&mut parts));
        assert_eq!(parts.method, Method::GET);
        let mut headers = HeaderMap::new();
        let upgrade = Upgrade::of(&parts, &mut headers, &Rng::from_entropy()).unwrap();
        assert_eq!(upgrade.protocol, "websocket");
        assert_eq!(headers[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(headers[SEC_WEBSOCKET_KEY].len(), 24);
        let accept = accept_of(headers[SEC_WEBSOCKET_KEY].as_bytes());
        assert_eq!(upgrade.accept, Some(accept));
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_a_protocol_that_is_no_http() {
        let asks = |version, protocol, connection| {
            asked(&parts(version, &[("upgrade", protocol), ("connection", connection)])).is_some()
        };
        assert!(asks(Version::HTTP_11, "websocket", "keep-alive, Upgrade"));
        assert!(!asks(Version::HTTP_11, "websocket", "keep-alive"));
        assert!(!asks(Version::HTTP_10, "websocket", "upgrade"));
        assert!(!asks(Version::HTTP_2, "websocket", "upgrade"));
        assert!(asks(Version::HTTP_11, "irc/6.9", "upgrade"));
        for (method, protocol, is_asked) in [
            (Method::POST, "tcp", true),
            (Method::PUT, "SPDY/3.1", true),
            (Method::POST, "websocket", false),
            (Method::HEAD, "tcp", false),
        ] {
            let fields = [("upgrade", protocol), ("connection", "upgrade")];
            let mut parts = parts(Version::HTTP_11, &fields);
            parts.method = method;
            assert_eq!(asked(&parts).is_some(), is_asked, "{} {protocol}", parts.method);
        }
        let long = "x".repeat(PROTOCOL_BYTES_MAX + 1);
        for protocol in ["h2c", "HTTP/2.0", "TLS/1.0", "websocket, h2c", "", "foo bar", "a/", &long]
        {
            assert!(!asks(Version::HTTP_11, protocol, "upgrade"), "{protocol}");
        }
    }
}
