//! What a route asks of a request beyond its host and path.
//!
//! Each kind of condition answers three questions: is it set (it counts one), does a request fulfil
//! it, and can no request fulfil it together with another route's. A new kind is a field here and
//! a line in each of the three. Deliberately absent: hosts and paths, which are keys to look up and
//! not questions to ask.

use crate::config::model::{Name, Route};

use super::Query;

/// The conditions of a route in one spelling; `None` where it has none.
pub fn describe(route: &Route) -> Option<String> {
    if route.listeners.is_empty() {
        return None;
    }
    let mut listeners: Vec<&str> = route.listeners.iter().map(|name| &**name).collect();
    listeners.sort_unstable();
    Some(format!("listeners={}", listeners.join(",")))
}

#[derive(Debug, Clone)]
pub(super) struct Conditions {
    /// Empty: any.
    listeners: Box<[Name]>,
}

impl Conditions {
    pub(super) fn of(route: &Route) -> Self {
        Self { listeners: route.listeners.as_slice().into() }
    }

    /// How many are set: of two routes for one pattern, the one with more is asked first.
    pub(super) fn count(&self) -> usize {
        usize::from(!self.listeners.is_empty())
    }

    pub(super) fn hold(&self, query: &Query<'_>) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *query.listener)
    }

    /// Whether no request can fulfil both.
    pub(super) fn exclude(&self, other: &Self) -> bool {
        !self.listeners.is_empty()
            && !other.listeners.is_empty()
            && !self.listeners.iter().any(|name| other.listeners.contains(name))
    }
}
