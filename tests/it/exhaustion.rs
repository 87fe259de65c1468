//! The process runs out of what connections need.

use std::process::{Command, Stdio};

use tokio::task::JoinSet;

use crate::support::origin::Gate;
use crate::support::proxy::run_with;
use crate::support::{Folder, Origin, Proxy, Setup, eventually, h2, ok};

/// Files that the process may open, and requests at once, each of which needs one.
const FILES_MAX: u32 = 100;
const REQUESTS: usize = 140;

fn short_of_files(setup: &Setup) -> Proxy {
    let folder = Folder::new();
    let path = folder.write("headwater.toml", setup.to_string());
    let mut run = Command::new("sh");
    let script = format!("ulimit -n {FILES_MAX} && exec \"$0\" run -c \"$1\"");
    run.args(["-c", &script, env!("CARGO_BIN_EXE_headwater")]).arg(path);
    run.stdin(Stdio::null()).env_remove("RUST_LOG");
    Proxy::start_by(run, folder)
}

/// An origin that answers once its gate is open, but for its health, at once.
fn gated() -> (Gate, Origin) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.target() != "/health" {
            waits.pass();
        }
        call.send(&ok("served"));
    });
    (gate, origin)
}

/// The statuses of many requests at once, and what is done meanwhile.
fn statuses(proxy: &Proxy, meanwhile: impl FnOnce() + Send + 'static) -> Vec<u16> {
    h2::run(async {
        let session = h2::Session::open_plain(proxy.address()).await;
        let mut requests = JoinSet::new();
        for number in 0..REQUESTS {
            let mut sender = session.sender.clone();
            requests.spawn(async move {
                sender.ready().await.unwrap();
                let request = h2::get(&format!("/{number}"));
                let response = sender.send_request(request).await.unwrap();
                h2::full(response).await.unwrap().head.status().as_u16()
            });
        }
        let meanwhile = tokio::task::spawn_blocking(meanwhile);
        let mut statuses = requests.join_all().await;
        meanwhile.await.unwrap();
        statuses.sort_unstable();
        statuses
    })
}

fn assert_blameless(proxy: &Proxy, origin: &Origin) {
    proxy.wait_for_state(origin, "usable");
    for series in [
        "headwater_ejections_total",
        "headwater_health_checks_total",
        "headwater_retries_total",
        "headwater_retry_budget_exhausted_total",
    ] {
        let metrics = proxy.api_get("/metrics").text();
        let told = metrics.lines().filter(|line| line.starts_with(series));
        let told: Vec<_> = told.filter(|line| !line.contains("result=\"success\"")).collect();
        assert!(told.iter().all(|line| line.ends_with(" 0")), "{told:?}");
    }
    let log = proxy.log().join("\n");
    for word in ["set aside", "ejected", "unhealthy"] {
        assert!(!log.contains(word), "{log}");
    }
}

#[test]
fn a_want_of_descriptors_is_a_503_with_its_reason_and_no_fault_of_an_endpoint() {
    let (gate, origin) = gated();
    let setup = Setup::of(&[&origin])
        .listener("protocols = [\"h2\"]")
        .pool_lines("health = { path = \"/health\", interval = \"200ms\" }");
    let proxy = short_of_files(&setup);
    let log = proxy.folder.join("access.log");
    let opens = move || {
        eventually("a request that was given up", || {
            let log = std::fs::read_to_string(&log).ok()?;
            log.contains("\"error\":\"exhausted\"").then_some(())
        });
        gate.open();
    };
    let statuses = statuses(&proxy, opens);
    let served = statuses.iter().filter(|status| **status == 200).count();
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(served > 0 && refused > 0 && served + refused == REQUESTS, "{statuses:?}");
    let line = proxy.access("\"error\":\"exhausted\"");
    assert_eq!((&line["status"], &line["attempts"]), (&503.into(), &0.into()), "{line}");
    proxy.wait_for_log("we have run out of something");
    assert_blameless(&proxy, &origin);
    let again = h2::run(async {
        let mut session = h2::Session::open_plain(proxy.address()).await;
        session.get("/again").await.head.status()
    });
    assert_eq!(again, 200);
}

#[test]
fn requests_wait_for_a_descriptor_that_another_gives_back() {
    let origin = Origin::answering(|_| ok("quick"));
    let proxy = short_of_files(&Setup::of(&[&origin]).listener("protocols = [\"h2\"]"));
    assert_eq!(statuses(&proxy, || {}), [200; REQUESTS]);
    assert_blameless(&proxy, &origin);
}

#[test]
fn a_bound_on_connections_that_nobody_has_written_is_lowered_without_a_word() {
    let text = "[listener.a]\nbind = \"127.0.0.1:0\"\n[listener.b]\nbind = \"127.0.0.1:0\"\n\
                [[route]]\nrespond = { status = 204 }\n";
    let said = run_with("check", text);
    assert!(!said.stderr.contains("lowered"), "{}", said.stderr);
    let text = text.replace("[listener.b]", "limits.connections = 10000000\n[listener.b]");
    let said = run_with("check", &text);
    assert_eq!(said.stderr.matches("is lowered to").count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("headwater.toml:3:"), "{}", said.stderr);
}
