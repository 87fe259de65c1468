//! Lists of addresses: the embedded ones, and those that come from elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::documents;
use crate::cidr::CidrSet;
use crate::config::model::Front;

/// Cloudflare's published ranges.
const CLOUDFLARE: &str = include_str!("cloudflare_ranges.txt");
/// When they were taken: 2026-11-25.
const CLOUDFLARE_TAKEN: Duration = Duration::from_secs(1_795_564_800);
/// The proxies and probes of Google's load balancers over IPv4.
const GCLB: [&str; 2] = ["130.211.0.0/22", "35.191.0.0/16"];

/// The widest network that a list may hold: wider ones would believe a good part of the internet.
const PREFIX_V4_MIN: u8 = 8;
const PREFIX_V6_MIN: u8 = 16;

/// Networks of a list. The longest known, that of CloudFront, has some hundreds.
const NETWORKS_MAX: usize = 10_000;

/// Why a list is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    NotText,
    Empty,
    /// What stands there instead of a network, and in which line of a text.
    NotNetwork(Option<usize>, String),
    TooWide(Option<usize>, IpNet),
    /// JSON that is not a list of this front; why, in words.
    NotDocument(String),
    TooMany,
    /// So many networks of the list that it is to replace, of all of them, are not in it.
    Shrunk(usize, usize),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("it is not text"),
            Self::Empty => f.write_str("it holds no network"),
            Self::NotNetwork(line, word) => {
                place(*line, f)?;
                write!(f, "{word:?} is not a network")
            }
            Self::TooWide(line, network) => {
                place(*line, f)?;
                write!(
                    f,
                    "{network} is too wide to be a front's \
                     (at least /{PREFIX_V4_MIN}, for IPv6 /{PREFIX_V6_MIN})"
                )
            }
            Self::NotDocument(why) => f.write_str(why),
            Self::TooMany => write!(f, "it holds more than {NETWORKS_MAX} networks"),
            Self::Shrunk(missing, of) => {
                write!(f, "{missing} of the {of} networks that are believed now are not in it")
            }
        }
    }
}

fn place(line: Option<usize>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    line.map_or(Ok(()), |line| write!(f, "line {line}: "))
}

/// The networks of a list: JSON as the front publishes it, or text with one or more in a line, in
/// which `#` begins a comment. All of them or none: a list that is wrong in one place may be wrong in
/// others.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8], front: Front) -> Result<Vec<IpNet>, Unusable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unusable::NotText)?;
    let networks = if text.trim_start().starts_with('{') {
        let words = documents::words(text, front)?;
        all_of(words.iter().map(|word| (None, word.as_str())))?
    } else {
        all_of(text.lines().enumerate().flat_map(|(index, line)| {
            let line = line.split('#').next().unwrap_or_default();
            let words = line.split(|c: char| c.is_whitespace() || c == ',');
            words.filter(|word| !word.is_empty()).map(move |word| (Some(index + 1), word))
        }))?
    };
    if networks.is_empty() { Err(Unusable::Empty) } else { Ok(networks) }
}

/// The networks that are written so, each with its line.
fn all_of<'a>(
    words: impl Iterator<Item = (Option<usize>, &'a str)>,
) -> Result<Vec<IpNet>, Unusable> {
    /// Of a word that is quoted, in characters.
    const SHOWN_MAX: usize = 60;
    let mut networks = Vec::new();
    for (line, word) in words {
        let network = network(word)
            .ok_or_else(|| Unusable::NotNetwork(line, word.chars().take(SHOWN_MAX).collect()))?;
        let prefix_min = match network {
            IpNet::V4(_) => PREFIX_V4_MIN,
            IpNet::V6(_) => PREFIX_V6_MIN,
        };
        if network.prefix_len() < prefix_min {
            return Err(Unusable::TooWide(line, network));
        }
        if networks.len() == NETWORKS_MAX {
            return Err(Unusable::TooMany);
        }
        networks.push(network);
    }
    Ok(networks)
}

/// Whether a list may replace another without somebody having looked: it holds at least half of the
/// networks, be they cut otherwise.
///
/// # Errors
/// [`Unusable::Shrunk`].
pub fn replaces(new: &[IpNet], old: &[IpNet]) -> Result<(), Unusable> {
    let set: CidrSet = new.iter().copied().collect();
    let missing = old.iter().filter(|network| !set.holds_ends_of(network)).count();
    if missing * 2 > old.len() { Err(Unusable::Shrunk(missing, old.len())) } else { Ok(()) }
}

fn network(word: &str) -> Option<IpNet> {
    let bare = word.parse::<IpAddr>().ok().map(IpNet::from);
    bare.or_else(|| word.parse::<IpNet>().ok()).map(|network| network.trunc())
}

/// The addresses of a front that are built in; empty where there are none.
pub fn built_in(front: Front) -> Vec<IpNet> {
    match front {
        Front::Cloudflare => parse(CLOUDFLARE.as_bytes(), front).unwrap_or_default(),
        Front::Gclb => GCLB.iter().filter_map(|text| network(text)).collect(),
        Front::None | Front::CloudFront | Front::Alb => Vec::new(),
    }
}

/// When the list that is built in was taken; `None` where it does not change.
pub fn built_in_taken(front: Front) -> Option<SystemTime> {
    (front == Front::Cloudflare).then(|| SystemTime::UNIX_EPOCH + CLOUDFLARE_TAKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_lists_are_complete() {
        let cloudflare = built_in(Front::Cloudflare);
        let v4 = cloudflare.iter().filter(|network| matches!(network, IpNet::V4(_))).count();
        assert_eq!((v4, cloudflare.len()), (15, 22));
        assert_eq!(built_in(Front::Gclb).len(), 2);
        assert!(built_in(Front::Alb).is_empty());
        let taken = time::OffsetDateTime::from(built_in_taken(Front::Cloudflare).unwrap());
        assert_eq!(taken.date().to_string(), "2026-11-25");
    }

    #[test]
    fn a_list_is_networks_and_addresses_with_comments() {
        let list = b"# of ours\n10.0.0.0/8, 192.0.2.7\r\n\n2001:db8::/32 # theirs\n10.1.2.3/16\n";
        let networks: Vec<_> =
            parse(list, Front::None).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "10.1.0.0/16"]);
    }

    #[test]
    fn a_list_that_is_empty_broken_or_absurdly_wide_is_not_used() {
        for (list, why) in [
            ("", "it holds no network"),
            ("# nothing\n\n", "it holds no network"),
            ("10.0.0.0/8\n<html>", "line 2: \"<html>\" is not a network"),
            ("10.0.0.0/33", "line 1: \"10.0.0.0/33\" is not a network"),
            ("0.0.0.0/0", "line 1: 0.0.0.0/0 is too wide"),
            ("10.0.0.0/8\n::/0", "line 2: ::/0 is too wide"),
            ("128.0.0.0/1", "too wide"),
        ] {
            let shown = parse(list.as_bytes(), Front::None).unwrap_err().to_string();
            assert!(shown.contains(why), "{list}: {shown}");
        }
        assert_eq!(parse(b"\xff\xfe", Front::None), Err(Unusable::NotText));
    }

    #[test]
    fn a_list_may_grow_and_be_cut_otherwise_but_not_lose_most_of_another() {
        let list = |words: &[&str]| -> Vec<IpNet> {
            words.iter().map(|word| network(word).unwrap()).collect()
        };
        let old = list(&["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]);
        assert_eq!(replaces(&old, &[]), Ok(()));
        assert_eq!(replaces(&old[..2], &old), Ok(()));
        assert_eq!(replaces(&old[..1], &old), Err(Unusable::Shrunk(2, 3)));
        let cut = list(&["192.0.2.0/25", "192.0.2.128/25", "198.51.100.0/23", "2001:db8::/33"]);
        assert_eq!(replaces(&cut, &old), Ok(()));
        assert_eq!(replaces(&list(&["203.0.113.0/24"]), &old), Err(Unusable::Shrunk(3, 3)));
        let many: String =
            (0..=NETWORKS_MAX).map(|n| format!("10.{}.{}.1\n", n / 250, n % 250)).collect();
        assert_eq!(parse(many.as_bytes(), Front::None), Err(Unusable::TooMany));
    }
}
