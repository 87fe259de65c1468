//! The path of a request: one normal form, which is its own, and never leaves the root.
#![no_main]

use headwater::route::path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(normal) = path::normalize(text) {
        assert_eq!(path::normalize(&normal).as_deref(), Ok(&*normal));
        assert!(normal.split('/').all(|segment| segment != ".." && segment != "."));
    }
});
