//! One request to a backend: a place on an endpoint, a connection, the exchange, and further
//! tries while they are safe.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Response, Uri, Version};
use tokio::time::{Instant, timeout_at};

use super::headers;
use super::local::Local;
use super::retry::{self, Attempt, Failure, Verdict};
use crate::balance::{Endpoint, Lease, Pick, Pool};
use crate::body::Body;
use crate::config::model::Name;
use crate::error::{Error, Kind};
use crate::snapshot::{Backend, BackendKind, Balanced};
use crate::timer::{SlotTimer, TimerSlot};
use crate::upstream::{
    Connection, Deadlines, Keep, RequestHead, ResponseBody, ResponseHead, SendError, Sent, Tunnel,
    Upload,
};

/// A request as it is sent on.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub upload: Option<Rc<Upload>>,
    /// The client asked to change the protocol of its connection to this.
    pub upgrade: Option<HeaderValue>,
}

/// What a backend answered.
#[derive(Debug)]
pub(super) enum Answer {
    Response(Response<Body>),
    /// The endpoint has changed its protocol.
    Upgraded {
        head: ResponseHead,
        tunnel: Tunnel,
        lease: Lease,
    },
}

/// What became of a request on its way, for the log.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub pool: Option<Name>,
    pub endpoint: Option<Arc<Endpoint>>,
    /// From sending the request that was answered to its first byte.
    pub upstream: Option<Duration>,
    pub attempts: u32,
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
    match &backend.kind {
        BackendKind::Folder(folder) => {
            let path = outgoing.uri.path();
            let query = outgoing.uri.query();
            let answer = folder.respond(&outgoing.method, path, query, &outgoing.headers);
            Box::pin(within(deadline, answer)).await?.map(Answer::Response)
        }
        BackendKind::Balanced(balanced) => {
            let total = backend.spec.timeouts.total.map(|total| Instant::now() + total);
            let deadlines = Deadlines {
                first_byte: backend.spec.timeouts.first_byte,
                idle: backend.spec.timeouts.idle,
                total: [deadline, total].into_iter().flatten().min(),
            };
            Tries {
                local,
                balanced,
                keepalive: backend.spec.keepalive,
                deadlines,
                timers,
                trace,
                tried: Vec::new(),
                stale: 0,
            }
            .run(outgoing)
            .await
        }
    }
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Error> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Kind::Deadline.into()),
    }
}

/// How long the head of an answer is held back for the first part of its body.
const FIRST_PART_PATIENCE: Duration = Duration::from_millis(50);

/// The tries of one request.
struct Tries<'a> {
    local: &'a Rc<Local>,
    balanced: &'a Balanced,
    keepalive: Duration,
    deadlines: Deadlines,
    /// Of the task that waits.
    timers: &'a TimerSlot,
    trace: &'a mut Trace,
    /// Endpoints that failed, by id.
    tried: Vec<u64>,
    /// Tries on resting connections that had been closed.
    stale: u32,
}

/// A try that failed: the error to answer with, how it counts, and whether its connection had
/// been at rest.
struct Failed {
    error: Error,
    failure: Failure,
    was_resting: bool,
    /// The answer that counts as a failure, to be passed on if there is no other try.
    answer: Option<Box<Answer>>,
}

impl Failed {
    fn into_result(self) -> Result<Answer, Error> {
        self.answer.map_or(Err(self.error), |answer| Ok(*answer))
    }
}

impl Tries<'_> {
    async fn run(mut self, outgoing: &Outgoing) -> Result<Answer, Error> {
        let is_idempotent = retry::is_idempotent(&outgoing.method);
        let pool = self.balanced.pool.clone();
        let mut last: Option<Failed> = None;
        loop {
            let (lease, now) = match within(self.deadlines.total, self.lease(&pool)).await? {
                Ok(leased) => leased,
                // There is nobody else to ask: what the try before brought stands.
                Err(error) => return last.map_or(Err(error), Failed::into_result),
            };
            let endpoint = lease.endpoint().clone();
            self.trace.endpoint = Some(endpoint.clone());
            let failed = match self.attempt(lease, outgoing, is_idempotent, now).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let attempt = Attempt {
                retry: pool.retry.as_ref(),
                tries: self.trace.attempts,
                stale: self.stale,
                is_idempotent,
                is_replayable: outgoing.upload.as_ref().is_none_or(|upload| upload.is_untouched()),
                was_resting: failed.was_resting,
            };
            let again = match retry::verdict(failed.failure, &attempt) {
                Verdict::Refresh => {
                    self.stale += 1;
                    self.trace.attempts -= 1;
                    true
                }
                Verdict::Again(reason) => {
                    self.tried.push(endpoint.id);
                    pool.take_retry(reason, Instant::now().into_std())
                }
                Verdict::GiveUp => false,
            };
            if !again {
                return failed.into_result();
            }
            last = Some(failed);
        }
    }

    fn pick(&self, pool: &Arc<Pool>, now: Instant) -> Pick {
        pool.pick(&self.local.rng, now.into_std(), &self.tried)
    }

    /// A place on an endpoint, waited for in the pool's queue where there is none, and when it
    /// was found: to ask for the time is dear enough to do it once for all that happens at once.
    async fn lease(&self, pool: &Arc<Pool>) -> Result<(Lease, Instant), Error> {
        if pool.queue_len() == 0 {
            let now = Instant::now();
            match self.pick(pool, now) {
                Pick::Leased(lease) => return Ok((lease, now)),
                Pick::Empty => return Err(Kind::NoEndpoint.into()),
                Pick::Full => {}
            }
        }
        Box::pin(self.queued(pool)).await
    }

    /// Waits in the pool's queue for a place on an endpoint.
    async fn queued(&self, pool: &Arc<Pool>) -> Result<(Lease, Instant), Error> {
        let place = pool.queue().map_err(|_| Error::new(Kind::QueueFull))?;
        let turn = async {
            loop {
                if place.is_front() {
                    let now = Instant::now();
                    match self.pick(pool, now) {
                        Pick::Leased(lease) => return Ok((lease, now)),
                        Pick::Empty => return Err(Kind::NoEndpoint.into()),
                        Pick::Full => {}
                    }
                }
                place.turn().await;
            }
        };
        let patience = Instant::now() + pool.limits.queue_timeout;
        timeout_at(patience, turn).await.unwrap_or_else(|_| Err(Kind::QueueTimeout.into()))
    }

    /// One try on the leased endpoint.
    async fn attempt(
        &mut self,
        mut lease: Lease,
        outgoing: &Outgoing,
        is_idempotent: bool,
        now: Instant,
    ) -> Result<Answer, Failed> {
        self.trace.attempts += 1;
        let (connection, started) = self.connection(&mut lease, is_idempotent, now).await?;
        let was_resting = connection.is_reused();
        let mut timer = self.timers.take();
        let head = RequestHead {
            method: &outgoing.method,
            uri: &outgoing.uri,
            headers: &outgoing.headers,
            upgrade: outgoing.upgrade.as_ref(),
        };
        let upload = outgoing.upload.as_ref();
        match connection.send(&head, upload, &self.deadlines, started, &mut timer).await {
            Ok(sent) => {
                let took = sent.connection.came() - started;
                self.trace.upstream = Some(took);
                self.answered(sent, lease, outgoing, took, timer).await
            }
            Err(error) => {
                let now = Instant::now();
                if blames_endpoint(&error) && !(was_resting && error.is_unwritten) {
                    let pool = &self.balanced.pool;
                    pool.failed(lease.endpoint(), now - started, now.into_std());
                }
                Err(unsent(error, was_resting))
            }
        }
    }

    /// A resting connection, or a new one, and when it was there.
    async fn connection(
        &self,
        lease: &mut Lease,
        is_idempotent: bool,
        now: Instant,
    ) -> Result<(Box<Connection>, Instant), Failed> {
        let endpoint = lease.endpoint().clone();
        // After one stale connection its siblings are not worth a try.
        if self.stale == 0
            && let Some(connection) = self.local.connections.take(&endpoint, !is_idempotent, now)
        {
            return Ok((connection, now));
        }
        let name = self.balanced.server_name(&endpoint);
        let dial = self.balanced.dialer.dial(&endpoint, name.as_ref(), &self.local.reclaim);
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
            Err(error) => {
                let failure = match error.kind() {
                    Kind::Connect | Kind::ConnectTimeout => {
                        pool.connect_failed(&endpoint, connected.into_std());
                        lease.trial_ended();
                        Failure::Connect
                    }
                    kind => Failure::Final(kind),
                };
                Err(Failed { error, failure, was_resting: false, answer: None })
            }
        }
    }

    /// Takes a response head for an answer, or for a reason to try again.
    async fn answered(
        &self,
        sent: Sent,
        lease: Lease,
        outgoing: &Outgoing,
        took: Duration,
        timer: SlotTimer,
    ) -> Result<Answer, Failed> {
        let now = sent.connection.came().into_std();
        let endpoint = lease.endpoint().clone();
        let pool = &self.balanced.pool;
        let status = sent.head.status;
        let is_upgrade = sent.is_upgrade();
        if is_upgrade && !is_wanted_upgrade(&sent.head, outgoing) {
            pool.failed(&endpoint, took, now);
            return Err(Failed {
                error: Kind::BadResponse.into(),
                failure: Failure::Final(Kind::BadResponse),
                was_resting: false,
                answer: None,
            });
        }
        let answer = if is_upgrade {
            upgraded(sent, lease)
        } else {
            let (mut response, arriving) = self.response(sent, lease, timer);
            if let Some(body) = arriving {
                // Boxed: most answers have come whole, and every waiting request carries this.
                match Box::pin(begun(body)).await {
                    Ok(body) => *response.body_mut() = body,
                    Err(error) => {
                        pool.failed(&endpoint, took, now);
                        let error = Error::caused(Kind::Reset, error);
                        let failure = Failure::Reset;
                        return Err(Failed { error, failure, was_resting: false, answer: None });
                    }
                }
            }
            Answer::Response(response)
        };
        pool.responded(&endpoint, status, took, now);
        let retries = pool.retry.as_ref();
        if retries.is_some_and(|retry| retry.on_statuses.contains(status)) {
            return Err(Failed {
                error: Kind::BadResponse.into(),
                failure: Failure::Status(status),
                was_resting: false,
                answer: Some(Box::new(answer)),
            });
        }
        Ok(answer)
    }

    /// The answer for the client, and its body if that has not come with the head.
    fn response(
        &self,
        sent: Sent,
        lease: Lease,
        timer: SlotTimer,
    ) -> (Response<Body>, Option<ResponseBody>) {
        let Sent { head, mut connection } = sent;
        let keep =
            Keep { idle_max: self.balanced.pool.limits.idle_max, idle_for: self.rest_time(&head) };
        let home = &self.local.connections;
        let (body, arriving) = match connection.take_whole_body() {
            Some(whole) => {
                let came = connection.came();
                home.give_back(connection, keep, came);
                (whole.into(), None)
            }
            None => {
                let home = home.clone();
                let deadlines = self.deadlines;
                let body = ResponseBody::new(connection, home, keep, lease, deadlines, timer);
                (Body::Empty, Some(body))
            }
        };
        let came_as = if head.is_http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut headers = head.headers;
        headers::append_via(&mut headers, self.local.snapshot().via.hop(came_as));
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        (response, arriving)
    }

    /// How long a connection may rest: as configured, and a second less than the endpoint says.
    fn rest_time(&self, head: &ResponseHead) -> Duration {
        let stated = head.keep_alive_timeout;
        let stated = stated.map(|seconds| Duration::from_secs(seconds.saturating_sub(1)));
        stated.map_or(self.keepalive, |stated| stated.min(self.keepalive))
    }
}

/// A body that is on its way. Fails if it breaks off at once.
async fn begun(mut body: ResponseBody) -> Result<Body, Error> {
    // One of unknown length may be a stream of events, whose head must not wait for one.
    let is_counted = http_body::Body::size_hint(&body).exact().is_some();
    body.begin(if is_counted { FIRST_PART_PATIENCE } else { Duration::ZERO }).await?;
    Ok(body.take_whole().map_or_else(|| Body::stream(body), Body::Full))
}

fn blames_endpoint(error: &SendError) -> bool {
    error.kind.origin() == crate::error::Origin::Upstream
}

fn unsent(error: SendError, was_resting: bool) -> Failed {
    let failure = match error.kind {
        _ if error.is_unwritten => Failure::Unwritten,
        Kind::Reset => Failure::Reset,
        kind => Failure::Final(kind),
    };
    let error = match error.source {
        Some(source) => Error::caused(error.kind, source),
        None => Error::new(error.kind),
    };
    Failed { error, failure, was_resting, answer: None }
}

/// Whether a 101 changes to the protocol that the client asked for.
fn is_wanted_upgrade(head: &ResponseHead, outgoing: &Outgoing) -> bool {
    let (Some(wanted), Some(got)) = (&outgoing.upgrade, &head.upgrade) else { return false };
    got.as_bytes().eq_ignore_ascii_case(wanted.as_bytes())
}

fn upgraded(sent: Sent, lease: Lease) -> Answer {
    let Sent { head, connection } = sent;
    Answer::Upgraded { head, tunnel: connection.into_tunnel(), lease }
}
