//! Sets of address blocks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;

/// Address blocks with a lookup whose cost does not grow with their number.
#[derive(Debug, Clone, Default)]
pub struct CidrSet {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

impl CidrSet {
    pub fn contains(&self, address: IpAddr) -> bool {
        // An IPv4 peer of a dual-stack socket is the IPv4 peer that it is.
        self.holds(address.to_canonical())
    }

    /// Whether both ends of a block are in the set: it is there, be it in parts.
    pub fn holds_ends_of(&self, block: &IpNet) -> bool {
        self.holds(block.network()) && self.holds(block.broadcast())
    }

    fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).is_some(),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).is_some(),
        }
    }
}

impl FromIterator<IpNet> for CidrSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(blocks: I) -> Self {
        let mut set = Self::default();
        for block in blocks {
            match block {
                IpNet::V4(block) => set.v4.insert(block),
                IpNet::V6(block) => set.v6.insert(block),
            };
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(blocks: &[&str]) -> CidrSet {
        blocks.iter().map(|block| block.parse::<IpNet>().expect("a block")).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_in_a_set_if_any_block_holds_it() {
        let set = set(&["10.0.0.0/8", "192.168.1.7/32", "2001:db8::/32"]);
        assert!(set.contains(address("10.200.3.4")));
        assert!(set.contains(address("192.168.1.7")));
        assert!(!set.contains(address("192.168.1.8")));
        assert!(set.contains(address("2001:db8:1::9")));
        assert!(!set.contains(address("2001:db9::1")));
    }

    #[test]
    fn a_mapped_address_counts_as_its_ipv4_address() {
        assert!(set(&["127.0.0.0/8"]).contains(address("::ffff:127.0.0.1")));
    }

    #[test]
    fn a_block_is_there_whole_or_in_parts() {
        let set = set(&["10.0.0.0/9", "10.128.0.0/9", "2001:db8::/32", "::/80"]);
        // The last one ends with an address that stands for one of IPv4.
        for block in ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/48", "::/80"] {
            assert!(set.holds_ends_of(&block.parse().unwrap()), "{block}");
        }
        for block in ["10.0.0.0/7", "11.0.0.0/8", "2001:db8::/31"] {
            assert!(!set.holds_ends_of(&block.parse().unwrap()), "{block}");
        }
    }

    #[test]
    fn the_empty_set_holds_nothing() {
        assert!(!CidrSet::default().contains(address("127.0.0.1")));
    }
}
