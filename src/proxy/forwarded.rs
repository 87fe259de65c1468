//! The fields that a request is sent on with.
//!
//! The client's own fields are copied in one pass, without those of one hop and those in which
//! only a trusted peer may say who the client is; then comes what the endpoint needs to know. What
//! is the same for every request of a connection is kept on the connection.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{COOKIE, FORWARDED, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::client::ClientConnection;
use super::headers::{self, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID};
use super::hex;
use crate::balance::Rng;
use crate::config::model::{ClientIpHeader, RouteCache};
use crate::front;
use crate::snapshot::{CDN_LOOP, Listener};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Fields that are put on at most.
const ADDED_MAX: usize = 11;

/// What a request's fields are completed with.
#[derive(Debug)]
pub(super) struct Hop<'a> {
    pub connection: &'a ClientConnection,
    /// In normal form, with the port where it is not the scheme's own.
    pub authority: &'a str,
    /// What the route asks of the cache, if anything.
    pub cache: Option<&'a RouteCache>,
    pub request_id: &'a HeaderValue,
    /// For `Via`.
    pub via: &'a HeaderValue,
    /// For `CDN-Loop`.
    pub cdn_loop: &'a HeaderValue,
    /// The client's, where the host asks for one.
    pub certificate: Option<&'a HeaderValue>,
    /// Another Host than the client's.
    pub host: Option<&'a HeaderValue>,
    pub rng: &'a Rng,
}

/// What is the same for all requests of a connection to one authority.
#[derive(Debug, Clone)]
pub(super) struct Told {
    authority: HeaderValue,
    /// The peer's address.
    address: HeaderValue,
    /// Our element of Forwarded.
    element: HeaderValue,
}

/// What becomes of a client's field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// It is passed on.
    Kept,
    /// It ends here, or we say it ourselves.
    Dropped,
    /// Where proxies tell who the client is: believed from trusted peers only.
    AboutClient,
    /// It overrides the URL, method or host: kept back where answers are stored under those.
    Override,
    Te,
    Cookie,
    Trace,
}

impl Field {
    fn of(name: &HeaderName) -> Self {
        match name.as_str() {
            "host" | "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding"
            | "upgrade" | "http2-settings" | "expect" | "x-request-id" => Self::Dropped,
            // For proxies (RFC 9110 §11.7.1), and a variable of the environment to CGI.
            "proxy" | "proxy-authorization" => Self::Dropped,
            // RFC 9440 §4: only we may say them.
            "client-cert" | "client-cert-chain" => Self::Dropped,
            "te" => Self::Te,
            "cookie" => Self::Cookie,
            "traceparent" => Self::Trace,
            other if front::is_about_client(other) => Self::AboutClient,
            other if front::is_override(other) => Self::Override,
            other if other.contains('_') => Self::of_underscored(other),
            _ => Self::Kept,
        }
    }

    /// Many applications read `_` as `-`: what may not come in one spelling may not in the other.
    fn of_underscored(name: &str) -> Self {
        match HeaderName::try_from(name.replace('_', "-")).map(|name| Self::of(&name)) {
            Ok(Self::Kept) => Self::Kept,
            _ => Self::Dropped,
        }
    }
}

impl Told {
    pub(super) fn new(connection: &ClientConnection, authority: HeaderValue) -> Self {
        let peer = connection.peer_ip();
        let host = authority.to_str().unwrap_or_default();
        let element = forwarded_element(peer, host, connection.scheme());
        Self { authority, address: text(peer.to_string()), element: text(element) }
    }

    pub(super) fn is_about(&self, authority: &str) -> bool {
        self.authority.as_bytes() == authority.as_bytes()
    }
}

/// The client's fields as they are forwarded, before the route's edits.
pub(super) fn forwarded(from: &HeaderMap, hop: &Hop<'_>) -> HeaderMap {
    let mut to = HeaderMap::with_capacity(from.len() + ADDED_MAX);
    let told = hop.connection.told(hop.authority);
    // HTTP/1.0 may come without; what is sent on has a Host, be it an empty one (RFC 9112 §3.2).
    to.append(HOST, hop.host.unwrap_or(&told.authority).clone());
    let options = headers::connection_options(from);
    let listener = &hop.connection.listener;
    let (mut cookies, mut has_trace, mut wants_trailers) = (0, false, false);
    for (name, value) in from {
        match Field::of(name) {
            Field::Kept if !is_named(listener, name) => {}
            Field::Kept | Field::AboutClient if is_believed(hop.connection, name) => {}
            Field::Override if may_override(hop.cache, name) => {}
            Field::Cookie => cookies += 1,
            Field::Trace => has_trace = true,
            Field::Te => {
                wants_trailers |= headers::has_token(from, &TE, "trailers");
                continue;
            }
            Field::Dropped | Field::Kept | Field::AboutClient | Field::Override => continue,
        }
        if options.is_empty() || !options.contains(name) {
            to.append(name, value.clone());
        }
    }
    if cookies > 1 {
        join_cookies(&mut to);
    }
    if wants_trailers {
        to.append(TE, HeaderValue::from_static("trailers"));
    }
    tell_of_client(&mut to, hop, &told);
    headers::append_via(&mut to, hop.via);
    headers::append_member(&mut to, CDN_LOOP, hop.cdn_loop.clone());
    to.append(X_REQUEST_ID, hop.request_id.clone());
    if let Some(certificate) = hop.certificate {
        to.append(CLIENT_CERT, certificate.clone());
    }
    if !has_trace {
        to.append(TRACEPARENT, traceparent(hop.rng));
    }
    to
}

/// Whether a field that overrides what the request says may pass: where nothing is stored, or the
/// key knows of it, or the operator lets it.
fn may_override(cache: Option<&RouteCache>, name: &HeaderName) -> bool {
    cache.is_none_or(|cache| cache.forward.contains(name) || cache.key.headers.contains(name))
}

/// Whether a field that is not known to tell of clients does so on this listener.
fn is_named(listener: &Listener, name: &HeaderName) -> bool {
    listener.trace_field.as_ref() == Some(name) || tells_address(listener, name)
}

fn tells_address(listener: &Listener, name: &HeaderName) -> bool {
    match &listener.spec.client_ip_header {
        Some(ClientIpHeader::Single(named)) => spelt_alike(name, named),
        _ => false,
    }
}

/// As applications do that read `_` as `-`.
fn spelt_alike(name: &HeaderName, other: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let (name, other) = (name.as_str().bytes(), other.as_str().bytes());
    name.len() == other.len() && name.map(plain).eq(other.map(plain))
}

/// Whether what a peer says in such a field is its own word, and believed.
fn is_believed(connection: &ClientConnection, name: &HeaderName) -> bool {
    let listener = &connection.listener;
    connection.is_trusted
        && (front::is_written_by(listener.spec.front, name.as_str())
            || matches!(&listener.spec.client_ip_header,
                Some(ClientIpHeader::Single(named)) if named == name))
}

/// HTTP/2 may split Cookie into several fields; HTTP/1.1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::try_from(crumbs.join(b"; ".as_slice())) {
        headers.insert(COOKIE, joined);
    }
}

fn tell_of_client(to: &mut HeaderMap, hop: &Hop<'_>, told: &Told) {
    let proto = HeaderValue::from_static(hop.connection.scheme());
    if !hop.connection.is_trusted {
        // Nothing of the kind has been copied.
        to.append(X_FORWARDED_FOR, told.address.clone());
        to.append(X_FORWARDED_PROTO, proto);
        if !hop.authority.is_empty() {
            to.append(X_FORWARDED_HOST, told.authority.clone());
        }
        to.append(FORWARDED, told.element.clone());
        return;
    }
    headers::append_member(to, X_FORWARDED_FOR, told.address.clone());
    to.entry(X_FORWARDED_PROTO).or_insert(proto);
    if !hop.authority.is_empty() {
        to.entry(X_FORWARDED_HOST).or_insert_with(|| told.authority.clone());
    }
    headers::append_member(to, FORWARDED, told.element.clone());
}

/// One element of a Forwarded field (RFC 7239 §4).
fn forwarded_element(peer: IpAddr, authority: &str, proto: &str) -> String {
    let mut element = match peer {
        IpAddr::V4(peer) => format!("for={peer};"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\";"),
    };
    if !authority.is_empty() {
        // An authority has been checked to hold neither quotes nor backslashes.
        element.push_str("host=\"");
        element.push_str(authority);
        element.push_str("\";");
    }
    element.push_str("proto=");
    element.push_str(proto);
    element
}

/// A new trace without a decision about sampling (W3C Trace Context, level 1).
fn traceparent(rng: &Rng) -> HeaderValue {
    let mut line = [b'0'; 55];
    line[2] = b'-';
    hex::digits(&mut line[3..19], rng.next());
    hex::digits(&mut line[19..35], rng.next());
    line[35] = b'-';
    // The id of the parent is not zero.
    hex::digits(&mut line[36..52], rng.next().max(1));
    line[52] = b'-';
    value(Bytes::from_owner(line))
}

fn text(text: String) -> HeaderValue {
    value(Bytes::from_owner(text.into_bytes()))
}

/// Of bytes that are visible ASCII.
fn value(bytes: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_crumbs_become_one_cookie() {
        let mut map = HeaderMap::new();
        map.append(COOKIE, HeaderValue::from_static("a=1"));
        map.append(COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut map);
        assert_eq!(map.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn a_forwarded_element_quotes_what_must_be_quoted() {
        let peer = "2001:db8::1".parse().expect("an address");
        assert_eq!(
            forwarded_element(peer, "example.com:8443", "https"),
            "for=\"[2001:db8::1]\";host=\"example.com:8443\";proto=https"
        );
    }

    #[test]
    fn a_made_trace_has_the_standard_form() {
        let value = traceparent(&Rng::seeded(1));
        let text = value.to_str().expect("text");
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2]);
        assert!(text.starts_with("00-") && text.ends_with("-00"));
        assert!(text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
    }

    #[test]
    fn fields_that_may_not_come_may_not_come_with_underscores_either() {
        for (name, field) in [
            ("x_forwarded_for", Field::Dropped),
            ("transfer_encoding", Field::Dropped),
            ("x_real-ip", Field::Dropped),
            ("client_cert", Field::Dropped),
            ("x_original_url", Field::Dropped),
            ("x_forwarded_ssl", Field::Dropped),
            ("my_field", Field::Kept),
        ] {
            assert_eq!(Field::of(&HeaderName::from_static(name)), field, "{name}");
        }
    }
}
