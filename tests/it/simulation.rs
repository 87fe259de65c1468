//! Policies under seeded traffic: the bounds that `cargo bench --bench balance` shows in figures.

#[path = "../../benches/balance/simulation.rs"]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::balance::{Lease, Pick, Pool, Rng, Wish, hash_key};
use world::{Report, Scenario, run};

fn simulate(policy: &'static str, lines: &'static str, with_bad: bool) -> Report {
    run(&Scenario {
        policy,
        lines,
        good: 18,
        with_bad,
        length: Duration::from_secs(20),
        warm_up: Duration::from_secs(5),
        seed: 3,
    })
}

#[test]
fn with_ewma_a_slow_and_a_failing_endpoint_are_hardly_felt() {
    let good = simulate("ewma", "", false);
    assert!(good.requests > 30_000 && good.p50 * 3 < good.p99 && good.retries == 0, "{good:?}");
    for lines in ["", "outlier = false"] {
        let bad = simulate("ewma", lines, true);
        assert!(bad.p99 <= good.p99.mul_f64(1.5), "{lines}: {bad:?} {good:?}");
        assert!(bad.failed == 0 && bad.retries > 0, "{lines}: {bad:?}");
        assert!(bad.bad_shares.0 < 0.2 && bad.imbalance < 1.2, "{lines}: {bad:?}");
    }
}

#[test]
fn no_policy_loses_requests_to_them_and_all_spread_evenly() {
    for policy in ["least_requests", "round_robin", "hash"] {
        let bad = simulate(policy, "", true);
        assert_eq!(bad.failed, 0, "{policy}: {bad:?}");
        assert!(bad.imbalance < 1.25, "{policy}: {bad:?}");
    }
}

#[test]
fn bounded_load_holds_whenever_an_endpoint_gets_one_more() {
    let report = simulate("hash", "", true);
    assert!(report.peak_load < 1.25, "{report:?}");
}

fn pick(pool: &Arc<Pool>, key: u64, now: Instant) -> Lease {
    let wish = Wish { key, ..Wish::default() };
    match pool.pick(&Rng::seeded(1), now, &wish) {
        Pick::Leased(lease) => lease,
        other => panic!("no endpoint: {other:?}"),
    }
}

#[test]
fn of_a_hash_only_the_keys_move_whose_endpoint_leaves() {
    let now = Instant::now();
    let keys: Vec<u64> = (0..10_000_u32).map(|number| hash_key(&number.to_le_bytes())).collect();
    for endpoints in [3, 10, 50] {
        let pool = world::pool("hash", endpoints, "", now);
        let placed = |pool: &Arc<Pool>| -> Vec<String> {
            keys.iter().map(|key| pick(pool, *key, now).endpoint().label.to_string()).collect()
        };
        let before = placed(&pool);
        // Whether it leaves by its checks, by hand or by a reload is the same to a pick.
        let gone = pool.members()[endpoints / 2].endpoint.clone();
        pool.connect_failed(&gone, String::new, now);
        let after = placed(&pool);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert_eq!(moved, before.iter().filter(|label| ***label == *gone.label).count());
        let share = moved as f64 / keys.len() as f64;
        assert!(share <= 1.0 / endpoints as f64 + 0.05, "{share} of {endpoints}");
        // Another process, with its endpoints in its own order of events, agrees.
        assert_eq!(placed(&world::pool("hash", endpoints, "", now)), before);
    }
}
