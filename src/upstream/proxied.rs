//! Who a connection to an endpoint is opened for, as the PROXY protocol tells it.
//!
//! The header is about one client, so a connection that began with it never serves another one, and
//! none of them rests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};

use crate::config::model::ProxyProtocol;

/// The longest name that is told, in bytes (RFC 1035 §2.3.4).
const AUTHORITY_BYTES_MAX: usize = 253;
/// The longest name of a protocol (RFC 7301 §3.1).
const ALPN_BYTES_MAX: usize = 255;

/// A client's connection.
#[derive(Debug, Clone)]
pub struct Proxied {
    /// The client, with port 0 where only its address is known.
    pub source: SocketAddr,
    /// Where it connected to, if that is known.
    pub destination: Option<SocketAddr>,
    /// What it agreed on by ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// The name that it asked for.
    pub authority: Option<Box<str>>,
}

/// The header for a connection that is opened for `client`, or for ourselves.
pub(super) fn header(version: ProxyProtocol, client: Option<&Proxied>) -> Vec<u8> {
    let address = client.map(addresses);
    let mut bytes = Vec::new();
    let result = match version {
        ProxyProtocol::V1 => {
            let header = address.map_or_else(ProxyHeader::with_local, ProxyHeader::with_address);
            header.encode_v1(&mut bytes)
        }
        ProxyProtocol::V2 => {
            let fields = client.into_iter().flat_map(fields);
            ProxyHeader::with_tlvs(address, fields).encode_v2(&mut bytes)
        }
    };
    debug_assert!(result.is_ok(), "families are alike and lengths are bounded: {result:?}");
    bytes
}

/// Both are of one family: where they differ, IPv4 is written as IPv6.
fn addresses(client: &Proxied) -> ProxiedAddress {
    let source = client.source;
    let unknown = match source.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let destination = client.destination.unwrap_or(SocketAddr::new(unknown, 0));
    if source.is_ipv4() == destination.is_ipv4() {
        return ProxiedAddress::stream(source, destination);
    }
    ProxiedAddress::stream(mapped(source), mapped(destination))
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

fn fields(client: &Proxied) -> impl Iterator<Item = Tlv<'_>> {
    let alpn = client.alpn.as_deref().filter(|name| name.len() <= ALPN_BYTES_MAX);
    let authority = client.authority.as_deref().filter(|name| name.len() <= AUTHORITY_BYTES_MAX);
    let alpn = alpn.map(|name| Tlv::Alpn(name.into()));
    alpn.into_iter().chain(authority.map(|name| Tlv::Authority(name.into())))
}

#[cfg(test)]
mod tests {
    use proxy_header::ParseConfig;

    use super::*;

    fn client(source: &str, destination: Option<&str>) -> Proxied {
        let parse = |text: &str| text.parse().expect("an address");
        Proxied {
            source: parse(source),
            destination: destination.map(parse),
            alpn: Some(b"h2"[..].into()),
            authority: Some("site.test".into()),
        }
    }

    #[test]
    fn version_1_tells_the_addresses() {
        for (client, expected) in [
            (
                client("192.0.2.7:4711", Some("198.51.100.1:443")),
                "TCP4 192.0.2.7 198.51.100.1 4711 443",
            ),
            (client("[2001:db8::7]:0", Some("[::1]:443")), "TCP6 2001:db8::7 ::1 0 443"),
            (client("192.0.2.7:1", Some("[::1]:443")), "TCP6 ::ffff:192.0.2.7 ::1 1 443"),
            (client("192.0.2.7:1", None), "TCP4 192.0.2.7 0.0.0.0 1 0"),
        ] {
            let text = header(ProxyProtocol::V1, Some(&client));
            assert_eq!(String::from_utf8_lossy(&text), format!("PROXY {expected}\r\n"));
        }
        assert_eq!(header(ProxyProtocol::V1, None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_tells_protocol_and_name_as_well() {
        let bytes =
            header(ProxyProtocol::V2, Some(&client("192.0.2.7:4711", Some("10.0.0.1:443"))));
        let (parsed, length) =
            ProxyHeader::parse(&bytes, ParseConfig::default()).expect("a header");
        assert_eq!(length, bytes.len());
        assert_eq!(
            parsed.proxied_address().expect("addresses").source.to_string(),
            "192.0.2.7:4711"
        );
        assert_eq!((parsed.alpn(), parsed.authority()), (Some(&b"h2"[..]), Some("site.test")));

        let bytes = header(ProxyProtocol::V2, None);
        let (parsed, _) = ProxyHeader::parse(&bytes, ParseConfig::default()).expect("a header");
        assert_eq!(parsed.proxied_address(), None);
        let mut long = client("192.0.2.7:4711", None);
        long.authority = Some("x".repeat(70_000).into());
        assert!(header(ProxyProtocol::V2, Some(&long)).len() < 100);
    }
}
