//! One lookup of what a pool or an endpoint is called: the records, and how long they are good for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::resolver::{Addresses, Failure, Resolver, Service};
use crate::balance::LookupResult;
use crate::config::model::DnsName;

/// For everything that one lookup takes.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Targets of one SRV lookup that are looked up at once.
const TARGETS_AT_ONCE: usize = 16;
/// Targets of one SRV lookup; those of lower priority come first.
const TARGETS_MAX: usize = 1024;

/// What a lookup has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// At least one.
    pub(super) records: Vec<Record>,
    /// Without floor and ceiling.
    pub(super) ttl: Duration,
}

/// Somewhere to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) address: SocketAddr,
    /// Lower ones come first.
    pub(super) priority: u16,
    pub(super) weight: u16,
    /// The machine itself says so.
    pub(super) is_local: bool,
}

/// The last addresses of targets of SRV records, for those that fail.
#[derive(Debug, Default)]
pub(super) struct Memory(HashMap<Name, Vec<IpAddr>>);

/// Looks a name up. Of what is in use, `known`, a part whose lookup failed stays.
pub(super) async fn look_up(
    resolver: &Arc<Resolver>,
    name: &DnsName,
    known: &[SocketAddr],
    memory: &mut Memory,
) -> Result<Answer, Failure> {
    let lookup = async {
        match name {
            DnsName::Addresses { host, port } => {
                let known: Vec<IpAddr> = known.iter().map(SocketAddr::ip).collect();
                let Addresses { ips, ttl, is_local } = resolver.addresses(host, &known).await?;
                let record = |ip| Record {
                    address: SocketAddr::new(ip, *port),
                    priority: 0,
                    weight: 1,
                    is_local,
                };
                Ok(Answer { records: ips.into_iter().map(record).collect(), ttl })
            }
            DnsName::Services { name } => services(resolver, name, !known.is_empty(), memory).await,
        }
    };
    timeout(LOOKUP_TIMEOUT, lookup).await.unwrap_or(Err(Failure::Timeout))
}

/// The services of a name with the addresses of their targets.
async fn services(
    resolver: &Arc<Resolver>,
    name: &str,
    has_known: bool,
    memory: &mut Memory,
) -> Result<Answer, Failure> {
    let mut found = resolver.services(name).await?;
    found.services.sort_by_key(|service| service.priority);
    found.services.truncate(TARGETS_MAX);
    let mut missing: Vec<Name> = found
        .services
        .iter()
        .map(|service| &service.target)
        .filter(|target| !found.additional.contains_key(*target))
        .cloned()
        .collect();
    missing.sort_unstable();
    missing.dedup();

    let mut ttl = found.ttl;
    let mut targets: HashMap<Name, (Vec<IpAddr>, bool)> = HashMap::new();
    for (target, result) in look_up_targets(resolver, missing, memory).await {
        match result {
            Ok(Addresses { ips, ttl: of_target, is_local }) => {
                ttl = ttl.min(of_target);
                targets.insert(target, (ips, is_local));
            }
            Err(Failure::Empty) => {}
            Err(failure) => match memory.0.get(&target) {
                Some(ips) => {
                    targets.insert(target, (ips.clone(), false));
                }
                // What is in use may be from this target: it stays, all of it.
                None if has_known => return Err(failure),
                None => tracing::warn!(%target, %failure, "target of a service does not resolve"),
            },
        }
    }
    targets.extend(found.additional.into_iter().map(|(target, ips)| (target, (ips, false))));
    memory.0 = targets.iter().map(|(target, (ips, _))| (target.clone(), ips.clone())).collect();

    let records = found.services.iter().flat_map(|service| records(service, &targets));
    let records: Vec<_> = records.collect();
    if records.is_empty() { Err(Failure::Empty) } else { Ok(Answer { records, ttl }) }
}

fn records<'a>(
    service: &'a Service,
    targets: &'a HashMap<Name, (Vec<IpAddr>, bool)>,
) -> impl Iterator<Item = Record> {
    let Service { priority, weight, port, ref target } = *service;
    targets.get(target).into_iter().flat_map(move |(ips, is_local)| {
        ips.iter().map(move |ip| Record {
            address: SocketAddr::new(*ip, port),
            priority,
            weight,
            is_local: *is_local,
        })
    })
}

/// Looks targets up, some at once.
async fn look_up_targets(
    resolver: &Arc<Resolver>,
    targets: Vec<Name>,
    memory: &Memory,
) -> Vec<(Name, Result<Addresses, Failure>)> {
    let mut targets = targets.into_iter();
    let mut lookups = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while lookups.len() < TARGETS_AT_ONCE
            && let Some(target) = targets.next()
        {
            let resolver = resolver.clone();
            let known = memory.0.get(&target).cloned().unwrap_or_default();
            lookups.spawn(async move {
                let result = resolver.addresses(&target.to_ascii(), &known).await;
                (target, result)
            });
        }
        match lookups.join_next().await {
            Some(Ok(one)) => found.push(one),
            Some(Err(error)) => tracing::error!(%error, "lookup of a target broke off"),
            None => return found,
        }
    }
}

impl Failure {
    pub(super) fn result(&self) -> LookupResult {
        match self {
            Self::Empty | Self::Unusable(_) => LookupResult::Empty,
            Self::Timeout => LookupResult::Timeout,
            Self::Ours(_) | Self::Failed(_) => LookupResult::Failed,
        }
    }
}
