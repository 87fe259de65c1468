//! Policies beside each other, simulated: 20 endpoints, one of them ten times slower, one failing
//! three of ten requests, at 70 % of what the 18 others can do; the same pool without the two; and
//! with the two, but without ejection, so that the policy stands alone.
//!
//! `ratio` is the p99 over that without the two, `imbalance` the busiest good endpoint over their
//! mean, `slow` and `failing` the requests of those two over it, `peak` the most that an endpoint
//! had under way when it got one more, over the mean.
//!
//!     cargo bench --bench balance

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement prints, and has nobody to hand an error to"
)]
#![expect(unreachable_pub, reason = "a bench exports nothing: `pub` is for its own modules")]

mod simulation;

use std::time::Duration;

use simulation::{Report, Scenario, run};

const POLICIES: [&str; 4] = ["ewma", "least_requests", "round_robin", "hash"];

fn main() {
    println!(
        "{:<15} {:<8} {:>9} {:>8} {:>8} {:>9} {:>6} {:>8} {:>7} {:>7} {:>6}",
        "policy",
        "pool",
        "requests",
        "p50 ms",
        "p99 ms",
        "imbalance",
        "slow",
        "failing",
        "failed",
        "retries",
        "peak"
    );
    for policy in POLICIES {
        let scenario = |with_bad, lines| Scenario {
            policy,
            lines,
            good: 18,
            with_bad,
            length: Duration::from_secs(120),
            warm_up: Duration::from_secs(5),
            seed: 7,
        };
        let good = run(&scenario(false, ""));
        line(policy, "18", &good, None);
        line(policy, "18 + 2", &run(&scenario(true, "")), Some(&good));
        line(policy, "no ejection", &run(&scenario(true, "outlier = false")), Some(&good));
    }
}

/// `good` is the same without the two.
fn line(policy: &str, pool: &str, report: &Report, good: Option<&Report>) {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let ratio = good.map_or(1.0, |good| report.p99.as_secs_f64() / good.p99.as_secs_f64());
    println!(
        "{policy:<15} {pool:<12} {:>9} {:>8.1} {:>8.1} {ratio:>6.2} {:>9.2} {:>6.2} {:>8.2} {:>7} {:>7} {:>6.2}",
        report.requests,
        millis(report.p50),
        millis(report.p99),
        report.imbalance,
        report.bad_shares.0,
        report.bad_shares.1,
        report.failed,
        report.retries,
        report.peak_load,
    );
}
