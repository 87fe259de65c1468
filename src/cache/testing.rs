//! What tests of the cache begin with.

use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::entry::Head;
use super::freshness::LifetimeSource;
use super::policy::PolicyField;
use super::storable::Terms;
use crate::config::model;

/// A head that came this moment, five seconds old.
pub(crate) fn head(lifetime_seconds: u64) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, HeaderValue::from_static("\"a\""));
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
    Head {
        status: StatusCode::OK,
        headers,
        own_control: None,
        terms: Terms {
            lifetime: Duration::from_secs(lifetime_seconds),
            source: LifetimeSource::MaxAge,
            field: PolicyField::CacheControl,
            revalidate_always: false,
            must_revalidate: false,
            for_authorized: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: None,
        },
        initial_age: Duration::from_secs(5),
        received: Instant::now(),
        may_code: false,
    }
}

/// With these bounds in bytes.
pub(crate) fn config(memory_bytes_max: u64, object_bytes_max: u64) -> model::Cache {
    model::Cache {
        memory_bytes_max,
        object_bytes_max,
        variants_max: 16,
        status_key: false,
        name: "headwater".into(),
    }
}
