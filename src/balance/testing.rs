//! Pools for the tests of this module.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::candidates::Member;
use super::endpoint::Endpoint;
use super::pick::{Lease, Pick, Wish};
use super::pool::Pool;
use super::rng::Rng;
use super::shared::Shared;
use super::standing::Verdict;
use crate::config::model::{
    self, Address, Balance, DnsRules, EndpointSpec, PoolBuffers, PoolLimits, PoolSource,
    PoolTimeouts, Retry, StatusSet,
};

pub(super) fn address(port: u16) -> Address {
    Address::Socket(([127, 0, 0, 1], port).into())
}

/// A member with an endpoint of its own, of weight 1.
pub(super) fn member(port: u16) -> Member {
    let endpoint = Endpoint::new(address(port), Verdict::Unknown, &Shared::default(), None);
    Member { endpoint: Arc::new(endpoint), weight: 1, backup: false, zone: None, tag: None }
}

/// The ports of some members.
pub(super) fn ports(members: &[Member]) -> Vec<u16> {
    let port = |member: &Member| match &member.endpoint.address {
        Address::Socket(socket) => socket.port(),
        _ => 0,
    };
    members.iter().map(port).collect()
}

/// Endpoints on the ports from 1000 on.
pub(super) fn spec(balance: Balance, weights: &[u32]) -> (model::Pool, Vec<EndpointSpec>) {
    let endpoints: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| EndpointSpec {
            address: address(1000 + index as u16),
            weight: *weight,
            backup: false,
            zone: None,
        })
        .collect();
    let pool = model::Pool {
        name: "p".into(),
        source: PoolSource::Endpoints(endpoints.clone()),
        dns: DnsRules {
            loopback: false,
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(60),
        },
        protocol: model::Protocol::H1,
        tls: None,
        proxy_protocol: None,
        balance,
        sticky: None,
        slow_start: Duration::ZERO,
        panic_below: 0.5,
        health: None,
        outlier: Some(model::Outlier {
            failures: 5,
            eject_for: Duration::from_secs(30),
            eject_max: 0.5,
            slow_factor: Some(5),
        }),
        limits: PoolLimits {
            connections_max: 4,
            requests_max: 100,
            tunnels_max: 2,
            idle_max: 4,
            queue_max: 2,
            queue_timeout: Duration::from_secs(1),
            client_share: 1.0,
        },
        retry: Some(Retry {
            attempts: 2,
            on_connect: true,
            on_reset: true,
            on_timeout: false,
            on_statuses: StatusSet(vec![(502, 504)]),
            budget: 0.2,
            hedge_after: None,
        }),
        timeouts: PoolTimeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: None,
            tunnel: Duration::from_secs(3600),
            announce: false,
        },
        buffer: PoolBuffers { request_bytes_max: 0, response_bytes_max: 0 },
        keepalive: Duration::from_secs(60),
    };
    (pool, endpoints)
}

pub(super) fn health() -> model::Health {
    model::Health {
        probe: model::Probe::Tcp,
        port: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy_after: 2,
        unhealthy_after: 3,
    }
}

pub(super) fn pool(balance: Balance, weights: &[u32]) -> Arc<Pool> {
    let (spec, endpoints) = spec(balance, weights);
    Arc::new(Pool::build(&spec, &endpoints, None, None, Instant::now()))
}

pub(super) fn lease(pool: &Arc<Pool>, rng: &Rng, wish: &Wish<'_>) -> Lease {
    match pool.pick(rng, Instant::now(), wish) {
        Pick::Leased(lease) => lease,
        other => unreachable!("no endpoint was leased: {other:?}"),
    }
}
