//! Lists of fronts' addresses that are fetched.

use std::sync::{Arc, Mutex};

use crate::support::{Origin, Proxy, Request, Setup, answer, eventually};

const PROBLEM: &str = "headwater_trusted_ranges_problem{listener=\"web\"}";
const NETWORKS: &str = "headwater_trusted_ranges{listener=\"web\"}";
/// Four networks, of which the first is where the tests come from.
const LIST: &str = "127.0.0.0/8\n192.0.2.0/24\n198.51.100.0/24\n2001:db8::/32\n";

/// Who publishes a list, for anybody that asks.
struct Publisher {
    origin: Origin,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Publisher {
    fn saying(bytes: Vec<u8>) -> Self {
        let said = Arc::new(Mutex::new(bytes));
        let shared = said.clone();
        let origin = Origin::answering(move |request: &Request| {
            if request.header("if-none-match") == Some("\"same\"") {
                return answer(304, &["ETag: \"same\""], "");
            }
            shared.lock().unwrap().clone()
        });
        Self { origin, said }
    }

    fn say(&self, bytes: Vec<u8>) {
        *self.said.lock().unwrap() = bytes;
    }

    /// A listener that is behind CloudFront by this list.
    fn setup(&self, refresh: &str, lines: &str) -> Setup {
        let url = format!("http://{}/list", self.origin.address);
        let from = format!("trusted_from = \"{url}\"\ntrusted_refresh = \"{refresh}\"");
        Setup::empty()
            .listener(&format!("front = \"cloudfront\"\n{from}\n{lines}"))
            .text("[[route]]\nrespond = {}\n")
    }
}

fn list(text: &str) -> Vec<u8> {
    answer(200, &[], text)
}

fn fetches(proxy: &Proxy, result: &str) -> f64 {
    let series = "headwater_trusted_ranges_fetches_total";
    proxy.metric(&format!("{series}{{listener=\"web\",result=\"{result}\"}}"))
}

/// Whether what this peer says of the client is believed.
fn is_believed(proxy: &Proxy, path: &str) -> bool {
    assert_eq!(proxy.get(path, &["X-Forwarded-For: 9.9.9.9"]).status, 200);
    proxy.access(&format!("\"path\":\"{path}\""))["client_ip"] == "9.9.9.9"
}

#[test]
fn a_list_is_fetched_before_anybody_comes_and_followed_without_a_reload() {
    let publisher = Publisher::saying(list(LIST));
    let proxy = publisher.setup("1s", "front_required = true").start();
    assert!(is_believed(&proxy, "/first"));
    assert_eq!((proxy.metric(NETWORKS), proxy.metric(PROBLEM)), (4.0, 0.0));
    let generation = proxy.generation();
    publisher.say(list(&LIST.replace("192.0.2.0/24", "203.0.113.0/24\n192.0.2.0/24")));
    proxy.wait_for_metric(NETWORKS, 5.0);
    assert!(is_believed(&proxy, "/second"));
    // Whoever is not in it any more is kept out at once.
    publisher.say(list(&LIST.replace("127.0.0.0/8", "203.0.113.0/24")));
    proxy.wait_for_metric(NETWORKS, 4.0);
    proxy.connect().assert_closed();
    assert_eq!(proxy.generation(), generation);
    assert!(proxy.metric("headwater_trusted_ranges_age_seconds{listener=\"web\"}") < 60.0);
    let status = proxy.api_get("/api/status").json();
    let front = &status["listeners"][0]["front"];
    assert_eq!((&front["name"], &front["networks"]), (&"cloudfront".into(), &4.into()));
    assert!(front["from"].as_str().unwrap().ends_with("/list"), "{front}");
}

#[test]
fn a_list_that_is_the_same_is_not_sent_again() {
    let publisher = Publisher::saying(answer(200, &["ETag: \"same\""], LIST));
    let proxy = publisher.setup("1s", "").start();
    eventually("it to be unchanged", || (fetches(&proxy, "unchanged") >= 1.0).then_some(()));
    assert_eq!(fetches(&proxy, "changed"), 1.0);
    assert_eq!(publisher.origin.request(1).header("if-none-match"), Some("\"same\""));
    assert!(is_believed(&proxy, "/still"));
}

#[test]
fn a_list_that_cannot_be_right_changes_nothing() {
    let publisher = Publisher::saying(list(LIST));
    let proxy = publisher.setup("1s", "").start();
    let huge = "10.0.0.1 ".repeat(1 << 20);
    for (number, (bad, why)) in [
        (list(""), "it holds no network"),
        (list("10.0.0.0/8\n"), "4 of the 4 networks that are believed now are not in it"),
        (answer(500, &[], LIST), "the answer has the status 500"),
        (list(&huge), "its body is larger than"),
    ]
    .into_iter()
    .enumerate()
    {
        publisher.say(bad);
        proxy.wait_for_metric(PROBLEM, 1.0);
        let line = proxy.wait_for_log(why);
        assert!(line.contains("the list from before is kept"), "{line}");
        assert_eq!(proxy.metric(NETWORKS), 4.0, "{why}");
        assert!(is_believed(&proxy, &format!("/bad-{number}")), "{why}");
        publisher.say(list(LIST));
        proxy.wait_for_metric(PROBLEM, 0.0);
    }
    assert!(fetches(&proxy, "refused") >= 2.0 && fetches(&proxy, "failed") >= 2.0);
    // What stays wrong is said once.
    publisher.say(answer(503, &[], ""));
    let before = fetches(&proxy, "failed");
    eventually("more attempts", || (fetches(&proxy, "failed") >= before + 2.0).then_some(()));
    let said = proxy.log().iter().filter(|line| line.contains("the status 503")).count();
    assert_eq!(said, 1);
}

#[test]
fn a_first_attempt_that_fails_is_made_up_for() {
    let publisher = Publisher::saying(answer(503, &[], ""));
    let proxy = publisher.setup("1s", "").start();
    assert!(!is_believed(&proxy, "/early"));
    assert!(proxy.wait_for_log("the status 503").contains("it is believed who was before"));
    publisher.say(list(LIST));
    proxy.wait_for_metric(NETWORKS, 4.0);
    assert!(is_believed(&proxy, "/late"));
}

#[test]
fn a_reload_keeps_a_list_and_takes_another_when_it_has_come() {
    let publisher = Publisher::saying(list(LIST));
    let proxy = publisher.setup("1d", "").start();
    proxy.reload(&publisher.setup("1d", "timeouts.header = \"7s\""));
    assert!(is_believed(&proxy, "/same"));
    assert_eq!(proxy.metric(NETWORKS), 4.0);
    let other = Publisher::saying(list("10.0.0.0/8\n"));
    proxy.reload(&other.setup("1d", ""));
    proxy.wait_for_metric(NETWORKS, 1.0);
    assert!(!is_believed(&proxy, "/other"));
    assert_eq!(publisher.origin.count(), 1);
}
