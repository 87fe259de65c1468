//! The typed configuration: what a validated file means, with nothing left to check.
//!
//! Every value here is resolved: defaults are filled in, names refer to things that exist, files
//! that the configuration names have been read. Two models that compare equal behave the same, so
//! a reload compares them to decide what may live on. Spans are kept only where a later stage
//! (certificates, binding) can still find a problem, and never take part in a comparison.

mod acme;
mod balancing;
mod cache;
mod conditions;
mod front;
mod places;
mod pool;
mod purge;
mod route;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use regex::Regex;

pub use acme::*;
pub use balancing::*;
pub use cache::*;
pub use conditions::*;
pub use front::*;
pub use places::*;
pub use pool::*;
pub use purge::*;
pub use route::*;
pub use tls::*;

use super::diagnostics::Span;

/// A name that the operator chose: of a listener, pool or route.
pub type Name = Arc<str>;

/// The whole configuration of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub process: Process,
    /// `None` when `admin.bind = "off"`.
    pub admin: Option<Admin>,
    pub log: Log,
    pub cache: Cache,
    pub purge: Purge,
    pub acme: Option<Acme>,
    /// In the order of their names.
    pub listeners: Vec<Listener>,
    /// In the order of their names.
    pub pools: Vec<Pool>,
    /// In the order of the files; the order decides nothing but the default names.
    pub routes: Vec<Route>,
    pub places: Places,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Data-plane threads, at least 1; read at start only.
    pub workers: usize,
    pub drain_timeout: Duration,
    pub shutdown_delay: Duration,
    /// Bytes of bodies that wait for clients or endpoints, over all workers.
    pub buffer_bytes_max: u64,
    /// Where this process runs: endpoints of the same zone are preferred.
    pub zone: Option<Name>,
    /// DNS servers to ask; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Read at start only.
    pub bind: BindAddress,
    /// The bearer token, from `token_file`, without surrounding white space.
    pub token: Option<Secret>,
    /// Pools whose emptiness makes the process unready.
    pub ready_requires: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A filter in the syntax of `tracing_subscriber::EnvFilter`, already checked.
    pub level: String,
    pub format: LogFormat,
    pub access: AccessLog,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub to: AccessTarget,
    pub format: AccessFormat,
    /// Share of successful requests that is logged, 0 to 1.
    pub sample: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    Stdout,
    Stderr,
    Off,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessFormat {
    Json,
    /// The Apache combined format.
    Combined,
    Template(Vec<AccessPart>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessPart {
    Literal(String),
    Field(AccessField),
}

/// What an access log line can say. `NAMES` is the vocabulary of templates and of JSON keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessField {
    Time,
    ClientIp,
    PeerIp,
    Listener,
    Route,
    Method,
    Scheme,
    Host,
    Path,
    Query,
    Protocol,
    Status,
    DurationMs,
    RequestBytes,
    ResponseBytes,
    Cache,
    Pool,
    Endpoint,
    UpstreamMs,
    Attempts,
    RequestId,
    FrontId,
    UserAgent,
    Referer,
    Error,
    Reason,
}

impl AccessField {
    pub const NAMES: [(&'static str, Self); 26] = [
        ("time", Self::Time),
        ("client_ip", Self::ClientIp),
        ("peer_ip", Self::PeerIp),
        ("listener", Self::Listener),
        ("route", Self::Route),
        ("method", Self::Method),
        ("scheme", Self::Scheme),
        ("host", Self::Host),
        ("path", Self::Path),
        ("query", Self::Query),
        ("protocol", Self::Protocol),
        ("status", Self::Status),
        ("duration_ms", Self::DurationMs),
        ("request_bytes", Self::RequestBytes),
        ("response_bytes", Self::ResponseBytes),
        ("cache", Self::Cache),
        ("pool", Self::Pool),
        ("endpoint", Self::Endpoint),
        ("upstream_ms", Self::UpstreamMs),
        ("attempts", Self::Attempts),
        ("request_id", Self::RequestId),
        ("front_id", Self::FrontId),
        ("user_agent", Self::UserAgent),
        ("referer", Self::Referer),
        ("error", Self::Error),
        ("reason", Self::Reason),
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Bound on everything the cache holds, in bytes.
    pub memory_bytes_max: u64,
    /// Bodies larger than this stream through unstored, in bytes; at most a quarter of the memory.
    pub object_bytes_max: u64,
    /// Stored variants of one URL.
    pub variants_max: usize,
    /// `Cache-Status` shows the key.
    pub status_key: bool,
    /// Our name in `Cache-Status` and `Via`: a structured-field token.
    pub name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: Name,
    /// At least one.
    pub bind: Vec<Located<BindAddress>>,
    /// `None` for a plain listener.
    pub tls: Option<ListenerTls>,
    /// At least one of the two is on; on a plain listener `h2` means prior knowledge.
    pub protocols: Protocols,
    pub front: Front,
    /// Where it is written; the listener itself where it is not.
    pub front_span: SpanOf,
    /// Peers whose forwarding headers are believed, beside those of the front.
    pub trusted: Vec<IpNet>,
    /// More of them; instead of those that are built in.
    pub trusted_from: Option<RangesSource>,
    /// Peers that are served although they are not trusted; `None`: everybody is.
    pub front_required: Option<Vec<IpNet>>,
    pub client_ip_header: Option<ClientIpHeader>,
    /// Every connection begins with a PROXY header, and only `trusted` peers may send one.
    pub proxy_protocol: bool,
    /// The port of the https side that plain requests are sent to (308).
    pub https_redirect: Option<u16>,
    pub hsts: Option<Hsts>,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    pub h1: bool,
    pub h2: bool,
}

/// For how long browsers are told to come by https only (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hsts {
    /// Whole seconds; zero makes them forget.
    pub max_age: Duration,
    pub subdomains: bool,
}

/// How the client's address is found behind trusted peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientIpHeader {
    /// The rightmost address of `X-Forwarded-For` that is not trusted.
    ForwardedFor,
    /// The second address of `X-Forwarded-For` from the right: the last is the front's own.
    SecondForwardedFor,
    /// A header that holds exactly one address.
    Single(HeaderName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTimeouts {
    pub handshake: Duration,
    pub header: Duration,
    pub body: Duration,
    /// Bytes a second below which a request body is too slow; 0: none is.
    pub body_rate: u64,
    /// How long a body is waited for before its rate counts.
    pub body_grace: Duration,
    pub write: Duration,
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerLimits {
    /// Open client connections, counted over the whole process.
    pub connections_max: usize,
    /// Where that is written, if it is.
    pub connections_at: Option<SpanOf>,
    /// TLS handshakes under way from the ClientHello on, counted over the whole process.
    pub handshakes_max: usize,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub uri_bytes_max: usize,
    /// Concurrent HTTP/2 streams of one connection.
    pub streams_max: u32,
}

/// Statuses as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet(pub Vec<(u16, u16)>);

impl StatusSet {
    pub fn contains(&self, status: StatusCode) -> bool {
        let code = status.as_u16();
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&code))
    }
}

/// Where a listener or the admin API accepts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where an endpoint is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Socket(SocketAddr),
    Name { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The bytes of a file that the configuration names.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent {
    pub path: PathBuf,
    pub bytes: Arc<[u8]>,
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileContent({}, {} bytes)", self.path.display(), self.bytes.len())
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A value with its place, which takes no part in comparisons.
#[derive(Debug, Clone)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A place that takes no part in comparisons.
#[derive(Debug, Clone, Copy)]
pub struct SpanOf(pub Span);

impl PartialEq for SpanOf {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Config {
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| &*pool.name == name)
    }

    /// The pools by name.
    pub fn pools_by_name(&self) -> BTreeMap<&str, &Pool> {
        self.pools.iter().map(|pool| (&*pool.name, pool)).collect()
    }
}
