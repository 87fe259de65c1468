//! Vary, and the fields that it names.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| headwater::cache::fuzz::vary(input.0, input.1));
