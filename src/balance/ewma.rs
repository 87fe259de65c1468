//! `ewma`: the better of two at random by peak-EWMA × (in flight + 1) / weight (Mitzenmacher's
//! power of two choices, over Finagle's peak EWMA).

use super::candidates::Member;
use super::rng::Rng;

/// The index of the choice among those that are `open`.
pub(super) fn two_choices(
    members: &[Member],
    rng: &Rng,
    now_millis: u32,
    open: &impl Fn(usize) -> bool,
) -> Option<usize> {
    let from = |start: usize| {
        (0..members.len()).map(move |step| (start + step) % members.len()).find(|at| open(*at))
    };
    let draw = || from(rng.below(members.len()));
    if members.is_empty() {
        return None;
    }
    let first = draw()?;
    if members.len() == 1 {
        return Some(first);
    }
    let second = draw()?;
    let second = if second == first { from(first + 1).unwrap_or(first) } else { second };
    let (a, b) = (&members[first], &members[second]);
    // An endpoint without a sample is taken to be as fast as the other one.
    let (slow_a, slow_b) =
        match (a.endpoint.latency.nanos(now_millis), b.endpoint.latency.nanos(now_millis)) {
            (Some(a), Some(b)) => (a, b),
            _ => (1.0, 1.0),
        };
    let load = |member: &Member, latency: f32| {
        latency * (member.endpoint.requests_in_flight() + 1) as f32 / member.weight as f32
    };
    Some(if load(b, slow_b) < load(a, slow_a) { second } else { first })
}
