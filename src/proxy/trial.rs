//! Whether an endpoint that was set aside takes connections again, tried beside the requests.

use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Sending;
use crate::balance::Lease;
use crate::config::model::Protocol;
use crate::error::Kind;
use crate::upstream::Keep;

/// Begins to connect. There is one trial of an endpoint at a time, whatever the number of requests.
pub(super) fn begin(sending: &Sending<'_>, mut trial: Lease) {
    let (local, balanced) = (sending.local.clone(), sending.balanced);
    let (pool, dialer) = (balanced.pool.clone(), balanced.dialer.clone());
    let protocol = balanced.protocol;
    let endpoint = trial.endpoint().clone();
    let name = balanced.server_name(&endpoint);
    let keep = Keep {
        idle_max: pool.limits.idle_max,
        idle_for: if dialer.may_rest() { sending.keepalive } else { Duration::ZERO },
        open_max: pool.limits.connections_max,
    };
    sending.local.aside.spawn("trial of an endpoint", async move {
        let begun = Instant::now();
        let result = dialer.dial(&endpoint, name.as_ref(), None, &local.reclaim).await;
        let now = Instant::now();
        match result {
            Ok(connection) => {
                pool.connect_succeeded(&endpoint, now - begun, now.into_std());
                trial.trial_ended();
                if protocol == Protocol::H1 {
                    local.connections.give_back(connection, keep, now);
                }
            }
            Err(error) => {
                if matches!(error.kind(), Kind::Connect | Kind::ConnectTimeout) {
                    let why = || dialer.why_unconnected(&error);
                    pool.connect_failed(&endpoint, why, now.into_std());
                    trial.trial_ended();
                }
            }
        }
    });
}
