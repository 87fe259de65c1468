//! headwater: a load balancer and edge cache in one binary.
pub mod balance;
pub mod body;
pub mod config;
pub mod error;
pub mod metrics;
