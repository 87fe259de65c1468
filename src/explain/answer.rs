//! What caches make of a request and of an answer to it.

use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use super::Question;
use crate::cache::control::RequestControl;
use crate::cache::freshness;
use crate::cache::storable::{self, RequestFacts, ResponseFacts, Terms};
use crate::config::model::RouteCache;
use crate::snapshot::Route;

/// The verdict of one cache on an answer.
#[derive(Debug, Serialize)]
pub struct Judged {
    pub stored: bool,
    /// Where the lifetime comes from, or why nothing is stored.
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error_seconds: Option<u64>,
    /// Further rules that apply.
    pub notes: Vec<&'static str>,
}

/// Why the cache is not asked.
pub(super) fn bypass(route: &Route, question: &Question) -> Option<&'static str> {
    if route.spec.cache.is_none() {
        return Some("the route does not cache");
    }
    if !matches!(question.method, Method::GET | Method::HEAD) {
        return Some("only GET and HEAD are answered from the cache");
    }
    RequestControl::of(&question.headers)
        .no_store
        .then_some("the request says no-store (RFC 9111 §5.2.1.5)")
}

/// Judges an answer that came this moment.
pub(super) fn judge(
    question: &Question,
    status: StatusCode,
    headers: &HeaderMap,
    rules: &RouteCache,
    now: SystemTime,
) -> Judged {
    let request = RequestFacts { method: &Method::GET, headers: &question.headers };
    let response = ResponseFacts { status, headers, own_control: None, received: now };
    match storable::terms(request, response, rules) {
        Err(refusal) => Judged {
            stored: false,
            reason: refusal.as_str(),
            lifetime_seconds: None,
            age_seconds: None,
            stale_while_revalidate_seconds: None,
            stale_if_error_seconds: None,
            notes: Vec::new(),
        },
        Ok(terms) => kept(&terms, question, freshness::initial_age(headers, now, Duration::ZERO)),
    }
}

fn kept(terms: &Terms, question: &Question, age: Duration) -> Judged {
    let seconds = |duration: Duration| Some(duration.as_secs()).filter(|seconds| *seconds > 0);
    let mut notes = Vec::new();
    if terms.revalidate_always {
        notes.push("never used without asking the origin (RFC 9111 §5.2.2.4)");
    } else if age >= terms.lifetime {
        notes.push("stale from the start");
    }
    if terms.must_revalidate {
        notes.push("never served stale (RFC 9111 §5.2.2.2, §5.2.2.8, §5.2.2.10)");
    }
    if question.headers.contains_key(AUTHORIZATION) {
        notes.push("may answer authorized requests of others (RFC 9111 §3.5)");
    }
    let may_be_stale = !terms.must_revalidate && !terms.revalidate_always;
    Judged {
        stored: true,
        reason: terms.source.as_str(),
        lifetime_seconds: Some(terms.lifetime.as_secs()),
        age_seconds: Some(age.as_secs()),
        stale_while_revalidate_seconds: seconds(terms.stale_while_revalidate)
            .filter(|_| may_be_stale),
        stale_if_error_seconds: terms.stale_if_error.and_then(seconds).filter(|_| may_be_stale),
        notes,
    }
}
