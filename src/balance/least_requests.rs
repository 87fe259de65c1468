//! `least_requests`: the fewest requests in flight for its weight.

use super::candidates::Member;
use super::rng::Rng;

/// The index of the choice among those that are `open`. From a random start, so that ties spread.
pub(super) fn least_loaded(
    members: &[Member],
    rng: &Rng,
    open: &impl Fn(usize) -> bool,
) -> Option<usize> {
    if members.is_empty() {
        return None;
    }
    let start = rng.below(members.len());
    let load = |index: usize| {
        let member = &members[index];
        (member.endpoint.requests_in_flight() + 1) as f64 / f64::from(member.weight)
    };
    (0..members.len())
        .map(|step| (start + step) % members.len())
        .filter(|index| open(*index))
        .min_by(|a, b| load(*a).total_cmp(&load(*b)))
}
