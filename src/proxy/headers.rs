//! The fields of messages that pass through, read and edited: what belongs to one hop, who the
//! client is, the operator's edits. What a request is sent on with is made in `forwarded`.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, Entry, HOST, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::client::ClientConnection;
use crate::config::model::{ClientIpHeader, Front};
pub(super) use crate::route::edits::edit;
use crate::snapshot::CDN_LOOP;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLOUDFRONT_FORWARDED_PROTO: HeaderName =
    HeaderName::from_static("cloudfront-forwarded-proto");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The fields that Connection names, but for those that nobody may take off with it: framing,
/// destination, and where a request has been (RFC 8586 §2). Empty for nearly every message.
pub(super) fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| {
            !name.eq_ignore_ascii_case(b"keep-alive") && !name.eq_ignore_ascii_case(b"close")
        })
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST && *name != CDN_LOOP)
        .collect()
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
    let peer = connection.peer_ip();
    if !connection.is_trusted {
        return peer;
    }
    match &connection.listener.spec.client_ip_header {
        Some(ClientIpHeader::Single(name)) => {
            let mut values = headers.get_all(name).iter();
            let value = values.next().filter(|_| values.next().is_none());
            value.and_then(|value| address(value.as_bytes())).unwrap_or(peer)
        }
        Some(ClientIpHeader::SecondForwardedFor) => {
            let hops = hops(headers);
            let second = hops.len().checked_sub(2).and_then(|index| address(hops[index]));
            second.unwrap_or(peer)
        }
        Some(ClientIpHeader::ForwardedFor) | None => {
            let hops = hops(headers);
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

/// The members of X-Forwarded-For.
fn hops(headers: &HeaderMap) -> Vec<&[u8]> {
    let values = headers.get_all(X_FORWARDED_FOR).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).collect()
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
    if !connection.is_trusted {
        return connection.scheme();
    }
    // CloudFront takes the common field off, and says it in one of its own where told to.
    let own = (connection.listener.spec.front == Front::CloudFront)
        .then(|| headers.get(CLOUDFRONT_FORWARDED_PROTO))
        .flatten();
    match own.or_else(|| headers.get(X_FORWARDED_PROTO)).map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ => connection.scheme(),
    }
}

/// A request id from a trusted peer.
pub(super) fn trusted_request_id(
    connection: &ClientConnection,
    headers: &HeaderMap,
) -> Option<HeaderValue> {
    /// Longer ids are somebody's mistake or attack.
    const BYTES_MAX: usize = 128;
    if !connection.is_trusted {
        return None;
    }
    headers
        .get(X_REQUEST_ID)
        .filter(|id| {
            (1..=BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        })
        .cloned()
}

/// How a trusted front calls the request.
pub(super) fn front_id(connection: &ClientConnection, headers: &HeaderMap) -> Option<HeaderValue> {
    let name = connection.listener.trace_field.as_ref().filter(|_| connection.is_trusted)?;
    headers.get(name).cloned()
}

/// Adds our hop to Via.
pub(super) fn append_via(headers: &mut HeaderMap, hop: &HeaderValue) {
    append_member(headers, VIA, hop.clone());
}

/// Adds a member to a list field, in one line.
pub(super) fn append_member(headers: &mut HeaderMap, name: HeaderName, member: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(place) => {
            place.insert(member);
        }
        Entry::Occupied(mut place) if place.iter().all(HeaderValue::is_empty) => {
            place.insert(member);
        }
        Entry::Occupied(mut place) => {
            let mut members: Vec<&[u8]> = place.iter().map(HeaderValue::as_bytes).collect();
            members.push(member.as_bytes());
            members.retain(|member| !member.is_empty());
            if let Ok(line) = HeaderValue::try_from(members.join(b", ".as_slice())) {
                place.insert(line);
            }
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
    fn connection_names_fields_but_never_framing_or_destination() {
        let map = headers(&[
            ("connection", "close, X-Hop, content-length"),
            ("connection", "host, x-other, CDN-Loop"),
        ]);
        assert_eq!(connection_options(&map), ["x-hop", "x-other"]);
    }

    #[test]
    fn members_are_added_to_one_line() {
        let mut map = headers(&[("via", "1.1 a"), ("via", "2 b")]);
        append_via(&mut map, &HeaderValue::from_static("1.1 headwater"));
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
}
