//! Client connections: binding, accepting, TLS, HTTP/1.1 and HTTP/2, timeouts, proper ends.
//!
//! hyper parses and frames; everything that it leaves to its user happens in the I/O that it is
//! given (`io`, `socket`) and in the executor of its HTTP/2 streams (`stream`). Deliberately
//! absent: what a request means (`proxy`).

mod accept;
pub mod bind;
mod connection;
mod door;
mod frames;
#[cfg(fuzzing)]
pub mod fuzz;
mod goodbye;
mod handshake;
mod head;
mod inherited;
mod io;
mod proxy_protocol;
mod socket;
mod stream;
mod transport;

pub use accept::{Accepting, ListenerName, Registry, accept};
pub use bind::ListenSocket;
pub use door::Door;
pub use inherited::Inherited;
