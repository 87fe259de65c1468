//! Which clients a route is for.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cidr::CidrSet;
use crate::config::model;

#[derive(Debug)]
pub struct Access {
    /// `None`: everybody.
    allow: Option<CidrSet>,
    /// `None`: nobody.
    deny: Option<CidrSet>,
}

impl Access {
    pub(super) fn new(spec: &model::Route) -> Self {
        let set = |networks: &[IpNet]| {
            (!networks.is_empty()).then(|| networks.iter().copied().collect::<CidrSet>())
        };
        Self { allow: set(&spec.allow), deny: set(&spec.deny) }
    }

    /// Who is denied stays so, whatever is allowed.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.deny.as_ref().is_none_or(|denied| !denied.contains(client))
            && self.allow.as_ref().is_none_or(|allowed| allowed.contains(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(allow: &[&str], deny: &[&str], client: &str) -> bool {
        let set = |networks: &[&str]| {
            let parsed = networks.iter().map(|it| it.parse::<IpNet>().expect("a network"));
            (!networks.is_empty()).then(|| parsed.collect())
        };
        Access { allow: set(allow), deny: set(deny) }.admits(client.parse().expect("an address"))
    }

    #[test]
    fn a_denied_client_stays_denied_and_an_empty_list_says_nothing() {
        assert!(admits(&[], &[], "192.0.2.1"));
        assert!(admits(&["192.0.2.0/24"], &[], "192.0.2.1"));
        assert!(!admits(&["192.0.2.0/24"], &[], "198.51.100.1"));
        assert!(!admits(&[], &["192.0.2.0/24"], "192.0.2.1"));
        assert!(admits(&[], &["192.0.2.0/24"], "198.51.100.1"));
        assert!(!admits(&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1"));
        assert!(!admits(&["192.0.2.0/24"], &["::/0"], "2001:db8::1"));
        assert!(!admits(&[], &["192.0.2.0/24"], "::ffff:192.0.2.1"));
    }
}
