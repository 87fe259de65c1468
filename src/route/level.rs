//! The routes of one host level, found by path.
//!
//! Exact paths and prefixes are hash maps, so their number does not matter: a lookup hashes the
//! path once, and once per segment of it no deeper than the longest prefix. Regexes are tried one
//! by one: their cost is linear in how many this level has, and paid only by paths that no exact
//! path or prefix took. (A `RegexSet` would search for all of them where the first is enough.)

use std::cmp::Reverse;
use std::collections::HashMap;
use std::iter;

use foldhash::fast::RandomState;
use memchr::memrchr;
use regex::Regex;

use crate::config::model::PathPattern;

use super::Query;
use super::conditions::Conditions;

/// The order in which the patterns of a level are asked. Those of one rank are told apart only by
/// conditions and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank<'a> {
    Exact(&'a str),
    /// By length in bytes; two of one length that differ do not match one path.
    Prefix(Reverse<usize>, &'a str),
    /// By length of the text in bytes.
    Regex(Reverse<usize>),
    CatchAll,
}

impl<'a> Rank<'a> {
    pub(super) fn of(pattern: &'a PathPattern) -> Self {
        match pattern {
            PathPattern::Exact(path) => Self::Exact(path),
            PathPattern::Prefix(prefix) if prefix.is_empty() => Self::CatchAll,
            PathPattern::Prefix(prefix) => Self::Prefix(Reverse(prefix.len()), prefix),
            PathPattern::Regex(regex) => Self::Regex(Reverse(regex.as_str().len())),
        }
    }
}

/// A route at one of its patterns.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) route: usize,
    pub(super) conditions: Conditions,
}

#[derive(Debug, Default)]
pub(super) struct Level {
    exact: HashMap<Box<str>, Vec<Candidate>, RandomState>,
    prefixes: HashMap<Box<str>, Vec<Candidate>, RandomState>,
    /// Of the longest prefix, in bytes.
    prefix_bytes_max: usize,
    regexes: Vec<(Regex, Candidate)>,
    catch_all: Vec<Candidate>,
}

impl Level {
    /// Candidates come in the order in which they are to be asked.
    pub(super) fn push(&mut self, pattern: &PathPattern, candidate: Candidate) {
        match pattern {
            PathPattern::Exact(path) => {
                self.exact.entry(path.as_str().into()).or_default().push(candidate);
            }
            PathPattern::Prefix(prefix) if prefix.is_empty() => self.catch_all.push(candidate),
            PathPattern::Prefix(prefix) => {
                self.prefix_bytes_max = self.prefix_bytes_max.max(prefix.len());
                self.prefixes.entry(prefix.as_str().into()).or_default().push(candidate);
            }
            PathPattern::Regex(regex) => self.regexes.push((regex.clone(), candidate)),
        }
    }

    /// The route that wins within this level.
    pub(super) fn find(&self, query: &Query<'_>) -> Option<usize> {
        self.exact
            .get(query.path)
            .and_then(|candidates| first_to_hold(candidates, query))
            .or_else(|| self.find_by_prefix(query))
            .or_else(|| self.find_by_regex(query))
            .or_else(|| first_to_hold(&self.catch_all, query))
    }

    /// Every candidate whose pattern takes the path.
    pub(super) fn candidates<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Candidate> {
        let by_regex = self.regexes.iter().filter(|(regex, _)| regex.is_match(path));
        self.exact
            .get(path)
            .into_iter()
            .chain(self.prefixes_of(path))
            .flatten()
            .chain(by_regex.map(|(_, candidate)| candidate))
            .chain(&self.catch_all)
    }

    fn find_by_prefix(&self, query: &Query<'_>) -> Option<usize> {
        self.prefixes_of(query.path).find_map(|candidates| first_to_hold(candidates, query))
    }

    /// Asks the prefixes of the path, the longest first: all of it, then what is before each slash.
    fn prefixes_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Vec<Candidate>> {
        let longest = self.prefix_bytes_max;
        let first = match path.as_bytes().get(..=longest) {
            Some(head) => memrchr(b'/', head),
            None => Some(path.len()),
        };
        iter::successors(first, |end| memrchr(b'/', &path.as_bytes()[..*end]))
            .take_while(|end| *end > 0)
            .filter_map(|end| self.prefixes.get(&path[..end]))
    }

    fn find_by_regex(&self, query: &Query<'_>) -> Option<usize> {
        self.regexes
            .iter()
            .find(|(regex, candidate)| {
                candidate.conditions.hold(query) && regex.is_match(query.path)
            })
            .map(|(_, candidate)| candidate.route)
    }
}

fn first_to_hold(candidates: &[Candidate], query: &Query<'_>) -> Option<usize> {
    candidates.iter().find(|one| one.conditions.hold(query)).map(|one| one.route)
}
