//! What the tests are made of: an origin that follows a script byte by byte, the proxy as a
//! process, clients, certificates.
//!
//! Nothing here sleeps to give something time. A test waits for an event: for a request that the
//! origin got, for a line in a log, or, with [`eventually`], for a figure that the proxy shows.

pub mod certificates;
pub mod client;
pub mod cloudflare;
pub mod cloudfront;
pub mod dns;
pub mod edge;
pub mod folder;
pub mod h2;
pub mod h2_origin;
pub mod message;
pub mod origin;
pub mod pebble;
pub mod proxy;

use std::time::{Duration, Instant};

pub use certificates::{Authority, Pair};
pub use client::{Client, Tls};
pub use dns::{Dns, Said};
pub use folder::Folder;
pub use message::{Answer, Request, answer, cacheable, chunk, ok};
pub use origin::{Call, Origin};
pub use proxy::{Proxy, Setup};

/// How long anything may take that a test waits for. Only a test that fails waits this long.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a figure that cannot tell when it changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The host that requests are for where a test does not say.
pub const HOST: &str = "site.test";

/// Looks until there is something to see.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        pause(LOOK_INTERVAL);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that polls, behind `eventually`")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}
