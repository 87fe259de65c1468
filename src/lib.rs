//! headwater: a load balancer and edge cache in one binary.
pub mod body;
pub mod config;
pub mod error;
