//! The host of a request: one spelling, which is its own.
#![no_main]

use headwater::route::host;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(host) = host::normalize(text) {
        let again = host::normalize(&host.name);
        assert_eq!(again.map(|again| again.name), Ok(host.name.clone()));
    }
});
