//! PEM files with certificates and keys.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headwater::tls::fuzz::pem(data));
