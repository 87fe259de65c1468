//! The typed configuration: what a validated file means, with nothing left to check.
//!
//! Every value here is resolved: defaults are filled in, names refer to things that exist, files
//! that the configuration names have been read. Two models that compare equal behave the same, so
//! a reload compares them to decide what may live on. Spans are kept only where a later stage
//! (certificates, binding) can still find a problem, and never take part in a comparison.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use regex::Regex;

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
    /// In the order of their names.
    pub listeners: Vec<Listener>,
    /// In the order of their names.
    pub pools: Vec<Pool>,
    /// In the order of the files; the order decides nothing but the default names.
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Data-plane threads, at least 1; read at start only.
    pub workers: usize,
    pub drain_timeout: Duration,
    pub shutdown_delay: Duration,
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
    UserAgent,
    Referer,
    Error,
}

impl AccessField {
    pub const NAMES: [(&'static str, Self); 24] = [
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
        ("user_agent", Self::UserAgent),
        ("referer", Self::Referer),
        ("error", Self::Error),
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Bound on everything the cache holds, in bytes.
    pub memory_bytes_max: u64,
    /// Bodies larger than this stream through unstored, in bytes; at most a quarter of the memory.
    pub object_bytes_max: u64,
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
    /// Peers whose forwarding headers are believed.
    pub trusted: Vec<IpNet>,
    pub client_ip_header: Option<ClientIpHeader>,
    /// The port of the https side that plain requests are sent to (308).
    pub https_redirect: Option<u16>,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    pub h1: bool,
    pub h2: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    /// At least one; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    pub min_version: TlsVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// A certificate chain and its key, as read from two PEM files, not yet parsed.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub cert: FileContent,
    pub key: FileContent,
    /// Where the configuration names them.
    pub span: Span,
}

impl PartialEq for CertificateFiles {
    fn eq(&self, other: &Self) -> bool {
        self.cert == other.cert && self.key == other.key
    }
}

/// How the client's address is found behind trusted peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientIpHeader {
    /// The rightmost address of `X-Forwarded-For` that is not trusted.
    ForwardedFor,
    /// A header that holds exactly one address.
    Single(HeaderName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTimeouts {
    pub handshake: Duration,
    pub header: Duration,
    pub body: Duration,
    pub write: Duration,
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Open client connections, counted over the whole process.
    pub connections_max: usize,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub uri_bytes_max: usize,
    /// Concurrent HTTP/2 streams of one connection.
    pub streams_max: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: Name,
    pub source: PoolSource,
    /// `None`: plain TCP (or a unix socket) to the endpoints.
    pub tls: Option<UpstreamTls>,
    pub balance: Balance,
    pub health: Option<Health>,
    /// `None`: ejection is off.
    pub outlier: Option<Outlier>,
    pub limits: PoolLimits,
    /// `None`: a request is tried once.
    pub retry: Option<Retry>,
    pub timeouts: PoolTimeouts,
    /// How long an idle upstream connection is kept.
    pub keepalive: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PoolSource {
    /// At least one.
    Endpoints(Vec<EndpointSpec>),
    Files(FilesOrigin),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    pub address: Address,
    /// 1 to 1000.
    pub weight: u32,
    /// Used only while no other endpoint is usable.
    pub backup: bool,
}

/// A folder that answers as an origin.
#[derive(Debug, Clone, PartialEq)]
pub struct FilesOrigin {
    /// The folder, absolute.
    pub root: PathBuf,
    /// Path below the root that answers where no file is found, `"/index.html"`.
    pub fallback: Option<String>,
    pub cache_control: Option<HeaderValue>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    Ewma,
    RoundRobin,
    LeastRequests,
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
    Http {
        method: http::Method,
        /// Path and query in origin form.
        path: http::uri::PathAndQuery,
        /// The Host sent; `None`: the endpoint's address.
        host: Option<HeaderValue>,
        expect: StatusSet,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// Consecutive failures, at least 1.
    pub failures: u32,
    pub eject_for: Duration,
    /// Share of the pool that may be ejected at once, 0 to 1.
    pub eject_max: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLimits {
    /// Open connections per endpoint, over all workers.
    pub connections_max: usize,
    /// Requests in flight per endpoint, over all workers.
    pub requests_max: usize,
    /// Idle connections kept per endpoint, over all workers.
    pub idle_max: usize,
    /// Requests of the pool that wait for a place.
    pub queue_max: usize,
    pub queue_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Tries in all, at least 1.
    pub attempts: u32,
    pub on_connect: bool,
    pub on_reset: bool,
    pub on_statuses: StatusSet,
    /// Share of the live requests that may be retries, 0 to 1.
    pub budget: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTimeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub idle: Duration,
    pub total: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: Name,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// At least one.
    pub paths: Vec<PathPattern>,
    /// Empty: all listeners.
    pub listeners: Vec<Name>,
    pub priority: i64,
    pub action: Action,
    pub rewrite: Rewrite,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub timeout: Option<Duration>,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    pub websocket: bool,
    /// `None`: the cache is neither asked nor filled.
    pub cache: Option<RouteCache>,
    /// Where the route begins, for errors about ties.
    pub span: SpanOf,
}

/// Lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com` is held as `example.com`: one or more labels before it.
    Wildcard(String),
}

/// Patterns match the path in its normal form.
#[derive(Debug, Clone)]
pub enum PathPattern {
    Exact(String),
    /// `/a/*` is held as `/a`; `/*` as the empty string. Matches the prefix itself, with a slash, and below.
    Prefix(String),
    Regex(Regex),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}/*"),
            Self::Regex(regex) => write!(f, "~{regex}"),
        }
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Pool(Name),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// Expands to the Location.
    pub to: Template,
    /// A 3xx status that takes a Location.
    pub status: StatusCode,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    pub status: StatusCode,
    pub body: bytes::Bytes,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// Normal form, starts with a slash, ends without one.
    pub strip_prefix: Option<String>,
    /// Normal form, starts with a slash, ends without one.
    pub add_prefix: Option<String>,
    pub host: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, Template)>,
    pub add: Vec<(HeaderName, Template)>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Text with places that are filled in for each request. Literal parts hold only bytes that may
/// stand in a header value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePart>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    Literal(String),
    Variable(Variable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    Host,
    RequestId,
    Scheme,
    /// The path, percent-encoded.
    Path,
    /// The query with its `?`, or nothing. Redirects only.
    Query,
}

impl Template {
    /// The text of a template without variables.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [TemplatePart::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteCache {
    /// Freshness of 200, 203, 204, 300, 301 and 308 where the response gives none.
    pub ttl: Option<Duration>,
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
