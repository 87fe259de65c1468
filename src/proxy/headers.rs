//! The fields of messages that pass through: what belongs to one hop is taken off, what the other
//! side needs to know is put on, and the operator's edits are made.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE,
    VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::client::ClientConnection;
use crate::balance::Rng;
use crate::config::model::{ClientIpHeader, HeaderEdits};
use crate::route::template::{self, Values};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields in which other proxies tell who the client is; believed from trusted peers only.
const CLIENT_FIELDS: [HeaderName; 3] = [
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("x-real-ip"),
];

/// Removes the fields that belong to one connection (RFC 9110 §7.6.1).
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Nearly every message has none of them: look before collecting names.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // Nobody may use Connection to take framing or the destination off.
            .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// Whether a list field holds `token`, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The client's address: the peer's, or what a trusted peer says.
pub(super) fn client_ip(connection: &ClientConnection, headers: &HeaderMap) -> IpAddr {
    let peer = connection.peer.ip();
    if !connection.is_trusted {
        return peer;
    }
    match &connection.listener.spec.client_ip_header {
        Some(ClientIpHeader::Single(name)) => {
            let mut values = headers.get_all(name).iter();
            let value = values.next().filter(|_| values.next().is_none());
            value.and_then(|value| address(value.as_bytes())).unwrap_or(peer)
        }
        Some(ClientIpHeader::ForwardedFor) | None => {
            let hops: Vec<&[u8]> = headers
                .get_all(X_FORWARDED_FOR)
                .iter()
                .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
                .collect();
            let mut client = peer;
            for hop in hops.iter().rev() {
                // What is no address was not written by a proxy that is trusted.
                let Some(hop) = address(hop) else { break };
                client = hop;
                if !connection.listener.trusted.contains(hop) {
                    break;
                }
            }
            client
        }
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let parsed = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<std::net::SocketAddr>().map(|socket| socket.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse());
    parsed.ok().map(|address| address.to_canonical())
}

/// The scheme that the client used, as far as it is known.
pub(super) fn scheme(connection: &ClientConnection, headers: &HeaderMap) -> &'static str {
    if connection.is_trusted
        && let Some(proto) = headers.get(X_FORWARDED_PROTO)
    {
        match proto.as_bytes() {
            b"https" => return "https",
            b"http" => return "http",
            _ => {}
        }
    }
    if connection.is_tls { "https" } else { "http" }
}

/// A request id from a trusted peer.
pub(super) fn trusted_request_id(
    connection: &ClientConnection,
    headers: &HeaderMap,
) -> Option<HeaderValue> {
    /// Longer ids are somebody's mistake or attack.
    const BYTES_MAX: usize = 128;
    headers
        .get(X_REQUEST_ID)
        .filter(|id| {
            connection.is_trusted
                && (1..=BYTES_MAX).contains(&id.len())
                && id.as_bytes().iter().all(u8::is_ascii_graphic)
        })
        .cloned()
}

/// What a request's fields are completed with.
#[derive(Debug)]
pub(super) struct Hop<'a> {
    pub connection: &'a ClientConnection,
    pub version: Version,
    /// As the client sent it, port included.
    pub authority: &'a str,
    pub values: Values<'a>,
    pub request_id: &'a HeaderValue,
    /// Our name in `Via`.
    pub name: &'a str,
    pub rng: &'a Rng,
}

/// Turns a client's fields into those that are forwarded.
pub(super) fn forwarded(
    headers: &mut HeaderMap,
    hop: &Hop<'_>,
    host: Option<&HeaderValue>,
    edits: &HeaderEdits,
) {
    let wants_trailers = has_token(headers, &TE, "trailers");
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    join_cookies(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    tell_origin_of_client(headers, hop);
    append_via(headers, hop.version, hop.name);
    headers.insert(X_REQUEST_ID, hop.request_id.clone());
    if !headers.contains_key(TRACEPARENT) {
        headers.insert(TRACEPARENT, traceparent(hop.rng));
    }
    match host {
        Some(host) => {
            headers.insert(HOST, host.clone());
        }
        None if !hop.authority.is_empty() => insert_text(headers, HOST, hop.authority),
        None => {}
    }
    edit(headers, edits, &hop.values);
}

/// HTTP/2 may split Cookie into several fields; HTTP/1.1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let joined = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(b"; ".as_slice());
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

fn tell_origin_of_client(headers: &mut HeaderMap, hop: &Hop<'_>) {
    let peer = hop.connection.peer.ip();
    let proto = if hop.connection.is_tls { "https" } else { "http" };
    let forwarded = forwarded_element(peer, hop.authority, proto);
    if hop.connection.is_trusted {
        append_member(headers, X_FORWARDED_FOR, &peer.to_string());
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        }
        if !headers.contains_key(X_FORWARDED_HOST) && !hop.authority.is_empty() {
            insert_text(headers, X_FORWARDED_HOST, hop.authority);
        }
        append_member(headers, FORWARDED, &forwarded);
        return;
    }
    for name in CLIENT_FIELDS {
        headers.remove(name);
    }
    insert_text(headers, X_FORWARDED_FOR, &peer.to_string());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    if hop.authority.is_empty() {
        headers.remove(X_FORWARDED_HOST);
    } else {
        insert_text(headers, X_FORWARDED_HOST, hop.authority);
    }
    insert_text(headers, FORWARDED, &forwarded);
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

/// Adds our hop to Via (RFC 9110 §7.6.3).
pub(super) fn append_via(headers: &mut HeaderMap, version: Version, name: &str) {
    let version = match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    append_member(headers, VIA, &format!("{version} {name}"));
}

/// Adds a member to a list field, in one line.
pub(super) fn append_member(headers: &mut HeaderMap, name: HeaderName, member: &str) {
    let mut line = Vec::new();
    for value in headers.get_all(&name) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(member.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(line)) {
        headers.insert(name, value);
    }
}

fn insert_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// A new trace without a decision about sampling (W3C Trace Context, level 1).
fn traceparent(rng: &Rng) -> HeaderValue {
    let text = format!("00-{:016x}{:016x}-{:016x}-00", rng.next(), rng.next(), rng.next().max(1));
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Makes the operator's edits: removals, then replacements, then additions.
pub(super) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits, values: &Values<'_>) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, template) in &edits.set {
        if let Ok(value) = HeaderValue::try_from(template::expand(template, values)) {
            headers.insert(name.clone(), value);
        }
    }
    for (name, template) in &edits.add {
        if let Ok(value) = HeaderValue::try_from(template::expand(template, values)) {
            headers.append(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn fields_of_one_hop_are_removed_with_those_that_connection_names() {
        let mut map = headers(&[
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("accept", "*/*")]));
    }

    #[test]
    fn connection_cannot_remove_framing_or_destination() {
        let mut map = headers(&[
            ("connection", "content-length, host"),
            ("content-length", "5"),
            ("host", "a"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("content-length", "5"), ("host", "a")]));
    }

    #[test]
    fn cookie_crumbs_become_one_cookie() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut map);
        assert_eq!(map, headers(&[("cookie", "a=1; b=2")]));
    }

    #[test]
    fn members_are_added_to_one_line() {
        let mut map = headers(&[("via", "1.1 a"), ("via", "2 b")]);
        append_via(&mut map, Version::HTTP_11, "headwater");
        assert_eq!(map, headers(&[("via", "1.1 a, 2 b, 1.1 headwater")]));
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            (" 192.0.2.1:443 ", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("unknown", None),
            ("", None),
        ] {
            let expected = expected.map(|text| text.parse::<IpAddr>().expect("an address"));
            assert_eq!(address(text.as_bytes()), expected, "{text}");
        }
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
        let parts: Vec<usize> = value.to_str().expect("text").split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2]);
    }
}
