//! One try of a request on an endpoint that speaks HTTP/2: a place on a connection that others
//! share, and the exchange on it.

use std::time::Duration;

use http::{Response, StatusCode, Version};
use tokio::time::Instant;

use super::attempt::{Answered, Failed, Sending, failed, unsent};
use super::deadlines::within;
use super::forward::{Answer, Upgraded};
use super::headers;
use super::retry::Failure;
use crate::balance::{Lease, Outcome, Reply};
use crate::body::Body;
use crate::error::{Error, Kind, Origin};
use crate::timer::SlotTimer;
use crate::upstream::{
    Answered as Head, Connected, Exchange, ExchangeHead, Keep, Opening, Place, Purpose,
    RequestHead, ResponseBody, Wire, connect,
};

impl Sending<'_> {
    /// One try on the leased endpoint.
    pub(super) async fn attempt_h2(
        &self,
        mut lease: Lease,
        now: Instant,
    ) -> Result<Answered, Failed> {
        if self.outgoing.client.is_some_and(|it| self.local.connections.is_shut_to(it)) {
            let kind = Kind::TooManyAbandoned;
            return Err(Failed::new(kind.into(), Failure::Final(kind)));
        }
        let (place, started) = self.place(&mut lease, now).await?;
        let was_resting = place.is_reused();
        let mut timer = self.timers.take();
        let outgoing = self.outgoing;
        let head = ExchangeHead {
            request: RequestHead {
                method: &outgoing.method,
                uri: &outgoing.uri,
                headers: &outgoing.headers,
                upgrade: None,
                timeout_millis: self.time_left(started),
                nudge: &self.nudge,
            },
            client: outgoing.client,
            is_secure: self.balanced.dialer.tls.is_some(),
        };
        let deadlines = &self.deadlines;
        let answered = match &outgoing.upgrade {
            Some(upgrade) => {
                connect(place, head, &upgrade.protocol, deadlines, started, &mut timer).await
            }
            None => {
                let upload = outgoing.upload.as_ref().filter(|upload| !upload.is_empty());
                let sent = Exchange::send(place, head, upload, deadlines, started, &mut timer);
                sent.await.map(Connected::Declined)
            }
        };
        match answered {
            Ok(Connected::Declined(head)) => self.answered_h2(head, lease, started, timer).await,
            Ok(Connected::Tunnel { headers, tunnel, came }) => {
                let took = came - started;
                let pool = &self.balanced.pool;
                let reply = Reply { key: lease.key(), ..Reply::whole(StatusCode::OK, took) };
                pool.responded(lease.endpoint(), reply, came.into_std());
                let upgraded = Upgraded { headers, is_h2: true, tunnel, lease };
                Ok(Answered { answer: Answer::Upgraded(Box::new(upgraded)), took })
            }
            Err(error) => {
                let now = Instant::now();
                // What ended with the connection of all says nothing about the endpoint.
                let is_own = !error.is_unwritten && !error.is_dismissed;
                if error.kind.origin() == Origin::Upstream && is_own {
                    let failed = failed(error.kind, &lease, now - started);
                    self.balanced.pool.failed(lease.endpoint(), failed, now.into_std());
                }
                // What was not processed says nothing about the endpoint.
                let is_free = was_resting || error.is_unwritten;
                let mut failed = unsent(error, is_free);
                self.complain(lease.endpoint(), &mut failed, now);
                Err(failed)
            }
        }
    }

    /// A place on an open connection, or a new one, and when it was there.
    async fn place(&self, lease: &mut Lease, now: Instant) -> Result<(Place, Instant), Failed> {
        let endpoint = lease.endpoint().clone();
        let limits = &self.balanced.pool.limits;
        let keep = Keep {
            idle_max: limits.idle_max,
            idle_for: if self.balanced.dialer.may_rest() { self.keepalive } else { Duration::ZERO },
            open_max: limits.connections_max,
        };
        let sessions = &self.local.connections;
        let purpose = match self.outgoing.upgrade {
            Some(_) => Purpose::Tunnel,
            None => Purpose::Request,
        };
        if let Some(place) = sessions.take_place(&endpoint, (purpose, keep), now) {
            return Ok((place, now));
        }
        let name = self.balanced.server_name(&endpoint);
        let opening = Opening {
            dialer: &self.balanced.dialer,
            server_name: name.as_ref(),
            reclaim: &self.local.reclaim,
            tasks: &self.local.aside,
            purpose,
            keep,
        };
        let opened = within(self.deadlines.total, sessions.open_place(&endpoint, opening)).await;
        let connected = Instant::now();
        match opened.and_then(|opened| opened) {
            Ok((place, is_new)) => {
                if is_new {
                    let pool = &self.balanced.pool;
                    pool.connect_succeeded(&endpoint, connected - now, connected.into_std());
                }
                lease.trial_ended();
                Ok((place, connected))
            }
            Err(error) => Err(self.unconnected(error, lease, connected)),
        }
    }

    /// Takes a response head for an answer, or for a reason to try again.
    async fn answered_h2(
        &self,
        head: Head,
        mut lease: Lease,
        started: Instant,
        timer: SlotTimer,
    ) -> Result<Answered, Failed> {
        lease.end_tunnel();
        let Head { status, headers, exchange } = head;
        let came = exchange.came();
        let (took, now) = (came - started, came.into_std());
        let pool = &self.balanced.pool;
        let endpoint = lease.endpoint().clone();
        let broken = failed(Kind::Reset, &lease, took);
        self.note_pace(&endpoint, took, now);
        let mut reply = Reply { key: lease.key(), ..Reply::whole(status, took) };
        // A call that has nothing but a status says it in its head.
        reply.outcome = Outcome::of_call(&headers).unwrap_or(reply.outcome);
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let snapshot = self.local.snapshot();
        headers::append_via(response.headers_mut(), snapshot.via.hop(Version::HTTP_2));
        if !exchange.is_at_end() {
            let last = exchange.last_stream();
            let body = ResponseBody::new(Wire::H2(exchange), lease, self.deadlines, timer);
            *response.body_mut() = match self.begun(body, reply).await {
                Ok((body, told)) => {
                    reply = told;
                    body
                }
                Err(error) => {
                    let failure = match last.get() {
                        Some(_) => Failure::Dismissed,
                        None => Failure::Reset,
                    };
                    if failure == Failure::Reset {
                        pool.failed(&endpoint, broken, now);
                    }
                    return Err(Failed::new(Error::caused(Kind::Reset, error), failure));
                }
            };
        }
        pool.responded(&endpoint, reply, now);
        self.judged(Answered { answer: Answer::Response(response), took }, status)
    }
}
