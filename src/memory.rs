//! A bounded count of bytes, and charges on it that give themselves back.

use std::cell::Cell;
use std::rc::Rc;
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

/// Bytes in use on one worker against a bound: the same without an atomic.
#[derive(Debug)]
pub struct LocalMemory {
    used: Cell<u64>,
    bytes_max: Cell<u64>,
}

impl LocalMemory {
    pub fn new(bytes_max: u64) -> Rc<Self> {
        Rc::new(Self { used: Cell::new(0), bytes_max: Cell::new(bytes_max) })
    }

    pub fn used(&self) -> u64 {
        self.used.get()
    }

    pub fn set_bytes_max(&self, bytes: u64) {
        self.bytes_max.set(bytes);
    }
}

/// Bytes charged to a worker's memory until this is dropped.
#[derive(Debug)]
pub struct LocalCharge {
    memory: Rc<LocalMemory>,
    bytes: u64,
}

impl LocalCharge {
    /// A charge of nothing.
    pub fn new(memory: &Rc<LocalMemory>) -> Self {
        Self { memory: memory.clone(), bytes: 0 }
    }

    /// Charges `bytes` more, unless that would exceed the bound.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let sum = self.memory.used.get().saturating_add(bytes);
        if sum > self.memory.bytes_max.get() {
            return false;
        }
        self.memory.used.set(sum);
        self.bytes += bytes;
        true
    }

    /// Gives `bytes` back, or all where they are fewer.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.used.set(self.memory.used.get().saturating_sub(bytes));
    }
}

impl Drop for LocalCharge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_of_a_worker_stop_at_the_bound_and_come_back_when_dropped() {
        let memory = LocalMemory::new(100);
        let (mut first, mut second) = (LocalCharge::new(&memory), LocalCharge::new(&memory));
        assert!(first.grow(60) && !second.grow(41) && second.grow(40));
        first.shrink(10);
        assert_eq!(memory.used(), 90);
        first.shrink(1000);
        assert_eq!(memory.used(), 40);
        drop(second);
        assert_eq!(memory.used(), 0);
    }

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
