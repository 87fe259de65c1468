//! Purges of CloudFront, after our own: signatures, items, limits, failures, and when one is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cloudflare::{Cloudflare, TOKEN};
use crate::support::cloudfront::{CloudFront, SECRET, fault};
use crate::support::origin::Gate;
use crate::support::{Folder, HOST, Origin, Proxy, Setup, answer, cacheable, eventually};

/// How long an invalidation is in progress.
const LENGTH: Duration = Duration::from_millis(300);

fn start(setup: &Setup) -> Proxy {
    let folder = Folder::new();
    folder.write("aws", CloudFront::credentials());
    folder.write("token", TOKEN);
    setup.start_in(folder)
}

fn stage(lines: &str) -> (Origin, CloudFront, Setup) {
    let (origin, front) = (Origin::answering(|_| cacheable("x")), CloudFront::new(LENGTH));
    let setup = Setup::of(&[&origin]).text(&front.table(lines));
    (origin, front, setup)
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

#[test]
fn a_purge_is_done_when_all_of_its_invalidations_are_complete() {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    let id = ask(
        &proxy,
        &json!({
            "urls": [format!("https://{HOST}/%7Ea?b&c")], "tags": ["One", "two"],
            "prefixes": [format!("{HOST}/shop/")], "hosts": ["other.test"],
        }),
    );
    let receipt = wait_for(&proxy, &id, "done");
    let part = &receipt["fronts"]["cloudfront"];
    assert_eq!((&part["calls"], &part["failed_calls"]), (&json!(8), &json!(0)), "{receipt}");
    let expected = [vec!["/~a?b&c"], vec!["#One", "#two"], vec!["/shop/*"], vec!["/*"]];
    let accepted = front.accepted();
    assert_eq!(accepted, expected.iter().chain(&expected).cloned().collect::<Vec<_>>());
    assert_eq!(front.refused(), 0);
    let series = "headwater_front_purges_total{front=\"cloudfront\",result=\"done\"}";
    assert_eq!(proxy.metric(series), 1.0);
}

#[test]
fn a_distribution_without_tags_loses_everything_for_one() {
    let (_origin, front, setup) = stage("tags = \"all\"");
    let proxy = start(&setup);
    wait_for(&proxy, &ask(&proxy, &json!({ "tags": ["a", "b"], "soft": true })), "done");
    assert_eq!(front.accepted(), [["/*"], ["/*"]]);
}

#[test]
fn a_call_that_got_no_answer_is_the_same_call_again() {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    // Accepted, but who asked does not know; then the other side is not well.
    front.answers_instead([Vec::new(), fault(503, &[], "ServiceUnavailable", "later")]);
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    let receipt = wait_for(&proxy, &id, "done");
    assert_eq!(receipt["fronts"]["cloudfront"]["failed_calls"], 2, "{receipt}");
    assert_eq!((front.accepted().len(), front.repeated()), (2, 1));
}

/// How many items the front was given for a purge, none of them against a limit.
fn named(body: &Value) -> usize {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    wait_for(&proxy, &ask(&proxy, body), "done");
    assert_eq!(front.refused(), 0);
    front.accepted().iter().map(Vec::len).sum()
}

#[test]
fn no_more_than_fifteen_wildcards_are_in_progress() {
    let prefixes: Vec<String> = (0..20).map(|n| format!("{HOST}/{n}/")).collect();
    assert_eq!(named(&json!({ "prefixes": prefixes })), 2 * 20);
}

#[test]
fn no_more_than_three_thousand_items_are_in_progress() {
    let tags: Vec<String> = (0..3_500).map(|n| format!("t{n}")).collect();
    assert_eq!(named(&json!({ "tags": tags })), 2 * 3_500);
}

#[test]
fn throttling_and_a_full_distribution_are_waited_for() {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    front.answers_instead([
        fault(400, &["Retry-After: 1"], "Throttling", "Rate exceeded"),
        fault(400, &[], "TooManyInvalidationsInProgress", "Too many"),
    ]);
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    proxy.wait_for_log("Throttling: Rate exceeded");
    wait_for(&proxy, &id, "done");
    let labels = "front=\"cloudfront\",result=\"limited\"";
    assert_eq!(proxy.metric(&format!("headwater_front_purge_calls_total{{{labels}}}")), 2.0);
}

#[test]
fn a_clock_that_is_wrong_is_corrected_by_that_of_the_front() {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    front.set_back(Duration::from_secs(3 * 60 * 60));
    let receipt = wait_for(&proxy, &ask(&proxy, &json!({ "tags": ["a"] })), "done");
    assert_eq!(receipt["fronts"]["cloudfront"]["failed_calls"], 0, "{receipt}");
    assert_eq!(front.refused(), 1);
    proxy.wait_for_log("the clock of AWS is another");
}

#[test]
fn credentials_that_are_not_good_can_be_changed_while_a_purge_waits() {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    proxy.folder.write("aws", CloudFront::credentials().replace(SECRET, "not-this-one"));
    proxy.reload(&setup);
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    let line = proxy.wait_for_log("SignatureDoesNotMatch");
    assert_eq!(receipt(&proxy, &id)["state"], "pending");
    proxy.folder.write("aws", CloudFront::credentials());
    proxy.reload(&setup);
    let receipt = wait_for(&proxy, &id, "done");
    for shown in [line, receipt.to_string(), proxy.api_get("/api/config").text()] {
        assert!(!shown.contains("not-this-one") && !shown.contains(SECRET), "{shown}");
    }
    assert_eq!(front.accepted().len(), 2);
}

#[test]
fn what_the_front_refuses_fails_with_its_words_and_the_rest_is_done() {
    let (_origin, front, setup) = stage("");
    let proxy = start(&setup);
    let id = ask(&proxy, &json!({ "tags": ["a", "b", "t".repeat(300)] }));
    let receipt = wait_for(&proxy, &id, "failed");
    let error = receipt["fronts"]["cloudfront"]["error"].as_str().unwrap();
    assert!(error.contains("InvalidArgument: Your request contains"), "{error}");
    let accepted: Vec<String> = front.accepted().into_iter().flatten().collect();
    assert!(["#a", "#b"].iter().all(|item| accepted.iter().any(|it| it == item)), "{accepted:?}");
}

#[test]
fn two_fronts_do_not_wait_for_each_other() {
    let (_origin, cloudfront, setup) = stage("");
    let cloudflare = Cloudflare::new(50.0, 500.0);
    let proxy = start(&setup.text(&cloudflare.table("")));
    // The one is away for now.
    cloudfront.answers_instead([fault(503, &["Retry-After: 2"], "ServiceUnavailable", "later")]);
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    let first = eventually("the other to be done", || {
        let receipt = receipt(&proxy, &id);
        (receipt["fronts"]["cloudflare"]["state"] == "done").then_some(receipt)
    });
    assert_eq!((&first["state"], &first["ended"]), (&json!("pending"), &Value::Null), "{first}");
    let last = wait_for(&proxy, &id, "done");
    assert_eq!(last["fronts"]["cloudfront"]["state"], "done");
    assert_eq!((cloudflare.accepted().len(), cloudfront.accepted().len()), (2, 2));
}

#[test]
fn what_was_accepted_is_not_waited_for_at_the_end() {
    let (origin, front) =
        (Origin::answering(|_| cacheable("x")), CloudFront::new(Duration::MAX / 4));
    let mut proxy = start(&Setup::of(&[&origin]).text(&front.table("")));
    let id = ask(&proxy, &json!({ "tags": ["a"] }));
    eventually("both passes", || (front.accepted().len() == 2).then_some(()));
    assert_eq!(receipt(&proxy, &id)["state"], "pending");
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
    assert!(!proxy.log().iter().any(|line| line.contains("purge failed")));
}

/// How many old copies a race leaves behind the first clearing, at least.
const HELD: usize = 20;
const RACES: usize = 300;

/// One in fifteen objects is on its way to the front once more when its purge is asked for, and arrives
/// after the front was cleared.
#[test]
fn no_old_copy_survives_hundreds_of_purges_of_a_front_that_refills_at_once() {
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
    let front = CloudFront::new(LENGTH);
    let setup = Setup::of(&[&origin]).text(&front.table("")).process("workers = 2");
    let proxy = start(&setup.pool_lines("limits = { connections = 1024, requests = 4096 }"));
    front.fetch_from(proxy.address());
    let edge = front.edge();
    thread::scope(|scope| {
        for held in 0..HELD {
            scope.spawn(move || edge.visit(&format!("/{}", held * (RACES / HELD))));
        }
        origin.requests(HELD);
        for number in (0..RACES).filter(|number| !number.is_multiple_of(RACES / HELD)) {
            edge.visit(&format!("/{number}"));
        }
        let mut ids = Vec::with_capacity(RACES);
        for (number, version) in versions.iter().enumerate() {
            version.store(1, Ordering::SeqCst);
            // Every other one by its path.
            let body = match number % 2 {
                0 => json!({ "tags": [format!("t{number}")] }),
                _ => json!({ "urls": [format!("https://{HOST}/{number}")] }),
            };
            ids.push(ask(&proxy, &body));
        }
        for id in &ids {
            eventually("the first clearing", || {
                let state = receipt(&proxy, id)["fronts"]["cloudfront"]["state"].clone();
                (state != "waiting").then_some(())
            });
        }
        let first_calls = front.accepted().len();
        gate.open();
        let old = || edge.copies().values().filter(|body| *body == "version 0").count();
        eventually("the old copies to arrive", || (old() >= HELD).then_some(()));
        for id in &ids {
            wait_for(&proxy, id, "done");
        }
        assert_eq!(old(), 0);
        assert!(front.accepted().len() > first_calls);
    });
    assert_eq!(front.refused(), 0);
}
