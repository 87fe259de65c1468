//! One request to a backend: what is sent, what comes of it, and how long that may take.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use tokio::time::Instant;

use super::attempt::Sending;
use super::deadlines;
use super::local::Local;
use super::mirror;
use super::retry;
use super::tries::{Tries, Waiting};
use super::upgrade::Upgrade;
use crate::balance::{Endpoint, Lease};
use crate::body::Body;
use crate::cache::Flight;
use crate::config::model::Name;
use crate::error::Error;
use crate::snapshot::{Backend, BackendKind, Mirror};
use crate::timer::TimerSlot;
use crate::upstream::{Nudge, Proxied, Tunnel, Upload};

/// A request as it is sent on.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub upload: Option<Rc<Upload>>,
    /// Whose request it is; `None` for one of our own.
    pub client: Option<IpAddr>,
    /// Bytes of the answer that may be taken ahead of its reader; `None`: it passes as it comes.
    pub ahead_bytes_max: Option<usize>,
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
    /// Others wait for what comes of it; where it is being asked for is noted there.
    pub crowd: Option<Arc<Flight>>,
    /// What keeps the client at its endpoint, if the answer is for nobody else.
    pub set_cookie: Option<Box<HeaderValue>>,
}

/// Sends a request to a backend. `deadline` bounds everything up to the end of the answer: the
/// [whole](deadlines::whole) of the request.
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
            let timeouts = &backend.spec.timeouts;
            // A disk may hang like an endpoint.
            let answer = folder.respond(&outgoing.method, path, query, &outgoing.headers);
            let answer = deadlines::answer_within(timeouts.first_byte, deadline, answer);
            let answer = Box::pin(answer).await??;
            let bounded = |body| deadlines::bounded(body, Some(timeouts.idle), deadline);
            Ok(Answer::Response(answer.map(bounded)))
        }
        BackendKind::Balanced(balanced) => {
            let sending = Sending {
                local,
                balanced,
                outgoing,
                keepalive: backend.spec.keepalive,
                announces: backend.spec.timeouts.announce,
                deadlines: deadlines::of_tries(&backend.spec.timeouts, outgoing, deadline),
                timers,
                is_idempotent: retry::is_idempotent(&outgoing.method),
                nudge: Nudge::default(),
            };
            Tries::new(&sending, trace, Waiting::Queued).run().await
        }
    }
}
