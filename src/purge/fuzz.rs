//! Answers of APIs, for the fuzzer.

use http::header::{DATE, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::cloudfront::{Answer, is_id, read};

/// Reads an answer of CloudFront: what becomes a part of a path must be able to.
pub fn cloudfront(status: u16, body: &[u8]) {
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
    let headers = HeaderMap::from_iter([(DATE, date)]);
    match read(status, &headers, body) {
        Answer::Invalidation(id, _) => assert!(is_id(&id)),
        Answer::Failure(outcome) => assert!(outcome.error().is_some()),
        Answer::Clock(_) => {}
    }
}
