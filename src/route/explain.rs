//! Why a request takes the route that it takes, for people.
//!
//! Looks at every route in turn, which the route table is made to avoid; the order that it finds is
//! the one that the table is built from. Deliberately absent: sentences, which are the caller's.

use std::cmp::Reverse;

use crate::config::model::{HostPattern, PathPattern, Route};

use super::Query;
use super::conditions::Conditions;
use super::level::Rank;

/// A route that matches, at the best of its patterns.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// The route's index in the configuration.
    pub route: usize,
    /// `None`: any host.
    pub host: Option<&'a HostPattern>,
    pub path: &'a PathPattern,
    /// How many are set beside host and path.
    pub conditions: usize,
    pub priority: i64,
}

/// What put a match before the next one, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Host,
    Path,
    Conditions,
    Priority,
    /// No other route matches.
    Alone,
    /// They cannot both match, for all that is known; the earlier one in the file is shown.
    Disjoint,
}

impl Reason {
    /// Why the winner won.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "its host pattern is more specific",
            Self::Path => "its path pattern is more specific",
            Self::Conditions => "it has more conditions",
            Self::Priority => "its priority is higher",
            Self::Alone => "no other route matches",
            Self::Disjoint => "it comes first",
        }
    }
}

/// All routes that match, the winner first.
pub fn matches<'a>(routes: &'a [Route], query: &Query<'_>) -> Vec<Match<'a>> {
    let mut found: Vec<Match<'a>> = routes
        .iter()
        .enumerate()
        .filter(|(_, route)| Conditions::of(route).hold(query))
        .filter_map(|(index, route)| best(index, route, query))
        .collect();
    found.sort_by(|a, b| a.standing().cmp(&b.standing()));
    found
}

/// Why the first of two neighbours is first.
pub fn reason(winner: &Match<'_>, next: Option<&Match<'_>>) -> Reason {
    let Some(next) = next else { return Reason::Alone };
    if host_rank(winner.host) != host_rank(next.host) {
        Reason::Host
    } else if Rank::of(winner.path) != Rank::of(next.path) {
        Reason::Path
    } else if winner.conditions != next.conditions {
        Reason::Conditions
    } else if winner.priority != next.priority {
        Reason::Priority
    } else {
        Reason::Disjoint
    }
}

impl<'a> Match<'a> {
    /// Lower wins.
    fn standing(&self) -> (HostRank, Rank<'a>, Reverse<usize>, Reverse<i64>, usize) {
        (
            host_rank(self.host),
            Rank::of(self.path),
            Reverse(self.conditions),
            Reverse(self.priority),
            self.route,
        )
    }
}

/// The match of one route at the best of its patterns.
fn best<'a>(index: usize, route: &'a Route, query: &Query<'_>) -> Option<Match<'a>> {
    let host = match route.hosts.as_slice() {
        [] => None,
        hosts => Some(
            hosts
                .iter()
                .filter(|host| covers(host, query.host))
                .min_by_key(|host| host_rank(Some(host)))?,
        ),
    };
    let path = route
        .paths
        .iter()
        .filter(|path| takes(path, query.path))
        .min_by(|a, b| Rank::of(a).cmp(&Rank::of(b)))?;
    let conditions = Conditions::of(route).count();
    Some(Match { route: index, host, path, conditions, priority: route.priority })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    Exact,
    /// By length of what follows `*`.
    Wildcard(Reverse<usize>),
    Any,
}

fn host_rank(host: Option<&HostPattern>) -> HostRank {
    match host {
        Some(HostPattern::Exact(_)) => HostRank::Exact,
        Some(HostPattern::Wildcard(suffix)) => HostRank::Wildcard(Reverse(suffix.len())),
        None => HostRank::Any,
    }
}

fn covers(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::Wildcard(suffix) => host
            .strip_suffix(suffix.as_str())
            .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
    }
}

fn takes(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact == path,
        PathPattern::Prefix(prefix) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty()),
        PathPattern::Regex(regex) => regex.is_match(path),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lookup;
    use super::super::table::RouteTable;
    use super::super::table::tests::{on, path_pattern, prior, query, route};
    use super::*;

    #[test]
    fn the_first_match_is_the_route_that_the_table_finds() {
        let routes = [
            route(&[], &["/*"]),
            route(&[], &["/a/*", "/b"]),
            route(&["*.example.com"], &["/a/*"]),
            route(&["www.example.com", "*.com"], &["~^/re", "/exact"]),
            on(&["web"], route(&["*.example.com"], &["/a/*"])),
            prior(3, route(&["*.org"], &["/*"])),
            route(&["*.org"], &["/*"]),
        ];
        let table = RouteTable::build(&routes).expect("no ties");
        let hosts = ["www.example.com", "example.com", "a.b.example.com", "x.org", "org", "h"];
        for host in hosts {
            for path in ["/", "/a", "/a/b", "/ab", "/b", "/re/x", "/exact"] {
                let found = matches(&routes, &query(host, path));
                let first = found.first().map_or(Lookup::NoRoute, |it| Lookup::Found(it.route));
                assert_eq!(first, table.lookup(&query(host, path)), "{host}{path}");
            }
        }
    }

    #[test]
    fn the_reason_is_the_first_difference_to_the_next() {
        let routes = [
            route(&["www.example.com"], &["/a"]),
            route(&["*.example.com"], &["/a"]),
            route(&["*.example.com"], &["/*"]),
        ];
        let found = matches(&routes, &query("www.example.com", "/a"));
        let reasons: Vec<Reason> =
            (0..found.len()).map(|index| reason(&found[index], found.get(index + 1))).collect();
        assert_eq!(reasons, [Reason::Host, Reason::Path, Reason::Alone]);
        assert_eq!(found[0].path, &path_pattern("/a"));
        let routes = [prior(1, route(&[], &["/a"])), route(&[], &["/a"])];
        let found = matches(&routes, &query("h", "/a"));
        assert_eq!(reason(&found[0], found.get(1)), Reason::Priority);
    }
}
