//! Counters of listeners and routes. They live as long as a configuration names them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;

use crate::cache::status::CacheStatus;
use crate::compress::Coding;
use crate::config::model::Name;
use crate::metrics::status::StatusCounts;
use crate::metrics::{Counter, Exposition, Gauge, Histogram, HistogramCells, PerWorker, Totals};
use crate::tls::Failure;

/// The names of listeners in the order in which they appeared; a listener's number is its place.
static LISTENERS: Mutex<Vec<Name>> = Mutex::new(Vec::new());

/// The number of the listener with this name, the same as long as the process runs.
pub(super) fn listener_id(name: &Name) -> usize {
    let mut names = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.clone());
        names.len() - 1
    })
}

pub(super) fn listener_count() -> usize {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// Counters of one route.
#[derive(Debug)]
pub struct RouteStats {
    /// By the number of the listener; made when first needed.
    codes: Box<[Arc<OnceLock<PerWorker<StatusCounts>>>]>,
    cells: Arc<PerWorker<RouteCells>>,
}

#[derive(Debug, Default)]
struct RouteCells {
    duration: HistogramCells,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    cache: [AtomicU64; CacheStatus::ALL.len()],
    coded: [AtomicU64; Coding::ALL.len()],
    mirrored: [AtomicU64; Mirrored::ALL.len()],
    /// Answers with more tags than the front takes.
    overtagged: AtomicU64,
    /// Answers whose heads the front may not take, and those that it would not.
    oversized: [AtomicU64; 2],
}

/// What became of the copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirrored {
    /// The mirror answered, as it liked.
    Answered,
    /// There was no answer.
    Failed,
    /// It was not sent: too many were under way, or its body was too large or did not come.
    Dropped,
}

impl Mirrored {
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    pub listener_id: usize,
    pub status: StatusCode,
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub cache: Option<CacheStatus>,
    /// Into which its body was put here.
    pub coding: Option<Coding>,
}

impl RouteStats {
    /// Counters that go on from `previous`, with room for `listeners`.
    pub(super) fn grown(previous: Option<&Self>, listeners: usize) -> Self {
        let known = previous.map(|stats| &*stats.codes).unwrap_or_default();
        let codes = (0..listeners.max(known.len()))
            .map(|id| known.get(id).cloned().unwrap_or_default())
            .collect();
        Self { codes, cells: previous.map(|stats| stats.cells.clone()).unwrap_or_default() }
    }

    #[inline]
    pub fn count(&self, finished: &Finished) {
        if let Some(codes) = self.codes.get(finished.listener_id) {
            codes.get_or_init(PerWorker::default).local().increment(finished.status);
        }
        let cells = self.cells.local();
        cells.duration.observe(finished.duration);
        cells.request_bytes.fetch_add(finished.request_bytes, Ordering::Relaxed);
        cells.response_bytes.fetch_add(finished.response_bytes, Ordering::Relaxed);
        if let Some(status) = finished.cache {
            cells.cache[status as usize].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(coding) = finished.coding {
            cells.coded[coding.index()].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the copy of a request.
    pub fn mirrored(&self, result: Mirrored) {
        self.cells.local().mirrored[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer with more tags than the front takes.
    pub fn overtagged(&self) {
        self.cells.local().overtagged.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer whose head is larger than the front surely takes. `is_refused`: it was not
    /// sent, because the front would not take it.
    pub fn oversized(&self, is_refused: bool) {
        self.cells.local().oversized[usize::from(is_refused)].fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the series about the cache of a front.
    pub fn collect_front(&self, route: &str, out: &mut Exposition) {
        let count: u64 =
            self.cells.iter().map(|cells| cells.overtagged.load(Ordering::Relaxed)).sum();
        out.counter(
            "headwater_front_cache_overtagged_total",
            "Answers kept out of the front's cache, because it takes less tags than they have.",
        )
        .series(&[("route", route)], count as f64);
    }

    /// Writes the series about heads that are too large for fronts.
    pub fn collect_oversized(&self, route: &str, out: &mut Exposition) {
        for (index, result) in ["sent", "refused"].into_iter().enumerate() {
            let cells = self.cells.iter();
            let count: u64 =
                cells.map(|cells| cells.oversized[index].load(Ordering::Relaxed)).sum();
            out.counter(
                "headwater_front_oversized_total",
                "Answers whose heads are larger than the front surely takes.",
            )
            .series(&[("route", route), ("result", result)], count as f64);
        }
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        Totals::of(self.cells.iter().map(|cells| &cells.duration)).count()
    }

    /// How many of them the cache answered like this.
    pub fn cached(&self, status: CacheStatus) -> u64 {
        self.cells.iter().map(|cells| cells.cache[status as usize].load(Ordering::Relaxed)).sum()
    }

    /// Writes the series of the route called `route`.
    pub fn collect(&self, route: &str, listeners: &[(usize, &str)], out: &mut Exposition) {
        for (id, listener) in listeners {
            let Some(codes) = self.codes.get(*id).and_then(|codes| codes.get()) else { continue };
            for (code, count) in StatusCounts::totals(codes.iter()) {
                let labels = [("listener", *listener), ("route", route), ("code", code.as_str())];
                out.counter("headwater_http_requests_total", "Finished requests.")
                    .series(&labels, count as f64);
            }
        }
        let route = [("route", route)];
        let sum_of = |cell: &dyn Fn(&RouteCells) -> &AtomicU64| -> u64 {
            self.cells.iter().map(|cells| cell(cells).load(Ordering::Relaxed)).sum()
        };
        let duration = Totals::of(self.cells.iter().map(|cells| &cells.duration));
        out.histogram(
            "headwater_http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
        )
        .distribution(&route, &duration);
        let sum = |cell: fn(&RouteCells) -> &AtomicU64| {
            self.cells.iter().map(|cells| cell(cells).load(Ordering::Relaxed)).sum::<u64>() as f64
        };
        out.counter("headwater_http_request_bytes_total", "Bytes of request bodies.")
            .series(&route, sum(|cells| &cells.request_bytes));
        out.counter("headwater_http_response_bytes_total", "Bytes of response bodies.")
            .series(&route, sum(|cells| &cells.response_bytes));
        for status in CacheStatus::ALL {
            let count = self.cached(status);
            if count > 0 {
                out.counter(
                    "headwater_cache_requests_total",
                    "Requests of cacheable routes, by what the cache did.",
                )
                .series(&[route[0], ("status", status.as_str())], count as f64);
            }
        }
        for result in Mirrored::ALL {
            let count = sum_of(&|cells| &cells.mirrored[result as usize]);
            if count > 0 {
                out.counter("headwater_mirrored_requests_total", "Copies of requests.")
                    .series(&[route[0], ("result", result.as_str())], count as f64);
            }
        }
        for coding in Coding::ALL {
            let cells = self.cells.iter().map(|cells| &cells.coded[coding.index()]);
            let count: u64 = cells.map(|cell| cell.load(Ordering::Relaxed)).sum();
            if count > 0 {
                out.counter("headwater_http_coded_responses_total", "Responses compressed here.")
                    .series(&[route[0], ("coding", coding.as_str())], count as f64);
            }
        }
    }
}

/// Counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerStats {
    pub connections: Gauge,
    pub accepted: Counter,
    pub rejected: [Counter; Rejection::ALL.len()],
    pub requests_in_flight: Gauge,
    pub handshakes: [Counter; HandshakeResult::ALL.len()],
    /// Why those failed that did, by who was at the other end.
    pub handshake_failures: [[Counter; Failure::ALL.len()]; Side::ALL.len()],
    pub handshake: Histogram,
    pub parse_errors: [Counter; ParseError::ALL.len()],
}

/// Why a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Accepting failed: no descriptor or no memory.
    Accept,
    /// `limits.connections` was reached, and accepting paused.
    Limit,
    /// A PROXY header was expected, and the peer is not trusted to send one.
    Untrusted,
    /// It was not one, or did not come in time.
    ProxyHeader,
    /// Only the front is served, and this is not it.
    NotFront,
}

impl Rejection {
    pub const ALL: [Self; 5] =
        [Self::Accept, Self::Limit, Self::Untrusted, Self::ProxyHeader, Self::NotFront];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Limit => "limit",
            Self::Untrusted => "untrusted",
            Self::ProxyHeader => "proxy_header",
            Self::NotFront => "not_front",
        }
    }
}

/// Who is at the other end of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A peer in `trusted`: a front.
    Trusted,
    Other,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Trusted, Self::Other];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Other => "other",
        }
    }
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeResult {
    Ok,
    /// It was an authority's look at a host (TLS-ALPN-01), and no connection follows.
    Challenge,
    Timeout,
    /// `limits.handshakes` was reached for as long as a handshake may take.
    Limit,
    /// The client closed or broke off.
    Closed,
    /// The two sides have nothing in common, or one of them sent nonsense.
    Failed,
}

impl HandshakeResult {
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Challenge, Self::Timeout, Self::Limit, Self::Closed, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Challenge => "challenge",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

/// Why a request never became one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Not HTTP, or against its rules.
    Malformed,
    UriTooLong,
    HeadTooLarge,
    HeadTimeout,
}

impl ParseError {
    pub const ALL: [Self; 4] =
        [Self::Malformed, Self::UriTooLong, Self::HeadTooLarge, Self::HeadTimeout];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
        }
    }
}

impl ListenerStats {
    /// Writes the series of the listener called `listener`.
    pub fn collect(&self, listener: &str, tls: bool, out: &mut Exposition) {
        let label = ("listener", listener);
        out.gauge("headwater_connections", "Open client connections.")
            .series(&[label], self.connections.value() as f64);
        out.counter("headwater_connections_accepted_total", "Client connections accepted.")
            .series(&[label], self.accepted.value() as f64);
        out.gauge("headwater_http_requests_in_flight", "Requests being answered.")
            .series(&[label], self.requests_in_flight.value() as f64);
        for reason in Rejection::ALL {
            out.counter(
                "headwater_connections_rejected_total",
                "Client connections not served, or held back.",
            )
            .series(
                &[label, ("reason", reason.as_str())],
                self.rejected[reason as usize].value() as f64,
            );
        }
        for reason in ParseError::ALL {
            out.counter(
                "headwater_http_parse_errors_total",
                "Requests refused before they were one.",
            )
            .series(
                &[label, ("reason", reason.as_str())],
                self.parse_errors[reason as usize].value() as f64,
            );
        }
        if !tls {
            return;
        }
        for result in HandshakeResult::ALL {
            out.counter("headwater_tls_handshakes_total", "TLS handshakes, by how they ended.")
                .series(
                    &[label, ("result", result.as_str())],
                    self.handshakes[result as usize].value() as f64,
                );
        }
        self.collect_failures(listener, out);
        out.histogram("headwater_tls_handshake_seconds", "Duration of finished TLS handshakes.")
            .distribution(&[label], &self.handshake.totals());
    }

    /// Those that have occurred: most reasons never do.
    fn collect_failures(&self, listener: &str, out: &mut Exposition) {
        let label = ("listener", listener);
        for (side, reason) in
            Side::ALL.into_iter().flat_map(|side| Failure::ALL.map(|reason| (side, reason)))
        {
            let count = self.handshake_failures[side as usize][reason as usize].value();
            if count > 0 {
                out.counter(
                    "headwater_tls_handshake_failures_total",
                    "TLS handshakes that failed, by the reason and by whether the peer is trusted.",
                )
                .series(
                    &[label, ("peer", side.as_str()), ("reason", reason.as_str())],
                    count as f64,
                );
            }
        }
    }
}
