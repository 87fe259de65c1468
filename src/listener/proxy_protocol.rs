//! What a proxy in front says of a connection before the first byte of the client's: the PROXY
//! protocol, versions 1 and 2.
//!
//! Where it is on it is required, and taken from trusted peers only. The address that it carries is
//! the peer from then on, whose own claims are believed only if that address is trusted as well: a
//! proxy of connections does not look at the requests in them. The same goes for connections
//! without an address (LOCAL, UNKNOWN), such as the checks of the proxy itself; they keep the
//! proxy's.

use std::io;

use proxy_header::{ParseConfig, Protocol as Transport, ProxyHeader, Tlv};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::socket::Socket;
use crate::proxy::client::{Announced, Ends, Peer};
use crate::snapshot::Listener;
use crate::snapshot::stats::Rejection;

/// The longest header that is read, in bytes: addresses and some facts about TLS.
const HEADER_BYTES_MAX: usize = 4 << 10;
/// Room for nearly every header.
const HEADER_BYTES: usize = 256;

/// Reads the header of a connection that has come from `ends`; who is at its ends, or `None` where
/// it is to be closed.
pub(super) async fn read(listener: &Listener, ends: Ends, socket: &mut Socket) -> Option<Ends> {
    let reject = |why: Rejection| {
        listener.stats.rejected[why as usize].increment();
        None
    };
    let name = &listener.spec.name;
    if !listener.trusted.contains(ends.peer.ip()) {
        tracing::debug!(listener = %name, peer = %ends.peer.ip(), "not a trusted proxy");
        return reject(Rejection::Untrusted);
    }
    match timeout(listener.spec.timeouts.header, header(socket, ends)).await {
        Ok(Ok(ends)) => Some(ends),
        Ok(Err(error)) => {
            tracing::debug!(listener = %name, %error, "no PROXY header");
            reject(Rejection::ProxyHeader)
        }
        Err(_) => reject(Rejection::ProxyHeader),
    }
}

async fn header(socket: &mut Socket, before: Ends) -> io::Result<Ends> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    loop {
        let room = HEADER_BYTES_MAX - bytes.len();
        if room == 0 {
            return Err(malformed("the header is too long"));
        }
        if (&mut *socket).take(room as u64).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match ProxyHeader::parse(&bytes, ParseConfig::default()) {
            Ok((header, length)) => {
                let ends = ends(&header, &before)?;
                bytes.drain(..length);
                socket.unread(bytes);
                return Ok(ends);
            }
            Err(proxy_header::Error::BufferTooShort) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

fn ends(header: &ProxyHeader<'_>, before: &Ends) -> io::Result<Ends> {
    let mut announced = Announced::default();
    for tlv in header.tlvs() {
        match tlv.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Tlv::Ssl(ssl) => announced.is_tls = ssl.client_ssl(),
            Tlv::Authority(name) => announced.authority = Some(name.into()),
            Tlv::Alpn(name) => announced.alpn = Some(name.into()),
            _ => {}
        }
    }
    let Some(address) = header.proxied_address() else {
        return Ok(Ends { announced: Some(Box::new(announced)), ..before.clone() });
    };
    if address.protocol != Transport::Stream {
        return Err(malformed("it is about datagrams"));
    }
    announced.has_address = true;
    Ok(Ends {
        peer: Peer::Tcp(address.source),
        local: Some(address.destination),
        announced: Some(Box::new(announced)),
    })
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_header::{ProxiedAddress, SslInfo};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::super::socket::Stream;
    use super::*;

    const BEFORE: &str = "10.0.0.9:1234";

    fn before() -> Ends {
        Ends { peer: Peer::Tcp(BEFORE.parse().expect("an address")), local: None, announced: None }
    }

    /// Sends in pieces of `size` bytes, behind which a request comes.
    async fn sent(bytes: &[u8], size: usize) -> io::Result<(Ends, Vec<u8>)> {
        let (near, mut far) = UnixStream::pair().expect("a socket pair");
        let mut socket = Socket::new(Stream::Unix(near), Duration::from_secs(5));
        let all = [bytes, b"GET /"].concat();
        let write = async {
            for piece in all.chunks(size) {
                let _ = far.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            drop(far);
        };
        let read = async {
            let ends = header(&mut socket, before()).await?;
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).await?;
            Ok((ends, rest))
        };
        tokio::join!(read, write).0
    }

    fn v2(address: Option<(&str, &str)>, tlvs: Vec<Tlv<'_>>) -> Vec<u8> {
        let address = address.map(|(source, destination)| {
            let parse = |text: &str| text.parse().expect("an address");
            ProxiedAddress::stream(parse(source), parse(destination))
        });
        let mut bytes = Vec::new();
        ProxyHeader::with_tlvs(address, tlvs).encode_v2(&mut bytes).expect("a header");
        bytes
    }

    #[tokio::test]
    async fn both_versions_carry_addresses_in_pieces_of_any_size() {
        let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec();
        let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec();
        for (bytes, source) in [
            (v1, "192.0.2.7:4711"),
            (v6, "[2001:db8::7]:4711"),
            (v2(Some(("192.0.2.7:4711", "198.51.100.1:443")), vec![]), "192.0.2.7:4711"),
            (v2(Some(("[2001:db8::7]:4711", "[::1]:443")), vec![]), "[2001:db8::7]:4711"),
        ] {
            for size in [1, 7, 1000] {
                let (ends, rest) = sent(&bytes, size).await.expect("a good header");
                assert_eq!(ends.peer, Peer::Tcp(source.parse().expect("an address")));
                assert!(ends.announced.expect("facts").has_address);
                assert_eq!(rest, b"GET /");
            }
        }
    }

    #[tokio::test]
    async fn without_an_address_the_peer_stays_who_it_is() {
        for bytes in [b"PROXY UNKNOWN\r\n".to_vec(), v2(None, vec![])] {
            let (ends, rest) = sent(&bytes, 1000).await.expect("a good header");
            assert_eq!(ends.peer, Peer::Tcp(BEFORE.parse().expect("an address")));
            assert!(!ends.announced.expect("facts").has_address);
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn facts_about_tls_are_read() {
        let tlvs = vec![
            Tlv::Ssl(SslInfo::new(true, false, false, 0)),
            Tlv::Authority("site.test".into()),
            Tlv::Alpn(b"h2"[..].into()),
            Tlv::Custom(0xE0, b"else"[..].into()),
        ];
        let bytes = v2(Some(("192.0.2.7:1", "192.0.2.1:443")), tlvs);
        let (ends, _) = sent(&bytes, 1000).await.expect("a good header");
        let facts = ends.announced.expect("facts");
        assert!(facts.is_tls);
        assert_eq!(facts.authority.as_deref(), Some("site.test"));
        assert_eq!(facts.alpn.as_deref(), Some(&b"h2"[..]));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = Tlv::Noop(HEADER_BYTES_MAX);
        let datagrams = ProxiedAddress::datagram(
            "192.0.2.7:1".parse().expect("an address"),
            "192.0.2.1:1".parse().expect("an address"),
        );
        let mut udp = Vec::new();
        ProxyHeader::with_address(datagrams).encode_v2(&mut udp).expect("a header");
        let mut cut = v2(Some(("192.0.2.7:1", "192.0.2.1:443")), vec![Tlv::Noop(9)]);
        let length = cut.len();
        cut[length - 10] = 200;
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7\r\n".to_vec(),
            b"PROXY TCP4 ".repeat(20),
            b"PROXY".to_vec(),
            v2(Some(("192.0.2.7:1", "192.0.2.1:443")), vec![long]),
            udp,
            cut,
        ] {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            assert!(sent(&bytes, 100).await.is_err(), "{shown}");
        }
    }
}
