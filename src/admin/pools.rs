//! `GET /api/pools`: every endpoint with its state, and why it is not usable.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::balance::{
    Availability, Endpoint, Member, Pool, Reason, Standing, Verdict, process_millis,
};
use crate::config::model::PoolSource;
use crate::snapshot::{Backend, Snapshot};

pub(super) fn describe(snapshot: &Snapshot) -> Value {
    let now = Instant::now();
    let backends =
        snapshot.config.pools.iter().filter_map(|pool| snapshot.backends.get(&pool.name));
    json!({ "pools": backends.map(|backend| describe_backend(backend, now)).collect::<Vec<_>>() })
}

fn describe_backend(backend: &Backend, now: Instant) -> Value {
    let name = &*backend.spec.name;
    match (backend.balanced(), &backend.spec.source) {
        (Some(balanced), source) => {
            let mut described = describe_pool(name, &balanced.pool, now);
            if source.has_names() {
                described["dns"] = describe_lookups(source, &balanced.pool, now);
            }
            described
        }
        (None, PoolSource::Files(files)) => {
            json!({ "name": name, "files": files.root.display().to_string(), "usable": true })
        }
        (None, PoolSource::Endpoints(_) | PoolSource::Dns(_)) => json!({ "name": name }),
    }
}

fn describe_pool(name: &str, pool: &Pool, now: Instant) -> Value {
    let candidates = pool.candidates(now);
    let picked: HashSet<u64> = candidates.members.iter().map(|it| it.endpoint.id).collect();
    let members = pool.members();
    let endpoints = members
        .iter()
        .map(|member| describe_endpoint(pool, member, picked.contains(&member.endpoint.id), now));
    json!({
        "name": name,
        "usable": pool.is_usable(now),
        "judged": pool.is_judged(),
        "panic": candidates.panic,
        "queued": pool.queue_len(),
        "queue_max": pool.limits.queue_max,
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// The name, the age of the answer that is used, and why there was no other one since.
fn describe_lookups(source: &PoolSource, pool: &Pool, now: Instant) -> Value {
    let name = match source {
        PoolSource::Dns(name) => Some(name.to_string()),
        PoolSource::Endpoints(_) | PoolSource::Files(_) => None,
    };
    json!({
        "name": name,
        "age_seconds": pool.stats.discovered.age(now).map(|age| age.as_secs_f64()),
        "failure": pool.stats.discovered.failure(),
    })
}

fn describe_endpoint(pool: &Pool, member: &Member, picked: bool, now: Instant) -> Value {
    let endpoint = &member.endpoint;
    // A copy, so that the lock is not held while text is made.
    let standing = endpoint.standing().clone();
    let (state, reason) = state(endpoint, &standing, now);
    let idle = endpoint.connections_idle();
    json!({
        "address": &*endpoint.label,
        "state": state,
        "reason": reason,
        "manual": endpoint.manual().as_str(),
        "circuit": endpoint.circuit(now).as_str(),
        "at_limit": pool.is_at_limit(endpoint),
        "health": standing.verdict().as_str(),
        "last_error": endpoint.last_error().map(|last| json!({
            "error": last.kind,
            "reason": &*last.reason,
            "seconds_ago": now.saturating_duration_since(last.at).as_secs_f64(),
        })),
        "picked": picked,
        "weight": member.weight,
        "backup": member.backup,
        "zone": member.zone.as_deref(),
        "in_flight": endpoint.requests_in_flight(),
        "tunnels": endpoint.tunnels(),
        "connections": {
            "active": endpoint.connections_open().saturating_sub(idle),
            "idle": idle,
        },
        "latency_ms": endpoint.latency_seconds(process_millis(now)).map(|seconds| seconds * 1e3),
        "resolved": endpoint.resolved().iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// A word for the state, and in words why it is not `usable`.
fn state(endpoint: &Endpoint, standing: &Standing, now: Instant) -> (&'static str, Option<String>) {
    if !endpoint.is_resolved() {
        return ("unresolved", Some("its name does not resolve".to_owned()));
    }
    let availability = endpoint.availability(now);
    let reason = match availability {
        Availability::Usable => None,
        Availability::Aside => {
            standing.why_aside().map(|why| format!("its last connect failed: {why}"))
        }
        Availability::Trial => standing
            .why_aside()
            .map(|why| format!("its last connect failed: {why}; a request may try it")),
        Availability::Ejected => {
            let left = standing.ejection_left(now).map_or(Duration::ZERO, |(left, _)| left);
            let reason = standing.ejection_reason().map_or("ejected", Reason::as_str);
            Some(format!("{reason}; back in {} s", left.as_secs() + 1))
        }
        Availability::Draining | Availability::Down => Some("set by hand".to_owned()),
        Availability::Unhealthy => match standing.verdict() {
            Verdict::Unhealthy(reason) => Some(reason.clone()),
            _ => Some("new, and not probed yet".to_owned()),
        },
    };
    (availability.as_str(), reason)
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::*;

    #[test]
    fn an_endpoint_says_why_it_is_not_usable() {
        let snapshot = snapshot(
            "[pool.app]\nendpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\", \"app.test:80\"]\n\
             health.path = \"/ok\"\n",
        );
        let pool = &snapshot.backends["app"].balanced().unwrap().pool;
        let members = pool.members();
        let now = Instant::now();
        pool.probed(&members[0].endpoint, Err("status 500".to_owned()), now);
        pool.connect_failed(&members[1].endpoint, || "connection refused".to_owned(), now);
        let described = describe(&snapshot);
        let of = |index: usize| {
            let endpoint = &described["pools"][0]["endpoints"][index];
            (endpoint["state"].clone(), endpoint["reason"].clone())
        };
        assert_eq!(of(0), (json!("unhealthy"), json!("status 500")));
        assert_eq!(
            of(1),
            (json!("set_aside"), json!("its last connect failed: connection refused"))
        );
        assert_eq!(of(2), (json!("unresolved"), json!("its name does not resolve")));
        assert_eq!(described["pools"][0]["judged"], json!(false));
    }

    #[test]
    fn a_folder_is_a_pool_without_endpoints() {
        let snapshot = snapshot("[pool.app]\nfiles = \"/\"\n");
        let described = describe(&snapshot);
        assert_eq!(described["pools"], json!([{ "name": "app", "files": "/", "usable": true }]));
    }
}
