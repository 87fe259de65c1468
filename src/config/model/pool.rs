//! Pools: where requests may go, and how.

use super::*;

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: Name,
    pub source: PoolSource,
    /// How names are looked up.
    pub dns: DnsRules,
    pub protocol: Protocol,
    /// `None`: plain TCP (or a unix socket) to the endpoints.
    pub tls: Option<UpstreamTls>,
    /// Endpoints are told who each connection is for.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub balance: Balance,
    pub sticky: Option<Sticky>,
    /// How long the share of an endpoint grows that is new or back.
    pub slow_start: Duration,
    /// With a smaller share of usable endpoints, those out by checks or ejection are used again.
    pub panic_below: f64,
    pub health: Option<Health>,
    /// `None`: ejection is off.
    pub outlier: Option<Outlier>,
    pub limits: PoolLimits,
    /// `None`: a request is tried once.
    pub retry: Option<Retry>,
    pub timeouts: PoolTimeouts,
    pub buffer: PoolBuffers,
    /// How long an idle upstream connection is kept.
    pub keepalive: Duration,
}

/// The versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    /// With the client's protocol and the name that it asked for.
    V2,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PoolSource {
    /// At least one.
    Endpoints(Vec<EndpointSpec>),
    /// Every record is an endpoint.
    Dns(DnsName),
    Files(FilesOrigin),
}

/// A name whose records are endpoints. Names may end with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DnsName {
    /// A and AAAA records.
    Addresses { host: String, port: u16 },
    /// SRV records (RFC 2782).
    Services { name: String },
}

/// How the names of a pool are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRules {
    /// Loopback and unspecified addresses are used as well.
    pub loopback: bool,
    /// Answers are used for no shorter time.
    pub ttl_min: Duration,
    /// Answers are used for no longer time; at least `ttl_min`.
    pub ttl_max: Duration,
}

impl PoolLimits {
    /// Requests in flight per endpoint. With HTTP/1.1 every one has a connection of its own.
    pub fn in_flight_max(&self, protocol: Protocol) -> usize {
        match protocol {
            Protocol::H1 => self.requests_max.min(self.connections_max),
            Protocol::H2 => self.requests_max,
        }
    }
}

impl PoolSource {
    /// Whether something has to be looked up.
    pub fn has_names(&self) -> bool {
        match self {
            Self::Endpoints(endpoints) => {
                endpoints.iter().any(|endpoint| matches!(endpoint.address, Address::Name { .. }))
            }
            Self::Dns(_) => true,
            Self::Files(_) => false,
        }
    }
}

impl DnsName {
    /// The name that endpoints go by: a certificate is for it. Of a service it is what follows
    /// the labels of service and protocol (RFC 6125 §1.8: the name that was asked for, not what an
    /// answer made of it).
    pub fn host(&self) -> &str {
        let name = match self {
            Self::Addresses { host, .. } => host,
            Self::Services { name } => {
                let mut rest = name.as_str();
                while let Some((label, after)) = rest.split_once('.')
                    && label.starts_with('_')
                {
                    rest = after;
                }
                rest
            }
        };
        name.trim_end_matches('.')
    }
}

impl fmt::Display for DnsName {
    /// As in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { host, port } => write!(f, "{host}:{port}"),
            Self::Services { name } => write!(f, "srv:{name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    pub address: Address,
    /// 1 to 1000.
    pub weight: u32,
    /// Used only while no other endpoint is usable.
    pub backup: bool,
    pub zone: Option<Name>,
}

/// A folder that answers as an origin.
#[derive(Debug, Clone, PartialEq)]
pub struct FilesOrigin {
    /// The folder, absolute.
    pub root: PathBuf,
    /// Path below the root that answers where no file is found, `"/index.html"`.
    pub fallback: Option<String>,
    pub cache_control: FileCacheControl,
}

/// The `Cache-Control` of the files of a folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileCacheControl(
    /// The most specific pattern first.
    pub Vec<(FilePattern, HeaderValue)>,
);

/// Names of files below a folder, which they are compared with as they stand on the disk. In the
/// order of the variants one pattern goes before another, and a longer text before a shorter one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilePattern {
    /// `"/index.html"`
    Exact(String),
    /// `"/assets/*"`, without the asterisk.
    Below(String),
    /// `"*.html"`, without the asterisk.
    Ending(String),
    /// `"*"`
    Any,
}

impl FileCacheControl {
    /// The value for the file with this name, which begins with a slash.
    pub fn of(&self, name: &[u8]) -> Option<&HeaderValue> {
        self.0.iter().find(|(pattern, _)| pattern.matches(name)).map(|(_, value)| value)
    }
}

impl FilePattern {
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(text) => name == text.as_bytes(),
            Self::Below(folder) => name.starts_with(folder.as_bytes()),
            Self::Ending(ending) => name.ends_with(ending.as_bytes()),
            Self::Any => true,
        }
    }
}

impl fmt::Display for FilePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Below(folder) => write!(f, "{folder}*"),
            Self::Ending(ending) => write!(f, "*{ending}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// The name asked for and verified; `None`: the endpoint's own name.
    pub sni: Option<String>,
    /// `None`: the roots of the system.
    pub ca: Option<FileContent>,
    pub verify: bool,
    pub identity: Option<CertificateFiles>,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub probe: Probe,
    /// A port other than the endpoint's own.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that make an endpoint usable again, at least 1.
    pub healthy_after: u32,
    /// Failures in a row that take an endpoint out, at least 1.
    pub unhealthy_after: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A connection that opens (and finishes its handshake) is healthy.
    Tcp,
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check` for a service; the empty one is the whole server.
    Grpc {
        service: String,
        fields: ProbeFields,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    pub method: http::Method,
    /// Path and query in origin form.
    pub path: http::uri::PathAndQuery,
    pub fields: ProbeFields,
    pub expect: StatusSet,
    /// Text that must stand in the beginning of the body.
    pub body_contains: Option<String>,
}

/// What a probe says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProbeFields {
    /// The Host sent; `None`: the endpoint's address, or the name that it was found by.
    pub host: Option<HeaderValue>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// How endpoints are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PoolLimits {
    /// Open connections per endpoint, over all workers.
    pub connections_max: usize,
    /// Requests in flight per endpoint, over all workers.
    pub requests_max: usize,
    /// Tunnels per endpoint, over all workers; each is a request in flight, too.
    pub tunnels_max: usize,
    /// Idle connections kept per endpoint, over all workers.
    pub idle_max: usize,
    /// Requests of the pool that wait for a place.
    pub queue_max: usize,
    pub queue_timeout: Duration,
    /// Share of the places that one client may hold while others wait; 1: all.
    pub client_share: f64,
}

/// Bytes of bodies that are taken ahead of those who read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolBuffers {
    /// Of a request, before it takes a place on an endpoint; 0: none.
    pub request_bytes_max: usize,
    /// Of an answer whose client reads slowly; 0: none.
    pub response_bytes_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTimeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub idle: Duration,
    pub total: Option<Duration>,
    /// How long an upgraded connection may be silent.
    pub tunnel: Duration,
    /// Endpoints are told how long they have, in `x-request-timeout-ms`.
    pub announce: bool,
}
