//! Preferring the own zone while it has capacity.
//!
//! As long as no more than about a quarter of the zone's endpoints (by weight) is out, it takes
//! all requests of its processes; below that it takes what the rest of it can carry, and the other
//! zones take what is left. A zone whose endpoints are all at their limits is left at once. The
//! allowance is that of Envoy's priority levels, 1.4.

use crate::config::model::Name;

use super::candidates::Member;

/// How much of its load what is left of a zone is trusted to carry.
const ALLOWANCE: f64 = 1.4;

/// Sorts those of the own zone to the front. How many they are, and which share of the requests
/// they take. `tier` are all that might be chosen, usable or not.
pub(super) fn divide(chosen: &mut [Member], tier: &[&Member], own: Option<&Name>) -> (usize, f64) {
    let Some(own) = own else { return (chosen.len(), 1.0) };
    let is_near = |member: &Member| member.zone.as_ref() == Some(own);
    // Stable: within a zone the order of the configuration stays.
    chosen.sort_by_key(|member| !is_near(member));
    let near = chosen.iter().take_while(|member| is_near(member)).count();
    if near == 0 || near == chosen.len() {
        return (chosen.len(), 1.0);
    }
    let is_chosen =
        |member: &&&Member| chosen[..near].iter().any(|it| it.endpoint.id == member.endpoint.id);
    let weigh = |members: &mut dyn Iterator<Item = &&Member>| -> f64 {
        members.map(|member| f64::from(member.weight)).sum()
    };
    let all = weigh(&mut tier.iter().filter(|member| is_near(member)));
    let left = weigh(&mut tier.iter().filter(is_chosen));
    (near, (ALLOWANCE * left / all).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::super::testing::member;
    use super::*;

    fn members(zones: &[&str]) -> Vec<Member> {
        let members = zones
            .iter()
            .enumerate()
            .map(|(index, zone)| Member { zone: Some((*zone).into()), ..member(index as u16) });
        members.collect()
    }

    fn divided(zones: &[&str], usable: &[usize]) -> (usize, f64) {
        let all = members(zones);
        let mut chosen: Vec<_> = usable.iter().map(|index| all[*index].clone()).collect();
        let tier: Vec<_> = all.iter().collect();
        divide(&mut chosen, &tier, Some(&"a".into()))
    }

    #[test]
    fn the_own_zone_takes_all_until_too_much_of_it_is_out() {
        let zones = ["b", "a", "a", "b", "a", "a"];
        assert_eq!(divided(&zones, &[0, 1, 2, 3, 4, 5]), (4, 1.0));
        assert_eq!(divided(&zones, &[0, 1, 2, 3, 4]), (3, 1.0));
        assert_eq!(divided(&zones, &[0, 1, 3, 5]), (2, 0.7));
        assert_eq!(divided(&zones, &[0, 1, 3]), (1, 0.35));
    }

    #[test]
    fn without_a_usable_endpoint_of_the_own_zone_all_others_are_equal() {
        assert_eq!(divided(&["b", "a", "c"], &[0, 2]), (2, 1.0));
        assert_eq!(divided(&["b", "c"], &[0, 1]), (2, 1.0));
    }

    #[test]
    fn without_a_zone_of_our_own_there_is_no_preference() {
        let mut chosen = members(&["b", "a"]);
        assert_eq!(divide(&mut chosen, &[], None), (2, 1.0));
        assert_eq!(chosen[0].zone.as_deref(), Some("b"));
    }
}
