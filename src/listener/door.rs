//! How the sockets of an address are closed: whoever comes from then on is refused at once, and who
//! has come is served.
//!
//! Closing a listening socket resets what is in its queue, and handshakes under way. So it must take
//! no newcomers for a moment before it is closed. A filter would drop their SYNs, which clients
//! repeat after a second; instead the sockets are bound to a network interface that does not exist,
//! so that the kernel finds none that listens, and answers with a reset.
//!
//! Sockets that were lent to us ([`super::inherited`]) are not closed at all: others go on accepting
//! from them, and what is in their queues is for those.

use std::io;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use socket2::{SockFilter, Socket};

use super::bind::ListenSocket;

/// The largest index of an interface; the kernel counts from 1.
const NO_INTERFACE: Option<NonZeroU32> = NonZeroU32::new(i32::MAX.cast_unsigned());

/// All sockets of an address, which must close together: the kernel would give connections to one
/// that is closing for as long as another of its group is not.
#[derive(Debug)]
pub struct Door {
    sockets: Mutex<Vec<Socket>>,
    is_ours: bool,
}

impl Door {
    /// Of sockets that are ours. Duplicates them; sockets that are files need no such care.
    pub fn of(sockets: &[ListenSocket]) -> io::Result<Self> {
        let mut own = Vec::new();
        for socket in sockets {
            if let ListenSocket::Tcp(socket) = socket {
                own.push(socket.try_clone()?.into());
            }
        }
        Ok(Self { sockets: Mutex::new(own), is_ours: true })
    }

    /// Of sockets that are lent to us.
    pub fn lent() -> Self {
        Self { sockets: Mutex::default(), is_ours: false }
    }

    /// Whether others go on accepting from them.
    pub fn is_lent(&self) -> bool {
        !self.is_ours
    }

    /// Turns newcomers away; whether what waits in the queues is for us to serve.
    pub fn shut(&self) -> bool {
        // Poisoned or not: the sockets are the same.
        let sockets =
            std::mem::take(&mut *self.sockets.lock().unwrap_or_else(PoisonError::into_inner));
        // First they leave their group, so that the kernel looks at each by itself.
        for socket in &sockets {
            if let Err(error) = socket.set_reuse_port(false) {
                tracing::debug!(%error, "a socket cannot leave its group");
            }
        }
        for socket in &sockets {
            let refused = socket.bind_device_by_index_v4(NO_INTERFACE);
            if let Err(error) = refused.or_else(|_| drop_newcomers(socket)) {
                tracing::debug!(%error, "newcomers cannot be turned away");
            }
        }
        self.is_ours
    }
}

/// Makes the kernel drop connection attempts, which clients repeat: before Linux 5.7 an ordinary
/// user may do no better.
fn drop_newcomers(socket: &Socket) -> io::Result<()> {
    // The TCP flags are at offset 13; a segment with SYN and without ACK is a newcomer.
    const FLAGS_OFFSET: u32 = 13;
    const SYN_AND_ACK: u32 = 0x12;
    const SYN: u32 = 0x02;
    const KEEP_ALL: u32 = u32::MAX;
    let load_flags =
        SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, FLAGS_OFFSET);
    let mask =
        SockFilter::new((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, SYN_AND_ACK);
    let is_syn = SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, SYN);
    let drop = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    let keep = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, KEEP_ALL);
    socket.attach_filter(&[load_flags, mask, is_syn, drop, keep])
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::super::bind::bind;
    use super::*;
    use crate::config::model::BindAddress;

    fn two_sockets(address: &str) -> (SocketAddr, Vec<TcpListener>, Door) {
        let address = BindAddress::Tcp(address.parse().expect("an address"));
        let bound = bind(&address, 2).expect("a free port");
        let door = Door::of(&bound.sockets).expect("descriptors");
        let tcp = bound.sockets.into_iter().filter_map(|socket| match socket {
            ListenSocket::Tcp(socket) => Some(socket),
            ListenSocket::Unix(_) => None,
        });
        let BindAddress::Tcp(address) = bound.address else { unreachable!("a TCP address") };
        (address, tcp.collect(), door)
    }

    #[test]
    fn newcomers_are_refused_at_once_and_who_has_come_is_accepted() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let (address, listeners, door) = two_sockets(address);
            let address = match address.ip().is_unspecified() {
                true => SocketAddr::from(([127, 0, 0, 1], address.port())),
                false => address,
            };
            let mut clients: Vec<_> =
                (0..20).map(|_| TcpStream::connect(address).expect("a listener")).collect();
            assert!(door.shut());
            for _ in 0..20 {
                let error = TcpStream::connect_timeout(&address, Duration::from_secs(20));
                let kind = error.err().map(|error| error.kind());
                assert_eq!(kind, Some(ErrorKind::ConnectionRefused), "{address}");
            }
            let mut accepted = 0;
            for listener in &listeners {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.write_all(b"x").expect("an open connection");
                    accepted += 1;
                }
            }
            assert_eq!(accepted, clients.len());
            for client in &mut clients {
                client.read_exact(&mut [0]).expect("a byte");
            }
        }
    }

    #[test]
    fn the_port_is_free_once_the_sockets_are_closed() {
        let (address, listeners, door) = two_sockets("127.0.0.1:0");
        door.shut();
        drop(listeners);
        assert!(bind(&BindAddress::Tcp(address), 2).is_ok());
    }

    #[test]
    fn where_there_is_no_better_way_attempts_are_dropped() {
        let (address, listeners, _) = two_sockets("127.0.0.1:0");
        for listener in &listeners {
            drop_newcomers(&listener.try_clone().expect("a descriptor").into()).expect("a filter");
        }
        let attempt = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert_eq!(attempt.err().map(|error| error.kind()), Some(ErrorKind::TimedOut));
    }
}
