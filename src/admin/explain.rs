//! `GET /api/explain`: the route of a request, and what the cache makes of it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::reply::Refusal;
use crate::explain::{self, Question, Unexplained};
use crate::snapshot::Snapshot;

/// Fields that a question may name.
const FIELDS_MAX: usize = 100;

/// Explains the request that the query describes: `url`, and where wanted `method`, `listener`,
/// `status`, and any number of `header` and `response_header`.
pub(super) fn describe(snapshot: &Snapshot, query: Option<&str>) -> Result<Value, Refusal> {
    let question = question(query.unwrap_or_default()).map_err(refusal)?;
    let found = explain::explain(snapshot, &question).map_err(|Unexplained(why)| refusal(why))?;
    serde_json::to_value(&found)
        .map(|mut shown| {
            shown["held"] = held(snapshot, &question);
            shown
        })
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// What the cache holds now for the key.
fn held(snapshot: &Snapshot, question: &Question) -> Value {
    let Some(found) = explain::held(snapshot, question) else { return Value::Null };
    json!({
        "status": found.status.as_u16(),
        "fresh": found.ttl > 0,
        "ttl": found.ttl,
        "age": found.age.as_secs(),
        "bytes": found.bytes,
    })
}

fn refusal(why: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, why)
}

fn question(query: &str) -> Result<Question, String> {
    let mut url = None;
    let mut asked = Question {
        method: Method::GET,
        url: Uri::default(),
        headers: HeaderMap::new(),
        listener: None,
        answer: None,
    };
    let (mut status, mut answer) = (None, HeaderMap::new());
    for (name, value) in pairs(query)? {
        let wrong = |what: &str| format!("`{name}`: {value:?} is no {what}");
        match name.as_str() {
            "url" => url = Some(value.parse().map_err(|_| wrong("URL"))?),
            "method" => asked.method = value.parse().map_err(|_| wrong("method"))?,
            "listener" => asked.listener = Some(value),
            "status" => status = Some(value.parse().map_err(|_| wrong("status"))?),
            "header" => add(&mut asked.headers, &value)?,
            "response_header" => add(&mut answer, &value)?,
            _ => {
                return Err(format!(
                    "`{name}` is unknown; there are url, method, listener, header, status and response_header"
                ));
            }
        }
    }
    asked.url = url.ok_or("`url` is missing")?;
    if status.is_some() || !answer.is_empty() {
        asked.answer = Some((status.unwrap_or(StatusCode::OK), answer));
    }
    Ok(asked)
}

/// The pairs of a query, decoded.
fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| {
                let text = text.replace('+', " ");
                percent_decode_str(&text).decode_utf8().map(std::borrow::Cow::into_owned)
            };
            decoded(name).and_then(|name| Ok((name, decoded(value)?)))
        })
        .collect::<Result<_, _>>()
        .map_err(|_| "the query is not UTF-8".to_owned())
}

fn add(headers: &mut HeaderMap, field: &str) -> Result<(), String> {
    if headers.len() == FIELDS_MAX {
        return Err(format!("more than {FIELDS_MAX} fields"));
    }
    let (name, value) =
        field.split_once(':').ok_or_else(|| format!("{field:?} is not `name: value`"))?;
    let parsed = (HeaderName::try_from(name.trim()), HeaderValue::try_from(value.trim()));
    let (Ok(name), Ok(value)) = parsed else { return Err(format!("{field:?} is no field")) };
    headers.append(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Running, run};

    #[test]
    fn a_request_is_explained_by_its_url_and_fields() {
        run(async {
            let running = Running::start("");
            let path = "/api/explain?url=http%3A%2F%2Fh%2Fa%3Fb&header=accept:+text/html\
                        &response_header=Cache-Control:%20max-age=9";
            let answer = running.get(path).await.json();
            assert_eq!(answer["url"], "http://h/a?b");
            assert_eq!(answer["route"]["name"], "route-1");
            assert_eq!(answer["cache"]["ours"]["lifetime_seconds"], 9);
            assert_eq!(answer["held"], serde_json::Value::Null);
        });
    }

    #[test]
    fn what_is_wrong_with_a_question_is_named() {
        run(async {
            let running = Running::start("");
            for (query, part) in [
                ("", "`url` is missing"),
                ("url=/a", "absolute"),
                ("url=http://h/&wat=1", "`wat` is unknown"),
                ("url=http://h/&header=x", "not `name: value`"),
                ("url=http://h/&status=1", "no status"),
            ] {
                let answer = running.get(&format!("/api/explain?{query}")).await;
                assert_eq!(answer.status, 400, "{query}");
                assert!(answer.body.contains(part), "{query}: {}", answer.body);
            }
        });
    }
}
