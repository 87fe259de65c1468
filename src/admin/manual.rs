//! `PUT /api/pools/{pool}/endpoints/{address}`: taking an endpoint out by hand, and back.

use std::time::Instant;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::Refusal;
use crate::balance::Manual;
use crate::snapshot::Snapshot;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    state: State,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ready,
    Drain,
    Down,
}

/// The pool and the endpoint that a path names, percent-encoded.
pub(super) fn named(path: &str) -> Option<(&str, &str)> {
    let (pool, address) = path.strip_prefix("/api/pools/")?.split_once("/endpoints/")?;
    (!pool.is_empty() && !address.is_empty()).then_some((pool, address))
}

/// Sets the state of the endpoint that `path` names.
pub(super) fn set(snapshot: &Snapshot, path: &str, body: &[u8]) -> Result<Value, Refusal> {
    let state = read(body).map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, why))?;
    let (pool, address) = named(path).unwrap_or_default();
    let decode = |text| percent_decode_str(text).decode_utf8_lossy();
    let (pool, address) = (decode(pool), decode(address));
    let missing = |what: String| Refusal::new(StatusCode::NOT_FOUND, what);
    let backend = snapshot.backends.get(&*pool);
    let Some(balanced) = backend.and_then(|backend| backend.balanced()) else {
        let mut pools: Vec<&str> = snapshot.backends.keys().map(|name| &**name).collect();
        pools.sort_unstable();
        let pools = pools.join(", ");
        return Err(missing(format!("there is no pool of endpoints {pool:?}; pools are {pools}")));
    };
    let endpoint = balanced.pool.set_manual(&address, state, Instant::now());
    let endpoint = endpoint
        .ok_or_else(|| missing(format!("the pool {pool:?} has no endpoint {address:?}")))?;
    Ok(json!({
        "pool": pool,
        "endpoint": &*endpoint.label,
        "state": state.as_str(),
        "in_flight": endpoint.requests_in_flight(),
    }))
}

fn read(body: &[u8]) -> Result<Manual, String> {
    // The deserializer would take an array for a struct as well.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("the body is not a JSON object such as {\"state\":\"drain\"}".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let order: Order =
        serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(match order.state {
        State::Ready => Manual::Ready,
        State::Drain => Manual::Drain,
        State::Down => Manual::Down,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Running, run};
    use super::*;

    const POOL: &str = "[pool.app]\nendpoints = [\"10.0.0.1:80\", \"[::1]:81\", \"unix:/run/a\"]\n";
    const FIELDS: [&str; 2] = ["Host: localhost", "Content-Type: application/json"];

    async fn put(running: &Running, path: &str, body: &str) -> (u16, Value) {
        let answer = running.ask(&format!("PUT /api/pools/{path}"), &FIELDS, body).await;
        (answer.status, answer.json())
    }

    #[test]
    fn an_endpoint_is_taken_out_and_back_by_its_address() {
        run(async {
            let running = Running::start(POOL);
            for (address, label) in [
                ("10.0.0.1:80", "10.0.0.1:80"),
                ("%5B%3A%3A1%5D%3A81", "[::1]:81"),
                ("unix:%2Frun%2Fa", "unix:/run/a"),
            ] {
                let path = format!("app/endpoints/{address}");
                let (status, set) = put(&running, &path, "{\"state\":\"drain\"}").await;
                assert_eq!(
                    (status, &set["state"], &set["endpoint"]),
                    (200, &json!("drain"), &json!(label))
                );
                let pools = running.get("/api/pools").await.json();
                let endpoints = pools["pools"][0]["endpoints"].as_array().unwrap();
                let shown = endpoints.iter().find(|it| it["address"] == label).unwrap();
                assert_eq!(
                    (&shown["state"], &shown["picked"]),
                    (&json!("draining"), &json!(false))
                );
                assert_eq!(put(&running, &path, "{\"state\":\"ready\"}").await.0, 200);
            }
            let pools = running.get("/api/pools").await.json();
            assert!(
                pools["pools"][0]["endpoints"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|it| it["manual"] == "ready")
            );
        });
    }

    #[test]
    fn what_is_wrong_is_said() {
        run(async {
            let running = Running::start(POOL);
            for (path, body, status, part) in [
                ("app/endpoints/10.0.0.1:80", "{\"state\":\"off\"}", 400, "unknown variant `off`"),
                ("app/endpoints/10.0.0.1:80", "{}", 400, "missing field `state`"),
                ("app/endpoints/10.0.0.1:80", "{\"state\":\"down\",\"x\":1}", 400, "`x`"),
                ("app/endpoints/10.0.0.1:80", "", 400, "not a JSON object"),
                ("app/endpoints/10.0.0.9:80", "{\"state\":\"down\"}", 404, "no endpoint"),
                ("other/endpoints/10.0.0.1:80", "{\"state\":\"down\"}", 404, "pools are app"),
                ("app/endpoints/", "{\"state\":\"down\"}", 404, "nothing is here"),
            ] {
                let (got, error) = put(&running, path, body).await;
                let error = error["error"].as_str().unwrap();
                assert!(got == status && error.contains(part), "{path} {body}: {got} {error}");
            }
            let answer = running.get("/api/pools/app/endpoints/10.0.0.1:80").await;
            assert_eq!((answer.status, answer.field("allow")), (405, Some("PUT")));
            let bare =
                running.ask("PUT /api/pools/app/endpoints/a", &["Host: localhost"], "").await;
            assert_eq!(bare.status, 415);
        });
    }
}
