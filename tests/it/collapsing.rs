//! One fetch for all who ask for the same at the same time, and what that costs none of them.

use std::time::{Duration, Instant};

use crate::support::client::request;
use crate::support::origin::{Call, Gate};
use crate::support::{Answer, Client, Origin, Proxy, Setup, answer, cacheable, chunk};

const IN_FLIGHT: &str = "headwater_http_requests_in_flight{listener=\"web\"}";
const OBJECTS: &str = "headwater_cache_objects";
/// A line for the route under which nobody begins a fetch beside one that the test holds up.
const PATIENT: &str = "cache.wait = \"60s\"";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("none")
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("headwater; hit")
}

/// Clients that have asked for `/`, all of them known to the proxy.
fn crowd(proxy: &Proxy, fields: &[&[&str]]) -> Vec<Client> {
    let before = proxy.metric(IN_FLIGHT);
    let clients = fields
        .iter()
        .map(|fields| {
            let mut client = proxy.connect();
            client.send(request("GET", "/", fields));
            client
        })
        .collect();
    proxy.wait_for_metric(IN_FLIGHT, before + fields.len() as f64);
    clients
}

/// Clients that have asked for `/`, be they answered already.
fn asked(proxy: &Proxy, count: usize) -> Vec<Client> {
    let ask = |_| {
        let mut client = proxy.connect();
        client.send(request("GET", "/", &[]));
        client
    };
    (0..count).map(ask).collect()
}

/// An origin that follows `first` for its first request once the gate is open, and then `others`.
fn gated(
    first: impl Fn(&mut Call) + Send + Sync + 'static,
    others: impl Fn(&mut Call) + Send + Sync + 'static,
) -> (Gate, Origin) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number > 0 {
            return others(call);
        }
        waits.pass();
        first(call);
    });
    (gate, origin)
}

fn sends(bytes: Vec<u8>) -> impl Fn(&mut Call) + Send + Sync + 'static {
    move |call| {
        call.send(&bytes);
    }
}

fn never(call: &mut Call) {
    call.send(&answer(500, &[], "asked again"));
}

#[test]
fn a_crowd_on_several_workers_is_one_fetch() {
    let (gate, origin) = gated(sends(cacheable("shared")), never);
    let proxy = Setup::of(&[&origin]).process("workers = 4").route(PATIENT).start();
    let clients = crowd(&proxy, &[&[][..]; 40]);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "shared");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_missing_page_that_may_be_stored_is_one_fetch() {
    let missing = answer(404, &["Cache-Control: max-age=60"], "nothing");
    let (gate, origin) = gated(sends(missing), never);
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let clients = crowd(&proxy, &[&[][..]; 5]);
    gate.open();
    for mut client in clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (404, "nothing"));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_reader_that_does_not_read_delays_nobody() {
    let body = vec![b'x'; 24 << 20];
    let bytes = body.len();
    let (gate, origin) = gated(sends(cacheable(&body)), never);
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[][..]; 3]);
    gate.open();
    // The first one, which led, reads nothing.
    for client in &mut clients[1..] {
        assert_eq!(client.answer().body().len(), bytes);
    }
    proxy.wait_for_metric(OBJECTS, 1.0);
    assert_eq!(clients[0].answer().body().len(), bytes);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_reader_that_leaves_midway_ends_nothing_even_the_first() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        call.send(CHUNKED);
        call.send(&chunk(b"first"));
        waits.pass();
        call.send(&[&chunk(b"last")[..], b"0\r\n\r\n"].concat());
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[][..]; 2]);
    for client in &mut clients {
        client.answer_head();
        client.read_exactly(10);
    }
    drop(clients.remove(0));
    proxy.wait_for_metric(IN_FLIGHT, 1.0);
    gate.open();
    assert_eq!(clients[0].read_exactly(14), b"4\r\nlast\r\n0\r\n\r\n");
    assert_eq!(proxy.get("/", &[]).text(), "firstlast");
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_fill_goes_on_when_all_its_readers_have_left() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        call.send(CHUNKED);
        call.send(&chunk(b"first"));
        waits.pass();
        call.send(&[&chunk(b"last")[..], b"0\r\n\r\n"].concat());
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[][..]]);
    clients[0].answer_head();
    drop(clients);
    proxy.wait_for_metric(IN_FLIGHT, 0.0);
    gate.open();
    proxy.wait_for_metric(OBJECTS, 1.0);
    assert!(is_hit(&proxy.get("/", &[])));
}

#[test]
fn the_followers_of_an_uncacheable_answer_go_on_side_by_side() {
    let private = || answer(200, &["Cache-Control: private"], "own");
    let (both, waits) = (Gate::default(), Gate::default());
    let second = waits.clone();
    let (gate, origin) = gated(sends(private()), {
        let both = both.clone();
        move |call| {
            if call.number < 5 {
                both.pass();
            } else {
                second.pass();
            }
            call.send(&private());
        }
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let clients = crowd(&proxy, &[&[][..]; 5]);
    gate.open();
    // All of them are there before one is answered.
    origin.requests(5);
    both.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "own");
    }
    // And so are those who come later.
    let clients = crowd(&proxy, &[&[][..]; 3]);
    origin.requests(8);
    waits.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "own");
    }
    assert_eq!(origin.count(), 8);
}

#[test]
fn an_error_of_the_origin_does_not_end_the_sharing_of_what_comes_after_it() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number == 0 {
            call.send(&answer(503, &[], "busy"));
            return;
        }
        waits.pass();
        call.send(&cacheable("body"));
    });
    let proxy = Setup::of(&[&origin]).pool_lines("retry = false").route(PATIENT).start();
    assert_eq!(proxy.get("/", &[]).status, 503);
    let clients = crowd(&proxy, &[&[][..]; 4]);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "body");
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_body_that_breaks_off_breaks_off_for_all_and_is_not_stored() {
    let broken = |call: &mut Call| {
        call.send(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100000\r\n\r\n",
        );
        call.send(&[b'x'; 70_000]);
        call.close();
    };
    let (gate, origin) = gated(broken, sends(cacheable("whole")));
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let clients = crowd(&proxy, &[&[][..]; 3]);
    gate.open();
    for mut client in clients {
        client.assert_broken_off();
    }
    proxy.wait_for_metric(IN_FLIGHT, 0.0);
    assert_eq!(proxy.metric(OBJECTS), 0.0);
    assert_eq!(proxy.get("/", &[]).text(), "whole");
}

#[test]
fn who_waited_for_a_fetch_that_failed_goes_on_by_itself() {
    let fail = |call: &mut Call| {
        call.send(&answer(500, &[], "broken"));
    };
    for first in [Call::close, fail] {
        let (gate, origin) = gated(first, sends(cacheable("body")));
        let proxy = Setup::of(&[&origin]).pool_lines("retry = false").route(PATIENT).start();
        let clients = crowd(&proxy, &[&[][..]; 6]);
        gate.open();
        let mut statuses: Vec<_> =
            clients.into_iter().map(|mut client| client.answer().status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses[..5], [200; 5]);
        assert!(statuses[5] >= 500);
        // Two took its place.
        assert!(origin.count() <= 3, "{}", origin.count());
    }
}

/// A crowd that waits for a fetch whose origin says nothing until the gate opens, and which
/// others are made beside.
fn beside_a_hung_fetch(others: Vec<u8>, count: usize) -> (Vec<Answer>, usize) {
    let (gate, origin) = gated(sends(cacheable("late")), sends(others));
    let proxy = Setup::of(&[&origin]).route("cache.wait = \"20ms\"").start();
    let answers = asked(&proxy, count).into_iter().map(|mut client| client.answer()).collect();
    let count = origin.count();
    gate.open();
    (answers, count)
}

#[test]
fn a_fetch_that_hangs_holds_up_nobody_not_even_the_one_who_began_it() {
    let (answers, count) = beside_a_hung_fetch(cacheable("soon"), 30);
    for answer in &answers {
        assert_eq!(answer.text(), "soon");
    }
    assert!(answers.iter().any(|answer| status(answer).contains("stored")));
    assert!(answers.iter().any(|answer| status(answer).contains("collapsed")));
    // Three at first, and more where the machine is slow.
    assert!(count <= 16, "{count}");
}

#[test]
fn fetches_beside_one_that_hangs_are_of_another_endpoint() {
    let hung = Origin::scripted(Call::wait_for_end);
    let good = Origin::answering(|_| cacheable("body"));
    let lines = "balance = \"round_robin\"\nretry = false";
    let setup = Setup::default().pool(&[&hung, &good], lines).route("cache.wait = \"200ms\"");
    let proxy = setup.start();
    for number in 0..2 {
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = proxy.connect();
            client.send(request("GET", &format!("/{number}"), &[]));
            clients.push(client);
        }
        for mut client in clients {
            assert_eq!(client.answer().text(), "body");
        }
        // Of all that are made for one page, at most one goes there.
        assert!(hung.count() <= number + 1, "{}", hung.count());
    }
}

#[test]
fn fetches_beside_one_that_hangs_are_few_and_nobody_waits_for_longer_than_a_first_byte() {
    let origin = Origin::scripted(Call::wait_for_end);
    let proxy = Setup::of(&[&origin])
        .pool_lines("retry = false\ntimeouts.first_byte = \"1s\"")
        .route("cache.wait = \"10ms\"")
        .start();
    for mut client in asked(&proxy, 40) {
        assert_eq!(client.answer().status, 504);
    }
    // Sixteen at a time; those that came a little later may have found the first ones gone.
    assert!(origin.count() <= 32, "{}", origin.count());
}

#[test]
fn an_answer_of_another_variant_ends_no_fetch_that_came_first() {
    let (gate, origin) = gated(
        |call| {
            call.send(&language(call));
        },
        |call| {
            call.send(&language(call));
        },
    );
    let proxy = Setup::of(&[&origin]).route("cache.wait = \"20ms\"").start();
    let mut first = crowd(&proxy, &[&["Accept-Language: en"]]);
    origin.requests(1);
    assert_eq!(proxy.get("/", &["Accept-Language: de"]).text(), "de");
    gate.open();
    assert_eq!(first[0].answer().text(), "en");
    assert_eq!(origin.count(), 2);
}

#[test]
fn an_answer_for_one_request_beside_a_fetch_that_hangs_releases_those_who_wait() {
    let private = answer(200, &["Cache-Control: private"], "own");
    let (gate, origin) = gated(sends(cacheable("late")), sends(private));
    let proxy = Setup::of(&[&origin]).route("cache.wait = \"20ms\"").start();
    let mut clients = crowd(&proxy, &[&[]]);
    origin.requests(1);
    let others = asked(&proxy, 10);
    for mut client in others {
        assert_eq!(client.answer().text(), "own");
    }
    gate.open();
    assert_eq!((clients[0].answer().text().as_str(), origin.count()), ("late", 11));
}

#[test]
fn requests_with_cookies_wait_only_for_what_is_known_to_be_shared() {
    let cookies = ["Cookie: user=1", "Cookie: user=2", "Cookie: user=3"];
    let fields: Vec<[&str; 1]> = cookies.iter().map(|cookie| [*cookie]).collect();
    let fields: Vec<&[&str]> = fields.iter().map(|fields| &fields[..]).collect();
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        waits.pass();
        call.send(&answer(200, &["Cache-Control: private"], "own"));
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let clients = crowd(&proxy, &fields);
    // All of them are there before one is answered.
    origin.requests(3);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "own");
    }

    // What was stored is known to be shared, though it has gone.
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number > 0 && call.request.method() == "GET" {
            waits.pass();
        }
        call.send(&cacheable("shared"));
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    proxy.get("/", &[]);
    proxy.connect().ask("POST", "/", &[], "x");
    let clients = crowd(&proxy, &fields);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "shared");
    }
    assert_eq!(origin.count(), 3);
}

#[test]
fn who_comes_to_a_body_that_stands_still_begins_a_fetch_of_its_own() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number > 0 {
            call.send(&cacheable("whole"));
            return;
        }
        call.send(CHUNKED);
        call.send(&chunk(b"first"));
        waits.pass();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut clients = crowd(&proxy, &[&[]]);
    clients[0].answer_head();
    // It may join as long as the pause is short.
    let joined = crowd(&proxy, &[&[]]);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut client = proxy.connect();
        client.send(request("GET", "/", &[]));
        client.answer_head();
        if origin.count() > 1 {
            break;
        }
        assert!(Instant::now() < deadline, "nobody began another fetch");
    }
    assert_eq!(proxy.get("/", &[]).text(), "whole");
    gate.open();
    drop((clients, joined));
}

#[test]
fn a_refresh_that_hangs_does_not_keep_others_from_refreshing() {
    let (gate, control) = (Gate::default(), "Cache-Control: max-age=1, stale-while-revalidate=600");
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| match call.number {
        0 => drop(call.send(&answer(200, &[control, "Age: 1"], "old"))),
        1 => waits.pass(),
        _ => drop(call.send(&answer(200, &["Cache-Control: max-age=600"], "new"))),
    });
    let proxy = Setup::of(&[&origin]).route("cache.wait = \"20ms\"").start();
    assert_eq!(proxy.get("/", &[]).text(), "old");
    let deadline = Instant::now() + Duration::from_secs(20);
    while proxy.get("/", &[]).text() != "new" {
        assert!(Instant::now() < deadline, "nobody fetched it anew");
    }
    assert_eq!(origin.count(), 3);
    gate.open();
}

#[test]
fn where_nobody_is_to_wait_every_request_goes_on_by_itself() {
    let (gate, origin) = gated(sends(cacheable("first")), sends(cacheable("other")));
    let proxy = Setup::of(&[&origin]).route("cache.wait = \"0s\"").start();
    let mut first = crowd(&proxy, &[&[]]);
    origin.requests(1);
    assert_eq!(proxy.get("/", &[]).text(), "other");
    // Its own fetch has nothing yet, and what the other one brought is for everybody.
    assert_eq!(first[0].answer().text(), "other");
    gate.open();
}

/// RFC 9111 §5.2.2.4: what came before a request cannot be used for it without validation.
#[test]
fn a_request_does_not_join_midway_what_must_be_validated_for_it() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number > 0 {
            call.send(&answer(200, &["Cache-Control: no-cache", "ETag: \"v2\""], "new"));
            return;
        }
        call.send(
            b"HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\nETag: \"v1\"\r\n\
              Content-Length: 3\r\n\r\no",
        );
        waits.pass();
        call.send(b"ld");
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[]]);
    clients[0].answer_head();
    assert_eq!(proxy.get("/", &[]).text(), "new");
    gate.open();
    assert_eq!(clients[0].read_exactly(3), b"old");
}

/// RFC 9111 §3.5.
#[test]
fn an_authorized_request_neither_leads_nor_joins() {
    let authorized = ["Authorization: Bearer a"];
    let (gate, origin) = gated(sends(cacheable("shared")), sends(cacheable("mine")));
    let proxy = Setup::of(&[&origin]).start();
    let mut anonymous = crowd(&proxy, &[&[]]);
    origin.requests(1);
    assert_eq!(proxy.get("/", &authorized).text(), "mine");
    gate.open();
    assert_eq!(anonymous[0].answer().text(), "shared");

    let (gate, origin) = gated(sends(cacheable("mine")), sends(cacheable("shared")));
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&authorized]);
    origin.requests(1);
    assert_eq!(proxy.get("/", &[]).text(), "shared");
    gate.open();
    assert_eq!(clients[0].answer().text(), "mine");
    assert_eq!(proxy.get("/", &[]).text(), "shared");
}

#[test]
fn a_request_that_is_not_to_be_stored_neither_leads_nor_joins() {
    let (gate, origin) = gated(sends(cacheable("shared")), sends(cacheable("mine")));
    let proxy = Setup::of(&[&origin]).start();
    let mut others = crowd(&proxy, &[&[]]);
    origin.requests(1);
    assert_eq!(proxy.get("/", &["Cache-Control: no-store"]).text(), "mine");
    gate.open();
    assert_eq!(others[0].answer().text(), "shared");
}

#[test]
fn an_authorized_request_shares_what_is_marked_for_it() {
    let control = "Cache-Control: public, max-age=60";
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.number == 0 {
            call.send(&answer(200, &[control, "Age: 60"], "old"));
            return;
        }
        waits.pass();
        call.send(&answer(200, &[control], "new"));
    });
    let proxy = Setup::of(&[&origin]).route(PATIENT).start();
    proxy.get("/", &[]);
    let clients = crowd(&proxy, &[&["Authorization: Bearer a"], &[], &["Authorization: Bearer b"]]);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "new");
    }
    assert_eq!(origin.count(), 2);
}

fn language(call: &Call) -> Vec<u8> {
    let language = call.request.header("accept-language").unwrap_or("none").to_owned();
    answer(200, &["Cache-Control: max-age=60", "Vary: Accept-Language"], language)
}

#[test]
fn those_who_wait_for_other_variants_regroup_and_fetch_side_by_side() {
    let rest = Gate::default();
    let waits = rest.clone();
    let (gate, origin) = gated(
        |call| {
            call.send(&language(call));
        },
        move |call| {
            waits.pass();
            call.send(&language(call));
        },
    );
    let proxy = Setup::of(&[&origin]).process("workers = 2").route(PATIENT).start();
    let mut first = crowd(&proxy, &[&["Accept-Language: en"]]);
    origin.requests(1);
    let names = ["en", "de", "fr", "it", "de", "fr", "it", "en"];
    let fields = names.map(|name| [format!("Accept-Language: {name}")]);
    let fields: Vec<Vec<&str>> = fields.iter().map(|it| vec![it[0].as_str()]).collect();
    let others = crowd(&proxy, &fields.iter().map(Vec::as_slice).collect::<Vec<_>>());
    gate.open();
    // One request for each of the others, all there before one is answered.
    origin.requests(4);
    rest.open();
    assert_eq!(first[0].answer().text(), "en");
    for (mut client, name) in others.into_iter().zip(names) {
        assert_eq!(client.answer().text(), name);
    }
    assert_eq!((origin.count(), proxy.metric(OBJECTS)), (4, 4.0));
}

#[test]
fn an_answer_for_one_client_ends_with_that_client() {
    let origin = Origin::scripted(|call| {
        call.send(b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 100\r\n\r\nfirst");
        call.wait_for_end();
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(request("GET", "/", &[]));
    client.answer_head();
    drop(client);
    origin.wait_for_closed(1);
}

#[test]
fn what_is_not_stored_any_more_ends_with_its_last_reader() {
    let origin = Origin::scripted(|call| {
        call.send(CHUNKED);
        call.send(&chunk(&[b'x'; 100_000]));
        // Says nothing more: only the proxy can end this.
        call.wait_for_end();
    });
    let proxy =
        Setup::of(&[&origin]).text("[cache]\nobject_max = \"64KiB\"").route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[][..]; 2]);
    for client in &mut clients {
        client.answer_head();
    }
    drop(clients);
    origin.wait_for_closed(1);
    assert_eq!(proxy.metric(OBJECTS), 0.0);
}

#[test]
fn who_comes_too_late_to_what_outgrew_the_store_fetches_alone() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        call.send(CHUNKED);
        call.send(&chunk(&[b'x'; 100_000]));
        if call.number == 0 {
            waits.pass();
        }
        call.send(&[&chunk(b"end")[..], b"0\r\n\r\n"].concat());
    });
    let proxy =
        Setup::of(&[&origin]).text("[cache]\nobject_max = \"64KiB\"").route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[]]);
    clients[0].answer_head();
    // More than the store takes has come by.
    clients[0].read_exactly(90_000);
    assert_eq!(proxy.get("/", &[]).body().len(), 100_003);
    gate.open();
    drop(clients);
    assert_eq!((origin.count(), proxy.metric(OBJECTS)), (2, 0.0));
}

#[test]
fn one_who_stalls_what_is_not_stored_is_cut_loose() {
    const BODY: usize = 48 << 20;
    let (gate, origin) = gated(
        |call| {
            call.send(CHUNKED);
            let piece = chunk(&[b'x'; 1 << 16]);
            for _ in 0..BODY >> 16 {
                if !call.send(&piece) {
                    return;
                }
            }
            call.send(b"0\r\n\r\n");
        },
        never,
    );
    let proxy = Setup::of(&[&origin]).text("[cache]\nobject_max = \"1MiB\"").route(PATIENT).start();
    let mut clients = crowd(&proxy, &[&[][..]; 2]);
    gate.open();
    assert_eq!(clients[0].answer().body().len(), BODY);
    clients[1].assert_broken_off();
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_fetch_that_is_for_one_client_ends_when_that_client_leaves() {
    let origin = Origin::scripted(Call::wait_for_end);
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(request("GET", "/", &["Authorization: Basic x"]));
    origin.requests(1);
    drop(client);
    origin.wait_for_closed(1);
}

#[test]
fn fetches_that_all_clients_have_left_are_bounded() {
    let origin = Origin::scripted(Call::wait_for_end);
    let proxy = Setup::of(&[&origin]).start();
    let count = 40;
    let clients: Vec<_> = (0..count)
        .map(|number| {
            let mut client = proxy.connect();
            client.send(request("GET", &format!("/{number}"), &[]));
            client
        })
        .collect();
    origin.requests(count);
    drop(clients);
    // As many go on for what they may bring.
    origin.wait_for_closed(count - 32);
    assert_eq!(proxy.get("/other", &["Cache-Control: only-if-cached"]).status, 504);
}

#[test]
fn a_fetch_that_all_clients_have_left_does_not_hold_up_a_stop() {
    let origin = Origin::scripted(Call::wait_for_end);
    let mut proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(request("GET", "/", &[]));
    origin.requests(1);
    drop(client);
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 0.0);
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
}
