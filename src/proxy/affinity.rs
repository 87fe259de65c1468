//! What of a request ties it to an endpoint: what its pool hashes on, and the pool's cookie.

use std::net::IpAddr;

use super::forward::{Asker, Outgoing};
use crate::balance::{Endpoint, Pool, StickyResult, hash_key};
use crate::config::model::HashOn;
use crate::cookie;

/// Whom the client's cookie names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// There is none, or no cookie keeps clients.
    Nobody,
    /// An endpoint of this pool, by its id.
    Endpoint(u64),
    /// Nobody here: forged, or of an endpoint that is gone.
    Unknown,
}

impl Named {
    /// What became of it, given that this endpoint answered.
    pub(super) fn result(self, endpoint: &Endpoint) -> StickyResult {
        match self {
            Self::Nobody => StickyResult::New,
            Self::Unknown => StickyResult::Ignored,
            Self::Endpoint(id) if id == endpoint.id => StickyResult::Kept,
            Self::Endpoint(_) => StickyResult::Moved,
        }
    }
}

/// The hash of what the pool's `hash_on` names; of the path where it hashes on nothing. Without the field or
/// the cookie it is the client's address, which is counted.
pub(super) fn key(pool: &Pool, outgoing: &Outgoing) -> u64 {
    let Some(hash_on) = pool.hash_on() else { return hash_key(outgoing.uri.path().as_bytes()) };
    let of_client = || outgoing.asker.as_ref().map_or(0, |asker| of_address(asker.ip));
    let part = match hash_on {
        HashOn::ClientIp => return of_client(),
        HashOn::Path => Some(outgoing.uri.path().as_bytes()),
        HashOn::Header(name) => outgoing.headers.get(name).map(|value| value.as_bytes()),
        HashOn::Cookie(name) => cookie::value(&outgoing.headers, name),
    };
    match part {
        Some(part) => hash_key(part),
        None => {
            pool.stats.hash_fallbacks.increment();
            of_client()
        }
    }
}

fn of_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash_key(&address.octets()),
        IpAddr::V6(address) => hash_key(&address.octets()),
    }
}

/// Whom the client's cookie names, of all that have the name.
pub(super) fn named(pool: &Pool, asker: Option<&Asker>) -> Named {
    let (Some(sticky), Some(asker)) = (pool.sticky(), asker) else { return Named::Nobody };
    let mut named = Named::Nobody;
    for value in cookie::values(&asker.cookies, &sticky.cookie) {
        match pool.endpoint_of_cookie(value) {
            Some(id) => return Named::Endpoint(id),
            None => named = Named::Unknown,
        }
    }
    named
}
