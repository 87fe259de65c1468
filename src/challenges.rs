//! Answers to the challenges of certificate authorities, where requests find them.
//!
//! Empty but for the seconds in which an authority looks (RFC 8555 §8.3).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::metrics::Counter;

/// The open challenges, and what came of orders.
#[derive(Debug, Default)]
pub struct Challenges {
    open: ArcSwap<HashMap<Arc<str>, Arc<str>>>,
    /// Certificates that were issued.
    pub issued: Counter,
    /// Orders that failed.
    pub failed: Counter,
}

/// An open challenge; dropped, it is closed.
#[derive(Debug)]
pub struct Open {
    challenges: Arc<Challenges>,
    token: Arc<str>,
}

impl Challenges {
    /// Answers those who ask for `token` until what is returned is dropped.
    pub fn open(self: &Arc<Self>, token: &str, answer: &str) -> Open {
        let (token, answer): (Arc<str>, Arc<str>) = (token.into(), answer.into());
        self.open.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.insert(token.clone(), answer.clone());
            open
        });
        Open { challenges: self.clone(), token }
    }

    pub fn answer(&self, token: &str) -> Option<Arc<str>> {
        self.open.load().get(token).cloned()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.challenges.open.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.remove(&self.token);
            open
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_while_it_is_open() {
        let challenges = Arc::<Challenges>::default();
        assert!(challenges.answer("a").is_none());
        let (first, _second) = (challenges.open("a", "one"), challenges.open("b", "two"));
        assert_eq!(challenges.answer("a").as_deref(), Some("one"));
        drop(first);
        assert!(challenges.answer("a").is_none() && challenges.answer("b").is_some());
    }
}
