//! Which endpoint a request goes to.
//!
//! A [`Pool`] owns [`Endpoint`]s, judges them ([`Standing`]), publishes those that may be picked
//! as [`Candidates`] and hands out [`Lease`]s. Facts come in as calls (`connect_failed`,
//! `responded`, `probed`); nothing here opens a socket, awaits or reads the clock, except that a
//! lease counts itself down in `Drop`. Names of endpoints are resolved elsewhere.

mod budget;
mod candidates;
mod endpoint;
mod latency;
mod metrics;
mod pool;
mod queue;
mod rng;
mod standing;

pub use candidates::{Candidates, Member};
pub use endpoint::{Endpoint, EndpointStats, IdleConnection, OpenConnection};
pub use metrics::{PoolStats, RetryReason};
pub use pool::{Lease, Pick, Pool, process_millis};
pub use queue::{Place, QueueFull};
pub use rng::Rng;
pub use standing::{Availability, Standing, Verdict};
