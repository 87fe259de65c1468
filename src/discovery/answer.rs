//! From the records of an answer to the endpoints of a pool.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::lookup::Record;
use crate::config::model::{Address, EndpointSpec};

/// Endpoints that one name may give a pool.
pub(super) const ENDPOINTS_MAX: usize = 1024;
/// Of an endpoint, as in the configuration.
const WEIGHT_MAX: u32 = 1000;

/// What is made of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// In the order of their addresses, so that every process has the same.
    pub(super) specs: Vec<EndpointSpec>,
    pub(super) ignored: Vec<IpAddr>,
    /// How many more there would have been.
    pub(super) excess: usize,
}

/// Makes endpoints of records. Where there are too many, those in `use_now` stay.
pub(super) fn endpoints(
    records: &[Record],
    with_loopback: bool,
    in_use: &HashSet<SocketAddr>,
) -> Endpoints {
    let (records, ignored) = without_special(records, with_loopback);
    let first = records.iter().map(|record| record.priority).min().unwrap_or_default();
    let heaviest = records.iter().map(|record| record.weight).max().unwrap_or_default();
    let mut best: BTreeMap<SocketAddr, (bool, u32)> = BTreeMap::new();
    for record in &records {
        let found = (record.priority > first, scaled(record.weight, heaviest));
        let known = best.entry(record.address).or_insert(found);
        // Twice the same address: the more important record counts.
        if (found.0, u32::MAX - found.1) < (known.0, u32::MAX - known.1) {
            *known = found;
        }
    }
    let excess = best.len().saturating_sub(ENDPOINTS_MAX);
    if excess > 0 {
        let mut order: Vec<_> = best
            .iter()
            .map(|(address, (backup, _))| (*backup, !in_use.contains(address), *address))
            .collect();
        order.sort_unstable();
        for (_, _, address) in &order[ENDPOINTS_MAX..] {
            best.remove(address);
        }
    }
    let spec = |(address, (backup, weight))| EndpointSpec {
        address: Address::Socket(address),
        weight,
        backup,
        zone: None,
    };
    Endpoints { specs: best.into_iter().map(spec).collect(), ignored, excess }
}

/// The addresses for an endpoint that is a name, in the order to try, and those that are not used.
pub(super) fn addresses(records: &[Record], with_loopback: bool) -> (Vec<SocketAddr>, Vec<IpAddr>) {
    let (records, ignored) = without_special(records, with_loopback);
    (records.iter().map(|record| record.address).collect(), ignored)
}

/// Parts records by whether their addresses may be used.
fn without_special(records: &[Record], with_loopback: bool) -> (Vec<Record>, Vec<IpAddr>) {
    let is_usable = |record: &&Record| match Kind::of(record.address.ip()) {
        Kind::Plain => true,
        Kind::Local => with_loopback || record.is_local,
        Kind::Many => false,
    };
    let (usable, ignored): (Vec<&Record>, Vec<&Record>) = records.iter().partition(is_usable);
    let mut ignored: Vec<IpAddr> = ignored.iter().map(|record| record.address.ip()).collect();
    ignored.sort_unstable();
    ignored.dedup();
    (usable.into_iter().copied().collect(), ignored)
}

/// What an address stands for.
enum Kind {
    Plain,
    /// This machine: an answer could make us our own endpoint, or open what listens only here.
    Local,
    /// More than one machine. Nothing can be connected to.
    Many,
}

impl Kind {
    fn of(ip: IpAddr) -> Self {
        // An IPv4 address in an IPv6 one is still that address.
        match ip.to_canonical() {
            ip if ip.is_loopback() || ip.is_unspecified() => Self::Local,
            ip if ip.is_multicast() => Self::Many,
            IpAddr::V4(ip) if ip.is_broadcast() => Self::Many,
            _ => Self::Plain,
        }
    }
}

/// A weight of an SRV record as one of the configuration. Zero is the least there is.
fn scaled(weight: u16, heaviest: u16) -> u32 {
    let (weight, heaviest) = (u32::from(weight), u32::from(heaviest));
    let scaled = if heaviest > WEIGHT_MAX { weight * WEIGHT_MAX / heaviest } else { weight };
    scaled.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(address: &str) -> Record {
        Record { address: address.parse().unwrap(), priority: 0, weight: 1, is_local: false }
    }

    fn srv(address: &str, priority: u16, weight: u16) -> Record {
        Record { priority, weight, ..record(address) }
    }

    fn of(records: &[Record]) -> Vec<(String, u32, bool)> {
        let found = endpoints(records, false, &HashSet::new());
        assert_eq!((found.ignored.len(), found.excess), (0, 0));
        let shown = |spec: EndpointSpec| (spec.address.to_string(), spec.weight, spec.backup);
        found.specs.into_iter().map(shown).collect()
    }

    #[test]
    fn every_address_is_an_endpoint_once_and_in_order() {
        let records = ["192.0.2.2:80", "[2001:db8::1]:80", "192.0.2.1:80", "192.0.2.2:80"];
        let found = of(&records.map(record));
        let addresses: Vec<_> = found.iter().map(|(address, _, _)| address.as_str()).collect();
        assert_eq!(addresses, ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]);
        assert!(found.iter().all(|(_, weight, backup)| (*weight, *backup) == (1, false)));
    }

    #[test]
    fn the_lowest_priority_comes_first_and_all_others_are_backups() {
        let found = of(&[
            srv("192.0.2.1:1", 10, 5),
            srv("192.0.2.2:2", 10, 0),
            srv("192.0.2.3:3", 20, 5),
            srv("192.0.2.4:4", 30, 5),
            srv("192.0.2.1:1", 20, 9),
            srv("192.0.2.2:2", 10, 3),
        ]);
        let expected = [
            ("192.0.2.1:1", 5, false),
            ("192.0.2.2:2", 3, false),
            ("192.0.2.3:3", 5, true),
            ("192.0.2.4:4", 5, true),
        ];
        let expected = expected.map(|(address, weight, backup)| (address.into(), weight, backup));
        assert_eq!(found, expected);
    }

    #[test]
    fn weights_are_scaled_to_those_of_the_configuration() {
        let weights = |weights: &[u16]| -> Vec<u32> {
            let srv = |(host, weight): (usize, &u16)| srv(&format!("192.0.2.{host}:1"), 0, *weight);
            let records: Vec<_> = weights.iter().enumerate().map(srv).collect();
            of(&records).into_iter().map(|(_, weight, _)| weight).collect()
        };
        assert_eq!(weights(&[0, 0]), [1, 1]);
        assert_eq!(weights(&[1000, 1, 0]), [1000, 1, 1]);
        assert_eq!(weights(&[65_535, 32_768, 1]), [1000, 500, 1]);
    }

    #[test]
    fn addresses_of_this_machine_are_used_only_when_asked_for_and_groups_never() {
        let local = ["127.0.0.1:1", "127.9.9.9:1", "0.0.0.0:1", "[::1]:1", "[::]:1"];
        let mapped = ["[::ffff:127.0.0.1]:1", "[::ffff:0.0.0.0]:1"];
        let many = ["224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1", "[::ffff:239.0.0.1]:1"];
        let all: Vec<_> = local.iter().chain(&mapped).chain(&many).map(|it| record(it)).collect();
        let strict = endpoints(&all, false, &HashSet::new());
        assert_eq!((strict.specs.len(), strict.ignored.len()), (0, 11));
        let lax = endpoints(&all, true, &HashSet::new());
        assert_eq!((lax.specs.len(), lax.ignored.len()), (7, 4));
        let hosts = Record { is_local: true, ..record("127.0.0.1:1") };
        assert_eq!(endpoints(&[hosts], false, &HashSet::new()).specs.len(), 1);
        assert_eq!(addresses(&[hosts, record("[::1]:1")], false).0, [hosts.address]);
    }

    #[test]
    fn of_too_many_those_in_use_stay() {
        let address =
            |number: usize| SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 80));
        let records: Vec<_> = (0..ENDPOINTS_MAX + 5)
            .map(|number| Record { address: address(number), ..record("192.0.2.1:1") })
            .collect();
        let last = address(ENDPOINTS_MAX + 4);
        let found = endpoints(&records, false, &HashSet::from([last]));
        assert_eq!((found.specs.len(), found.excess), (ENDPOINTS_MAX, 5));
        assert_eq!(found.specs.last().map(|spec| &spec.address), Some(&Address::Socket(last)));
    }
}
