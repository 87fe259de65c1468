//! `GET /api/routes`: the routes, and what they have answered.

use serde_json::{Map, Value, json};

use crate::cache::status::CacheStatus;
use crate::config::describe::add_conditions;
use crate::config::model;
use crate::snapshot::stats::RouteStats;
use crate::snapshot::{Action, Destination, Route, Snapshot};

pub(super) fn describe(snapshot: &Snapshot) -> Value {
    json!({
        "routes": snapshot.routes.iter().map(|it| route(it)).collect::<Vec<_>>(),
        "unrouted": { "requests": snapshot.unrouted.requests() },
    })
}

fn route(route: &Route) -> Value {
    let spec = &route.spec;
    let (kind, target) = match &route.action {
        Action::Forward(Destination::Pool(backend)) => ("pool", json!(&*backend.spec.name)),
        Action::Forward(Destination::Split(_)) => ("split", split(&spec.action)),
        Action::Redirect(redirect) => ("redirect", json!(redirect.status.as_u16())),
        Action::Respond(respond) => ("respond", json!(respond.status.as_u16())),
    };
    let mut described = json!({
        "name": &*spec.name,
        "hosts": spec.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "paths": spec.paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "listeners": spec.listeners.iter().map(|name| &**name).collect::<Vec<_>>(),
        "priority": spec.priority,
        "requests": route.stats.requests(),
        "cache": spec.cache.as_ref().map(|_| cached(&route.stats)),
    });
    add_conditions(&spec.conditions, &mut described);
    described[kind] = target;
    described
}

/// The pools and their shares.
fn split(action: &model::Action) -> Value {
    let model::Action::Split(shares) = action else { return Value::Null };
    shares.iter().map(|it| json!({ "pool": &*it.pool, "weight": it.weight })).collect()
}

/// How many requests the cache answered in which way.
fn cached(stats: &RouteStats) -> Value {
    let counts = CacheStatus::ALL
        .into_iter()
        .map(|status| (status.as_str().to_owned(), json!(stats.cached(status))));
    Value::Object(counts.collect::<Map<_, _>>())
}
