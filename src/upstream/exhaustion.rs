//! Errors of the system that say what we lack, and nothing about an endpoint.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
pub use crate::error::is_ours;

/// How often it is told that something is lacking.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// How often a want was felt, anywhere in the process.
static FELT: AtomicU64 = AtomicU64::new(0);

/// A count that grows with each want that is told: workers give up connections that rest then.
pub fn felt() -> u64 {
    FELT.load(Ordering::Relaxed)
}

/// Tells of a want in the log, now and then: it is felt in many places at once.
pub fn tell(error: &dyn fmt::Display, what: &'static str) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    FELT.fetch_add(1, Ordering::Relaxed);
    let now = Instant::now();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.is_none_or(|told| now - told >= TELL_INTERVAL) {
        *told = Some(now);
        drop(told);
        tracing::error!(%error, "{what}: we have run out of something, and no endpoint is to blame");
    }
}

/// Whether a connection to `address` failed for such a want, or for want of a free port.
pub(super) fn is_ours_towards(error: &io::Error, address: SocketAddr) -> bool {
    match error.raw_os_error() {
        // Without any address to come from, of IPv6 for one, that endpoint is out of reach.
        Some(libc::EADDRNOTAVAIL) => has_source(address),
        // For TCP: no port, or no place among the routes.
        Some(libc::EAGAIN) => true,
        _ => is_ours(error),
    }
}

/// Whether it was a port that was missing: on the way to another address there may be one.
pub fn is_for_want_of_ports(error: &Error) -> bool {
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::raw_os_error) == Some(libc::EADDRNOTAVAIL)
}

/// Whether this machine has an address to reach `address` from. Datagrams have ports of their own,
/// and a socket for them sends nothing before it is told to.
fn has_source(address: SocketAddr) -> bool {
    let from: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    match UdpSocket::bind(from).and_then(|socket| socket.connect(address)) {
        Ok(()) => true,
        Err(error) => is_ours(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn what_we_lack_is_told_from_what_an_endpoint_does() {
        let here: SocketAddr = ([127, 0, 0, 1], 80).into();
        for ours in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC] {
            assert!(is_ours(&os(ours)) && is_ours_towards(&os(ours), here), "{ours}");
        }
        assert!(
            is_ours_towards(&os(libc::EADDRNOTAVAIL), here),
            "there is a way, so it was a port"
        );
        for theirs in [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ECONNRESET] {
            assert!(!is_ours(&os(theirs)) && !is_ours_towards(&os(theirs), here), "{theirs}");
        }
    }

    #[test]
    fn an_address_that_there_is_no_way_to_is_not_for_want_of_ports() {
        // Without the permission to, nothing is sent to everybody.
        let broadcast: SocketAddr = ([255, 255, 255, 255], 80).into();
        assert!(!has_source(broadcast) && !is_ours_towards(&os(libc::EADDRNOTAVAIL), broadcast));
    }

    #[test]
    fn a_missing_port_is_told_from_a_missing_descriptor() {
        let port = Error::caused(Kind::Exhausted, os(libc::EADDRNOTAVAIL));
        let descriptor = Error::caused(Kind::Exhausted, os(libc::EMFILE));
        assert!(is_for_want_of_ports(&port) && !is_for_want_of_ports(&descriptor));
    }
}
