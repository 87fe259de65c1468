//! Answers in which the cache has a part: from the store, from a fetch that others read as well,
//! or from one that could not be shared. What `Cache-Status` and the counts say of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use super::coding::{self, Form};
use super::deliver::{self, Asked, Told};
use super::exchange::Exchange;
use super::fetch::Fetched;
use super::from_backend;
use super::reply::ReplyBody;
use super::target;
use crate::body::Body;
use crate::cache::reuse::{Fault, StaleReason};
use crate::cache::status::{CacheStatus, FieldKind, Forward};
use crate::cache::storable::Refusal;
use crate::cache::{Entry, Head, is_of_not_modified};
use crate::compress::Coding;
use crate::fields::Fields;

/// Answers from the store, be it with what is stale.
pub(super) fn stored(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    entry: &Arc<Entry>,
    stale: Option<StaleReason>,
    form: Form,
) -> Response<ReplyBody> {
    exchange.cache = Some(stale.map_or(CacheStatus::Hit, |_| CacheStatus::Stale));
    let ttl = entry.ttl(exchange.started.into_std());
    let detail = stale.map(StaleReason::as_str);
    let told = Told { kind: FieldKind::Hit, ttl: Some(ttl), detail };
    deliver::cached(exchange, asked, &entry.head, form, || Body::stored(&entry.body), &told)
}

/// The same, once the rendition that is being made is there.
pub(super) async fn later(
    exchange: Exchange,
    parts: Parts,
    target: target::Owned,
    (entry, stale, coding): (Arc<Entry>, Option<StaleReason>, Coding),
) -> Response<ReplyBody> {
    let target = target.as_target();
    let asked = Asked { method: &parts.method, headers: &parts.headers, target: &target };
    let form = coding::settled(&entry, coding).await;
    stored(exchange, &asked, &entry, stale, form)
}

/// Sends what a fetch brought, which was made for this reason.
pub(super) async fn fetched(
    mut exchange: Exchange,
    asked: &Asked<'_>,
    fetched: Fetched,
    why: Forward,
) -> Response<ReplyBody> {
    match fetched {
        Fetched::Hit(entry) => {
            let form = coding::chosen(&exchange, asked, &entry).await;
            stored(exchange, asked, &entry, None, form)
        }
        Fetched::Confirmed { entry, status, led, private } => {
            exchange.cache =
                Some(if led { CacheStatus::Revalidated } else { CacheStatus::Collapsed });
            let kind = match led {
                true => why.answered(Some(status.as_u16()), true),
                false => FieldKind::Collapsed(why),
            };
            let ttl = entry.head.ttl(Instant::now());
            let told = Told { kind, ttl: Some(ttl), detail: None };
            let form = coding::chosen(&exchange, asked, &entry).await;
            let head = with_private(&entry.head, private);
            deliver::cached(exchange, asked, &head, form, || Body::stored(&entry.body), &told)
        }
        Fetched::StoodIn { entry, reason, fault } => {
            exchange.cache = Some(CacheStatus::Stale);
            tracing::debug!(?fault, request_id = ?exchange.request_id, "stale answer");
            let status = match fault {
                Fault::Status(status) => Some(status.as_u16()),
                Fault::Kind(_) => None,
            };
            let ttl = entry.ttl(Instant::now());
            let kind = FieldKind::StoodIn { status };
            let told = Told { kind, ttl: Some(ttl), detail: Some(reason.as_str()) };
            let form = coding::chosen(&exchange, asked, &entry).await;
            deliver::cached(exchange, asked, &entry.head, form, || Body::stored(&entry.body), &told)
        }
        Fetched::Shared { shared, body, led, private } => {
            exchange.cache = Some(if led { CacheStatus::Miss } else { CacheStatus::Collapsed });
            let kind = match led {
                true => why.answered(None, shared.is_stored),
                false => FieldKind::Collapsed(why),
            };
            let detail = (!shared.is_stored).then_some("min-uses");
            let told = Told { kind, ttl: None, detail };
            let form = coding::passing(&exchange, asked, &shared.head);
            let head = with_private(&shared.head, private);
            deliver::cached(exchange, asked, &head, form, || body, &told)
        }
        Fetched::Own { response, refusal } => {
            let (status, detail) = match (response.status(), refusal) {
                (StatusCode::PARTIAL_CONTENT, _) => (CacheStatus::Miss, "partial"),
                (_, Refusal::Method) => (CacheStatus::Miss, refusal.as_str()),
                _ => (CacheStatus::Uncacheable, refusal.as_str()),
            };
            exchange.cache = Some(status);
            let kind = why.answered(None, false);
            let told = Told { kind, ttl: None, detail: Some(detail) };
            let response = unless_client_has_it(&exchange, asked, response);
            from_backend(exchange, asked, response, Some(told))
        }
    }
}

/// A head with the fields that are for one client only, and not stored.
fn with_private(head: &Head, private: HeaderMap) -> Cow<'_, Head> {
    if private.is_empty() {
        return Cow::Borrowed(head);
    }
    let mut head = head.clone();
    let mut headers = head.fields.to_map(private.len());
    for (name, value) in &private {
        headers.append(name, value.clone());
    }
    head.fields = Fields::from(&headers);
    Cow::Owned(head)
}

/// A 304 in place of an answer that the client holds already: the fetch was made without the
/// client's conditions, in the hope of an answer for everybody.
fn unless_client_has_it(
    exchange: &Exchange,
    asked: &Asked<'_>,
    response: Response<Body>,
) -> Response<Body> {
    if response.status() != StatusCode::OK || !coding::holds(exchange, asked, response.headers()) {
        return response;
    }
    let mut not_modified = super::empty(StatusCode::NOT_MODIFIED);
    let kept = response.headers().iter().filter(|(name, _)| is_of_not_modified(name));
    let kept = kept.map(|(name, value)| (name.clone(), value.clone()));
    *not_modified.headers_mut() = kept.collect();
    not_modified
}
