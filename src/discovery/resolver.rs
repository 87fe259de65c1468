//! Asking for the records of one name.
//!
//! Who is asked, and with which search list, is as `/etc/resolv.conf` says, unless the
//! configuration names servers: then names are absolute. What `/etc/hosts` says of a name comes
//! before any server. hickory makes the queries: over UDP, and over TCP where an answer was cut.
//! Its cache is off: when to ask again is decided elsewhere. Deliberately absent: which of the
//! records are used.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver as Client, TokioResolver};
use tokio::time::timeout;

use super::system::System;
use crate::upstream::is_ours;

/// For one try with one server; a second one follows.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the other family is waited for once one has answered.
const OTHER_FAMILY_PATIENCE: Duration = Duration::from_secs(1);
/// How long what `/etc/hosts` says is taken for granted.
const HOSTS_TTL: Duration = Duration::from_secs(10);
/// Names that a search list makes of one.
const NAMES_MAX: usize = 8;

/// Why nothing was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such name, or it has no such records.
    Empty,
    Timeout,
    /// We had no descriptor, port or memory for the question.
    Ours(String),
    Failed(String),
    /// All that there is may not be used.
    Unusable(Vec<IpAddr>),
}

/// The addresses of a name, IPv4 first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) ips: Vec<IpAddr>,
    pub(super) ttl: Duration,
    /// They are the machine's own: no answer of a server.
    pub(super) is_local: bool,
}

/// The SRV records of a name.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) services: Vec<Service>,
    /// Addresses of targets that came with them.
    pub(super) additional: HashMap<Name, Vec<IpAddr>>,
    pub(super) ttl: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// Never the root, which stands for no service.
    pub(super) target: Name,
}

pub(super) struct Resolver {
    client: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    /// A name with fewer dots goes through the search list first.
    dots: usize,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("search", &self.search).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Asks these `servers`, or without any those of the system.
    pub(super) fn new(servers: &[SocketAddr], system: &System) -> Result<Self, NetError> {
        let (config, options) = if servers.is_empty() {
            // The same file without a server means one on this machine, to glibc too.
            parse_resolv_conf(&system.resolv_conf).unwrap_or_else(|_| {
                let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
            })
        } else {
            let servers = servers.iter().map(|server| name_server(*server)).collect();
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
        };
        let (search, dots) = (config.search().to_vec(), options.ndots);
        let mut hosts = Hosts::default();
        if let Err(error) = hosts.read_hosts_conf(&system.hosts[..]) {
            tracing::debug!(%error, "/etc/hosts is odd");
        }
        let mut builder = Client::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options);
        let options = builder.options_mut();
        options.timeout = options.timeout.min(QUERY_TIMEOUT);
        options.attempts = options.attempts.min(1);
        options.edns0 = true;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // So that the lifetimes of a chain of aliases count.
        options.preserve_intermediates = false;
        Ok(Self { client: builder.build()?, hosts, search, dots })
    }

    /// The addresses of `host`. Where one family could not be looked up, those of the `known` ones
    /// stand for it.
    pub(super) async fn addresses(
        &self,
        host: &str,
        known: &[IpAddr],
    ) -> Result<Addresses, Failure> {
        let mut failure = Failure::Empty;
        for name in self.names(host)? {
            if let Some(addresses) = self.local(&name) {
                return Ok(addresses);
            }
            match self.both_families(&name).await {
                (Err(Failure::Empty), Err(Failure::Empty)) => {}
                (Err(Failure::Empty), Err(why)) | (Err(why), Err(_)) => failure = why,
                (v4, v6) => return Ok(merged(v4, v6, known)),
            }
        }
        Err(failure)
    }

    /// The services of `name`, at least one.
    pub(super) async fn services(&self, name: &str) -> Result<Services, Failure> {
        let mut failure = Failure::Empty;
        for name in self.names(name)? {
            match self.client.lookup(name, RecordType::SRV).await {
                Ok(lookup) => {
                    let found = services(lookup.answers(), lookup.additionals());
                    if !found.services.is_empty() {
                        return Ok(found);
                    }
                }
                Err(error) if error.is_no_records_found() => {}
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    /// The absolute names that `name` may stand for (resolv.conf(5)), in the order to ask.
    fn names(&self, name: &str) -> Result<Vec<Name>, Failure> {
        let mut name =
            Name::from_ascii(name).map_err(|error| Failure::Failed(error.to_string()))?;
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let is_long = usize::from(name.num_labels()) > self.dots;
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|it| name.clone().append_domain(it).ok()).collect();
        names.truncate(NAMES_MAX - 1);
        name.set_fqdn(true);
        names.insert(if is_long { 0 } else { names.len() }, name);
        Ok(names)
    }

    /// What the machine itself says of a name.
    fn local(&self, name: &Name) -> Option<Addresses> {
        let of = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            found.map(|found| ips(found.answers(), kind).0).unwrap_or_default()
        };
        let mut ips = [of(RecordType::A), of(RecordType::AAAA)].concat();
        // RFC 6761 §6.3.
        if ips.is_empty() && name.is_localhost() {
            ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        (!ips.is_empty()).then_some(Addresses { ips, ttl: HOSTS_TTL, is_local: true })
    }

    /// Waits for both families, but not for long once one has answered.
    async fn both_families(&self, name: &Name) -> (Found, Found) {
        let mut v4 = pin!(self.family(name, RecordType::A));
        let mut v6 = pin!(self.family(name, RecordType::AAAA));
        tokio::select! {
            found = &mut v4 => { let other = other(&found, v6).await; (found, other) }
            found = &mut v6 => { let other = other(&found, v4).await; (other, found) }
        }
    }

    async fn family(&self, name: &Name, kind: RecordType) -> Found {
        let lookup = self.client.lookup(name.clone(), kind).await?;
        let (ips, ttl) = ips(lookup.answers(), kind);
        if ips.is_empty() { Err(Failure::Empty) } else { Ok((ips, ttl)) }
    }
}

/// Addresses of one family and how long they are good for.
type Found = Result<(Vec<IpAddr>, Duration), Failure>;

async fn other(first: &Found, second: impl Future<Output = Found>) -> Found {
    if first.is_err() {
        return second.await;
    }
    timeout(OTHER_FAMILY_PATIENCE, second).await.unwrap_or(Err(Failure::Timeout))
}

fn merged(v4: Found, v6: Found, known: &[IpAddr]) -> Addresses {
    let mut ttl = Duration::MAX;
    let mut family = |found: Found, is_of: fn(&IpAddr) -> bool| match found {
        Ok((ips, of_family)) => {
            ttl = ttl.min(of_family);
            ips
        }
        Err(Failure::Empty) => Vec::new(),
        Err(_) => known.iter().filter(|ip| is_of(ip)).copied().collect(),
    };
    let v4 = family(v4, IpAddr::is_ipv4);
    let v6 = family(v6, IpAddr::is_ipv6);
    Addresses { ips: [v4, v6].concat(), ttl, is_local: false }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

/// The addresses among some records, each once, and the least of their lifetimes.
fn ips(records: &[Record], kind: RecordType) -> (Vec<IpAddr>, Duration) {
    let mut ips = Vec::new();
    let mut ttl = u32::MAX;
    for record in records.iter().filter(|record| record.record_type() == kind) {
        if let Some(ip) = record.data.ip_addr() {
            ttl = ttl.min(record.ttl);
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    (ips, Duration::from_secs(ttl.into()))
}

fn services(answers: &[Record], additionals: &[Record]) -> Services {
    let mut found = Services::default();
    let mut ttl = u32::MAX;
    for record in answers {
        let RData::SRV(srv) = &record.data else { continue };
        ttl = ttl.min(record.ttl);
        if !srv.target.is_root() {
            let mut target = srv.target.to_lowercase();
            target.set_fqdn(true);
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            found.services.push(Service { priority, weight, port, target });
        }
    }
    for record in additionals {
        if let Some(ip) = record.data.ip_addr() {
            ttl = ttl.min(record.ttl);
            let mut name = record.name.to_lowercase();
            name.set_fqdn(true);
            found.additional.entry(name).or_default().push(ip);
        }
    }
    found.ttl = Duration::from_secs(ttl.into());
    found
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it has no addresses"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Ours(why) | Self::Failed(why) => f.write_str(why),
            Self::Unusable(ips) => {
                let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
                write!(f, "it has only addresses of this machine or of groups: {}", ips.join(" "))
            }
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            _ if error.is_no_records_found() => Self::Empty,
            NetError::Timeout => Self::Timeout,
            NetError::Io(error) if is_ours(&error) => Self::Ours(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(resolv_conf: &str, hosts: &str) -> Resolver {
        let (resolv_conf, hosts) = (resolv_conf.into(), hosts.into());
        Resolver::new(&[], &System { resolv_conf, hosts }).unwrap()
    }

    fn names(resolver: &Resolver, name: &str) -> Vec<String> {
        resolver.names(name).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_names_go_through_the_search_list_first_and_long_ones_last() {
        let resolver = resolver("search a.test b.test\noptions ndots:2\nnameserver 192.0.2.1", "");
        assert_eq!(names(&resolver, "app"), ["app.a.test.", "app.b.test.", "app."]);
        assert_eq!(names(&resolver, "app.x"), ["app.x.a.test.", "app.x.b.test.", "app.x."]);
        assert_eq!(names(&resolver, "app.x.y"), ["app.x.y.", "app.x.y.a.test.", "app.x.y.b.test."]);
        assert_eq!(names(&resolver, "app."), ["app."]);
    }

    #[test]
    fn with_servers_of_ones_own_and_without_any_names_are_absolute() {
        let system = System { resolv_conf: b"search a.test".to_vec(), hosts: Vec::new() };
        let servers = ["192.0.2.1:5353".parse().unwrap()];
        for servers in [&servers[..], &[]] {
            let resolver = Resolver::new(servers, &system).unwrap();
            assert_eq!(names(&resolver, "app"), ["app."]);
        }
    }

    #[tokio::test]
    async fn the_machine_itself_is_asked_first() {
        let resolver = resolver(
            "nameserver 127.0.0.1",
            "192.0.2.7 App.Test other # a comment\n2001:db8::7 app.test\nnonsense\n",
        );
        let found = resolver.addresses("app.test", &[]).await.unwrap();
        let ips: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!((found.ips.as_slice(), found.is_local), (&ips[..], true));
        for name in ["localhost", "LOCALHOST.", "app.localhost"] {
            let found = resolver.addresses(name, &[]).await.unwrap();
            assert!(found.is_local && found.ips.iter().all(IpAddr::is_loopback), "{name}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_none_fails_without_asking() {
        let resolver = resolver("", "");
        assert!(matches!(resolver.addresses("a..b", &[]).await, Err(Failure::Failed(_))));
    }

    #[test]
    fn what_is_known_stands_for_a_family_that_failed_but_not_for_one_that_is_empty() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let known = [ip("192.0.2.1"), ip("2001:db8::1")];
        let seconds = Duration::from_secs;
        let found = |text: &str| Ok((vec![ip(text)], seconds(9)));
        let ips = |v4, v6| merged(v4, v6, &known).ips;
        let (v4, v6) = (found("192.0.2.2"), found("2001:db8::2"));
        assert_eq!(ips(v4.clone(), v6.clone()), [ip("192.0.2.2"), ip("2001:db8::2")]);
        let kept = ips(v4.clone(), Err(Failure::Timeout));
        assert_eq!(kept, [ip("192.0.2.2"), ip("2001:db8::1")]);
        assert_eq!(ips(Err(Failure::Timeout), v6), [ip("192.0.2.1"), ip("2001:db8::2")]);
        let gone = merged(v4, Err(Failure::Empty), &known);
        assert_eq!((gone.ips, gone.ttl), (vec![ip("192.0.2.2")], seconds(9)));
    }
}
