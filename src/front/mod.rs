//! What is known of the fronts: their addresses, which fields they write themselves, and
//! what their caches read.
//!
//! A front's own word is believed; what it merely passes on from the visitor is not.

pub mod answer;
pub mod cache;
mod documents;
mod fields;
pub mod ranges;

pub use fields::{is_about_client, is_override, is_written_by, trace_field};
