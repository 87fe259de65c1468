//! A stand-in for the invalidation API of CloudFront, and for the cache that it clears: it checks
//! signatures, has the limits and the errors of its documentation, completes an invalidation some time
//! after it was accepted, and clears only then.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::{digest, hmac};
use time::{Date, Month};

use super::edge::Edge;
use super::{Origin, Request, answer};

pub const DISTRIBUTION: &str = "EDFDVBD6EXAMPLE";
pub const KEY_ID: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const ITEMS_MAX: usize = 3000;
const WILDCARDS_MAX: usize = 15;
/// How far a clock may be off.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

pub struct CloudFront {
    api: Origin,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    edge: Edge,
}

struct State {
    /// How long an invalidation is in progress.
    length: Duration,
    /// Its clock is behind by so much.
    behind: Duration,
    instead: VecDeque<Vec<u8>>,
    /// By reference.
    accepted: BTreeMap<String, Invalidation>,
    /// Calls that named a reference which was known.
    repeated: usize,
    refused: usize,
}

struct Invalidation {
    number: usize,
    items: Vec<String>,
    due: Instant,
    is_complete: bool,
}

impl Invalidation {
    fn id(&self) -> String {
        format!("I{:013X}", self.number)
    }

    fn count(&self, is_wildcard: bool) -> usize {
        let wildcard = |item: &str| item.ends_with('*') && !item.starts_with('#');
        self.items.iter().filter(|item| wildcard(item) == is_wildcard).count()
    }
}

impl CloudFront {
    pub fn new(length: Duration) -> Self {
        let state = State {
            length,
            behind: Duration::ZERO,
            instead: VecDeque::new(),
            accepted: BTreeMap::new(),
            repeated: 0,
            refused: 0,
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

    /// The table of the configuration for it, which reads `aws`.
    pub fn table(&self, lines: &str) -> String {
        format!(
            "[purge.cloudfront]\ndistribution = \"{DISTRIBUTION}\"\ncredentials_file = \"aws\"\n\
             api = \"http://{}\"\n{lines}\n",
            self.api.address
        )
    }

    /// What is in that file.
    pub fn credentials() -> String {
        format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    }

    pub fn edge(&self) -> &Edge {
        &self.shared.edge
    }

    pub fn fetch_from(&self, proxy: SocketAddr) {
        self.shared.edge.fetch_from(proxy);
    }

    /// The next calls get these answers; an empty one is accepted, and breaks off.
    pub fn answers_instead(&self, answers: impl IntoIterator<Item = Vec<u8>>) {
        self.shared.state().instead.extend(answers);
    }

    pub fn set_back(&self, behind: Duration) {
        self.shared.state().behind = behind;
    }

    /// The items of what was accepted, in order.
    pub fn accepted(&self) -> Vec<Vec<String>> {
        let state = self.shared.state();
        let mut accepted: Vec<_> = state.accepted.values().collect();
        accepted.sort_by_key(|it| it.number);
        accepted.iter().map(|it| it.items.clone()).collect()
    }

    pub fn repeated(&self) -> usize {
        self.shared.state().repeated
    }

    /// Calls that were against a rule.
    pub fn refused(&self) -> usize {
        self.shared.state().refused
    }
}

/// An error in the form of the API.
pub fn fault(status: u16, fields: &[&str], code: &str, message: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<ErrorResponse \
         xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>5e0c-1</RequestId></ErrorResponse>"
    );
    answer(status, fields, body)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        let instead = self.state().instead.pop_front();
        if let Some(bytes) = instead.as_ref().filter(|bytes| !bytes.is_empty()) {
            return bytes.clone();
        }
        self.complete();
        let mut state = self.state();
        let now = SystemTime::now() - state.behind;
        let bytes = match state.take(request, now) {
            Ok(bytes) => bytes,
            Err(bytes) => {
                state.refused += 1;
                bytes
            }
        };
        if instead.is_some() { Vec::new() } else { bytes }
    }

    /// Clears what invalidations name whose time has come.
    fn complete(&self) {
        let due: Vec<String> = {
            let now = Instant::now();
            let mut state = self.state();
            let due = state.accepted.values_mut().filter(|it| !it.is_complete && it.due <= now);
            due.flat_map(|it| {
                it.is_complete = true;
                it.items.clone()
            })
            .collect()
        };
        if due.is_empty() {
            return;
        }
        self.edge.clear(|target, tag| {
            due.iter().any(|item| match (item.strip_prefix('#'), item.strip_suffix('*')) {
                (Some(named), _) => named.eq_ignore_ascii_case(tag),
                (None, Some(prefix)) => target.starts_with(prefix),
                (None, None) => target == item,
            })
        });
    }
}

impl State {
    fn take(&mut self, request: &Request, now: SystemTime) -> Result<Vec<u8>, Vec<u8>> {
        let date = format!("Date: {}", httpdate::fmt_http_date(now));
        let fault = |status, code, message: &str| Err(fault(status, &[&date], code, message));
        if let Err((code, message)) = verify(request, now) {
            return fault(403, code, &message);
        }
        let of_distribution = format!("/2020-05-31/distribution/{DISTRIBUTION}/invalidation");
        let Some(rest) = request.target().strip_prefix(&of_distribution) else {
            return fault(404, "NoSuchDistribution", "The specified distribution does not exist.");
        };
        if let Some(id) = rest.strip_prefix('/') {
            let found = self.accepted.values().find(|it| it.id() == id);
            return match found {
                Some(found) => Ok(described(200, found)),
                None => fault(404, "NoSuchInvalidation", "It does not exist."),
            };
        }
        let body = String::from_utf8(request.body.clone()).unwrap();
        let reference = between(&body, "<CallerReference>", "</CallerReference>").unwrap();
        let quantity: usize = between(&body, "<Quantity>", "</Quantity>").unwrap().parse().unwrap();
        let items: Vec<String> = body
            .split("<Path>")
            .skip(1)
            .map(|rest| rest.split("</Path>").next().unwrap().replace("&amp;", "&"))
            .collect();
        if items.len() != quantity || items.is_empty() {
            return fault(400, "InconsistentQuantities", "Quantity and Items do not match.");
        }
        let is_wrong = |item: &&String| {
            let tag = item.strip_prefix('#').map(|tag| !tag.contains(',') && tag.len() <= 256);
            !tag.unwrap_or_else(|| item.starts_with('/') && item.len() <= 4000)
        };
        if let Some(wrong) = items.iter().find(is_wrong) {
            let message = format!("Your request contains one or more invalid paths: {wrong}");
            return fault(400, "InvalidArgument", &message);
        }
        if let Some(known) = self.accepted.get(reference) {
            if known.items != items {
                return fault(400, "InvalidationBatchAlreadyExists", "It is another batch.");
            }
            self.repeated += 1;
            return Ok(described(201, known));
        }
        let number = self.accepted.len() + 1;
        let due = Instant::now() + self.length;
        let new = Invalidation { number, items, due, is_complete: false };
        for (is_wildcard, max) in [(false, ITEMS_MAX), (true, WILDCARDS_MAX)] {
            let open = self.accepted.values().filter(|it| !it.is_complete);
            if open.map(|it| it.count(is_wildcard)).sum::<usize>() + new.count(is_wildcard) > max {
                let message = "You have exceeded the maximum number of invalidation paths.";
                return fault(400, "TooManyInvalidationsInProgress", message);
            }
        }
        let bytes = described(201, &new);
        self.accepted.insert(reference.to_owned(), new);
        Ok(bytes)
    }
}

fn described(status: u16, of: &Invalidation) -> Vec<u8> {
    let state = if of.is_complete { "Completed" } else { "InProgress" };
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Invalidation \
         xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Id>{}</Id><Status>{state}</Status>\
         <CreateTime>2026-11-27T00:00:00Z</CreateTime></Invalidation>",
        of.id()
    );
    answer(status, &["Content-Type: text/xml"], body)
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    text.split_once(begin)?.1.split_once(end).map(|(between, _)| between)
}

/// Checks a signature as the documentation of AWS has it: what is wrong, as a code and in words.
fn verify(request: &Request, now: SystemTime) -> Result<(), (&'static str, String)> {
    let wrong = |why: &str| ("SignatureDoesNotMatch", why.to_owned());
    let given = request.header("authorization").ok_or(("MissingAuthenticationToken", "".into()))?;
    let credential = between(given, "Credential=", ", ").ok_or(wrong("no credential"))?;
    let names = between(given, "SignedHeaders=", ", ").ok_or(wrong("no names"))?;
    let signature = given.split_once("Signature=").ok_or(wrong("no signature"))?.1;
    let scope: Vec<&str> = credential.split('/').collect();
    let [KEY_ID, day, "us-east-1", "cloudfront", "aws4_request"] = scope[..] else {
        return Err(("InvalidClientTokenId", "The security token is invalid.".into()));
    };
    if !names.split(';').any(|name| name == "host") {
        return Err(wrong("Host is not signed"));
    }
    let stamp = request.header("x-amz-date").ok_or(wrong("no date"))?;
    let lines: String = names
        .split(';')
        .map(|name| format!("{name}:{}\n", request.header(name).unwrap_or_default().trim()))
        .collect();
    let hash = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let (method, path) = (request.method(), request.target());
    let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{}", hash(&request.body));
    let of_whom = format!("{day}/us-east-1/cloudfront/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{of_whom}\n{}", hash(canonical.as_bytes()));
    let steps = [day, "us-east-1", "cloudfront", "aws4_request", &text];
    let keyed = steps.iter().fold(format!("AWS4{SECRET}").into_bytes(), |key, step| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        hmac::sign(&key, step.as_bytes()).as_ref().to_vec()
    });
    if hex(&keyed) != signature {
        return Err(wrong("The request signature we calculated does not match."));
    }
    let signed_at = moment(stamp).ok_or(wrong("no date"))?;
    let off = signed_at.duration_since(now).unwrap_or_else(|error| error.duration());
    if off > SKEW_MAX {
        return Err(wrong(&format!("Signature not yet current: {stamp} is off")));
    }
    Ok(())
}

/// A moment that is written as `20150830T123600Z`.
fn moment(stamp: &str) -> Option<SystemTime> {
    let part = |range: std::ops::Range<usize>| stamp.get(range)?.parse::<u8>().ok();
    let month = Month::try_from(part(4..6)?).ok()?;
    let date = Date::from_calendar_date(stamp.get(0..4)?.parse().ok()?, month, part(6..8)?).ok()?;
    let moment = date.with_hms(part(9..11)?, part(11..13)?, part(13..15)?).ok()?;
    Some(moment.assume_utc().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
