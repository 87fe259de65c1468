//! Routing: from a request's listener, host and path to the one route that takes it.
//!
//! [`path`] and [`host`] bring what the client sent into the one form that everything later
//! compares; [`table`] finds the route, [`explain`] says why; [`rewrite`], [`edits`] and [`template`] apply what the route says.
//! All of it is pure: no I/O, no clock, no allocation where nothing has to change.
//!
//! Deliberately absent: statuses (`proxy::respond` makes a 404 or 405 of [`Lookup::NoRoute`]), the checks
//! of single values (`config` has made them) and parameters captured from paths.

mod candidates;
pub mod conditions;
pub mod edits;
pub mod explain;
pub mod host;
mod level;
mod literals;
mod overlap;
pub mod path;
pub mod rewrite;
pub mod table;
pub mod template;
mod values;

use http::{HeaderMap, Method};

/// What a request shows to the routes. The strings are in normal form.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The name of the listener that accepted it.
    pub listener: &'a str,
    /// [`host::Host::name`].
    pub host: &'a str,
    /// [`path::normalize`]d.
    pub path: &'a str,
    pub method: &'a Method,
    /// As the client sent it.
    pub query: Option<&'a str>,
    /// As the client sent them.
    pub headers: &'a HeaderMap,
}

/// What the routes say to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The route's index in the configuration.
    Found(usize),
    NoRoute,
}
