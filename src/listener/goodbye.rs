//! The end of an HTTP/2 connection, whether its client helps or not.
//!
//! h2 ends gracefully in two steps: a GOAWAY that refuses nothing with a PING behind it, and once the
//! PING is answered the GOAWAY with the number of the last stream that was seen. It waits for that
//! answer without end. So where none comes, [`super::io`] gives h2 one in the client's place: the client
//! learns what was not seen, and h2 ends once what it holds is written. How long the client may
//! take nothing of that is kept here.

use std::time::Duration;

use tokio::time::Instant;

/// How long an HTTP/2 client without open streams may take to answer the first GOAWAY. Its requests
/// that come later are told to be sent again elsewhere by the second one.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);
/// How long the client may take nothing of answers that h2 still holds then.
const STALL: Duration = Duration::from_secs(4);
/// How long a client that has been told goodbye may be silent before the connection is closed.
const LINGER_GAP: Duration = Duration::from_secs(2);
/// The frame that answers the PING behind the first GOAWAY: an acknowledgement of the payload that h2
/// always uses for it.
pub(super) const GOODBYE_ANSWER: [u8; 17] =
    [0, 0, 8, 6, 1, 0, 0, 0, 0, 0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// The end of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Goodbye {
    /// h2 was told that the client has answered the first GOAWAY, which the client has not.
    pub(super) is_answered: bool,
    /// A write waits for the client.
    pub(super) is_blocked: bool,
    /// When the client last took something of what it is still to get.
    pub(super) taken_at: Instant,
    /// Since when nothing more is written.
    pub(super) lingering_since: Option<Instant>,
}

/// One step of the end of an HTTP/2 connection.
pub(super) enum Parting {
    Begun,
    Answered,
    Over,
}

impl Goodbye {
    pub(super) fn begin(now: Instant) -> Self {
        Self { is_answered: false, is_blocked: false, taken_at: now, lingering_since: None }
    }

    /// When the connection is closed if the client takes nothing any more.
    pub(super) fn end(&self) -> Instant {
        let patience = if self.lingering_since.is_some() { LINGER_GAP } else { STALL };
        self.taken_at + patience
    }
}
