//! The endpoints that may be picked now, worked out once per change instead of once per request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use super::endpoint::Endpoint;
use super::standing::Availability;

/// With fewer than this share usable, endpoints that are out by verdict or ejection are used again.
const PANIC_BELOW: f64 = 0.5;
/// Bound on the length of a round-robin sequence; weights are scaled down to it.
const SEQUENCE_MAX: u64 = 8192;

/// An endpoint in its pool.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
    pub backup: bool,
}

/// What a pick chooses from, valid until the next event or `valid_until`.
#[derive(Debug, Default)]
pub struct Candidates {
    /// In the order of the configuration.
    pub members: Vec<Member>,
    /// Set aside, and due for one request that tries them.
    pub trials: Vec<Arc<Endpoint>>,
    /// Indices into `members`: a smooth weighted round, each as often as its weight says.
    pub sequence: Box<[u16]>,
    /// When time alone changes the result.
    pub valid_until: Option<Instant>,
    /// Endpoints are used although probes or ejection speak against them.
    pub panic: bool,
}

impl Candidates {
    /// `with_sequence` only for round robin.
    pub fn of(members: &[Member], now: Instant, with_sequence: bool) -> Self {
        let states: Vec<_> = members
            .iter()
            .map(|member| {
                let standing = member.endpoint.standing();
                (standing.availability(now), standing.next_change(now))
            })
            .collect();
        let tier = |backup: bool| {
            members
                .iter()
                .zip(&states)
                .filter(move |(member, _)| member.backup == backup)
                .filter(|(member, _)| member.endpoint.is_resolved())
                .map(|(member, (availability, _))| (member, *availability))
        };
        let (mut chosen, mut panic) = usable_of(tier(false));
        if chosen.is_empty() || (panic && !has_usable(tier(false)) && has_usable(tier(true))) {
            let (backups, backup_panic) = usable_of(tier(true));
            if !backups.is_empty() {
                (chosen, panic) = (backups, backup_panic);
            }
        }
        let trials = members
            .iter()
            .zip(&states)
            .filter(|(_, (availability, _))| *availability == Availability::Trial)
            .map(|(member, _)| member.endpoint.clone())
            .collect();
        let sequence = if with_sequence { smooth_sequence(&chosen) } else { Box::default() };
        Self {
            members: chosen,
            trials,
            sequence,
            valid_until: states.iter().filter_map(|(_, change)| *change).min(),
            panic,
        }
    }

    /// The middle of the known latencies, in nanoseconds.
    pub fn median_latency(&self, now_millis: u32) -> Option<f32> {
        let mut known: Vec<f32> = self
            .members
            .iter()
            .filter_map(|member| member.endpoint.latency.nanos(now_millis))
            .collect();
        known.sort_unstable_by(f32::total_cmp);
        known.get(known.len() / 2).copied()
    }
}

fn has_usable<'a>(tier: impl Iterator<Item = (&'a Member, Availability)>) -> bool {
    tier.into_iter().any(|(_, availability)| availability == Availability::Usable)
}

/// The members of one tier that may be picked, and whether that took panic.
fn usable_of<'a>(tier: impl Iterator<Item = (&'a Member, Availability)>) -> (Vec<Member>, bool) {
    let tier: Vec<_> = tier.collect();
    let usable = tier.iter().filter(|(_, state)| *state == Availability::Usable).count();
    let panic = (usable as f64) < tier.len() as f64 * PANIC_BELOW;
    let chosen: Vec<_> = tier
        .iter()
        .filter(|(_, state)| match state {
            Availability::Usable => true,
            Availability::Ejected | Availability::Unhealthy => panic,
            Availability::Aside | Availability::Trial => false,
        })
        .map(|(member, _)| (*member).clone())
        .collect();
    let panic = panic && chosen.len() > usable;
    (chosen, panic)
}

/// One round in which member `i` stands `weight[i]` times, spread as evenly as possible. Repeated,
/// every window of its length holds each member exactly that often.
fn smooth_sequence(members: &[Member]) -> Box<[u16]> {
    let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, member.weight)).max(1);
    let mut weights: Vec<u64> =
        members.iter().map(|member| u64::from(member.weight / divisor)).collect();
    let total: u64 = weights.iter().sum();
    if total > SEQUENCE_MAX {
        for weight in &mut weights {
            *weight = (*weight * SEQUENCE_MAX / total).max(1);
        }
    }
    let total: u64 = weights.iter().sum();
    // Each turn of a member is due at the middle of its share of the round.
    let due = |turn: u64, weight: u64| (2 * turn + 1) * (total << 16) / (2 * weight);
    let mut queue: BinaryHeap<_> = weights
        .iter()
        .enumerate()
        .take(usize::from(u16::MAX))
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
    use std::time::Duration;

    use super::*;
    use crate::balance::standing::Verdict;
    use crate::config::model::Address;

    fn member(port: u16, weight: u32, backup: bool) -> Member {
        let address = Address::Socket(([127, 0, 0, 1], port).into());
        Member { endpoint: Arc::new(Endpoint::new(address, Verdict::Unknown)), weight, backup }
    }

    fn ports(candidates: &Candidates) -> Vec<u16> {
        candidates
            .members
            .iter()
            .map(|member| match &member.endpoint.address {
                Address::Socket(socket) => socket.port(),
                _ => 0,
            })
            .collect()
    }

    #[test]
    fn a_round_gives_every_member_its_weight_and_spreads_it() {
        let members = [member(1, 5, false), member(2, 1, false), member(3, 2, false)];
        let sequence = smooth_sequence(&members);
        for index in 0..3_u16 {
            let count = sequence.iter().filter(|at| **at == index).count();
            assert_eq!(count as u32, members[usize::from(index)].weight);
        }
        let longest = sequence.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
        assert!(longest <= Some(2), "{sequence:?}");
    }

    #[test]
    fn common_factors_shorten_the_round() {
        let members = [member(1, 300, false), member(2, 100, false)];
        assert_eq!(smooth_sequence(&members).len(), 4);
    }

    #[test]
    fn huge_weights_are_scaled_to_the_bound_and_nobody_is_dropped() {
        let members: Vec<_> =
            (0..50).map(|port| member(port, 997 - u32::from(port), false)).collect();
        let sequence = smooth_sequence(&members);
        assert!(sequence.len() as u64 <= SEQUENCE_MAX + 50);
        assert!((0..50).all(|index| sequence.contains(&index)));
    }

    #[test]
    fn panic_uses_unhealthy_and_ejected_endpoints_but_never_those_that_refuse_connections() {
        let now = Instant::now();
        let members: Vec<_> = (1..=5).map(|port| member(port, 1, false)).collect();
        members[0].endpoint.standing().connect_failed(now);
        members[1].endpoint.standing().eject(now, Duration::from_secs(30));
        let candidates = Candidates::of(&members, now, false);
        assert_eq!(ports(&candidates), [3, 4, 5]);
        assert!(!candidates.panic);

        members[2].endpoint.standing().eject(now, Duration::from_secs(30));
        let candidates = Candidates::of(&members, now, false);
        assert_eq!(ports(&candidates), [2, 3, 4, 5]);
        assert!(candidates.panic);
    }

    #[test]
    fn backups_are_used_only_while_no_other_endpoint_is_usable() {
        let now = Instant::now();
        let members = [member(1, 1, false), member(2, 1, true)];
        assert_eq!(ports(&Candidates::of(&members, now, false)), [1]);
        members[0].endpoint.standing().eject(now, Duration::from_secs(30));
        assert_eq!(ports(&Candidates::of(&members, now, false)), [2]);
        members[1].endpoint.standing().connect_failed(now);
        assert_eq!(ports(&Candidates::of(&members, now, false)), [1]);
    }

    #[test]
    fn candidates_expire_when_a_set_aside_or_an_ejection_ends() {
        let now = Instant::now();
        let members = [member(1, 1, false), member(2, 1, false), member(3, 1, false)];
        assert_eq!(Candidates::of(&members, now, false).valid_until, None);
        members[0].endpoint.standing().connect_failed(now);
        let candidates = Candidates::of(&members, now, false);
        let due = candidates.valid_until.expect("a set-aside ends by itself");
        assert!(candidates.trials.is_empty());
        assert_eq!(Candidates::of(&members, due, false).trials.len(), 1);
    }
}
