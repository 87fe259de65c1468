//! Which endpoint a request goes to, and which endpoints get none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::origin::{Gate, Refusing};
use crate::support::{HOST, Origin, Proxy, Setup, answer, eventually, ok};

/// The path that checks ask for.
const PROBE: &str = "/healthz";

/// Answers with its name.
fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| ok(name))
}

/// An origin whose health the test decides.
struct Patient {
    origin: Origin,
    healthy: Arc<AtomicBool>,
}

impl Patient {
    fn new(healthy: bool) -> Self {
        let healthy = Arc::new(AtomicBool::new(healthy));
        let told = healthy.clone();
        let origin = Origin::answering(move |request| match request.target() {
            PROBE if !told.load(Ordering::SeqCst) => answer(500, &[], "ill"),
            _ => ok(""),
        });
        Self { origin, healthy }
    }

    fn set(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::SeqCst);
    }

    /// Requests that were no checks.
    fn served(&self) -> usize {
        self.origin.count_of("/")
    }
}

const HEALTH: &str = "health = { path = \"/healthz\", interval = \"50ms\", healthy_after = 2, \
                      unhealthy_after = 2 }\nbalance = \"round_robin\"";

fn ejections(proxy: &Proxy, origin: &Origin) -> f64 {
    proxy.metric(&format!("headwater_ejections_total{{pool=\"app\",endpoint=\"{origin}\"}}"))
}

#[test]
fn round_robin_is_exact_over_all_workers() {
    let origins = [named("a"), named("b"), named("c")];
    let [a, b, c] = &origins;
    let proxy = Setup::empty()
        .process("workers = 2")
        .text(&format!(
            r#"
            [pool.app]
            endpoints = [{{ address = "{a}", weight = 3 }}, "{b}", {{ address = "{c}", weight = 2 }}]
            balance = "round_robin"
            [[route]]
            pool = "app"
            "#
        ))
        .start();
    for window in 1..=8 {
        // Each on a connection of its own: the kernel spreads them over the workers.
        for _ in 0..6 {
            assert_eq!(proxy.get("/", &[]).status, 200);
        }
        let counts = origins.each_ref().map(Origin::count);
        assert_eq!(counts, [3 * window, window, 2 * window], "after {window} windows");
    }
}

#[test]
fn least_requests_goes_where_nothing_is_under_way() {
    let gate = Gate::default();
    let held = |name: &'static str| {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            if call.request.target() == "/held" {
                gate.pass();
            }
            call.send(&ok(name));
        })
    };
    let (a, b) = (held("a"), held("b"));
    let proxy = Setup::of(&[&a, &b]).pool_lines("balance = \"least_requests\"").start();
    let mut holding = proxy.connect();
    holding.send(format!("GET /held HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let busy = eventually("the held request", || match (a.count(), b.count()) {
        (1, 0) => Some("a"),
        (0, 1) => Some("b"),
        _ => None,
    });
    let mut client = proxy.connect();
    for _ in 0..10 {
        assert_ne!(client.get("/", &[]).text(), busy);
    }
    gate.open();
    assert_eq!(holding.answer().text(), busy);
}

#[test]
fn ewma_tries_every_endpoint() {
    let origins = [named("a"), named("b"), named("c")];
    let [a, b, c] = &origins;
    let proxy = Setup::of(&[a, b, c]).start();
    let mut client = proxy.connect();
    for _ in 0..200 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    // How many each gets depends on how fast it happened to be.
    assert!(origins.iter().all(|origin| origin.count() > 0));
}

#[test]
fn a_backup_is_used_only_while_no_other_endpoint_is_usable() {
    let (main, backup) = (Patient::new(true), Patient::new(true));
    let proxy = Setup::empty()
        .text(&format!(
            r#"
            [pool.app]
            endpoints = ["{}", {{ address = "{}", backup = true }}]
            {HEALTH}
            [[route]]
            pool = "app"
            "#,
            main.origin, backup.origin
        ))
        .start();
    proxy.wait_for_state(&main.origin, "usable");
    for _ in 0..5 {
        proxy.get("/", &[]);
    }
    assert_eq!((main.served(), backup.served()), (5, 0));
    main.set(false);
    proxy.wait_for_state(&main.origin, "unhealthy");
    for _ in 0..5 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((main.served(), backup.served()), (5, 5));
}

#[test]
fn an_endpoint_that_refused_is_set_aside_until_a_trial_succeeds() {
    let (refusing, good) = (Refusing::new(), named("good"));
    let address = refusing.address;
    let proxy = Setup::of(&[&refusing, &good]).pool_lines("balance = \"round_robin\"").start();
    let mut client = proxy.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).text(), "good");
    }
    assert_eq!(proxy.endpoint(&address)["state"], "set_aside");
    let back = refusing.listen(|call| {
        call.send(&ok("back"));
    });
    eventually("the trial", || (client.get("/", &[]).text() == "back").then_some(()));
    proxy.wait_for_state(&back, "usable");
}

#[test]
fn trials_risk_no_request_while_others_are_usable() {
    let (refusing, good) = (Refusing::new(), named("good"));
    let proxy = Setup::of(&[&refusing, &good])
        .pool_lines("balance = \"round_robin\"\noutlier = false")
        .route("cache = false")
        .start();
    let mut client = proxy.connect();
    let begun = std::time::Instant::now();
    // Long enough for trials after 250 ms and 500 ms more.
    eventually("two trials", || {
        assert_eq!(client.get("/", &[]).text(), "good");
        (begun.elapsed() > std::time::Duration::from_millis(900)).then_some(())
    });
    assert_eq!(proxy.metric("headwater_retries_total{pool=\"app\",reason=\"connect\"}"), 1.0);
    assert_eq!(proxy.endpoint(&refusing)["state"], "set_aside");
}

#[test]
fn refused_connects_are_no_tries_however_many_endpoints_are_down() {
    let refusing = [(); 9].map(|()| Refusing::new());
    let good = named("good");
    let mut endpoints: Vec<&dyn std::fmt::Display> =
        refusing.iter().map(|one| one as &dyn std::fmt::Display).collect();
    endpoints.push(&good);
    for lines in ["", "retry.attempts = 1"] {
        let proxy = Setup::of(&endpoints)
            .pool_lines(&format!("balance = \"round_robin\"\n{lines}"))
            .route("cache = false")
            .start();
        for _ in 0..4 {
            let answer = proxy.get("/", &[]);
            assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
            let logged = proxy.access(answer.header("x-request-id").unwrap());
            assert_eq!(logged["attempts"], 1);
        }
    }
}

#[test]
fn primaries_that_refuse_cost_no_failure_before_the_backup() {
    let (a, b, backup) = (Refusing::new(), Refusing::new(), named("backup"));
    let proxy = Setup::empty()
        .text(&format!(
            r#"
            [pool.app]
            endpoints = ["{a}", "{b}", {{ address = "{backup}", backup = true }}]
            [[route]]
            pool = "app"
            cache = false
            "#
        ))
        .start();
    for _ in 0..3 {
        assert_eq!(proxy.get("/", &[]).text(), "backup");
    }
}

#[test]
fn an_endpoint_that_is_back_answers_the_next_request_where_there_is_no_other() {
    for others in [0, 2] {
        let down = [(); 2].map(|()| Refusing::new());
        let back = Refusing::new();
        let mut endpoints: Vec<&dyn std::fmt::Display> =
            down.iter().take(others).map(|one| one as &dyn std::fmt::Display).collect();
        endpoints.push(&back);
        let proxy = Setup::of(&endpoints).route("cache = false").start();
        let mut client = proxy.connect();
        // Until the endpoints would be set aside for seconds.
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(1500) {
            let answer = client.get("/", &[]);
            assert!(matches!(answer.status, 502 | 503), "{answer:?}");
        }
        let refused = client.get("/", &[]);
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(proxy.endpoint(&back)["state"], "set_aside");
        let _back = back.listen(|call| {
            call.send(&ok("back"));
        });
        for _ in 0..10 {
            assert_eq!(client.get("/", &[]).text(), "back", "beside {others} others");
        }
    }
}

#[test]
fn failures_in_a_row_eject_an_endpoint() {
    let bad = Origin::answering(|_| answer(503, &[], "bad"));
    let good = named("good");
    let proxy = Setup::of(&[&bad, &good])
        .pool_lines("balance = \"round_robin\"\noutlier = { failures = 3 }\nretry = false")
        .start();
    let mut client = proxy.connect();
    for _ in 0..6 {
        client.get("/", &[]);
    }
    assert_eq!(proxy.endpoint(&bad)["state"], "ejected");
    assert_eq!(ejections(&proxy, &bad), 1.0);
    for _ in 0..6 {
        assert_eq!(client.get("/", &[]).text(), "good");
    }
    assert_eq!(bad.count(), 3);
}

#[test]
fn resets_eject_too() {
    let bad = Origin::scripted(|call| call.reset());
    let good = named("good");
    let proxy = Setup::of(&[&bad, &good])
        .pool_lines("balance = \"round_robin\"\noutlier = { failures = 3 }")
        .start();
    let mut client = proxy.connect();
    for _ in 0..8 {
        assert_eq!(client.get("/", &[]).text(), "good");
    }
    assert_eq!(proxy.endpoint(&bad)["state"], "ejected");
    assert_eq!(bad.count(), 3);
}

#[test]
fn an_ejection_ends_by_itself() {
    let bad = Origin::answering(|_| answer(503, &[], "bad"));
    let good = named("good");
    let proxy = Setup::of(&[&bad, &good])
        .pool_lines(
            "balance = \"round_robin\"\noutlier = { failures = 1, eject_for = \"200ms\" }\n\
             retry = false",
        )
        .start();
    let mut client = proxy.connect();
    eventually("the second chance", || {
        client.get("/", &[]);
        (bad.count() >= 2).then_some(())
    });
    assert_eq!(ejections(&proxy, &bad), 2.0);
}

#[test]
fn no_more_than_the_share_is_ejected() {
    let origin = Origin::answering(|_| answer(503, &[], "bad"));
    let proxy = Setup::of(&[&origin]).pool_lines("outlier.failures = 1").start();
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/", &[]).text(), "bad");
    }
    assert_eq!(ejections(&proxy, &origin), 0.0);
}

#[test]
fn one_that_fails_where_the_others_do_not_gets_next_to_nothing_whatever_the_policy() {
    let cut = || {
        Origin::scripted(|call| {
            call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
            call.takes(std::time::Duration::from_millis(60));
            call.reset();
        })
    };
    for balance in ["ewma", "round_robin", "least_requests"] {
        let crashing = || Origin::answering(|_| answer(500, &[], "crash"));
        for (cuts, bad) in [(false, crashing()), (true, cut())] {
            let good = [named("a"), named("b")];
            let proxy = Setup::of(&[&good[0], &bad, &good[1]])
                .pool_lines(&format!("balance = \"{balance}\""))
                .route("cache = false")
                .start();
            for _ in 0..120 {
                let mut client = proxy.connect();
                client.send(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n"));
                let _ = client.rest();
            }
            // What breaks off counts as a second, for which `ewma` soon asks it no more.
            if !(cuts && balance == "ewma") {
                assert_eq!(ejections(&proxy, &bad), 1.0, "{balance}");
            }
            assert!(bad.count() < 20, "{balance}: {}", bad.count());
            assert_eq!(ejections(&proxy, &good[0]) + ejections(&proxy, &good[1]), 0.0);
        }
    }
}

#[test]
fn one_that_declines_everything_attracts_nothing() {
    for status in [404, 429] {
        let bad = Origin::answering(move |_| answer(status, &[], "no"));
        let good = [named("a"), named("b"), named("c")];
        let proxy = Setup::of(&[&good[0], &good[1], &bad, &good[2]]).route("cache = false").start();
        let mut client = proxy.connect();
        for _ in 0..400 {
            client.get("/", &[]);
        }
        assert!(bad.count() < 160, "{} of 400", bad.count());
        assert_eq!(ejections(&proxy, &bad), 0.0);
    }
}

#[test]
fn an_endpoint_that_is_set_ready_by_hand_gets_its_share_at_once() {
    for balance in ["ewma", "least_requests", "round_robin"] {
        let (a, b) = (named("a"), named("b"));
        let proxy = Setup::of(&[&a, &b])
            .pool_lines(&format!("balance = \"{balance}\""))
            .route("cache = false")
            .start();
        let mut client = proxy.connect();
        proxy.set_by_hand(&b, "drain");
        for _ in 0..40 {
            assert_eq!(client.get("/", &[]).text(), "a");
        }
        proxy.set_by_hand(&b, "ready");
        let before = b.count();
        for _ in 0..40 {
            client.get("/", &[]);
        }
        assert!(b.count() - before >= 6, "{balance}: {}", b.count() - before);
    }
}

#[test]
fn a_crashing_url_ejects_nobody() {
    let origins = [(); 2].map(|()| Origin::answering(|_| answer(500, &[], "crash")));
    let [a, b] = &origins;
    let proxy = Setup::of(&[a, b]).pool_lines("outlier.failures = 2").start();
    let mut client = proxy.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).status, 500);
    }
    assert_eq!(ejections(&proxy, a) + ejections(&proxy, b), 0.0);
}

#[test]
fn clients_that_leave_eject_nobody() {
    let origins = [(); 2].map(|()| Origin::scripted(|call| call.wait_for_end()));
    let [a, b] = &origins;
    let proxy = Setup::of(&[a, b])
        .pool_lines("outlier.failures = 1\nbalance = \"round_robin\"")
        .route("cache = false")
        .start();
    for number in 1..=6 {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        eventually("the request", || (a.count() + b.count() == number).then_some(()));
        drop(client);
    }
    a.wait_for_closed(3);
    b.wait_for_closed(3);
    assert_eq!(ejections(&proxy, a) + ejections(&proxy, b), 0.0);
}

#[test]
fn an_unhealthy_endpoint_gets_nothing_until_it_has_recovered() {
    let (steady, moody) = (Patient::new(true), Patient::new(true));
    let proxy = Setup::of(&[&steady.origin, &moody.origin]).pool_lines(HEALTH).start();
    let series =
        format!("headwater_endpoint_healthy{{pool=\"app\",endpoint=\"{}\"}}", moody.origin);
    proxy.wait_for_metric(&series, 1.0);
    moody.set(false);
    proxy.wait_for_state(&moody.origin, "unhealthy");
    assert_eq!(proxy.metric(&series), 0.0);
    let reason = proxy.endpoint(&moody.origin)["reason"].to_string();
    assert!(reason.contains("500"), "{reason}");
    let mut client = proxy.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((steady.served(), moody.served()), (10, 0));
    moody.set(true);
    proxy.wait_for_state(&moody.origin, "usable");
    for _ in 0..10 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((steady.served(), moody.served()), (15, 5));
}

#[test]
fn the_first_probe_decides_alone() {
    let (ill, well) = (Patient::new(false), Patient::new(true));
    let proxy = Setup::of(&[&ill.origin, &well.origin])
        .pool_lines("health = { path = \"/healthz\", interval = \"1h\" }")
        .start();
    proxy.wait_for_state(&ill.origin, "unhealthy");
    for _ in 0..5 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((ill.served(), well.served()), (0, 5));
    assert_eq!(ill.origin.count_of(PROBE), 1);
}

#[test]
fn with_too_few_usable_endpoints_the_unhealthy_are_used_again_but_not_those_that_refuse() {
    let (ill, refusing) = (Patient::new(false), Refusing::new());
    let proxy = Setup::of(&[&ill.origin, &refusing]).pool_lines(HEALTH).start();
    proxy.wait_for_state(&ill.origin, "unhealthy");
    proxy.wait_for_state(&refusing, "set_aside");
    for _ in 0..4 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!(ill.served(), 4);
    assert_eq!(proxy.metric("headwater_retries_total{pool=\"app\",reason=\"connect\"}"), 0.0);
}

#[test]
fn without_panic_endpoints_that_are_out_stay_out() {
    let (ill, well) = (Patient::new(false), Patient::new(true));
    let setup = Setup::of(&[&ill.origin, &well.origin]).pool_lines(HEALTH);
    let proxy = setup.pool_lines("panic_below = \"0%\"").start();
    proxy.wait_for_state(&ill.origin, "unhealthy");
    well.set(false);
    proxy.wait_for_state(&well.origin, "unhealthy");
    let refused = proxy.get("/", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(ill.served() + well.served(), 0);
    assert_eq!(proxy.metric("headwater_pool_panic{pool=\"app\"}"), 0.0);
}

#[test]
fn the_own_zone_is_preferred_while_it_has_usable_endpoints() {
    let (near, also_near, far) = (Patient::new(true), Patient::new(true), Patient::new(true));
    let proxy = Setup::empty()
        .process("workers = 2\nzone = \"a\"")
        .text(&format!(
            r#"
            [pool.app]
            endpoints = [
                {{ address = "{}", zone = "b" }},
                {{ address = "{}", zone = "a" }},
                {{ address = "{}", zone = "a" }},
            ]
            panic_below = "0%"
            {HEALTH}
            [[route]]
            pool = "app"
            cache = false
            "#,
            far.origin, near.origin, also_near.origin
        ))
        .start();
    proxy.wait_for_state(&far.origin, "usable");
    for _ in 0..20 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((near.served(), also_near.served(), far.served()), (10, 10, 0));
    // Half of the zone is trusted with seven of ten requests.
    near.set(false);
    proxy.wait_for_state(&near.origin, "unhealthy");
    for _ in 0..200 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    let share = also_near.served() - 10;
    assert!((110..170).contains(&share) && share + far.served() == 200, "{share} of 200");
    also_near.set(false);
    proxy.wait_for_state(&also_near.origin, "unhealthy");
    let before = far.served();
    for _ in 0..10 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!(far.served(), before + 10);
}

#[test]
fn an_endpoint_that_is_added_gets_a_small_share_at_first() {
    let (old, new) = (named("old"), named("new"));
    let setup = Setup::of(&[&old])
        .pool_lines("balance = \"round_robin\"\nslow_start = \"1h\"")
        .route("cache = false");
    let proxy = setup.start();
    proxy.reload(&setup.pool(&[&old, &new], ""));
    let mut client = proxy.connect();
    for _ in 0..110 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((old.count(), new.count()), (100, 10));
}

#[test]
fn an_endpoint_that_is_much_slower_than_the_others_is_ejected() {
    let gate = Gate::default();
    let slow = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            gate.pass();
            call.send(&ok("slow"));
        })
    };
    let quick = [named("a"), named("b"), named("c")];
    let [a, b, c] = &quick;
    let proxy = Setup::of(&[a, b, c, &slow])
        .pool_lines("balance = \"round_robin\"\nretry.hedge_after = \"off\"")
        .route("cache = false")
        .start();
    let mut clients: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    }
    slow.requests(25);
    // Long beside what the others take: its answers are 25 slow ones in a row.
    let begun = std::time::Instant::now();
    eventually("some time", || (begun.elapsed() > std::time::Duration::from_secs(1)).then_some(()));
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let endpoint = proxy.endpoint(&slow);
    assert_eq!((&endpoint["state"], &endpoint["circuit"]), (&"ejected".into(), &"open".into()));
    assert!(endpoint["reason"].to_string().contains("much slower than the others"));
    assert_eq!(ejections(&proxy, &slow), 1.0);
}

#[test]
fn the_circuit_of_an_endpoint_is_shown() {
    let (refusing, good) = (Refusing::new(), named("good"));
    let proxy = Setup::of(&[&refusing, &good]).pool_lines("balance = \"round_robin\"").start();
    let open = |address: &dyn std::fmt::Display| {
        let series = "headwater_endpoint_circuit_open";
        proxy.metric(&format!("{series}{{pool=\"app\",endpoint=\"{address}\"}}"))
    };
    assert_eq!(proxy.endpoint(&refusing)["circuit"], "closed");
    let mut client = proxy.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).text(), "good");
    }
    assert_eq!(proxy.endpoint(&refusing)["circuit"], "open");
    assert_eq!(proxy.endpoint(&good)["circuit"], "closed");
    assert_eq!((open(&refusing), open(&good)), (1.0, 0.0));
}

#[test]
fn a_probe_is_sent_as_it_is_configured() {
    let origin = Origin::answering(|request| match request.method() {
        "HEAD" => answer(204, &[], ""),
        _ => answer(500, &[], ""),
    });
    let proxy = Setup::of(&[&origin])
        .pool_lines(
            "health = { path = \"/up?full\", method = \"HEAD\", host = \"probe.test\", \
             expect = [\"204\"] }",
        )
        .start();
    let probe = origin.request(0);
    assert_eq!((probe.method(), probe.target()), ("HEAD", "/up?full"));
    assert_eq!(probe.header("host"), Some("probe.test"));
    let series = format!(
        "headwater_health_checks_total{{pool=\"app\",endpoint=\"{origin}\",result=\"success\"}}"
    );
    proxy.wait_for_metric(&series, 1.0);
}

#[test]
fn a_connection_is_enough_for_a_tcp_check() {
    let (refusing, origin) = (Refusing::new(), named("up"));
    let proxy = Setup::of(&[&refusing, &origin])
        .pool_lines("health = { tcp = true, interval = \"50ms\" }")
        .start();
    origin.wait_for_connections(1);
    eventually("the verdict", || {
        (proxy.endpoint(&refusing)["health"] == "unhealthy").then_some(())
    });
    assert_eq!(proxy.get("/", &[]).text(), "up");
}

#[test]
fn what_the_body_of_an_answer_says_decides_where_that_is_asked() {
    let well = Arc::new(AtomicBool::new(true));
    let told = well.clone();
    let origin = Origin::answering(move |request| match request.header("x-probe") {
        Some("1") if !told.load(Ordering::SeqCst) => ok("{\"state\": \"degraded\"}"),
        _ => ok("{\"state\": \"well\"}"),
    });
    let health = HEALTH.replace(
        "interval",
        "headers = { x-probe = \"1\" }, body_contains = \"\\\"well\\\"\", interval",
    );
    let proxy = Setup::of(&[&origin]).pool_lines(&health).start();
    eventually("the first verdict", || {
        (proxy.endpoint(&origin)["health"] == "healthy").then_some(())
    });
    well.store(false, Ordering::SeqCst);
    proxy.wait_for_state(&origin, "unhealthy");
    let reason = proxy.endpoint(&origin)["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "the body does not contain \"\\\"well\\\"\"");
}

#[test]
fn what_probes_have_found_survives_reloads() {
    let (ill, well) = (Patient::new(false), Patient::new(true));
    let health = "health = { path = \"/healthz\", interval = \"1h\" }";
    let setup = Setup::of(&[&ill.origin, &well.origin]).pool_lines(health);
    let proxy = setup.start();
    proxy.wait_for_state(&ill.origin, "unhealthy");
    eventually("the other verdict", || {
        (proxy.endpoint(&well.origin)["health"] == "healthy").then_some(())
    });
    let probes = well.origin.count_of(PROBE);
    for keepalive in 1..=3 {
        proxy.reload(&setup.clone().pool_lines(&format!("keepalive = \"{keepalive}s\"")));
        let state = |it: &Patient| proxy.endpoint(&it.origin)["health"].clone();
        assert_eq!((state(&ill), state(&well)), ("unhealthy".into(), "healthy".into()));
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((ill.served(), well.served()), (0, 3));
    assert_eq!(well.origin.count_of(PROBE), probes);
}

#[test]
fn a_probe_that_hangs_is_a_failure() {
    let origin = Origin::scripted(|call| call.wait_for_end());
    let proxy = Setup::of(&[&origin])
        .pool_lines("health = { path = \"/\", interval = \"1s\", timeout = \"100ms\" }")
        .start();
    proxy.wait_for_state(&origin, "unhealthy");
}

#[test]
fn an_endpoint_that_is_added_while_others_are_healthy_waits_for_its_first_success() {
    let old = Patient::new(true);
    let gate = Gate::default();
    let new = {
        let gate = gate.clone();
        Origin::scripted(move |call| {
            if call.request.target() == PROBE {
                gate.pass();
            }
            call.send(&ok(""));
        })
    };
    let setup = Setup::of(&[&old.origin]).pool_lines(HEALTH);
    let proxy = setup.start();
    eventually("the first verdict", || {
        (proxy.endpoint(&old.origin)["health"] == "healthy").then_some(())
    });
    proxy.reload(&setup.pool(&[&old.origin, &new], ""));
    new.requests(1);
    for _ in 0..6 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((old.served(), new.count_of("/")), (6, 0));
    gate.open();
    proxy.wait_for_state(&new, "usable");
    for _ in 0..6 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((old.served(), new.count_of("/")), (9, 3));
}

#[test]
fn a_unix_socket_is_an_endpoint_too() {
    let inner = Setup::empty()
        .listener("bind = \"unix:web.sock\"")
        .text("[[route]]\nrespond = { status = 200, body = \"from the socket\" }")
        .start();
    let socket = inner.folder.join("web.sock");
    let proxy = Setup::of(&[&format!("unix:{}", socket.display())]).start();
    assert_eq!(proxy.get("/", &[]).text(), "from the socket");
}
