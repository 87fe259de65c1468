//! Values of which every data-plane thread has its own copy.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

static SHARDS: OnceLock<usize> = OnceLock::new();

/// Says how many shards every counter made from now on has: one for each worker and one for the
/// control plane. The first call wins; without one there is a single shard.
pub fn set_shards(count: usize) {
    SHARDS.get_or_init(|| count.max(1));
}

/// Names the shard of the calling thread. Threads that never call this share shard 0.
pub fn set_shard(index: usize) {
    SHARD.set(index);
}

/// One `T` for each shard, each on cache lines of its own.
#[derive(Debug)]
pub struct PerWorker<T> {
    shards: Box<[Padded<T>]>,
}

/// 128 bytes: two lines, because the hardware fetches lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> Default for PerWorker<T> {
    fn default() -> Self {
        let count = SHARDS.get().copied().unwrap_or(1);
        Self { shards: (0..count).map(|_| Padded::default()).collect() }
    }
}

impl<T> PerWorker<T> {
    /// The copy of the calling thread.
    #[inline]
    pub fn local(&self) -> &T {
        let index = SHARD.get();
        &self.shards[if index < self.shards.len() { index } else { 0 }].0
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.shards.iter().map(|shard| &shard.0)
    }
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(PerWorker<AtomicU64>);

impl Counter {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.local().fetch_add(n, Ordering::Relaxed);
    }

    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.iter().map(|shard| shard.load(Ordering::Relaxed)).sum()
    }
}

/// A level. What raises it lowers it in `Drop`, on any thread.
#[derive(Debug, Default)]
pub struct Gauge(PerWorker<AtomicI64>);

impl Gauge {
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.local().fetch_add(n, Ordering::Relaxed);
    }

    /// The sum, never shown below zero: shards are read one after another while they move.
    pub fn value(&self) -> i64 {
        self.0.iter().map(|shard| shard.load(Ordering::Relaxed)).sum::<i64>().max(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_counter_adds_up_what_several_threads_counted() {
        let counter = Arc::new(Counter::default());
        let threads: Vec<_> = (0..4)
            .map(|shard| {
                let counter = counter.clone();
                std::thread::spawn(move || {
                    set_shard(shard);
                    for _ in 0..1000 {
                        counter.increment();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread only counts");
        }
        assert_eq!(counter.value(), 4000);
    }

    #[test]
    fn a_gauge_lowered_elsewhere_reads_zero() {
        let gauge = Gauge::default();
        gauge.add(1);
        gauge.add(-1);
        assert_eq!(gauge.value(), 0);
    }
}
