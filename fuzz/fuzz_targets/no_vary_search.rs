//! No-Vary-Search, and queries.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| headwater::cache::fuzz::no_vary_search(input.0, input.1));
