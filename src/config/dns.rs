//! Names that are looked up: the source `dns` of a pool, how answers are used, and who is asked.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::address;
use super::diagnostics::{Diagnostic, Invalid};
use super::model::{Address, DnsName, DnsRules, PoolSource};
use super::reader::Table;
use super::value::Value;

/// Keys of a pool that has names.
pub(super) const KEYS: [&str; 2] = ["dns_loopback", "dns_ttl"];

const TTL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
const TTL_MIN_DEFAULT: Duration = Duration::from_secs(1);
const TTL_MAX_DEFAULT: Duration = Duration::from_secs(60);
const RESOLVERS_MAX: usize = 8;
const PORT: u16 = 53;

/// `"app.example:8080"` or `"srv:_http._tcp.app.example"`.
pub(super) fn name(value: &Value<'_>) -> Option<DnsName> {
    value.parse("a name", "\"app.example:8080\"", |text| {
        if let Some(name) = text.strip_prefix("srv:") {
            if let Some((bare, port)) = name.rsplit_once(':') {
                return Err(Invalid::new(format!("{text:?} has the port {port}"))
                    .help(format!("SRV records have ports of their own: write \"srv:{bare}\"")));
            }
            return address::dns_name(name).map(|name| DnsName::Services { name });
        }
        match address::endpoint(text, Path::new("/"))? {
            Address::Name { host, port } => Ok(DnsName::Addresses { host, port }),
            Address::Socket(_) | Address::Unix(_) => {
                Err(Invalid::new(format!("{text:?} is no name that could be looked up"))
                    .help(format!("write endpoints = [\"{text}\"]")))
            }
        }
    })
}

/// How the names of a pool are used.
pub(super) fn rules(table: &Table<'_>, source: Option<&PoolSource>) -> DnsRules {
    let ttl = table.table("dns_ttl");
    let ttl_min = ttl.duration("min", TTL_MIN_DEFAULT, &TTL);
    let ttl_max = ttl.duration("max", TTL_MAX_DEFAULT.max(ttl_min), &TTL);
    if ttl_min > ttl_max {
        let message = format!("`{}`: `min` is longer than `max`", ttl.path);
        ttl.context.push(Diagnostic::error(ttl.span, message).help("exchange them"));
    }
    ttl.finish();
    let rules = DnsRules { loopback: table.boolean("dns_loopback", false), ttl_min, ttl_max };
    if source.is_some_and(|it| matches!(it, PoolSource::Endpoints(_)) && !it.has_names()) {
        for value in KEYS.iter().filter_map(|key| table.value(key)) {
            let warning = value.warning("it has no effect: no endpoint of the pool is a name");
            table.context.push(warning.help("leave it out"));
        }
    }
    rules
}

/// Servers that are asked instead of those of the system.
pub(super) fn resolvers(value: &Value<'_>) -> Option<Vec<SocketAddr>> {
    const EXAMPLE: &str = "[\"10.96.0.10:53\"]";
    let resolvers = value.non_empty_list(EXAMPLE, |item| {
        item.parse("an address", "\"10.96.0.10:53\"", |text| {
            let address = text.parse::<SocketAddr>().ok();
            let address = address.or_else(|| Some((text.parse::<IpAddr>().ok()?, PORT).into()));
            address.filter(|address| address.port() != 0).ok_or_else(|| {
                Invalid::new(format!("{text:?} is not the address of a DNS server"))
                    .help("write an IP address, with a port if it is not 53: \"10.96.0.10\"")
            })
        })
    })?;
    if resolvers.len() > RESOLVERS_MAX {
        value.invalid(Invalid::new(format!("there are more than {RESOLVERS_MAX}")));
        return None;
    }
    Some(resolvers)
}

#[cfg(test)]
mod tests {
    use super::super::model::Pool;
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn pool(lines: &str) -> Pool {
        config_of(&format!("[pool.app]\n{lines}")).pools.remove(0)
    }

    #[test]
    fn a_pool_is_a_name_with_a_port_or_a_service() {
        let source = |dns: &str| pool(&format!("dns = \"{dns}\"")).source;
        assert_eq!(
            source("App.Default.svc.:8080"),
            PoolSource::Dns(DnsName::Addresses { host: "app.default.svc.".into(), port: 8080 })
        );
        let service = DnsName::Services { name: "_http._tcp.app".into() };
        assert_eq!(service.to_string(), "srv:_http._tcp.app");
        assert_eq!(service.host(), "app");
        assert_eq!(source("srv:_http._tcp.app"), PoolSource::Dns(service));
        for (dns, message) in [
            ("\"app\"", "\"app\" has no port"),
            ("\"10.0.0.1:80\"", "help: write endpoints = [\"10.0.0.1:80\"]"),
            ("\"unix:/a\"", "\"unix:/a\" is no name that could be looked up"),
            ("\"srv:_http._tcp.app:80\"", "help: SRV records have ports of their own"),
            ("\"srv:a..b\"", "\"a..b\" is not a DNS name"),
            ("[\"a:1\"]", "`pool.app.dns` must be a name, not a list"),
            ("\"a:1\"\nendpoints = [\"b:1\"]", "`pool.app.endpoints` and `dns` exclude each other"),
            ("\"a:1\"\nfallback = \"/\"", "it is only for pools of files"),
        ] {
            let shown = diagnostics_of(&format!("[pool.app]\ndns = {dns}"));
            assert!(shown.contains(message), "{dns}: {shown}");
        }
    }

    #[test]
    fn lifetimes_have_a_floor_and_a_ceiling() {
        let rules = |lines: &str| pool(&format!("dns = \"a:1\"\n{lines}")).dns;
        let seconds = Duration::from_secs;
        let default = DnsRules { loopback: false, ttl_min: seconds(1), ttl_max: seconds(60) };
        assert_eq!(rules(""), default);
        assert_eq!(rules("dns_ttl.max = \"5m\"\ndns_loopback = true").ttl_max, seconds(300));
        assert_eq!(rules("dns_ttl.min = \"2m\"").ttl_max, seconds(120));
        for (lines, message) in [
            ("dns_ttl = { min = \"9s\", max = \"1s\" }", "`min` is longer than `max`"),
            ("dns_ttl = \"1s\"", "`pool.app.dns_ttl` must be a table"),
            ("dns_ttl.floor = \"1s\"", "unknown key `floor` in [pool.app.dns_ttl]"),
            ("dns_ttl.min = \"1ms\"", "it must be from 100ms to 1d"),
        ] {
            let shown = diagnostics_of(&format!("[pool.app]\ndns = \"a:1\"\n{lines}"));
            assert!(shown.contains(message), "{lines}: {shown}");
        }
        let shown = diagnostics_of("[pool.app]\nendpoints = [\"10.0.0.1:1\"]\ndns_loopback = true");
        assert!(shown.contains("no endpoint of the pool is a name"), "{shown}");
        let named = config_of("[pool.app]\nendpoints = [\"a:1\"]\ndns_loopback = true");
        assert!(named.pools[0].dns.loopback);
    }

    #[test]
    fn other_servers_than_those_of_the_system_may_be_asked() {
        let process = |resolvers: &str| format!("[process]\nresolvers = {resolvers}");
        let config = config_of(&process("[\"127.0.0.1:5353\", \"::1\"]"));
        assert_eq!(
            config.process.resolvers,
            ["127.0.0.1:5353".parse().unwrap(), "[::1]:53".parse().unwrap()]
        );
        for (resolvers, message) in [
            ("[]", "the list is empty"),
            ("[\"dns.example\"]", "is not the address of a DNS server"),
            ("[\"10.0.0.1:0\"]", "is not the address of a DNS server"),
            ("\"10.0.0.1\"", "must be a list"),
        ] {
            let shown = diagnostics_of(&process(resolvers));
            assert!(shown.contains(message), "{resolvers}: {shown}");
        }
    }
}
