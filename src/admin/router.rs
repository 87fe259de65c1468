//! Which call a request is, and its answer: the whole API from top to bottom.

use http::header::ALLOW;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::guard::Access;
use super::reply::{Answer, Refusal, exposition, json, text};
use super::serve::Service;
use super::{
    Command, Context, ReloadAnswer, acme, cache, explain, manual, metrics, pools, purge, readiness,
    request, routes, status,
};
use crate::config::describe::describe_config;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Livez,
    Readyz,
    Metrics,
    Status,
    Config,
    Routes,
    Pools,
    Cache,
    Explain,
    Reload,
    Drain,
    Purge,
    /// What became of one purge of the caches in front of us.
    Receipt,
    /// Of one endpoint, by hand.
    Manual,
    /// Certificates by ACME.
    Acme,
    /// Of one of them, by a new one.
    Replace,
}

const CALLS: [(&str, Call); 13] = [
    ("/livez", Call::Livez),
    ("/readyz", Call::Readyz),
    ("/metrics", Call::Metrics),
    ("/api/status", Call::Status),
    ("/api/config", Call::Config),
    ("/api/routes", Call::Routes),
    ("/api/pools", Call::Pools),
    ("/api/cache", Call::Cache),
    ("/api/explain", Call::Explain),
    ("/api/acme", Call::Acme),
    ("/api/reload", Call::Reload),
    ("/api/drain", Call::Drain),
    ("/api/cache/purge", Call::Purge),
];

impl Call {
    fn of(path: &str) -> Option<Self> {
        let known = CALLS.iter().find(|(known, _)| *known == path).map(|(_, call)| *call);
        let receipt = || receipt_id(path).map(|_| Self::Receipt);
        let replace = || acme::named(path).map(|_| Self::Replace);
        known
            .or_else(|| manual::named(path).map(|_| Self::Manual))
            .or_else(receipt)
            .or_else(replace)
    }

    /// Whether no token is needed.
    fn is_public(self) -> bool {
        matches!(self, Self::Livez | Self::Readyz | Self::Metrics)
    }

    fn is_change(self) -> bool {
        matches!(self, Self::Reload | Self::Drain | Self::Purge | Self::Manual | Self::Replace)
    }

    fn allows(self, method: &Method) -> bool {
        match *method {
            Method::PUT => self == Self::Manual,
            Method::POST => self.is_change() && self != Self::Manual,
            Method::GET | Method::HEAD => !self.is_change(),
            _ => false,
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Self::Manual => "PUT",
            _ if self.is_change() => "POST",
            _ => "GET, HEAD",
        }
    }
}

/// Whether a path is that of a probe or a scrape.
pub(super) fn is_public(path: &str) -> bool {
    Call::of(path).is_some_and(Call::is_public)
}

/// Answers one request.
pub(super) async fn answer(service: &Service, request: Request<Incoming>) -> Answer {
    let context = &service.context;
    let snapshot = context.published.load_full();
    let (head, body) = request.into_parts();
    let call = Call::of(head.uri.path());
    let access = Access::of(snapshot.config.admin.as_ref(), service.reach);
    // It says nothing but that somebody answers, so a probe may call us by any name.
    if call != Some(Call::Livez) {
        access.admit(&head, call.is_some_and(Call::is_public))?;
    }
    let Some(call) = call else { return Err(no_such_call()) };
    if !call.allows(&head.method) {
        let allowed = call.allowed();
        let refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{} takes {allowed}", head.uri.path()),
        );
        return Err(refusal.with(ALLOW, allowed));
    }
    if call.is_change() {
        access.admit_change(&head.headers)?;
    }
    let shown = match call {
        Call::Livez => return Ok(text(StatusCode::OK, "ok")),
        Call::Readyz => return Ok(readiness::reply(context, &snapshot)),
        Call::Metrics => {
            let scrape = metrics::Scrape::of(context, snapshot);
            return Ok(exposition(service.scrape(move || scrape.encode()).await??));
        }
        Call::Reload => return reload(service).await,
        Call::Drain => return drain(service).await,
        Call::Purge => {
            let body = request::read(&head.headers, body).await?;
            let purges = context.purges.clone();
            let work = move || purge::purge(&snapshot, &purges, &body);
            let done = service.aside(work).await??;
            let shown = done.shown();
            service.later(move || drop(done));
            shown
        }
        Call::Manual => {
            let body = request::read(&head.headers, body).await?;
            // Of what runs by now.
            manual::set(&context.published.load(), head.uri.path(), &body)?
        }
        Call::Replace => {
            let body = request::read(&head.headers, body).await?;
            let shown = acme::replace(context, &snapshot, head.uri.path(), &body)?;
            return Ok(json(StatusCode::ACCEPTED, &shown));
        }
        Call::Acme => context.certificates.describe(snapshot.config.acme.as_ref()),
        Call::Receipt => receipt(context, head.uri.path())?,
        Call::Status => {
            let described = snapshot.clone();
            let ages = service.aside(move || status::list_ages(&described)).await?;
            status::describe(context, &snapshot, &ages)
        }
        Call::Config => describe_config(&snapshot.config),
        Call::Routes => routes::describe(&snapshot),
        Call::Pools => pools::describe(&snapshot),
        Call::Explain => explain::describe(&snapshot, head.uri.query())?,
        Call::Cache => service.aside(move || cache::describe(&snapshot)).await?,
    };
    Ok(json(StatusCode::OK, &shown))
}

const RECEIPTS: &str = "/api/purges/";

fn receipt_id(path: &str) -> Option<&str> {
    path.strip_prefix(RECEIPTS).filter(|id| !id.is_empty() && !id.contains('/'))
}

fn receipt(context: &Context, path: &str) -> Result<Value, Refusal> {
    let receipt = receipt_id(path).and_then(|id| context.purges.receipt(id));
    receipt.ok_or_else(|| {
        let message = "no purge of a front has this id, or it is long over";
        Refusal::new(StatusCode::NOT_FOUND, message)
    })
}

fn no_such_call() -> Refusal {
    let paths: Vec<_> = CALLS.iter().map(|(path, _)| *path).collect();
    let message = format!(
        "nothing is here; there are {}, {RECEIPTS}ID, /api/pools/POOL/endpoints/ADDRESS, \
         /api/acme/NAME/replace",
        paths.join(", ")
    );
    Refusal::new(StatusCode::NOT_FOUND, message)
}

async fn reload(service: &Service) -> Answer {
    if service.is_stopping() {
        return Err(stopping());
    }
    let (sender, receiver) = oneshot::channel();
    send(service, Command::Reload(sender)).await?;
    let answer = receiver.await.map_err(|_| {
        let message = "the process is stopping, or too many reloads are waiting";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    Ok(match answer {
        ReloadAnswer::Accepted { generation, changed, warnings } => json(
            StatusCode::OK,
            &json!({ "generation": generation, "changed": changed, "warnings": warnings }),
        ),
        ReloadAnswer::Refused { problems } => {
            json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "problems": problems }))
        }
    })
}

/// Asked again, it changes nothing: a request that a client repeats must not cut the drain short.
async fn drain(service: &Service) -> Answer {
    if !service.is_stopping() {
        send(service, Command::Drain).await?;
    }
    Ok(json(StatusCode::ACCEPTED, &json!({ "draining": true })))
}

async fn send(service: &Service, command: Command) -> Result<(), Refusal> {
    service.context.commands.send(command).await.map_err(|_| stopping())
}

fn stopping() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Folder, Running, run, snapshot};
    use super::*;
    use crate::config::diagnostics::{Report, Severity};
    use crate::shutdown::Phase;

    fn report(message: &str) -> Report {
        Report {
            file: Some("c.toml".to_owned()),
            line: 3,
            column: 1,
            severity: Severity::Error,
            message: message.to_owned(),
            help: None,
            lint: None,
        }
    }

    #[test]
    fn probes_answer_with_a_word_and_readiness_with_the_reason() {
        run(async {
            let running = Running::start("");
            let livez = running.get("/livez").await;
            assert_eq!((livez.status, livez.body.as_str()), (200, "ok"));
            let ready = running.get("/readyz").await;
            assert_eq!((ready.status, ready.body.as_str()), (200, "ok"));

            let bound = running.addresses.swap(Arc::default());
            let starting = running.get("/readyz").await;
            assert_eq!((starting.status, starting.body.starts_with("starting")), (503, true));

            running.addresses.store(bound);
            running.shutdown.enter(Phase::Leaving);
            let stopping = running.get("/readyz").await;
            assert_eq!((stopping.status, stopping.body.as_str()), (503, "stopping: leaving"));
            assert_eq!(running.get("/livez").await.status, 200);
        });
    }

    #[test]
    fn an_empty_pool_is_named_and_matters_only_where_it_is_required() {
        run(async {
            let running = Running::start("[pool.app]\nendpoints = [\"app.test:80\"]\n");
            let ready = running.get("/readyz").await;
            assert_eq!(
                (ready.status, ready.body.as_str()),
                (200, "ok\npools without a usable endpoint: app")
            );
            let required = "[admin]\nready_requires = [\"app\"]\n\
                            [pool.app]\nendpoints = [\"app.test:80\"]\n";
            running.published.store(Arc::new(snapshot(required)));
            assert_eq!(running.get("/readyz").await.status, 503);
        });
    }

    #[test]
    fn whether_the_process_lives_is_told_under_any_name() {
        run(async {
            let running = Running::start("");
            let host = &["Host: probe.test"];
            assert_eq!(running.ask("GET /livez", host, "").await.status, 200);
            assert_eq!(running.ask("GET /readyz", host, "").await.status, 403);
        });
    }

    #[test]
    fn every_answer_forbids_caching_and_sniffing() {
        run(async {
            let running = Running::start("");
            for path in ["/livez", "/metrics", "/api/status", "/nothing"] {
                let answer = running.get(path).await;
                assert_eq!(answer.field("cache-control"), Some("no-store"), "{path}");
                assert_eq!(answer.field("x-content-type-options"), Some("nosniff"), "{path}");
            }
        });
    }

    #[test]
    fn metrics_are_text_of_version_0_0_4() {
        run(async {
            let running = Running::start("");
            let answer = running.get("/metrics").await;
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            assert_eq!((answer.status, answer.field("content-type")), (200, Some(content_type)));
            assert!(answer.body.contains("\nheadwater_config_generation 1\n"), "{}", answer.body);
        });
    }

    #[test]
    fn the_status_says_what_runs() {
        run(async {
            let running = Running::start("");
            let answer = running.get("/api/status").await;
            assert_eq!(answer.field("content-type"), Some("application/json"));
            let status = answer.json();
            assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(status["pid"], std::process::id());
            assert_eq!((&status["generation"], &status["workers"]), (&json!(1), &json!(3)));
            assert_eq!(status["state"], "running");
            assert!(status["uptime_seconds"].is_u64());
            assert_eq!(
                status["listeners"],
                json!([{ "name": "web", "addresses": ["127.0.0.1:8080"], "tls": false }])
            );
            assert_eq!(status["last_reload"], Value::Null);
            assert_eq!(status["totals"]["requests"], 0);
        });
    }

    #[test]
    fn what_runs_is_shown_by_area() {
        run(async {
            let running = Running::start(
                "[[route]]\nname = \"home\"\nhosts = [\"*.a.test\"]\npaths = [\"/x/*\"]\n\
                 pool = \"app\"\ncache = true\n",
            );
            let config = running.get("/api/config").await.json();
            assert_eq!(config["route"][0]["name"], "home");
            let routes = running.get("/api/routes").await.json();
            let route = &routes["routes"][0];
            assert_eq!((&route["name"], &route["pool"]), (&json!("home"), &json!("app")));
            assert_eq!(
                (&route["hosts"], &route["paths"]),
                (&json!(["*.a.test"]), &json!(["/x/*"]))
            );
            assert_eq!(route["cache"]["hit"], 0);
            let pools = running.get("/api/pools").await.json();
            let endpoint = &pools["pools"][0]["endpoints"][0];
            assert_eq!(endpoint["address"], "10.0.0.1:80");
            assert_eq!((&endpoint["state"], &endpoint["in_flight"]), (&json!("usable"), &json!(0)));
            let cache = running.get("/api/cache").await.json();
            assert_eq!((&cache["objects"], &cache["hit_ratio"]), (&json!(0), &Value::Null));
            assert_eq!(cache["largest"], json!([]));
        });
    }

    #[test]
    fn an_unknown_path_is_told_what_there_is() {
        run(async {
            let running = Running::start("");
            for path in ["/", "/api", "/livez/"] {
                let answer = running.get(path).await;
                assert_eq!(answer.status, 404);
                let error = answer.json()["error"].as_str().unwrap().to_owned();
                assert!(error.contains("/api/cache/purge"), "{error}");
            }
        });
    }

    #[test]
    fn another_method_is_told_which_is_allowed() {
        run(async {
            let running = Running::start("");
            for (target, allowed) in [
                ("DELETE /livez", "GET, HEAD"),
                ("POST /api/status", "GET, HEAD"),
                ("GET /api/reload", "POST"),
                ("PUT /api/cache/purge", "POST"),
            ] {
                let answer = running.ask(target, &["Host: localhost"], "").await;
                assert_eq!((answer.status, answer.field("allow")), (405, Some(allowed)));
                assert!(answer.json()["error"].is_string());
            }
            let head = running.ask("HEAD /livez", &["Host: localhost"], "").await;
            assert_eq!((head.status, head.body.as_str()), (200, ""));
            assert_eq!(head.field("content-length"), Some("2"));
        });
    }

    #[test]
    fn a_reload_answers_with_the_generation_or_every_problem() {
        run(async {
            let mut running = Running::start("");
            let (commands, dummy) = tokio::sync::mpsc::channel(1);
            drop(commands);
            let mut commands = std::mem::replace(&mut running.commands, dummy);
            running.tasks.spawn("owner", async move {
                let answers = [
                    ReloadAnswer::Accepted { generation: 2, changed: true, warnings: Vec::new() },
                    ReloadAnswer::Refused { problems: vec![report("no")] },
                ];
                for answer in answers {
                    let Some(Command::Reload(reply)) = commands.recv().await else { return };
                    reply.send(answer).unwrap();
                }
            });
            let accepted = running.post("/api/reload", "").await;
            assert_eq!(accepted.status, 200);
            let expected = json!({ "generation": 2, "changed": true, "warnings": [] });
            assert_eq!(accepted.json(), expected);
            let refused = running.post("/api/reload", "").await;
            assert_eq!(refused.status, 422);
            assert_eq!(
                refused.json(),
                json!({ "problems": [{
                    "file": "c.toml", "line": 3, "column": 1, "severity": "error", "message": "no"
                }] })
            );
            // The owner is gone.
            assert_eq!(running.post("/api/reload", "").await.status, 503);
        });
    }

    #[test]
    fn a_drain_is_accepted_and_passed_on_once() {
        run(async {
            let mut running = Running::start("");
            assert_eq!(running.post("/api/drain", "").await.status, 202);
            assert!(matches!(running.commands.try_recv(), Ok(Command::Drain)));
            running.shutdown.enter(Phase::Draining);
            assert_eq!(running.post("/api/drain", "").await.status, 202);
            assert!(running.commands.try_recv().is_err());
            assert_eq!(running.post("/api/reload", "").await.status, 503);
        });
    }

    #[test]
    fn a_purge_says_how_much_it_removed_or_what_is_wrong() {
        run(async {
            let running = Running::start("");
            let purged = running.post("/api/cache/purge", "{\"urls\":[\"http://a/x?*\"]}").await;
            assert_eq!((purged.status, purged.json()), (200, json!({ "purged": 0 })));
            let refused = running.post("/api/cache/purge", "{\"everything\":true}").await;
            assert_eq!(refused.status, 400);
            assert!(refused.json()["error"].as_str().unwrap().contains("`everything`"));
            let large = format!("{{\"urls\":[\"{}\"]}}", "x".repeat(2 << 20));
            assert_eq!(running.post("/api/cache/purge", &large).await.status, 413);
        });
    }

    #[test]
    fn without_a_token_browsers_of_other_sites_are_kept_out() {
        run(async {
            let running = Running::start("");
            let status_of = async |target: &str, fields: &[&str]| {
                let answer = running.ask(target, fields, "").await;
                assert!(answer.json()["error"].is_string());
                answer.status
            };
            assert_eq!(status_of("GET /api/status", &["Host: evil.test"]).await, 403);
            let origin = ["Host: localhost", "Origin: http://evil.test"];
            assert_eq!(status_of("GET /api/status", &origin).await, 403);
            assert_eq!(status_of("POST /api/drain", &["Host: localhost"]).await, 415);
            let json = ["Host: evil.test", "Content-Type: application/json"];
            assert_eq!(status_of("POST /api/drain", &json).await, 403);
        });
    }

    #[test]
    fn a_token_guards_all_but_probes_and_scrapes_and_may_change() {
        run(async {
            let folder = Folder::new();
            let guarded = |token: &str| {
                let file = folder.write("token", token);
                format!("[admin]\ntoken_file = {file:?}\n")
            };
            let running = Running::start(&guarded("first"));
            let anywhere = "Host: edge.example";
            for path in ["/livez", "/readyz", "/metrics"] {
                let answer = running.ask(&format!("GET {path}"), &[anywhere], "").await;
                assert_eq!(answer.status, 200, "{path}");
            }
            for target in ["GET /api/status", "POST /api/drain", "GET /nothing"] {
                let answer = running.ask(target, &[anywhere], "").await;
                assert_eq!(
                    (answer.status, answer.field("www-authenticate")),
                    (401, Some("Bearer"))
                );
            }
            let first = [anywhere, "Authorization: Bearer first"];
            assert_eq!(running.ask("POST /api/drain", &first, "").await.status, 202);

            running.published.store(Arc::new(snapshot(&guarded("second"))));
            assert_eq!(running.ask("GET /api/status", &first, "").await.status, 401);
            let second = [anywhere, "Authorization: Bearer second"];
            assert_eq!(running.ask("GET /api/status", &second, "").await.status, 200);
        });
    }
}
