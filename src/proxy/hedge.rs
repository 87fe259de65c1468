//! Two tries of one request side by side: the second begins when the first takes long, and the
//! first good answer ends the other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::attempt::{Answered, Failed, Sending};
use crate::balance::{Endpoint, Lease, Outrun};

/// How the race ended.
pub(super) struct Raced {
    pub(super) result: Result<Answered, Failed>,
    /// The endpoint that answered, or failed last.
    pub(super) endpoint: Arc<Endpoint>,
    /// The other one, if there were two.
    pub(super) other: Option<Arc<Endpoint>>,
}

/// The first try while it goes on.
pub(super) struct First<'a, F> {
    pub(super) attempt: Pin<&'a mut F>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Of its lease.
    pub(super) key: u64,
    pub(super) begun: Instant,
}

/// Makes a try; where it has brought no answer `after` so long, and `second` finds a place for
/// another, makes that as well.
pub(super) async fn race(
    sending: &Sending<'_>,
    (lease, may_rest, begun): (Lease, bool, Instant),
    after: Duration,
    second: impl FnOnce(&Endpoint) -> Option<(Lease, Instant)>,
) -> Raced {
    let (endpoint, key) = (lease.endpoint().clone(), lease.key());
    let mut attempt = pin!(sending.attempt(lease, may_rest, begun));
    if let Ok(result) = timeout_at(begun + after, &mut attempt).await {
        return Raced { result, endpoint, other: None };
    }
    let second = second(&endpoint);
    beside(sending, First { attempt, endpoint, key, begun }, second).await
}

/// Goes on with the first try, and makes the second beside it. The loser is dropped, and its
/// connection with it.
pub(super) async fn beside<F: Future<Output = Result<Answered, Failed>>>(
    sending: &Sending<'_>,
    first: First<'_, F>,
    second: Option<(Lease, Instant)>,
) -> Raced {
    let First { attempt: mut first, endpoint: first_endpoint, key, begun } = first;
    let Some((lease, second_begun)) = second else {
        return Raced { result: first.await, endpoint: first_endpoint, other: None };
    };
    let second_endpoint = lease.endpoint().clone();
    let mut second = pin!(sending.attempt(lease, true, second_begun));
    let (mut first_failed, mut second_failed) = (false, false);
    poll_fn(|cx| {
        if !first_failed && let Poll::Ready(result) = first.as_mut().poll(cx) {
            if result.is_ok() || second_failed {
                let (endpoint, other) = (first_endpoint.clone(), Some(second_endpoint.clone()));
                return Poll::Ready(Raced { result, endpoint, other });
            }
            first_failed = true;
        }
        if !second_failed && let Poll::Ready(result) = second.as_mut().poll(cx) {
            if result.is_ok() || first_failed {
                let now = Instant::now();
                if result.is_ok() {
                    sending.balanced.pool.stats.hedges_won.increment();
                }
                if !first_failed {
                    let outrun = Outrun { waited: now - begun, took: now - second_begun };
                    sending.outrun((&first_endpoint, key), outrun, now);
                }
                let (endpoint, other) = (second_endpoint.clone(), Some(first_endpoint.clone()));
                return Poll::Ready(Raced { result, endpoint, other });
            }
            second_failed = true;
        }
        Poll::Pending
    })
    .await
}
