//! Purges of the cache in front, after our own: order, limits, failures, receipts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::cloudflare::{Cloudflare, TOKEN, ZONE, fault};
use crate::support::origin::Gate;
use crate::support::{Answer, Folder, HOST, Origin, Proxy, Setup, answer, cacheable, eventually};

/// Calls a second and at once, by plan.
const PRO: (f64, f64) = (5.0, 25.0);
const ENTERPRISE: (f64, f64) = (50.0, 500.0);

fn front(plan: (f64, f64)) -> Cloudflare {
    Cloudflare::new(plan.0, plan.1)
}

fn setup(origin: &Origin, front: &Cloudflare, lines: &str) -> Setup {
    Setup::of(&[origin]).text(&front.table(lines))
}

fn start(setup: &Setup) -> Proxy {
    let folder = Folder::new();
    folder.write("token", format!("{TOKEN}\n"));
    setup.start_in(folder)
}

/// Asks for a purge; the id of its receipt.
#[track_caller]
fn ask(proxy: &Proxy, body: &Value) -> String {
    let answer = proxy.api_post("/api/cache/purge", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn receipt(proxy: &Proxy, id: &str) -> Value {
    proxy.api_get(&format!("/api/purges/{id}")).json()
}

#[track_caller]
fn wait_for(proxy: &Proxy, id: &str, state: &str) -> Value {
    eventually(&format!("a purge to be {state}"), || {
        let receipt = receipt(proxy, id);
        (receipt["state"] == state).then_some(receipt)
    })
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").unwrap_or_default().starts_with("headwater; hit")
}

#[test]
fn a_purge_goes_to_the_front_in_calls_of_one_kind_and_twice() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(ENTERPRISE));
    let proxy = start(&setup(&origin, &front, "plan = \"enterprise\""));
    let id = ask(
        &proxy,
        &json!({
            "urls": [format!("https://{HOST}:443/%7Ea?b")], "tags": ["One", "two"],
            "prefixes": [format!("{HOST}/c/")], "hosts": ["Other.test"],
        }),
    );
    let receipt = wait_for(&proxy, &id, "done");
    assert_eq!(receipt["fronts"]["cloudflare"]["failed_calls"], 0);
    assert!(receipt["ended"].as_u64() >= receipt["created"].as_u64());
    let expected = [
        json!({ "files": [format!("http://{HOST}/~a?b"), format!("https://{HOST}/~a?b")] }),
        json!({ "tags": ["One", "two"] }),
        json!({ "prefixes": [format!("{HOST}/c/")] }),
        json!({ "hosts": ["other.test"] }),
    ];
    let accepted = front.accepted();
    let bodies: Vec<&Value> = accepted.iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, expected.iter().chain(&expected).collect::<Vec<_>>());
    assert!(accepted.iter().all(|(call, _)| call == "purge_cache"));
    let series = "headwater_front_purges_total{front=\"cloudflare\",result=\"done\"}";
    assert_eq!(proxy.metric(series), 1.0);
    assert_eq!(proxy.metric("headwater_front_purges_pending{front=\"cloudflare\"}"), 0.0);
}

#[test]
fn a_soft_purge_invalidates_and_so_does_a_front_that_is_configured_to() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(ENTERPRISE));
    let proxy = start(&setup(&origin, &front, ""));
    wait_for(&proxy, &ask(&proxy, &json!({ "all": true, "soft": true })), "done");
    let invalidate = setup(&origin, &front, "mode = \"invalidate\"");
    proxy.reload(&invalidate);
    wait_for(&proxy, &ask(&proxy, &json!({ "all": true })), "done");
    let everything = json!({ "purge_everything": true });
    let expected = ("invalidate_cache".to_owned(), everything);
    assert_eq!(front.accepted(), vec![expected; 4]);
}

#[test]
fn calls_hold_to_the_limits_of_the_plan() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(PRO));
    let proxy = start(&setup(&origin, &front, "plan = \"pro\""));
    let tags: Vec<String> = (0..2_600).map(|n| format!("tag-{n}")).collect();
    let id = ask(&proxy, &json!({ "tags": tags }));
    wait_for(&proxy, &id, "done");
    // 25 at once, then one each 200 ms.
    assert_eq!((front.accepted().len(), front.limited()), (52, 0));
}

#[test]
fn a_call_that_fails_is_made_again_when_the_front_wants_it() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(ENTERPRISE));
    let proxy = start(&setup(&origin, &front, ""));
    front.answers_instead([
        fault(429, &["Retry-After: 1"], 1134, "Unable to purge, rate limit reached"),
        Vec::new(),
    ]);
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    proxy.wait_for_log("Unable to purge, rate limit reached (1134)");
    let receipt = wait_for(&proxy, &id, "done");
    let of_front = &receipt["fronts"]["cloudflare"];
    assert_eq!((&of_front["calls"], &of_front["failed_calls"]), (&json!(4), &json!(2)));
    for result in ["limited", "lost"] {
        let labels = format!("front=\"cloudflare\",result=\"{result}\"");
        assert_eq!(proxy.metric(&format!("headwater_front_purge_calls_total{{{labels}}}")), 1.0);
    }
}

#[test]
fn a_token_that_is_not_good_can_be_changed_while_a_purge_waits() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(ENTERPRISE));
    let setup = setup(&origin, &front, "");
    let proxy = start(&setup);
    proxy.folder.write("token", "not-this-one");
    proxy.reload(&setup);
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    let line = proxy.wait_for_log("Authentication error");
    assert_eq!(receipt(&proxy, &id)["state"], "pending");
    proxy.folder.write("token", TOKEN);
    proxy.reload(&setup);
    let receipt = wait_for(&proxy, &id, "done");
    for shown in [line, receipt.to_string(), proxy.api_get("/api/config").text()] {
        assert!(!shown.contains("not-this-one") && !shown.contains(TOKEN), "{shown}");
    }
}

#[test]
fn what_the_front_refuses_fails_with_its_words_and_the_rest_is_done() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(ENTERPRISE));
    let proxy = start(&setup(&origin, &front, "plan = \"enterprise\""));
    let id = ask(&proxy, &json!({ "tags": ["a", "b", "t".repeat(1025)] }));
    let receipt = wait_for(&proxy, &id, "failed");
    let error = receipt["fronts"]["cloudflare"]["error"].as_str().unwrap();
    assert!(error.contains("invalid name (1094)"), "{error}");
    let accepted = front.accepted();
    let purged = |tag: &str| accepted.iter().any(|(_, body)| body.to_string().contains(tag));
    assert!(purged("\"a\"") && purged("\"b\""), "{accepted:?}");
    proxy.wait_for_log("purge failed");
}

#[test]
fn without_a_front_there_is_no_receipt() {
    let origin = Origin::answering(|_| cacheable("x"));
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.api_post("/api/cache/purge", "{\"all\":true}");
    assert_eq!(answer.json(), json!({ "purged": 0 }));
    for id in ["1", "0-1", "x-y", ZONE] {
        assert_eq!(proxy.api_get(&format!("/api/purges/{id}")).status, 404, "{id}");
    }
}

#[test]
fn purges_that_wait_survive_a_reload_and_are_finished_at_the_end() {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), front(ENTERPRISE));
    let setup = setup(&origin, &front, "");
    let mut proxy = start(&setup);
    front.answers_instead([fault(503, &[], 0, "later")]);
    ask(&proxy, &json!({ "tags": ["a"] }));
    proxy.wait_for_log("a purge has to wait");
    proxy.reload(&setup.route("timeout = \"9s\""));
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
    assert_eq!(front.accepted().len(), 2);
}

/// How many old copies a race leaves behind the first clearing, at least.
const HELD: usize = 100;
const RACES: usize = 1_000;

/// Every object is in the front's cache. One in ten of them is on its way there once more when its
/// purge is asked for, and arrives after the front was cleared.
#[test]
fn no_old_copy_survives_a_thousand_purges_of_a_front_that_refills_at_once() {
    let versions: Arc<Vec<AtomicUsize>> = Arc::new((0..RACES).map(|_| 0.into()).collect());
    let gate = Gate::default();
    let (of_origin, waits) = (versions.clone(), gate.clone());
    let origin = Origin::scripted(move |call| {
        let number: usize = call.request.target().trim_start_matches('/').parse().unwrap();
        let version = of_origin[number].load(Ordering::SeqCst);
        let tag = format!("Cache-Tag: t{number}");
        let bytes =
            answer(200, &["Cache-Control: max-age=600", &tag], format!("version {version}"));
        if version == 0 && number.is_multiple_of(RACES / HELD) {
            // All but its last byte.
            let (first, last) = bytes.split_at(bytes.len() - 1);
            call.send(first);
            waits.pass();
            call.send(last);
        } else {
            call.send(&bytes);
        }
    });
    let front = front(ENTERPRISE);
    let setup = setup(&origin, &front, "plan = \"enterprise\"").process("workers = 2");
    let proxy = start(&setup.pool_lines("limits = { connections = 2048, requests = 8192 }"));
    front.fetch_from(proxy.address());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for held in 0..HELD {
            let front = &front;
            scope.spawn(move || front.visit(&format!("/{}", held * (RACES / HELD))));
        }
        origin.requests(HELD);
        for visitor in 0..4 {
            let (front, stop) = (&front, &stop);
            scope.spawn(move || {
                for step in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let number = (step * 7 + visitor * 250) % RACES;
                    if !number.is_multiple_of(RACES / HELD) {
                        front.visit(&format!("/{number}"));
                    }
                }
            });
        }
        let mut ids = Vec::with_capacity(RACES);
        for (number, version) in versions.iter().enumerate() {
            version.store(1, Ordering::SeqCst);
            ids.push(ask(&proxy, &json!({ "tags": [format!("t{number}")] })));
        }
        stop.store(true, Ordering::SeqCst);
        for id in &ids {
            eventually("the first clearing", || {
                let state = receipt(&proxy, id)["fronts"]["cloudflare"]["state"].clone();
                (state != "waiting").then_some(())
            });
        }
        let first_calls = front.accepted().len();
        gate.open();
        let old = || front.copies().values().filter(|body| *body == "version 0").count();
        eventually("the old copies to arrive", || (old() >= HELD).then_some(()));
        for id in &ids {
            wait_for(&proxy, id, "done");
        }
        assert_eq!(old(), 0);
        assert!(front.accepted().len() > first_calls);
    });
    assert_eq!(front.limited(), 0);
    // What it has now is what a client gets from us.
    let last = proxy.get(&format!("/{}", RACES - 1), &[]);
    assert_eq!((last.text().as_str(), is_hit(&last)), ("version 1", true));
}
