//! Routes that share a place in the table, and the one of them that takes a request.
//!
//! They are asked in their order. Where there are many, most are never asked: those that demand a
//! value of a field, a parameter or a cookie are found by that value, those with a regex by text
//! without which the regex cannot match. What neither tells apart is asked one by one, so the cost
//! stays linear in the routes whose conditions are regexes or mere presence, and in the regexes
//! that hold no fixed text.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;

use aho_corasick::AhoCorasick;
use foldhash::fast::RandomState;
use http::{HeaderName, Method};
use regex::Regex;

use super::conditions::Conditions;
use super::{Query, literals, values};
use crate::config::model::{RequestConditions, ValuePattern};

/// Fewer routes are asked one by one: that is faster than to look them up.
const INDEXED_MIN: usize = 16;
/// Names whose values are looked up for one request.
const SELECTORS_MAX: usize = 16;

/// A route at one of its patterns.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) route: usize,
    pub(super) conditions: Conditions,
}

/// Candidates of one path pattern, in the order in which they are asked.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    all: Vec<Candidate>,
    index: Option<Box<ByValue>>,
}

/// Places of candidates, ascending.
type Places = Vec<u32>;

/// Places of routes by the exact value that they ask for.
type PlacesByValue = HashMap<Box<[u8]>, Places, RandomState>;

/// Candidates by one value that each of them demands.
#[derive(Debug, Default)]
struct ByValue {
    selectors: Vec<(Selector, PlacesByValue)>,
    others: Places,
}

/// Where a value stands in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Selector {
    Header(HeaderName),
    Parameter(String),
    Cookie(String),
}

impl Selector {
    fn value<'a>(&self, query: &Query<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(name) => values::header(query.headers, name),
            Self::Parameter(name) => values::parameter(query.query, name),
            Self::Cookie(name) => crate::cookie::value(query.headers, name).map(Cow::Borrowed),
        }
    }

    /// The values that conditions demand, with their places.
    fn demanded(conditions: &RequestConditions) -> Vec<(Self, &[u8])> {
        fn exact(pattern: &ValuePattern) -> Option<&[u8]> {
            match pattern {
                ValuePattern::Exact(text) => Some(text.as_bytes()),
                ValuePattern::Present | ValuePattern::Regex(_) => None,
            }
        }
        let RequestConditions { methods: _, headers, query, cookies } = conditions;
        let headers = headers
            .iter()
            .filter_map(|(name, pattern)| Some((Self::Header(name.clone()), exact(pattern)?)));
        let query = query
            .iter()
            .filter_map(|(name, pattern)| Some((Self::Parameter(name.clone()), exact(pattern)?)));
        let cookies = cookies
            .iter()
            .filter_map(|(name, pattern)| Some((Self::Cookie(name.clone()), exact(pattern)?)));
        headers.chain(query).chain(cookies).collect()
    }
}

impl Candidates {
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.all.push(candidate);
    }

    /// Prepares for lookups, once all are there.
    pub(super) fn finish(&mut self) {
        self.index = (self.all.len() >= INDEXED_MIN).then(|| Box::new(ByValue::of(&self.all)));
    }

    /// The first that takes the request.
    #[inline]
    pub(super) fn first(&self, query: &Query<'_>) -> Option<usize> {
        let holds = |candidate: &Candidate| candidate.conditions.hold(query);
        let found = match &self.index {
            None => self.all.iter().find(|one| holds(one)),
            Some(index) => {
                let mut first = First::default();
                for places in index.lists(query) {
                    first.look(places, |place| holds(&self.all[place]));
                }
                first.place().and_then(|place| self.all.get(place))
            }
        };
        found.map(|candidate| candidate.route)
    }

    /// The methods of all that miss nothing but the method.
    pub(super) fn missed_methods<'a>(
        &'a self,
        query: &Query<'_>,
        found: &mut dyn FnMut(&'a [Method]),
    ) {
        let mut ask = |candidate: &'a Candidate| {
            candidate.conditions.missed_method(query).into_iter().for_each(&mut *found);
        };
        match &self.index {
            None => self.all.iter().for_each(ask),
            Some(index) => {
                for places in index.lists(query) {
                    places.iter().for_each(|place| ask(&self.all[*place as usize]));
                }
            }
        }
    }
}

impl ByValue {
    fn of(candidates: &[Candidate]) -> Self {
        let demands: Vec<Vec<(Selector, &[u8])>> = candidates
            .iter()
            .map(|it| it.conditions.request().map_or_else(Vec::new, Selector::demanded))
            .collect();
        let sharers = count(demands.iter().flatten());
        let mut by_selector: HashMap<Selector, Vec<(&[u8], u32)>> = HashMap::new();
        let mut others = Places::new();
        for (place, demanded) in (0..).zip(&demands) {
            // The value that the fewest demand tells most.
            match demanded.iter().min_by_key(|demand| sharers[*demand]) {
                Some((selector, value)) => {
                    by_selector.entry(selector.clone()).or_default().push((*value, place));
                }
                None => others.push(place),
            }
        }
        let mut grouped: Vec<_> = by_selector.into_iter().collect();
        grouped.sort_by_key(|(_, demands)| std::cmp::Reverse(demands.len()));
        let rest = grouped.split_off(grouped.len().min(SELECTORS_MAX));
        others.extend(rest.iter().flat_map(|(_, demands)| demands.iter().map(|(_, place)| *place)));
        others.sort_unstable();
        let selectors = grouped.into_iter().map(|(selector, demands)| {
            let mut by_value: HashMap<Box<[u8]>, Places, RandomState> = HashMap::default();
            for (value, place) in demands {
                by_value.entry(value.into()).or_default().push(place);
            }
            (selector, by_value)
        });
        Self { selectors: selectors.collect(), others }
    }

    /// Places of all candidates that may take the request.
    fn lists<'a>(&'a self, query: &Query<'_>) -> impl Iterator<Item = &'a Places> {
        let selected = self
            .selectors
            .iter()
            .filter_map(|(selector, by_value)| by_value.get(&*selector.value(query)?));
        selected.chain(std::iter::once(&self.others))
    }
}

/// How often each stands there.
fn count<'a, T: Eq + Hash + 'a>(all: impl Iterator<Item = &'a T>) -> HashMap<&'a T, usize> {
    let mut counts = HashMap::new();
    for one in all {
        *counts.entry(one).or_default() += 1;
    }
    counts
}

/// The first place of several lists at which something holds.
struct First(u32);

impl Default for First {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl First {
    fn look(&mut self, places: &[u32], holds: impl Fn(usize) -> bool) {
        let earlier = places.iter().take_while(|place| **place < self.0);
        let mut holding = earlier.filter(|place| holds(**place as usize));
        if let Some(place) = holding.next() {
            self.0 = *place;
        }
    }

    fn place(&self) -> Option<usize> {
        (self.0 != u32::MAX).then_some(self.0 as usize)
    }
}

/// Candidates whose pattern is a regex, in the order in which they are asked.
#[derive(Debug, Default)]
pub(super) struct Regexes {
    all: Vec<(Regex, Candidate)>,
    index: Option<Box<ByLiteral>>,
}

/// Regexes by text that stands in whatever they match.
#[derive(Debug)]
struct ByLiteral {
    automaton: AhoCorasick,
    /// For each pattern of the automaton.
    places: Vec<Places>,
    others: Places,
}

/// The patterns that a path holds, each once.
#[derive(Debug, Default)]
struct Hits {
    /// A bit for each pattern.
    seen: Vec<u64>,
    patterns: Vec<usize>,
}

thread_local! {
    /// Keeps its room, so that a lookup allocates nothing.
    static HITS: RefCell<Hits> = RefCell::default();
}

impl Regexes {
    pub(super) fn push(&mut self, regex: Regex, candidate: Candidate) {
        self.all.push((regex, candidate));
    }

    /// Prepares for lookups, once all are there.
    pub(super) fn finish(&mut self) {
        if self.all.len() >= INDEXED_MIN {
            self.index = ByLiteral::of(&self.all).map(Box::new);
        }
    }

    /// The first that takes the request.
    pub(super) fn first(&self, query: &Query<'_>) -> Option<usize> {
        let holds = |(regex, candidate): &(Regex, Candidate)| {
            candidate.conditions.hold(query) && regex.is_match(query.path)
        };
        let found = match &self.index {
            None => self.all.iter().find(|one| holds(one)),
            Some(index) => {
                let mut first = First::default();
                index.lists(query.path, &mut |places| {
                    first.look(places, |place| holds(&self.all[place]));
                });
                first.place().and_then(|place| self.all.get(place))
            }
        };
        found.map(|(_, candidate)| candidate.route)
    }

    /// The methods of all that miss nothing but the method.
    pub(super) fn missed_methods<'a>(
        &'a self,
        query: &Query<'_>,
        found: &mut dyn FnMut(&'a [Method]),
    ) {
        let mut ask = |(regex, candidate): &'a (Regex, Candidate)| {
            if let Some(methods) = candidate.conditions.missed_method(query)
                && regex.is_match(query.path)
            {
                found(methods);
            }
        };
        match &self.index {
            None => self.all.iter().for_each(ask),
            Some(index) => index.lists(query.path, &mut |places| {
                places.iter().for_each(|place| ask(&self.all[*place as usize]));
            }),
        }
    }
}

impl ByLiteral {
    /// `None` where the texts are too many for an automaton.
    fn of(all: &[(Regex, Candidate)]) -> Option<Self> {
        let required: Vec<Vec<literals::Required>> =
            all.iter().map(|(regex, _)| literals::required(regex.as_str())).collect();
        let sharers = count(required.iter().flatten().flatten());
        let mut patterns: HashMap<&[u8], Places> = HashMap::new();
        let mut others = Places::new();
        for (place, required) in (0..).zip(&required) {
            // The text that the fewest share tells most, and of those the longest.
            let best = required.iter().min_by_key(|texts| {
                let shared = texts.iter().map(|text| sharers[text]).max();
                let shortest = texts.iter().map(Vec::len).min();
                (shared, std::cmp::Reverse(shortest))
            });
            let Some(texts) = best else {
                others.push(place);
                continue;
            };
            for text in texts {
                let places = patterns.entry(text).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        let (texts, places): (Vec<&[u8]>, Vec<Places>) = patterns.into_iter().unzip();
        let automaton = AhoCorasick::new(texts).ok()?;
        Some(Self { automaton, places, others })
    }

    /// Shows `look` the places of all regexes that may match the path.
    fn lists(&self, path: &str, look: &mut dyn FnMut(&Places)) {
        HITS.with_borrow_mut(|hits| {
            hits.seen.resize(hits.seen.len().max(self.places.len().div_ceil(64)), 0);
            for hit in self.automaton.find_overlapping_iter(path) {
                let pattern = hit.pattern().as_usize();
                let (word, bit) = (pattern / 64, 1 << (pattern % 64));
                if hits.seen[word] & bit == 0 {
                    hits.seen[word] |= bit;
                    hits.patterns.push(pattern);
                }
            }
            for pattern in hits.patterns.drain(..) {
                hits.seen[pattern / 64] = 0;
                look(&self.places[pattern]);
            }
        });
        look(&self.others);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::table::tests::{asking, query, route};
    use super::*;

    /// SplitMix64: the same tables in every run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from(mixed >> 33).unwrap() % bound
        }
    }

    /// A candidate with up to three conditions, of few names and values.
    fn candidate(numbers: &mut Numbers, index: usize) -> Candidate {
        let mut asked = Vec::new();
        for _ in 0..numbers.below(4) {
            let kind = ["header", "query", "cookie", "methods"][numbers.below(4)];
            let value = ["1", "2", "3", "*", "~^[12]$"][numbers.below(5)];
            asked.push(match kind {
                "methods" => (kind, ["GET", "PUT POST"][numbers.below(2)].to_owned()),
                _ => (kind, format!("{}={value}", ["x", "y", "z"][numbers.below(3)])),
            });
        }
        let asked: Vec<(&str, &str)> = asked.iter().map(|(kind, text)| (*kind, &**text)).collect();
        let route = asking(&asked, route(&[], &["/*"]));
        Candidate { route: index, conditions: Conditions::of(&route) }
    }

    fn headers(numbers: &mut Numbers) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["x", "y", "z"] {
            if numbers.below(2) == 0 {
                let value = ["1", "2", "9"][numbers.below(3)];
                headers.append(name, value.parse().unwrap());
            }
        }
        let cookie = format!("x={}; z={}", numbers.below(4), numbers.below(4));
        headers.insert("cookie", cookie.parse().unwrap());
        headers
    }

    type Answer = (Option<usize>, Vec<String>);

    /// Asserts that requests get one answer with and without an index.
    fn assert_same(
        numbers: &mut Numbers,
        paths: &[String],
        indexed: impl Fn(&Query<'_>) -> Answer,
        plain: impl Fn(&Query<'_>) -> Answer,
    ) {
        for _ in 0..50 {
            let headers = headers(numbers);
            let parameters = format!("x={}&y=%3{}", numbers.below(4), numbers.below(4));
            let path = &paths[numbers.below(paths.len())];
            let query = Query { headers: &headers, query: Some(&parameters), ..query("h", path) };
            assert_eq!(indexed(&query), plain(&query), "{query:?}");
        }
    }

    /// The methods that `missed_methods` shows, sorted.
    fn shown<'a>(missed: impl FnOnce(&mut dyn FnMut(&'a [Method]))) -> Vec<String> {
        let mut methods = Vec::new();
        missed(&mut |found| methods.extend(found.iter().map(ToString::to_string)));
        methods.sort_unstable();
        methods.dedup();
        methods
    }

    #[test]
    fn candidates_found_by_a_value_are_those_of_asking_one_by_one() {
        let mut numbers = Numbers(1);
        let answer = |table: &Candidates, query: &Query<'_>| {
            (table.first(query), shown(|found| table.missed_methods(query, found)))
        };
        for seed in 0..100 {
            let table = || {
                let mut numbers = Numbers(seed);
                let mut table = Candidates::default();
                for index in 0..INDEXED_MIN + numbers.below(60) {
                    table.push(candidate(&mut numbers, index));
                }
                table
            };
            let (mut indexed, plain) = (table(), table());
            indexed.finish();
            assert!(indexed.index.is_some() && plain.index.is_none());
            let paths = ["/".to_owned()];
            assert_same(&mut numbers, &paths, |it| answer(&indexed, it), |it| answer(&plain, it));
        }
    }

    #[test]
    fn regexes_found_by_their_text_are_those_of_asking_one_by_one() {
        let mut numbers = Numbers(2);
        let path = |number: usize| match number % 5 {
            0 => format!("/r{number}/7"),
            1 => format!("/users/{number}/item-{}", number % 7),
            2 => "/r1/r2/r3/r1/r11".to_owned(),
            3 => format!("/ab{number}"),
            _ => "/".to_owned(),
        };
        let paths: Vec<String> = (0..40).map(path).collect();
        let answer = |table: &Regexes, query: &Query<'_>| {
            (table.first(query), shown(|found| table.missed_methods(query, found)))
        };
        for seed in 0..60 {
            let table = || {
                let mut numbers = Numbers(seed);
                let mut table = Regexes::default();
                for index in 0..INDEXED_MIN + numbers.below(40) {
                    let number = numbers.below(40);
                    let regex = match numbers.below(8) {
                        0 => format!("^/r{number}/[0-9]+$"),
                        1 => format!("/item-{}$", number % 7),
                        2 => format!("(?i)^/R{number}"),
                        3 => format!("^/(users|r{number})/.*[0-9]"),
                        4 => format!("r{number}(/|$)"),
                        5 => "^/[a-z]+$".to_owned(),
                        6 => format!("(ab)+{number}|/r{number}"),
                        _ => format!("^/users/[0-9]+/item-{}", number % 7),
                    };
                    table.push(Regex::new(&regex).unwrap(), candidate(&mut numbers, index));
                }
                table
            };
            let (mut indexed, plain) = (table(), table());
            indexed.finish();
            assert!(indexed.index.is_some() && plain.index.is_none());
            assert_same(&mut numbers, &paths, |it| answer(&indexed, it), |it| answer(&plain, it));
        }
    }

    #[test]
    fn of_many_routes_few_are_asked() {
        let (mut regexes, mut values) = (Regexes::default(), Candidates::default());
        for number in 0..2_000 {
            let conditions = Conditions::of(&route(&[], &["/*"]));
            let regex = Regex::new(&format!("^/r{number}/[0-9]+$")).unwrap();
            regexes.push(regex, Candidate { route: number, conditions });
            let tenant = format!("x-tenant=t{number}");
            let asked = asking(&[("header", &tenant)], route(&[], &["/*"]));
            values.push(Candidate { route: number, conditions: Conditions::of(&asked) });
        }
        regexes.finish();
        values.finish();
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", "t1777".parse().unwrap());
        let query = Query { headers: &headers, ..query("h", "/r1777/1") };
        assert_eq!((regexes.first(&query), values.first(&query)), (Some(1777), Some(1777)));
        let mut asked = 0;
        let index = regexes.index.as_ref().expect("there are many");
        index.lists(query.path, &mut |places| asked += places.len());
        let index = values.index.as_ref().expect("there are many");
        asked += index.lists(&query).map(Vec::len).sum::<usize>();
        assert_eq!(asked, 2);
    }
}
