//! Whether a try that failed is made again: facts in, verdict out.

use http::{Method, StatusCode};

use crate::balance::RetryReason;
use crate::config::model::Retry;
use crate::error::Kind;

/// Tries of one request that found a resting connection closed. They cost nothing and prove
/// nothing about the endpoint, but somewhere it must end.
const STALE_MAX: u32 = 8;

/// Tries of one request that ended with the connection that others shared, as the endpoint had
/// announced. They cost nothing either; but it may be this request that the endpoint will not have.
const DISMISSED_MAX: u32 = 3;

/// How a try ended, if not with an answer that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection: the endpoint took none.
    Connect,
    /// No connection within the time for it.
    ConnectTimeout,
    /// No connection, for want of what we need for one.
    Exhausted,
    /// The connection ended before a byte of the request was written.
    Unwritten,
    /// The endpoint did not process the request.
    Refused,
    /// The endpoint has ended a shared connection, and may have begun with the request.
    Dismissed,
    /// The connection ended before a response head.
    Reset,
    /// No answer within the time for it.
    Timeout,
    /// An answer with this status.
    Status(StatusCode),
    /// Anything else: it would end the same way again, or must not be repeated.
    Final(Kind),
}

/// What matters beside the failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub retry: Option<&'a Retry>,
    /// Tries so far, without those on connections that had been closed.
    pub tries: u32,
    /// Tries on connections that had been closed.
    pub stale: u32,
    /// There are endpoints that were not tried.
    pub has_others: bool,
    pub is_idempotent: bool,
    /// Nothing of the body has been read: it can be sent from its beginning.
    pub is_replayable: bool,
    /// The connection had been at rest.
    pub was_resting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Again, if the budget agrees; free reasons always do.
    Again(RetryReason),
    /// Again on another connection: the one at rest had been closed.
    Refresh,
    GiveUp,
}

/// Decides on a failed try.
pub(super) fn verdict(failure: Failure, attempt: &Attempt<'_>) -> Verdict {
    if !attempt.is_replayable {
        return Verdict::GiveUp;
    }
    if failure == Failure::Unwritten && attempt.was_resting && attempt.stale < STALE_MAX {
        return Verdict::Refresh;
    }
    if failure == Failure::Dismissed && attempt.is_idempotent && attempt.stale < DISMISSED_MAX {
        return Verdict::Refresh;
    }
    let Some(retry) = attempt.retry else { return Verdict::GiveUp };
    if failure == Failure::Connect {
        // As many endpoints as there are may be down: that is no try of the request.
        return match retry.on_connect && attempt.has_others {
            true => Verdict::Again(RetryReason::Connect),
            false => Verdict::GiveUp,
        };
    }
    if attempt.tries >= retry.attempts {
        return Verdict::GiveUp;
    }
    match failure {
        Failure::ConnectTimeout if retry.on_connect && attempt.has_others => {
            Verdict::Again(RetryReason::Connect)
        }
        Failure::Unwritten => Verdict::Again(RetryReason::NeverWritten),
        Failure::Refused => Verdict::Again(RetryReason::Refused),
        Failure::Reset | Failure::Dismissed if retry.on_reset && attempt.is_idempotent => {
            Verdict::Again(RetryReason::Reset)
        }
        // The same endpoint would take as long, and answer alike.
        _ if !attempt.is_idempotent || !attempt.has_others => Verdict::GiveUp,
        Failure::Timeout if retry.on_timeout => Verdict::Again(RetryReason::Timeout),
        Failure::Status(status) if retry.on_statuses.contains(status) => {
            Verdict::Again(RetryReason::Status)
        }
        _ => Verdict::GiveUp,
    }
}

/// RFC 9110 §9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::StatusSet;

    fn config() -> Retry {
        Retry {
            attempts: 2,
            on_connect: true,
            on_reset: true,
            on_timeout: false,
            on_statuses: StatusSet(vec![(502, 504)]),
            budget: 0.2,
            hedge_after: None,
        }
    }

    fn attempt(retry: Option<&Retry>) -> Attempt<'_> {
        Attempt {
            retry,
            tries: 1,
            stale: 0,
            has_others: true,
            is_idempotent: true,
            is_replayable: true,
            was_resting: false,
        }
    }

    #[test]
    fn any_method_may_go_again_that_was_not_processed() {
        let retry = config();
        let post = Attempt { is_idempotent: false, ..attempt(Some(&retry)) };
        assert_eq!(verdict(Failure::Connect, &post), Verdict::Again(RetryReason::Connect));
        assert_eq!(verdict(Failure::Unwritten, &post), Verdict::Again(RetryReason::NeverWritten));
        assert_eq!(verdict(Failure::Refused, &post), Verdict::Again(RetryReason::Refused));
        assert_eq!(verdict(Failure::Reset, &post), Verdict::GiveUp);
        assert_eq!(verdict(Failure::Status(StatusCode::BAD_GATEWAY), &post), Verdict::GiveUp);
    }

    #[test]
    fn idempotent_requests_go_again_after_resets_and_listed_statuses() {
        let retry = config();
        let get = attempt(Some(&retry));
        assert_eq!(verdict(Failure::Reset, &get), Verdict::Again(RetryReason::Reset));
        assert_eq!(
            verdict(Failure::Status(StatusCode::SERVICE_UNAVAILABLE), &get),
            Verdict::Again(RetryReason::Status)
        );
        assert_eq!(verdict(Failure::Status(StatusCode::NOT_FOUND), &get), Verdict::GiveUp);
        assert_eq!(verdict(Failure::Timeout, &get), Verdict::GiveUp);
        let retry = Retry { on_timeout: true, ..config() };
        let get = attempt(Some(&retry));
        assert_eq!(verdict(Failure::Timeout, &get), Verdict::Again(RetryReason::Timeout));
    }

    #[test]
    fn an_endpoint_is_not_asked_again_that_would_answer_alike() {
        let retry = Retry { on_timeout: true, ..config() };
        let alone = Attempt { has_others: false, ..attempt(Some(&retry)) };
        for failure in [
            Failure::Connect,
            Failure::ConnectTimeout,
            Failure::Timeout,
            Failure::Status(StatusCode::SERVICE_UNAVAILABLE),
        ] {
            assert_eq!(verdict(failure, &alone), Verdict::GiveUp, "{failure:?}");
        }
        assert_eq!(verdict(Failure::Reset, &alone), Verdict::Again(RetryReason::Reset));
    }

    #[test]
    fn connects_that_are_refused_are_no_tries() {
        let retry = config();
        let last = Attempt { tries: 2, ..attempt(Some(&retry)) };
        assert_eq!(verdict(Failure::Connect, &last), Verdict::Again(RetryReason::Connect));
        assert_eq!(verdict(Failure::ConnectTimeout, &last), Verdict::GiveUp);
    }

    #[test]
    fn the_last_try_and_a_body_that_was_read_end_it() {
        let retry = config();
        let last = Attempt { tries: 2, ..attempt(Some(&retry)) };
        assert_eq!(verdict(Failure::Reset, &last), Verdict::GiveUp);
        let read = Attempt { is_replayable: false, ..attempt(Some(&retry)) };
        assert_eq!(verdict(Failure::Reset, &read), Verdict::GiveUp);
    }

    #[test]
    fn a_shared_connection_that_was_ended_costs_no_try_of_what_may_be_sent_twice() {
        let get = attempt(None);
        assert_eq!(verdict(Failure::Dismissed, &get), Verdict::Refresh);
        let often = Attempt { stale: DISMISSED_MAX, ..get };
        assert_eq!(verdict(Failure::Dismissed, &often), Verdict::GiveUp);
        let retry = config();
        let often = Attempt { retry: Some(&retry), ..often };
        assert_eq!(verdict(Failure::Dismissed, &often), Verdict::Again(RetryReason::Reset));
        let post = Attempt { is_idempotent: false, ..attempt(Some(&retry)) };
        assert_eq!(verdict(Failure::Dismissed, &post), Verdict::GiveUp);
    }

    #[test]
    fn a_connection_that_was_closed_at_rest_costs_no_try_even_without_retries() {
        let stale = Attempt { was_resting: true, ..attempt(None) };
        assert_eq!(verdict(Failure::Unwritten, &stale), Verdict::Refresh);
        let endless = Attempt { stale: STALE_MAX, ..stale };
        assert_eq!(verdict(Failure::Unwritten, &endless), Verdict::GiveUp);
        assert_eq!(verdict(Failure::Unwritten, &attempt(None)), Verdict::GiveUp);
    }
}
