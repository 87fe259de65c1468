//! `POST /api/acme/{name}/replace`: a new certificate now, and the old one revoked.

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::reply::Refusal;
use crate::acme::Reason;
use crate::snapshot::Snapshot;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(default)]
    reason: Reason,
}

/// The certificate that a path names, percent-encoded.
pub(super) fn named(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/api/acme/")?.strip_suffix("/replace")?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// Has the certificate that `path` names replaced.
pub(super) fn replace(
    context: &Context,
    snapshot: &Snapshot,
    path: &str,
    body: &[u8],
) -> Result<Value, Refusal> {
    let order = read(body).map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, why))?;
    let name = percent_decode_str(named(path).unwrap_or_default()).decode_utf8_lossy();
    let Some(acme) = &snapshot.config.acme else {
        let message = "there is no [acme] in the configuration";
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    };
    context.certificates.replace(acme, &name, order.reason).map_err(|_| {
        let names: Vec<&str> = acme.certificates.iter().map(|it| &*it.name).collect();
        let names = names.join(", ");
        let message = format!("[acme] has no certificate {name:?}; there are {names}");
        Refusal::new(StatusCode::NOT_FOUND, message)
    })?;
    Ok(json!({ "name": name, "replacing": order.reason, "see": "/api/acme" }))
}

fn read(body: &[u8]) -> Result<Order, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Order::default());
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("the body is not a JSON object such as {\"reason\":\"keyCompromise\"}".into());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let order = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Running, run};
    use super::*;

    const ACME: &str = "[acme]\naccept_terms = true\nfolder = \"/\"\n\
                        certificates = { site = [\"a.test\"], shop = [\"b.test\"] }\n";

    #[test]
    fn a_replacement_is_wanted_until_it_is_there() {
        run(async {
            let running = Running::start(ACME);
            let shown = running.get("/api/acme").await.json();
            assert_eq!(shown["challenge"], "http-01");
            let named = |shown: &Value, name: &str| {
                let all = shown["certificates"].as_array().unwrap();
                all.iter().find(|it| it["name"] == name).unwrap().clone()
            };
            assert_eq!(named(&shown, "site")["hosts"], json!(["a.test"]));
            assert_eq!(named(&shown, "site")["replacing"], Value::Null);
            let answer = running.post("/api/acme/site/replace", "").await;
            assert_eq!((answer.status, &answer.json()["replacing"]), (202, &json!("superseded")));
            let again =
                running.post("/api/acme/site/replace", "{\"reason\":\"keyCompromise\"}").await;
            assert_eq!(again.status, 202);
            let shown = running.get("/api/acme").await.json();
            assert_eq!(named(&shown, "site")["replacing"], "keyCompromise");
            assert_eq!(named(&shown, "shop")["replacing"], Value::Null);
        });
    }

    #[test]
    fn what_is_wrong_is_said() {
        run(async {
            let running = Running::start(ACME);
            for (path, body, status, part) in [
                ("other", "", 404, "there are shop, site"),
                ("site", "[]", 400, "not a JSON object"),
                ("site", "{\"reason\":\"boredom\"}", 400, "unknown variant `boredom`"),
                ("site", "{\"why\":1}", 400, "`why`"),
            ] {
                let answer = running.post(&format!("/api/acme/{path}/replace"), body).await;
                let error = answer.json()["error"].as_str().unwrap().to_owned();
                assert!(answer.status == status && error.contains(part), "{path} {body}: {error}");
            }
            let answer = running.get("/api/acme/site/replace").await;
            assert_eq!((answer.status, answer.field("allow")), (405, Some("POST")));
            let bare = Running::start("");
            assert_eq!(bare.post("/api/acme/site/replace", "").await.status, 404);
            assert_eq!(bare.get("/api/acme").await.json()["certificates"], json!([]));
        });
    }
}
