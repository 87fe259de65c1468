//! Consistent hashing with bounded load.
//!
//! Every endpoint has a score for every key, made of the key and the endpoint's address; the
//! highest wins (rendezvous hashing, Thaler and Ravishankar 1998; with weights, Schindelhauer and
//! Schomaker 2005). So an endpoint that leaves takes only its own keys with it, and one that comes
//! takes an equal part from each; nothing is kept that a change would have to move. An endpoint
//! that has more than 1.25 times its share of what is under way is passed over for the next in
//! the key's own order (Mirrokni, Thorup, Zadimoghaddam 2017), so what is too much for one is
//! spread over all others. Hashes are the same in every process and every version.

use super::candidates::Member;
use super::endpoint::try_increment;

/// How much of its share of the requests under way an endpoint may have.
const LOAD_MAX: f64 = 1.25;
/// Rounds in which a place may be lost to another worker before the bound is let go.
const ROUNDS_MAX: usize = 3;

/// The hash of some bytes: of an address, or of what a request is told by.
pub fn key(bytes: &[u8]) -> u64 {
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    };
    let mut chunks = bytes.chunks_exact(8);
    let mut state = 0x2d35_8dcc_aa6c_78a5 ^ bytes.len() as u64;
    for chunk in &mut chunks {
        state = fold(state, u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    }
    let rest = chunks.remainder();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(fold(state, u64::from_le_bytes(last)))
}

/// A number from 0 to 1 that a key decides.
pub(super) fn unit(key: u64) -> f64 {
    (mix(key ^ 0x5bd1_e995_9d1b_54a5) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The finalizer of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Takes a place on the first endpoint in the order of `key` that is `open` and has room, below
/// `max` in any case. Its index.
pub(super) fn take(
    members: &[Member],
    key: u64,
    open: &impl Fn(usize) -> bool,
    max: usize,
) -> Option<usize> {
    let is_even = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    let score = |index: usize| score(&members[index], key, is_even);
    let best = |has_room: &dyn Fn(usize) -> bool| {
        (0..members.len())
            .filter(|index| open(*index) && has_room(*index))
            .max_by(|a, b| score(*a).total_cmp(&score(*b)))
    };
    let first = best(&|_| true)?;
    // Whoever has nothing is below every bound.
    if members[first].endpoint.requests_in_flight() == 0
        && try_increment(&members[first].endpoint.in_flight, max.min(1))
    {
        return Some(first);
    }
    for _ in 0..ROUNDS_MAX {
        let bound = Bound::of(members);
        let has_room = |index: usize| {
            let room = bound.of_member(&members[index]).min(max);
            members[index].endpoint.requests_in_flight() < room
        };
        let Some(index) = best(&has_room) else { break };
        let room = bound.of_member(&members[index]).min(max);
        if try_increment(&members[index].endpoint.in_flight, room) {
            return Some(index);
        }
    }
    // All that is open is at its share, because the rest is not open or came by other ways.
    let has_room = |index: usize| members[index].endpoint.requests_in_flight() < max;
    best(&has_room).filter(|index| try_increment(&members[*index].endpoint.in_flight, max))
}

/// Compares like `-weight / ln(u)`, with which an endpoint wins as often as its weight says.
fn score(member: &Member, key: u64, is_even: bool) -> f64 {
    let hash = mix(key ^ member.endpoint.seed) >> 11;
    // Adding a half keeps the logarithm finite; both are exact below 2^53.
    let u = (hash as f64 + 0.5) / (1_u64 << 53) as f64;
    if is_even { u } else { -f64::from(member.weight) / u.ln() }
}

/// How many requests an endpoint may have, with one more under way than there are.
struct Bound {
    per_weight: f64,
}

impl Bound {
    fn of(members: &[Member]) -> Self {
        let (mut requests, mut weights) = (1, 0.0);
        for member in members {
            requests += member.endpoint.requests_in_flight();
            weights += f64::from(member.weight);
        }
        Self { per_weight: LOAD_MAX * requests as f64 / weights }
    }

    fn of_member(&self, member: &Member) -> usize {
        (self.per_weight * f64::from(member.weight)).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::Ordering;

    use super::super::testing::member;
    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        let member = |(index, weight): (usize, &u32)| Member {
            weight: *weight,
            ..member(1000 + index as u16)
        };
        weights.iter().enumerate().map(member).collect()
    }

    /// Where each of `count` keys goes while nothing is under way.
    fn placed(members: &[Member], count: u64) -> Vec<u64> {
        let place = |number: u64| {
            let index = take(members, key(&number.to_le_bytes()), &|_| true, 1000).unwrap();
            members[index].endpoint.in_flight.store(0, Ordering::Relaxed);
            members[index].endpoint.id
        };
        (0..count).map(place).collect()
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(key(b""), 0x0d95_a059_171d_0311);
        assert_eq!(key(b"/a/long/path?of=more&than=8"), 0x8fe0_3c40_c548_d18a);
    }

    #[test]
    fn an_endpoint_that_leaves_takes_only_its_own_keys_with_it() {
        for count in [2, 3, 20] {
            let before = members(&vec![1; count]);
            let mut after = before.clone();
            let gone = after.remove(count / 2).endpoint.id;
            let keys = 20_000;
            let (old, new) = (placed(&before, keys), placed(&after, keys));
            let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            assert_eq!(moved, old.iter().filter(|id| **id == gone).count());
            let share = moved as f64 / keys as f64;
            assert!(share < 1.0 / count as f64 + 0.05, "{share} of the keys of {count}");
        }
    }

    #[test]
    fn keys_are_spread_by_weight_and_another_weight_moves_only_what_it_must() {
        let light = members(&[1, 1, 2]);
        let count = |placed: &[u64], id: u64| placed.iter().filter(|it| **it == id).count();
        let before = placed(&light, 40_000);
        let heavy = light[2].endpoint.id;
        assert!((19_000..21_000).contains(&count(&before, heavy)));
        let mut heavier = light;
        heavier[2].weight = 4;
        let after = placed(&heavier, 40_000);
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *new == heavy));
    }

    #[test]
    fn no_endpoint_has_more_than_its_share_and_a_quarter() {
        let members = members(&[1; 8]);
        let mut counts: HashMap<usize, usize> = HashMap::new();
        // All for one key.
        for under_way in 1..=800 {
            let index = take(&members, 7, &|_| true, 10_000).unwrap();
            *counts.entry(index).or_default() += 1;
            let bound = (1.25 * f64::from(under_way) / 8.0).ceil() as usize;
            assert!(counts.values().all(|count| *count <= bound), "{counts:?}");
        }
        // 800 / 8 × 1.25 are 125, and seven of these hold all.
        assert_eq!(counts.len(), 7);
    }

    #[test]
    fn what_is_too_much_for_one_is_spread_over_the_others() {
        let members = members(&[1; 10]);
        let mut spilled: HashMap<usize, usize> = HashMap::new();
        for number in 0..2000_u64 {
            let hash = key(&number.to_le_bytes());
            let wanted = take(&members, hash, &|_| true, 1000).unwrap();
            members[wanted].endpoint.in_flight.store(50, Ordering::Relaxed);
            let second = take(&members, hash, &|_| true, 1000).unwrap();
            *spilled.entry(second).or_default() += 1;
            for member in &members {
                member.endpoint.in_flight.store(0, Ordering::Relaxed);
            }
        }
        assert!(spilled.values().all(|count| (140..260).contains(count)), "{spilled:?}");
    }

    #[test]
    fn limits_hold_below_the_share() {
        let members = members(&[1, 1]);
        for _ in 0..6 {
            take(&members, 1, &|_| true, 3).unwrap();
        }
        assert_eq!(take(&members, 1, &|_| true, 3), None);
    }
}
