//! Lists of fronts' addresses that are fetched: `trusted_from = "https://…"`.
//!
//! A list is fetched when its listener appears, then as often as `trusted_refresh` says, with its
//! entity tag. Listeners that name the same URL share it. One that cannot be fetched, is broken, or
//! has lost most of the networks that are believed changes nothing but what is said of it, and is
//! asked for again after a while that doubles.
//!
//! Deliberately absent: what a list looks like (`front::ranges`), who is believed by it (`snapshot`),
//! and a copy on disk. Redirects are not followed: whoever names a list names its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use http::{Request, Response, StatusCode};
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::balance::Rng;
use crate::config::model::{self, Front, RangesUrl};
use crate::front::ranges;
use crate::outgoing::{Bounds, Client};
use crate::shutdown::{Phase, Stop};
use crate::snapshot::{Fetch, Fetched, Listener, Snapshot};

/// How often it is looked whether a list is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of a list; that of all of AWS has some 2 MiB.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// After a list that could not be used; doubled with each that follows, up to the time between two.
const BACK_OFF_MIN: Duration = Duration::from_secs(5);
/// Of a wait, by which it is made longer or shorter, so that several of us do not come as one.
const JITTER: f64 = 0.1;

/// Whose list, and from where: what it means depends on both.
type Key = (Arc<str>, &'static str);

/// The lists that listeners name.
#[derive(Debug)]
pub struct FrontLists {
    client: Client,
    known: HashMap<Key, Known>,
    versions: u64,
    rng: Rng,
}

#[derive(Debug)]
struct Known {
    fetched: Fetched,
    etag: Option<HeaderValue>,
    due: Instant,
    failures: u32,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    List(Vec<IpNet>, Option<HeaderValue>),
    Unchanged,
    Failed(String),
    Refused(String),
}

/// Fetches what the running configuration names until the process drains.
pub async fn run(mut lists: FrontLists, published: Arc<ArcSwap<Snapshot>>, mut stop: Stop) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.reached(Phase::Draining) => return,
        }
        let snapshot = published.load_full();
        tokio::select! {
            () = lists.look(&snapshot) => {}
            () = stop.reached(Phase::Draining) => return,
        }
    }
}

impl FrontLists {
    /// Without any list yet.
    ///
    /// # Errors
    /// There can be no TLS.
    pub fn new() -> Result<Self, crate::tls::LoadError> {
        let bounds = Bounds { body_bytes_max: LIST_BYTES_MAX, ..Bounds::default() };
        let (known, rng) = (HashMap::new(), Rng::from_entropy());
        Ok(Self { client: Client::new(None, bounds)?, known, versions: 0, rng })
    }

    /// Fetches everything that a configuration names, as far as that is done in time.
    pub async fn first(&mut self, snapshot: &Snapshot, patience: Duration) {
        // What was not in time is still due.
        let _ = timeout(patience, self.look(snapshot)).await;
    }

    /// Fetches what is due, all at once; listeners believe each list when it has come.
    async fn look(&mut self, snapshot: &Snapshot) {
        let named: Vec<_> = snapshot.listeners.values().filter_map(named).collect();
        let now = Instant::now();
        self.known.retain(|key, _| named.iter().any(|(of, ..)| of == key));
        for (key, ..) in &named {
            if !self.known.contains_key(key) {
                let version = self.version();
                self.known.insert(key.clone(), Known::new(version, now));
            }
        }
        // One that a reload has made anew knows at once what the one before it knew.
        for (key, listener, _) in &named {
            if let Some(known) = self.known.get(key) {
                listener.trusted.take(&listener.spec, &known.fetched);
            }
        }
        let mut calls = JoinSet::new();
        for (key, known) in self.known.iter().filter(|(_, known)| known.due <= now) {
            let (client, key) = (self.client.clone(), key.clone());
            let request = known.request(&key.0);
            calls.spawn(async move {
                let answer = match request {
                    Ok(request) => client.send(request).await.map_err(|error| error.to_string()),
                    Err(why) => Err(why),
                };
                (key, answer)
            });
        }
        while let Some(done) = calls.join_next().await {
            let Ok((key, answer)) = done else { continue };
            let of = named.iter().filter(|(of, ..)| *of == key);
            let of: Vec<_> = of.map(|(_, listener, url)| (*listener, *url)).collect();
            self.take(&key, answer, &of);
        }
    }

    /// Takes an answer for the listeners that name the list.
    fn take(
        &mut self,
        key: &Key,
        answer: Result<Response<Bytes>, String>,
        of: &[(&Listener, &RangesUrl)],
    ) {
        let Some((first, _)) = of.first() else { return };
        let refresh = of.iter().map(|(_, url)| url.refresh).min().unwrap_or(BACK_OFF_MIN);
        let (front, version, share) = (first.spec.front, self.version(), self.rng.unit());
        let Some(known) = self.known.get_mut(key) else { return };
        let before = known.fetched.networks.clone();
        let in_use = before.as_deref().map_or_else(|| ranges::built_in(front), <[IpNet]>::to_vec);
        let answer = answer.map_or_else(Answer::Failed, |answer| read(&answer, front, &in_use));
        let now = SystemTime::now();
        let (result, trouble) = match answer {
            Answer::List(networks, etag) => {
                let networks: Arc<[IpNet]> = networks.into();
                let is_new = before.as_deref() != Some(&*networks);
                (known.fetched.networks, known.fetched.at) = (Some(networks), Some(now));
                known.etag = etag;
                (if is_new { Fetch::Changed } else { Fetch::Unchanged }, None)
            }
            Answer::Unchanged => {
                known.fetched.at = Some(now);
                (Fetch::Unchanged, None)
            }
            Answer::Failed(why) => (Fetch::Failed, Some(why)),
            Answer::Refused(why) => (Fetch::Refused, Some(why)),
        };
        let wait = match trouble {
            None => {
                known.failures = 0;
                refresh
            }
            Some(_) => {
                let doubled = BACK_OFF_MIN.saturating_mul(1 << known.failures.min(20));
                known.failures = known.failures.saturating_add(1);
                doubled.min(refresh)
            }
        };
        known.due = Instant::now() + wait.mul_f64(1.0 + JITTER * (2.0 * share - 1.0));
        let trouble = trouble.map(|why| {
            let instead = match before {
                Some(_) => "the list from before is kept",
                None => "it is believed who was before",
            };
            format!("{}: {why}; {instead}", key.0)
        });
        let is_news = trouble != known.fetched.trouble;
        known.fetched.trouble = trouble;
        known.fetched.version = version;
        for (listener, _) in of {
            listener.trusted.fetched(result);
            listener.trusted.take(&listener.spec, &known.fetched);
        }
        say(&first.spec, known, result, is_news);
    }

    fn version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }
}

impl Known {
    fn new(version: u64, now: Instant) -> Self {
        let fetched = Fetched { version, networks: None, at: None, trouble: None };
        Self { fetched, etag: None, due: now, failures: 0 }
    }

    fn request(&self, url: &str) -> Result<Request<Bytes>, String> {
        let mut request = Request::get(url);
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        request.body(Bytes::new()).map_err(|error| error.to_string())
    }
}

fn named(listener: &Arc<Listener>) -> Option<(Key, &Listener, &RangesUrl)> {
    let url = listener.spec.trusted_from.as_ref()?.url()?;
    Some(((url.url.clone(), listener.spec.front.as_str()), listener, url))
}

/// What an answer says, where these networks are believed now.
fn read(answer: &Response<Bytes>, front: Front, in_use: &[IpNet]) -> Answer {
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED => return Answer::Unchanged,
        status => return Answer::Failed(format!("the answer has the status {}", status.as_u16())),
    }
    let networks = ranges::parse(answer.body(), front)
        .and_then(|networks| ranges::replaces(&networks, in_use).map(|()| networks));
    match networks {
        Ok(networks) => Answer::List(networks, answer.headers().get(ETAG).cloned()),
        Err(why @ ranges::Unusable::Shrunk(..)) => Answer::Refused(format!(
            "{why} (if that is right, write them into `trusted`, or restart)"
        )),
        Err(why) => Answer::Refused(why.to_string()),
    }
}

/// What changes is said, and each trouble once.
fn say(spec: &model::Listener, known: &Known, result: Fetch, is_news: bool) {
    let (listener, fetched) = (&*spec.name, &known.fetched);
    match (&fetched.trouble, result) {
        (Some(trouble), _) if is_news => {
            tracing::error!(listener, "the list of the front's addresses is not usable: {trouble}");
        }
        (None, Fetch::Changed) => {
            let networks = fetched.networks.as_ref().map_or(0, |networks| networks.len());
            tracing::info!(listener, networks, "the list of the front's addresses was fetched");
        }
        (None, _) if is_news => {
            tracing::info!(listener, "the list of the front's addresses is usable again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Response<Bytes> {
        let answer = Response::builder().status(status).header(ETAG, "\"1\"");
        answer.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    #[test]
    fn only_a_list_that_can_be_one_is_taken() {
        let in_use: Vec<IpNet> =
            ["192.0.2.0/24", "198.51.100.0/24"].map(|text| text.parse().unwrap()).into();
        let read = |status, body: &str| read(&answered(status, body), Front::CloudFront, &in_use);
        let etag = Some(HeaderValue::from_static("\"1\""));
        assert_eq!(read(200, "192.0.2.0/24\n"), Answer::List(in_use[..1].to_vec(), etag));
        assert_eq!(read(304, ""), Answer::Unchanged);
        for status in [204, 302, 404, 500] {
            let expected = format!("the answer has the status {status}");
            assert_eq!(read(status, "192.0.2.0/24"), Answer::Failed(expected));
        }
        for (body, part) in [
            ("", "holds no network"),
            ("<html>", "not a network"),
            ("0.0.0.0/0", "too wide"),
            ("203.0.113.0/24", "2 of the 2 networks that are believed now are not in it (if"),
        ] {
            let refused = read(200, body);
            let is_right = matches!(&refused, Answer::Refused(why) if why.contains(part));
            assert!(is_right, "{body}: {refused:?}");
        }
    }
}
