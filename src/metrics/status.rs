//! The closed set of status labels: registered codes by number, all others by class.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// The final codes of the IANA registry, ascending; 101, which ends an exchange as well; and 499,
/// by custom a client that left before its answer.
const REGISTERED: [u16; CODES] = [
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308,
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421,
    422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508,
    510, 511,
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const CODES: usize = 59;
/// Registered codes, then the five classes.
const SLOTS: usize = CODES + CLASSES.len();

/// Where each code from 100 to 599 is counted.
const SLOT_OF: [u8; 500] = slots();

const fn slots() -> [u8; 500] {
    let mut table = [0; 500];
    let mut offset = 0;
    while offset < 500 {
        table[offset] = (CODES + offset / 100) as u8;
        offset += 1;
    }
    let mut index = 0;
    while index < CODES {
        table[(REGISTERED[index] - 100) as usize] = index as u8;
        index += 1;
    }
    table
}

/// Counts of responses by status.
#[derive(Debug)]
pub struct StatusCounts([AtomicU64; SLOTS]);

impl Default for StatusCounts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl StatusCounts {
    #[inline]
    pub fn increment(&self, status: StatusCode) {
        let offset = usize::from(status.as_u16()) - 100;
        // Codes from 600 on are no HTTP; they count as server errors.
        let slot = SLOT_OF.get(offset).map_or(SLOTS - 1, |slot| usize::from(*slot));
        self.0[slot].fetch_add(1, Ordering::Relaxed);
    }

    /// The labels that were counted at least once in any of the copies, with their sums.
    pub fn totals<'a>(
        copies: impl Iterator<Item = &'a Self> + Clone,
    ) -> impl Iterator<Item = (String, u64)> {
        (0..SLOTS).filter_map(move |slot| {
            let copies = copies.clone();
            let count: u64 = copies.map(|counts| counts.0[slot].load(Ordering::Relaxed)).sum();
            (count > 0).then(|| (label(slot), count))
        })
    }
}

fn label(slot: usize) -> String {
    match slot.checked_sub(CODES) {
        Some(class) => CLASSES[class].to_owned(),
        None => REGISTERED[slot].to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(codes: &[u16]) -> StatusCounts {
        let counts = StatusCounts::default();
        for code in codes {
            counts.increment(StatusCode::from_u16(*code).expect("a three-digit code"));
        }
        counts
    }

    fn counted(codes: &[u16]) -> Vec<(String, u64)> {
        let counts = counts(codes);
        StatusCounts::totals([&counts].into_iter()).collect()
    }

    #[test]
    fn registered_codes_are_labelled_by_number() {
        assert_eq!(counted(&[200, 404, 200]), [("200".into(), 2), ("404".into(), 1)]);
    }

    #[test]
    fn unregistered_codes_are_labelled_by_class() {
        assert_eq!(counted(&[299, 288, 599, 999]), [("2xx".to_owned(), 2), ("5xx".to_owned(), 2)]);
    }

    #[test]
    fn copies_are_added_up() {
        let copies = [counts(&[200, 404]), counts(&[200])];
        let totals: Vec<_> = StatusCounts::totals(copies.iter()).collect();
        assert_eq!(totals, [("200".to_owned(), 2), ("404".to_owned(), 1)]);
    }
}
