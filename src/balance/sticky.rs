//! The cookie that keeps a client at its endpoint.
//!
//! Its value is a keyed hash (HMAC-SHA-256, half of it) of the pool's name and the endpoint's
//! address: it names no address, nobody can make one without the key, and every replica with the
//! same secret makes the same. What is no value of an endpoint of this pool counts as none.

use std::fmt::Write as _;
use std::sync::OnceLock;

use aws_lc_rs::hmac;

use super::endpoint::Endpoint;
use crate::config::model;

/// Hexadecimal digits of a value.
const DIGITS: usize = 32;
const RANDOM_KEY_BYTES: usize = 32;

/// How the values of one pool are made.
#[derive(Debug)]
pub(super) struct Sticky {
    pub(super) spec: model::Sticky,
    pool: model::Name,
    key: hmac::Key,
}

/// The value for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u128);

impl Sticky {
    pub(super) fn new(spec: &model::Sticky, pool: &model::Name) -> Self {
        let key = match &spec.secret {
            Some(secret) => hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes()),
            None => hmac::Key::new(hmac::HMAC_SHA256, own_key()),
        };
        Self { spec: spec.clone(), pool: pool.clone(), key }
    }

    pub(super) fn tag(&self, endpoint: &Endpoint) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"headwater sticky\0");
        context.update(self.pool.as_bytes());
        context.update(b"\0");
        context.update(endpoint.label.as_bytes());
        let digest = context.sign();
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_ref()[..16]);
        Tag(u128::from_be_bytes(half))
    }
}

impl Tag {
    /// Reads the value of a cookie.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        if value.len() != DIGITS || !value.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u128::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok().map(Self)
    }

    /// The value of `Set-Cookie`.
    pub(super) fn set_cookie(self, spec: &model::Sticky, is_secure: bool) -> String {
        let mut text = format!("{}={:032x}; Path=/; HttpOnly; SameSite=Lax", spec.cookie, self.0);
        if !spec.ttl.is_zero() {
            // Writing to a string cannot fail.
            let _ = write!(text, "; Max-Age={}", spec.ttl.as_secs());
        }
        if is_secure {
            text.push_str("; Secure");
        }
        text
    }
}

/// A key that only this process knows; the same for its whole life, so that reloads keep clients
/// where they are.
fn own_key() -> &'static [u8] {
    static KEY: OnceLock<[u8; RANDOM_KEY_BYTES]> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut key = [0; RANDOM_KEY_BYTES];
        if aws_lc_rs::rand::fill(&mut key).is_err() {
            // A key that can be guessed lets a client choose its endpoint, nothing worse.
            tracing::error!("there are no random numbers for the key of sticky cookies");
        }
        key
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::member;
    use super::*;
    use crate::config::model::Secret;

    fn sticky(secret: Option<&str>, pool: &str) -> Sticky {
        let secret = secret.map(|secret| Secret(secret.into()));
        let spec = model::Sticky { cookie: "hw".into(), ttl: Duration::from_secs(60), secret };
        Sticky::new(&spec, &pool.into())
    }

    #[test]
    fn replicas_with_one_secret_agree_and_nothing_else_does() {
        let endpoint = member(80).endpoint;
        let tag = sticky(Some("0123456789abcdef"), "app").tag(&endpoint);
        assert_eq!(sticky(Some("0123456789abcdef"), "app").tag(&endpoint), tag);
        assert_ne!(sticky(Some("0123456789abcdeF"), "app").tag(&endpoint), tag);
        assert_ne!(sticky(Some("0123456789abcdef"), "other").tag(&endpoint), tag);
        assert_ne!(sticky(None, "app").tag(&endpoint), tag);
        assert_ne!(sticky(Some("0123456789abcdef"), "app").tag(&member(81).endpoint), tag);
        assert_eq!(sticky(None, "app").tag(&endpoint), sticky(None, "app").tag(&endpoint));
    }

    #[test]
    fn a_cookie_names_no_address_and_is_read_back() {
        let sticky = sticky(None, "app");
        let tag = sticky.tag(&member(8080).endpoint);
        let text = tag.set_cookie(&sticky.spec, true);
        assert!(!text.contains("127.0.0.1") && !text.contains("8080"), "{text}");
        let (value, attributes) =
            text.strip_prefix("hw=").and_then(|rest| rest.split_once("; ")).unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure");
        assert_eq!(Tag::parse(value.as_bytes()), Some(tag));
    }

    #[test]
    fn what_is_no_value_is_none() {
        for value in ["", "abc", &"g".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert_eq!(Tag::parse(value.as_bytes()), None, "{value}");
        }
    }
}
