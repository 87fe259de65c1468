//! The least recently used goes first.

use std::collections::{BTreeMap, HashMap};

pub struct Lru {
    bytes_max: u64,
    bytes: u64,
    clock: u64,
    /// When each was used last, and its size.
    held: HashMap<u64, (u64, u64)>,
    by_use: BTreeMap<u64, u64>,
}

impl Lru {
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, clock: 0, held: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Whether an object was there; it is afterwards.
    pub fn ask(&mut self, object: u64, bytes: u64) -> bool {
        self.clock += 1;
        let before = self.held.insert(object, (self.clock, bytes));
        self.by_use.insert(self.clock, object);
        match before {
            Some((used, _)) => drop(self.by_use.remove(&used)),
            None => self.bytes += bytes,
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some((_, bytes)) = self.held.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
        before.is_some()
    }
}
