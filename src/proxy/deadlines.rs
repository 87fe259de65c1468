//! How long a request may wait, and for what: all that the route, the pool and the client say of it
//! comes together here.
//!
//! The whole of a request is counted once, from its head on, whatever becomes of it: tries, other
//! fetches that it joined first, a revalidation that led to nothing. The waits inside it (for a
//! place, a connection, a head, a part of the body) are bounded where they are made; what is handed
//! from one task to another takes its [`Patience`] along.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Method};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::forward::Outgoing;
use crate::body::Body;
use crate::config::model::PoolTimeouts;
use crate::error::{Error, Kind};
use crate::timer::SlotTimer;
use crate::upstream::{Deadlines, Patience};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// When a request that began then must have ended: the least of what its route, its pool and its
/// client allow.
pub(super) fn whole(
    began: Instant,
    of_route: Option<Duration>,
    of_pool: &PoolTimeouts,
    (method, headers): (&Method, &HeaderMap),
) -> Option<Instant> {
    // Every call of gRPC is a POST.
    let of_client = (*method == Method::POST).then(|| grpc_timeout(headers)).flatten();
    let least = [of_route, of_pool.total, of_client].into_iter().flatten().min()?;
    Some(began + least)
}

/// What holds for the tries of a request.
pub(super) fn of_tries(
    of_pool: &PoolTimeouts,
    outgoing: &Outgoing,
    whole: Option<Instant>,
) -> Deadlines {
    Deadlines {
        first_byte: of_pool.first_byte,
        idle: if outgoing.is_call { of_pool.tunnel } else { of_pool.idle },
        total: whole,
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

/// Gives work up at the end of the whole time.
pub(super) async fn within<T>(
    whole: Option<Instant>,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    match whole {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Kind::Deadline.into()),
    }
}

/// Gives up an answer that has not begun within `first_byte`, or at the end of the whole time.
pub(super) async fn answer_within<T>(
    first_byte: Duration,
    whole: Option<Instant>,
    answer: impl Future<Output = T>,
) -> Result<T, Error> {
    let late = Instant::now() + first_byte;
    match whole.filter(|whole| *whole <= late) {
        Some(whole) => within(Some(whole), answer).await,
        None => timeout_at(late, answer).await.map_err(|_| Kind::FirstByteTimeout.into()),
    }
}

/// A body that is waited for no longer than these allow, where it does not come of an exchange with
/// an endpoint, which has its own.
pub(super) fn bounded(body: Body, idle: Option<Duration>, whole: Option<Instant>) -> Body {
    if !matches!(body, Body::Stream(_)) || (idle.is_none() && whole.is_none()) {
        return body;
    }
    let patience = Patience::new(idle, whole, Instant::now(), SlotTimer::default());
    Body::stream(Bounded { body, patience })
}

struct Bounded {
    body: Body,
    patience: Patience,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let late = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match this.patience.advance() {
                Ok(()) => return Poll::Ready(Some(Ok(frame))),
                Err(late) => late,
            },
            Poll::Ready(end) => return Poll::Ready(end),
            Poll::Pending => match this.patience.poll(None, cx) {
                Poll::Ready(late) => late,
                Poll::Pending => return Poll::Pending,
            },
        };
        this.body = Body::Empty;
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use http::HeaderValue;

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

    /// A body of which nothing comes for as long, again and again.
    struct Dripping {
        every: Duration,
        sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    }

    impl http_body::Body for Dripping {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            if self.every.is_zero() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))));
            }
            let every = self.every;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    /// After how many seconds such a body ended, and why.
    async fn end_of(every: u64, idle: Option<u64>, whole: Option<u64>) -> (u64, Kind) {
        let start = Instant::now();
        let every = Duration::from_secs(every);
        let source = Body::stream(Dripping { every, sleep: None });
        let seconds = Duration::from_secs;
        let mut body = bounded(source, idle.map(seconds), whole.map(|it| start + seconds(it)));
        // Of the task that it is handed over by.
        let mut elsewhere = Context::from_waker(Waker::noop());
        let _ = http_body::Body::poll_frame(Pin::new(&mut body), &mut elsewhere);
        loop {
            let next = poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx));
            match next.await.expect("it has no end") {
                Ok(_) if every.is_zero() => tokio::time::advance(seconds(1)).await,
                Ok(_) => {}
                Err(error) => return (start.elapsed().as_secs(), error.kind()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_with_its_time_whether_it_stalls_drips_or_flows() {
        assert_eq!(end_of(1000, Some(10), None).await, (10, Kind::IdleTimeout));
        assert_eq!(end_of(1000, Some(10), Some(7)).await, (7, Kind::Deadline));
        assert_eq!(end_of(1000, None, Some(7)).await, (7, Kind::Deadline));
        assert_eq!(end_of(2, Some(3), Some(7)).await, (7, Kind::Deadline));
        assert_eq!(end_of(0, Some(3), Some(7)).await, (7, Kind::Deadline));
    }

    #[test]
    fn the_least_of_all_that_is_allowed_counts() {
        let timeouts = |total| PoolTimeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total,
            tunnel: Duration::from_secs(3600),
            announce: false,
        };
        let call = HeaderMap::from_iter([
            (GRPC_TIMEOUT, HeaderValue::from_static("3S")),
            (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        ]);
        let now = Instant::now();
        let least = |route: Option<u64>, pool: Option<u64>, method: Method| {
            let [route, pool] = [route, pool].map(|it| it.map(Duration::from_secs));
            let whole = whole(now, route, &timeouts(pool), (&method, &call));
            whole.map(|whole| (whole - now).as_secs())
        };
        assert_eq!(least(None, None, Method::GET), None);
        assert_eq!(least(None, None, Method::POST), Some(3));
        assert_eq!(least(Some(2), Some(4), Method::POST), Some(2));
        assert_eq!(least(Some(4), Some(2), Method::GET), Some(2));
    }
}
