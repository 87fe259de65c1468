//! `least_requests`: the fewest requests in flight for its weight.
//!
//! To what is in flight comes a random part of a request: with nothing in flight equals share
//! evenly, and one of half the weight gets half as much.

use super::candidates::Member;
use super::rng::Rng;

/// The index of the choice among those that are `open`.
pub(super) fn least_loaded(
    members: &[Member],
    rng: &Rng,
    open: &impl Fn(usize) -> bool,
) -> Option<usize> {
    let load = |index: usize| {
        let member = &members[index];
        (member.endpoint.requests_in_flight() as f64 + rng.unit()) / f64::from(member.weight)
    };
    let open = (0..members.len()).filter(|index| open(*index));
    let loads = open.map(|index| (index, load(index)));
    loads.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::super::testing::member;
    use super::*;

    #[test]
    fn a_part_of_the_weight_gets_a_part_of_the_requests() {
        let rng = Rng::seeded(4);
        for count in [2, 5] {
            let mut members: Vec<_> = (0..count).map(|index| member(1000 + index)).collect();
            let mut shares = Vec::new();
            for weight in [1, 5, 10, 20] {
                members.iter_mut().for_each(|member| member.weight = 20);
                members[0].weight = weight;
                let pick = |_| least_loaded(&members, &rng, &|_| true);
                let got = (0..8000).map(pick).filter(|index| *index == Some(0)).count();
                shares.push(got as f64 / 8000.0 * f64::from(count));
            }
            let wanted = [0.05, 0.25, 0.5, 1.0];
            let is_near = |(got, wanted): (&f64, &f64)| (got - wanted).abs() < 0.15;
            assert!(shares.iter().zip(&wanted).all(is_near), "{shares:?}");
        }
    }
}
