//! Pools: where requests may go, and how.

use super::*;

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: Name,
    pub source: PoolSource,
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
    Files(FilesOrigin),
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
