//! Heads of responses that a cache is asked to store.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| headwater::cache::fuzz::head(input.0, input.1));
