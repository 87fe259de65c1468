//! Listening sockets that this process was started with, as systemd does it for a unit with sockets
//! of its own (`LISTEN_FDS`).
//!
//! They are lent: whoever made them keeps them open, so connections wait in their queues while one
//! process ends and the next begins. A binding takes those of its address; all others are bound as
//! ever.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use listenfd::ListenFd;
use socket2::SockRef;

use super::bind::{Bound, ListenSocket};
use super::door::Door;
use crate::config::model::BindAddress;

/// The sockets that were lent, for as long as the process runs: a reload may take them up again.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Lent>);

#[derive(Debug)]
struct Lent {
    address: BindAddress,
    /// Of a socket on all addresses of IPv6: whether IPv4 reaches it as well.
    takes_ipv4: bool,
    socket: ListenSocket,
}

impl Inherited {
    /// Takes what the environment tells of. Must be called once, before there are threads. What
    /// is no listening stream socket is left alone, and its reason is returned.
    pub fn take() -> (Self, Vec<String>) {
        let mut descriptors = ListenFd::from_env();
        let (mut sockets, mut problems) = (Vec::new(), Vec::new());
        for index in 0..descriptors.len() {
            match Lent::take(&mut descriptors, index) {
                Ok(Some(lent)) => sockets.push(lent),
                Ok(None) => {}
                Err(error) => problems.push(format!("inherited socket {index}: {error}")),
            }
        }
        (Self(sockets), problems)
    }

    /// The sockets of `address` for `workers` workers, if there are any.
    pub fn bound(
        &self,
        address: &BindAddress,
        workers: usize,
    ) -> io::Result<Option<(Bound, Door)>> {
        let of: Vec<_> = self.0.iter().filter(|lent| lent.is_of(address)).collect();
        if of.is_empty() {
            return Ok(None);
        }
        // Every socket needs a worker, and every worker a socket.
        let sockets = (0..workers.max(of.len()))
            .map(|index| of[index % of.len()].socket.try_clone())
            .collect::<io::Result<_>>()?;
        Ok(Some((Bound { address: address.clone(), sockets }, Door::lent())))
    }

    /// Those that none of `wanted` takes.
    pub fn unused(&self, wanted: &[&BindAddress]) -> Vec<&BindAddress> {
        let unused = self.0.iter().filter(|lent| !wanted.iter().any(|address| lent.is_of(address)));
        unused.map(|lent| &lent.address).collect()
    }
}

impl Lent {
    fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<Option<Self>> {
        let (address, takes_ipv4, socket) = match descriptors.take_unix_listener(index) {
            Ok(None) => return Ok(None),
            Ok(Some(socket)) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().map(PathBuf::from).ok_or_else(no_path)?;
                (BindAddress::Unix(path), false, ListenSocket::Unix(socket))
            }
            Err(_) => {
                let Some(socket) = descriptors.take_tcp_listener(index)? else { return Ok(None) };
                let address = socket.local_addr()?;
                let takes_ipv4 = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    && !SockRef::from(&socket).only_v6()?;
                // Accepted sockets inherit what is set here.
                super::bind::tune(&SockRef::from(&socket))?;
                (BindAddress::Tcp(address), takes_ipv4, ListenSocket::Tcp(socket))
            }
        };
        if !socket.socket().is_listener()? {
            return Err(io::Error::other(format!("{address} does not listen")));
        }
        socket.socket().set_nonblocking(true)?;
        Ok(Some(Self { address, takes_ipv4, socket }))
    }

    fn is_of(&self, wanted: &BindAddress) -> bool {
        let any_ipv4 = |address: &SocketAddr| address.ip().is_unspecified() && address.is_ipv4();
        match (&self.address, wanted) {
            (BindAddress::Tcp(own), BindAddress::Tcp(wanted)) => {
                own.port() == wanted.port()
                    && (own.ip() == wanted.ip() || self.takes_ipv4 && any_ipv4(wanted))
            }
            (own, wanted) => own == wanted,
        }
    }
}

fn no_path() -> io::Error {
    io::Error::other("a unix socket without a path")
}
