//! Our entry in the `CDN-Loop` of what is forwarded (RFC 8586), by which a request is known that
//! comes back.
//!
//! Several proxies in a row may well have one name. So the name alone refuses a request only when it
//! comes too often; the parameter tells one process from another.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use http::{HeaderMap, HeaderName, HeaderValue};

pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// A request that has passed proxies of our name this often goes in circles.
const PASSES_MAX: usize = 3;

/// Made once for each configuration.
#[derive(Debug)]
pub struct CdnLoop {
    name: String,
    /// Of this process.
    instance: u64,
    member: HeaderValue,
}

/// Where a request has been before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    Elsewhere,
    /// Through this process: what it waits for may be its own answer.
    Here,
    /// Too often.
    InCircles,
}

impl CdnLoop {
    /// The name has been checked to be a token.
    pub(super) fn new(name: &str, previous: Option<&Self>) -> Self {
        let instance = previous
            .map_or_else(|| RandomState::new().build_hasher().finish(), |known| known.instance);
        let member = HeaderValue::try_from(format!("{name};i={instance:016x}"))
            .unwrap_or_else(|_| HeaderValue::from_static("headwater"));
        Self { name: name.to_owned(), instance, member }
    }

    pub fn member(&self) -> &HeaderValue {
        &self.member
    }

    /// What the `CDN-Loop` of a request says.
    pub fn passed(&self, request: &HeaderMap) -> Passed {
        let mut lines = request.get_all(CDN_LOOP).iter().peekable();
        if lines.peek().is_none() {
            return Passed::Elsewhere;
        }
        let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let (mut count, mut is_here) = (0, false);
        for member in members.map(<[u8]>::trim_ascii) {
            let name = member.split(|byte| *byte == b';').next().unwrap_or_default();
            if name.trim_ascii().eq_ignore_ascii_case(self.name.as_bytes()) {
                count += 1;
                is_here |= member == self.member.as_bytes();
            }
        }
        match count {
            PASSES_MAX.. => Passed::InCircles,
            _ if is_here => Passed::Here,
            _ => Passed::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_what_it_has_passed() {
        let own = CdnLoop::new("headwater", None);
        let member = own.member().to_str().unwrap().to_owned();
        for (lines, passed) in [
            (vec![], Passed::Elsewhere),
            (vec!["cloudflare; loops=1; subreqs=1"], Passed::Elsewhere),
            (vec!["Headwater;i=1, cloudflare, headwater"], Passed::Elsewhere),
            (vec!["headwater2, headwater-3, x;headwater, headwater.test"], Passed::Elsewhere),
            (vec!["cloudflare", &member], Passed::Here),
            (vec!["headwater", "cloudflare, HEADWATER ; i=1", "headwater;i=2"], Passed::InCircles),
        ] {
            let mut request = HeaderMap::new();
            for line in &lines {
                request.append(CDN_LOOP, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(own.passed(&request), passed, "{lines:?}");
        }
    }

    #[test]
    fn a_process_is_the_same_after_a_reload_and_others_are_others() {
        let own = CdnLoop::new("edge", None);
        let after = CdnLoop::new("edge", Some(&own));
        assert_eq!(own.member(), after.member());
        assert_ne!(own.member(), CdnLoop::new("edge", None).member());
    }
}
