//! headwater: a load balancer and edge cache in one binary.
//!
//! Modules in reading order. ARCHITECTURE.md has the code map, the walk of one request and the
//! invariants; `tests/it` checks that imports go to lower rows only.

// The command line and the process.
pub mod cli;
pub mod server;

// Taking a configuration, at the start and while running.
pub mod bindings;
pub mod compile;
pub mod fixed;
pub mod reload;
pub mod watch;

// The data plane, from the socket inwards.
pub mod listener;
pub mod proxy;
pub mod worker;

// The control plane.
pub mod acme;
pub mod admin;
pub mod discovery;
pub mod expiry;
pub mod health;

// What a request needs to know.
pub mod explain;
pub mod lint;
pub mod purge;
pub mod snapshot;

// Its parts.
pub mod balance;
pub mod cache;
pub mod challenges;
pub mod compress;
pub mod files;
pub mod front;
pub mod front_lists;
pub mod outgoing;
pub mod route;
pub mod tls;
pub mod under_way;
pub mod upstream;

// The configuration.
pub mod config;

// What everybody uses.
pub mod body;
pub mod cidr;
pub mod console;
pub mod cookie;
pub mod error;
pub mod fields;
pub mod lines;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod outbox;
pub mod range;
pub mod shutdown;
pub mod signals;
pub mod supervisor;
pub mod timer;
