//! One try of a request on one endpoint: a connection, the exchange, and what its end says about
//! the endpoint.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::SEC_WEBSOCKET_ACCEPT;
use http::{Response, StatusCode, Version};
use tokio::time::Instant;

use super::deadlines::within;
use super::forward::{Answer, Outgoing, Upgraded};
use super::headers;
use super::local::Local;
use super::retry::Failure;
use crate::balance::{
    Cause, Endpoint, Failed as FailedTry, Lease, Outcome, Outrun, Reply, hash_key,
};
use crate::body::Body;
use crate::config::model::Protocol;
use crate::error::{Error, Kind, Origin};
use crate::snapshot::Balanced;
use crate::timer::{SlotTimer, TimerSlot};
use crate::upstream::{
    AheadBody, Connection, Deadlines, Keep, Nudge, RequestHead, ResponseBody, ResponseHead,
    SendError, Sent, Wire, shown, why_failed,
};

/// How long the head of an answer is held back for the first part of its body.
const FIRST_PART_PATIENCE: Duration = Duration::from_millis(50);

/// What all tries of one request share.
pub(super) struct Sending<'a> {
    pub(super) local: &'a Rc<Local>,
    pub(super) balanced: &'a Balanced,
    pub(super) outgoing: &'a Outgoing,
    pub(super) keepalive: Duration,
    /// Endpoints are told how long they have.
    pub(super) announces: bool,
    pub(super) deadlines: Deadlines,
    /// Of the task that waits.
    pub(super) timers: &'a TimerSlot,
    pub(super) is_idempotent: bool,
    /// For the first try, where a second one may be made beside it.
    pub(super) nudge: Nudge,
}

/// An answer, and how long its first byte took.
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) took: Duration,
}

/// A try that failed: the error to answer with, how it counts, and whether its connection had
/// been at rest.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) failure: Failure,
    pub(super) was_resting: bool,
    /// The answer that counts as a failure, to be passed on if there is no other try.
    answer: Option<Box<Answered>>,
}

impl Failed {
    pub(super) fn new(error: Error, failure: Failure) -> Self {
        Self { error, failure, was_resting: false, answer: None }
    }

    pub(super) fn into_result(self) -> Result<Answered, Error> {
        self.answer.map_or(Err(self.error), |answered| Ok(*answered))
    }
}

impl Sending<'_> {
    /// One try on the leased endpoint; on a connection that was at rest only if that `may_rest`.
    pub(super) async fn attempt(
        &self,
        mut lease: Lease,
        may_rest: bool,
        now: Instant,
    ) -> Result<Answered, Failed> {
        if self.balanced.protocol == Protocol::H2 {
            return Box::pin(self.attempt_h2(lease, now)).await;
        }
        let (connection, started) = self.connection(&mut lease, may_rest, now).await?;
        let was_resting = connection.is_reused();
        let mut timer = self.timers.take();
        let outgoing = self.outgoing;
        let head = RequestHead {
            method: &outgoing.method,
            uri: &outgoing.uri,
            headers: &outgoing.headers,
            upgrade: outgoing.upgrade.as_ref().map(|upgrade| &upgrade.protocol),
            timeout_millis: self.time_left(started),
            nudge: &self.nudge,
        };
        let upload = outgoing.upload.as_ref().filter(|upload| !upload.is_empty());
        match connection.send(&head, upload, &self.deadlines, started, &mut timer).await {
            Ok(sent) => self.answered(sent, lease, started, timer).await,
            Err(error) => {
                let now = Instant::now();
                let is_to_blame = error.kind.origin() == Origin::Upstream;
                if is_to_blame && !(was_resting && error.is_unwritten) {
                    let failed = failed(error.kind, &lease, now - started);
                    self.balanced.pool.failed(lease.endpoint(), failed, now.into_std());
                }
                let mut failed = unsent(error, was_resting);
                self.complain(lease.endpoint(), &mut failed, now);
                Err(failed)
            }
        }
    }

    /// Tells operators why a try failed, and puts that into the error.
    pub(super) fn complain(&self, endpoint: &Endpoint, failed: &mut Failed, now: Instant) {
        let kind = failed.error.kind();
        // A connection that ended at its rest is nobody's fault.
        if kind.origin() != Origin::Upstream || (failed.was_resting && kind == Kind::Reset) {
            return;
        }
        if kind == Kind::FirstByteTimeout {
            let why = format!("no answer within {}", shown(self.deadlines.first_byte));
            failed.error = Error::caused(kind, why);
        }
        let reason = why_failed(&failed.error).unwrap_or_else(|| kind.as_str().to_owned());
        endpoint.complain(kind, reason, now.into_std());
    }

    /// What is left of the whole time, where the endpoint is told.
    pub(super) fn time_left(&self, now: Instant) -> Option<u64> {
        let total = self.deadlines.total.filter(|_| self.announces)?;
        u64::try_from(total.saturating_duration_since(now).as_millis()).ok()
    }

    /// A resting connection, or a new one, and when it was there.
    async fn connection(
        &self,
        lease: &mut Lease,
        may_rest: bool,
        now: Instant,
    ) -> Result<(Box<Connection>, Instant), Failed> {
        if may_rest
            && let Some(connection) =
                self.local.connections.take(lease.endpoint(), !self.is_idempotent, now)
        {
            return Ok((connection, now));
        }
        let endpoint = lease.endpoint().clone();
        let name = self.balanced.server_name(&endpoint);
        let client = self.outgoing.asker.as_ref().and_then(|asker| asker.proxied.as_ref());
        let reclaim = &self.local.reclaim;
        let dial = self.balanced.dialer.dial(&endpoint, name.as_ref(), client, reclaim);
        let dialed = Box::pin(within(self.deadlines.total, dial)).await;
        let result = dialed.and_then(|dialed| dialed);
        let connected = Instant::now();
        let pool = &self.balanced.pool;
        match result {
            Ok(connection) => {
                pool.connect_succeeded(&endpoint, connected - now, connected.into_std());
                lease.trial_ended();
                Ok((connection, connected))
            }
            Err(error) => Err(self.unconnected(error, lease, connected)),
        }
    }

    /// There is no connection for the request.
    pub(super) fn unconnected(&self, error: Error, lease: &mut Lease, now: Instant) -> Failed {
        let kind = error.kind();
        if !matches!(kind, Kind::Connect | Kind::ConnectTimeout) {
            let is_ours = kind == Kind::Exhausted;
            let failure = if is_ours { Failure::Exhausted } else { Failure::Final(kind) };
            return Failed::new(error, failure);
        }
        let why = self.balanced.dialer.why_unconnected(&error);
        lease.endpoint().keep_error(kind, why.clone(), now.into_std());
        self.balanced.pool.connect_failed(lease.endpoint(), || why.clone(), now.into_std());
        lease.trial_ended();
        let failure =
            if kind == Kind::Connect { Failure::Connect } else { Failure::ConnectTimeout };
        Failed::new(Error::caused(kind, why), failure)
    }

    /// Takes a response head for an answer, or for a reason to try again.
    async fn answered(
        &self,
        sent: Sent,
        mut lease: Lease,
        started: Instant,
        timer: SlotTimer,
    ) -> Result<Answered, Failed> {
        let came = sent.connection.came();
        let (took, now) = (came - started, came.into_std());
        let pool = &self.balanced.pool;
        let status = sent.head.status;
        let reply = Reply { key: lease.key(), ..Reply::whole(status, took) };
        self.note_pace(lease.endpoint(), took, now);
        let answer = if sent.is_upgrade() {
            if !is_wanted_upgrade(&sent.head, self.outgoing) {
                pool.failed(lease.endpoint(), failed(Kind::BadResponse, &lease, took), now);
                let rule = "it changes to a protocol that was not asked for";
                let error = Error::caused(Kind::BadResponse, rule);
                let mut end = Failed::new(error, Failure::Final(Kind::BadResponse));
                self.complain(lease.endpoint(), &mut end, came);
                return Err(end);
            }
            pool.responded(lease.endpoint(), reply, now);
            upgraded(sent, lease)
        } else {
            lease.end_tunnel();
            let Sent { head, mut connection } = sent;
            let keep = self.keep(&head);
            let mut response = self.response(head);
            *response.body_mut() = match connection.take_whole_body() {
                Some(whole) => {
                    self.local.connections.give_back(connection, keep, came);
                    pool.responded(lease.endpoint(), reply, now);
                    whole.into()
                }
                None => {
                    let endpoint = lease.endpoint().clone();
                    let broken = failed(Kind::Reset, &lease, took);
                    let (home, deadlines) = (self.local.connections.clone(), self.deadlines);
                    let wire = Wire::H1 { connection, home, keep };
                    let body = ResponseBody::new(wire, lease, deadlines, timer);
                    // Boxed: most answers have come whole, and every waiting request carries this.
                    match Box::pin(self.begun(body, reply)).await {
                        Ok((body, reply)) => {
                            pool.responded(&endpoint, reply, now);
                            body
                        }
                        Err(error) => {
                            pool.failed(&endpoint, broken, now);
                            let error = Error::caused(Kind::Reset, error);
                            let failure = Failure::Reset;
                            return Err(Failed {
                                error,
                                failure,
                                was_resting: false,
                                answer: None,
                            });
                        }
                    }
                }
            };
            Answer::Response(response)
        };
        self.judged(Answered { answer, took }, status)
    }

    /// Some answers take long because of what was asked.
    pub(super) fn note_pace(&self, endpoint: &Endpoint, took: Duration, now: std::time::Instant) {
        let pool = &self.balanced.pool;
        if pool.minds_pace(took) {
            pool.took_long(self.kind(), endpoint, took, now);
        }
    }

    /// What tells the pace of a request: its method, and its path without what looks like a number.
    pub(super) fn kind(&self) -> u64 {
        let is_number = |segment: &&str| !segment.bytes().any(|byte| byte.is_ascii_digit());
        let segments = self.outgoing.uri.path().split('/').filter(is_number);
        let method = hash_key(self.outgoing.method.as_str().as_bytes());
        segments.fold(method, |kind, segment| {
            hash_key(&(kind ^ hash_key(segment.as_bytes())).to_le_bytes())
        })
    }

    /// Some statuses are failures.
    pub(super) fn judged(
        &self,
        answered: Answered,
        status: StatusCode,
    ) -> Result<Answered, Failed> {
        let retries = self.balanced.pool.retry.as_ref();
        if retries.is_some_and(|retry| retry.on_statuses.contains(status)) {
            return Err(Failed {
                error: Kind::BadResponse.into(),
                failure: Failure::Status(status),
                was_resting: false,
                answer: Some(Box::new(answered)),
            });
        }
        Ok(answered)
    }

    /// The answer for the client, without its body.
    fn response(&self, head: ResponseHead) -> Response<Body> {
        let came_as = if head.is_http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut headers = head.headers;
        headers::append_via(&mut headers, self.local.snapshot().via.hop(came_as));
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        response
    }

    /// On which terms the connection of this answer is kept.
    fn keep(&self, head: &ResponseHead) -> Keep {
        let limits = &self.balanced.pool.limits;
        Keep {
            idle_max: limits.idle_max,
            idle_for: self.rest_time(head),
            open_max: limits.connections_max,
        }
    }

    /// How long a connection may rest: as configured, and a second less than the endpoint says.
    fn rest_time(&self, head: &ResponseHead) -> Duration {
        if !self.balanced.dialer.may_rest() {
            return Duration::ZERO;
        }
        let stated = head.keep_alive_timeout;
        let stated = stated.map(|seconds| Duration::from_secs(seconds.saturating_sub(1)));
        stated.map_or(self.keepalive, |stated| stated.min(self.keepalive))
    }

    /// A body that is on its way, and what it says of the endpoint so far. Fails if it breaks off
    /// at once.
    pub(super) async fn begun(
        &self,
        mut body: ResponseBody,
        mut reply: Reply,
    ) -> Result<(Body, Reply), Error> {
        // One of unknown length may be a stream of events, whose head must not wait for one.
        let is_counted = http_body::Body::size_hint(&body).exact().is_some();
        body.begin(if is_counted { FIRST_PART_PATIENCE } else { Duration::ZERO }).await?;
        reply.is_whole = body.is_whole();
        reply.outcome = body.outcome().unwrap_or(reply.outcome);
        if reply.outcome == Outcome::Good {
            body.count_end();
        }
        if let Some(whole) = body.take_whole() {
            return Ok((Body::Full(whole), reply));
        }
        let Some(bytes_max) = self.outgoing.ahead_bytes_max else {
            return Ok((Body::stream(body), reply));
        };
        let Local { ahead, buffers, .. } = &**self.local;
        Ok((Body::stream(AheadBody::new(body, bytes_max, ahead, buffers)), reply))
    }

    /// The endpoint did not answer: another one did.
    pub(super) fn outrun(
        &self,
        (endpoint, key): (&Arc<Endpoint>, u64),
        outrun: Outrun,
        now: Instant,
    ) {
        self.balanced.pool.outrun(endpoint, key, outrun, now.into_std());
    }
}

/// How a try on a leased endpoint counts that failed.
pub(super) fn failed(kind: Kind, lease: &Lease, took: Duration) -> FailedTry {
    let cause = match kind {
        Kind::FirstByteTimeout | Kind::IdleTimeout => Cause::Timeout,
        _ => Cause::Reset,
    };
    FailedTry { cause, key: lease.key(), took }
}

pub(super) fn unsent(error: SendError, was_resting: bool) -> Failed {
    let failure = match error.kind {
        _ if error.is_unwritten => Failure::Unwritten,
        _ if error.is_dismissed => Failure::Dismissed,
        Kind::Refused => Failure::Refused,
        Kind::Reset => Failure::Reset,
        Kind::FirstByteTimeout => Failure::Timeout,
        kind => Failure::Final(kind),
    };
    let error = match error.source {
        Some(source) => Error::caused(error.kind, source),
        None => Error::new(error.kind),
    };
    Failed { error, failure, was_resting, answer: None }
}

/// Whether a 101 changes to the protocol that was asked for, by one that has understood it.
fn is_wanted_upgrade(head: &ResponseHead, outgoing: &Outgoing) -> bool {
    let (Some(wanted), Some(got)) = (&outgoing.upgrade, &head.upgrade) else { return false };
    got.as_bytes().eq_ignore_ascii_case(wanted.protocol.as_bytes())
        && (wanted.accept.is_none()
            || head.headers.get(SEC_WEBSOCKET_ACCEPT) == wanted.accept.as_ref())
}

fn upgraded(sent: Sent, lease: Lease) -> Answer {
    let Sent { head, connection } = sent;
    let (headers, tunnel) = (head.headers, connection.into_tunnel());
    Answer::Upgraded(Box::new(Upgraded { headers, is_h2: false, tunnel, lease }))
}
