//! Answers as the front of a listener takes them: entity tags in quotes, heads not too large.

use http::header::ETAG;
use http::{HeaderMap, Response};

use super::exchange::Exchange;
use crate::body::Body;
use crate::compress::fields;
use crate::config::model::Front;
use crate::error::Kind;
use crate::front::answer::Fit;

/// Brings an answer into the form that the front takes.
///
/// # Errors
///
/// If the front would refuse it.
pub(super) fn fit(exchange: &Exchange, response: &mut Response<Body>) -> Result<(), Kind> {
    let front = exchange.connection.listener.spec.front;
    if front == Front::None {
        return Ok(());
    }
    quote(response.headers_mut());
    let (fit, route) = (Fit::of(front, response.headers()), exchange.route());
    if fit != Fit::Fits
        && let Some(route) = route
    {
        route.stats.oversized(fit == Fit::TooLarge);
    }
    if fit == Fit::TooLarge { Err(Kind::AnswerTooLargeForFront) } else { Ok(()) }
}

/// A front may take a tag without quotes off. The cache compares what is between them.
fn quote(headers: &mut HeaderMap) {
    if let Some(quoted) = headers.get(ETAG).and_then(fields::quoted) {
        headers.insert(ETAG, quoted);
    }
}
