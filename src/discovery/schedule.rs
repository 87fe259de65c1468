//! When one subject is looked up, and what is said about it.
//!
//! An answer is good for the time that it says, within the pool's floor and ceiling, and a random
//! part longer, so that fleets do not ask in step. A lookup that fails is repeated after waits that
//! double.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Finder;
use super::lookup::{Memory, look_up};
use super::resolver::Failure;
use super::subject::{Settled, Subject, Unused};
use crate::balance::Pool;
use crate::config::model::{DnsRules, Name};
use crate::snapshot::Backend;
use crate::upstream::tell;

/// The longest wait after a lookup that failed, unless `dns_ttl` has other bounds.
const FAILING_WAIT_MAX: Duration = Duration::from_secs(30);
/// Waits are longer by a random part up to this share.
const JITTER: f64 = 0.1;

/// The lookups of one subject.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) finder: Rc<Finder>,
    pub(super) pool: Name,
    pub(super) subject: Subject,
    pub(super) rules: DnsRules,
}

/// What was said last, so that nothing is said twice.
#[derive(Debug, Default)]
struct Said {
    /// Lookups in a row that failed.
    failures: u32,
    unused: Unused,
}

impl Schedule {
    /// Looks up until the other half of `ended` is dropped.
    pub(super) async fn run(self, ended: oneshot::Receiver<Infallible>) {
        tokio::select! {
            biased;
            _ = ended => {}
            () = self.repeat() => {}
        }
    }

    async fn repeat(&self) {
        let (mut memory, mut said) = (Memory::default(), Said::default());
        let resolved = self.backend().is_some_and(|backend| {
            backend.balanced().is_some_and(|balanced| self.subject.is_resolved(&balanced.pool))
        });
        if resolved {
            // The answer that it has may be nearly over; nobody has kept how long it is good for.
            sleep(self.jittered(self.rules.ttl_min)).await;
        }
        loop {
            let wait = self.look_up(&mut memory, &mut said).await;
            sleep(self.jittered(wait)).await;
        }
    }

    /// One lookup; how long to wait for the next.
    async fn look_up(&self, memory: &mut Memory, said: &mut Said) -> Duration {
        // The semaphore is never closed.
        let _permit = self.finder.permits.acquire().await;
        let Some(backend) = self.backend() else { return self.rules.ttl_max };
        let Some(balanced) = backend.balanced() else { return self.rules.ttl_max };
        let known = self.subject.known(&balanced.pool);
        let answer = match self.finder.resolver().await {
            Ok(resolver) => look_up(&resolver, &self.subject.name, &known, memory).await,
            Err(why) => Err(Failure::Failed(why)),
        };
        // A reload may have replaced the pool meanwhile.
        let backend = self.backend().unwrap_or(backend);
        let Some(balanced) = backend.balanced() else { return self.rules.ttl_max };
        let pool = &balanced.pool;
        let now = Instant::now().into_std();
        match self.subject.settle(pool, self.rules.loopback, answer, now) {
            Ok(settled) => {
                said.answered(pool, &self.subject, &settled);
                if settled.has_changed_pool {
                    self.finder.tell_changed();
                }
                settled.ttl.clamp(self.rules.ttl_min, self.rules.ttl_max)
            }
            Err(failure @ Failure::Ours(_)) => {
                tell(&failure, "names cannot be looked up");
                self.rules.ttl_min
            }
            Err(failure) => {
                said.failed(pool, &self.subject, &failure);
                after_failure(&self.rules, said.failures)
            }
        }
    }

    fn backend(&self) -> Option<Arc<Backend>> {
        self.finder.published.load().backends.get(&self.pool).cloned()
    }

    fn jittered(&self, wait: Duration) -> Duration {
        wait.mul_f64(1.0 + JITTER * self.finder.rng.unit())
    }
}

/// How long to wait after this many failures in a row.
fn after_failure(rules: &DnsRules, failures: u32) -> Duration {
    let longest = FAILING_WAIT_MAX.clamp(rules.ttl_min, rules.ttl_max);
    let doublings = failures.saturating_sub(1).min(16);
    (rules.ttl_min * 2_u32.pow(doublings)).min(longest)
}

impl Said {
    fn answered(&mut self, pool: &Pool, subject: &Subject, settled: &Settled) {
        let name = &subject.name;
        if self.failures > 0 {
            tracing::info!(pool = %pool.name, %name, failures = self.failures, "name resolves again");
            self.failures = 0;
        }
        if self.unused != settled.unused {
            settled.unused.warn(pool, subject);
            self.unused = Unused { special: settled.unused.special.clone(), ..settled.unused };
        }
    }

    /// Warns of the first failure in a row.
    fn failed(&mut self, pool: &Pool, subject: &Subject, failure: &Failure) {
        self.failures = self.failures.saturating_add(1);
        let (name, pool_name) = (&subject.name, &pool.name);
        let age = pool.stats.discovered.age(Instant::now().into_std()).map(|age| age.as_secs());
        if self.failures > 1 {
            tracing::debug!(pool = %pool_name, %name, %failure, age, "name does still not resolve");
        } else if subject.is_resolved(pool) {
            tracing::warn!(pool = %pool_name, %name, %failure, age, "name does not resolve; its last answer is kept");
        } else {
            tracing::warn!(pool = %pool_name, %name, %failure, "name does not resolve");
        }
    }
}

impl Unused {
    pub(super) fn warn(&self, pool: &Pool, subject: &Subject) {
        let name = &subject.name;
        if !self.special.is_empty() {
            let addresses = &self.special;
            tracing::warn!(pool = %pool.name, %name, ?addresses, "addresses of this machine or of groups are not used; `dns_loopback` is for the former");
        }
        if self.excess > 0 {
            let excess = self.excess;
            tracing::warn!(pool = %pool.name, %name, excess, "there are too many addresses; some are not used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_after_failures_double_from_the_floor_to_the_ceiling() {
        let seconds = Duration::from_secs;
        let waits = |min, max| {
            let rules = DnsRules { loopback: false, ttl_min: seconds(min), ttl_max: seconds(max) };
            (1..=7).map(|failures| after_failure(&rules, failures).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1, 60), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(waits(1, 5), [1, 2, 4, 5, 5, 5, 5]);
        assert_eq!(waits(40, 60), [40; 7]);
    }
}
