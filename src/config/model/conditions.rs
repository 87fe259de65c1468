//! What a route asks of a request beyond its host, its path and its listener.

use http::Method;

use super::*;

/// The conditions of a route; all of them must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestConditions {
    /// Sorted; empty: any.
    pub methods: Vec<Method>,
    /// Sorted by name, as the others are.
    pub headers: Vec<(HeaderName, ValuePattern)>,
    /// Names and values are matched decoded.
    pub query: Vec<(String, ValuePattern)>,
    pub cookies: Vec<(String, ValuePattern)>,
}

/// What the value of a field, a parameter or a cookie must be.
#[derive(Debug, Clone)]
pub enum ValuePattern {
    /// Anything, but it must be there.
    Present,
    Exact(String),
    /// Searched anywhere in the value.
    Regex(Regex),
}

impl RequestConditions {
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many there are: all methods together are one, each name is one.
    pub fn count(&self) -> usize {
        let Self { methods, headers, query, cookies } = self;
        usize::from(!methods.is_empty()) + headers.len() + query.len() + cookies.len()
    }
}

impl PartialEq for ValuePattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, Self::Present) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl fmt::Display for ValuePattern {
    /// As in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Regex(regex) => write!(f, "~{regex}"),
        }
    }
}
