//! `slow_start`: how much of its share an endpoint gets that is new or back.
//!
//! The share grows evenly over the time, in steps: candidates are worked out once for each.

use std::time::{Duration, Instant};

/// Into so many steps the time is divided; weights are multiplied by as much while one grows.
pub(super) const STEPS: u32 = 20;
/// The share at the beginning, in steps: an endpoint without a request would never be warm.
const STEPS_MIN: u32 = 2;

/// How far an endpoint is, in steps up to [`STEPS`], and when that changes.
pub(super) fn progress(
    ready_since: Instant,
    slow_start: Duration,
    now: Instant,
) -> (u32, Option<Instant>) {
    let passed = now.saturating_duration_since(ready_since);
    if passed >= slow_start {
        return (STEPS, None);
    }
    let step = slow_start / STEPS;
    let steps = (passed.as_nanos() / step.as_nanos().max(1)) as u32;
    let next = ready_since + step * (steps + 1);
    // A step of no length at all would be due at once, again and again.
    (steps.clamp(STEPS_MIN, STEPS), Some(next.max(now + Duration::from_millis(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_evenly_to_the_whole() {
        let (since, length) = (Instant::now(), Duration::from_secs(10));
        let at = |seconds: f32| progress(since, length, since + Duration::from_secs_f32(seconds));
        assert_eq!(at(0.0), (STEPS_MIN, Some(since + Duration::from_millis(500))));
        assert_eq!(at(5.1), (10, Some(since + Duration::from_millis(5500))));
        assert_eq!(at(9.9).0, 19);
        assert_eq!(at(10.0), (STEPS, None));
    }

    #[test]
    fn without_a_slow_start_the_share_is_whole_at_once() {
        let now = Instant::now();
        assert_eq!(progress(now, Duration::ZERO, now), (STEPS, None));
    }
}
