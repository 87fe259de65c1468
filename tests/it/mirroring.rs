//! Copies of requests, of which nobody notices anything.

use crate::support::origin::{Gate, Refusing};
use crate::support::{HOST, Origin, Proxy, Setup, cacheable, ok};

fn setup(origin: &Origin, mirror: &dyn std::fmt::Display, share: &str) -> Setup {
    Setup::of(&[origin])
        .route(&format!("mirror = {{ pool = \"next\", share = \"{share}\" }}"))
        .text(&format!("[pool.next]\nendpoints = [\"{mirror}\"]\n"))
}

fn copies(proxy: &Proxy, result: &str) -> f64 {
    let series = "headwater_mirrored_requests_total";
    proxy.metric(&format!("{series}{{route=\"app\",result=\"{result}\"}}"))
}

fn wait_for(proxy: &Proxy, result: &str, count: f64) {
    let series = "headwater_mirrored_requests_total";
    proxy.wait_for_metric(&format!("{series}{{route=\"app\",result=\"{result}\"}}"), count);
}

#[test]
fn a_copy_is_sent_with_its_fields_and_body_and_its_answer_is_nobodys() {
    let origin = Origin::answering(|_| ok("original"));
    let mirror = Origin::answering(|_| ok("copy"));
    let proxy = setup(&origin, &mirror, "100%").start();
    let mut client = proxy.connect();
    assert_eq!(client.ask("POST", "/a?b=1", &["X-A: 1"], "some body").text(), "original");
    assert_eq!(client.get("/c", &[]).text(), "original");
    wait_for(&proxy, "answered", 2.0);
    let mut copies = mirror.requests(2);
    copies.sort_by_key(|copy| copy.target().to_owned());
    let (post, get) = (&copies[0], &copies[1]);
    assert_eq!((post.method(), post.target()), ("POST", "/a?b=1"));
    assert_eq!((post.header("x-a"), post.text().as_str()), (Some("1"), "some body"));
    assert_eq!((get.method(), get.target()), ("GET", "/c"));
    assert_eq!(get.header("host"), Some(HOST));
    assert_eq!(get.header("x-request-id"), origin.request(1).header("x-request-id"));
}

#[test]
fn a_mirror_that_hangs_or_refuses_slows_nobody() {
    let origin = Origin::answering(|_| ok("original"));
    let gate = Gate::default();
    let hanging = {
        let gate = gate.clone();
        Origin::scripted(move |_| gate.pass())
    };
    let proxy = setup(&origin, &hanging, "100%").start();
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/", &["Cache-Control: no-store"]).text(), "original");
    }
    gate.open();
    let refusing = Refusing::new();
    let proxy = setup(&origin, &refusing, "100%").start();
    assert_eq!(proxy.get("/", &[]).text(), "original");
    wait_for(&proxy, "failed", 1.0);
}

#[test]
fn a_stop_does_not_wait_for_copies() {
    let origin = Origin::answering(|_| ok("original"));
    let hanging = Origin::scripted(|call| call.wait_for_end());
    let mut proxy = setup(&origin, &hanging, "100%").start();
    assert_eq!(proxy.get("/", &[]).text(), "original");
    hanging.requests(1);
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn copies_under_way_are_bounded_and_the_others_dropped() {
    let origin = Origin::answering(|_| ok("original"));
    let gate = Gate::default();
    let hanging = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.send(&ok(""));
        })
    };
    let proxy = setup(&origin, &hanging, "100%").start();
    let mut client = proxy.connect();
    for _ in 0..140 {
        assert_eq!(client.get("/", &["Cache-Control: no-store"]).text(), "original");
    }
    // 128 on one worker.
    wait_for(&proxy, "dropped", 12.0);
    gate.open();
    wait_for(&proxy, "answered", 128.0);
}

#[test]
fn a_full_mirror_is_not_waited_for() {
    let origin = Origin::answering(|_| ok("original"));
    let gate = Gate::default();
    let hanging = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.send(&ok(""));
        })
    };
    let proxy = setup(&origin, &hanging, "100%").text("limits.requests = 1").start();
    proxy.get("/", &["Cache-Control: no-store"]);
    hanging.requests(1);
    proxy.get("/", &["Cache-Control: no-store"]);
    wait_for(&proxy, "dropped", 1.0);
    gate.open();
    wait_for(&proxy, "answered", 1.0);
}

#[test]
fn large_bodies_are_not_copied() {
    let origin = Origin::answering(|request| ok(request.body.len().to_string()));
    let mirror = Origin::answering(|_| ok(""));
    let proxy = setup(&origin, &mirror, "100%").start();
    let mut client = proxy.connect();
    assert_eq!(client.ask("POST", "/", &[], &"x".repeat(64 << 10)).text(), "65536");
    wait_for(&proxy, "answered", 1.0);
    assert_eq!(client.ask("POST", "/", &[], &"x".repeat((64 << 10) + 1)).text(), "65537");
    wait_for(&proxy, "dropped", 1.0);
    assert_eq!(mirror.count(), 1);
}

#[test]
fn only_what_is_forwarded_and_only_a_share_is_copied() {
    let origin = Origin::answering(|_| cacheable("stored"));
    let mirror = Origin::answering(|_| ok(""));
    let proxy = setup(&origin, &mirror, "100%").start();
    for _ in 0..4 {
        assert_eq!(proxy.get("/", &[]).text(), "stored");
    }
    wait_for(&proxy, "answered", 1.0);
    assert_eq!((origin.count(), mirror.count()), (1, 1));

    let (origin, mirror) = (Origin::answering(|_| ok("")), Origin::answering(|_| ok("")));
    let proxy = setup(&origin, &mirror, "50%").start();
    let mut client = proxy.connect();
    for _ in 0..400 {
        client.get("/", &["Cache-Control: no-store"]);
    }
    let share = copies(&proxy, "answered") + copies(&proxy, "dropped");
    assert!((120.0..280.0).contains(&share), "{share} of 400");
    let proxy = setup(&origin, &mirror, "0%").start();
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(copies(&proxy, "answered"), 0.0);
}

#[test]
fn a_folder_cannot_be_a_mirror() {
    let shown = crate::support::proxy::run_with(
        "check",
        "[listener.web]\nbind = \"127.0.0.1:0\"\n[pool.app]\nendpoints = [\"127.0.0.1:1\"]\n\
         [pool.site]\nfiles = \"/\"\n[[route]]\npool = \"app\"\nmirror = { pool = \"site\" }\n",
    );
    assert_eq!(shown.code, Some(2));
    assert!(shown.stderr.contains("its mirror, the pool \"site\", is a folder"), "{shown:?}");
}
