//! What a route asks of a request, as JSON.

use http::Method;
use serde_json::{Map, Value, json};

use super::{HIDDEN, field};
use crate::config::model::{RequestConditions, ValuePattern};

/// Adds `methods`, `headers`, `query` and `cookies` to the description of a route.
pub fn add(conditions: &RequestConditions, route: &mut Value) {
    let RequestConditions { methods, headers, query, cookies } = conditions;
    let headers = headers.iter().map(|(name, pattern)| field(name, pattern.to_string()));
    let query = query.iter().map(|(name, pattern)| (name.clone(), json!(pattern.to_string())));
    let cookies = cookies.iter().map(|(name, pattern)| (name.clone(), json!(cookie(pattern))));
    route["methods"] = methods.iter().map(Method::as_str).collect();
    route["headers"] = Value::Object(headers.collect());
    route["query"] = Value::Object(query.collect());
    route["cookies"] = Value::Object(cookies.collect::<Map<_, _>>());
}

/// Values of cookies are credentials more often than not.
fn cookie(pattern: &ValuePattern) -> String {
    match pattern {
        ValuePattern::Present => pattern.to_string(),
        ValuePattern::Exact(_) | ValuePattern::Regex(_) => HIDDEN.to_owned(),
    }
}
