//! What is looked up, and what an answer changes.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{self, Endpoints};
use super::lookup::Answer;
use super::resolver::Failure;
use crate::balance::{Endpoint, Ignored, Pool};
use crate::config::model::{Address, DnsName, EndpointSpec, PoolSource};
use crate::snapshot::Backend;

/// Addresses of an endpoint that is a name. They share the time to connect.
const ADDRESSES_MAX: usize = 16;
/// Addresses in one line of the log.
const SHOWN_MAX: usize = 8;

/// A pool whose endpoints are the records of a name, or an endpoint that is a name.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) name: DnsName,
    /// `None`: the pool.
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

/// What an answer came to.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) ttl: Duration,
    /// The pool has other endpoints now.
    pub(super) has_changed_pool: bool,
    /// What was not used of it.
    pub(super) unused: Unused,
}

/// Records that are not used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unused {
    pub(super) special: Vec<IpAddr>,
    pub(super) excess: usize,
}

impl Subject {
    /// Everything of a pool that has to be looked up.
    pub(super) fn all_of(backend: &Backend) -> Vec<Self> {
        let Some(balanced) = backend.balanced() else { return Vec::new() };
        if let PoolSource::Dns(name) = &backend.spec.source {
            return vec![Self { name: name.clone(), endpoint: None }];
        }
        let members = balanced.pool.members();
        let named = members.iter().filter_map(|member| match &member.endpoint.address {
            Address::Name { host, port } => Some(Self {
                name: DnsName::Addresses { host: host.clone(), port: *port },
                endpoint: Some(member.endpoint.clone()),
            }),
            Address::Socket(_) | Address::Unix(_) => None,
        });
        named.collect()
    }

    /// The addresses that are in use.
    pub(super) fn known(&self, pool: &Pool) -> Vec<SocketAddr> {
        match &self.endpoint {
            Some(endpoint) => endpoint.resolved().to_vec(),
            None => pool.members().iter().flat_map(|it| it.endpoint.resolved().to_vec()).collect(),
        }
    }

    pub(super) fn is_resolved(&self, pool: &Pool) -> bool {
        match &self.endpoint {
            Some(endpoint) => endpoint.is_resolved(),
            None => !pool.members().is_empty(),
        }
    }

    /// Takes an answer over, or counts that there was none: then everything stays as it is.
    pub(super) fn settle(
        &self,
        pool: &Pool,
        with_loopback: bool,
        answer: Result<Answer, Failure>,
        now: Instant,
    ) -> Result<Settled, Failure> {
        let settled = answer.and_then(|answer| match &self.endpoint {
            Some(endpoint) => self.settle_endpoint(pool, endpoint, with_loopback, &answer, now),
            None => self.settle_pool(pool, with_loopback, &answer, now),
        });
        match &settled {
            Ok(Settled { unused, .. }) => {
                pool.stats.discovered.answered(now);
                pool.stats.discovered.ignored(Ignored::Special, unused.special.len());
                pool.stats.discovered.ignored(Ignored::Excess, unused.excess);
            }
            // We asked nobody.
            Err(Failure::Ours(_)) => {}
            Err(failure) => {
                if let Failure::Unusable(special) = failure {
                    pool.stats.discovered.ignored(Ignored::Special, special.len());
                }
                pool.stats.discovered.failed(failure.result(), failure.to_string());
            }
        }
        settled
    }

    fn settle_pool(
        &self,
        pool: &Pool,
        with_loopback: bool,
        answer: &Answer,
        now: Instant,
    ) -> Result<Settled, Failure> {
        let known: HashSet<SocketAddr> = self.known(pool).into_iter().collect();
        let Endpoints { specs, ignored: special, excess } =
            answer::endpoints(&answer.records, with_loopback, &known);
        if specs.is_empty() {
            return Err(Failure::Unusable(special));
        }
        let before = pool.specs();
        let has_changed_pool = before != specs;
        if has_changed_pool {
            let (added, removed) = (without(&specs, &before), without(&before, &specs));
            tracing::info!(
                pool = %pool.name,
                name = %self.name,
                endpoints = specs.len(),
                added = shown(&added),
                removed = shown(&removed),
                "endpoints changed"
            );
            pool.replace(&specs, now);
        }
        let unused = Unused { special, excess };
        Ok(Settled { ttl: answer.ttl, has_changed_pool, unused })
    }

    fn settle_endpoint(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        with_loopback: bool,
        answer: &Answer,
        now: Instant,
    ) -> Result<Settled, Failure> {
        let (mut addresses, special) = answer::addresses(&answer.records, with_loopback);
        if addresses.is_empty() {
            return Err(Failure::Unusable(special));
        }
        let excess = addresses.len().saturating_sub(ADDRESSES_MAX);
        addresses.truncate(ADDRESSES_MAX);
        if !is_same(&endpoint.resolved(), &addresses) {
            let name = &self.name;
            tracing::info!(pool = %pool.name, %name, ?addresses, "name of an endpoint resolved");
            endpoint.set_resolved(addresses);
            pool.refresh(now);
        }
        let unused = Unused { special, excess };
        Ok(Settled { ttl: answer.ttl, has_changed_pool: false, unused })
    }
}

/// Whether `answer` has the `known` addresses; servers give them in another order each time.
fn is_same(known: &[SocketAddr], answer: &[SocketAddr]) -> bool {
    known.len() == answer.len() && known.iter().all(|address| answer.contains(address))
}

/// The addresses of `these` that are not among `those`.
fn without<'a>(these: &'a [EndpointSpec], those: &[EndpointSpec]) -> Vec<&'a Address> {
    let those: HashSet<&Address> = those.iter().map(|spec| &spec.address).collect();
    these.iter().map(|spec| &spec.address).filter(|address| !those.contains(address)).collect()
}

fn shown(addresses: &[&Address]) -> String {
    let first: Vec<_> = addresses.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    let mut text = first.join(" ");
    if addresses.len() > SHOWN_MAX {
        text.push_str(&format!(" and {} more", addresses.len() - SHOWN_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::lookup::Record;
    use super::*;
    use crate::balance::LookupResult;
    use crate::snapshot::Snapshot;
    use crate::snapshot::testing::snapshot;

    fn pool(snapshot: &Snapshot) -> &Arc<Pool> {
        &snapshot.backends["app"].balanced().unwrap().pool
    }

    fn subject(snapshot: &Snapshot) -> Subject {
        Subject::all_of(&snapshot.backends["app"]).remove(0)
    }

    fn answer(addresses: &[&str]) -> Result<Answer, Failure> {
        let record = |address: &&str| Record {
            address: address.parse().unwrap(),
            priority: 0,
            weight: 1,
            is_local: false,
        };
        let records = addresses.iter().map(record).collect();
        Ok(Answer { records, ttl: Duration::from_secs(7) })
    }

    fn ids(pool: &Pool) -> Vec<u64> {
        pool.members().iter().map(|member| member.endpoint.id).collect()
    }

    #[test]
    fn endpoints_come_and_go_without_disturbing_the_others() {
        let snapshot = snapshot("[pool.app]\ndns = \"app.test:80\"\n", &[], None);
        let (pool, subject) = (pool(&snapshot), subject(&snapshot));
        let now = Instant::now();
        assert!(!pool.is_usable(now) && !subject.is_resolved(pool));
        let settle = |addresses: &[&str]| {
            subject.settle(pool, false, answer(addresses), now).unwrap().has_changed_pool
        };
        assert!(settle(&["192.0.2.2:80", "192.0.2.1:80"]));
        assert!(pool.is_usable(now) && subject.is_resolved(pool));
        let before = ids(pool);
        assert!(!settle(&["192.0.2.1:80", "192.0.2.2:80"]));
        assert!(settle(&["192.0.2.2:80", "192.0.2.3:80"]));
        let after = ids(pool);
        assert_eq!(after[0], before[1]);
        assert!(!before.contains(&after[1]));
        assert_eq!(pool.candidates(now).members.len(), 2);
    }

    #[test]
    fn a_failure_changes_nothing_but_what_is_counted() {
        let snapshot = snapshot("[pool.app]\ndns = \"app.test:80\"\n", &[], None);
        let (pool, subject) = (pool(&snapshot), subject(&snapshot));
        let now = Instant::now();
        subject.settle(pool, false, answer(&["192.0.2.1:80"]), now).unwrap();
        let before = ids(pool);
        let later = now + Duration::from_secs(9);
        for failure in [Failure::Empty, Failure::Timeout, Failure::Failed("no".into())] {
            assert!(subject.settle(pool, false, Err(failure), later).is_err());
        }
        let ours = subject.settle(pool, false, answer(&["127.0.0.1:80", "0.0.0.0:80"]), later);
        assert_eq!(ours.unwrap_err().result(), LookupResult::Empty);
        assert_eq!(ids(pool), before);
        assert_eq!(pool.stats.discovered.age(later), Some(Duration::from_secs(9)));
        let failure = pool.stats.discovered.failure().unwrap();
        assert!(failure.ends_with("of this machine or of groups: 0.0.0.0 127.0.0.1"), "{failure}");
    }

    #[test]
    fn an_endpoint_that_is_a_name_takes_so_many_addresses_in_any_order() {
        let snapshot = snapshot("[pool.app]\nendpoints = [\"app.test:80\"]\n", &[], None);
        let (pool, subject) = (pool(&snapshot), subject(&snapshot));
        let addresses: Vec<_> = (1..=40).map(|number| format!("192.0.2.{number}:80")).collect();
        let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let now = Instant::now();
        let settled = subject.settle(pool, false, answer(&addresses), now).unwrap();
        assert_eq!(settled.unused.excess, 24);
        let resolved = subject.known(pool);
        assert_eq!(resolved.len(), ADDRESSES_MAX);
        addresses.truncate(ADDRESSES_MAX);
        addresses.reverse();
        subject.settle(pool, false, answer(&addresses), now).unwrap();
        assert_eq!(subject.known(pool), resolved);
    }

    #[test]
    fn a_pool_that_changes_keeps_the_endpoints_of_the_same_name() {
        let text = "[pool.app]\ndns = \"app.test:80\"\n";
        let first = snapshot(text, &[], None);
        let now = Instant::now();
        let (pool_of_first, subject) = (pool(&first), subject(&first));
        subject.settle(pool_of_first, false, answer(&["192.0.2.1:80"]), now).unwrap();
        let same = snapshot(&format!("{text}keepalive = \"5s\"\n"), &[], Some(&first));
        assert_eq!(ids(pool(&same)), ids(pool_of_first));

        let other = snapshot("[pool.app]\ndns = \"other.test:80\"\n", &[], Some(&same));
        assert!(ids(pool(&other)).is_empty());
        subject.settle(pool(&other), false, answer(&["192.0.2.1:80"]), now).unwrap();
        assert_eq!(ids(pool(&other)), ids(pool_of_first));

        let tls = "[pool.app]\ndns = \"third.test:80\"\ntls.verify = false\n";
        let other_identity = snapshot(tls, &[], Some(&other));
        subject.settle(pool(&other_identity), false, answer(&["192.0.2.1:80"]), now).unwrap();
        assert_ne!(ids(pool(&other_identity)), ids(pool_of_first));
    }
}
