//! Our entry in the `Via` of what passes through (RFC 9110 §7.6.3).

use http::{HeaderValue, Version};

/// Made once, for each protocol that a message may have come by.
#[derive(Debug)]
pub struct Via {
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Via {
    /// The name has been checked to be a token.
    pub(super) fn new(name: &str) -> Self {
        let hop = |version| {
            HeaderValue::try_from(format!("{version} {name}"))
                .unwrap_or_else(|_| HeaderValue::from_static("1.1 headwater"))
        };
        Self { http_10: hop("1.0"), http_11: hop("1.1"), http_2: hop("2") }
    }

    pub fn hop(&self, came_by: Version) -> &HeaderValue {
        match came_by {
            Version::HTTP_2 => &self.http_2,
            Version::HTTP_10 => &self.http_10,
            _ => &self.http_11,
        }
    }
}
