//! Range, If-Range and Content-Range.
#![no_main]

use headwater::range::{self, Selection};
use http::{HeaderMap, HeaderValue};

libfuzzer_sys::fuzz_target!(|input: (u64, &[u8])| {
    let (size, text) = input;
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let _ = range::complete_bytes(&value);
    let mut headers = HeaderMap::new();
    headers.insert("range", value.clone());
    headers.insert("if-range", value);
    let _ = range::IfRange::from_headers(&headers);
    let Some(ranges) = range::Ranges::from_headers(&headers) else { return };
    if let Selection::Spans(spans) = ranges.select(size) {
        assert!(!spans.is_empty() && spans.len() <= 16);
        assert!(spans.iter().all(|span| span.first <= span.last && span.last < size));
    }
});
