//! Answers of endpoints: their heads and bodies, wherever the reads cut them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headwater::upstream::fuzz::response(data));
