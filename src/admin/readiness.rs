//! Whether requests should be sent here.
//!
//! One dead backend must not take every edge out of service: an empty pool is told about, and
//! counts only where `admin.ready_requires` names it.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::Context;
use super::reply::{Reply, text};
use crate::config::model::Name;
use crate::shutdown::Phase;
use crate::snapshot::Snapshot;

/// How long the first probes are waited for.
const VERDICTS_PATIENCE: Duration = Duration::from_secs(5);

/// What readiness depends on.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    phase: Phase,
    /// Every listener is bound.
    accepting: bool,
    uptime: Duration,
    pools: &'a [PoolFacts],
    required: &'a [Name],
}

#[derive(Debug)]
struct PoolFacts {
    name: Name,
    is_judged: bool,
    is_usable: bool,
}

/// The pools without a usable endpoint, or why not to send requests.
type Readiness = Result<Vec<Name>, String>;

pub(super) fn reply(context: &Context, snapshot: &Snapshot) -> Reply {
    let now = Instant::now();
    let balanced = snapshot.config.pools.iter().filter_map(|pool| {
        let balanced = snapshot.backends.get(&pool.name)?.balanced()?;
        Some((&pool.name, &balanced.pool))
    });
    let pools: Vec<_> = balanced
        .map(|(name, pool)| PoolFacts {
            name: name.clone(),
            is_judged: pool.is_judged(),
            is_usable: pool.is_usable(now),
        })
        .collect();
    let admin = snapshot.config.admin.as_ref();
    let readiness = judge(Facts {
        phase: context.stop.phase(),
        accepting: !context.addresses.load().is_empty(),
        uptime: context.started.elapsed(),
        pools: &pools,
        required: admin.map_or(&[], |admin| &admin.ready_requires),
    });
    match readiness {
        Ok(empty) if empty.is_empty() => text(StatusCode::OK, "ok"),
        Ok(empty) => text(StatusCode::OK, format!("ok\n{}", list(&empty))),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn judge(facts: Facts<'_>) -> Readiness {
    if facts.phase > Phase::Running {
        return Err(format!("stopping: {}", facts.phase.as_str()));
    }
    if !facts.accepting {
        return Err("starting: not every listener is bound".to_owned());
    }
    let unjudged = facts.pools.iter().find(|pool| !pool.is_judged);
    if let Some(pool) = unjudged
        && facts.uptime < VERDICTS_PATIENCE
    {
        return Err(format!("starting: pool {} has not been probed", pool.name));
    }
    let empty: Vec<_> =
        facts.pools.iter().filter(|pool| !pool.is_usable).map(|pool| pool.name.clone()).collect();
    if empty.iter().any(|name| facts.required.contains(name)) {
        return Err(list(&empty));
    }
    Ok(empty)
}

fn list(empty: &[Name]) -> String {
    format!("pools without a usable endpoint: {}", empty.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, is_judged: bool, is_usable: bool) -> PoolFacts {
        PoolFacts { name: name.into(), is_judged, is_usable }
    }

    fn facts(pools: &[PoolFacts]) -> Facts<'_> {
        Facts {
            phase: Phase::Running,
            accepting: true,
            uptime: Duration::from_secs(1),
            pools,
            required: &[],
        }
    }

    #[test]
    fn every_pool_must_have_had_its_first_verdict_for_five_seconds_at_most() {
        let pools = [pool("a", true, true), pool("b", false, true)];
        let starting = facts(&pools);
        assert_eq!(judge(starting), Err("starting: pool b has not been probed".to_owned()));
        let uptime = VERDICTS_PATIENCE;
        assert_eq!(judge(Facts { uptime, ..starting }), Ok(Vec::new()));
    }

    #[test]
    fn it_is_not_ready_before_every_listener_is_bound_however_long_that_takes() {
        let uptime = Duration::from_secs(60);
        assert!(judge(Facts { accepting: false, uptime, ..facts(&[]) }).is_err());
    }

    #[test]
    fn it_is_not_ready_from_the_stop_on() {
        for phase in [Phase::Leaving, Phase::Draining, Phase::Aborting] {
            assert!(judge(Facts { phase, ..facts(&[]) }).is_err());
        }
    }

    #[test]
    fn an_empty_pool_is_told_about_and_counts_only_where_it_is_required() {
        let pools = [pool("a", true, true), pool("b", true, false)];
        assert_eq!(judge(facts(&pools)), Ok(vec![Name::from("b")]));
        let others = [Name::from("a")];
        assert!(judge(Facts { required: &others, ..facts(&pools) }).is_ok());
        let required = [Name::from("b")];
        assert_eq!(
            judge(Facts { required: &required, ..facts(&pools) }),
            Err("pools without a usable endpoint: b".to_owned())
        );
    }
}
