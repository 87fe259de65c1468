//! What must hold for every byte stream of a client, for the fuzzer.

use super::frames::FrameScanner;
use super::head::{HeadLimits, HeadScanner};

const LIMITS: HeadLimits =
    HeadLimits { uri_bytes_max: 256, header_bytes_max: 1024, headers_max: 16 };

/// Follows requests in one piece and byte by byte; both must see the same.
pub fn request_heads(data: &[u8]) {
    let mut whole = HeadScanner::new(LIMITS);
    let result = whole.feed(data);
    let mut bytes = HeadScanner::new(LIMITS);
    let mut byte_result = Ok(());
    for byte in data {
        byte_result = bytes.feed(&[*byte]);
        if byte_result.is_err() {
            break;
        }
    }
    assert_eq!(result, byte_result);
    if result.is_ok() {
        assert_eq!(whole.waiting(), bytes.waiting());
        assert_eq!(whole.violation(), bytes.violation());
    }
}

/// Follows HTTP/2 frames in one piece and byte by byte; both must see the same.
pub fn http2_frames(data: &[u8]) {
    let mut whole = FrameScanner::new();
    whole.feed(data);
    let mut bytes = FrameScanner::new();
    data.iter().for_each(|byte| bytes.feed(&[*byte]));
    assert_eq!(whole.is_in_head(), bytes.is_in_head());
}
