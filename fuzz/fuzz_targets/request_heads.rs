//! Raw HTTP/1.1 requests, followed for their framing.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headwater::listener::fuzz::request_heads(data));
