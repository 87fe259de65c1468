//! A route with what its names stand for.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::COOKIE;

use super::access::Access;
use super::backend::Backend;
use super::front_cache::FrontCache;
use super::pages::ErrorPages;
use super::stats::RouteStats;
use crate::balance::Split;
use crate::cache::key_spec::KeySpec;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Balance, Name, PoolSource};
use crate::cookie;
use crate::route::conditions;
use crate::route::table::Tie;

#[derive(Debug)]
pub struct Route {
    pub spec: model::Route,
    pub action: Action,
    /// How the cache's keys are made.
    pub key: KeySpec,
    pub access: Access,
    pub pages: ErrorPages,
    /// What the cache of a front is told of all answers.
    pub front_cache: Option<FrontCache>,
    pub mirror: Option<Arc<Mirror>>,
    /// The names of the cookies that are ours, and no business of an endpoint.
    pub own_cookies: Box<[Arc<str>]>,
    /// Something goes by who asks: a cookie, a hash, a mirror.
    pub minds_asker: bool,
    /// Endpoints are told by the PROXY protocol who asks.
    pub is_proxied: bool,
    pub stats: Arc<RouteStats>,
}

#[derive(Debug)]
pub enum Action {
    Forward(Destination),
    Redirect(model::Redirect),
    Respond(model::Respond),
}

/// Where requests go.
#[derive(Debug, Clone)]
pub enum Destination {
    Pool(Arc<Backend>),
    Split(Arc<SplitBackends>),
}

/// Several backends, each with a share.
#[derive(Debug)]
pub struct SplitBackends {
    split: Split,
    /// At least one, in the order of the weights.
    backends: Box<[Arc<Backend>]>,
}

/// Where copies of requests go.
#[derive(Debug)]
pub struct Mirror {
    pub backend: Arc<Backend>,
    /// Share of the requests that are copied, 0 to 1.
    pub share: f64,
    /// Of the route.
    pub stats: Arc<RouteStats>,
}

impl Route {
    /// `before` had the same name. `None` if one of its pools could not be built.
    pub(super) fn new(
        spec: &model::Route,
        backends: &HashMap<Name, Arc<Backend>>,
        before: Option<&Self>,
        listener_count: usize,
    ) -> Option<Self> {
        let action = match &spec.action {
            model::Action::Pool(name) => {
                Action::Forward(Destination::Pool(backends.get(name)?.clone()))
            }
            model::Action::Split(shares) => {
                let split = Split::new(
                    shares.iter().map(|share| share.weight),
                    before.and_then(|before| match &before.action {
                        Action::Forward(Destination::Split(before)) => Some(&before.split),
                        _ => None,
                    }),
                );
                let backends = shares.iter().map(|share| backends.get(&share.pool).cloned());
                let backends = backends.collect::<Option<_>>()?;
                Action::Forward(Destination::Split(Arc::new(SplitBackends { split, backends })))
            }
            model::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
            model::Action::Respond(respond) => Action::Respond(respond.clone()),
        };
        let rules = spec.cache.as_ref().map(|cache| cache.key.clone()).unwrap_or_default();
        let key = KeySpec::new(&rules, conditions::describe(spec));
        let stats = Arc::new(RouteStats::grown(before.map(|route| &*route.stats), listener_count));
        let mirror = match &spec.mirror {
            None => None,
            Some(mirror) => {
                let backend = backends.get(&mirror.pool)?.clone();
                Some(Arc::new(Mirror { backend, share: mirror.share, stats: stats.clone() }))
            }
        };
        let own_cookies = match &action {
            Action::Forward(destination) => own_cookies(destination),
            Action::Redirect(_) | Action::Respond(_) => Box::default(),
        };
        let hashes = matches!(&action, Action::Forward(destination) if hashes(destination));
        let is_proxied =
            matches!(&action, Action::Forward(to) if is_proxied(to, mirror.as_deref()));
        let minds_asker = hashes || is_proxied || mirror.is_some() || !own_cookies.is_empty();
        Some(Self {
            spec: spec.clone(),
            action,
            key,
            access: Access::new(spec),
            pages: ErrorPages::new(spec),
            front_cache: spec.front_cache.as_ref().map(FrontCache::new),
            mirror,
            own_cookies,
            minds_asker,
            is_proxied,
            stats,
        })
    }
}

fn own_cookies(destination: &Destination) -> Box<[Arc<str>]> {
    let mut names: Vec<Arc<str>> = destination
        .backends()
        .iter()
        .filter_map(|backend| backend.spec.sticky.as_ref())
        .map(|sticky| sticky.cookie.clone())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}

fn is_proxied(destination: &Destination, mirror: Option<&Mirror>) -> bool {
    let backends = destination.backends().iter().chain(mirror.map(|mirror| &mirror.backend));
    backends.into_iter().any(|backend| backend.spec.proxy_protocol.is_some())
}

fn hashes(destination: &Destination) -> bool {
    let is_hash = |backend: &Arc<Backend>| matches!(backend.spec.balance, Balance::Hash(_));
    destination.backends().iter().any(is_hash)
}

impl Destination {
    /// The backend of one request. A client that a cookie keeps at an endpoint stays with its
    /// backend; the others are counted through.
    #[inline]
    pub fn choose(&self, headers: &HeaderMap) -> Arc<Backend> {
        match self {
            Self::Pool(backend) => backend.clone(),
            Self::Split(split) => split.choose(headers).clone(),
        }
    }

    /// All backends, at least one.
    pub fn backends(&self) -> &[Arc<Backend>] {
        match self {
            Self::Pool(backend) => std::slice::from_ref(backend),
            Self::Split(split) => &split.backends,
        }
    }
}

impl SplitBackends {
    fn choose(&self, headers: &HeaderMap) -> &Arc<Backend> {
        let keeps = |backend: &&Arc<Backend>| {
            let Some(balanced) = backend.balanced() else { return false };
            balanced.pool.sticky().is_some_and(|sticky| {
                cookie::values(headers.get_all(COOKIE), &sticky.cookie)
                    .any(|value| balanced.pool.endpoint_of_cookie(value).is_some())
            })
        };
        let kept = self.backends.iter().find(keeps);
        // The weights and the backends are of one list.
        kept.or_else(|| self.backends.get(self.split.next())).unwrap_or(&self.backends[0])
    }
}

/// A folder takes no copies.
pub(super) fn mirror_problems(config: &model::Config) -> impl Iterator<Item = Diagnostic> {
    config.routes.iter().filter_map(|route| {
        let mirror = route.mirror.as_ref()?;
        let pool = config.pool(&mirror.pool)?;
        matches!(pool.source, PoolSource::Files(_)).then(|| {
            let message = format!(
                "route `{}`: its mirror, the pool {:?}, is a folder",
                route.name, pool.name
            );
            Diagnostic::error(route.span.0, message).help("name a pool of endpoints")
        })
    })
}

pub(super) fn describe_tie(config: &model::Config, tie: &Tie) -> Diagnostic {
    let (a, b) = (&config.routes[tie.a], &config.routes[tie.b]);
    Diagnostic::error(
        b.span.0,
        format!("routes `{}` and `{}` match the same requests: {}", a.name, b.name, tie.reason),
    )
    .note(a.span.0, format!("route `{}` is here", a.name))
    .help("give one of them a `priority`, or a condition that tells them apart")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::snapshot::Snapshot;
    use crate::snapshot::testing::of_text;

    const SPLIT: &str = "[listener.web]\nbind = \"127.0.0.1:0\"\n\
                         [pool.a]\nendpoints = [\"127.0.0.1:1\"]\nsticky = {}\n\
                         [pool.b]\nendpoints = [\"127.0.0.1:2\"]\nsticky = {}\n\
                         [[route]]\n\
                         split = [{ pool = \"a\", weight = 3 }, { pool = \"b\", weight = 1 }]\n";

    fn chosen(snapshot: &Snapshot, headers: &HeaderMap) -> Name {
        let Action::Forward(destination) = &snapshot.routes[0].action else {
            unreachable!("it forwards")
        };
        destination.choose(headers).spec.name.clone()
    }

    #[test]
    fn shares_are_exact_and_a_reload_goes_on_where_they_were() {
        let mut snapshot = of_text(SPLIT, &[], None);
        let mut taken = Vec::new();
        for keepalive in 1..=8 {
            taken.push(chosen(&snapshot, &HeaderMap::new()));
            let text =
                SPLIT.replace("[pool.b]", &format!("keepalive = \"{keepalive}s\"\n[pool.b]"));
            snapshot = of_text(&text, &[], Some(&snapshot));
        }
        let of_b = |names: &[Name]| names.iter().filter(|name| &***name == "b").count();
        assert_eq!((of_b(&taken[..4]), of_b(&taken[4..])), (1, 1));
    }

    #[test]
    fn a_client_with_a_cookie_stays_in_its_pool() {
        let snapshot = of_text(SPLIT, &[], None);
        let pool = &snapshot.backends["b"].balanced().unwrap().pool;
        let endpoint = pool.members()[0].endpoint.clone();
        let cookie = pool.cookie_for(&endpoint, None, false, Instant::now()).unwrap();
        let (cookie, _) = cookie.split_once(';').unwrap();
        let headers = HeaderMap::from_iter([(COOKIE, format!("x=1; {cookie}").parse().unwrap())]);
        assert!((0..9).all(|_| &*chosen(&snapshot, &headers) == "b"));
        assert_eq!(&*snapshot.routes[0].own_cookies, [Arc::from("hw")]);
    }
}
