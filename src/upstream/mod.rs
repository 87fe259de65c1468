//! Connections to endpoints: opening, keeping, sending one request, reading its answer.
//!
//! A [`Connection`] is owned by whoever uses it and driven by the task that waits for it; no task
//! of its own runs behind it. So a client that leaves drops the connection, a response that ends
//! before its request was written ends it too (hyper#4176 is what happens otherwise), and an answer
//! wakes one task only. Idle connections rest in the worker's [`Connections`]. Deliberately absent: choosing an
//! endpoint (`balance`) and trying again (`proxy`).

mod ahead;
mod client_body;
mod connect;
mod connection;
mod connections;
mod exhaustion;
mod h1;
mod h2;
mod io;
mod kept;
mod nudge;
mod pace;
mod patience;
mod proxied;
mod response_body;
mod trouble;
mod upload;

pub use ahead::{AheadBody, AheadDriver, AheadSlot};
pub use client_body::ClientBody;
pub use connect::Dialer;
pub use connection::{Connection, SendError, Sent, Tunnel};
pub use connections::{Claim, Connections, Keep, Reclaim};
pub use exhaustion::{felt, is_for_want_of_ports, is_ours, tell};
#[cfg(fuzzing)]
pub use h1::fuzz;
pub use h1::{RequestHead, ResponseHead};
pub use h2::{
    Answered, Connected, Exchange, ExchangeHead, LastStream, Opening, Place, Purpose, connect,
};
pub use io::UpstreamIo;
pub use nudge::Nudge;
pub use pace::PaceLimits;
pub use patience::Patience;
pub use proxied::Proxied;
pub use response_body::{ResponseBody, Wire};
pub use trouble::{shown, why_failed, why_io_failed, why_unconnected};
pub use upload::{REPLAY_BYTES_MAX, Upload, UploadLimits, UploadReader};

use std::time::Duration;

use tokio::time::Instant;

/// How long the parts of one exchange may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the last byte of the request sent to the response head.
    pub first_byte: Duration,
    /// Longest gap inside the response.
    pub idle: Duration,
    /// When the whole exchange must have ended.
    pub total: Option<Instant>,
}
