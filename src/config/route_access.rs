//! `route.allow` and `route.deny`: the networks whose clients a route is for.

use ipnet::IpNet;

use super::address;
use super::diagnostics::Invalid;
use super::reader::Table;
use super::value::Value;

/// Networks of one list.
const NETWORKS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) allow: Vec<IpNet>,
    pub(super) deny: Vec<IpNet>,
}

pub(super) fn read(table: &Table<'_>) -> Access {
    let deny = table.read("deny", networks).unwrap_or_default();
    let allow = table.read("allow", |value| {
        let allow = networks(value)?;
        let is_denied = |network: &&IpNet| deny.iter().any(|denied| denied.contains(*network));
        for network in allow.iter().filter(is_denied) {
            let warning = value.warning(&format!("{network} is denied as well, and stays so"));
            value.context.push(
                warning.help("with `allow`, everybody else is denied anyway; narrow `deny` down"),
            );
        }
        Some(allow)
    });
    Access { allow: allow.unwrap_or_default(), deny }
}

fn networks(value: &Value<'_>) -> Option<Vec<IpNet>> {
    let networks = value.non_empty_list("[\"10.0.0.0/8\"]", |item| {
        item.parse("a network", "\"10.0.0.0/8\"", address::network)
    })?;
    if networks.len() > NETWORKS_MAX {
        value.invalid(Invalid::new(format!("there are more than {NETWORKS_MAX} networks")));
    }
    Some(networks)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics_of};

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[[route]]\npool = \"app\"\n{lines}"))
    }

    #[test]
    fn networks_and_single_addresses_are_taken() {
        let lines = "allow = [\"10.0.0.0/8\", \"::1\"]\ndeny = [\"10.1.0.0/16\"]";
        let config = config_of(&format!("[[route]]\npool = \"app\"\n{lines}"));
        let route = &config.routes[0];
        assert_eq!((route.allow.len(), route.deny.len()), (2, 1));
        assert!(said("allow = []").contains("the list is empty"));
        assert!(said("deny = [\"10.0.0.0/33\"]").contains("is not a network"));
        assert!(said("deny = \"10.0.0.0/8\"").contains("must be a list"));
    }

    #[test]
    fn what_is_allowed_and_denied_is_warned_of() {
        let shown = said("allow = [\"10.0.0.0/8\", \"::1\"]\ndeny = [\"0.0.0.0/0\"]");
        assert!(shown.contains("c.toml:3:9: warning: `route.allow`: 10.0.0.0/8 is denied"));
        assert!(!shown.contains("::1"), "{shown}");
    }
}
