//! How a pool spreads its requests, and what it makes of endpoints that fail.

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    Ewma,
    RoundRobin,
    LeastRequests,
    Hash(HashOn),
}

/// What of a request decides where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    ClientIp,
    Path,
    Header(HeaderName),
    /// The name of the cookie.
    Cookie(Arc<str>),
}

/// A cookie that keeps a client at its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Its name, a token.
    pub cookie: Arc<str>,
    /// Zero: until the client ends its session.
    pub ttl: Duration,
    /// `None`: a key that only this process knows.
    pub secret: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// Consecutive failures, at least 1.
    pub failures: u32,
    pub eject_for: Duration,
    /// Share of the pool that may be ejected at once, 0 to 1.
    pub eject_max: f64,
    /// How many times the pool's median latency is slow; `None`: being slow is no reason.
    pub slow_factor: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Tries in all, at least 1.
    pub attempts: u32,
    pub on_connect: bool,
    pub on_reset: bool,
    pub on_timeout: bool,
    pub on_statuses: StatusSet,
    /// Share of the live requests that may be retries, 0 to 1.
    pub budget: f64,
    /// When a second try is made beside the first; `None`: never.
    pub hedge_after: Option<HedgeAfter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeAfter {
    /// Several times what is usual, for the pool and for requests of the kind.
    Auto,
    /// The time within which so many of a hundred requests are answered, 1 to 99.
    Percentile(u8),
    Fixed(Duration),
}

/// A part of the requests of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub pool: Name,
    /// 0 to 1000; of all shares together at least 1.
    pub weight: u32,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub pool: Name,
    /// Share of the requests that are copied, 0 to 1.
    pub share: f64,
}
