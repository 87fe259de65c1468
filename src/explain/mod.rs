//! Why a request is treated as it is: its route and what that beat, what is forwarded, the key
//! that the cache looks up, and what caches would make of a given answer.
//!
//! The same rules as for real requests are asked, one by one, and their verdicts kept. Nothing is
//! sent and nothing is counted. Deliberately absent: the health of endpoints, which `/api/pools`
//! shows, and the fields that are added about a client that is not there.

mod answer;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;

use crate::cache::EntrySummary;
use crate::cache::key::KeyBuffer;
use crate::cache::key_spec::Asking;
use crate::cache::storable::RequestFacts;
use crate::config::diagnostics::{Diagnostic, Report};
use crate::config::model;
use crate::lint::{self, Answer};
use crate::route::explain::{self, Match};
use crate::route::host::{self, Authority};
use crate::route::template::Values;
use crate::route::{Query, conditions, path, rewrite, template};
use crate::snapshot::{Action, Route, Snapshot};
use answer::Judged;

/// Stands in for a client, in templates (RFC 5737).
const SOME_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Stands in for the id that a real request gets.
const SOME_REQUEST_ID: &str = "0123456789abcdef0123456789abcdef";

/// What is to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    pub method: Method,
    /// Absolute.
    pub url: Uri,
    pub headers: HeaderMap,
    /// The listener that the request comes to; one that fits the scheme where none is named.
    pub listener: Option<String>,
    /// An answer of the origin to be judged.
    pub answer: Option<(StatusCode, HeaderMap)>,
}

/// The explanation.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub method: String,
    /// In normal form.
    pub url: String,
    pub listener: Option<String>,
    /// `None`: no route takes it, which is a 404, or a 405 where it would with one of `allow`.
    pub route: Option<RouteTaken>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionTaken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheTaken>,
    /// What is doubtful about the listener, the route, and the answer: the one that was given to be
    /// judged, else the one that the cache holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lints: Vec<Report>,
}

#[derive(Debug, Serialize)]
pub struct RouteTaken {
    pub name: String,
    pub host: String,
    pub path: String,
    /// What it asks beyond them, in one spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<String>,
    pub reason: &'static str,
    /// The routes that match as well, in the order in which they would follow.
    pub beaten: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionTaken {
    Forward { pool: String, host: String, path_and_query: String },
    Redirect { status: u16, location: String },
    Respond { status: u16 },
}

/// The cache's part.
#[derive(Debug, Serialize)]
pub struct CacheTaken {
    /// Why the cache is not asked; `None` where it is.
    pub bypass: Option<String>,
    /// Host, path, query and further parts.
    pub key: Vec<Option<String>>,
    /// What of the request changes how stored responses are used.
    pub notes: Vec<&'static str>,
    /// What this cache and one in front of it, without our configuration, make of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<Judged>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front: Option<Judged>,
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexplained(pub String);

/// Explains one request.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Explanation, Unexplained> {
    let url = &question.url;
    let known = url.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
    let (Some(_), Some(authority)) = (known, url.authority()) else {
        return Err(Unexplained("the URL is not an absolute http or https URL".to_owned()));
    };
    let refused = |error: &dyn std::fmt::Display| Unexplained(format!("a 400: {error}"));
    let scheme = self::scheme(url);
    let Authority { host, port, text: authority } =
        host::authority(authority.as_str(), || scheme).map_err(|error| refused(&error))?;
    let path = path::normalize(url.path()).map_err(|error| refused(&error))?;
    let listener = listener(snapshot, question, scheme == "https")?;
    let target = Target { scheme, authority: &authority, host: &host, port, path: &path, url };
    let query = target.routed(question, listener.as_deref());
    let found = explain::matches(&snapshot.config.routes, &query);
    let mut explanation = Explanation {
        method: question.method.to_string(),
        url: target.normal(),
        listener: listener.clone(),
        allow: Vec::new(),
        route: None,
        action: None,
        cache: None,
        lints: Vec::new(),
    };
    let Some(winner) = found.first() else {
        let methods = snapshot.methods_of(&query);
        explanation.allow = methods.iter().map(Method::to_string).collect();
        let now = SystemTime::now();
        let found = listener.as_deref().map(|it| lint::of_request(snapshot, it, &host, None, now));
        explanation.lints = reports(snapshot, &found.unwrap_or_default());
        return Ok(explanation);
    };
    let Some(route) = snapshot.routes.get(winner.route) else { return Ok(explanation) };
    explanation.route = Some(route_taken(snapshot, &found, winner));
    explanation.action = Some(action(route, &target));
    if matches!(route.action, Action::Forward(_)) {
        explanation.cache = Some(cache(snapshot, route, question, &target));
    }
    if let Some(listener) = &listener {
        explanation.lints = lints(snapshot, listener, route, question, &target);
    }
    Ok(explanation)
}

/// What is doubtful about a listener and a route, and about the answer as it is sent.
fn lints(
    snapshot: &Snapshot,
    listener: &str,
    route: &Route,
    question: &Question,
    target: &Target<'_>,
) -> Vec<Report> {
    let now = SystemTime::now();
    let mut found = lint::of_request(snapshot, listener, target.host, Some(&route.spec), now);
    let answer = question.answer.clone().or_else(|| stored(snapshot, route, question, target));
    if let (Some((status, headers)), Action::Forward(_)) = (answer, &route.action) {
        let request = RequestFacts { method: &question.method, headers: &question.headers };
        let answer = Answer { status, headers: &headers, request, values: target.values() };
        let of_answer = lint::of_answer(snapshot, listener, route, &answer, now);
        // What the configuration puts on it has been said.
        let is_said = |it: &Diagnostic| {
            it.span.is_some()
                && found.iter().any(|said| (said.span, said.lint) == (it.span, it.lint))
        };
        let news: Vec<_> = of_answer.into_iter().filter(|it| !is_said(it)).collect();
        found.extend(news);
    }
    reports(snapshot, &found)
}

fn reports(snapshot: &Snapshot, found: &[Diagnostic]) -> Vec<Report> {
    found.iter().map(|it| it.report(&snapshot.sources)).collect()
}

/// Status and fields of what the cache holds.
fn stored(
    snapshot: &Snapshot,
    route: &Route,
    question: &Question,
    target: &Target<'_>,
) -> Option<(StatusCode, HeaderMap)> {
    let mut buffer = KeyBuffer::default();
    let asking = target.asking(question, route);
    let key = route.key.primary(&asking, &mut buffer, snapshot.cache.hasher())?;
    snapshot.cache.held_head(key, &question.headers, Instant::now())
}

/// What the cache holds now for a request, whether fresh or stale.
pub fn held(snapshot: &Snapshot, question: &Question) -> Option<EntrySummary> {
    let url = &question.url;
    let Authority { host, port, .. } =
        host::authority(url.authority()?.as_str(), || scheme(url)).ok()?;
    let path = path::normalize(url.path()).ok()?;
    let listener = listener(snapshot, question, url.scheme_str() == Some("https")).ok()?;
    let scheme = scheme(url);
    let target = Target { scheme, authority: "", host: &host, port, path: &path, url };
    let index = snapshot.route(&target.routed(question, listener.as_deref()))?;
    let mut buffer = KeyBuffer::default();
    let hasher = snapshot.cache.hasher();
    let route = &snapshot.routes[index];
    let key = route.key.primary(&target.asking(question, route), &mut buffer, hasher)?;
    snapshot.cache.held(key, &question.headers, Instant::now())
}

fn scheme(url: &Uri) -> &'static str {
    if url.scheme_str() == Some("https") { "https" } else { "http" }
}

/// What a URL asks for.
struct Target<'a> {
    scheme: &'a str,
    authority: &'a str,
    port: Option<u16>,
    host: &'a str,
    path: &'a str,
    url: &'a Uri,
}

impl Target<'_> {
    fn routed<'a>(&'a self, question: &'a Question, listener: Option<&'a str>) -> Query<'a> {
        Query {
            listener: listener.unwrap_or_default(),
            host: self.host,
            path: self.path,
            method: &question.method,
            query: self.url.query(),
            headers: &question.headers,
        }
    }

    fn asking<'a>(&'a self, question: &'a Question, route: &'a Route) -> Asking<'a> {
        Asking {
            host: self.host,
            port: self.port,
            path: self.path,
            query: self.url.query(),
            scheme: scheme(self.url),
            // Of a split, the first one stands for all.
            pool: match &route.action {
                Action::Forward(to) => to.backends().first().map(|backend| &*backend.spec.name),
                _ => None,
            },
            headers: &question.headers,
        }
    }

    /// Of some client.
    fn values(&self) -> Values<'_> {
        Values {
            client_ip: SOME_CLIENT,
            host: self.host,
            request_id: SOME_REQUEST_ID,
            scheme: self.scheme,
            path: self.path,
            query: self.url.query(),
        }
    }

    fn normal(&self) -> String {
        let query = self.url.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}://{}{}{query}", self.scheme, self.host, self.path)
    }
}

fn listener(
    snapshot: &Snapshot,
    question: &Question,
    is_tls: bool,
) -> Result<Option<String>, Unexplained> {
    let mut names: Vec<&str> = snapshot.listeners.keys().map(|name| &**name).collect();
    names.sort_unstable();
    if let Some(wanted) = &question.listener {
        if !names.contains(&wanted.as_str()) {
            let names = names.join(", ");
            return Err(Unexplained(format!("there is no listener {wanted:?}; there are {names}")));
        }
        return Ok(Some(wanted.clone()));
    }
    let fitting = names.iter().find(|name| {
        snapshot.listeners.get(**name).is_some_and(|listener| listener.tls.is_some() == is_tls)
    });
    Ok(fitting.or(names.first()).map(|name| (*name).to_owned()))
}

fn route_taken(snapshot: &Snapshot, found: &[Match<'_>], winner: &Match<'_>) -> RouteTaken {
    let name = |it: &Match<'_>| snapshot.config.routes[it.route].name.to_string();
    RouteTaken {
        name: name(winner),
        host: winner.host.map_or_else(|| "*".to_owned(), ToString::to_string),
        path: winner.path.to_string(),
        conditions: conditions::describe(&snapshot.config.routes[winner.route]),
        reason: explain::reason(winner, found.get(1)).as_str(),
        beaten: found.iter().skip(1).map(name).collect(),
    }
}

fn action(route: &Route, target: &Target<'_>) -> ActionTaken {
    match &route.action {
        Action::Forward(_) => {
            let rules = &route.spec.rewrite;
            let mut path_and_query = rewrite::apply(rules, target.path).into_owned();
            if let Some(query) = target.url.query() {
                path_and_query.push('?');
                path_and_query.push_str(query);
            }
            let host = rules.host.as_ref().and_then(|host| host.to_str().ok());
            ActionTaken::Forward {
                pool: pools(&route.spec.action),
                host: host.unwrap_or(target.authority).to_owned(),
                path_and_query,
            }
        }
        Action::Redirect(redirect) => ActionTaken::Redirect {
            status: redirect.status.as_u16(),
            location: template::expand(&redirect.to, &target.values()),
        },
        Action::Respond(respond) => ActionTaken::Respond { status: respond.status.as_u16() },
    }
}

/// The pool, or those of a split with their shares.
fn pools(action: &model::Action) -> String {
    match action {
        model::Action::Pool(name) => name.to_string(),
        model::Action::Split(shares) => {
            let shares = shares.iter().map(|share| format!("{} ({})", share.pool, share.weight));
            shares.collect::<Vec<_>>().join(" or ")
        }
        model::Action::Redirect(_) | model::Action::Respond(_) => String::new(),
    }
}

fn cache(
    snapshot: &Snapshot,
    route: &Route,
    question: &Question,
    target: &Target<'_>,
) -> CacheTaken {
    let mut buffer = KeyBuffer::default();
    let hasher = snapshot.cache.hasher();
    let key = route.key.primary(&target.asking(question, route), &mut buffer, hasher);
    let too_long = || "what the request says in the fields of the key is too long".to_owned();
    let now = SystemTime::now();
    let answered = question.answer.as_ref().map(|(status, headers)| (*status, headers));
    let rules = route.spec.cache.as_deref();
    CacheTaken {
        bypass: answer::bypass(route, question).or_else(|| key.is_none().then(too_long)),
        key: key.map(|key| key.to_owned().parts()).unwrap_or_default(),
        notes: answer::demands(route, question),
        ours: answered.zip(rules).map(|(it, rules)| answer::ours(question, it, rules, hasher, now)),
        front: answered.map(|it| answer::front(question, it, now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::of_text;

    fn question(url: &str) -> Question {
        Question {
            method: Method::GET,
            url: url.parse().expect("a URL"),
            headers: HeaderMap::new(),
            listener: None,
            answer: None,
        }
    }

    fn site() -> Snapshot {
        of_text(SITE, &[], None)
    }

    const SITE: &str = r#"
        [listener.web]
        bind = "127.0.0.1:0"
        [pool.app]
        endpoints = ["127.0.0.1:1"]
        [[route]]
        name = "api"
        hosts = ["example.com"]
        paths = ["/api/*"]
        pool = "app"
        rewrite = { strip_prefix = "/api", host = "internal" }
        [[route]]
        name = "old"
        hosts = ["*.example.com"]
        redirect = { to = "https://example.com{path}{query}" }
        [[route]]
        name = "all"
        pool = "app"
        cache = false
    "#;

    #[test]
    fn a_request_is_followed_from_its_route_to_what_is_forwarded() {
        let site = site();
        let found = explain(&site, &question("http://Example.com/api/%61/../b?c=1")).unwrap();
        assert_eq!(found.url, "http://example.com/api/b?c=1");
        let route = found.route.as_ref().expect("a route");
        assert_eq!(
            (route.name.as_str(), route.beaten.as_slice()),
            ("api", &["all".to_owned()][..])
        );
        assert!(matches!(
            &found.action,
            Some(ActionTaken::Forward { pool, host, path_and_query })
                if pool == "app" && host == "internal" && path_and_query == "/b?c=1"
        ));
        let cache = found.cache.expect("it goes to a pool");
        assert_eq!(cache.bypass, None);
        assert_eq!(cache.key[1].as_deref(), Some("/api/b"));
    }

    #[test]
    fn a_redirect_is_shown_with_its_target() {
        let found = explain(&site(), &question("http://www.example.com/a?b")).unwrap();
        assert!(matches!(
            &found.action,
            Some(ActionTaken::Redirect { status: 308, location })
                if location == "https://example.com/a?b"
        ));
        assert!(found.cache.is_none());
    }

    #[test]
    fn conditions_are_shown_and_methods_that_would_do() {
        let site = of_text(
            "[listener.web]\nbind = \"127.0.0.1:0\"\n[pool.app]\nendpoints = [\"127.0.0.1:1\"]\n\
             [[route]]\nname = \"canary\"\npool = \"app\"\nmethods = [\"GET\", \"HEAD\"]\n\
             headers = { x = \"1\" }\n",
            &[],
            None,
        );
        let mut asked = question("http://h/");
        let found = explain(&site, &asked).unwrap();
        assert!(found.route.is_none() && found.allow.is_empty());
        asked.headers.insert("x", "1".parse().expect("a value"));
        let found = explain(&site, &asked).unwrap();
        let conditions = found.route.expect("a route").conditions;
        assert_eq!(conditions.as_deref(), Some("methods=GET,HEAD;header \"x\"=\"1\""));
        asked.method = Method::POST;
        assert_eq!(explain(&site, &asked).unwrap().allow, ["GET", "HEAD"]);
    }

    #[test]
    fn an_answer_is_judged_for_this_cache_and_for_one_in_front() {
        let site = site();
        let mut asked = question("http://example.com/api/b");
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", "max-age=60".parse().expect("a value"));
        asked.answer = Some((StatusCode::OK, headers));
        let cache = explain(&site, &asked).unwrap().cache.expect("it goes to a pool");
        let (ours, front) = (cache.ours.expect("judged"), cache.front.expect("judged"));
        assert_eq!((ours.stored, ours.lifetime_seconds), (true, Some(60)));
        assert!(front.stored);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("headwater-cache-control", "max-age=5, private=1"),
            ("cdn-cache-control", "&"),
            ("cache-control", "max-age=x"),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        asked.answer = Some((StatusCode::OK, headers));
        let cache = explain(&site, &asked).unwrap().cache.expect("it goes to a pool");
        let (ours, front) = (cache.ours.expect("judged"), cache.front.expect("judged"));
        assert!(ours.reason.starts_with("private, in a shared cache (RFC 9111"), "{ours:?}");
        assert!(ours.field.starts_with("Headwater-Cache-Control"));
        assert!(ours.notes.iter().any(|note| note.contains("`private=` is malformed")), "{ours:?}");
        assert!(front.reason.contains("neither ETag"), "{front:?}");
        assert!(front.notes.iter().any(|note| note.starts_with("CDN-Cache-Control")), "{front:?}");
        asked.url = "http://h/uncached".parse().expect("a URL");
        let cache = explain(&site, &asked).unwrap().cache.expect("it goes to a pool");
        assert_eq!(cache.bypass.as_deref(), Some("the route does not cache"));
        assert!(cache.ours.is_none());
    }

    #[test]
    fn what_cannot_be_explained_says_why() {
        let site = site();
        for url in ["/relative", "ftp://h/", "http://h/%00"] {
            assert!(explain(&site, &question(url)).is_err(), "{url}");
        }
        let mut asked = question("http://h/");
        asked.listener = Some("nope".to_owned());
        assert!(explain(&site, &asked).unwrap_err().0.contains("there is no listener"));
    }
}
