//! Cloudflare: its limits, its calls and its answers.
//!
//! `POST /zones/ZONE/purge_cache` removes, `…/invalidate_cache` makes stale; both take the same
//! body with things of one kind, and share the limits of the plan.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::bucket::Rate;
use super::operation::{Kind, Operation};
use super::outcome::{Outcome, retry_after};
use crate::config::model::{CloudflarePlan, CloudflarePurge, FrontPurgeMode};
use crate::outgoing;

/// Things that one call names.
pub(super) const OPERATIONS_PER_CALL: usize = 100;
/// Calls, and URLs among what they name.
pub(super) fn rates(plan: CloudflarePlan) -> (Rate, Rate) {
    let (per_second, burst, urls) = match plan {
        CloudflarePlan::Free => (5.0 / 60.0, 25.0, 800.0),
        CloudflarePlan::Pro => (5.0, 25.0, 800.0),
        CloudflarePlan::Business => (10.0, 50.0, 800.0),
        CloudflarePlan::Enterprise => (50.0, 500.0, 3000.0),
    };
    (Rate { per_second, burst }, Rate { per_second: urls, burst: urls })
}

/// The call that purges these, all of one kind.
///
/// # Errors
/// The configuration makes no request; said without the token.
pub(super) fn request(
    config: &CloudflarePurge,
    mode: FrontPurgeMode,
    kind: Kind,
    operations: &[Operation],
) -> Result<Request<Bytes>, String> {
    let call = match mode {
        FrontPurgeMode::Purge => "purge_cache",
        FrontPurgeMode::Invalidate => "invalidate_cache",
    };
    let names: Vec<&str> = operations.iter().map(Operation::text).collect();
    let body = match kind {
        Kind::Url => json!({ "files": names }),
        Kind::Tag => json!({ "tags": names }),
        Kind::Prefix => json!({ "prefixes": names }),
        Kind::Host => json!({ "hosts": names }),
        Kind::All => json!({ "purge_everything": true }),
    };
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", config.token.0))
        .map_err(|_| "the token is no field value".to_owned())?;
    bearer.set_sensitive(true);
    Request::post(format!("{}/zones/{}/{call}", config.api, config.zone))
        .header(AUTHORIZATION, bearer)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Bytes::from(body.to_string()))
        .map_err(|error| error.to_string())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    success: bool,
    errors: Vec<Fault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fault {
    code: i64,
    message: String,
}

/// What an answer means.
pub(super) fn outcome(answer: Result<Response<Bytes>, outgoing::Error>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Outcome::Lost(error.to_string()),
    };
    let (status, after) = (answer.status(), retry_after(answer.headers(), SystemTime::now()));
    let read: Option<Answer> = serde_json::from_slice(answer.body()).ok();
    let is_success = read.as_ref().is_some_and(|answer| answer.success);
    let why = described(status, read.as_ref());
    match status {
        StatusCode::OK if is_success => Outcome::Ok,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Limited(why, after),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Denied(why),
        StatusCode::REQUEST_TIMEOUT => Outcome::Unable(why, after),
        status if status.is_client_error() => Outcome::Refused(why),
        // Redirects too: whoever sends one is not the API.
        _ => Outcome::Unable(why, after),
    }
}

fn described(status: StatusCode, answer: Option<&Answer>) -> String {
    let errors = answer.map_or(&[][..], |answer| &answer.errors);
    let errors: Vec<_> =
        errors.iter().take(3).map(|it| format!("{} ({})", it.message, it.code)).collect();
    let status = status.as_u16();
    if errors.is_empty() {
        format!("status {status}")
    } else {
        format!("status {status}: {}", errors.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Secret;

    fn said(status: u16, fields: &[(&str, &str)], body: &str) -> Outcome {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        outcome(Ok(answer.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()))
    }

    #[test]
    fn only_a_success_is_one() {
        assert_eq!(said(200, &[], "{\"success\":true,\"errors\":[]}"), Outcome::Ok);
        assert_eq!(
            said(200, &[], "{\"success\":false}"),
            Outcome::Unable("status 200".into(), None)
        );
        assert!(matches!(said(200, &[], "<html>"), Outcome::Unable(..)));
        assert!(matches!(said(302, &[], ""), Outcome::Unable(..)));
        assert!(matches!(said(503, &[], ""), Outcome::Unable(..)));
        assert!(matches!(said(401, &[], ""), Outcome::Denied(_)));
    }

    #[test]
    fn errors_are_said_in_the_words_of_the_api() {
        let body =
            "{\"success\":false,\"errors\":[{\"code\":1094,\"message\":\"Unable to purge\"}]}";
        let expected = Outcome::Refused("status 400: Unable to purge (1094)".into());
        assert_eq!(said(400, &[], body), expected);
    }

    #[test]
    fn a_call_names_one_kind_and_hides_the_token() {
        let config = CloudflarePurge {
            zone: "z".into(),
            token: Secret("t0ken".into()),
            api: "https://api.test/v4".into(),
            mode: FrontPurgeMode::Purge,
            plan: CloudflarePlan::Free,
        };
        let tags = [Operation::Tag("a".into()), Operation::Tag("b".into())];
        let call = request(&config, FrontPurgeMode::Invalidate, Kind::Tag, &tags).unwrap();
        assert_eq!(call.uri(), "https://api.test/v4/zones/z/invalidate_cache");
        assert_eq!(&call.body()[..], b"{\"tags\":[\"a\",\"b\"]}");
        assert!(!format!("{call:?}").contains("t0ken"));
        let all = request(&config, FrontPurgeMode::Purge, Kind::All, &[Operation::All]).unwrap();
        assert_eq!(&all.body()[..], b"{\"purge_everything\":true}");
        assert!(all.uri().path().ends_with("/purge_cache"));
    }
}
