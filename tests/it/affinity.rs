//! Requests that belong to an endpoint: by a hash, by a cookie, by the share of a split.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::origin::Refusing;
use crate::support::{
    Answer, Folder, HOST, Origin, Proxy, Setup, answer, cacheable, eventually, ok,
};

/// Answers with its name.
fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| ok(name))
}

fn origins() -> [Origin; 3] {
    ["a", "b", "c"].map(named)
}

/// The endpoints of several pools.
fn pools(pools: &[(&str, &[&Origin])], lines: &str) -> String {
    let pools = pools.iter().map(|(name, origins)| {
        let endpoints: Vec<_> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
        format!("[pool.{name}]\nendpoints = [{}]\n{lines}\n", endpoints.join(", "))
    });
    pools.collect()
}

/// The value of the cookie that an answer sets.
fn cookie(answer: &Answer) -> Option<String> {
    let set = answer.header("set-cookie")?.strip_prefix("hw=")?;
    Some(set.split(';').next().unwrap().to_owned())
}

fn sticky(proxy: &Proxy, result: &str) -> f64 {
    let series = "headwater_sticky_requests_total";
    proxy.metric(&format!("{series}{{pool=\"app\",result=\"{result}\"}}"))
}

// Hashing.

#[test]
fn a_hash_sends_what_is_alike_to_one_endpoint_on_all_workers_and_after_a_reload() {
    let origins = origins();
    let [a, b, c] = &origins;
    let hashed = |lines: &str| {
        Setup::of(&[a, b, c])
            .process("workers = 2")
            .pool_lines(&format!("balance = \"hash\"\nhash_on = \"header:X-Tenant\"\n{lines}"))
            .route("cache = false")
    };
    let proxy = hashed("").start();
    let places = || -> BTreeMap<String, String> {
        let tenants = (0..24).map(|number| format!("tenant-{number}"));
        // Each on a connection of its own: the kernel spreads them over the workers.
        let place = |tenant: String| {
            let got = proxy.get("/", &[&format!("X-Tenant: {tenant}")]).text();
            (tenant, got)
        };
        tenants.map(place).collect()
    };
    let before = places();
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(places(), before);
    proxy.reload(&hashed("keepalive = \"5s\""));
    assert_eq!(places(), before);
    // One that leaves takes only its own with it.
    proxy.reload(&hashed("").pool(&[a, b], ""));
    for (tenant, place) in places() {
        assert!(place != "c" && (before[&tenant] == "c" || before[&tenant] == place));
    }
}

#[test]
fn a_hash_is_on_the_client_the_path_a_header_or_a_cookie() {
    let origins = origins();
    let [a, b, c] = &origins;
    for (hash_on, request) in [
        ("client_ip", ("/", "X-Forwarded-For: 10.0.0.N")),
        ("path", ("/N", "X-A: b")),
        ("header:x-user", ("/", "X-User: N")),
        ("cookie:session", ("/", "Cookie: a=b; session=N")),
    ] {
        let proxy = Setup::of(&[a, b, c])
            .listener("trusted = [\"127.0.0.0/8\"]\nclient_ip_header = \"x-forwarded-for\"")
            .pool_lines(&format!("balance = \"hash\"\nhash_on = \"{hash_on}\""))
            .route("cache = false")
            .start();
        let mut client = proxy.connect();
        let mut ask = |number: usize| {
            let number = number.to_string();
            let (target, field) = request;
            client.get(&target.replace('N', &number), &[&field.replace('N', &number)]).text()
        };
        let places: Vec<_> = (1..=20).map(&mut ask).collect();
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 3, "{hash_on}");
        let again: Vec<_> = (1..=20).map(&mut ask).collect();
        assert_eq!(places, again, "{hash_on}");
    }
}

#[test]
fn without_the_header_the_client_decides_and_is_counted() {
    let origins = origins();
    let [a, b, c] = &origins;
    let proxy = Setup::of(&[a, b, c])
        .pool_lines("balance = \"hash\"\nhash_on = \"header:x-tenant\"")
        .route("cache = false")
        .start();
    let first = proxy.get("/", &[]).text();
    for _ in 0..5 {
        assert_eq!(proxy.get("/", &[]).text(), first);
    }
    assert_eq!(proxy.metric("headwater_hash_fallbacks_total{pool=\"app\"}"), 6.0);
}

// Cookies.

#[test]
fn a_cookie_keeps_a_client_at_its_endpoint_and_names_no_address() {
    let origins = origins();
    let [a, b, c] = &origins;
    let lines = "balance = \"round_robin\"\nsticky = { ttl = \"10m\" }";
    let setup = Setup::of(&[a, b, c]).process("workers = 2").pool_lines(lines);
    let setup = setup.route("cache = false");
    let proxy = setup.start();
    for _ in 0..3 {
        let first = proxy.get("/", &["Cookie: theme=dark"]);
        let set = first.header("set-cookie").unwrap().to_owned();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=600"), "{set}");
        assert!(!set.contains("127.0.0.1") && !set.contains(&a.address.port().to_string()));
        let field = format!("Cookie: theme=dark; hw={}", cookie(&first).unwrap());
        for _ in 0..4 {
            let next = proxy.get("/", &[&field]);
            assert_eq!((next.text(), next.header("set-cookie")), (first.text(), None));
        }
        proxy.reload(&setup.clone().pool_lines(&format!("keepalive = \"{}s\"", 5 + a.count())));
    }
    assert_eq!((sticky(&proxy, "new"), sticky(&proxy, "kept")), (3.0, 12.0));
    // Endpoints do not see it.
    let requests = origins.iter().flat_map(|origin| origin.requests(origin.count()));
    assert!(requests.into_iter().all(|it| it.header("cookie") == Some("theme=dark")));
}

#[test]
fn replicas_with_one_secret_agree() {
    let origins = origins();
    let [a, b, c] = &origins;
    let (folder, other) = (Folder::new(), Folder::new());
    for folder in [&folder, &other] {
        folder.write("secret", "0123456789abcdef0123456789abcdef\n");
    }
    let lines = "balance = \"round_robin\"\nsticky = { secret_file = \"secret\" }";
    let setup = Setup::of(&[a, b, c]).pool_lines(lines).route("cache = false");
    let (proxy, replica) = (setup.start_in(folder), setup.start_in(other));
    let first = proxy.get("/", &[]);
    let field = format!("Cookie: hw={}", cookie(&first).unwrap());
    for _ in 0..4 {
        assert_eq!(replica.get("/", &[&field]).text(), first.text());
    }
}

#[test]
fn a_forged_or_stale_cookie_is_ignored_and_replaced() {
    let origins = origins();
    let [a, b, c] = &origins;
    let proxy = Setup::of(&[a, b, c]).pool_lines("sticky = {}").route("cache = false").start();
    let zeros = "0".repeat(32);
    for value in [zeros.as_str(), "127.0.0.1", "", "%00", "\"x\""] {
        let answer = proxy.get("/", &[&format!("Cookie: hw={value}")]);
        assert_eq!(answer.status, 200);
        assert_ne!(cookie(&answer).unwrap(), zeros);
    }
    assert_eq!(sticky(&proxy, "ignored"), 5.0);
    // Of several, the one that is ours counts.
    let first = proxy.get("/", &[]);
    let field = format!("Cookie: hw=x; hw={}", cookie(&first).unwrap());
    assert_eq!(proxy.get("/", &[&field]).text(), first.text());
}

#[test]
fn a_client_moves_for_good_when_its_endpoint_is_gone_or_draining() {
    let origins = origins();
    let [a, b, c] = &origins;
    let setup = Setup::of(&[a, b, c]).pool_lines("sticky = {}").route("cache = false");
    let proxy = setup.start();
    let first = proxy.get("/", &[]);
    let field = format!("Cookie: hw={}", cookie(&first).unwrap());
    let home = origins.iter().find(|origin| origin.count() == 1).unwrap();
    proxy.set_by_hand(home, "drain");
    let moved = proxy.get("/", &[&field]);
    assert_ne!(moved.text(), first.text());
    let field = format!("Cookie: hw={}", cookie(&moved).unwrap());
    assert_eq!(proxy.get("/", &[&field]).text(), moved.text());
    assert_eq!(sticky(&proxy, "moved"), 1.0);
    // Nor does it come back by itself.
    proxy.set_by_hand(home, "ready");
    assert_eq!(proxy.get("/", &[&field]).text(), moved.text());
}

#[test]
fn a_client_whose_endpoint_refuses_is_served_by_another() {
    let (refusing, good) = (Refusing::new(), named("good"));
    let setup = Setup::of(&[&refusing, &good])
        .pool_lines("sticky = {}\nbalance = \"round_robin\"")
        .route("cache = false");
    let address = refusing.address;
    let origin = refusing.listen(|call| {
        call.send(&ok("first"));
    });
    let proxy = setup.start();
    let first = eventually("the first endpoint", || {
        Some(proxy.get("/", &[])).filter(|answer| answer.text() == "first")
    });
    drop(origin);
    let field = format!("Cookie: hw={}", cookie(&first).unwrap());
    // A reset alone may pass; a refusal moves the client.
    let moved = eventually("another cookie", || {
        let answer = proxy.get("/", &[&field]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
        cookie(&answer)
    });
    assert_ne!(Some(moved), cookie(&first));
    assert_eq!(proxy.endpoint(&address)["picked"], false);
}

#[test]
fn a_websocket_is_kept_where_its_client_is() {
    const SWITCH: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origins = [(); 2].map(|()| {
        Origin::scripted(|call| {
            call.send(SWITCH);
            call.wait_for_end();
        })
    });
    let [a, b] = &origins;
    let proxy = Setup::of(&[a, b]).pool_lines("sticky = {}\nbalance = \"round_robin\"").start();
    let ask = |field: &str| {
        let mut client = proxy.connect();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{field}\r\n"
        ));
        let head = client.answer_head();
        (client, head.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned()))
    };
    let (_first, set) = ask("");
    let field = format!("Cookie: {}\r\n", set.unwrap());
    let others: Vec<_> = (0..3).map(|_| ask(&field)).collect();
    assert!(others.iter().all(|(_, set)| set.is_none()));
    let mut counts = [a.count(), b.count()];
    counts.sort_unstable();
    assert_eq!(counts, [0, 4]);
}

#[test]
fn no_cookie_is_put_on_what_is_stored_or_shared() {
    let origin = Origin::answering(|request| match request.target() {
        "/stored" => cacheable("stored"),
        "/elsewhere" => answer(200, &["Cache-Control: public, max-age=60"], "for all"),
        "/own" => answer(200, &["Cache-Control: private, max-age=60"], "own"),
        _ => ok("plain"),
    });
    let proxy = Setup::of(&[&origin])
        .pool_lines("sticky = {}")
        .route("paths = [\"/*\"]")
        .text("[[route]]\nname = \"uncached\"\npaths = [\"/elsewhere\"]\npool = \"app\"\ncache = false")
        .start();
    for _ in 0..2 {
        let stored = proxy.get("/stored", &[]);
        assert_eq!((stored.text().as_str(), cookie(&stored)), ("stored", None));
        let elsewhere = proxy.get("/elsewhere", &[]);
        assert_eq!((elsewhere.text().as_str(), cookie(&elsewhere)), ("for all", None));
    }
    assert_eq!(origin.count_of("/stored"), 1);
    for target in ["/own", "/plain"] {
        assert!(cookie(&proxy.get(target, &[])).is_some(), "{target}");
    }
}

// Splits.

#[test]
fn a_split_is_exact_over_all_workers_and_goes_on_after_a_reload() {
    let (a, b) = (named("a"), named("b"));
    let split = |lines: &str| {
        Setup::empty().process("workers = 2").text(&format!(
            "{}[[route]]\ncache = false\nsplit = [{{ pool = \"a\", weight = 9 }}, \
             {{ pool = \"b\", weight = 1 }}]\n",
            pools(&[("a", &[&a]), ("b", &[&b])], lines)
        ))
    };
    let proxy = split("").start();
    for window in 1..=3 {
        for round in 0..10 {
            assert_eq!(proxy.get("/", &[]).status, 200);
            if round == 4 {
                proxy.reload(&split(&format!("keepalive = \"{window}s\"")));
            }
        }
        assert_eq!((a.count(), b.count()), (9 * window, window));
    }
}

#[test]
fn hits_of_the_cache_take_no_part_in_a_split() {
    let (a, b) = (Origin::answering(|_| cacheable("a")), Origin::answering(|_| cacheable("b")));
    let proxy = Setup::empty()
        .text(&format!(
            "{}[[route]]\nsplit = [{{ pool = \"a\", weight = 1 }}, {{ pool = \"b\", weight = 1 }}]\n",
            pools(&[("a", &[&a]), ("b", &[&b])], "")
        ))
        .start();
    for number in 0..6 {
        for _ in 0..3 {
            proxy.get(&format!("/{number}"), &[]);
        }
    }
    assert_eq!((a.count(), b.count()), (3, 3));
}

#[test]
fn pools_of_a_split_are_kept_apart_in_the_cache_where_the_key_says_so() {
    let (a, b) = (Origin::answering(|_| cacheable("a")), Origin::answering(|_| cacheable("b")));
    let proxy = Setup::empty()
        .text(&format!(
            "{}[[route]]\ncache.key.split = true\nsplit = [{{ pool = \"a\", weight = 3 }}, \
             {{ pool = \"b\", weight = 1 }}]\n",
            pools(&[("a", &[&a]), ("b", &[&b])], "")
        ))
        .start();
    let bodies: Vec<String> = (0..8).map(|_| proxy.get("/", &[]).text()).collect();
    let of_a = bodies.iter().filter(|body| *body == "a").count();
    assert_eq!((of_a, bodies.len() - of_a), (6, 2), "hits are split as well");
    assert_eq!((a.count(), b.count()), (1, 1), "each pool has stored its own");
    assert_eq!(proxy.purge("{\"urls\":[\"http://site.test/\"]}"), 2, "a purge finds both");
}

#[test]
fn a_client_with_a_cookie_stays_on_its_side_of_a_split() {
    let origins = ["a1", "a2", "b1", "b2"].map(named);
    let [a1, a2, b1, b2] = &origins;
    let proxy = Setup::empty()
        .text(&format!(
            "{}[[route]]\ncache = false\nsplit = [{{ pool = \"a\", weight = 1 }}, \
             {{ pool = \"b\", weight = 1 }}]\n",
            pools(&[("a", &[a1, a2]), ("b", &[b1, b2])], "sticky = {}")
        ))
        .start();
    for _ in 0..4 {
        let first = proxy.get("/", &[]);
        let field = format!("Cookie: hw={}", cookie(&first).unwrap());
        for _ in 0..4 {
            assert_eq!(proxy.get("/", &[&field]).text(), first.text());
        }
    }
}
