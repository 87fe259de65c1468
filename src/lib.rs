//! headwater: a load balancer and edge cache in one binary.
pub mod balance;
pub mod body;
pub mod cache;
pub mod cidr;
pub mod config;
pub mod error;
pub mod memory;
pub mod metrics;
pub mod route;
pub mod tls;
pub mod files;
pub mod timer;
pub mod upstream;
pub mod snapshot;
pub mod proxy;
pub mod shutdown;
