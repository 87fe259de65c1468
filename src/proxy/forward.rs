//! One request to a backend: what is sent, what comes of it, and how long that may take.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri};
use tokio::time::{Instant, timeout_at};

use super::attempt::Sending;
use super::local::Local;
use super::mirror;
use super::retry;
use super::tries::{Tries, Waiting};
use super::upgrade::Upgrade;
use crate::balance::{Endpoint, Lease};
use crate::body::Body;
use crate::config::model::Name;
use crate::error::{Error, Kind};
use crate::snapshot::{Backend, BackendKind, Mirror};
use crate::timer::TimerSlot;
use crate::upstream::{Deadlines, Proxied, Tunnel, Upload};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request as it is sent on.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub upload: Option<Rc<Upload>>,
    /// The client asked to change the protocol of its connection.
    pub upgrade: Option<Upgrade>,
    /// A call of gRPC on its way to an endpoint of HTTP/2: silence belongs to it.
    pub is_call: bool,
    /// Where something goes by it.
    pub asker: Option<Box<Asker>>,
}

/// What of a client and its route matters on the way.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub ip: IpAddr,
    pub is_secure: bool,
    /// The `Cookie` fields as the client sent them, where some of the cookies are ours.
    pub cookies: Vec<HeaderValue>,
    /// Where endpoints are told by the PROXY protocol.
    pub proxied: Option<Proxied>,
    /// Where a copy of this request goes.
    pub mirror: Option<Arc<Mirror>>,
}

impl Asker {
    /// The same for a request of our own: nobody copies it.
    pub(super) fn unmirrored(asker: Option<&Self>) -> Option<Box<Self>> {
        asker.map(|asker| Box::new(Self { mirror: None, ..asker.clone() }))
    }
}

/// What a backend answered.
#[derive(Debug)]
pub(super) enum Answer {
    Response(Response<Body>),
    /// The endpoint has changed its protocol. Boxed, as it is rare and large.
    Upgraded(Box<Upgraded>),
}

/// A connection that has changed its protocol.
#[derive(Debug)]
pub(super) struct Upgraded {
    pub headers: HeaderMap,
    /// The endpoint speaks HTTP/2, which has no keys of WebSockets.
    pub is_h2: bool,
    pub tunnel: Tunnel,
    pub lease: Lease,
}

/// What became of a request on its way: for the log, and for the client.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub pool: Option<Name>,
    pub endpoint: Option<Arc<Endpoint>>,
    /// From sending the request that was answered to its first byte.
    pub upstream: Option<Duration>,
    pub attempts: u32,
    /// What keeps the client at its endpoint, if the answer is for nobody else.
    pub set_cookie: Option<Box<HeaderValue>>,
}

/// Sends a request to a backend. `deadline` bounds everything up to the end of the answer.
pub(super) async fn forward(
    local: &Rc<Local>,
    backend: &Backend,
    outgoing: &Outgoing,
    deadline: Option<Instant>,
    timers: &TimerSlot,
    trace: &mut Trace,
) -> Result<Answer, Error> {
    trace.pool = Some(backend.spec.name.clone());
    if let Some(mirror) = outgoing.asker.as_ref().and_then(|asker| asker.mirror.as_ref()) {
        mirror::begin(local, mirror, outgoing);
    }
    match &backend.kind {
        BackendKind::Folder(folder) => {
            let path = outgoing.uri.path();
            let query = outgoing.uri.query();
            let answer = folder.respond(&outgoing.method, path, query, &outgoing.headers);
            Box::pin(within(deadline, answer)).await?.map(Answer::Response)
        }
        BackendKind::Balanced(balanced) => {
            let sending = Sending {
                local,
                balanced,
                outgoing,
                keepalive: backend.spec.keepalive,
                announces: backend.spec.timeouts.announce,
                deadlines: deadlines(backend, outgoing, deadline),
                timers,
                is_idempotent: retry::is_idempotent(&outgoing.method),
            };
            Tries::new(&sending, trace, Waiting::Queued).run().await
        }
    }
}

/// The least of what the route, the pool and the client allow.
pub(super) fn deadlines(
    backend: &Backend,
    outgoing: &Outgoing,
    deadline: Option<Instant>,
) -> Deadlines {
    let timeouts = &backend.spec.timeouts;
    let after = |timeout: Duration| Instant::now() + timeout;
    let total = timeouts.total.map(after);
    // Every call of gRPC is a POST.
    let asked = (outgoing.method == Method::POST).then(|| grpc_timeout(&outgoing.headers));
    let asked = asked.flatten().map(after);
    Deadlines {
        first_byte: timeouts.first_byte,
        idle: if outgoing.is_call { timeouts.tunnel } else { timeouts.idle },
        total: [deadline, total, asked].into_iter().flatten().min(),
    }
}

/// How long a gRPC client waits: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    if !headers.get(CONTENT_TYPE)?.as_bytes().starts_with(b"application/grpc") {
        return None;
    }
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

pub(super) async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Kind::Deadline.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &str) -> Option<Duration> {
        grpc_timeout(&HeaderMap::from_iter([
            (GRPC_TIMEOUT, HeaderValue::from_str(text).expect("a value")),
            (CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto")),
        ]))
    }

    #[test]
    fn the_timeout_of_a_grpc_client_has_a_unit() {
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("7u"), Some(Duration::from_micros(7)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "5 S"] {
            assert_eq!(timeout(text), None, "{text:?}");
        }
        let other = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static("1S"))]);
        assert_eq!(grpc_timeout(&other), None);
    }
}
