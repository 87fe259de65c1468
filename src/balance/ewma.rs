//! `ewma`: the better of two at random by peak-EWMA × (in flight + 1) / weight (Mitzenmacher's
//! power of two choices, over Finagle's peak EWMA).
//!
//! Two draws may both meet endpoints that are much slower than the pool can be, as new ones are in a
//! rollout, or the one that is cold and the one that just was. Then two more are drawn.

use super::candidates::Member;
use super::rng::Rng;

/// A choice that is so many times slower than the pool can be is worth another draw.
const SLOW_FACTOR: f32 = 2.0;
/// How often that is done for one request.
const REDRAWS_MAX: usize = 2;

/// A member that was drawn.
#[derive(Clone, Copy)]
struct Drawn {
    index: usize,
    /// `None` before its first sample.
    latency: Option<f32>,
    /// Requests that it would have for its weight.
    load: f32,
}

/// The index of the choice among those that are `open`. `quick` is a latency, in nanoseconds, that
/// at least a quarter of the pool does not exceed, where it is known.
pub(super) fn two_choices(
    members: &[Member],
    rng: &Rng,
    now_millis: u32,
    open: &impl Fn(usize) -> bool,
    quick: impl FnOnce() -> Option<f32>,
) -> Option<usize> {
    if members.is_empty() {
        return None;
    }
    let from = |start: usize| {
        (0..members.len()).map(move |step| (start + step) % members.len()).find(|at| open(*at))
    };
    let drawn = |index: usize| {
        let member = &members[index];
        let load = (member.endpoint.requests_in_flight() + 1) as f32 / member.weight as f32;
        Drawn { index, latency: member.endpoint.latency.nanos(now_millis), load }
    };
    let pair = || {
        let first = from(rng.below(members.len()))?;
        if members.len() == 1 {
            return Some(drawn(first));
        }
        let second = from(rng.below(members.len()))?;
        let second = if second == first { from(first + 1).unwrap_or(first) } else { second };
        Some(better(drawn(first), drawn(second)))
    };
    let mut choice = pair()?;
    if members.len() > 2
        && let Some(quick) = quick()
    {
        let is_slow = |it: Drawn| it.latency.is_some_and(|latency| latency > SLOW_FACTOR * quick);
        for _ in 0..REDRAWS_MAX {
            if !is_slow(choice) {
                break;
            }
            choice = better(choice, pair()?);
        }
    }
    Some(choice.index)
}

/// The first where both are as good. One without a sample is taken to be as fast as the other.
#[inline]
fn better(a: Drawn, b: Drawn) -> Drawn {
    let (slow_a, slow_b) = a.latency.zip(b.latency).unwrap_or((1.0, 1.0));
    if slow_b * b.load < slow_a * a.load { b } else { a }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::member;
    use super::*;

    /// How often each of some members is chosen of so many times.
    fn chosen(millis: &[u64], quick: Option<u64>, times: usize) -> Vec<usize> {
        let members: Vec<_> = (0..millis.len()).map(|index| member(1000 + index as u16)).collect();
        for (member, millis) in members.iter().zip(millis) {
            member.endpoint.latency.observe(Duration::from_millis(*millis), 0);
        }
        let rng = Rng::seeded(4);
        let mut counts = vec![0; members.len()];
        for _ in 0..times {
            let quick = || quick.map(|millis| millis as f32 * 1e6);
            let index = two_choices(&members, &rng, 0, &|_| true, quick).expect("a member");
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn two_that_are_slow_are_drawn_anew() {
        let millis = [100, 100, 20, 20, 20, 20];
        let slow = |quick| chosen(&millis, quick, 3000)[..2].iter().sum::<usize>();
        // Both draws meet the two: one of 15 pairs, more often as neighbours follow repeats.
        assert!((150..400).contains(&slow(None)), "{}", slow(None));
        assert!(slow(Some(20)) < 10, "{}", slow(Some(20)));
    }

    #[test]
    fn where_all_are_alike_nothing_is_drawn_anew() {
        let counts = chosen(&[20, 22, 24, 26], Some(22), 4000);
        assert_eq!(counts, chosen(&[20, 22, 24, 26], None, 4000));
        assert!(chosen(&[20], Some(1), 3) == [3]);
    }
}
