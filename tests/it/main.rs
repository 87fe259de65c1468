//! The behaviour of headwater from outside: the real binary between scripted clients and scripted
//! origins, a module for each kind of behaviour.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what goes wrong here fails a test"
)]
#![expect(unreachable_pub, reason = "a test binary exports nothing: `pub` is for its own modules")]

mod supervisor;
mod support;

mod access;
mod access_log;
mod acme;
mod activation;
mod admin;
mod affinity;
mod architecture;
mod bad_config;
mod bad_requests;
mod balancing;
mod bodies;
mod caching;
mod certificates;
mod client_auth;
mod cloudfront_purges;
mod collapsing;
mod compression;
mod conditions;
mod connections;
mod deadlines;
mod discovery;
mod examples;
mod exhaustion;
mod expectations;
mod files;
mod freshness;
mod front_answers;
mod front_caches;
mod front_lists;
mod front_purges;
mod fronts;
mod grpc;
mod headers;
mod hedging;
mod http2;
mod http2_errors;
mod keys;
mod limits;
mod lints;
mod loops;
mod mirroring;
mod poisoning;
mod proxy_protocol;
mod purging;
mod ranges;
mod reasons;
mod reload;
mod retries;
mod routing;
mod signals;
mod simulation;
mod slow_clients;
mod spoofing;
mod stale;
mod stop;
mod tls;
mod tls_clients;
mod tunnel_limits;
mod tunnels_h2;
mod unread_logs;
mod upgrades;
mod upstream;
mod upstream_h2;
mod upstream_resets;
mod validation;
