//! `ewma`: the better of two at random, by the square of the peak-EWMA × what is in flight / weight
//! (Mitzenmacher's power of two choices, over Finagle's peak EWMA).
//!
//! To what is in flight comes a random part of a request. So with nothing in flight two that are as
//! fast share evenly, one of half the weight gets half as much, and one that is three times slower
//! a ninth. A millisecond comes to every latency: differences of less are noise.
//!
//! An endpoint whose answers are errors is quick to give them; it is taken to have as much in flight
//! as the one that it is compared with, by the share of the errors.
//!
//! Two draws may both meet endpoints that are much slower than the pool can be, as new ones are in a
//! rollout, or the one that is cold and the one that just was. Then two more are drawn.

use super::candidates::Member;
use super::rng::Rng;

/// A choice that is so many times slower than the pool can be is worth another draw.
const SLOW_FACTOR: f32 = 2.0;
/// Added to every latency, in nanoseconds.
const NOISE: f32 = 1e6;
/// How often that is done for one request.
const REDRAWS_MAX: usize = 2;

/// A member that was drawn.
#[derive(Clone, Copy)]
struct Drawn {
    index: usize,
    /// `None` before its first sample.
    latency: Option<f32>,
    in_flight: f32,
    /// The random part of a request.
    part: f32,
    weight: f32,
    /// The share of errors.
    errors: f32,
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
        let endpoint = &member.endpoint;
        Drawn {
            index,
            latency: endpoint.latency.nanos(now_millis),
            in_flight: endpoint.requests_in_flight() as f32,
            part: rng.unit() as f32,
            weight: member.weight as f32,
            errors: endpoint.record.errors(),
        }
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
        let is_slow = |it: Drawn| {
            it.latency.is_some_and(|latency| latency + NOISE > SLOW_FACTOR * (quick + NOISE))
        };
        for _ in 0..REDRAWS_MAX {
            if !is_slow(choice) {
                break;
            }
            // Chosen for the small part of a request that it drew, it has to do so again.
            let again = Drawn { part: rng.unit() as f32, ..choice };
            choice = better(again, pair()?);
        }
    }
    Some(choice.index)
}

/// The first where both are as good. One without a sample is taken to be as fast as the other.
#[inline]
fn better(a: Drawn, b: Drawn) -> Drawn {
    let (slow_a, slow_b) = a.latency.zip(b.latency).unwrap_or((0.0, 0.0));
    let cost = |it: Drawn, latency: f32, beside: Drawn| {
        let in_flight = it.in_flight.max(it.errors * beside.in_flight);
        (latency + NOISE) * (latency + NOISE) * (in_flight + it.part) / it.weight
    };
    if cost(b, slow_b, a) < cost(a, slow_a, b) { b } else { a }
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

    #[test]
    fn those_that_are_as_fast_share_evenly_and_others_by_how_much_slower_they_are() {
        let share = |millis: [u64; 2]| chosen(&millis, None, 4000)[1] as f64 / 4000.0;
        assert!((0.4..0.6).contains(&share([20, 21])), "{}", share([20, 21]));
        assert!((0.4..0.6).contains(&share([0, 0])), "{}", share([0, 0]));
        assert!((0.08..0.2).contains(&share([20, 40])), "{}", share([20, 40]));
        assert!(share([20, 200]) < 0.02, "{}", share([20, 200]));
    }

    #[test]
    fn a_part_of_the_weight_gets_a_part_of_the_requests() {
        let rng = Rng::seeded(4);
        for count in [2, 5] {
            let mut members: Vec<_> = (0..count).map(|index| member(1000 + index)).collect();
            let mut shares = Vec::new();
            for weight in [1, 5, 10, 20] {
                members.iter_mut().for_each(|member| member.weight = 20);
                members[0].weight = weight;
                let pick = |_| two_choices(&members, &rng, 0, &|_| true, || None);
                let got = (0..8000).map(pick).filter(|index| *index == Some(0)).count();
                shares.push(got as f64 / 8000.0 * f64::from(count));
            }
            let wanted = [0.05, 0.25, 0.5, 1.0];
            let is_near = |(got, wanted): (&f64, &f64)| (got - wanted).abs() < 0.1;
            assert!(shares.iter().zip(&wanted).all(is_near), "{shares:?}");
        }
    }

    #[test]
    fn errors_are_no_room() {
        let members = [member(1000), member(1001)];
        for _ in 0..50 {
            members[1].endpoint.record.follow_error();
        }
        let rng = Rng::seeded(4);
        for in_flight in [0, 3] {
            let open = |_| true;
            for _ in 0..in_flight {
                members[0].endpoint.in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            let pick = |_| two_choices(&members, &rng, 0, &open, || None);
            let got = (0..2000).map(pick).filter(|index| *index == Some(1)).count();
            assert!((800..1200).contains(&got), "{got} beside {in_flight}");
        }
    }
}
