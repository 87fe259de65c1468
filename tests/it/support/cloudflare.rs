//! A stand-in for the purge API of Cloudflare, and for the cache that it clears: with the limits
//! and the errors of its documentation, and a cache that is full again at once.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::{Value, json};

use super::edge::Edge;
use super::{Origin, Request, answer};

pub const ZONE: &str = "023e105f4ecef8ad9ca31a8372d0c353";
pub const TOKEN: &str = "t0ken-of-the-zone";
/// Things in one call.
const OPERATIONS_MAX: usize = 100;
const TAG_BYTES_MAX: usize = 1024;
/// What its clock may be off, in calls.
const TOLERANCE: f64 = 0.5;

pub struct Cloudflare {
    api: Origin,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    edge: Edge,
}

struct State {
    per_second: f64,
    burst: f64,
    level: f64,
    at: Instant,
    /// Answers instead of what would be done; an empty one breaks off.
    instead: VecDeque<Vec<u8>>,
    /// The path's last part and the body of every call that was accepted.
    accepted: Vec<(String, Value)>,
    limited: usize,
}

impl Cloudflare {
    /// With the limits of the plan: calls a second, and at once.
    pub fn new(per_second: f64, burst: f64) -> Self {
        let state = State {
            per_second,
            burst,
            level: burst,
            at: Instant::now(),
            instead: VecDeque::new(),
            accepted: Vec::new(),
            limited: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), edge: Edge::default() });
        let of_api = shared.clone();
        let api = Origin::scripted(move |call| {
            if !call.body() {
                return;
            }
            let bytes = of_api.answer(&call.request);
            if bytes.is_empty() {
                call.close();
            } else {
                call.send(&bytes);
            }
        });
        Self { api, shared }
    }

    /// The table of the configuration for it.
    pub fn table(&self, lines: &str) -> String {
        format!(
            "[purge.cloudflare]\nzone = \"{ZONE}\"\ntoken_file = \"token\"\n\
             api = \"http://{}/client/v4\"\n{lines}\n",
            self.api.address
        )
    }

    /// From here its cache is filled again after each purge.
    pub fn fetch_from(&self, proxy: SocketAddr) {
        self.shared.edge.fetch_from(proxy);
    }

    /// The next calls get these answers.
    pub fn answers_instead(&self, answers: impl IntoIterator<Item = Vec<u8>>) {
        self.shared.state().instead.extend(answers);
    }

    pub fn accepted(&self) -> Vec<(String, Value)> {
        self.shared.state().accepted.clone()
    }

    pub fn limited(&self) -> usize {
        self.shared.state().limited
    }

    /// A client asks its cache, which fetches what it does not have.
    pub fn visit(&self, target: &str) {
        self.shared.edge.visit(target);
    }

    /// The stored bodies by target.
    pub fn copies(&self) -> BTreeMap<String, String> {
        self.shared.edge.copies()
    }
}

/// An error in the form of the API.
pub fn fault(status: u16, fields: &[&str], code: u32, message: &str) -> Vec<u8> {
    let errors = json!([{ "code": code, "message": message }]);
    let body = json!({ "success": false, "errors": errors, "messages": [], "result": null });
    answer(status, fields, body.to_string())
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        let (call, body) = {
            let mut state = self.state();
            if let Some(bytes) = state.instead.pop_front() {
                return bytes;
            }
            match state.admit(request) {
                Ok(admitted) => admitted,
                Err(bytes) => return bytes,
            }
        };
        let tags: Vec<&str> =
            body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let all = body["purge_everything"] == true;
        self.edge.clear(|_, tag| all || tags.contains(&tag));
        self.state().accepted.push((call, body));
        let body =
            json!({ "success": true, "errors": [], "messages": [], "result": { "id": ZONE } });
        answer(200, &["Content-Type: application/json"], body.to_string())
    }
}

impl State {
    fn admit(&mut self, request: &Request) -> Result<(String, Value), Vec<u8>> {
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return Err(fault(403, &[], 10_000, "Authentication error"));
        }
        let path = request.target().strip_prefix("/client/v4/zones/").unwrap_or_default();
        let Some((ZONE, call @ ("purge_cache" | "invalidate_cache"))) = path.split_once('/') else {
            return Err(fault(404, &[], 7003, "Could not route to the zone"));
        };
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.level, self.at) = ((self.level + gained).min(self.burst), now);
        if self.level + TOLERANCE < 1.0 {
            self.limited += 1;
            return Err(fault(
                429,
                &["Retry-After: 1"],
                1134,
                "Unable to purge, rate limit reached",
            ));
        }
        self.level -= 1.0;
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        refusal(&body).map_or(Ok((call.to_owned(), body)), |why| Err(fault(400, &[], 1094, why)))
    }
}

/// Why the API takes no such body.
fn refusal(body: &Value) -> Option<&'static str> {
    let Some(object) = body.as_object() else { return Some("the body is no object") };
    let [(kind, named)] = object.iter().collect::<Vec<_>>()[..] else {
        return Some("one kind of thing a call");
    };
    if kind == "purge_everything" {
        return (named != &json!(true)).then_some("purge_everything must be true");
    }
    let Some(names) = named.as_array() else { return Some("a list is expected") };
    let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
    let Some(names) = names else { return Some("names are strings") };
    if names.is_empty() || names.len() > OPERATIONS_MAX {
        return Some("1 to 100 operations a call");
    }
    let is_right = |name: &&str| match kind.as_str() {
        "files" => name.starts_with("http://") || name.starts_with("https://"),
        "tags" => (1..=TAG_BYTES_MAX).contains(&name.len()) && !name.contains(' '),
        "prefixes" => !name.contains("://") && name.contains('/'),
        "hosts" => !name.contains('/'),
        _ => false,
    };
    (!names.iter().all(is_right)).then_some("Unable to purge: invalid name")
}
