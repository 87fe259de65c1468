//! HTTP/2 to endpoints: connections that the requests of one worker share.
//!
//! A [`Session`](session::Session) is one connection, with a task of its own that drives it; an
//! [`Exchange`] is one request on it, driven by whoever waits for its answer, and a [`StreamIo`]
//! one that became a tunnel (RFC 8441).

mod connect;
mod exchange;
mod goaway;
mod resets;
mod session;
mod sessions;
mod stream;
mod stream_io;

pub use connect::{Connected, connect};
pub use exchange::{Answered, Exchange, ExchangeHead};
pub use goaway::LastStream;
pub use session::{Place, Purpose};
pub use sessions::Opening;
pub(super) use sessions::Sessions;
pub(super) use stream_io::StreamIo;
