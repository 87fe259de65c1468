//! Listening sockets.
//!
//! Every worker has a socket of its own on each address, and the kernel spreads connections over
//! them (SO_REUSEPORT). That option would also share the port with another process of the same
//! user, so a port is bound without it once, which fails if anybody else has it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::door::Door;
use super::inherited::Inherited;
use crate::config::model::BindAddress;

/// Connections that wait to be accepted, for each socket.
const BACKLOG: i32 = 4096;
/// The first port that every user may bind, unless `net.ipv4.ip_unprivileged_port_start` says
/// otherwise.
const UNPRIVILEGED_PORTS: u16 = 1024;
/// Bytes in the kernel that have not been sent, above which a connection takes no more.
const UNSENT_BYTES_MAX: u32 = 128 << 10;
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The sockets of one address: one for each worker, or more.
#[derive(Debug)]
pub struct Bound {
    /// With the port that the kernel chose, where 0 was asked for.
    pub address: BindAddress,
    pub sockets: Vec<ListenSocket>,
}

#[derive(Debug)]
pub enum ListenSocket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub address: BindAddress,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "{address} is in use by another process")
            }
            io::ErrorKind::PermissionDenied => match address {
                BindAddress::Tcp(tcp) if tcp.port() < UNPRIVILEGED_PORTS => write!(
                    f,
                    "{address} may not be bound by this user: ports below {UNPRIVILEGED_PORTS} \
                     need the capability CAP_NET_BIND_SERVICE"
                ),
                _ => write!(f, "{address} may not be bound by this user"),
            },
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{address} is no address of this machine")
            }
            _ => write!(f, "{address} cannot be bound: {}", self.source),
        }
    }
}

impl BindError {
    /// Whether another socket has the address, which may be about to let it go.
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }

    /// The way out of it.
    pub fn help(&self) -> &'static str {
        match (self.source.kind(), &self.address) {
            (io::ErrorKind::PermissionDenied, BindAddress::Tcp(tcp))
                if tcp.port() < UNPRIVILEGED_PORTS =>
            {
                "give it that capability (AmbientCapabilities= in a unit of systemd, \
                 `setcap cap_net_bind_service=+ep` on the binary, `--cap-add NET_BIND_SERVICE` of \
                 a container), have the socket bound by systemd, or bind a higher port"
            }
            (io::ErrorKind::AddrInUse, _) => "stop what uses it, or bind another address",
            _ => "bind another address",
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ListenSocket {
    pub(super) fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(socket) => socket.into(),
            Self::Unix(socket) => socket.into(),
        }
    }

    /// The same socket once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

/// Takes the inherited sockets of an address, or binds it, for `workers` workers.
pub fn open(
    address: &BindAddress,
    workers: usize,
    inherited: &Inherited,
) -> Result<(Bound, Door), BindError> {
    let failed = |source| BindError { address: address.clone(), source };
    if let Some(lent) = inherited.bound(address, workers).map_err(failed)? {
        return Ok(lent);
    }
    let bound = bind(address, workers)?;
    let door = Door::of(&bound.sockets).map_err(failed)?;
    Ok((bound, door))
}

/// Binds an address for `workers` workers.
pub fn bind(address: &BindAddress, workers: usize) -> Result<Bound, BindError> {
    let result = match address {
        BindAddress::Tcp(address) => bind_tcp(*address, workers),
        BindAddress::Unix(path) => bind_unix(path, workers),
    };
    result.map_err(|source| BindError { address: address.clone(), source })
}

fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<Bound> {
    // Closed again at once: it only proves that nobody else listens there.
    let probe = tcp_socket(address, false)?;
    probe.listen(1)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let sockets = (0..workers)
        .map(|_| {
            let socket = tcp_socket(address, true)?;
            socket.listen(BACKLOG)?;
            Ok(ListenSocket::Tcp(socket.into()))
        })
        .collect::<io::Result<_>>()?;
    Ok(Bound { address: BindAddress::Tcp(address), sockets })
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    tune(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets what accepted sockets inherit.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // What a slow reader takes is seen as it takes it, not in bursts of a whole send buffer.
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL),
    )
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        // A socket that nobody listens on was left behind by a process that was killed. Any other
        // file refuses connections as well.
        let is_stale = error.kind() == io::ErrorKind::AddrInUse
            && std::fs::symlink_metadata(path)?.file_type().is_socket()
            && std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    socket.listen(BACKLOG)?;
    // One queue for all workers: unix sockets know no SO_REUSEPORT.
    let sockets = (0..workers)
        .map(|_| Ok(ListenSocket::Unix(socket.try_clone()?.into())))
        .collect::<io::Result<_>>()?;
    Ok(Bound { address: BindAddress::Unix(path.to_owned()), sockets })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> BindAddress {
        BindAddress::Tcp(([127, 0, 0, 1], 0).into())
    }

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let bound = bind(&any_port(), 3).expect("a free port");
        let ports: Vec<u16> = bound
            .sockets
            .iter()
            .map(|socket| match socket {
                ListenSocket::Tcp(socket) => socket.local_addr().expect("bound").port(),
                ListenSocket::Unix(_) => 0,
            })
            .collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
    }

    #[test]
    fn a_port_that_is_shared_by_another_set_of_sockets_is_refused_by_name() {
        let first = bind(&any_port(), 2).expect("a free port");
        let error = bind(&first.address, 2).expect_err("the port is taken");
        assert_eq!(error.to_string(), format!("{} is in use by another process", first.address));
    }

    #[test]
    fn a_socket_file_left_behind_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("headwater-bind-{}", std::process::id()));
        let address = BindAddress::Unix(path.clone());
        let first = bind(&address, 1).expect("a new socket");
        assert!(bind(&address, 1).is_err());
        drop(first);
        assert!(bind(&address, 1).is_ok());
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn a_port_that_needs_a_capability_names_it() {
        let refused = |port| BindError {
            address: BindAddress::Tcp(([0, 0, 0, 0], port).into()),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let low = refused(80);
        assert!(low.to_string().contains("CAP_NET_BIND_SERVICE"), "{low}");
        assert!(low.help().contains("setcap cap_net_bind_service=+ep"), "{}", low.help());
        assert_eq!(refused(8080).to_string(), "0.0.0.0:8080 may not be bound by this user");
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_replaced() {
        let path = std::env::temp_dir().join(format!("headwater-file-{}", std::process::id()));
        std::fs::write(&path, "precious").expect("a new file");
        assert!(bind(&BindAddress::Unix(path.clone()), 1).is_err());
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&b"precious"[..]));
        let _ = std::fs::remove_file(path);
    }
}
