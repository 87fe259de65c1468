//! Cache-Control fields for some caches only, which are structured fields.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| headwater::cache::fuzz::targeted(text));
