//! Ranges (RFC 9110 §14): from the text of `Range` to the spans of one representation, the
//! condition on it, and the frame around several spans. Pure.
//!
//! A field that breaks the grammar, has another unit or asks for more than 16 ranges
//! is ignored, as the RFC allows: the whole representation is the answer. Deliberately absent:
//! the bytes; whoever holds a representation cuts it.

mod if_range;
mod multipart;

use http::{HeaderMap, HeaderValue, header};

pub use if_range::IfRange;
pub use multipart::{Multipart, Piece};

/// Ranges in one request; a field with more is ignored.
const RANGES_MAX: usize = 16;

/// What a valid `Range` field asks for, before the size of the representation is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    /// Positions of the first and the last byte; the last is `u64::MAX` when left open.
    Between(u64, u64),
    /// So many bytes from the end.
    Suffix(u64),
}

/// The part of a representation that `Ranges` selects.
#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// At least one; no two overlap or touch.
    Spans(Vec<Span>),
    Unsatisfiable,
}

/// Bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

impl Ranges {
    /// `None` when there is no `Range`, or one to ignore.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(header::RANGE).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        Self::parse(field.to_str().ok()?)
    }

    fn parse(field: &str) -> Option<Self> {
        let (unit, set) = field.split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut ranges = Vec::new();
        let members = set.split(',').map(|member| member.trim_matches([' ', '\t']));
        for member in members.filter(|member| !member.is_empty()) {
            if ranges.len() == RANGES_MAX {
                return None;
            }
            ranges.push(Range::parse(member)?);
        }
        (!ranges.is_empty()).then_some(Self(ranges))
    }

    /// The spans of a representation of `size` bytes, in the order in which they were asked for.
    pub fn select(&self, size: u64) -> Selection {
        // A suffix of nothing is satisfiable, but no Content-Range can express it.
        if size == 0 && self.0.iter().any(|range| matches!(range, Range::Suffix(1..))) {
            return Selection::Whole;
        }
        let spans = coalesce(self.0.iter().filter_map(|range| range.within(size)));
        if spans.is_empty() { Selection::Unsatisfiable } else { Selection::Spans(spans) }
    }
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix(number(length)?)),
            (first, "") => Some(Self::Between(number(first)?, u64::MAX)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    fn within(self, size: u64) -> Option<Span> {
        let end = size.checked_sub(1)?;
        match self {
            Self::Between(first, last) => {
                (first <= end).then_some(Span { first, last: last.min(end) })
            }
            Self::Suffix(0) => None,
            Self::Suffix(length) => Some(Span { first: size.saturating_sub(length), last: end }),
        }
    }
}

impl Span {
    /// All of a representation; `None` when it is empty.
    pub fn whole(size: u64) -> Option<Self> {
        Some(Self { first: 0, last: size.checked_sub(1)? })
    }

    pub fn bytes(self) -> u64 {
        self.last - self.first + 1
    }

    /// The text of `Content-Range`.
    pub fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.last)
    }

    /// The text of `Content-Range` where no span of `size` bytes was asked for.
    pub fn unsatisfied(size: u64) -> String {
        format!("bytes */{size}")
    }

    fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    fn join(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// The length of the whole representation by the `Content-Range` of a part (RFC 9110 §14.4);
/// `None` where it is unknown or the field no sense.
pub fn complete_bytes(content_range: &HeaderValue) -> Option<u64> {
    let (span, length) = content_range.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, length) = (exact(first)?, exact(last)?, exact(length)?);
    (first <= last && last < length).then_some(length)
}

/// Only digits, and no more than 64 bits hold.
fn exact(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Only digits. A number beyond 64 bits is beyond every file too.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Joins spans that overlap or touch, each at the place of the first it was made from. What comes
/// out is never more than the representation, so a list of ranges cannot multiply the work.
fn coalesce(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut apart: Vec<Span> = Vec::new();
    for span in spans {
        let place = apart.iter().position(|other| span.touches(*other)).unwrap_or(apart.len());
        let mut joined = span;
        apart.retain(|other| {
            let touches = span.touches(*other);
            if touches {
                joined = joined.join(*other);
            }
            !touches
        });
        apart.insert(place, joined);
    }
    apart
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn select(field: &str, size: u64) -> Selection {
        Ranges::parse(field).map_or(Selection::Whole, |ranges| ranges.select(size))
    }

    fn spans(spans: &[(u64, u64)]) -> Selection {
        Selection::Spans(spans.iter().map(|&(first, last)| Span { first, last }).collect())
    }

    #[test]
    fn the_first_and_the_last_byte_can_be_asked_for_alone() {
        assert_eq!(select("bytes=0-0", 10), spans(&[(0, 0)]));
        assert_eq!(select("bytes=9-9", 10), spans(&[(9, 9)]));
        assert_eq!(select("bytes=-1", 10), spans(&[(9, 9)]));
    }

    #[test]
    fn an_open_end_and_one_beyond_the_file_mean_its_last_byte() {
        assert_eq!(select("bytes=4-", 10), spans(&[(4, 9)]));
        assert_eq!(select("bytes=4-99", 10), spans(&[(4, 9)]));
        assert_eq!(select("bytes=4-99999999999999999999999", 10), spans(&[(4, 9)]));
    }

    #[test]
    fn a_suffix_longer_than_the_file_is_the_whole_file() {
        assert_eq!(select("bytes=-11", 10), spans(&[(0, 9)]));
    }

    #[test]
    fn a_range_behind_the_end_is_unsatisfiable() {
        assert_eq!(select("bytes=10-", 10), Selection::Unsatisfiable);
        assert_eq!(select("bytes=-0", 10), Selection::Unsatisfiable);
        assert_eq!(select("bytes=99999999999999999999999-", 10), Selection::Unsatisfiable);
        assert_eq!(select("bytes=10-11, 0-1", 10), spans(&[(0, 1)]));
    }

    #[test]
    fn of_an_empty_file_only_a_suffix_is_satisfiable() {
        assert_eq!(select("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(select("bytes=-0", 0), Selection::Unsatisfiable);
        assert_eq!(select("bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn a_field_that_breaks_the_grammar_is_ignored() {
        for field in [
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5-4",
            "bytes=+1-2",
            "bytes=1-2x",
            "bytes=1--2",
            "bytes=0-1,x",
            "bytes=0x1-2",
            "bytes 0-1",
            "lines=0-1",
            "bytes =0-1",
            "=0-1",
        ] {
            assert_eq!(Ranges::parse(field), None, "{field}");
        }
    }

    #[test]
    fn units_have_no_case_and_lists_may_have_blanks_and_empty_members() {
        assert_eq!(select("Bytes=0-1 ,, 4-5", 10), spans(&[(0, 1), (4, 5)]));
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        assert_eq!(select("bytes=0-4, 3-6", 10), spans(&[(0, 6)]));
        assert_eq!(select("bytes=0-4, 5-6", 10), spans(&[(0, 6)]));
        assert_eq!(select("bytes=0-1, 5-6, 1-5", 10), spans(&[(0, 6)]));
        assert_eq!(select("bytes=0-, 0-, 0-", 10), spans(&[(0, 9)]));
    }

    #[test]
    fn ranges_apart_keep_the_order_of_the_request() {
        assert_eq!(select("bytes=8-9, 0-1, 4-4", 10), spans(&[(8, 9), (0, 1), (4, 4)]));
        assert_eq!(select("bytes=8-9, 0-1, 7-7", 10), spans(&[(7, 9), (0, 1)]));
    }

    #[test]
    fn more_than_sixteen_ranges_are_ignored() {
        let list = |count: u64| {
            let members: Vec<_> = (0..count).map(|n| format!("{}-{}", 3 * n, 3 * n)).collect();
            format!("bytes={}", members.join(","))
        };
        assert!(matches!(select(&list(16), 1000), Selection::Spans(spans) if spans.len() == 16));
        assert_eq!(select(&list(17), 1000), Selection::Whole);
    }

    #[test]
    fn two_range_fields_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert!(Ranges::from_headers(&headers).is_some());
        headers.append(header::RANGE, HeaderValue::from_static("bytes=4-5"));
        assert_eq!(Ranges::from_headers(&headers), None);
    }

    #[test]
    fn a_span_knows_its_length_and_its_text() {
        let span = Span { first: 2, last: 5 };
        assert_eq!(span.bytes(), 4);
        assert_eq!(span.content_range(10), "bytes 2-5/10");
        assert_eq!(Span::unsatisfied(10), "bytes */10");
        assert_eq!(Span::whole(0), None);
    }

    #[test]
    fn a_part_tells_how_long_the_whole_is_unless_it_does_not_know() {
        let of = |text| complete_bytes(&HeaderValue::from_static(text));
        assert_eq!(of("bytes 2-5/10"), Some(10));
        for text in ["bytes 2-5/*", "bytes */10", "bytes 5-2/10", "bytes 2-10/10", "lines 2-5/10"] {
            assert_eq!(of(text), None, "{text}");
        }
        for text in ["bytes 2-5", "bytes -5/10", "bytes 2-5/+10", "bytes 2-5/99999999999999999999"]
        {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
