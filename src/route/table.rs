//! Which route takes a request. The order of the configuration never decides.
//!
//! Host levels are asked in turn: the exact host, the wildcards that cover it from the longest on,
//! the routes for any host. A level in which no route matches passes the request on to the next.
//! Within a level `Rank` orders the patterns; for one pattern more conditions come first, then
//! priority. What is still equal must be provably disjoint, or the table is refused.
//!
//! A lookup allocates nothing and costs about the same for ten routes and for ten thousand. Keys come from the configuration, so the fast hash needs no defence against collisions.
//! Deliberately absent: bringing hosts and paths into normal form, of patterns and of requests.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::iter;

use foldhash::fast::RandomState;
use http::Method;
use memchr::memchr_iter;

use crate::config::model::{HostPattern, PathPattern, Route};

use super::candidates::Candidate;
use super::conditions::Conditions;
use super::level::{Level, Rank};
use super::overlap::may_overlap;
use super::{Lookup, Query};

/// The routes of one configuration.
#[derive(Debug)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Level, RandomState>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Level, RandomState>,
    /// Of the longest key of `wildcards`, in bytes.
    wildcard_bytes_max: usize,
    any: Level,
}

/// Two routes of which nothing says which one wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    /// The index of the earlier route.
    pub a: usize,
    pub b: usize,
    /// Where they meet.
    pub reason: String,
}

impl RouteTable {
    /// Compiles the routes, or names every tie: each route with the first one that it ties with.
    pub fn build(routes: &[Route]) -> Result<Self, Vec<Tie>> {
        let conditions: Vec<Conditions> = routes.iter().map(Conditions::of).collect();
        let mut hosts: BTreeMap<HostKey<'_>, Vec<Claim<'_>>> = BTreeMap::new();
        for (route, (definition, conditions)) in routes.iter().zip(&conditions).enumerate() {
            for host in HostKey::all_of(definition) {
                let claims = definition.paths.iter().map(|path| Claim {
                    route,
                    path,
                    conditions,
                    priority: definition.priority,
                });
                hosts.entry(host).or_default().extend(claims);
            }
        }

        let mut table = Self {
            exact: HashMap::default(),
            wildcards: HashMap::default(),
            wildcard_bytes_max: 0,
            any: Level::default(),
        };
        let mut ties = Ties::default();
        for (host, mut claims) in hosts {
            claims.sort_by_key(|claim| (claim.standing(), claim.route));
            ties.find(host, &claims);
            table.add_level(host, &claims);
        }
        ties.none_or_all().map(|()| table)
    }

    /// The route that takes the request.
    pub fn lookup(&self, query: &Query<'_>) -> Lookup {
        self.levels(query.host)
            .find_map(|level| level.find(query))
            .map_or(Lookup::NoRoute, Lookup::Found)
    }

    /// The methods with which some route would take the request that none takes, sorted. Costs
    /// more than a lookup: every pattern that takes the path is asked, of every host level.
    pub fn methods(&self, query: &Query<'_>) -> Vec<Method> {
        let mut methods: Vec<Method> = Vec::new();
        for level in self.levels(query.host) {
            level.missed_methods(query, &mut |missed| methods.extend_from_slice(missed));
        }
        methods.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        methods
    }

    fn add_level(&mut self, host: HostKey<'_>, claims: &[Claim<'_>]) {
        let mut level = Level::default();
        for claim in claims {
            let conditions = claim.conditions.clone();
            level.push(claim.path, Candidate { route: claim.route, conditions });
        }
        level.finish();
        match host {
            HostKey::Exact(name) => {
                self.exact.insert(name.into(), level);
            }
            HostKey::Wildcard(suffix) => {
                self.wildcard_bytes_max = self.wildcard_bytes_max.max(suffix.len());
                self.wildcards.insert(suffix.into(), level);
            }
            HostKey::Any => self.any = level,
        }
    }

    /// The levels that cover `host`, in the order in which they are asked.
    fn levels<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Level> {
        // No dot further left than this can begin a known suffix.
        let start = host.len().saturating_sub(self.wildcard_bytes_max + 1);
        let wildcards = memchr_iter(b'.', &host.as_bytes()[start..])
            .filter_map(move |dot| self.wildcards.get(&host[start + dot + 1..]));
        self.exact.get(host).into_iter().chain(wildcards).chain(iter::once(&self.any))
    }
}

/// A host level under construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostKey<'a> {
    Exact(&'a str),
    Wildcard(&'a str),
    Any,
}

impl<'a> HostKey<'a> {
    fn all_of(route: &'a Route) -> Vec<Self> {
        if route.hosts.is_empty() {
            return vec![Self::Any];
        }
        let key = |host: &'a HostPattern| match host {
            HostPattern::Exact(name) => Self::Exact(name),
            HostPattern::Wildcard(suffix) => Self::Wildcard(suffix),
        };
        route.hosts.iter().map(key).collect()
    }
}

impl fmt::Display for HostKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "host {name}"),
            Self::Wildcard(suffix) => write!(f, "host *.{suffix}"),
            Self::Any => f.write_str("any host"),
        }
    }
}

/// A route's demand for one path pattern of one host level.
#[derive(Debug, Clone, Copy)]
struct Claim<'a> {
    route: usize,
    path: &'a PathPattern,
    conditions: &'a Conditions,
    priority: i64,
}

impl<'a> Claim<'a> {
    /// Lower wins; equal is a tie.
    fn standing(&self) -> (Rank<'a>, Reverse<usize>, Reverse<i64>) {
        (Rank::of(self.path), Reverse(self.conditions.count()), Reverse(self.priority))
    }

    /// Whether one request might fulfil both.
    fn may_meet(&self, other: &Self) -> bool {
        !self.conditions.exclude(other.conditions)
            && match (self.path, other.path) {
                (PathPattern::Regex(a), PathPattern::Regex(b)) => {
                    may_overlap(a.as_str(), b.as_str())
                }
                _ => true,
            }
    }
}

/// Each pair of tied routes once, with the first place where they meet.
#[derive(Debug, Default)]
struct Ties(BTreeMap<(usize, usize), String>);

impl Ties {
    /// Looks at the sorted claims of one host level. A claim is reported against the first that it
    /// ties with, so that a thousand equal routes make a thousand ties and not half a million.
    fn find(&mut self, host: HostKey<'_>, claims: &[Claim<'_>]) {
        for equals in claims.chunk_by(|a, b| a.standing() == b.standing()) {
            for (index, later) in equals.iter().enumerate() {
                let rival = equals[..index]
                    .iter()
                    .find(|earlier| earlier.route != later.route && earlier.may_meet(later));
                if let Some(earlier) = rival {
                    let pair = (earlier.route, later.route);
                    self.0.entry(pair).or_insert_with(|| meeting_place(host, earlier, later));
                }
            }
        }
    }

    fn none_or_all(self) -> Result<(), Vec<Tie>> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(self.0.into_iter().map(|((a, b), reason)| Tie { a, b, reason }).collect())
    }
}

fn meeting_place(host: HostKey<'_>, a: &Claim<'_>, b: &Claim<'_>) -> String {
    let (a, b) = (a.path, b.path);
    if a == b {
        format!("both take the path {a} of {host}, with as many conditions and the same priority")
    } else {
        format!(
            "{a} and {b} are of one length and may match the same path of {host}, with as many \
             conditions and the same priority"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, LazyLock};

    use http::{HeaderMap, StatusCode};
    use regex::Regex;

    use crate::config::diagnostics::{FileId, Span};
    use crate::config::model::{
        Action, HeaderEdits, Name, RequestConditions, Respond, Rewrite, SpanOf, ValuePattern,
    };

    use super::*;

    /// A route for these hosts and paths, in the spelling of the configuration.
    pub(in crate::route) fn route(hosts: &[&str], paths: &[&str]) -> Route {
        Route {
            name: Name::from("r"),
            hosts: hosts.iter().map(|host| host_pattern(host)).collect(),
            paths: paths.iter().map(|path| path_pattern(path)).collect(),
            conditions: RequestConditions::default(),
            listeners: Vec::new(),
            priority: 0,
            action: Action::Respond(Respond {
                status: StatusCode::OK,
                body: bytes::Bytes::new(),
                headers: Vec::new(),
            }),
            rewrite: Rewrite::default(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            errors: Vec::new(),
            timeout: None,
            body_bytes_max: 0,
            buffer: true,
            mirror: None,
            compress: true,
            websocket: true,
            cache: None,
            front_cache: None,
            span: SpanOf(Span { file: FileId(0), start: 0, end: 0 }),
        }
    }

    fn host_pattern(text: &str) -> HostPattern {
        match text.strip_prefix("*.") {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None => HostPattern::Exact(text.to_owned()),
        }
    }

    pub(in crate::route) fn path_pattern(text: &str) -> PathPattern {
        match (text.strip_prefix('~'), text.strip_suffix("/*")) {
            (Some(regex), _) => PathPattern::Regex(Regex::new(regex).unwrap()),
            (_, Some(prefix)) => PathPattern::Prefix(prefix.to_owned()),
            _ => PathPattern::Exact(text.to_owned()),
        }
    }

    pub(in crate::route) fn on(listeners: &[&str], route: Route) -> Route {
        Route { listeners: listeners.iter().map(|name| Arc::from(*name)).collect(), ..route }
    }

    /// With these conditions, as `methods`, `header`, `query` and `cookie` and their patterns.
    pub(in crate::route) fn asking(asked: &[(&str, &str)], route: Route) -> Route {
        let mut conditions = RequestConditions::default();
        for (kind, text) in asked {
            if *kind == "methods" {
                conditions.methods = text.split(' ').map(|it| it.parse().unwrap()).collect();
                continue;
            }
            let (name, pattern) = text.split_once('=').unwrap();
            let pattern = match (pattern, pattern.strip_prefix('~')) {
                ("*", _) => ValuePattern::Present,
                (_, Some(regex)) => ValuePattern::Regex(Regex::new(regex).unwrap()),
                _ => ValuePattern::Exact(pattern.to_owned()),
            };
            match *kind {
                "header" => conditions.headers.push((name.parse().unwrap(), pattern)),
                "query" => conditions.query.push((name.to_owned(), pattern)),
                _ => conditions.cookies.push((name.to_owned(), pattern)),
            }
        }
        Route { conditions, ..route }
    }

    pub(in crate::route) fn prior(priority: i64, route: Route) -> Route {
        Route { priority, ..route }
    }

    pub(in crate::route) fn query<'a>(host: &'a str, path: &'a str) -> Query<'a> {
        static GET: Method = Method::GET;
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        Query { listener: "web", host, path, method: &GET, query: None, headers: &NONE }
    }

    /// Asserts who wins, and that it does not depend on the order of the routes.
    #[track_caller]
    fn assert_winner(routes: &[Route], query: Query<'_>, winner: Option<usize>) {
        let expected = winner.map_or(Lookup::NoRoute, Lookup::Found);
        assert_eq!(RouteTable::build(routes).unwrap().lookup(&query), expected, "{query:?}");

        let reversed: Vec<Route> = routes.iter().rev().cloned().collect();
        let expected =
            winner.map_or(Lookup::NoRoute, |index| Lookup::Found(routes.len() - 1 - index));
        assert_eq!(RouteTable::build(&reversed).unwrap().lookup(&query), expected, "{query:?}");
    }

    /// The pairs of routes that tie.
    fn ties(routes: &[Route]) -> Vec<(usize, usize)> {
        let ties = RouteTable::build(routes).err().unwrap_or_default();
        ties.iter().map(|tie| (tie.a, tie.b)).collect()
    }

    #[test]
    fn an_exact_host_beats_wildcards_and_longer_wildcards_beat_shorter_ones() {
        let routes = [
            route(&[], &["/a"]),
            route(&["*.com"], &["/a"]),
            route(&["*.example.com"], &["/*"]),
            route(&["www.example.com"], &["/*"]),
        ];
        assert_winner(&routes, query("www.example.com", "/a"), Some(3));
        assert_winner(&routes, query("api.example.com", "/a"), Some(2));
        assert_winner(&routes, query("a.b.example.com", "/a"), Some(2));
        assert_winner(&routes, query("example.com", "/a"), Some(1));
        assert_winner(&routes, query("com", "/a"), Some(0));
    }

    #[test]
    fn a_wildcard_host_does_not_match_the_bare_name_or_a_longer_label() {
        let routes = [route(&["*.example.com"], &["/*"])];
        assert_winner(&routes, query("example.com", "/"), None);
        assert_winner(&routes, query("anexample.com", "/"), None);
        assert_winner(&routes, query("an.example.com.org", "/"), None);
        assert_winner(&routes, query("a.example.com", "/"), Some(0));
    }

    #[test]
    fn a_request_that_a_host_level_does_not_match_falls_to_the_next() {
        let routes = [
            route(&["www.example.com"], &["/exact"]),
            route(&["*.example.com"], &["/wild/*"]),
            route(&["*.com"], &["~^/[0-9]+$"]),
            route(&[], &["/any"]),
        ];
        assert_winner(&routes, query("www.example.com", "/exact"), Some(0));
        assert_winner(&routes, query("www.example.com", "/wild/"), Some(1));
        assert_winner(&routes, query("www.example.com", "/42"), Some(2));
        assert_winner(&routes, query("www.example.com", "/any"), Some(3));
        assert_winner(&routes, query("www.example.com", "/none"), None);
    }

    #[test]
    fn within_a_level_exact_beats_prefix_beats_regex_beats_catch_all() {
        let routes = [
            route(&[], &["/*"]),
            route(&[], &["~^/a"]),
            route(&[], &["/a/*"]),
            route(&[], &["/a/b/*"]),
            route(&[], &["/a/b/c"]),
        ];
        assert_winner(&routes, query("h", "/a/b/c"), Some(4));
        assert_winner(&routes, query("h", "/a/b/c/d"), Some(3));
        assert_winner(&routes, query("h", "/a/bc"), Some(2));
        assert_winner(&routes, query("h", "/ab"), Some(1));
        assert_winner(&routes, query("h", "/b"), Some(0));
    }

    #[test]
    fn a_prefix_matches_itself_with_a_slash_and_below() {
        let routes = [route(&[], &["/prefix/*"])];
        for path in ["/prefix", "/prefix/", "/prefix/a/b", "/prefix//"] {
            assert_winner(&routes, query("h", path), Some(0));
        }
        for path in ["/prefixed", "/prefi", "/", "//prefix/", "/a/prefix"] {
            assert_winner(&routes, query("h", path), None);
        }
    }

    #[test]
    fn the_regex_with_the_longest_text_wins() {
        let routes = [route(&[], &["~^/a"]), route(&[], &["~^/a.*$"]), route(&[], &["~b"])];
        assert_winner(&routes, query("h", "/ab"), Some(1));
        assert_winner(&routes, query("h", "/b"), Some(2));
    }

    #[test]
    fn a_route_whose_conditions_fail_passes_the_request_on_within_its_level() {
        let routes = [
            on(&["other"], route(&[], &["/a/b"])),
            on(&["other"], route(&[], &["/a/b/*"])),
            on(&["other"], route(&[], &["/a/*"])),
            on(&["other"], route(&[], &["~^/a/b"])),
            route(&[], &["~^/a"]),
            on(&["web"], route(&[], &["/*"])),
        ];
        assert_winner(&routes, query("h", "/a/b"), Some(4));
        assert_winner(&routes, query("h", "/c"), Some(5));
        assert_winner(&routes, Query { listener: "other", ..query("h", "/a/c") }, Some(2));
        assert_winner(&routes, Query { listener: "other", ..query("h", "/c") }, None);
    }

    #[test]
    fn for_one_pattern_more_conditions_come_before_priority() {
        let routes = [
            prior(9, route(&[], &["/a"])),
            on(&["web"], route(&[], &["/a"])),
            prior(-1, on(&["web", "admin"], route(&[], &["/a"]))),
        ];
        assert_winner(&routes, query("h", "/a"), Some(1));
        assert_winner(&routes, Query { listener: "admin", ..query("h", "/a") }, Some(2));
        assert_winner(&routes, Query { listener: "else", ..query("h", "/a") }, Some(0));
    }

    #[test]
    fn a_route_stands_at_each_of_its_hosts_and_paths() {
        let routes = [route(&["a", "*.b"], &["/x", "/y/*", "/x"])];
        for (host, path) in [("a", "/x"), ("a", "/y"), ("c.b", "/x"), ("c.b", "/y/z")] {
            assert_winner(&routes, query(host, path), Some(0));
        }
        assert_winner(&routes, query("b", "/x"), None);
    }

    #[test]
    fn equal_routes_tie_and_each_is_named_once() {
        let twice = || route(&["a", "*.b"], &["/x", "/y/*"]);
        let routes = [twice(), route(&[], &["/x"]), twice(), route(&["a"], &["/y/*"])];
        assert_eq!(ties(&routes), [(0, 2), (0, 3)]);
        assert!(ties(&[route(&["a"], &["/x"]), route(&["b"], &["/x"])]).is_empty());
    }

    #[test]
    fn a_tie_says_where_the_routes_meet() {
        let of =
            |path: &str| RouteTable::build(&[route(&["*.b"], &[path]), route(&["*.b"], &[path])]);
        let reason = |path: &str| of(path).unwrap_err().remove(0).reason;
        let rest = "of host *.b, with as many conditions and the same priority";
        assert_eq!(reason("/x"), format!("both take the path /x {rest}"));
        assert_eq!(reason("/x/*"), format!("both take the path /x/* {rest}"));
        assert_eq!(reason("/*"), format!("both take the path /* {rest}"));
        assert_eq!(reason("~^/x"), format!("both take the path ~^/x {rest}"));
    }

    #[test]
    fn priority_conditions_or_disjoint_listeners_settle_a_tie() {
        let plain = || route(&[], &["/x"]);
        assert!(ties(&[plain(), prior(1, plain())]).is_empty());
        assert!(ties(&[plain(), on(&["a"], plain())]).is_empty());
        assert!(ties(&[on(&["a"], plain()), on(&["b", "c"], plain())]).is_empty());
        assert_eq!(ties(&[on(&["a", "b"], plain()), on(&["b", "c"], plain())]), [(0, 1)]);
    }

    #[test]
    fn regexes_of_one_length_tie_unless_they_begin_differently() {
        let both = |a: &str, b: &str| ties(&[route(&[], &[a]), route(&[], &[b])]);
        assert!(both("~^/a/[0-9]", "~^/b/[0-9]").is_empty());
        assert!(both("~^/a", "~^/ab").is_empty());
        assert_eq!(both("~^/a.c", "~^/ab."), [(0, 1)]);
        assert_eq!(both("~/a/.*", "~/b/.*"), [(0, 1)]);
        assert_eq!(both("~^/a?bb", "~^/b?aa"), [(0, 1)]);
        assert_eq!(both("~^/a|/b", "~^/b|/a"), [(0, 1)]);
        assert_eq!(both("~(?i)^/a", "~(?i)^/A"), [(0, 1)]);
    }

    #[test]
    fn odd_queries_find_nothing_and_break_nothing() {
        let routes = [route(&["*.é.com", "a"], &["/é/é/*", "/é", "/b/*"])];
        for host in ["", ".", "..", "é", "x.é", "é.com", ".com", "[::1]"] {
            for path in ["", "/", "//", "é", "/é/é", "/é/éé/", "ééééééé", "/éé/éé/éé/é"]
            {
                assert_winner(&routes, query(host, path), None);
            }
        }
        assert_winner(&routes, query("ü.é.com", "/é/é/ü"), Some(0));
    }

    #[test]
    fn ten_thousand_hosts_and_prefixes_are_told_apart() {
        let mut routes = Vec::new();
        for number in 0..10_000 {
            let (host, wildcard) = (format!("h{number}.test"), format!("*.w{number}.test"));
            routes.push(route(&[&host, &wildcard], &["/*"]));
            routes.push(route(&[], &[&format!("/p{}/q{number}/*", number % 100)]));
        }
        let table = RouteTable::build(&routes).unwrap();
        for number in 0..10_000 {
            let (by_host, by_path) = (Lookup::Found(2 * number), Lookup::Found(2 * number + 1));
            let path = format!("/p{}/q{number}/r/s", number % 100);
            assert_eq!(table.lookup(&query(&format!("h{number}.test"), &path)), by_host);
            assert_eq!(table.lookup(&query(&format!("a.b.w{number}.test"), &path)), by_host);
            assert_eq!(table.lookup(&query(&format!("w{number}.test"), &path)), by_path);
        }
        assert_eq!(table.lookup(&query("h10000.test", "/p1/q0/")), Lookup::NoRoute);
    }

    /// The rule as it is written down, asked of every route in turn.
    fn winner_by_the_book(routes: &[Route], query: &Query<'_>) -> Lookup {
        let covers = |host: &HostKey<'_>| match host {
            HostKey::Exact(name) => *name == query.host,
            HostKey::Wildcard(suffix) => query.host.ends_with(&format!(".{suffix}")),
            HostKey::Any => true,
        };
        let level = |host: &HostKey<'_>| match host {
            HostKey::Exact(_) => (0, Reverse(0)),
            HostKey::Wildcard(suffix) => (1, Reverse(suffix.len())),
            HostKey::Any => (2, Reverse(0)),
        };
        let matches = |pattern: &&PathPattern| match pattern {
            PathPattern::Exact(path) => path == query.path,
            PathPattern::Prefix(prefix) => {
                query.path == prefix || query.path.starts_with(&format!("{prefix}/"))
            }
            PathPattern::Regex(regex) => regex.is_match(query.path),
        };
        let class = |pattern: &PathPattern| match pattern {
            PathPattern::Exact(_) => (0, Reverse(0)),
            PathPattern::Prefix(prefix) if prefix.is_empty() => (3, Reverse(0)),
            PathPattern::Prefix(prefix) => (1, Reverse(prefix.len())),
            PathPattern::Regex(regex) => (2, Reverse(regex.as_str().len())),
        };
        let listens = |route: &&(usize, &Route)| {
            let RequestConditions { methods, headers, .. } = &route.1.conditions;
            (route.1.listeners.is_empty() || route.1.listeners.iter().any(|name| &**name == "web"))
                && (methods.is_empty() || methods.contains(query.method))
                && headers.iter().all(|(name, pattern)| match (query.headers.get(name), pattern) {
                    (Some(value), ValuePattern::Exact(text)) => value == text,
                    (value, _) => value.is_some(),
                })
        };
        let all: Vec<(usize, &Route)> = routes.iter().enumerate().collect();
        let fitting = all.iter().filter(listens).flat_map(|(index, route)| {
            let hosts = HostKey::all_of(route).into_iter().filter(covers);
            let levels = hosts.map(|host| level(&host)).collect::<Vec<_>>();
            let paths = route.paths.iter().filter(matches).map(class);
            let RequestConditions { methods, headers, .. } = &route.conditions;
            let few = |count: usize| count.min(1);
            let conditions = few(route.listeners.len()) + few(methods.len()) + headers.len();
            let decided = (Reverse(conditions), Reverse(route.priority), *index);
            paths.flat_map(move |class| {
                levels.clone().into_iter().map(move |level| (level, class, decided))
            })
        });
        fitting.min().map_or(Lookup::NoRoute, |(_, _, (_, _, index))| Lookup::Found(index))
    }

    #[test]
    fn lookups_agree_with_the_rule_asked_of_every_route() {
        const HOSTS: [&str; 6] = ["", "a.b.c", "b.c", "*.b.c", "*.c", "c"];
        const PATHS: [&str; 10] =
            ["/*", "/x", "/x/*", "/x/y", "/x/y/*", "/x//*", "//*", "~^/x", "~y$", "~^/x/."];
        const LISTENERS: [&[&str]; 4] = [&[], &[], &["web"], &["other"]];
        const ASKED: [&[(&str, &str)]; 6] = [
            &[],
            &[],
            &[("methods", "GET")],
            &[("methods", "POST")],
            &[("header", "x=1")],
            &[("header", "x=*"), ("header", "y=2"), ("methods", "GET PUT")],
        ];
        let headers: Vec<HeaderMap> = [&[][..], &[("x", "1")], &[("x", "2"), ("y", "2")]]
            .iter()
            .map(|fields| {
                fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
            })
            .collect();
        // SplitMix64: the same tables in every run.
        let mut state = 1_u64;
        let mut below = |bound: usize| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from(mixed >> 33).unwrap() % bound
        };
        for _ in 0..500 {
            let routes: Vec<Route> = (0..1 + below(12))
                .map(|priority| {
                    let hosts = [HOSTS[below(6)], HOSTS[below(6)]];
                    let hosts: &[&str] = if hosts.contains(&"") { &[] } else { &hosts };
                    let paths = [PATHS[below(10)], PATHS[below(10)]];
                    // Every priority only once, so that nothing ties.
                    let priority = i64::try_from(priority).unwrap();
                    let route = on(LISTENERS[below(4)], route(hosts, &paths));
                    prior(priority, asking(ASKED[below(6)], route))
                })
                .collect();
            let table = RouteTable::build(&routes).unwrap();
            for host in ["a.b.c", "z.b.c", "b.c", "z.c", "c", "z"] {
                for path in ["/", "/x", "/x/", "/x/y", "/x/y/z", "/xy", "/x//y", "//", "//y"] {
                    let query = Query { headers: &headers[below(3)], ..query(host, path) };
                    let by_the_book = winner_by_the_book(&routes, &query);
                    assert_eq!(table.lookup(&query), by_the_book, "{query:?} of {routes:#?}");
                }
            }
        }
    }
}
