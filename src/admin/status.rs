//! `GET /api/status`: the process in a few figures.

use std::collections::HashMap;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Context;
use super::reloads::Reload;
use crate::config::model::{Front, Listener, Name, RangesSource};
use crate::metrics::{Counter, Gauge};
use crate::snapshot::Snapshot;
use crate::snapshot::stats::ListenerStats;

/// How old the lists of the fronts' networks are, by listener. Looks at files, which may block.
pub(super) fn list_ages(snapshot: &Snapshot) -> HashMap<Name, u64> {
    let now = SystemTime::now();
    let listeners = snapshot.config.listeners.iter();
    let age = |listener: &Listener| {
        let trusted = &snapshot.listeners.get(&listener.name)?.trusted;
        Some((listener.name.clone(), trusted.age(listener, now)?.as_secs()))
    };
    listeners.filter_map(age).collect()
}

pub(super) fn describe(
    context: &Context,
    snapshot: &Snapshot,
    list_ages: &HashMap<Name, u64>,
) -> Value {
    let bound = context.addresses.load();
    let listeners = snapshot.config.listeners.iter().map(|listener| {
        let compiled = snapshot.listeners.get(&listener.name);
        let tls = compiled.and_then(|compiled| compiled.tls.as_ref());
        let addresses = bound.iter().filter(|(name, _)| *name == listener.name);
        let mut described = json!({
            "name": &*listener.name,
            "addresses": addresses.map(|(_, address)| address.to_string()).collect::<Vec<_>>(),
            "tls": listener.tls.is_some(),
        });
        if let Some(tls) = tls {
            described["certificates"] = json!(tls.certificates.certificates().len());
            described["certificate_problems"] = json!(texts(&tls.problems));
        }
        if let Some(compiled) =
            compiled.filter(|_| listener.front != Front::None || listener.trusted_from.is_some())
        {
            let trusted = &compiled.trusted;
            described["front"] = json!({
                "name": listener.front.as_str(),
                "from": listener.trusted_from.as_ref().map(RangesSource::shown),
                "networks": trusted.listed().len(),
                "age_seconds": list_ages.get(&listener.name),
                "problem": trusted.trouble(),
            });
        }
        described
    });
    let record = context.reloads.record();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": context.started.elapsed().as_secs(),
        "state": context.stop.phase().as_str(),
        "generation": snapshot.generation,
        "workers": context.workers,
        "listeners": listeners.collect::<Vec<_>>(),
        "last_reload": record.last.as_ref().map(last_reload),
        "totals": totals(snapshot),
    })
}

fn texts(of: &[impl ToString]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

fn last_reload(reload: &Reload) -> Value {
    json!({
        "at": timestamp(reload.at),
        "ok": reload.result.is_ok(),
        "error": reload.result.as_ref().err(),
    })
}

/// RFC 3339 in UTC, to the second.
fn timestamp(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

fn totals(snapshot: &Snapshot) -> Value {
    let gauge = |of: fn(&ListenerStats) -> &Gauge| -> i64 {
        snapshot.listeners.values().map(|listener| of(&listener.stats).value()).sum()
    };
    let counter = |of: fn(&ListenerStats) -> &Counter| -> u64 {
        snapshot.listeners.values().map(|listener| of(&listener.stats).value()).sum()
    };
    let routed: u64 = snapshot.routes.iter().map(|route| route.stats.requests()).sum();
    json!({
        "requests": routed + snapshot.unrouted.requests(),
        "requests_in_flight": gauge(|stats| &stats.requests_in_flight),
        "connections": gauge(|stats| &stats.connections),
        "connections_accepted": counter(|stats| &stats.accepted),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reload_is_shown_with_its_time_and_its_error() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let failed = Reload { at, result: Err("no".to_owned()) };
        assert_eq!(
            last_reload(&failed),
            json!({ "at": "1970-01-01T00:00:01Z", "ok": false, "error": "no" })
        );
        let succeeded = Reload { at, result: Ok(2) };
        assert_eq!(last_reload(&succeeded)["error"], Value::Null);
    }
}
