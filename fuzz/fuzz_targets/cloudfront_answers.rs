//! Answers of the API of CloudFront.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| headwater::purge::fuzz::cloudfront(input.0, input.1));
