//! Lists of fronts' addresses: text and JSON.
#![no_main]

use headwater::config::model::Front;
use headwater::front::ranges;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for (_, front) in Front::NAMES {
        let Ok(networks) = ranges::parse(bytes, front) else { continue };
        assert!(!networks.is_empty() && networks.len() <= 10_000);
        assert!(networks.iter().all(|network| *network == network.trunc()));
        assert!(ranges::replaces(&networks, &networks).is_ok());
    }
});
