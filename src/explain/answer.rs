//! What caches make of a request and of an answer to it.

use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, VARY};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use super::Question;
use crate::cache::control::RequestControl;
use crate::cache::key::KeyHasher;
use crate::cache::policy::{HEADWATER_CACHE_CONTROL, Policy};
use crate::cache::storable::{self, RequestFacts, ResponseFacts, Terms};
use crate::cache::{freshness, says_something_of_queries, tags};
use crate::config::model::{ClientDirectives, RouteCache};
use crate::cookie;
use crate::snapshot::Route;

/// The verdict of one cache on an answer.
#[derive(Debug, Default, Serialize)]
pub struct Judged {
    pub stored: bool,
    /// Where the lifetime comes from, or why nothing is stored, with the rule.
    pub reason: &'static str,
    /// The field that decides.
    pub field: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error_seconds: Option<u64>,
    /// Further rules that apply.
    pub notes: Vec<String>,
}

/// Why the cache is not asked.
pub(super) fn bypass(route: &Route, question: &Question) -> Option<String> {
    let Some(rules) = &route.spec.cache else {
        return Some("the route does not cache".to_owned());
    };
    if !matches!(question.method, Method::GET | Method::HEAD) {
        return Some("only GET and HEAD are answered from the cache (RFC 9111 §3)".to_owned());
    }
    if let Some(name) = rules.bypass.headers.iter().find(|it| question.headers.contains_key(*it)) {
        return Some(format!("the route's bypass.headers name {name}"));
    }
    let is_named = |name: &&[u8]| {
        std::str::from_utf8(name).is_ok_and(|it| rules.bypass.cookies.iter().any(|b| b.matches(it)))
    };
    let named = cookie::cookies(&question.headers).map(|(name, _)| name).find(is_named);
    if let Some(name) = named {
        let name = String::from_utf8_lossy(name);
        return Some(format!("the route's bypass.cookies name {name}"));
    }
    RequestControl::of(&question.headers)
        .no_store
        .then(|| "the request says no-store (RFC 9111 §5.2.1.5)".to_owned())
}

/// What the request asks of stored responses, and whether that counts.
pub(super) fn demands(route: &Route, question: &Question) -> Vec<&'static str> {
    let control = RequestControl::of(&question.headers);
    let counts = route
        .spec
        .cache
        .as_ref()
        .is_some_and(|rules| rules.client_directives == ClientDirectives::Obey);
    let mut notes = Vec::new();
    if control.only_if_cached {
        notes.push("only-if-cached: what is not stored is a 504 (RFC 9111 §5.2.1.7)");
    }
    let asks = control.no_cache
        || control.max_age.is_some()
        || control.min_fresh.is_some()
        || control.max_stale.is_some();
    if asks {
        notes.push(if counts {
            "its directives about freshness count: client_directives is `obey`"
        } else {
            "its directives about freshness do not count: client_directives is `ignore`"
        });
    }
    notes
}

/// Judges an answer that came this moment, by our cache.
pub(super) fn ours(
    question: &Question,
    (status, headers): (StatusCode, &HeaderMap),
    rules: &RouteCache,
    hasher: &KeyHasher,
    now: SystemTime,
) -> Judged {
    let mut judged = judge(question, status, headers, rules, now);
    if judged.stored {
        let tags = tags::tags_of(headers, &rules.tags, hasher).len();
        if tags > tags::TAGS_MAX {
            judged.stored = false;
            judged.reason = storable::Refusal::TooManyTags.rule();
        }
        if tags > 0 {
            judged.notes.push(format!("tags to purge it by: {tags}"));
        }
        if rules.min_uses.0 > 1 {
            judged.notes.push(format!("from {} requests on (min_uses)", rules.min_uses.0));
        }
        let left_out = storable::omitted(headers, None, rules);
        if !left_out.is_empty() {
            let names: Vec<_> = left_out.iter().map(ToString::to_string).collect();
            judged.notes.push(format!("stored without {}", names.join(", ")));
        }
    }
    judged
}

/// Judges it by a shared cache in front of us, which knows nothing of our configuration.
pub(super) fn front(
    question: &Question,
    (status, headers): (StatusCode, &HeaderMap),
    now: SystemTime,
) -> Judged {
    let mut headers = headers.clone();
    headers.remove(HEADWATER_CACHE_CONTROL);
    judge(question, status, &headers, &RouteCache::default(), now)
}

fn judge(
    question: &Question,
    status: StatusCode,
    headers: &HeaderMap,
    rules: &RouteCache,
    now: SystemTime,
) -> Judged {
    let request = RequestFacts { method: &Method::GET, headers: &question.headers };
    let response = ResponseFacts { status, headers, own_control: None, received: now };
    let policy = Policy::of(headers, None);
    let mut judged = match storable::terms(request, response, rules) {
        Err(refusal) => Judged { reason: refusal.rule(), ..Judged::default() },
        Ok(terms) => kept(&terms, question, freshness::initial_age(headers, now, Duration::ZERO)),
    };
    judged.field = policy.field.as_str();
    for field in &policy.unreadable {
        judged.notes.push(format!("{} cannot be read, and does not count", field.as_str()));
    }
    for directive in &policy.control.malformed {
        judged.notes.push(format!("`{directive}` is malformed, and taken in the careful sense"));
    }
    if judged.stored {
        judged.notes.extend(selection(headers));
    }
    judged
}

/// What tells requests apart that it answers.
fn selection(headers: &HeaderMap) -> Vec<String> {
    let vary: Vec<_> = headers.get_all(VARY).iter().filter_map(|it| it.to_str().ok()).collect();
    let mut notes = Vec::new();
    if !vary.is_empty() {
        notes.push(format!("one variant for each value of {} (RFC 9111 §4.1)", vary.join(", ")));
    }
    if says_something_of_queries(headers) {
        notes.push("No-Vary-Search: it answers other queries, too".to_owned());
    }
    notes
}

fn kept(terms: &Terms, question: &Question, age: Duration) -> Judged {
    let seconds = |duration: Duration| Some(duration.as_secs()).filter(|seconds| *seconds > 0);
    let mut notes = Vec::new();
    let mut note = |text: &str| notes.push(text.to_owned());
    if terms.revalidate_always {
        note("never used without asking the origin (RFC 9111 §5.2.2.4)");
    } else if age >= terms.lifetime {
        note("stale from the start");
    }
    if terms.must_revalidate {
        note("never served stale (RFC 9111 §5.2.2.2, §5.2.2.8, §5.2.2.10)");
    }
    if question.headers.contains_key(AUTHORIZATION) {
        note("may answer authorized requests of others (RFC 9111 §3.5)");
    }
    let may_be_stale = terms.may_be_stale();
    Judged {
        stored: true,
        reason: terms.source.as_str(),
        lifetime_seconds: Some(terms.lifetime.as_secs()),
        age_seconds: Some(age.as_secs()),
        stale_while_revalidate_seconds: seconds(terms.stale_while_revalidate)
            .filter(|_| may_be_stale),
        stale_if_error_seconds: terms.stale_if_error.and_then(seconds).filter(|_| may_be_stale),
        notes,
        ..Judged::default()
    }
}
