//! Dates in every format.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| headwater::cache::fuzz::http_date(text));
