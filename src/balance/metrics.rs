//! What a pool counts, and its Prometheus series.

use super::discovered::Discovered;
use super::pool::{Pool, process_millis};
use super::standing::{Availability, Circuit};
use crate::metrics::status::StatusCounts;
use crate::metrics::{Counter, Exposition, Histogram};

/// Counters of one pool; they outlive a reload that keeps the pool's name.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// From the request written to the response head.
    pub duration: Histogram,
    /// TLS included.
    pub connect: Histogram,
    pub retries: [Counter; RetryReason::ALL.len()],
    pub retry_budget_exhausted: Counter,
    /// Second tries that answered before the first.
    pub hedges_won: Counter,
    /// Requests that found the queue full.
    pub queue_full: Counter,
    /// Requests that waited in vain.
    pub queue_timeout: Counter,
    /// Requests that found us without descriptors, ports or memory for a connection.
    pub exhausted: Counter,
    /// Requests for a tunnel that found `limits.tunnels` reached.
    pub tunnel_limit: Counter,
    /// Requests without what the pool hashes on.
    pub hash_fallbacks: Counter,
    pub sticky: [Counter; StickyResult::ALL.len()],
    pub discovered: Discovered,
}

/// What became of the cookie that keeps a client at its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StickyResult {
    /// The endpoint that it names answered.
    Kept,
    /// That one could not be used.
    Moved,
    /// There was none.
    New,
    /// It names no endpoint of the pool.
    Ignored,
}

impl StickyResult {
    pub const ALL: [Self; 4] = [Self::Kept, Self::Moved, Self::New, Self::Ignored];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Moved => "moved",
            Self::New => "new",
            Self::Ignored => "ignored",
        }
    }
}

/// Why a request was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The endpoint could not be connected to.
    Connect,
    /// The connection ended before the request was written.
    NeverWritten,
    /// The endpoint refused it, unprocessed.
    Refused,
    /// The connection ended before a response head.
    Reset,
    /// No answer within the time for it.
    Timeout,
    /// A status of `retry.on`.
    Status,
    /// A try beside one that takes long.
    Hedge,
}

impl RetryReason {
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::NeverWritten,
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::Status,
        Self::Hedge,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::NeverWritten => "never_written",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Hedge => "hedge",
        }
    }
}

impl Pool {
    /// Writes the series of this pool and its endpoints.
    pub fn collect(&self, out: &mut Exposition) {
        let pool = [("pool", &*self.name)];
        out.histogram(
            "headwater_upstream_duration_seconds",
            "Time to the first byte of the upstream's answer.",
        )
        .distribution(&pool, &self.stats.duration.totals());
        out.histogram(
            "headwater_upstream_connect_seconds",
            "Time to connect to an endpoint, TLS included.",
        )
        .distribution(&pool, &self.stats.connect.totals());
        for reason in RetryReason::ALL {
            out.counter("headwater_retries_total", "Requests tried again.").series(
                &[pool[0], ("reason", reason.as_str())],
                self.stats.retries[reason as usize].value() as f64,
            );
        }
        out.counter("headwater_retry_budget_exhausted_total", "Retries that the budget refused.")
            .series(&pool, self.stats.retry_budget_exhausted.value() as f64);
        out.counter("headwater_hedges_won_total", "Second tries that answered before the first.")
            .series(&pool, self.stats.hedges_won.value() as f64);
        self.collect_queue(out);
        self.collect_affinity(out);
        if self.has_names {
            self.stats.discovered.collect(&self.name, std::time::Instant::now(), out);
        }
        self.collect_endpoints(out);
    }

    fn collect_queue(&self, out: &mut Exposition) {
        let pool = ("pool", &*self.name);
        out.gauge("headwater_queue_length", "Requests that wait for a place on an endpoint.")
            .series(&[pool], self.queue_len() as f64);
        let rejected = [
            ("full", &self.stats.queue_full),
            ("timeout", &self.stats.queue_timeout),
            ("exhausted", &self.stats.exhausted),
        ];
        for (reason, count) in rejected {
            out.counter("headwater_queue_rejected_total", "Requests for which there was no place.")
                .series(&[pool, ("reason", reason)], count.value() as f64);
        }
        let members = self.members();
        let tunnels: usize = members.iter().map(|member| member.endpoint.tunnels()).sum();
        out.gauge("headwater_tunnels", "Tunnels that are open or being opened.")
            .series(&[pool], tunnels as f64);
        out.counter("headwater_tunnels_rejected_total", "Tunnels for which there was no place.")
            .series(&[pool, ("reason", "limit")], self.stats.tunnel_limit.value() as f64);
        let panic = self.candidates(std::time::Instant::now()).panic;
        out.gauge("headwater_pool_panic", "1 while endpoints are used that are out.")
            .series(&[pool], f64::from(u8::from(panic)));
    }

    fn collect_affinity(&self, out: &mut Exposition) {
        let pool = ("pool", &*self.name);
        if self.hash_on().is_some() {
            out.counter("headwater_hash_fallbacks_total", "Requests without what is hashed on.")
                .series(&[pool], self.stats.hash_fallbacks.value() as f64);
        }
        if self.sticky().is_some() {
            for result in StickyResult::ALL {
                let count = self.stats.sticky[result as usize].value() as f64;
                out.counter("headwater_sticky_requests_total", "Requests, by their cookie.")
                    .series(&[pool, ("result", result.as_str())], count);
            }
        }
    }

    fn collect_endpoints(&self, out: &mut Exposition) {
        let now = std::time::Instant::now();
        let now_millis = process_millis(now);
        let members = self.members();
        let (mut open, mut idle) = (0, 0);
        for member in members.iter() {
            let endpoint = &member.endpoint;
            open += endpoint.connections_open();
            idle += endpoint.connections_idle();
            let labels = [("pool", &*self.name), ("endpoint", &*endpoint.label)];
            let usable =
                endpoint.is_resolved() && endpoint.availability(now) == Availability::Usable;
            out.gauge("headwater_endpoint_healthy", "1 while the endpoint is usable.")
                .series(&labels, f64::from(u8::from(usable)));
            let is_open = endpoint.circuit(now) != Circuit::Closed;
            let at_limit = self.is_at_limit(endpoint);
            out.gauge("headwater_endpoint_circuit_open", "1 while failures keep requests away.")
                .series(&labels, f64::from(u8::from(is_open)));
            out.gauge("headwater_endpoint_at_limit", "1 while requests would have to wait for it.")
                .series(&labels, f64::from(u8::from(at_limit)));
            out.gauge(
                "headwater_endpoint_requests_in_flight",
                "Requests that wait for the endpoint or stream from it.",
            )
            .series(&labels, endpoint.requests_in_flight() as f64);
            if let Some(seconds) = endpoint.latency_seconds(now_millis) {
                out.gauge(
                    "headwater_endpoint_latency_ewma_seconds",
                    "Peak-EWMA of the time to the first byte.",
                )
                .series(&labels, seconds);
            }
            out.counter("headwater_ejections_total", "Ejections after consecutive failures.")
                .series(&labels, endpoint.stats.ejections.value() as f64);
            let probes = [
                ("success", &endpoint.stats.probes_succeeded),
                ("failure", &endpoint.stats.probes_failed),
            ];
            for (result, count) in probes {
                out.counter("headwater_health_checks_total", "Active health checks.")
                    .series(&[labels[0], labels[1], ("result", result)], count.value() as f64);
            }
            for (code, count) in StatusCounts::totals(endpoint.stats.codes.iter()) {
                out.counter(
                    "headwater_upstream_requests_total",
                    "Answers of endpoints, by status.",
                )
                .series(&[labels[0], labels[1], ("code", &code)], count as f64);
            }
        }
        for (state, count) in [("active", open.saturating_sub(idle)), ("idle", idle)] {
            out.gauge("headwater_upstream_connections", "Open connections to endpoints.")
                .series(&[("pool", &*self.name), ("state", state)], count as f64);
        }
    }
}
