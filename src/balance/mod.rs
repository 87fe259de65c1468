//! Which endpoint a request goes to.
//!
//! A [`Pool`] owns [`Endpoint`]s, judges them ([`Standing`]), publishes those that may be picked
//! as [`Candidates`] and hands out [`Lease`]s. Facts come in as calls (`connect_failed`,
//! `responded`, `probed`); nothing here opens a socket, awaits or reads the clock, except that a
//! lease counts itself down in `Drop`. Names of endpoints are resolved elsewhere.
//!
//! A pick reads what all workers read, and writes only where all must agree: the count of the
//! endpoint's requests, which has a limit, and the cursor of policies whose windows are exact.

// Policies: each chooses among candidates.
mod ewma;
mod hash;
mod least_requests;
mod sequence;

// Who is a candidate, and with which weight.
mod candidates;
mod slow_start;
mod standing;
mod zones;

// What is known of an endpoint.
mod complaints;
mod endpoint;
mod latency;
mod outcome;
mod outlier;
mod pace;
mod quantile;
mod record;

// The pool, in the order of its use.
mod discovered;
mod facts;
mod metrics;
mod pick;
mod pool;
mod shared;

mod budget;
mod crowd;
mod queue;
mod rng;
mod split;
mod sticky;
#[cfg(test)]
mod testing;

pub use candidates::{Candidates, Member};
pub use complaints::LastError;
pub use crowd::Stalling;
pub use discovered::{Discovered, Ignored, LookupResult};
pub use endpoint::{
    Endpoint, EndpointStats, IdleConnection, Manual, OpenConnection, WantedConnection,
};
pub use facts::{Cause, Failed, Hedging, Outrun, Reply};
pub use hash::key as hash_key;
pub use metrics::{PoolStats, RetryReason, StickyResult};
pub use outcome::Outcome;
pub use outlier::Reason;
pub use pace::Due;
pub use pick::{Lease, Pick, Wish};
pub use pool::{Pool, Previous, process_millis};
pub use queue::{Place, QueueFull};
pub use rng::Rng;
pub use split::Split;
pub use standing::{Availability, Circuit, Standing, Verdict};
