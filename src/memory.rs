//! A bounded count of bytes, and charges on it that give themselves back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in use against a bound that a reload may move.
#[derive(Debug)]
pub struct Memory {
    used: AtomicU64,
    bytes_max: AtomicU64,
}

impl Memory {
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), bytes_max: AtomicU64::new(bytes_max) })
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    pub fn set_bytes_max(&self, bytes: u64) {
        self.bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Charges `bytes`, unless that would exceed the bound; exact over all threads.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let max = self.bytes_max();
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= max)
            })
            .ok()?;
        Some(Charge { memory: self.clone(), bytes })
    }
}

/// Bytes charged until this is dropped.
#[derive(Debug)]
pub struct Charge {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Charge {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds another charge on the same memory to this one.
    pub fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.memory.used.fetch_sub(excess, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_stop_at_the_bound_and_come_back_when_dropped() {
        let memory = Memory::new(100);
        let first = memory.charge(60).expect("within the bound");
        assert!(memory.charge(41).is_none());
        let second = memory.charge(40).expect("exactly the bound");
        assert_eq!(memory.used(), 100);
        drop(first);
        assert_eq!(memory.used(), 40);
        drop(second);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn an_absorbed_charge_is_given_back_once() {
        let memory = Memory::new(100);
        let mut charge = memory.charge(10).expect("within the bound");
        charge.absorb(memory.charge(20).expect("within the bound"));
        assert_eq!(charge.bytes(), 30);
        charge.shrink_to(5);
        assert_eq!(memory.used(), 5);
        drop(charge);
        assert_eq!(memory.used(), 0);
    }
}
