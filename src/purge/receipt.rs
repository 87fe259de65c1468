//! What became of purges, the last ones of them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

/// Receipts that are kept, those of unfinished purges always.
const RECEIPTS_MAX: usize = 4096;
/// Of an error's text, in bytes.
const ERROR_BYTES_MAX: usize = 300;

#[derive(Debug, Default)]
pub(super) struct Receipts(BTreeMap<u64, Status>);

/// How far a purge has come.
#[derive(Debug, Clone)]
pub(super) struct Status {
    created: SystemTime,
    is_soft: bool,
    fronts: BTreeMap<&'static str, Part>,
    ended: Option<SystemTime>,
}

/// How far it has come with one front.
#[derive(Debug, Clone)]
pub(super) struct Part {
    operations: usize,
    stage: Stage,
    /// Calls that had a part in it, and those of them that failed.
    calls: u64,
    failed_calls: u64,
    /// Of the last call that failed.
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Cleared once; what began before the purge may still arrive.
    Cleared,
    Done,
    Failed,
}

impl Receipts {
    pub(super) fn begin(&mut self, id: u64, status: Status) {
        self.0.insert(id, status);
        if self.0.len() > RECEIPTS_MAX {
            let oldest = self.0.iter().find(|(_, status)| status.ended.is_some());
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.0.remove(&id);
            }
        }
    }

    pub(super) fn get(&self, id: u64) -> Option<&Status> {
        self.0.get(&id)
    }

    pub(super) fn update(&mut self, id: u64, front: &str, change: impl FnOnce(&mut Part)) {
        if let Some(status) = self.0.get_mut(&id) {
            status.update(front, change);
        }
    }
}

impl Status {
    pub(super) fn new(is_soft: bool) -> Self {
        Self { created: SystemTime::now(), is_soft, fronts: BTreeMap::new(), ended: None }
    }

    pub(super) fn add(&mut self, front: &'static str, operations: usize) {
        let part =
            Part { operations, stage: Stage::Waiting, calls: 0, failed_calls: 0, error: None };
        self.fronts.insert(front, part);
    }

    fn update(&mut self, front: &str, change: impl FnOnce(&mut Part)) {
        let Some(part) = self.fronts.get_mut(front) else { return };
        change(part);
        if self.ended.is_none() && self.fronts.values().all(|part| part.stage.is_end()) {
            self.ended = Some(SystemTime::now());
        }
    }

    pub(super) fn describe(&self, id: &str) -> Value {
        let parts = || self.fronts.values();
        let state = match self.ended {
            None => "pending",
            Some(_) if parts().any(|part| part.stage == Stage::Failed) => "failed",
            Some(_) => "done",
        };
        let fronts: Map<String, Value> =
            self.fronts.iter().map(|(name, part)| ((*name).to_owned(), part.describe())).collect();
        json!({
            "id": id,
            "state": state,
            "soft": self.is_soft,
            "created": seconds(self.created),
            "ended": self.ended.map(seconds),
            "fronts": fronts,
        })
    }
}

impl Stage {
    fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

impl Part {
    pub(super) fn called(&mut self) {
        self.calls += 1;
    }

    pub(super) fn call_failed(&mut self, error: &str) {
        self.failed_calls += 1;
        self.error = Some(shortened(error));
    }

    pub(super) fn cleared(&mut self) {
        self.stage = Stage::Cleared;
    }

    pub(super) fn done(&mut self) {
        self.stage = Stage::Done;
    }

    /// With the reason, or where that is empty with the one that the last call gave.
    pub(super) fn fail(&mut self, why: &str) {
        self.stage = Stage::Failed;
        self.error = match (why, self.error.take()) {
            ("", error) => error,
            (why, None) => Some(shortened(why)),
            (why, Some(error)) => Some(shortened(&format!("{why}; {error}"))),
        };
    }

    fn describe(&self) -> Value {
        let stage = match self.stage {
            Stage::Waiting => "waiting",
            Stage::Cleared => "cleared",
            Stage::Done => "done",
            Stage::Failed => "failed",
        };
        json!({
            "state": stage,
            "operations": self.operations,
            "calls": self.calls,
            "failed_calls": self.failed_calls,
            "error": self.error,
        })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(fronts: &[&'static str]) -> Status {
        let mut status = Status::new(true);
        fronts.iter().for_each(|front| status.add(front, 3));
        status
    }

    #[test]
    fn old_receipts_go_but_never_those_of_unfinished_purges() {
        let mut receipts = Receipts::default();
        let max = RECEIPTS_MAX as u64;
        for id in 0..max {
            receipts.begin(id, status(&["a"]));
        }
        receipts.update(7, "a", Part::done);
        receipts.begin(max, status(&["a"]));
        assert!(receipts.get(7).is_none() && receipts.get(0).is_some());
    }

    #[test]
    fn a_receipt_says_how_far_it_is() {
        let mut status = status(&["a"]);
        let state = |status: &Status| {
            let shown = status.describe("x-1");
            let front = shown["fronts"]["a"]["state"].as_str().unwrap().to_owned();
            (shown["state"].as_str().unwrap().to_owned(), front)
        };
        assert_eq!(state(&status), ("pending".into(), "waiting".into()));
        status.update("a", Part::cleared);
        assert_eq!(state(&status), ("pending".into(), "cleared".into()));
        status.update("a", Part::done);
        assert_eq!(state(&status), ("done".into(), "done".into()));
        status.update("a", |part| part.fail(&"é".repeat(1000)));
        let shown = status.describe("x-1");
        assert_eq!(shown["state"], "failed");
        assert_eq!(shown["fronts"]["a"]["error"].as_str().unwrap().len(), 300);
    }

    #[test]
    fn a_purge_of_several_fronts_ends_with_the_last_and_fails_with_any() {
        let mut status = status(&["a", "b"]);
        status.update("a", |part| part.fail("why"));
        let shown = status.describe("x-1");
        assert_eq!((&shown["state"], &shown["ended"]), (&json!("pending"), &Value::Null));
        status.update("b", Part::done);
        let shown = status.describe("x-1");
        assert_eq!((&shown["state"], shown["ended"].is_u64()), (&json!("failed"), true));
        assert_eq!(shown["fronts"]["b"]["state"], "done");
    }
}
