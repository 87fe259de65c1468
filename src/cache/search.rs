//! `No-Vary-Search` (draft-ietf-httpbis-no-vary-search): which parts of a query make no
//! difference to a response.
//!
//! A field that cannot be read, or says nothing new, leaves the query as it is. Otherwise two
//! queries are the same if their parameters are, decoded, without those that do not count, and in
//! any order where the order does not.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;
use sfv::{BareItem, Dictionary, InnerList, ListEntry, Parser};

use super::key::KeyBuffer;
use super::policy::combined;

const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");
/// A longer field is taken as one that cannot be read, in bytes.
const FIELD_BYTES_MAX: usize = 4096;

/// What a response varies on of its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SearchRule {
    counted: Counted,
    /// The order of parameters with different names counts.
    is_ordered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    AllBut(Box<[Vec<u8>]>),
    Only(Box<[Vec<u8>]>),
}

/// Name and value, decoded.
type Parameter<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl SearchRule {
    /// The rule of a response; `None` where its query counts as it is.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = combined(headers, &NO_VARY_SEARCH)?;
        if value.len() > FIELD_BYTES_MAX {
            return None;
        }
        let members: Dictionary = Parser::new(value.as_bytes()).parse().ok()?;
        let known = |name: &str| matches!(name, "key-order" | "params" | "except");
        if !members.keys().all(|name| known(name.as_str())) {
            return None;
        }
        let is_ordered = match members.get("key-order") {
            None => true,
            Some(order) => !boolean(order)?,
        };
        let (counted, takes_except) = match members.get("params") {
            None => (Counted::AllBut(Box::default()), false),
            Some(ListEntry::InnerList(names)) => (Counted::AllBut(keys(names)?), false),
            Some(all) if boolean(all)? => (Counted::Only(Box::default()), true),
            Some(_) => (Counted::AllBut(Box::default()), false),
        };
        let counted = match members.get("except") {
            None => counted,
            Some(ListEntry::InnerList(names)) if takes_except => Counted::Only(keys(names)?),
            Some(_) => return None,
        };
        let rule = Self { counted, is_ordered };
        (rule != Self { counted: Counted::AllBut(Box::default()), is_ordered: true })
            .then_some(rule)
    }

    /// Adds what counts of a query to a key.
    pub(super) fn push(&self, query: Option<&[u8]>, key: &mut KeyBuffer) {
        let pairs = query.unwrap_or_default().split(|byte| *byte == b'&');
        let mut counted: Vec<Parameter<'_>> = pairs
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let at = memchr::memchr(b'=', pair);
                let (name, value) = at.map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
                (decoded(name), decoded(value))
            })
            .filter(|(name, _)| self.counts(name))
            .collect();
        if !self.is_ordered {
            // Stable: values of one name keep their order.
            counted.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        for (name, value) in counted {
            key.part(&name).part(&value);
        }
    }

    fn counts(&self, name: &[u8]) -> bool {
        match &self.counted {
            Counted::AllBut(names) => !names.iter().any(|known| known == name),
            Counted::Only(names) => names.iter().any(|known| known == name),
        }
    }

    /// Length of the names in it, in bytes.
    pub(super) fn bytes_len(&self) -> usize {
        let (Counted::AllBut(names) | Counted::Only(names)) = &self.counted;
        names.iter().map(|name| name.len() + size_of::<Vec<u8>>()).sum()
    }
}

fn boolean(member: &ListEntry) -> Option<bool> {
    let ListEntry::Item(item) = member else { return None };
    item.bare_item.as_boolean()
}

/// The names in a list of strings; `None` where there is anything else in it.
fn keys(list: &InnerList) -> Option<Box<[Vec<u8>]>> {
    let names = list.items.iter().map(|item| match &item.bare_item {
        BareItem::String(text) => Some(decoded(text.as_str().as_bytes()).into_owned()),
        _ => None,
    });
    names.collect()
}

/// As `application/x-www-form-urlencoded` has it: a plus is a space.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(text);
    }
    let spaced: Vec<u8> =
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::key::KeyHasher;
    use super::*;

    fn rule(value: &'static str) -> Option<SearchRule> {
        SearchRule::of(&[(NO_VARY_SEARCH, HeaderValue::from_static(value))].into_iter().collect())
    }

    fn same(rule: &SearchRule, a: Option<&str>, b: Option<&str>) -> bool {
        let hasher = KeyHasher::default();
        let key = |query: Option<&str>| {
            let mut buffer = KeyBuffer::default();
            rule.push(query.map(str::as_bytes), &mut buffer);
            buffer.key(&hasher).to_owned()
        };
        key(a) == key(b)
    }

    #[test]
    fn parameters_that_are_named_make_no_difference() {
        let rule = rule("params=(\"utm_source\" \"a b\")").unwrap();
        for (a, b, expected) in [
            (Some("id=1&utm_source=x"), Some("id=1"), true),
            (Some("utm_source=x"), None, true),
            (Some("a+b=1&id=1"), Some("id=1&a%20b=2"), true),
            (Some("id=%31"), Some("id=1"), true),
            (Some("id=1&x=2"), Some("x=2&id=1"), false),
            (Some("id=1"), Some("id=2"), false),
            (Some("id=1&id=2"), Some("id=2&id=1"), false),
            (Some("id"), Some("id="), true),
            (Some("&&id=1&"), Some("id=1"), true),
        ] {
            assert_eq!(same(&rule, a, b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_order_and_all_but_some_can_be_without_meaning() {
        let unordered = rule("key-order").unwrap();
        assert!(same(&unordered, Some("a=1&b=2"), Some("b=2&a=1")));
        assert!(!same(&unordered, Some("a=1&a=2"), Some("a=2&a=1")));
        let only = rule("params, except=(\"id\")").unwrap();
        assert!(same(&only, Some("id=1&x=1"), Some("y=3&id=1")));
        assert!(!same(&only, Some("id=1"), None));
        assert!(same(&rule("params").unwrap(), Some("a=1"), Some("b=2")));
    }

    #[test]
    fn a_field_that_cannot_be_read_or_says_nothing_leaves_the_query_as_it_is() {
        for value in [
            "",
            "key-order=?0",
            "params=?0",
            "params=()",
            "key-order=1",
            "params=(a)",
            "params=(\"a\" 1)",
            "params=\"a\"",
            "except=(\"a\")",
            "params=?0, except=(\"a\")",
            "params=(\"a\"), except=(\"b\")",
            "params, except=\"a\"",
            "params, other",
            "params=(\"a\"",
        ] {
            assert_eq!(rule(value), None, "{value}");
        }
        assert!(rule("params;x=1").is_some());
    }
}
