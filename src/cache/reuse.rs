//! Whether a stored response answers a request without the origin (RFC 9111 §4.2, §5.2.1), and
//! whether it stands in for an answer that the origin does not give (RFC 9111 §4.2.4, RFC 5861).
//!
//! Facts and a moment in, a verdict out. What a client demands is a [`RequestControl`]; where the
//! demands of clients are ignored it is the empty one.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::control::RequestControl;
use super::entry::{Entry, Head};
use crate::error::{Kind, Origin};

/// How long past its end a response stands in for an origin that cannot be reached, where nothing
/// says how long it may (RFC 9111 §4.2.4).
pub(super) const DISCONNECTED_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a stored response is to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// The answer.
    Fresh,
    /// The answer, although it is stale.
    Stale(StaleReason),
    /// The origin must be asked.
    Ask,
}

/// What allows a stale answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// `stale-while-revalidate`: it is fetched anew meanwhile.
    WhileRevalidate,
    /// The client's `max-stale`.
    MaxStale,
    /// It was purged softly: it is fetched anew meanwhile.
    SoftPurge,
    /// `stale-if-error`.
    IfError,
    /// The origin cannot be reached.
    Disconnected,
}

impl StaleReason {
    /// Whether it is fetched anew behind the answer.
    pub fn is_refreshed(self) -> bool {
        matches!(self, Self::WhileRevalidate | Self::SoftPurge)
    }

    /// The word in `Cache-Status: …; detail=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WhileRevalidate => "stale-while-revalidate",
            Self::MaxStale => "max-stale",
            Self::SoftPurge => "soft-purge",
            Self::IfError => "stale-if-error",
            Self::Disconnected => "disconnected",
        }
    }
}

/// How an origin failed to give an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It answered with an error.
    Status(StatusCode),
    /// There was no answer.
    Kind(Kind),
}

impl Fault {
    /// The fault that a status is, if it is one (RFC 5861 §4).
    pub fn of_status(status: StatusCode) -> Option<Self> {
        matches!(status.as_u16(), 500 | 502 | 503 | 504).then_some(Self::Status(status))
    }

    /// Whether it is an error in the sense of `stale-if-error`: what would make a 5xx of ours.
    fn is_error(self) -> bool {
        match self {
            Self::Status(_) => true,
            Self::Kind(kind) => kind.origin() != Origin::Client,
        }
    }

    /// Whether there is no way to the origin, in the sense of RFC 9111 §4.2.4. An origin that is
    /// slow, or answers with an error, is there.
    fn is_disconnection(self) -> bool {
        let Self::Kind(kind) = self else { return false };
        matches!(
            kind,
            Kind::Connect
                | Kind::ConnectTimeout
                | Kind::Reset
                | Kind::Refused
                | Kind::NoEndpoint
                | Kind::Exhausted
        )
    }
}

/// What a stored response is to a request with these demands.
pub fn reuse(entry: &Entry, demands: &RequestControl, now: Instant) -> Reuse {
    let head = &entry.head;
    if demands.no_cache || !is_young_enough(head, demands, now) {
        return Reuse::Ask;
    }
    if let Some(purged) = entry.expired() {
        return after_soft_purge(head, now, now.saturating_duration_since(purged));
    }
    if head.is_fresh(now) {
        return Reuse::Fresh;
    }
    if !head.terms.may_be_stale() {
        return Reuse::Ask;
    }
    let past = past_end(head, now);
    match demands.max_stale {
        Some(limit) if is_within(past, limit) => Reuse::Stale(StaleReason::MaxStale),
        // RFC 9111 §5.2.1.1: who limits the age wants nothing stale.
        None if demands.max_age.is_none() && past < head.terms.stale_while_revalidate => {
            Reuse::Stale(StaleReason::WhileRevalidate)
        }
        _ => Reuse::Ask,
    }
}

/// Whether the response with this head is fresh to a request with these demands.
pub fn is_usable(head: &Head, demands: &RequestControl, now: Instant) -> bool {
    !demands.no_cache && is_young_enough(head, demands, now) && head.is_fresh(now)
}

/// What a response is that was purged softly so long ago. By its own word it may still be fresh;
/// what it says of stale answers counts from the purge on.
fn after_soft_purge(head: &Head, now: Instant, past: Duration) -> Reuse {
    let may_be_used = head.is_fresh(now)
        || (head.terms.may_be_stale() && past < head.terms.stale_while_revalidate);
    if may_be_used { Reuse::Stale(StaleReason::SoftPurge) } else { Reuse::Ask }
}

/// Whether a stored response answers a request with these demands, after the origin failed.
pub fn in_place_of(
    fault: Fault,
    entry: &Entry,
    demands: &RequestControl,
    now: Instant,
) -> Option<StaleReason> {
    let head = &entry.head;
    // One error is no better than another.
    let is_of_use = !head.status.is_server_error() && fault.is_error();
    if !is_of_use || demands.no_cache {
        return None;
    }
    if entry.expired().is_some() && head.is_fresh(now) {
        return Some(StaleReason::SoftPurge);
    }
    if !head.terms.may_be_stale() {
        return None;
    }
    let past = past_end(head, now);
    if demands.max_stale.is_some_and(|limit| !is_within(past, limit)) {
        return None;
    }
    match head.terms.stale_if_error {
        // RFC 5861 §4: regardless of other freshness information.
        Some(limit) => (past < limit).then_some(StaleReason::IfError),
        None => (fault.is_disconnection()
            && past < DISCONNECTED_MAX
            && (demands.max_stale.is_some() || demands.max_age.is_none())
            && is_young_enough(head, demands, now))
        .then_some(StaleReason::Disconnected),
    }
}

/// `max-age` and `min-fresh` of the request (RFC 9111 §5.2.1.1, §5.2.1.3).
fn is_young_enough(head: &Head, demands: &RequestControl, now: Instant) -> bool {
    let age = head.age(now);
    demands.max_age.is_none_or(|limit| age <= Duration::from_secs(limit))
        && demands.min_fresh.is_none_or(|least| {
            head.terms.lifetime.saturating_sub(age) >= Duration::from_secs(least)
        })
}

/// How long a response has been stale.
fn past_end(head: &Head, now: Instant) -> Duration {
    head.age(now).saturating_sub(head.terms.lifetime)
}

fn is_within(past: Duration, limit: Option<u64>) -> bool {
    limit.is_none_or(|limit| past <= Duration::from_secs(limit))
}

#[cfg(test)]
mod tests {
    use super::super::purge::Mode;
    use super::super::testing::head as fresh_for;
    use super::*;
    use crate::body::StoredBody;
    use crate::memory::Memory;

    const NOTHING: RequestControl = RequestControl {
        no_store: false,
        no_cache: false,
        only_if_cached: false,
        max_age: None,
        min_fresh: None,
        max_stale: None,
    };

    fn entry(head: &Head) -> Entry {
        let charge = Memory::new(1).charge(1).expect("room");
        Entry::new(head.clone(), StoredBody::new(Vec::new(), ()), charge)
    }

    /// A response of five seconds of age that was fresh for `lifetime`, now.
    fn head(lifetime: u64) -> (Head, Instant) {
        let head = fresh_for(lifetime);
        let now = head.received;
        (head, now)
    }

    fn revalidating(lifetime: u64, window: u64) -> (Head, Instant) {
        let (mut head, now) = head(lifetime);
        head.terms.stale_while_revalidate = Duration::from_secs(window);
        (head, now)
    }

    #[test]
    fn a_response_answers_until_its_end_and_then_while_it_is_revalidated() {
        let verdict = |lifetime, window| {
            let (head, now) = revalidating(lifetime, window);
            reuse(&entry(&head), &NOTHING, now)
        };
        assert_eq!(verdict(6, 0), Reuse::Fresh);
        assert_eq!(verdict(5, 0), Reuse::Ask);
        assert_eq!(verdict(5, 1), Reuse::Stale(StaleReason::WhileRevalidate));
        assert_eq!(verdict(2, 3), Reuse::Ask, "three seconds past its end");
    }

    #[test]
    fn demands_of_the_client_are_weighed_by_rfc_9111_5_2_1() {
        let demanding = |change: fn(&mut RequestControl)| {
            let mut demands = NOTHING;
            change(&mut demands);
            demands
        };
        let (fresh, now) = head(60);
        for (demands, expected) in [
            (demanding(|it| it.no_cache = true), Reuse::Ask),
            (demanding(|it| it.max_age = Some(5)), Reuse::Fresh),
            (demanding(|it| it.max_age = Some(4)), Reuse::Ask),
            (demanding(|it| it.min_fresh = Some(55)), Reuse::Fresh),
            (demanding(|it| it.min_fresh = Some(56)), Reuse::Ask),
            (demanding(|it| it.max_stale = Some(None)), Reuse::Fresh),
        ] {
            assert_eq!(reuse(&entry(&fresh), &demands, now), expected, "{demands:?}");
        }
        let (stale, now) = revalidating(2, 60);
        let allowed = Reuse::Stale(StaleReason::MaxStale);
        for (demands, expected) in [
            (demanding(|it| it.max_stale = Some(None)), allowed),
            (demanding(|it| it.max_stale = Some(Some(3))), allowed),
            (demanding(|it| it.max_stale = Some(Some(2))), Reuse::Ask),
            (demanding(|it| it.max_age = Some(9)), Reuse::Ask),
            (demanding(|it| (it.max_age, it.max_stale) = (Some(9), Some(None))), allowed),
        ] {
            assert_eq!(reuse(&entry(&stale), &demands, now), expected, "{demands:?}");
        }
    }

    #[test]
    fn a_directive_that_forbids_stale_answers_wins() {
        let (mut head, now) = revalidating(5, 60);
        head.terms.stale_if_error = Some(Duration::from_secs(60));
        let any = RequestControl { max_stale: Some(None), ..NOTHING };
        let fault = Fault::Kind(Kind::Connect);
        for forbid in
            [(|head: &mut Head| head.terms.must_revalidate = true) as fn(&mut Head), |head| {
                head.terms.revalidate_always = true
            }]
        {
            let mut head = head.clone();
            forbid(&mut head);
            assert_eq!(reuse(&entry(&head), &any, now), Reuse::Ask);
            assert_eq!(in_place_of(fault, &entry(&head), &any, now), None);
        }
    }

    #[test]
    fn errors_are_covered_as_long_as_stale_if_error_says() {
        let (mut head, now) = head(3);
        for (limit, covered) in [(0, None), (2, None), (3, Some(StaleReason::IfError))] {
            head.terms.stale_if_error = Some(Duration::from_secs(limit));
            for fault in [
                Fault::of_status(StatusCode::SERVICE_UNAVAILABLE).unwrap(),
                Fault::Kind(Kind::FirstByteTimeout),
                Fault::Kind(Kind::Connect),
            ] {
                assert_eq!(
                    in_place_of(fault, &entry(&head), &NOTHING, now),
                    covered,
                    "{limit} {fault:?}"
                );
            }
        }
        let no_cache = RequestControl { no_cache: true, ..NOTHING };
        assert_eq!(in_place_of(Fault::Kind(Kind::Connect), &entry(&head), &no_cache, now), None);
        head.status = StatusCode::BAD_GATEWAY;
        assert_eq!(in_place_of(Fault::Kind(Kind::Connect), &entry(&head), &NOTHING, now), None);
        assert_eq!(Fault::of_status(StatusCode::NOT_FOUND), None);
        assert_eq!(Fault::of_status(StatusCode::NOT_IMPLEMENTED), None);
    }

    #[test]
    fn without_a_word_only_an_origin_out_of_reach_is_covered_and_for_a_day() {
        let (head, now) = head(5);
        let covers = |fault, later| {
            in_place_of(fault, &entry(&head), &NOTHING, now + Duration::from_secs(later)).is_some()
        };
        assert!(covers(Fault::Kind(Kind::Connect), 0));
        assert!(covers(Fault::Kind(Kind::Reset), 86_399));
        assert!(!covers(Fault::Kind(Kind::Connect), 86_400));
        assert!(!covers(Fault::Kind(Kind::FirstByteTimeout), 0));
        assert!(!covers(Fault::Status(StatusCode::BAD_GATEWAY), 0));
    }

    #[test]
    fn a_response_that_was_purged_softly_is_served_while_it_is_fetched_anew() {
        let (mut head, now) = head(60);
        head.terms.must_revalidate = true;
        let purged = entry(&head);
        purged.publish();
        assert!(purged.purge(Mode::Expire, now));
        assert!(!purged.purge(Mode::Expire, now), "it was counted");
        assert!(!purged.is_fresh(now));
        assert_eq!(purged.ttl(now + Duration::from_secs(3)), -3);
        assert_eq!(reuse(&purged, &NOTHING, now), Reuse::Stale(StaleReason::SoftPurge));
        let failed = in_place_of(Fault::Kind(Kind::Connect), &purged, &NOTHING, now);
        assert_eq!(failed, Some(StaleReason::SoftPurge));
        // Past its own end only what it says itself counts.
        let later = now + Duration::from_secs(60);
        assert_eq!(reuse(&purged, &NOTHING, later), Reuse::Ask);
        let (mut head, now) = revalidating(6, 5);
        head.terms.stale_if_error = None;
        let purged = entry(&head);
        purged.purge(Mode::Expire, now);
        let at = |seconds| reuse(&purged, &NOTHING, now + Duration::from_secs(seconds));
        assert_eq!(at(4), Reuse::Stale(StaleReason::SoftPurge));
        assert_eq!(at(5), Reuse::Ask);
    }
}
