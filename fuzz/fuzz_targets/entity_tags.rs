//! If-None-Match and If-Modified-Since against stored validators.
#![no_main]

use headwater::cache::conditional;
use http::{HeaderMap, HeaderValue};

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| {
    let (Ok(asked), Ok(stored)) =
        (HeaderValue::from_bytes(input.0), HeaderValue::from_bytes(input.1))
    else {
        return;
    };
    let mut request = HeaderMap::new();
    request.insert("if-none-match", asked.clone());
    let mut response = HeaderMap::new();
    response.insert("etag", stored.clone());
    let _ = conditional::is_not_modified(&request, &response);
    request.remove("if-none-match");
    request.insert("if-modified-since", asked);
    response.insert("last-modified", stored);
    let _ = conditional::is_not_modified(&request, &response);
});
