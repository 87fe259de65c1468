//! Smooth weighted sequences: each index as often as its weight says, spread evenly, and one
//! cursor that all workers share.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bound on the length of a sequence; weights are scaled down to it.
const SEQUENCE_MAX: u64 = 8192;

/// A place in a sequence, of all workers. It lives as long as a name of the configuration, so
/// that a reload does not begin again.
#[derive(Debug, Default)]
// Two lines, because the hardware fetches lines in pairs: nothing that is only read lies beside.
#[repr(align(128))]
pub(super) struct Cursor(AtomicUsize);

impl Cursor {
    /// The next place of a sequence of `length`, which must not be 0.
    pub(super) fn next(&self, length: usize) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) % length
    }
}

/// One round in which index `i` stands `weights[i]` times, spread as evenly as possible. Repeated,
/// every window of its length holds each index exactly that often. A weight of 0 never stands.
pub(super) fn smooth(weights: impl Iterator<Item = u32> + Clone) -> Box<[u16]> {
    let divisor = weights.clone().fold(0, gcd).max(1);
    let mut weights: Vec<u64> = weights.map(|weight| u64::from(weight / divisor)).collect();
    let total: u64 = weights.iter().sum();
    if total > SEQUENCE_MAX {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (*weight * SEQUENCE_MAX / total).max(1);
        }
    }
    let total: u64 = weights.iter().sum();
    // Each turn of an index is due at the middle of its share of the round.
    let due = |turn: u64, weight: u64| (2 * turn + 1) * (total << 16) / (2 * weight);
    let mut queue: BinaryHeap<_> = weights
        .iter()
        .enumerate()
        .take(usize::from(u16::MAX))
        .filter(|(_, weight)| **weight > 0)
        .map(|(index, weight)| Reverse((due(0, *weight), index, 0_u64)))
        .collect();
    let mut sequence = Vec::with_capacity(usize::try_from(total).unwrap_or_default());
    while let Some(Reverse((_, index, turn))) = queue.pop() {
        sequence.push(index as u16);
        if turn + 1 < weights[index] {
            queue.push(Reverse((due(turn + 1, weights[index]), index, turn + 1)));
        }
    }
    sequence.into()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(weights: &[u32]) -> Box<[u16]> {
        smooth(weights.iter().copied())
    }

    #[test]
    fn a_round_gives_every_index_its_weight_and_spreads_it() {
        let weights = [5, 1, 2];
        let sequence = sequence(&weights);
        for index in 0..3_u16 {
            let count = sequence.iter().filter(|at| **at == index).count();
            assert_eq!(count as u32, weights[usize::from(index)]);
        }
        let longest = sequence.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
        assert!(longest <= Some(2), "{sequence:?}");
    }

    #[test]
    fn common_factors_shorten_the_round() {
        assert_eq!(sequence(&[300, 100]).len(), 4);
    }

    #[test]
    fn a_weight_of_zero_never_has_a_turn() {
        assert_eq!(*sequence(&[0, 7]), [1]);
        assert!(sequence(&[0]).is_empty());
    }

    #[test]
    fn huge_weights_are_scaled_to_the_bound_and_nobody_is_dropped() {
        let weights: Vec<_> = (0..50).map(|index| 997 - index).collect();
        let sequence = sequence(&weights);
        assert!(sequence.len() as u64 <= SEQUENCE_MAX + 50);
        assert!((0..50).all(|index| sequence.contains(&index)));
    }
}
