//! Accept-Encoding, conditions in tags of codings, and Vary.
#![no_main]

use headwater::compress::negotiate::{Accepted, normal_accept_encoding};
use headwater::compress::{Coding, fields};
use http::{HeaderMap, HeaderValue};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let mut headers = HeaderMap::new();
    for name in ["accept-encoding", "if-none-match", "if-range", "etag", "vary"] {
        headers.insert(name, value.clone());
    }
    let accepted = Accepted::of(&headers);
    assert_eq!(accepted.best(), accepted.preferred().next());
    assert!(accepted.best().is_none_or(|coding| accepted.takes(coding)));
    if let Some(normal) = normal_accept_encoding(&headers) {
        let again: HeaderMap = [("accept-encoding".parse().unwrap(), normal.clone())].into_iter().collect();
        assert_eq!(normal_accept_encoding(&again), Some(normal));
    }
    for coding in Coding::ALL {
        let mut coded = headers.clone();
        fields::describe(&mut coded, coding, fields::Bytes::Passing);
        assert_eq!(coded["content-encoding"], coding.as_str());
        if coded["etag"] != value {
            assert_eq!(fields::coding_of(coded["etag"].as_bytes(), &value), Some(coding));
        }
    }
    fields::vary(&mut headers);
    let once = headers.clone();
    fields::vary(&mut headers);
    assert_eq!(headers, once);
    fields::translate_conditions(&mut headers);
});
