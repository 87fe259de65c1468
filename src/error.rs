//! What can go wrong with one request, whose fault it is, and why.
//!
//! An [`Error`] is a kind, an origin and a source. It stays a value until
//! `proxy::respond` turns it into a status; nothing else maps errors to statuses.
//! Deliberately absent: configuration problems (`config::Diagnostic`) and start failures.

use std::error::Error as StdError;
use std::fmt;
use std::io;

type Source = Box<dyn StdError + Send + Sync>;

/// A failed request or message body.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    source: Option<Source>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    Upstream,
    Us,
}

/// Everything that ends a request early. Closed: logs, statuses and the retry verdict match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request breaks a rule of HTTP; the text names the rule.
    BadRequest(&'static str),
    /// The request line is longer than `limits.uri_bytes`.
    UriTooLong,
    /// The head is larger than `limits.header_bytes` or has more than `limits.headers` fields.
    HeadTooLarge,
    /// The body is larger than the route's `body_max`.
    BodyTooLarge,
    /// The gap between two parts of the request body was longer than `timeouts.body`.
    BodyTimeout,
    /// The request body was slower than `timeouts.body_rate`.
    BodyTooSlow,
    /// The client broke its body off or left.
    ClientGone,
    /// The client read nothing for `timeouts.write`.
    ReaderStalled,
    /// SNI and Host name different sites of this listener.
    Misdirected,
    /// The host asks of its clients what this connection does not meet.
    UnprovenClient,
    /// The route is not for this client.
    Forbidden,
    /// No route matches.
    NoRoute,
    /// A method that is never forwarded.
    MethodNotAllowed,
    /// The client wanted only what is cached, and it is not.
    NotCached,
    /// The client wanted its stream to become a tunnel, and this is no place for one.
    NoTunnel,
    /// The client has given up more requests than endpoints of HTTP/2 have ended.
    TooManyAbandoned,

    /// The endpoint could not be reached: refused, unreachable, TLS failed.
    Connect,
    /// It did not accept within `timeouts.connect`.
    ConnectTimeout,
    /// The connection ended before a response head came.
    Reset,
    /// The endpoint did not process the request, having enough of them (RFC 9113 §8.7).
    Refused,
    /// What came is not HTTP, or breaks its rules.
    BadResponse,
    /// No response head within `timeouts.first_byte`.
    FirstByteTimeout,
    /// A gap inside the response longer than `timeouts.idle`.
    IdleTimeout,
    /// The response ended before its announced length.
    Truncated,

    /// The whole request took longer than `timeouts.total` or the route's `timeout`.
    Deadline,
    /// The pool has no usable endpoint.
    NoEndpoint,
    /// The pool's queue is full.
    QueueFull,
    /// No place became free within `limits.queue_timeout`.
    QueueTimeout,
    /// The client holds its share of the pool (`limits.client_share`), and others wait.
    ClientShare,
    /// The head of the answer is larger than the front takes.
    AnswerTooLargeForFront,
    /// The endpoints have as many tunnels as `limits.tunnels` allows.
    TunnelLimit,
    /// The request has passed here before, again and again (RFC 8586).
    Loop,
    /// The endpoint speaks HTTP/2 without tunnels (RFC 8441).
    TunnelUnsupported,
    /// We have no descriptor, port or memory left for a connection.
    Exhausted,
    /// Our own failure.
    Internal,
}

impl Kind {
    pub fn origin(self) -> Origin {
        match self {
            Self::BadRequest(_)
            | Self::UriTooLong
            | Self::HeadTooLarge
            | Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::BodyTooSlow
            | Self::ClientGone
            | Self::ReaderStalled
            | Self::Misdirected
            | Self::UnprovenClient
            | Self::Forbidden
            | Self::NoRoute
            | Self::MethodNotAllowed
            | Self::NotCached
            | Self::NoTunnel
            | Self::TooManyAbandoned => Origin::Client,
            Self::Connect
            | Self::ConnectTimeout
            | Self::Reset
            | Self::Refused
            | Self::BadResponse
            | Self::FirstByteTimeout
            | Self::IdleTimeout
            | Self::Truncated
            | Self::AnswerTooLargeForFront => Origin::Upstream,
            Self::Deadline
            | Self::NoEndpoint
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ClientShare
            | Self::TunnelLimit
            | Self::Loop
            | Self::TunnelUnsupported
            | Self::Exhausted
            | Self::Internal => Origin::Us,
        }
    }

    /// The rule that a request breaks.
    pub fn rule(self) -> Option<&'static str> {
        match self {
            Self::BadRequest(rule) => Some(rule),
            _ => None,
        }
    }

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooSlow => "body_too_slow",
            Self::ClientGone => "client_gone",
            Self::ReaderStalled => "reader_stalled",
            Self::Misdirected => "misdirected",
            Self::UnprovenClient => "unproven_client",
            Self::Forbidden => "forbidden",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotCached => "not_cached",
            Self::NoTunnel => "no_tunnel",
            Self::TooManyAbandoned => "too_many_abandoned",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::BadResponse => "bad_response",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Truncated => "truncated",
            Self::Deadline => "deadline",
            Self::NoEndpoint => "no_endpoint",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::ClientShare => "client_share",
            Self::TunnelLimit => "tunnel_limit",
            Self::AnswerTooLargeForFront => "answer_too_large_for_front",
            Self::Loop => "loop",
            Self::TunnelUnsupported => "tunnel_unsupported",
            Self::Exhausted => "exhausted",
            Self::Internal => "internal",
        }
    }
}

/// Whether an error of the system is for want of descriptors, memory or places in tables of the
/// kernel, whoever is at the other end.
pub fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                // Too many watches of epoll.
                | libc::ENOSPC
        )
    )
}

impl Error {
    pub fn new(kind: Kind) -> Self {
        Self { kind, source: None }
    }

    pub fn caused(kind: Kind, source: impl Into<Source>) -> Self {
        Self { kind, source: Some(source.into()) }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn origin(&self) -> Origin {
        self.kind.origin()
    }

    /// What brought it about. Not `source`, because the text already tells the whole chain.
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for Error {
    /// The kind and the whole chain of causes: for logs, never for clients.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Kind::BadRequest(rule) = self.kind {
            write!(f, ": {rule}")?;
        }
        let mut cause = self.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_kind_and_every_cause() {
        let io = std::io::Error::other("broken pipe");
        let error = Error::caused(Kind::Reset, io);
        assert_eq!(error.to_string(), "reset: broken pipe");
        assert_eq!(error.origin(), Origin::Upstream);
    }
}
