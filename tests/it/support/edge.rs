//! The cache of a front, which is full again as soon as something is taken out of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};

use super::Client;

#[derive(Default)]
pub struct Edge {
    /// Where it fetches from.
    behind: OnceLock<SocketAddr>,
    /// By target: the tag and the body.
    copies: Mutex<BTreeMap<String, (String, String)>>,
}

impl Edge {
    pub fn fetch_from(&self, proxy: SocketAddr) {
        self.behind.set(proxy).unwrap();
    }

    /// A client asks for something that is not there.
    pub fn visit(&self, target: &str) {
        self.fetch(&mut Client::connect(*self.behind.get().unwrap()), target);
    }

    fn fetch(&self, client: &mut Client, target: &str) {
        let answer = client.get(target, &[]);
        let tag = answer.header("cache-tag").unwrap_or_default().to_owned();
        self.copies.lock().unwrap().insert(target.to_owned(), (tag, answer.text()));
    }

    /// Takes out what is meant, by target and tag, and fetches it anew.
    pub fn clear(&self, is_meant: impl Fn(&str, &str) -> bool) {
        let gone: Vec<_> = {
            let mut copies = self.copies.lock().unwrap();
            copies.extract_if(.., |target, (tag, _)| is_meant(target, tag)).collect()
        };
        if let Some(behind) = self.behind.get() {
            let mut client = Client::connect(*behind);
            gone.iter().for_each(|(target, _)| self.fetch(&mut client, target));
        }
    }

    /// The stored bodies by target.
    pub fn copies(&self) -> BTreeMap<String, String> {
        let copies = self.copies.lock().unwrap();
        copies.iter().map(|(target, (_, body))| (target.clone(), body.clone())).collect()
    }
}
