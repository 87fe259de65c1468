//! HTTP/1.1 as a client of endpoints: what is written, what is read, and where it ends.
//!
//! The connection to an endpoint is driven by the one task that waits for it, so this needs no
//! channel between a driver and its user, no copy of the request for the driver, and no wake-up
//! from one part to another: measured on a proxied request of 1 KiB, hyper's client took more than
//! a third of the instructions. The reading is strict. What RFC 9112 calls faulty framing is an
//! error, since whatever is read past the end of one answer would be taken for the next.
//!
//! Deliberately absent: waiting, deadlines and the socket, which are `connection`'s.

mod body;
mod chunked;
mod diagnosis;
#[cfg(fuzzing)]
pub mod fuzz;
mod head;
mod request;

pub(super) use body::{BodyReader, Part};
pub(super) use diagnosis::other_protocol;
pub(super) use head::HeadReader;
pub use head::ResponseHead;
pub use request::RequestHead;
pub(super) use request::TIMEOUT_NAME;
pub(super) use request::{RequestWriter, WriteError};

/// What is not HTTP/1.1, or breaks its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Names the rule.
    rule: &'static str,
    /// The place that breaks the rule, as far as it may be shown.
    place: Option<Box<str>>,
}

impl Malformed {
    pub(super) const fn rule(rule: &'static str) -> Self {
        Self { rule, place: None }
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.rule)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, ": \"{place}\""))
    }
}

impl std::error::Error for Malformed {}
