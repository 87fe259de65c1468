//! The whole object behind a part: where an origin answers a range with a 206, which is passed on
//! and not stored, one fetch in the background brings the object, so that the next range of it is
//! a hit.
//!
//! It is a flight like any other: there is one for each URL, requests that come meanwhile join it,
//! and an answer that turns out not to be storable is remembered. Its count is bounded.

use std::rc::Rc;
use std::time::SystemTime;

use http::header::CONTENT_RANGE;
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::fetch::{self, Plan};
use super::forward::{Asker, Outgoing};
use super::local::{Local, Place};
use crate::body::Body;
use crate::cache::storable::{self, RequestFacts, ResponseFacts};
use crate::range;

/// Objects that one worker fetches at a time for nobody in particular.
const BACKGROUND_FETCHES_MAX: usize = 8;

/// What it takes to fetch the object that a request wants a part of.
pub(super) struct Whole {
    plan: Plan,
    outgoing: Outgoing,
}

impl Whole {
    /// `None` where the request is for no part, or its answer for nobody else.
    pub(super) fn of(plan: &Plan, outgoing: &Outgoing) -> Option<Self> {
        if !plan.asks_for_part() || plan.alone {
            return None;
        }
        let outgoing = Outgoing {
            method: outgoing.method.clone(),
            uri: outgoing.uri.clone(),
            headers: outgoing.headers.clone(),
            upload: None,
            client: None,
            ahead_bytes_max: None,
            upgrade: None,
            is_call: false,
            asker: Asker::unmirrored(outgoing.asker.as_deref()),
        };
        Some(Self { plan: Plan { ranged: false, ..plan.clone() }, outgoing })
    }

    /// Begins the fetch if `part` is one of an object that may be stored.
    pub(super) fn fetch(self, local: &Rc<Local>, part: &Response<Body>) {
        let bytes_max = local.snapshot().cache.object_bytes_max();
        let length = part.headers().get(CONTENT_RANGE).and_then(range::complete_bytes);
        let request =
            RequestFacts { method: &self.outgoing.method, headers: &self.outgoing.headers };
        // Its fields are those that the whole would have (RFC 9110 §15.3.7).
        let whole = ResponseFacts {
            status: StatusCode::OK,
            headers: part.headers(),
            own_control: None,
            received: SystemTime::now(),
        };
        let is_storable = part.status() == StatusCode::PARTIAL_CONTENT
            && length.is_some_and(|length| length <= bytes_max)
            && storable::terms(request, whole, &self.plan.cache).is_ok();
        if is_storable
            && let Some(place) = Place::take(&local.background_fetches, BACKGROUND_FETCHES_MAX)
        {
            // It has as long as the request for the part had, from now on.
            let patience = |deadline: Instant| deadline.into_std() - self.plan.asked;
            let deadline = self.plan.deadline.map(|it| Instant::now() + patience(it));
            let plan = Plan { deadline, ..self.plan };
            fetch::behind(local, plan, self.outgoing, place);
        }
    }
}
