//! Answers to the challenges of certificate authorities, where requests and handshakes find them.
//!
//! Empty but for the seconds in which an authority looks (RFC 8555 §8.3, RFC 8737).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::metrics::Counter;

/// The open challenges, and what came of orders.
#[derive(Debug, Default)]
pub struct Challenges {
    /// HTTP-01: the answer by the token.
    tokens: ArcSwap<HashMap<Arc<str>, Arc<str>>>,
    /// TLS-ALPN-01: how the handshake is made, by the host in lower case.
    hosts: ArcSwap<HashMap<Arc<str>, Arc<ServerConfig>>>,
    /// How many `hosts` there are: all that an ordinary handshake looks at.
    hosts_open: AtomicUsize,
    /// Certificates that were issued.
    pub issued: Counter,
    /// Orders that failed.
    pub failed: Counter,
    /// Certificates that were revoked after they had been replaced, and attempts that failed.
    pub revoked: Counter,
    pub not_revoked: Counter,
}

/// An open challenge; dropped, it is closed.
#[derive(Debug)]
pub struct Open {
    challenges: Arc<Challenges>,
    what: What,
}

#[derive(Debug)]
enum What {
    Token(Arc<str>),
    Host(Arc<str>),
}

impl Challenges {
    /// Answers those who ask for `token` until what is returned is dropped.
    pub fn open_token(self: &Arc<Self>, token: &str, answer: &str) -> Open {
        let (token, answer): (Arc<str>, Arc<str>) = (token.into(), answer.into());
        insert(&self.tokens, &token, &answer);
        Open { challenges: self.clone(), what: What::Token(token) }
    }

    /// Makes handshakes for `host` in this way until what is returned is dropped.
    pub fn open_host(self: &Arc<Self>, host: &str, config: &Arc<ServerConfig>) -> Open {
        let host: Arc<str> = host.to_ascii_lowercase().into();
        insert(&self.hosts, &host, config);
        self.count_hosts();
        Open { challenges: self.clone(), what: What::Host(host) }
    }

    pub fn answer(&self, token: &str) -> Option<Arc<str>> {
        self.tokens.load().get(token).cloned()
    }

    /// Whether a challenge is open for any host: one load, for every handshake.
    #[inline]
    pub fn has_hosts(&self) -> bool {
        self.hosts_open.load(Ordering::Acquire) != 0
    }

    pub fn handshake(&self, host: &str) -> Option<Arc<ServerConfig>> {
        self.hosts.load().get(host.to_ascii_lowercase().as_str()).cloned()
    }

    /// Only the task that orders opens and closes.
    fn count_hosts(&self) {
        self.hosts_open.store(self.hosts.load().len(), Ordering::Release);
    }
}

fn insert<T: Clone>(open: &ArcSwap<HashMap<Arc<str>, T>>, key: &Arc<str>, value: &T) {
    open.rcu(|open| {
        let mut open = HashMap::clone(open);
        open.insert(key.clone(), value.clone());
        open
    });
}

fn remove<T: Clone>(open: &ArcSwap<HashMap<Arc<str>, T>>, key: &str) {
    open.rcu(|open| {
        let mut open = HashMap::clone(open);
        open.remove(key);
        open
    });
}

impl Drop for Open {
    fn drop(&mut self) {
        match &self.what {
            What::Token(token) => remove(&self.challenges.tokens, token),
            What::Host(host) => {
                remove(&self.challenges.hosts, host);
                self.challenges.count_hosts();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_while_it_is_open() {
        let challenges = Arc::<Challenges>::default();
        assert!(challenges.answer("a").is_none());
        let first = challenges.open_token("a", "one");
        let _second = challenges.open_token("b", "two");
        assert_eq!(challenges.answer("a").as_deref(), Some("one"));
        drop(first);
        assert!(challenges.answer("a").is_none() && challenges.answer("b").is_some());
        assert!(!challenges.has_hosts());
    }

    #[test]
    fn a_handshake_is_one_of_a_challenge_while_that_is_open_for_its_host() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let challenges = Arc::<Challenges>::default();
        let open = challenges.open_host("A.test", &Arc::new(config));
        assert!(challenges.has_hosts());
        assert!(challenges.handshake("a.TEST").is_some());
        assert!(challenges.handshake("b.test").is_none());
        drop(open);
        assert!(!challenges.has_hosts() && challenges.handshake("a.test").is_none());
    }
}
