//! Parts of what is stored, of what is arriving, and of what only the origin has (RFC 9110 §14,
//! RFC 9111 §3.3).

use crate::support::message::Message;
use crate::support::origin::Gate;
use crate::support::{
    Answer, Client, HOST, Origin, Proxy, Request, Setup, answer, cacheable, chunk, eventually,
};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";
const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const OBJECTS: &str = "headwater_cache_objects";

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or("none")
}

fn range(client: &mut Client, range: &str) -> Answer {
    client.get("/", &[&format!("Range: {range}")])
}

/// So many bytes, of which no two neighbouring kilobytes are equal.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 251 + at) as u8).collect()
}

/// A proxy that has stored the alphabet with these fields.
fn stored(fields: &'static [&'static str]) -> (Origin, Proxy, Client) {
    let origin = Origin::answering(move |_| {
        answer(200, &[&["Cache-Control: max-age=60"], fields].concat(), ALPHABET)
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    assert_eq!(client.get("/", &[]).text(), ALPHABET);
    (origin, proxy, client)
}

/// What an origin answers that can do single ranges.
fn in_part(request: &Request, body: &[u8], fields: &[&str]) -> Vec<u8> {
    let Some(range) = request.header("range") else { return answer(200, fields, body) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().map_or(body.len() - 1, |last: usize| last.min(body.len() - 1));
    if first > last {
        return answer(
            416,
            &[fields, &[&format!("Content-Range: bytes */{}", body.len())]].concat(),
            "",
        );
    }
    let content_range = format!("Content-Range: bytes {first}-{last}/{}", body.len());
    answer(206, &[fields, &[&content_range]].concat(), &body[first..=last])
}

/// The requests so far that asked for the whole.
fn wholes(origin: &Origin) -> usize {
    origin.requests(0).iter().filter(|request| request.header("range").is_none()).count()
}

/// Head and content of each part of a `multipart/byteranges`.
fn parts(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.status, 206, "{answer:?}");
    assert_eq!(answer.header("content-range"), None);
    let boundary = answer.header("content-type").unwrap();
    let boundary = boundary.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let text = answer.text();
    let text = text.strip_prefix(&format!("--{boundary}\r\n")).unwrap();
    let text = text.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    text.split(&format!("\r\n--{boundary}\r\n"))
        .map(|part| part.split_once("\r\n\r\n").unwrap())
        .map(|(head, content)| (head.to_owned(), content.to_owned()))
        .collect()
}

#[test]
fn a_range_of_what_is_stored_is_a_hit() {
    let (origin, proxy, mut client) = stored(&["ETag: \"v1\"", "Content-Type: text/plain"]);
    for (asked, content_range, content) in [
        ("bytes=0-0", "bytes 0-0/26", "a"),
        ("bytes=2-5", "bytes 2-5/26", "cdef"),
        ("bytes=20-", "bytes 20-25/26", "uvwxyz"),
        ("bytes=20-99", "bytes 20-25/26", "uvwxyz"),
        ("bytes=-3", "bytes 23-25/26", "xyz"),
        ("bytes=-99", "bytes 0-25/26", ALPHABET),
        ("bytes=0-", "bytes 0-25/26", ALPHABET),
        ("BYTES=1-1", "bytes 1-1/26", "b"),
        ("bytes=0-2,3-5", "bytes 0-5/26", "abcdef"),
        ("bytes=1-4, 30-", "bytes 1-4/26", "bcde"),
    ] {
        let part = range(&mut client, asked);
        assert_eq!((part.status, part.text().as_str()), (206, content), "{asked}");
        assert_eq!(part.header("content-range"), Some(content_range), "{asked}");
        assert_eq!(part.header("content-length"), Some(content.len().to_string().as_str()));
        // RFC 9110 §15.3.7: what the 200 would have had.
        assert_eq!(part.header("etag"), Some("\"v1\""));
        assert_eq!(part.header("cache-control"), Some("max-age=60"));
        assert_eq!(part.header("content-type"), Some("text/plain"));
        assert_eq!(part.header("accept-ranges"), Some("bytes"));
        assert!(part.header("age").is_some() && part.header("date").is_some());
        assert!(status(&part).starts_with("headwater; hit; ttl="), "{}", status(&part));
    }
    assert_eq!(origin.count(), 1);
    let hits = "headwater_cache_requests_total{route=\"app\",status=\"hit\"}";
    assert_eq!(proxy.metric(hits), 10.0);
    assert_eq!(proxy.access("\"status\":206")["cache"], "hit");
}

#[test]
fn ranges_apart_come_as_parts_in_the_order_of_the_request() {
    let (_origin, _proxy, mut client) = stored(&["Content-Type: text/plain"]);
    let answer = range(&mut client, "bytes=24-, 0-1, 10-12, 11-13");
    let expected = [("bytes 24-25/26", "yz"), ("bytes 0-1/26", "ab"), ("bytes 10-13/26", "klmn")]
        .map(|(range, content)| {
            (format!("Content-Type: text/plain\r\nContent-Range: {range}"), content.to_owned())
        });
    assert_eq!(parts(&answer), expected);
    assert!(status(&answer).starts_with("headwater; hit"));
}

#[test]
fn parts_of_what_has_no_type_have_none() {
    let (_origin, _proxy, mut client) = stored(&[]);
    let answer = range(&mut client, "bytes=0-0,2-2");
    let heads: Vec<_> = parts(&answer).into_iter().map(|(head, _)| head).collect();
    assert_eq!(heads, ["Content-Range: bytes 0-0/26", "Content-Range: bytes 2-2/26"]);
}

#[test]
fn a_range_behind_the_end_is_416_with_the_length() {
    let (origin, _proxy, mut client) = stored(&["ETag: \"v1\""]);
    for asked in ["bytes=26-", "bytes=99-100", "bytes=-0", "bytes=26-27,-0"] {
        let answer = range(&mut client, asked);
        assert_eq!(answer.status, 416, "{asked}");
        assert_eq!(answer.header("content-range"), Some("bytes */26"), "{asked}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("etag"), None);
    }
    assert_eq!(range(&mut client, "bytes=25-").text(), "z");
    assert_eq!(origin.count(), 1);
}

#[test]
fn what_is_no_range_for_us_is_ignored() {
    let (origin, _proxy, mut client) = stored(&[]);
    let many: Vec<_> = (0..9).map(|n| format!("{}-{}", 3 * n, 3 * n)).collect();
    let many = format!("bytes={},{}", many.join(","), "0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7");
    for asked in ["lines=1-2", "bytes=5-2", "bytes=x", "bytes", "bytes=1-2,x", &many] {
        let answer = range(&mut client, asked);
        assert_eq!((answer.status, answer.text().as_str()), (200, ALPHABET), "{asked}");
        assert_eq!(answer.header("content-range"), None);
    }
    let twice = client.get("/", &["Range: bytes=0-1", "Range: bytes=2-3"]);
    assert_eq!((twice.status, twice.text().as_str()), (200, ALPHABET));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_range_means_nothing_to_head() {
    // RFC 9110 §14.2: it is defined for GET only.
    let (_origin, _proxy, mut client) = stored(&[]);
    client.send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=0-1\r\n\r\n"));
    let head = client.head_answer();
    assert_eq!((head.status, head.header("content-length")), (200, Some("26")));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
}

#[test]
fn what_is_no_200_has_no_ranges() {
    let origin = Origin::answering(|_| answer(404, &["Cache-Control: max-age=60"], "nothing here"));
    let proxy = Setup::of(&[&origin]).start();
    for _ in 0..2 {
        let answer = proxy.get("/", &["Range: bytes=0-1"]);
        assert_eq!((answer.status, answer.text().as_str()), (404, "nothing here"));
        assert_eq!(answer.header("accept-ranges"), None);
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_origin_that_forbids_ranges_is_obeyed() {
    let (origin, _proxy, mut client) = stored(&["Accept-Ranges: none"]);
    let answer = range(&mut client, "bytes=0-1");
    assert_eq!((answer.status, answer.text().as_str()), (200, ALPHABET));
    assert_eq!(answer.message.headers("accept-ranges").collect::<Vec<_>>(), ["none"]);
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_empty_body_has_no_part_but_its_end() {
    let origin = Origin::answering(|_| cacheable(""));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    let answer = range(&mut client, "bytes=0-");
    assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */0")));
    assert_eq!(range(&mut client, "bytes=-5").status, 200);
}

#[test]
fn a_digest_of_the_whole_content_does_not_describe_a_part() {
    let (_origin, _proxy, mut client) =
        stored(&["Content-Digest: sha-256=:AA==:", "Content-MD5: AA==", "Repr-Digest: md5=:AA==:"]);
    let part = range(&mut client, "bytes=0-1");
    assert_eq!(part.text(), "ab");
    assert_eq!((part.header("content-digest"), part.header("content-md5")), (None, None));
    assert_eq!(part.header("repr-digest"), Some("md5=:AA==:"));
}

/// Whether the range counts beside this `If-Range`.
fn counts(client: &mut Client, if_range: &str) -> bool {
    let fields = ["Range: bytes=1-2", &format!("If-Range: {if_range}")];
    let answer = client.get("/", &fields);
    match answer.status {
        206 => assert_eq!(answer.text(), "bc", "{if_range}"),
        _ => assert_eq!((answer.status, answer.text().as_str()), (200, ALPHABET), "{if_range}"),
    }
    answer.status == 206
}

#[test]
fn if_range_compares_tags_strongly() {
    // RFC 9110 §13.1.5.
    let (origin, _proxy, mut client) = stored(&["ETag: \"v1\""]);
    assert!(counts(&mut client, "\"v1\""));
    for other in ["\"v2\"", "W/\"v1\"", "v1", "*", "\"v1\", \"v2\"", MODIFIED] {
        assert!(!counts(&mut client, other), "{other}");
    }
    assert_eq!(origin.count(), 1);
    let (_origin, _proxy, mut client) = stored(&["ETag: W/\"v1\""]);
    for weak in ["W/\"v1\"", "\"v1\""] {
        assert!(!counts(&mut client, weak), "{weak}");
    }
}

#[test]
fn if_range_takes_a_date_only_where_it_is_strong() {
    // RFC 9110 §8.8.2.2: the response must have been made a second later.
    let (origin, _proxy, mut client) = stored(&["Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"]);
    let (other, _second, mut early) = stored(&[
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        "Date: Thu, 01 Jan 2026 00:00:00 GMT",
        "Expires: Fri, 01 Jan 2100 00:00:00 GMT",
        "Cache-Control: s-maxage=2000000000",
    ]);
    assert!(counts(&mut client, MODIFIED));
    assert!(counts(&mut client, "Thursday, 01-Jan-26 00:00:00 GMT"));
    assert!(!counts(&mut early, MODIFIED));
    for other in ["Thu, 01 Jan 2026 00:00:01 GMT", "Wed, 31 Dec 2025 23:59:59 GMT", "\"v1\""] {
        assert!(!counts(&mut client, other), "{other}");
    }
    assert_eq!((origin.count(), other.count()), (1, 1));
}

#[test]
fn other_conditions_come_before_the_range() {
    // RFC 9110 §13.2.2.
    let (origin, _proxy, mut client) =
        stored(&["ETag: \"v1\"", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"]);
    let mut get = |condition: &str| {
        let answer = client.get("/", &["Range: bytes=1-2", condition]);
        (answer.status, answer.text())
    };
    assert_eq!(get("If-None-Match: \"v1\""), (304, String::new()));
    assert_eq!(get("If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT"), (304, String::new()));
    assert_eq!(get("If-None-Match: \"v0\""), (206, "bc".to_owned()));
    assert_eq!(get("If-Modified-Since: Wed, 31 Dec 2025 00:00:00 GMT"), (206, "bc".to_owned()));
    let only = client.get("/", &["If-Range: \"v0\""]);
    assert_eq!(only.text(), ALPHABET, "without Range it has no meaning");
    assert_eq!(origin.count(), 1);
}

/// Parts of a large body that is stored in many pieces.
fn assert_parts_of_a_large_body(head: &'static str, is_chunked: bool) {
    let body = pattern(300_000);
    let sent = body.clone();
    let origin = Origin::scripted(move |call| {
        call.send(head.as_bytes());
        for piece in sent.chunks(7_001) {
            if is_chunked {
                call.send(&chunk(piece))
            } else {
                call.send(piece)
            };
        }
        if is_chunked {
            call.send(b"0\r\n\r\n");
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    assert!(client.get("/", &[]).body() == body);
    for (first, last) in [
        (0, 0),
        (0, 299_999),
        (7_000, 7_001),
        (65_535, 65_536),
        (65_537, 200_000),
        (299_999, 299_999),
    ] {
        let part = range(&mut client, &format!("bytes={first}-{last}"));
        assert_eq!(part.status, 206);
        assert!(part.body() == &body[first..=last], "{first}-{last}");
    }
    let several = range(&mut client, "bytes=100000-100009,0-0,150000-250000");
    let length: usize = several.header("content-length").unwrap().parse().unwrap();
    assert_eq!(several.body().len(), length);
    for (first, last) in [(100_000, 100_009), (150_000, 250_000)] {
        let content = &body[first..=last];
        assert!(several.body().windows(content.len()).any(|window| window == content));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_large_body_is_cut_byte_by_byte() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 300000\r\n\r\n";
    assert_parts_of_a_large_body(head, false);
}

#[test]
fn a_body_that_came_without_a_length_has_ranges_once_it_is_stored() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_parts_of_a_large_body(head, true);
}

/// An origin that sends the first half of the alphabet, and the rest or the end of the connection
/// when the gate opens.
fn halves(breaks: bool) -> (Gate, Origin, Proxy, Client) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.header("range").is_some() {
            call.send(&in_part(&call.request, ALPHABET.as_bytes(), &["Cache-Control: no-store"]));
            return;
        }
        let bytes = cacheable(ALPHABET);
        let half = bytes.len() - 13;
        call.send(&bytes[..half]);
        waits.pass();
        if breaks {
            call.close();
        } else {
            call.send(&bytes[half..]);
        }
    });
    let proxy = Setup::of(&[&origin]).process("workers = 2").start();
    let mut first = proxy.connect();
    first.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert_eq!(first.answer_head().start_line(), "HTTP/1.1 200 OK");
    (gate, origin, proxy, first)
}

#[test]
fn a_range_of_what_is_arriving_is_sent_as_soon_as_it_is_there() {
    let (gate, origin, proxy, mut first) = halves(false);
    let mut early = proxy.connect();
    let part = range(&mut early, "bytes=3-12");
    assert_eq!((part.status, part.text().as_str()), (206, "defghijklm"));
    assert!(status(&part).contains("collapsed"), "{}", status(&part));
    assert_eq!(part.header("content-range"), Some("bytes 3-12/26"));

    let mut late = proxy.connect();
    late.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=10-15\r\n\r\n"));
    assert_eq!(late.answer_head().header("content-length"), Some("6"));
    assert_eq!(late.read_exactly(3), b"klm");
    let mut suffix = proxy.connect();
    suffix.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=-2\r\n\r\n"));
    assert_eq!(suffix.answer_head().header("content-range"), Some("bytes 24-25/26"));
    gate.open();
    assert_eq!(late.read_exactly(3), b"nop");
    assert_eq!(suffix.read_exactly(2), b"yz");
    assert_eq!(first.read_exactly(26), ALPHABET.as_bytes());
    assert_eq!(origin.count(), 1);
    // The connection is in order.
    assert_eq!(range(&mut early, "bytes=0-0").text(), "a");
}

#[test]
fn parts_of_what_is_arriving_come_in_its_order_or_as_the_whole() {
    let (gate, origin, proxy, _first) = halves(false);
    let ask = |asked: &str| {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nRange: {asked}\r\n\r\n"));
        let head = client.answer_head();
        (client, head)
    };
    let (mut ascending, head) = ask("bytes=1-2,20-21");
    let (mut descending, whole) = ask("bytes=20-21,1-2");
    assert_eq!(whole.header("content-length"), Some("26"));
    gate.open();
    let body = ascending.read_exactly(head.header("content-length").unwrap().parse().unwrap());
    let message = Message { body, ..head };
    let parts = parts(&Answer { status: 206, message, is_complete: true });
    assert_eq!(parts.iter().map(|(_, content)| content.as_str()).collect::<Vec<_>>(), ["bc", "uv"]);
    assert_eq!(descending.read_exactly(26), ALPHABET.as_bytes());
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_fetch_that_breaks_off_breaks_the_ranges_that_it_still_owes() {
    let (gate, origin, proxy, mut first) = halves(true);
    assert_eq!(proxy.get("/", &["Range: bytes=0-12"]).text(), "abcdefghijklm");
    let mut owed = proxy.connect();
    owed.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=10-15\r\n\r\n"));
    assert_eq!(owed.answer_head().header("content-range"), Some("bytes 10-15/26"));
    assert_eq!(owed.read_exactly(3), b"klm");
    gate.open();
    assert_eq!(owed.rest(), b"");
    assert_eq!(first.rest(), &ALPHABET.as_bytes()[..13]);
    assert_eq!(proxy.metric(OBJECTS), 0.0);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_range_of_what_arrives_without_a_length_is_for_the_origin() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.header("range").is_some() {
            call.send(&in_part(&call.request, ALPHABET.as_bytes(), &["Cache-Control: no-store"]));
            return;
        }
        call.send(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        call.send(&chunk(b"abc"));
        waits.pass();
        call.send(b"0\r\n\r\n");
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut first = proxy.connect();
    first.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    first.answer_head();
    let part = proxy.get("/", &["Range: bytes=1-2"]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1-2/26")));
    gate.open();
    assert_eq!(origin.count(), 2);
}

#[test]
fn what_the_origin_sends_in_part_is_passed_on_as_it_is_and_never_taken_for_the_whole() {
    // RFC 9111 §3.3.
    let origin = Origin::answering(|request| {
        in_part(
            request,
            ALPHABET.as_bytes(),
            &["Cache-Control: no-store", "ETag: \"v1\"", "X-A: b"],
        )
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        let part = client.get("/", &["Range: bytes=2-4", "If-Range: \"v1\""]);
        assert_eq!((part.status, part.text().as_str()), (206, "cde"));
        assert_eq!(part.header("content-range"), Some("bytes 2-4/26"));
        assert_eq!(part.header("x-a"), Some("b"));
        assert_eq!(status(&part), "headwater; fwd=miss; detail=partial");
    }
    let request = origin.request(0);
    assert_eq!(request.header("range"), Some("bytes=2-4"));
    assert_eq!(request.header("if-range"), Some("\"v1\""));
    assert_eq!(client.get("/", &[]).text(), ALPHABET);
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_part_of_what_may_be_stored_brings_the_whole() {
    let origin = Origin::answering(|request| {
        in_part(request, ALPHABET.as_bytes(), &["Cache-Control: max-age=60", "ETag: \"v1\""])
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let fields = ["Range: bytes=2-4", "If-Range: \"v1\"", "If-None-Match: \"v0\""];
    let part = client.get("/", &fields);
    assert_eq!((part.status, part.text().as_str()), (206, "cde"));
    proxy.wait_for_metric(OBJECTS, 1.0);
    let part = range(&mut client, "bytes=-3");
    assert_eq!((part.status, part.text().as_str()), (206, "xyz"));
    assert!(status(&part).starts_with("headwater; hit"), "{}", status(&part));
    assert_eq!(client.get("/", &[]).text(), ALPHABET);
    assert_eq!(origin.count(), 2);
    let whole = origin.request(1);
    for name in ["range", "if-range", "if-none-match"] {
        assert_eq!(whole.header(name), None, "{name}");
    }
}

#[test]
fn one_fetch_brings_the_whole_for_many_parts() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.header("range").is_none() {
            waits.pass();
        }
        call.send(&in_part(&call.request, ALPHABET.as_bytes(), &["Cache-Control: max-age=60"]));
    });
    let proxy = Setup::of(&[&origin]).process("workers = 2").start();
    assert_eq!(proxy.get("/", &["Range: bytes=0-1"]).text(), "ab");
    origin.requests(2);
    // From now on there is a fetch to join.
    let mut others: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    for other in &mut others {
        other.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=2-3\r\n\r\n"));
    }
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 4.0);
    gate.open();
    for other in &mut others {
        assert_eq!(other.answer().text(), "cd");
    }
    assert_eq!((origin.count(), wholes(&origin)), (2, 1));
}

/// That a part with these fields leaves the whole alone.
fn assert_whole_not_fetched(setup: &str, fields: &'static [&'static str], request: &[&str]) {
    let origin = Origin::answering(|request| in_part(request, &pattern(5000), fields));
    let proxy = Setup::of(&[&origin]).text(setup).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        let part = client.get("/", &[&["Range: bytes=0-1"], request].concat());
        assert_eq!(part.status, 206, "{fields:?}");
    }
    // Whatever was begun by then would have come before this.
    client.get("/last", request);
    assert_eq!((origin.count(), wholes(&origin)), (3, 1), "{fields:?} {request:?}");
}

#[test]
fn the_whole_is_not_fetched_where_it_would_not_be_stored_or_shared() {
    assert_whole_not_fetched("", &["Cache-Control: no-store"], &[]);
    assert_whole_not_fetched("", &["Cache-Control: private, max-age=60"], &[]);
    assert_whole_not_fetched("", &["ETag: \"v1\""], &[]);
    assert_whole_not_fetched("", &["Cache-Control: max-age=60, public"], &["Authorization: x"]);
    assert_whole_not_fetched("", &["Cache-Control: max-age=60"], &["Cache-Control: no-store"]);
    let small = "[cache]\nobject_max = \"4KiB\"";
    assert_whole_not_fetched(small, &["Cache-Control: max-age=60"], &[]);
}

#[test]
fn a_whole_that_turned_out_not_to_be_storable_is_not_tried_again() {
    let origin = Origin::answering(|request| {
        let control = match request.header("range") {
            Some(_) => "Cache-Control: max-age=60",
            None => "Cache-Control: no-store",
        };
        in_part(request, ALPHABET.as_bytes(), &[control])
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    assert_eq!(range(&mut client, "bytes=0-1").text(), "ab");
    origin.requests(2);
    // The mark comes a moment after the answer; without it every request would try again.
    eventually("the whole not to be asked for any more", || {
        let before = wholes(&origin);
        for _ in 0..5 {
            assert_eq!(range(&mut client, "bytes=2-3").text(), "cd");
        }
        (wholes(&origin) == before).then_some(())
    });
}

#[test]
fn a_worker_fetches_no_more_than_eight_wholes_at_a_time() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        if call.request.header("range").is_none() {
            waits.pass();
        }
        call.send(&in_part(&call.request, ALPHABET.as_bytes(), &["Cache-Control: max-age=60"]));
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for path in 0..12 {
        let part = client.get(&format!("/{path}"), &["Range: bytes=0-1"]);
        assert_eq!(part.text(), "ab");
    }
    origin.requests(12 + 8);
    gate.open();
    proxy.wait_for_metric(OBJECTS, 8.0);
    assert_eq!(wholes(&origin), 8);
    // There is room again.
    client.get("/11", &["Range: bytes=0-1"]);
    proxy.wait_for_metric(OBJECTS, 9.0);
}

#[test]
fn a_whole_that_comes_in_place_of_a_part_is_stored_and_cut() {
    let origin = Origin::answering(|_| cacheable(ALPHABET));
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let part = range(&mut client, "bytes=2-4");
    assert_eq!((part.status, part.text().as_str()), (206, "cde"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/26"));
    assert_eq!(status(&part), "headwater; fwd=miss; stored");
    assert_eq!(origin.request(0).header("range"), Some("bytes=2-4"));
    proxy.wait_for_metric(OBJECTS, 1.0);
    let beyond = range(&mut client, "bytes=99-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */26")));
    assert_eq!(client.get("/", &[]).text(), ALPHABET);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_whole_that_comes_in_place_of_a_part_is_shared_while_it_arrives() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        let bytes = cacheable(ALPHABET);
        call.send(&bytes[..bytes.len() - 13]);
        waits.pass();
        call.send(&bytes[bytes.len() - 13..]);
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &["Range: bytes=2-4"]).text(), "cde");
    let mut second = proxy.connect();
    second.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    second.answer_head();
    gate.open();
    assert_eq!(second.read_exactly(26), ALPHABET.as_bytes());
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_whole_that_is_not_stored_is_passed_on_whole() {
    let origin = Origin::answering(|_| answer(200, &["Cache-Control: no-store"], ALPHABET));
    let proxy = Setup::of(&[&origin]).start();
    for _ in 0..2 {
        let answer = proxy.get("/", &["Range: bytes=2-4"]);
        assert_eq!((answer.status, answer.text().as_str()), (200, ALPHABET));
        assert_eq!(status(&answer), "headwater; fwd=miss; detail=no-store");
    }
}

#[test]
fn an_answer_to_a_range_or_a_condition_is_not_the_answer_of_the_url() {
    // However fresh it says it is.
    for code in [412, 416] {
        let origin = Origin::answering(move |request| match request.header("range") {
            Some(_) => answer(code, &["Cache-Control: max-age=60"], "for one"),
            None => cacheable(ALPHABET),
        });
        let proxy = Setup::of(&[&origin]).start();
        let mut client = proxy.connect();
        assert_eq!(range(&mut client, "bytes=99-").status, code);
        assert_eq!(client.get("/", &[]).text(), ALPHABET);
    }
}

#[test]
fn a_part_that_nobody_asked_for_is_not_stored() {
    let origin = Origin::answering(|_| {
        answer(206, &["Cache-Control: max-age=60", "Content-Range: bytes 0-2/26"], "abc")
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/", &[]).status, 206);
    }
    assert_eq!((origin.count(), proxy.metric(OBJECTS)), (2, 0.0));
}

/// A range of a stale object whose origin answers `again` when it is asked to validate.
fn stale(again: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> (Origin, Proxy, Answer) {
    let origin = Origin::answering(move |request| match request.header("if-none-match") {
        Some("\"v1\"") => again(),
        _ => answer(200, &["ETag: \"v1\"", "Cache-Control: max-age=60", "Age: 60"], ALPHABET),
    });
    let proxy = Setup::of(&[&origin]).start();
    proxy.get("/", &[]);
    let part = proxy.get("/", &["Range: bytes=2-4"]);
    let request = origin.request(1);
    assert_eq!(request.header("if-none-match"), Some("\"v1\""));
    assert_eq!(request.header("range"), None);
    (origin, proxy, part)
}

#[test]
fn a_stale_object_is_confirmed_as_a_whole_before_it_is_cut() {
    let (origin, proxy, part) =
        stale(|| answer(304, &["ETag: \"v1\"", "Cache-Control: max-age=60"], ""));
    assert_eq!((part.status, part.text().as_str()), (206, "cde"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/26"));
    assert!(status(&part).starts_with("headwater; fwd=stale; fwd-status=304"));
    assert_eq!(proxy.get("/", &["Range: bytes=-1"]).text(), "z");
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_stale_object_that_has_changed_is_replaced_before_it_is_cut() {
    let (origin, proxy, part) =
        stale(|| answer(200, &["ETag: \"v2\"", "Cache-Control: max-age=60"], "0123456789"));
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(part.header("etag"), Some("\"v2\""));
    let fields = ["Range: bytes=-1", "If-Range: \"v1\""];
    assert_eq!(proxy.get("/", &fields).text(), "0123456789", "a part of v1 has no use for v2");
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_whole_of_another_version_than_the_part_answers_for_itself_only() {
    let origin = Origin::answering(|request| match request.header("range") {
        Some(_) => in_part(request, b"old version", &["Cache-Control: max-age=60", "ETag: \"v1\""]),
        None => in_part(request, b"new version", &["Cache-Control: max-age=60", "ETag: \"v2\""]),
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &["Range: bytes=0-2"]).text(), "old");
    proxy.wait_for_metric(OBJECTS, 1.0);
    let next = proxy.get("/", &["Range: bytes=3-", "If-Range: \"v1\""]);
    assert_eq!((next.status, next.text().as_str()), (200, "new version"));
}

#[test]
fn a_whole_that_is_shorter_than_announced_is_not_stored() {
    let origin = Origin::scripted(|call| {
        if call.request.header("range").is_some() {
            call.send(&in_part(&call.request, ALPHABET.as_bytes(), &["Cache-Control: max-age=60"]));
        } else {
            call.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 26\r\n\r\nabc",
            );
            call.close();
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    assert_eq!(proxy.get("/", &["Range: bytes=2-4"]).text(), "cde");
    origin.wait_for_closed(1);
    assert_eq!(proxy.get("/", &["Range: bytes=3-4"]).text(), "de");
    assert_eq!(proxy.metric(OBJECTS), 0.0);
}

#[test]
fn variants_are_cut_each_for_its_own_clients() {
    let origin = Origin::answering(|request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        let fields = ["Cache-Control: max-age=60", "Vary: Accept-Language"];
        answer(200, &fields, format!("{language}:{ALPHABET}"))
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        for language in ["en", "de"] {
            let field = format!("Accept-Language: {language}");
            let part = client.get("/", &["Range: bytes=0-3", &field]);
            assert_eq!((part.status, part.text()), (206, format!("{language}:a")));
        }
    }
    assert_eq!(origin.count(), 2);
}
