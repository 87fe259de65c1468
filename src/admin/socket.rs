//! Where the API accepts: one TCP port, or a unix socket that only its owner may open.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::model::BindAddress;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Read and write for the owner alone.
const UNIX_MODE: u32 = 0o600;

/// A bound socket. A unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    socket: Socket,
    address: BindAddress,
    file: Option<SocketFile>,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    address: BindAddress,
    source: io::Error,
}

/// Who can connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Users whom the file system lets.
    Unix,
    /// Everybody on this machine, browsers included.
    Loopback,
    Network,
}

/// A socket that accepts on the control plane's runtime.
pub(super) struct Acceptor {
    socket: Accepting,
    _file: Option<SocketFile>,
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Binds the address of the API. A port or file that another process uses is an error.
pub fn bind(address: &BindAddress) -> Result<AdminSocket, BindError> {
    let result = match address {
        BindAddress::Tcp(address) => bind_tcp(*address),
        BindAddress::Unix(path) => bind_unix(path),
    };
    result.map_err(|source| BindError { address: address.clone(), source })
}

fn bind_tcp(address: SocketAddr) -> io::Result<AdminSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of a process that ended just now do not keep the port; one that listens does.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let address = BindAddress::Tcp(socket.local_addr()?.as_socket().unwrap_or(address));
    Ok(AdminSocket { socket, address, file: None })
}

fn bind_unix(path: &Path) -> io::Result<AdminSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        // A socket that nobody listens on was left behind by a process that was killed. Any other
        // file refuses connections as well.
        let is_stale = error.kind() == io::ErrorKind::AddrInUse
            && fs::symlink_metadata(path)?.file_type().is_socket()
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    let file = SocketFile::at(path)?;
    // Before it listens: until then nobody can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(UNIX_MODE))?;
    socket.listen(BACKLOG)?;
    Ok(AdminSocket { socket, address: BindAddress::Unix(path.to_owned()), file: Some(file) })
}

impl AdminSocket {
    /// With the port that the kernel chose, where 0 was asked for.
    pub fn address(&self) -> &BindAddress {
        &self.address
    }

    pub(super) fn reach(&self) -> Reach {
        match &self.address {
            BindAddress::Unix(_) => Reach::Unix,
            BindAddress::Tcp(address) if address.ip().to_canonical().is_loopback() => {
                Reach::Loopback
            }
            BindAddress::Tcp(_) => Reach::Network,
        }
    }

    pub(super) fn into_acceptor(self) -> io::Result<Acceptor> {
        let socket = match self.address {
            BindAddress::Tcp(_) => Accepting::Tcp(TcpListener::from_std(self.socket.into())?),
            BindAddress::Unix(_) => Accepting::Unix(UnixListener::from_std(self.socket.into())?),
        };
        Ok(Acceptor { socket, _file: self.file })
    }
}

impl Acceptor {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.socket {
            Accepting::Tcp(socket) => Box::new(socket.accept().await?.0),
            Accepting::Unix(socket) => Box::new(socket.accept().await?.0),
        })
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => write!(f, "{address} is in use by another process"),
            io::ErrorKind::PermissionDenied => {
                write!(f, "{address} may not be bound by this user")?;
                match address {
                    BindAddress::Tcp(tcp) if tcp.port() < 1024 => {
                        f.write_str(": ports below 1024 need the capability CAP_NET_BIND_SERVICE")
                    }
                    _ => Ok(()),
                }
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{address} is no address of this machine")
            }
            _ => write!(f, "{address} cannot be bound: {}", self.source),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The file of a unix socket, removed in the end unless another process has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|current| current == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "socket file stays behind");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn tcp(text: &str) -> BindAddress {
        BindAddress::Tcp(text.parse().unwrap())
    }

    #[test]
    fn a_port_in_use_is_refused_by_name() {
        let first = bind(&tcp("127.0.0.1:0")).unwrap();
        let error = bind(first.address()).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is in use by another process", first.address()));
    }

    #[test]
    fn a_unix_socket_is_its_owners_alone_and_gone_in_the_end() {
        let folder = Folder::new();
        let path = folder.path().join("admin.sock");
        let socket = bind(&BindAddress::Unix(path.clone())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, UNIX_MODE);
        assert_eq!(socket.reach(), Reach::Unix);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_file_left_behind_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new();
        let path = folder.path().join("admin.sock");
        let address = BindAddress::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = bind(&address).unwrap();
        assert!(bind(&address).is_err());
        drop(live);
        fs::write(&path, "not a socket").unwrap();
        assert!(bind(&address).is_err());
        assert!(path.exists());
    }

    #[test]
    fn the_file_of_another_process_is_left_alone() {
        let folder = Folder::new();
        let path = folder.path().join("admin.sock");
        let ours = bind(&BindAddress::Unix(path.clone())).unwrap();
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn reach_is_what_the_bound_address_says() {
        assert_eq!(bind(&tcp("127.0.0.1:0")).unwrap().reach(), Reach::Loopback);
        assert_eq!(bind(&tcp("0.0.0.0:0")).unwrap().reach(), Reach::Network);
    }
}
