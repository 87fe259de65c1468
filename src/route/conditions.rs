//! What a route asks of a request beyond its host and path.
//!
//! Each kind of condition answers three questions: how many are set, does a request fulfil them,
//! and can no request fulfil them together with another route's. A new kind is a field here and
//! a line in each of the three. A name has one value in a request (`values`), so two routes that
//! ask for different ones exclude each other. Deliberately absent: hosts and paths, which are keys
//! to look up and not questions to ask.

use std::fmt::Write;
use std::sync::Arc;

use http::Method;

use super::overlap::may_overlap;
use super::{Query, values};
use crate::config::model::{Name, RequestConditions, Route, ValuePattern};

/// The conditions of a route in one spelling; `None` where it has none.
pub fn describe(route: &Route) -> Option<String> {
    let mut parts = Vec::new();
    if !route.listeners.is_empty() {
        let mut listeners: Vec<&str> = route.listeners.iter().map(|name| &**name).collect();
        listeners.sort_unstable();
        parts.push(format!("listeners={}", listeners.join(",")));
    }
    let RequestConditions { methods, headers, query, cookies } = &route.conditions;
    if !methods.is_empty() {
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        parts.push(format!("methods={}", methods.join(",")));
    }
    parts.extend(headers.iter().map(|(name, pattern)| described("header", name.as_str(), pattern)));
    parts.extend(query.iter().map(|(name, pattern)| described("query", name, pattern)));
    parts.extend(cookies.iter().map(|(name, pattern)| described("cookie", name, pattern)));
    (!parts.is_empty()).then(|| parts.join(";"))
}

/// Quoted, so that no name or value reads like the next condition.
fn described(kind: &str, name: &str, pattern: &ValuePattern) -> String {
    let mut text = format!("{kind} {name:?}=");
    let _ = match pattern {
        ValuePattern::Present => write!(text, "*"),
        ValuePattern::Exact(value) => write!(text, "{value:?}"),
        ValuePattern::Regex(regex) => write!(text, "~{:?}", regex.as_str()),
    };
    text
}

#[derive(Debug, Clone)]
pub(super) struct Conditions {
    /// Empty: any.
    listeners: Box<[Name]>,
    request: Option<Arc<RequestConditions>>,
}

impl Conditions {
    pub(super) fn of(route: &Route) -> Self {
        let request = &route.conditions;
        Self {
            listeners: route.listeners.as_slice().into(),
            request: (!request.is_empty()).then(|| Arc::new(request.clone())),
        }
    }

    /// Those on the request itself.
    pub(super) fn request(&self) -> Option<&RequestConditions> {
        self.request.as_deref()
    }

    /// How many are set: of two routes for one pattern, the one with more is asked first.
    pub(super) fn count(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.count());
        usize::from(!self.listeners.is_empty()) + request
    }

    #[inline]
    pub(super) fn hold(&self, query: &Query<'_>) -> bool {
        self.listen(query)
            && self.request.as_ref().is_none_or(|it| takes(it, query.method) && ask_for(it, query))
    }

    /// The methods that it asks for, where nothing but the method is wrong with a request.
    pub(super) fn missed_method(&self, query: &Query<'_>) -> Option<&[Method]> {
        let request = self.request.as_ref()?;
        let is_all = self.listen(query) && !takes(request, query.method) && ask_for(request, query);
        is_all.then_some(&request.methods)
    }

    fn listen(&self, query: &Query<'_>) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *query.listener)
    }

    /// Whether no request can fulfil both.
    pub(super) fn exclude(&self, other: &Self) -> bool {
        if are_disjoint(&self.listeners, &other.listeners) {
            return true;
        }
        let (Some(a), Some(b)) = (&self.request, &other.request) else { return false };
        are_disjoint(&a.methods, &b.methods)
            || contradict(&a.headers, &b.headers)
            || contradict(&a.query, &b.query)
            || contradict(&a.cookies, &b.cookies)
    }
}

fn takes(request: &RequestConditions, method: &Method) -> bool {
    request.methods.is_empty() || request.methods.contains(method)
}

/// Whether fields, parameters and cookies are as asked for.
fn ask_for(request: &RequestConditions, query: &Query<'_>) -> bool {
    let RequestConditions { methods: _, headers, query: parameters, cookies } = request;
    let holds = |pattern: &ValuePattern, value: Option<&[u8]>| {
        value.is_some_and(|value| is_match(pattern, value))
    };
    headers
        .iter()
        .all(|(name, pattern)| holds(pattern, values::header(query.headers, name).as_deref()))
        && parameters
            .iter()
            .all(|(name, pattern)| holds(pattern, values::parameter(query.query, name).as_deref()))
        && cookies
            .iter()
            .all(|(name, pattern)| holds(pattern, crate::cookie::value(query.headers, name)))
}

fn is_match(pattern: &ValuePattern, value: &[u8]) -> bool {
    match pattern {
        ValuePattern::Present => true,
        ValuePattern::Exact(text) => text.as_bytes() == value,
        ValuePattern::Regex(regex) => {
            std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value))
        }
    }
}

/// Whether two lists of which an empty one stands for everything have nothing in common.
fn are_disjoint<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    !a.is_empty() && !b.is_empty() && !a.iter().any(|one| b.contains(one))
}

/// Whether some name has to have two values at once.
fn contradict<N: PartialEq>(a: &[(N, ValuePattern)], b: &[(N, ValuePattern)]) -> bool {
    a.iter().any(|(name, pattern)| {
        b.iter().any(|(other, against)| name == other && rules_out(pattern, against))
    })
}

fn rules_out(a: &ValuePattern, b: &ValuePattern) -> bool {
    match (a, b) {
        (ValuePattern::Present, _) | (_, ValuePattern::Present) => false,
        (ValuePattern::Exact(a), ValuePattern::Exact(b)) => a != b,
        (ValuePattern::Exact(text), ValuePattern::Regex(regex))
        | (ValuePattern::Regex(regex), ValuePattern::Exact(text)) => !regex.is_match(text),
        (ValuePattern::Regex(a), ValuePattern::Regex(b)) => !may_overlap(a.as_str(), b.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::super::Lookup;
    use super::super::table::RouteTable;
    use super::super::table::tests::{asking, on, prior, query, route};
    use super::*;

    fn any(asked: &[(&str, &str)]) -> Route {
        asking(asked, route(&[], &["/*"]))
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn holds(asked: &[(&str, &str)], headers: &HeaderMap, parameters: Option<&str>) -> bool {
        let conditions = Conditions::of(&any(asked));
        conditions.hold(&Query { headers, query: parameters, ..query("h", "/") })
    }

    fn excludes(a: &[(&str, &str)], b: &[(&str, &str)]) -> bool {
        let (a, b) = (Conditions::of(&any(a)), Conditions::of(&any(b)));
        assert_eq!(a.exclude(&b), b.exclude(&a));
        a.exclude(&b)
    }

    #[test]
    fn fields_parameters_and_cookies_are_there_equal_or_matched() {
        let headers = fields(&[("x-canary", "1"), ("cookie", "a=b; beta=on"), ("cookie", "c=d")]);
        let parameters = Some("v=2&flag");
        for (asked, expected) in [
            (&[("header", "x-canary=1")][..], true),
            (&[("header", "x-canary=01")], false),
            (&[("header", "x-canary=*")], true),
            (&[("header", "x-other=*")], false),
            (&[("header", "x-canary=~^[0-9]$")], true),
            (&[("header", "x-canary=~^[a-z]$")], false),
            (&[("query", "v=2")], true),
            (&[("query", "v=3")], false),
            (&[("query", "flag=")], true),
            (&[("query", "flag=*")], true),
            (&[("query", "V=*")], false),
            (&[("cookie", "beta=on")], true),
            (&[("cookie", "c=~d")], true),
            (&[("cookie", "beta=off")], false),
            (&[("cookie", "e=*")], false),
            (&[("cookie", "c=*"), ("query", "v=*"), ("header", "x-canary=*")], true),
            (&[("cookie", "c=*"), ("query", "v=*"), ("header", "x-none=*")], false),
        ] {
            assert_eq!(holds(asked, &headers, parameters), expected, "{asked:?}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_there_and_matches_no_regex() {
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(holds(&[("header", "x=*")], &headers, None));
        assert!(!holds(&[("header", "x=~.*")], &headers, None));
    }

    #[test]
    fn different_values_of_one_name_exclude_each_other() {
        for (a, b, expected) in [
            (("methods", "GET"), ("methods", "POST PUT"), true),
            (("methods", "GET PUT"), ("methods", "POST PUT"), false),
            (("header", "x=1"), ("header", "x=2"), true),
            (("header", "x=1"), ("header", "y=2"), false),
            (("header", "x=1"), ("header", "x=*"), false),
            (("header", "x=1"), ("header", "x=~^[0-9]"), false),
            (("header", "x=1"), ("header", "x=~^[a-z]"), true),
            (("header", "x=~^a"), ("header", "x=~^b"), true),
            (("header", "x=~a"), ("header", "x=~b"), false),
            (("query", "x=1"), ("query", "x=2"), true),
            (("cookie", "x=1"), ("cookie", "x=2"), true),
            (("cookie", "x=1"), ("query", "x=2"), false),
        ] {
            assert_eq!(excludes(&[a], &[b]), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn equal_conditions_tie_unless_they_exclude_each_other() {
        let ties = |routes: &[Route]| RouteTable::build(routes).err().map_or(0, |ties| ties.len());
        let canary = |value: &str| any(&[("header", &format!("x-canary={value}"))]);
        assert_eq!(ties(&[canary("1"), canary("2"), any(&[])]), 0);
        assert_eq!(ties(&[canary("1"), canary("1")]), 1);
        assert_eq!(ties(&[canary("1"), any(&[("query", "v=1")])]), 1);
        assert_eq!(ties(&[canary("1"), any(&[("query", "v=1"), ("query", "w=1")])]), 0);
        assert_eq!(ties(&[canary("1"), on(&["web"], any(&[]))]), 1);
        assert_eq!(ties(&[canary("1"), prior(1, any(&[("cookie", "v=1")]))]), 0);
    }

    #[test]
    fn a_method_that_no_route_takes_gets_those_that_some_route_would_take() {
        let routes = [
            asking(&[("methods", "GET HEAD")], route(&["*.com"], &["/a/b"])),
            asking(&[("methods", "PUT"), ("header", "x=1")], route(&[], &["/a/*"])),
            asking(&[("methods", "GET POST")], route(&[], &["/a/*"])),
            asking(&[("methods", "DELETE")], on(&["other"], route(&[], &["~^/a"]))),
            asking(&[("methods", "LIST")], route(&["a.com"], &["/*"])),
            route(&[], &["/free"]),
        ];
        let table = RouteTable::build(&routes).expect("no ties");
        let methods = |query: &Query<'_>| {
            let methods = table.methods(query);
            methods.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let patch = Method::PATCH;
        let ask = |host, path| Query { method: &patch, ..query(host, path) };
        assert_eq!(table.lookup(&ask("a.com", "/a/b")), Lookup::NoRoute);
        assert_eq!(methods(&ask("a.com", "/a/b")), "GET HEAD LIST POST");
        assert_eq!(methods(&ask("a.org", "/a")), "GET POST");
        let headers = fields(&[("x", "1")]);
        let with_field = Query { headers: &headers, listener: "other", ..ask("a.org", "/a/b") };
        assert_eq!(methods(&with_field), "DELETE GET POST PUT");
        assert_eq!(methods(&ask("a.org", "/")), "");
    }

    #[test]
    fn conditions_have_one_spelling() {
        assert_eq!(describe(&any(&[])), None);
        assert_eq!(describe(&on(&["b", "a"], any(&[]))).as_deref(), Some("listeners=a,b"),);
        let asked = [
            ("methods", "GET PUT"),
            ("header", "x-a=1\";query"),
            ("query", "v=~^\\d"),
            ("cookie", "beta=*"),
        ];
        assert_eq!(
            describe(&on(&["web"], any(&asked))).as_deref(),
            Some(
                r#"listeners=web;methods=GET,PUT;header "x-a"="1\";query";query "v"=~"^\\d";cookie "beta"=*"#
            )
        );
    }
}
