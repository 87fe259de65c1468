//! Opening a connection to an endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::connections::Reclaim;
use super::exhaustion::{is_ours, is_ours_towards};
use super::io::{Stream, UpstreamIo};
use super::proxied::{self, Proxied};
use super::trouble::why_unconnected;
use crate::balance::{Endpoint, OpenConnection};
use crate::config::model::{Address, ProxyProtocol};
use crate::error::{Error, Kind};
use crate::outbox;

/// TCP keep-alive: the first probe, the distance of the others, and how many may stay unanswered.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// How often workers are asked for a connection that rests, for the sake of one that was too busy to
/// be asked.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(100);

/// How connections to the endpoints of one pool are opened.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// What TLS is spoken and which name is verified; by address, as names may be its own.
    pub tls: Option<Arc<ClientConfig>>,
    /// With TLS included.
    pub connect_timeout: Duration,
    /// Open connections to one endpoint, over all workers.
    pub connections_max: usize,
    /// How long to wait for another connection to close when that many are open.
    pub slot_timeout: Duration,
    /// Each connection begins with a header that tells who it is for.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Dialer {
    /// Opens a connection to `endpoint` for a client, waiting for a place among its connections if
    /// need be.
    pub async fn dial(
        &self,
        endpoint: &Arc<Endpoint>,
        server_name: Option<&ServerName<'static>>,
        client: Option<&Proxied>,
        reclaim: &Reclaim,
    ) -> Result<Box<Connection>, Error> {
        let open = self.slot(endpoint, reclaim).await?;
        let (io, _) = self.dial_stream(endpoint, server_name, client).await?;
        Ok(Connection::new(io, endpoint.clone(), open))
    }

    /// The stream of such a connection, and by when it must be of use.
    pub(super) async fn dial_stream(
        &self,
        endpoint: &Arc<Endpoint>,
        server_name: Option<&ServerName<'static>>,
        client: Option<&Proxied>,
    ) -> Result<(UpstreamIo, Instant), Error> {
        let deadline = Instant::now() + self.connect_timeout;
        let tls = self.tls.as_ref().zip(server_name);
        let io = self.open(endpoint, None, tls, client, deadline).await?;
        Ok((io, deadline))
    }

    /// Opens a stream to `endpoint`, or to another `port` of it, TLS included, before `deadline`; for
    /// a client, or for ourselves.
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        port: Option<u16>,
        tls: Option<(&Arc<ClientConfig>, &ServerName<'static>)>,
        client: Option<&Proxied>,
        deadline: Instant,
    ) -> Result<UpstreamIo, Error> {
        let header = self.proxy_protocol.map(|version| proxied::header(version, client));
        connect(endpoint, port, header.as_deref().unwrap_or_default(), tls, deadline).await
    }

    /// Why there is no connection, in words.
    pub fn why_unconnected(&self, error: &Error) -> String {
        why_unconnected(error, self.connect_timeout)
    }

    /// Whether a connection may serve one client after another.
    pub fn may_rest(&self) -> bool {
        self.proxy_protocol.is_none()
    }

    /// A place among the open connections to `endpoint`, waited for where there is none.
    pub(super) async fn slot(
        &self,
        endpoint: &Arc<Endpoint>,
        reclaim: &Reclaim,
    ) -> Result<OpenConnection, Error> {
        if let Some(open) = endpoint.open_connection(self.connections_max) {
            return Ok(open);
        }
        let deadline = Instant::now() + self.slot_timeout;
        let _wanted = endpoint.want_connection();
        loop {
            let freed = endpoint.connection_closed();
            if let Some(open) = endpoint.open_connection(self.connections_max) {
                return Ok(open);
            }
            reclaim.ask(endpoint, self.connections_max);
            let again = Instant::now() + RECLAIM_INTERVAL;
            if timeout_at(deadline.min(again), freed).await.is_err() && again >= deadline {
                return Err(Kind::QueueTimeout.into());
            }
        }
    }
}

/// Opens a stream on which `header` comes before all else.
async fn connect(
    endpoint: &Endpoint,
    port: Option<u16>,
    header: &[u8],
    tls: Option<(&Arc<ClientConfig>, &ServerName<'static>)>,
    deadline: Instant,
) -> Result<UpstreamIo, Error> {
    let stream = async {
        match &endpoint.address {
            Address::Unix(path) => {
                let mut stream = UnixStream::connect(path).await.map_err(failed)?;
                stream.write_all(header).await.map_err(failed)?;
                Ok(match tls {
                    None => Stream::Unix(stream),
                    Some((config, name)) => {
                        let connector = TlsConnector::from(config.clone());
                        let connecting = connector.connect(name.clone(), stream);
                        Stream::UnixTls(Box::new(connecting.await.map_err(failed)?))
                    }
                })
            }
            Address::Socket(_) | Address::Name { .. } => {
                let mut addresses = endpoint.resolved().to_vec();
                for address in &mut addresses {
                    address.set_port(port.unwrap_or(address.port()));
                }
                let mut stream = connect_tcp(&addresses, deadline).await?;
                stream.write_all(header).await.map_err(failed)?;
                let stream = outbox::Stream::new(stream);
                Ok(match tls {
                    None => Stream::Tcp(stream),
                    Some((config, name)) => {
                        let connector = TlsConnector::from(config.clone());
                        let connecting = connector.connect(name.clone(), stream);
                        Stream::TcpTls(Box::new(connecting.await.map_err(failed)?))
                    }
                })
            }
        }
    };
    let opened: Result<Stream, Error> =
        timeout_at(deadline, stream).await.unwrap_or_else(|_| Err(Kind::ConnectTimeout.into()));
    opened.map(UpstreamIo::new)
}

fn failed(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => Kind::ConnectTimeout,
        _ if is_ours(&error) => Kind::Exhausted,
        _ => Kind::Connect,
    };
    Error::caused(kind, error)
}

/// Tries the addresses in turn, each with an equal share of the time that is left. Where we lacked
/// something for one of them, nothing is said of the endpoint.
async fn connect_tcp(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Error> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut ours = None;
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addresses.len() - index) as u32;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                configure(&stream).map_err(failed)?;
                return Ok(stream);
            }
            Ok(Err(error)) if is_ours_towards(&error, *address) => {
                ours = Some(Error::caused(Kind::Exhausted, error));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(ours.unwrap_or_else(|| failed(last)))
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
