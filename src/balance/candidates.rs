//! The endpoints that may be picked, worked out once per change instead of once per request.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::sequence;
use super::slow_start;
use super::standing::Availability;
use super::sticky::Tag;
use super::zones;
use crate::config::model::Name;

/// An endpoint in its pool.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
    pub backup: bool,
    pub zone: Option<Name>,
    /// What a client's cookie says to be kept here.
    pub(super) tag: Option<Tag>,
}

/// What the configuration says about who may be picked.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// With a smaller share usable, endpoints that are out by verdict or ejection are used again.
    pub(super) panic_below: f64,
    pub(super) slow_start: Duration,
    /// The zone of this process.
    pub(super) zone: Option<Name>,
    /// Sequences are needed: those of `round_robin`.
    pub(super) with_sequence: bool,
}

/// What a pick chooses from, valid until the next event or `valid_until`.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Those of the own zone first, else in the order of the configuration. While one starts
    /// slowly, all weights are multiples of the configured ones.
    pub members: Vec<Member>,
    near: Group,
    /// Those of other zones.
    far: Group,
    /// Share of the requests that go to the near ones.
    near_share: f64,
    /// Set aside, and due for one request that tries them.
    pub trials: Vec<Arc<Endpoint>>,
    /// Where nobody may be picked: those that were set aside, whether a trial is due or not.
    pub hopes: Vec<Arc<Endpoint>>,
    /// When time alone changes the result.
    pub valid_until: Option<Instant>,
    /// Endpoints are used although probes or ejection speak against them.
    pub panic: bool,
}

/// Members that are equally near.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) range: Range<usize>,
    /// Indices into the range: a smooth weighted round.
    pub(super) sequence: Box<[u16]>,
}

/// One member and how it stands now.
struct State<'a> {
    member: &'a Member,
    availability: Availability,
    /// How far its slow start is, in steps.
    steps: u32,
}

impl Candidates {
    pub(super) fn of(members: &[Member], terms: &Terms, now: Instant) -> Self {
        let mut valid_until = None;
        let mut note = |change: Option<Instant>| {
            valid_until = [valid_until, change].into_iter().flatten().min();
        };
        let state = |member| {
            let (state, changes) = State::of(member, terms.slow_start, now);
            changes.into_iter().for_each(&mut note);
            state
        };
        let states: Vec<_> = members.iter().map(state).collect();
        let tier = |backup| Tier::of(states.iter().filter(|it| it.member.backup == backup), terms);
        let mut tier = match (tier(false), tier(true)) {
            (main, _) if main.has_usable => main,
            (main, backups) if main.chosen.is_empty() || backups.has_usable => backups,
            (main, _) => main,
        };
        let own = terms.zone.as_ref().filter(|_| !tier.panic);
        let (near, near_share) = zones::divide(&mut tier.chosen, &tier.all, own);
        let group = |range: Range<usize>| {
            let weights = tier.chosen[range.clone()].iter().map(|member| member.weight);
            let sequence =
                if terms.with_sequence { sequence::smooth(weights) } else { Box::default() };
            Group { range, sequence }
        };
        let endpoints = |is_one: &dyn Fn(&State<'_>) -> bool| -> Vec<Arc<Endpoint>> {
            states.iter().filter(|it| is_one(it)).map(|it| it.member.endpoint.clone()).collect()
        };
        let is_hope = |it: &State<'_>| {
            matches!(it.availability, Availability::Aside | Availability::Trial)
                && it.member.endpoint.is_resolved()
        };
        let hopes = if tier.chosen.is_empty() { endpoints(&is_hope) } else { Vec::new() };
        Self {
            near: group(0..near),
            far: group(near..tier.chosen.len()),
            near_share,
            trials: endpoints(&|it| it.availability == Availability::Trial),
            hopes,
            members: tier.chosen,
            valid_until,
            panic: tier.panic,
        }
    }

    /// The groups in the order in which they are asked. `draw` is a number from 0 to 1.
    pub(super) fn groups(&self, draw: impl FnOnce() -> f64) -> [&Group; 2] {
        if self.near_share >= 1.0 || draw() < self.near_share {
            [&self.near, &self.far]
        } else {
            [&self.far, &self.near]
        }
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.endpoint.id == id)
    }

    /// The latency, in nanoseconds, that one in `parts` of those that are known does not exceed,
    /// and how many are known.
    pub(super) fn latency_of(&self, parts: usize, now_millis: u32) -> Option<(f32, usize)> {
        let mut known: Vec<f32> = self
            .members
            .iter()
            .filter_map(|member| member.endpoint.latency.nanos(now_millis))
            .collect();
        known.sort_unstable_by(f32::total_cmp);
        known.get(known.len() / parts).map(|latency| (*latency, known.len()))
    }

    pub(super) fn median_latency(&self, now_millis: u32) -> Option<(f32, usize)> {
        self.latency_of(2, now_millis)
    }
}

impl<'a> State<'a> {
    /// The state, and when time alone changes it.
    fn of(member: &'a Member, slow_start: Duration, now: Instant) -> (Self, [Option<Instant>; 2]) {
        let availability = member.endpoint.availability(now);
        let mut standing = member.endpoint.standing();
        let is_usable = availability == Availability::Usable && member.endpoint.is_resolved();
        if is_usable && !standing.was_ready() {
            // What it was like before says nothing: it is tried like a new one.
            member.endpoint.latency.forget();
        }
        let ready_since = standing.ready_since(is_usable, now);
        let (steps, next_step) = ready_since.map_or((slow_start::STEPS, None), |since| {
            slow_start::progress(since, slow_start, now)
        });
        let changes = [standing.next_change(now), next_step];
        (Self { member, availability, steps }, changes)
    }
}

/// What may be picked of the endpoints that are backups, or of those that are not.
struct Tier<'a> {
    /// Those that nobody took out by hand, and that have an address.
    all: Vec<&'a Member>,
    /// With weights as far as they have grown.
    chosen: Vec<Member>,
    has_usable: bool,
    /// Some are chosen although probes or ejection speak against them.
    panic: bool,
}

impl<'a> Tier<'a> {
    fn of<'s>(states: impl Iterator<Item = &'s State<'a>>, terms: &Terms) -> Self
    where
        'a: 's,
    {
        let states: Vec<_> = states
            .filter(|it| it.member.endpoint.is_resolved() && !it.availability.is_by_hand())
            .collect();
        let usable = states.iter().filter(|it| it.availability == Availability::Usable).count();
        let panic = (usable as f64) < states.len() as f64 * terms.panic_below;
        let is_chosen = |state: &&&State<'_>| match state.availability {
            Availability::Usable => true,
            Availability::Ejected | Availability::Unhealthy => panic,
            Availability::Aside
            | Availability::Trial
            | Availability::Draining
            | Availability::Down => false,
        };
        let is_growing = states.iter().any(|it| it.steps < slow_start::STEPS);
        let chosen: Vec<_> = states
            .iter()
            .filter(is_chosen)
            .map(|it| {
                let weight =
                    if is_growing { it.member.weight * it.steps } else { it.member.weight };
                Member { weight, ..it.member.clone() }
            })
            .collect();
        Self {
            all: states.iter().map(|it| it.member).collect(),
            panic: panic && chosen.len() > usable,
            has_usable: usable > 0,
            chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outlier::Reason;
    use super::super::testing::{self, ports};
    use super::*;
    use crate::balance::Manual;

    fn terms() -> Terms {
        Terms { panic_below: 0.5, ..Terms::default() }
    }

    fn member(port: u16, backup: bool) -> Member {
        Member { backup, ..testing::member(port) }
    }

    fn eject(member: &Member, now: Instant) {
        member.endpoint.standing().eject(now, Duration::from_secs(30), Reason::Failures);
    }

    fn picked(members: &[Member], terms: &Terms, now: Instant) -> Vec<u16> {
        ports(&Candidates::of(members, terms, now).members)
    }

    #[test]
    fn panic_uses_unhealthy_and_ejected_endpoints_but_never_those_that_refuse_connections() {
        let now = Instant::now();
        let members: Vec<_> = (1..=5).map(|port| member(port, false)).collect();
        members[0].endpoint.standing().connect_failed(String::new, now);
        eject(&members[1], now);
        let candidates = Candidates::of(&members, &terms(), now);
        assert_eq!(ports(&candidates.members), [3, 4, 5]);
        assert!(!candidates.panic);

        eject(&members[2], now);
        let candidates = Candidates::of(&members, &terms(), now);
        assert_eq!(ports(&candidates.members), [2, 3, 4, 5]);
        assert!(candidates.panic);
    }

    #[test]
    fn panic_begins_where_the_configuration_says() {
        let now = Instant::now();
        let members: Vec<_> = (1..=4).map(|port| member(port, false)).collect();
        eject(&members[0], now);
        let below = |panic_below| Terms { panic_below, ..Terms::default() };
        assert_eq!(picked(&members, &below(0.75), now), [2, 3, 4]);
        assert_eq!(picked(&members, &below(0.76), now), [1, 2, 3, 4]);
        for member in &members {
            eject(member, now);
        }
        assert_eq!(picked(&members, &below(0.0), now), [0_u16; 0]);
    }

    #[test]
    fn backups_are_used_only_while_no_other_endpoint_is_usable() {
        let now = Instant::now();
        let members = [member(1, false), member(2, true)];
        assert_eq!(picked(&members, &terms(), now), [1]);
        eject(&members[0], now);
        assert_eq!(picked(&members, &terms(), now), [2]);
        members[1].endpoint.standing().connect_failed(String::new, now);
        assert_eq!(picked(&members, &terms(), now), [1]);
    }

    #[test]
    fn what_is_taken_out_by_hand_is_not_used_even_in_panic_and_does_not_cause_it() {
        let now = Instant::now();
        let members: Vec<_> = (1..=4).map(|port| member(port, false)).collect();
        members[0].endpoint.set_manual(Manual::Drain);
        members[1].endpoint.set_manual(Manual::Down);
        eject(&members[2], now);
        let candidates = Candidates::of(&members, &terms(), now);
        assert_eq!((ports(&candidates.members), candidates.panic), (vec![4], false));
        eject(&members[3], now);
        assert_eq!(picked(&members, &terms(), now), [3, 4]);
        members[0].endpoint.set_manual(Manual::Ready);
        assert_eq!(picked(&members, &terms(), now), [1, 3, 4]);
    }

    #[test]
    fn backups_stand_in_for_what_is_taken_out_by_hand() {
        let now = Instant::now();
        let members = [member(1, false), member(2, true)];
        members[0].endpoint.set_manual(Manual::Drain);
        assert_eq!(picked(&members, &terms(), now), [2]);
    }

    #[test]
    fn candidates_expire_when_a_set_aside_or_an_ejection_ends() {
        let now = Instant::now();
        let members: Vec<_> = (1..=3).map(|port| member(port, false)).collect();
        assert_eq!(Candidates::of(&members, &terms(), now).valid_until, None);
        members[0].endpoint.standing().connect_failed(String::new, now);
        let candidates = Candidates::of(&members, &terms(), now);
        let due = candidates.valid_until.expect("a set-aside ends by itself");
        assert!(candidates.trials.is_empty());
        assert_eq!(Candidates::of(&members, &terms(), due).trials.len(), 1);
    }

    #[test]
    fn the_weight_of_an_endpoint_that_is_back_grows() {
        let now = Instant::now();
        let members: Vec<_> = (1..=2).map(|port| member(port, false)).collect();
        let terms = Terms { slow_start: Duration::from_secs(10), ..terms() };
        members[0].endpoint.standing().set_ready_since(now - Duration::from_secs(60));
        let at = |seconds: u64| {
            let now = now + Duration::from_secs(seconds);
            let candidates = Candidates::of(&members, &terms, now);
            let weights: Vec<_> = candidates.members.iter().map(|it| it.weight).collect();
            (weights, candidates.valid_until.is_some())
        };
        assert_eq!(at(0), (vec![20, 2], true));
        assert_eq!(at(5), (vec![20, 10], true));
        assert_eq!(at(10), (vec![1, 1], false));
    }

    #[test]
    fn the_own_zone_is_asked_first_and_the_others_for_what_it_cannot_carry() {
        let now = Instant::now();
        let zoned = |port, zone: &str| Member { zone: Some(zone.into()), ..member(port, false) };
        let members = [zoned(1, "b"), zoned(2, "a"), zoned(3, "a"), zoned(4, "a")];
        let terms = Terms { zone: Some("a".into()), panic_below: 0.2, ..Terms::default() };
        let candidates = Candidates::of(&members, &terms, now);
        assert_eq!(ports(&candidates.members), [2, 3, 4, 1]);
        assert_eq!(candidates.groups(|| 0.99).map(|it| it.range.clone()), [0..3, 3..4]);
        eject(&members[1], now);
        eject(&members[2], now);
        let candidates = Candidates::of(&members, &terms, now);
        assert_eq!(candidates.groups(|| 0.4).map(|it| it.range.clone()), [0..1, 1..2]);
        assert_eq!(candidates.groups(|| 0.5).map(|it| it.range.clone()), [1..2, 0..1]);
    }
}
