//! What became of purges, the last ones of them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

/// Receipts that are kept, those of unfinished purges always.
const RECEIPTS_MAX: usize = 4096;
/// Of an error's text, in bytes.
const ERROR_BYTES_MAX: usize = 300;

#[derive(Debug, Default)]
pub(super) struct Receipts(BTreeMap<u64, Status>);

/// How far the purge of a front has come.
#[derive(Debug, Clone)]
pub(super) struct Status {
    created: SystemTime,
    is_soft: bool,
    operations: usize,
    stage: Stage,
    /// Calls that had a part in it, and those of them that failed.
    calls: u64,
    failed_calls: u64,
    /// Of the last call that failed.
    error: Option<String>,
    ended: Option<SystemTime>,
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

    pub(super) fn update(&mut self, id: u64, change: impl FnOnce(&mut Status)) {
        if let Some(status) = self.0.get_mut(&id) {
            change(status);
        }
    }
}

impl Status {
    pub(super) fn new(operations: usize, is_soft: bool) -> Self {
        Self {
            created: SystemTime::now(),
            is_soft,
            operations,
            stage: Stage::Waiting,
            calls: 0,
            failed_calls: 0,
            error: None,
            ended: None,
        }
    }

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
        self.ended = Some(SystemTime::now());
    }

    /// With the reason, or where that is empty with the one that the last call gave.
    pub(super) fn fail(&mut self, why: &str) {
        self.stage = Stage::Failed;
        self.error = match (why, self.error.take()) {
            ("", error) => error,
            (why, None) => Some(shortened(why)),
            (why, Some(error)) => Some(shortened(&format!("{why}; {error}"))),
        };
        self.ended = Some(SystemTime::now());
    }

    pub(super) fn describe(&self, id: &str) -> Value {
        let state = match self.stage {
            Stage::Waiting | Stage::Cleared => "pending",
            Stage::Done => "done",
            Stage::Failed => "failed",
        };
        let stage = match self.stage {
            Stage::Waiting => "waiting",
            Stage::Cleared => "cleared",
            Stage::Done => "done",
            Stage::Failed => "failed",
        };
        json!({
            "id": id,
            "state": state,
            "soft": self.is_soft,
            "created": seconds(self.created),
            "ended": self.ended.map(seconds),
            "fronts": { "cloudflare": {
                "state": stage,
                "operations": self.operations,
                "calls": self.calls,
                "failed_calls": self.failed_calls,
                "error": self.error,
            } },
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

    #[test]
    fn old_receipts_go_but_never_those_of_unfinished_purges() {
        let mut receipts = Receipts::default();
        let max = RECEIPTS_MAX as u64;
        for id in 0..max {
            receipts.begin(id, Status::new(1, false));
        }
        receipts.update(7, Status::done);
        receipts.begin(max, Status::new(1, false));
        assert!(receipts.get(7).is_none() && receipts.get(0).is_some());
    }

    #[test]
    fn a_receipt_says_how_far_it_is() {
        let mut status = Status::new(3, true);
        let state = |status: &Status| {
            let shown = status.describe("x-1");
            let front = shown["fronts"]["cloudflare"]["state"].as_str().unwrap().to_owned();
            (shown["state"].as_str().unwrap().to_owned(), front)
        };
        assert_eq!(state(&status), ("pending".into(), "waiting".into()));
        status.cleared();
        assert_eq!(state(&status), ("pending".into(), "cleared".into()));
        status.done();
        assert_eq!(state(&status), ("done".into(), "done".into()));
        status.fail(&"é".repeat(1000));
        let shown = status.describe("x-1");
        assert_eq!(shown["state"], "failed");
        assert_eq!(shown["fronts"]["cloudflare"]["error"].as_str().unwrap().len(), 300);
    }
}
