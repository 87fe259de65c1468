//! Raw HTTP/2 frames, followed for header blocks that do not end.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headwater::listener::fuzz::http2_frames(data));
