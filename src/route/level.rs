//! The routes of one host level, found by path.
//!
//! Exact paths and prefixes are hash maps, so their number does not matter: a lookup hashes the
//! path once, and once per segment of it no deeper than the longest prefix. Regexes, and many routes
//! of one pattern, are looked up as `candidates` says. (A `RegexSet` would search for all regexes
//! where the first is enough.)

use std::cmp::Reverse;
use std::collections::HashMap;
use std::iter;

use foldhash::fast::RandomState;
use http::Method;
use memchr::memrchr;

use crate::config::model::PathPattern;

use super::Query;
use super::candidates::{Candidate, Candidates, Regexes};

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

#[derive(Debug, Default)]
pub(super) struct Level {
    exact: HashMap<Box<str>, Candidates, RandomState>,
    prefixes: HashMap<Box<str>, Candidates, RandomState>,
    /// Of the longest prefix, in bytes.
    prefix_bytes_max: usize,
    regexes: Regexes,
    catch_all: Candidates,
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
            PathPattern::Regex(regex) => self.regexes.push(regex.clone(), candidate),
        }
    }

    /// Prepares for lookups, once all candidates are there.
    pub(super) fn finish(&mut self) {
        self.exact.values_mut().for_each(Candidates::finish);
        self.prefixes.values_mut().for_each(Candidates::finish);
        self.regexes.finish();
        self.catch_all.finish();
    }

    /// The route that wins within this level.
    pub(super) fn find(&self, query: &Query<'_>) -> Option<usize> {
        self.exact
            .get(query.path)
            .and_then(|candidates| candidates.first(query))
            .or_else(|| self.prefixes_of(query.path).find_map(|it| it.first(query)))
            .or_else(|| self.regexes.first(query))
            .or_else(|| self.catch_all.first(query))
    }

    /// The methods of all candidates that miss nothing but the method.
    pub(super) fn missed_methods<'a>(
        &'a self,
        query: &Query<'_>,
        found: &mut dyn FnMut(&'a [Method]),
    ) {
        let exact = self.exact.get(query.path);
        for candidates in exact.into_iter().chain(self.prefixes_of(query.path)) {
            candidates.missed_methods(query, found);
        }
        self.regexes.missed_methods(query, found);
        self.catch_all.missed_methods(query, found);
    }

    /// Asks the prefixes of the path, the longest first: all of it, then what is before each slash.
    fn prefixes_of<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Candidates> {
        let longest = self.prefix_bytes_max;
        let first = match path.as_bytes().get(..=longest) {
            Some(head) => memrchr(b'/', head),
            None => Some(path.len()),
        };
        iter::successors(first, |end| memrchr(b'/', &path.as_bytes()[..*end]))
            .take_while(|end| *end > 0)
            .filter_map(|end| self.prefixes.get(&path[..end]))
    }
}
