//! Everything that a request needs to know of the configuration, compiled and immutable.
//!
//! A snapshot is built off to the side and published in one swap. What did not change it takes
//! over from its predecessor: pools with their endpoints' health and connections, TLS states with
//! their session tickets, counters. Nothing here binds a port or opens a connection.

mod access;
mod backend;
mod cdn_loop;
mod front_cache;
mod guests;
mod limit;
mod listener;
mod pages;
mod route;
pub mod stats;
#[cfg(test)]
pub mod testing;
mod trusted;
mod via;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use http::Method;

pub use access::Access;
pub use backend::{Backend, Balanced, Kind as BackendKind};
pub use cdn_loop::{CDN_LOOP, CdnLoop, Passed};
pub use front_cache::{FrontCache, TooManyTags};
pub use guests::Guest;
pub use limit::{Connected, ConnectionLimit};
pub use listener::Listener;
pub use pages::{ErrorPages, Page};
pub use route::{Action, Destination, Mirror, Route};
use stats::RouteStats;
pub use trusted::{Fetch, Fetched};
pub use via::Via;

use crate::balance::Manual;
use crate::cache::key_spec::QuerySpec;
use crate::cache::{Cache, UrlTarget};
use crate::challenges::Challenges;
use crate::config::diagnostics::{Diagnostic, Sources};
use crate::config::model::{self, Name};
use crate::files::Reader;
use crate::route::table::RouteTable;
use crate::route::{Lookup, Query};
use crate::under_way::UnderWay;

/// A compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 for the first one of a process, then one more for each.
    pub generation: u64,
    pub config: Arc<model::Config>,
    /// The files that it came from, for showing places.
    pub sources: Arc<Sources>,
    pub listeners: HashMap<Name, Arc<Listener>>,
    pub backends: HashMap<Name, Arc<Backend>>,
    pub routes: Vec<Arc<Route>>,
    table: RouteTable,
    /// Counts requests that match no route.
    pub unrouted: Arc<RouteStats>,
    pub cache: Arc<Cache>,
    pub under_way: Arc<UnderWay>,
    pub challenges: Arc<Challenges>,
    /// Every way in which routes make keys of queries, each once.
    queries: Vec<QuerySpec>,
    pub via: Via,
    pub cdn_loop: CdnLoop,
    /// Some listener asks something of clients.
    pub asks_clients: bool,
}

/// What every snapshot of a process shares.
#[derive(Debug, Clone)]
pub struct Resources {
    pub cache: Arc<Cache>,
    /// The responses that are being sent.
    pub under_way: Arc<UnderWay>,
    /// Those of authorities that are to be answered.
    pub challenges: Arc<Challenges>,
    pub files: Arc<Reader>,
    /// The bound on open connections of all listeners together.
    pub connections: Arc<ConnectionLimit>,
}

/// A snapshot, or every reason why there is none.
pub type Built = Result<Snapshot, Vec<Diagnostic>>;

impl Snapshot {
    /// Compiles `config`, taking over from `previous` what did not change.
    pub fn build(
        config: Arc<model::Config>,
        previous: Option<&Self>,
        resources: &Resources,
    ) -> Built {
        let mut problems = Vec::new();
        let listeners = build_listeners(&config, previous, resources, &mut problems);
        let backends = build_backends(&config, previous, resources, &mut problems);
        let table = RouteTable::build(&config.routes)
            .map_err(|ties| problems.extend(ties.iter().map(|t| route::describe_tie(&config, t))));
        problems.extend(route::mirror_problems(&config));
        let ids = stats::listener_count();
        let routes = build_routes(&config, previous, &backends, ids);
        let (Ok(table), Some(routes), true) = (table, routes, problems.is_empty()) else {
            return Err(problems);
        };
        let unrouted = RouteStats::grown(previous.map(|snapshot| &*snapshot.unrouted), ids);
        let mut queries = vec![QuerySpec::default()];
        for route in &routes {
            if !queries.contains(route.key.query()) {
                queries.push(route.key.query().clone());
            }
        }
        Ok(Self {
            queries,
            sources: Arc::default(),
            generation: previous.map_or(1, |snapshot| snapshot.generation + 1),
            via: Via::new(&config.cache.name),
            cdn_loop: CdnLoop::new(&config.cache.name, previous.map(|snapshot| &snapshot.cdn_loop)),
            config,
            asks_clients: listeners.values().any(|listener| listener.asks_clients()),
            listeners,
            backends,
            routes,
            table,
            unrouted: Arc::new(unrouted),
            cache: resources.cache.clone(),
            under_way: resources.under_way.clone(),
            challenges: resources.challenges.clone(),
        })
    }

    /// The route of a request, by its index.
    #[inline]
    pub fn route(&self, query: &Query<'_>) -> Option<usize> {
        match self.table.lookup(query) {
            Lookup::Found(index) => Some(index),
            Lookup::NoRoute => None,
        }
    }

    /// The methods with which a request that no route takes would have found one.
    pub fn methods_of(&self, query: &Query<'_>) -> Vec<Method> {
        self.table.methods(query)
    }

    /// What the cache may hold of a URL; host and path in their normal forms.
    pub fn url_target(&self, host: &str, path: &str, query: Option<&str>) -> UrlTarget {
        let mut queries: Vec<_> =
            self.queries.iter().map(|spec| spec.form(query).map(Cow::into_owned)).collect();
        queries.sort_unstable();
        queries.dedup();
        UrlTarget { host: host.to_owned(), path: path.to_owned(), queries }
    }

    /// The ids of all endpoints to which connections may rest.
    pub fn endpoint_ids(&self) -> HashSet<u64> {
        self.backends
            .values()
            .filter_map(|backend| backend.balanced())
            .flat_map(|balanced| {
                let members = balanced.pool.members();
                let may_rest = members.iter().filter(|it| it.endpoint.manual() != Manual::Down);
                may_rest.map(|member| member.endpoint.id).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether requests are logged at all.
    pub fn is_logging(&self) -> bool {
        self.config.log.access.to != model::AccessTarget::Off
    }
}

/// The problems that compiling would find, for a configuration that has others: all at once.
pub fn further_problems(config: &model::Config, resources: &Resources) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    build_listeners(config, None, resources, &mut problems);
    build_backends(config, None, resources, &mut problems);
    if let Err(ties) = RouteTable::build(&config.routes) {
        problems.extend(ties.iter().map(|tie| route::describe_tie(config, tie)));
    }
    problems
}

fn build_listeners(
    config: &model::Config,
    previous: Option<&Snapshot>,
    resources: &Resources,
    problems: &mut Vec<Diagnostic>,
) -> HashMap<Name, Arc<Listener>> {
    let mut listeners = HashMap::new();
    for spec in &config.listeners {
        let before = previous.and_then(|snapshot| snapshot.listeners.get(&spec.name));
        match Listener::build(spec, before, &resources.connections) {
            Ok(listener) => {
                listeners.insert(spec.name.clone(), listener);
            }
            Err(found) => problems.extend(found),
        }
    }
    listeners
}

/// `None` if a pool could not be built.
fn build_routes(
    config: &model::Config,
    previous: Option<&Snapshot>,
    backends: &HashMap<Name, Arc<Backend>>,
    listener_count: usize,
) -> Option<Vec<Arc<Route>>> {
    let known: HashMap<&str, &Arc<Route>> = previous
        .iter()
        .flat_map(|snapshot| &snapshot.routes)
        .map(|route| (&*route.spec.name, route))
        .collect();
    let build = |spec: &model::Route| {
        let before = known.get(&*spec.name).map(|route| &***route);
        Route::new(spec, backends, before, listener_count).map(Arc::new)
    };
    config.routes.iter().map(build).collect()
}

fn build_backends(
    config: &model::Config,
    previous: Option<&Snapshot>,
    resources: &Resources,
    problems: &mut Vec<Diagnostic>,
) -> HashMap<Name, Arc<Backend>> {
    let now = Instant::now();
    let zone = config.process.zone.as_ref();
    let mut backends = HashMap::new();
    for spec in &config.pools {
        let before = previous.and_then(|snapshot| snapshot.backends.get(&spec.name));
        if let Some(before) = before.filter(|before| before.is_built_from(spec, zone)) {
            backends.insert(spec.name.clone(), before.clone());
            continue;
        }
        match Backend::build(spec, zone, before.map(|before| &**before), resources, now) {
            Ok(backend) => {
                backends.insert(spec.name.clone(), Arc::new(backend));
            }
            Err(problem) => problems.push(problem),
        }
    }
    backends
}
