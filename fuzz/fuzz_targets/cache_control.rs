//! Cache-Control, in responses and requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| headwater::cache::fuzz::cache_control(text));
