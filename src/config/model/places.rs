//! Where the keys of a configuration are written, for what is found out about them later.

use std::collections::BTreeMap;

use super::Name;
use crate::config::diagnostics::Span;

/// Tables that there may be several of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Listener,
    Pool,
    Route,
}

/// The places of all keys of listeners, pools and routes. They take no part in comparisons.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<(Section, Name), SectionPlaces>);

/// The places of the keys of one table.
#[derive(Debug, Clone)]
pub struct SectionPlaces {
    /// Where the table begins.
    pub span: Span,
    /// By the path below it in lower case, `timeouts.idle`; sorted.
    pub keys: Vec<(Box<str>, Span)>,
}

impl Places {
    pub fn insert(&mut self, section: Section, name: Name, places: SectionPlaces) {
        self.0.insert((section, name), places);
    }

    /// Where a key is written; for one that is not, the innermost table that is.
    pub fn of(&self, section: Section, name: &Name, path: &str) -> Option<Span> {
        let places = self.0.get(&(section, name.clone()))?;
        let mut path = path;
        loop {
            if let Some(span) = places.written(path) {
                return Some(span);
            }
            match path.rsplit_once('.') {
                Some((parent, _)) => path = parent,
                None => return Some(places.span),
            }
        }
    }

    /// Whether a key is written.
    pub fn has(&self, section: Section, name: &Name, path: &str) -> bool {
        let places = self.0.get(&(section, name.clone()));
        places.is_some_and(|places| places.written(path).is_some())
    }
}

impl SectionPlaces {
    fn written(&self, path: &str) -> Option<Span> {
        let at = self.keys.binary_search_by(|(known, _)| (**known).cmp(path)).ok()?;
        self.keys.get(at).map(|(_, span)| *span)
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::config_of;
    use super::*;

    fn start(places: &Places, section: Section, name: &str, path: &str) -> u32 {
        places.of(section, &name.into(), path).unwrap().start
    }

    #[test]
    fn a_key_is_found_where_it_is_written_in_any_form() {
        for text in [
            "[pool.app]\nendpoints = [\"a:1\"]\ntimeouts.total = \"1s\"",
            "[pool.app]\nendpoints = [\"a:1\"]\ntimeouts = { total = \"1s\" }",
            "[pool.app]\nendpoints = [\"a:1\"]\n[pool.app.timeouts]\ntotal = \"1s\"",
        ] {
            let places = config_of(text).places;
            let found = start(&places, Section::Pool, "app", "timeouts.total");
            assert_eq!(found as usize, text.find("\"1s\"").unwrap(), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_not_written_is_at_the_table_around_it() {
        let text = "[[route]]\nname = \"a\"\npool = \"app\"\ncache = { key.headers = [\"x\"] }\n\
                    response_headers.set = { X-A = \"1\" }";
        let places = config_of(text).places;
        let at = |path| start(&places, Section::Route, "a", path) as usize;
        assert_eq!(at("timeout"), 0);
        assert_eq!(at("cache.ttl"), text.find("{ key").unwrap());
        assert_eq!(at("cache.key.headers"), text.find("[\"x\"]").unwrap());
        assert_eq!(at("response_headers.set.x-a"), text.find("\"1\"").unwrap());
        let route: Name = "a".into();
        assert!(places.has(Section::Route, &route, "cache.key"));
        assert!(!places.has(Section::Route, &route, "cache.ttl"));
        assert!(places.of(Section::Route, &"b".into(), "cache").is_none());
    }
}
