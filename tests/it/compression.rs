//! Content codings (RFC 9110 §8.4): who gets which, of what, and what the fields say about it.

use std::io::Read;

use crate::support::client::request;
use crate::support::origin::Gate;
use crate::support::{Answer, HOST, Origin, Proxy, Setup, answer, chunk, eventually, ok};

const HTML: &str = "Content-Type: text/html; charset=utf-8";
const FRESH: &str = "Cache-Control: max-age=60";
const TAG: &str = "ETag: \"v1\"";
const ALL: &str = "Accept-Encoding: gzip, deflate, br, zstd";
const STALE_TAGGED: [&str; 4] = [HTML, FRESH, TAG, "Age: 60"];

/// Text that compresses, like pages do.
fn text(bytes: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("<p>{n}: paragraph</p>\n").into_bytes()).take(bytes).collect()
}

/// What nothing makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(bytes)
    .collect()
}

/// As much as can be decoded, and whether that was all.
fn decode(coding: &str, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut reader: Box<dyn Read + '_> = match coding {
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("unknown coding {other}"),
    };
    let mut plain = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (plain, true),
            Ok(read) => plain.extend_from_slice(&buffer[..read]),
            Err(_) => return (plain, false),
        }
    }
}

/// The body without its coding.
fn plain(answer: &Answer) -> Vec<u8> {
    match coding(answer) {
        None => answer.body().to_vec(),
        Some(coding) => {
            let (plain, is_whole) = decode(coding, answer.body());
            assert!(is_whole, "{:?}", answer.message.head);
            plain
        }
    }
}

fn coding(answer: &Answer) -> Option<&str> {
    answer.header("content-encoding")
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.starts_with("headwater; hit"))
}

/// An origin that gives everybody this, and a proxy in front.
fn serving(fields: &'static [&'static str], body: Vec<u8>) -> (Origin, Proxy) {
    let origin = Origin::answering(move |_| answer(200, fields, &body));
    let proxy = Setup::of(&[&origin]).start();
    (origin, proxy)
}

/// The coding in which a client gets something that is stored, and the answer.
fn stored(fields: &'static [&'static str], body: &[u8], request: &[&str]) -> Option<String> {
    let (_origin, proxy) = serving(fields, body.to_vec());
    let mut client = proxy.connect();
    let miss = client.get("/", request);
    let hit = client.get("/", request);
    assert!(is_hit(&hit), "{:?}", hit.message.head);
    assert!(plain(&miss) == body && plain(&hit) == body);
    coding(&hit).map(str::to_owned)
}

#[test]
fn a_client_gets_the_coding_that_it_prefers() {
    let page = text(20_000);
    let (origin, proxy) = serving(&[HTML, FRESH, TAG], page.clone());
    let mut client = proxy.connect();
    client.get("/", &[]);
    for (accepted, expected) in [
        ("gzip, deflate, br, zstd", Some("br")),
        ("gzip, zstd", Some("zstd")),
        ("gzip", Some("gzip")),
        ("X-GZIP", Some("gzip")),
        ("*", Some("br")),
        ("br;q=0.5, gzip;q=0.9", Some("gzip")),
        ("br;q=0, *;q=0.1", Some("zstd")),
        ("identity;q=0, gzip;q=0.1", Some("gzip")),
        ("identity, br;q=0.5", None),
        ("identity;q=0", None),
        ("*;q=0", None),
        ("deflate", None),
        ("", None),
    ] {
        // The second time from what the first has made.
        for _ in 0..2 {
            let answer = client.get("/", &[&format!("Accept-Encoding: {accepted}")]);
            assert!(is_hit(&answer));
            assert_eq!(coding(&answer), expected, "{accepted}");
            assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
            let length = answer.body().len().to_string();
            assert_eq!(answer.header("content-length"), Some(&*length));
            let tag = expected.map_or("\"v1\"".to_owned(), |coding| format!("\"v1-{coding}\""));
            assert_eq!(answer.header("etag"), Some(&*tag));
            assert!(plain(&answer) == page, "{accepted}");
        }
    }
    assert_eq!(coding(&client.get("/", &[])), None);
    assert_eq!(origin.count(), 1);
    let coded = |name| {
        proxy.metric(&format!(
            "headwater_http_coded_responses_total{{route=\"app\",coding=\"{name}\"}}"
        ))
    };
    assert_eq!(["br", "zstd", "gzip"].map(coded), [4.0, 4.0, 8.0]);
}

#[test]
fn what_is_fetched_is_coded_on_its_way() {
    let page = text(100_000);
    for accepted in ["br", "zstd", "gzip"] {
        let (origin, proxy) = serving(&[HTML, FRESH, TAG, "Accept-Ranges: bytes"], page.clone());
        let mut client = proxy.connect();
        let field = format!("Accept-Encoding: {accepted}");
        let miss = client.get("/", &[&field]);
        assert_eq!(coding(&miss), Some(accepted));
        assert_eq!(miss.header("content-length"), None);
        assert_eq!(miss.header("accept-ranges"), None);
        assert_eq!(miss.header("vary"), Some("Accept-Encoding"));
        // RFC 9110 §8.8.1: these bytes are made once, for this client.
        assert_eq!(miss.header("etag"), Some(&*format!("W/\"v1-{accepted}\"")));
        assert!(plain(&miss) == page);
        let hit = client.get("/", &[&field]);
        assert_eq!((coding(&hit), is_hit(&hit)), (Some(accepted), true));
        assert!(plain(&hit) == page);
        assert!(plain(&client.get("/", &[])) == page);
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn what_is_not_stored_is_coded_too() {
    let page = text(5000);
    let (_origin, proxy) =
        serving(&[HTML, TAG, "Cache-Control: private", "Vary: Cookie"], page.clone());
    let mut client = proxy.connect();
    let answer = client.get("/", &[ALL]);
    assert_eq!(coding(&answer), Some("br"));
    assert_eq!(answer.header("vary"), Some("Cookie, Accept-Encoding"));
    assert_eq!(answer.header("etag"), Some("W/\"v1-br\""));
    // It came in one piece, so its length is known.
    assert_eq!(answer.header("content-length"), Some(&*answer.body().len().to_string()));
    assert!(plain(&answer) == page);
    let posted = client.ask("POST", "/", &[ALL], "x");
    assert_eq!(coding(&posted), Some("br"));
    assert!(plain(&posted) == page);
    assert_eq!(client.get("/", &[]).header("vary"), Some("Cookie, Accept-Encoding"));
}

#[test]
fn text_of_a_kibibyte_is_coded_and_nothing_that_gains_nothing() {
    let page = text(1024);
    assert_eq!(stored(&[HTML, FRESH], &page, &[ALL]).as_deref(), Some("br"));
    assert_eq!(stored(&[HTML, FRESH], &text(1023), &[ALL]), None);
    for (fields, expected) in [
        (&["Content-Type: application/json", FRESH] as &'static [&'static str], Some("br")),
        (&["Content-Type: image/svg+xml", FRESH], Some("br")),
        (&["Content-Type: application/wasm", FRESH], Some("br")),
        (&["Content-Type: image/png", FRESH], None),
        (&["Content-Type: font/woff2", FRESH], None),
        (&["Content-Type: application/octet-stream", FRESH], None),
        (&[FRESH], None),
    ] {
        assert_eq!(stored(fields, &text(5000), &[ALL]).as_deref(), expected, "{fields:?}");
    }
    assert_eq!(stored(&[HTML, FRESH], &noise(5000), &[ALL]), None, "it does not get smaller");
}

#[test]
fn no_transform_leaves_a_response_as_it_is() {
    // RFC 9111 §5.2.2.6 and §5.2.1.6.
    let page = text(5000);
    assert_eq!(stored(&[HTML, "Cache-Control: max-age=60, no-transform"], &page, &[ALL]), None);
    assert_eq!(stored(&[HTML, FRESH], &page, &[ALL, "Cache-Control: no-transform"]), None);
}

#[test]
fn what_the_origin_has_coded_stays_as_it_is_and_varies_as_it_says() {
    let origin = Origin::answering(|request| {
        let fields = [HTML, FRESH, "Vary: Accept-Encoding", TAG, "Content-MD5: x"];
        match request.header("accept-encoding") {
            Some(accepted) if accepted.contains("gzip") => {
                answer(200, &[&fields[..], &["Content-Encoding: gzip"]].concat(), text(5000))
            }
            _ => answer(200, &fields, text(5000)),
        }
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        for accepted in ["gzip, br", "BR ;q=0.3,x-gzip;q=0.3", "br, gzip;q=0.001"] {
            let answer = client.get("/", &[&format!("Accept-Encoding: {accepted}")]);
            assert_eq!(coding(&answer), Some("gzip"), "{accepted}");
            assert_eq!(answer.header("etag"), Some("\"v1\""));
            assert_eq!(answer.header("content-md5"), Some("x"));
            assert_eq!(answer.body(), text(5000), "passed on as it is");
        }
    }
    assert_eq!(origin.count(), 1, "one spelling is one variant");
    assert_eq!(origin.request(0).header("accept-encoding"), Some("br, gzip"));
    let answer = client.get("/", &["Accept-Encoding: zstd"]);
    assert_eq!(coding(&answer), Some("zstd"));
    assert_eq!(origin.request(1).header("accept-encoding"), Some("identity"));
    assert_eq!(client.get("/", &[]).header("vary"), Some("Accept-Encoding"));
    assert_eq!(origin.request(2).header("accept-encoding"), None);
}

#[test]
fn a_route_without_compression_changes_nothing() {
    let origin = Origin::answering(|_| answer(200, &[HTML, FRESH, TAG], text(5000)));
    let proxy = Setup::of(&[&origin]).route("compress = false").start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        let answer = client.get("/", &[ALL]);
        assert_eq!((coding(&answer), answer.header("vary")), (None, None));
        assert_eq!(answer.header("etag"), Some("\"v1\""));
    }
    assert_eq!(origin.request(0).header("accept-encoding"), ALL.split_once(": ").map(|it| it.1));
    client.get("/other", &["If-None-Match: \"v1-br\"", "Cache-Control: no-store"]);
    assert_eq!(origin.request(1).header("if-none-match"), Some("\"v1-br\""));
}

#[test]
fn a_coded_form_carries_no_digest_of_the_plain_one() {
    // RFC 9530 §2 and §3; RFC 1864.
    const FIELDS: &[&str] =
        &[HTML, FRESH, "Content-MD5: a", "Digest: b", "Content-Digest: c", "Repr-Digest: d"];
    let (_origin, proxy) = serving(FIELDS, text(5000));
    let mut client = proxy.connect();
    for _ in 0..2 {
        let coded = client.get("/", &[ALL]);
        assert!(coding(&coded).is_some());
        for name in ["content-md5", "digest", "content-digest", "repr-digest"] {
            assert_eq!(coded.header(name), None);
            assert!(client.get("/", &[]).header(name).is_some());
        }
    }
}

#[test]
fn a_client_that_holds_a_coding_is_told_304() {
    // RFC 9110 §13.1.2 and §8.8.3.3.
    let (origin, proxy) = serving(&[HTML, FRESH, TAG], text(5000));
    let mut client = proxy.connect();
    client.get("/", &[ALL]);
    for (held, expected) in [
        ("\"v1-br\"", "\"v1-br\""),
        ("W/\"v1-br\"", "W/\"v1-br\""),
        ("\"v0\", \"v1-gzip\"", "\"v1-gzip\""),
        ("\"v1\"", "\"v1\""),
        ("*", "\"v1\""),
    ] {
        let answer = client.get("/", &[ALL, &format!("If-None-Match: {held}")]);
        assert_eq!((answer.status, answer.header("etag")), (304, Some(expected)), "{held}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert_eq!(coding(&answer), None);
    }
    for (accepted, held) in [(ALL, "\"v0-br\""), (ALL, "\"v1-lzma\""), ("X: y", "\"v1-br\"")] {
        let answer = client.get("/", &[accepted, &format!("If-None-Match: {held}")]);
        assert_eq!(answer.status, 200, "{held}");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_origin_is_asked_in_its_own_tags() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some(list) if list.contains("\"v1\"") => answer(304, &[TAG], ""),
        _ => answer(200, &[HTML, TAG, "Cache-Control: private"], text(5000)),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let tag = client.get("/", &[ALL]).header("etag").unwrap().to_owned();
    for (number, cache) in [(1, "X: y"), (2, "Cache-Control: no-store")] {
        let answer = client.get("/", &[ALL, cache, &format!("If-None-Match: {tag}")]);
        assert_eq!((answer.status, answer.header("etag")), (304, Some(&*tag)));
        let list = format!("{tag}, \"v1\"");
        assert_eq!(origin.request(number).header("if-none-match"), Some(&*list));
    }
    client.ask("PUT", "/", &["If-Match: \"v1-gzip\""], "x");
    assert_eq!(origin.request(3).header("if-match"), Some("\"v1-gzip\", \"v1\""));
    // A part of the plain form would not fit: all of it is asked for.
    let whole = client.get("/", &["Range: bytes=100-", "If-Range: \"v1-br\""]);
    assert_eq!((whole.status, whole.body().len()), (200, 5000));
    assert_eq!(origin.request(4).header("range"), None);
    assert_eq!(origin.request(4).header("if-range"), None);
    client.get("/", &["Range: bytes=100-", "If-Range: \"v1\""]);
    assert_eq!(origin.request(5).header("if-range"), Some("\"v1\""));
}

#[test]
fn ranges_are_of_the_plain_form() {
    let origin = Origin::answering(|request| match request.header("range") {
        Some(_) => answer(206, &[HTML, FRESH, "Content-Range: bytes 0-1999/5000"], text(2000)),
        None => answer(200, &[HTML, FRESH, TAG], text(5000)),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let part = client.get("/", &[ALL, "Range: bytes=0-1999"]);
    assert_eq!((part.status, coding(&part)), (206, None));
    assert_eq!(part.body(), text(2000));
    client.get("/", &[]);
    let coded = client.get("/", &[ALL]);
    assert_eq!((coding(&coded), coded.header("accept-ranges")), (Some("br"), Some("bytes")));
    for (condition, expected, etag) in [
        ("X: y", &text(5000)[10..100], "\"v1\""),
        ("If-Range: \"v1\"", &text(5000)[10..100], "\"v1\""),
        ("If-Range: \"v1-br\"", &coded.body()[10..100], "\"v1-br\""),
    ] {
        let part = client.get("/", &[ALL, "Range: bytes=10-99", condition]);
        assert_eq!((part.status, part.header("etag")), (206, Some(etag)), "{condition}");
        assert_eq!(part.header("vary"), Some("Accept-Encoding"));
        assert_eq!(part.body(), expected, "{condition}");
    }
    for condition in ["If-Range: W/\"v1-br\"", "If-Range: \"v1-lzma\""] {
        let whole = client.get("/", &[ALL, "Range: bytes=10-99", condition]);
        assert_eq!((whole.status, plain(&whole)), (200, text(5000)), "{condition}");
    }
}

#[test]
fn a_rendition_is_made_once_charged_for_and_gone_with_its_entry() {
    let page = text(60_000);
    let (_origin, proxy) = serving(&[HTML, FRESH], page);
    let bytes = || proxy.metric("headwater_cache_bytes");
    proxy.get("/", &[]);
    let before = bytes();
    let length = proxy.get("/", &["Accept-Encoding: zstd"]).body().len() as f64;
    let with_it = bytes();
    assert!((before + length..before + length + 200.0).contains(&with_it), "{with_it}");
    for _ in 0..3 {
        assert_eq!(proxy.get("/", &["Accept-Encoding: zstd"]).body().len() as f64, length);
    }
    assert_eq!(bytes(), with_it);
    assert_eq!(proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/\"]}}")), 1);
    eventually("its memory to be free", || (bytes() < 1000.0).then_some(()));
}

#[test]
fn a_confirmed_response_keeps_its_renditions() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some("\"v1\"") => answer(304, &[TAG, FRESH, "X-New: yes"], ""),
        _ => answer(200, &STALE_TAGGED, text(60_000)),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[ALL]);
    let confirmed = client.get("/", &[ALL]);
    assert_eq!((coding(&confirmed), confirmed.header("x-new")), (Some("br"), Some("yes")));
    assert_eq!(confirmed.header("etag"), Some("\"v1-br\""));
    assert!(plain(&confirmed) == text(60_000));
    let hit = client.get("/", &[ALL]);
    assert!(is_hit(&hit) && coding(&hit) == Some("br"));
    assert!(hit.body() == confirmed.body());
    // What we say it varies by makes no variants.
    assert!(is_hit(&client.get("/", &["Accept-Encoding: gzip"])));
    assert!(is_hit(&client.get("/", &[])));
    assert_eq!(origin.count(), 2);
    assert_eq!(proxy.metric("headwater_cache_objects"), 1.0);
}

#[test]
fn a_stale_answer_is_coded_as_well() {
    let origin = Origin::answering(|request| match request.header("if-none-match") {
        Some(_) => answer(503, &[], ""),
        None => answer(
            200,
            &[HTML, "Cache-Control: max-age=1, stale-if-error=600", "Age: 60", TAG],
            text(60_000),
        ),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.get("/", &[]);
    let stale = client.get("/", &["Accept-Encoding: zstd"]);
    assert_eq!((stale.status, coding(&stale)), (200, Some("zstd")));
    assert!(plain(&stale) == text(60_000));
}

#[test]
fn a_large_body_is_sent_plain_until_its_rendition_is_there() {
    let page = text(3 << 20);
    let (_origin, proxy) = serving(&[HTML, FRESH, TAG], page.clone());
    let mut client = proxy.connect();
    client.get("/", &[]);
    let first = client.get("/", &["Accept-Encoding: zstd"]);
    assert!(is_hit(&first) && plain(&first) == page);
    assert_eq!((coding(&first), first.header("vary")), (None, Some("Accept-Encoding")));
    let coded = eventually("the rendition", || {
        let answer = client.get("/", &["Accept-Encoding: zstd"]);
        (coding(&answer) == Some("zstd")).then_some(answer)
    });
    assert_eq!(coded.header("etag"), Some("\"v1-zstd\""));
    assert!(plain(&coded) == page);
}

#[test]
fn requests_that_share_a_fetch_get_their_own_codings() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        waits.pass();
        call.send(&answer(200, &[HTML, FRESH, TAG], text(50_000)));
    });
    let proxy = Setup::of(&[&origin]).start();
    let codings = [None, Some("br"), Some("zstd"), Some("gzip")];
    let clients: Vec<_> = codings
        .iter()
        .map(|coding| {
            let mut client = proxy.connect();
            let field = coding.map_or("X: y".to_owned(), |it| format!("Accept-Encoding: {it}"));
            client.send(request("GET", "/", &[&field]));
            client
        })
        .collect();
    proxy.wait_for_metric("headwater_http_requests_in_flight{listener=\"web\"}", 4.0);
    gate.open();
    for (mut client, expected) in clients.into_iter().zip(codings) {
        let answer = client.answer();
        assert_eq!(coding(&answer), expected);
        assert!(plain(&answer) == text(50_000));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn head_is_answered_like_get() {
    for fields in [&[HTML, FRESH, TAG] as &'static [&'static str], &[HTML, TAG]] {
        let origin = Origin::scripted(move |call| {
            let bytes = answer(200, fields, text(5000));
            let end =
                if call.request.method() == "HEAD" { bytes.len() - 5000 } else { bytes.len() };
            call.send(&bytes[..end]);
        });
        let proxy = Setup::of(&[&origin]).start();
        let mut client = proxy.connect();
        client.get("/", &[]);
        let got = client.get("/", &[ALL]);
        client.send(request("HEAD", "/", &[ALL]));
        let head = client.head_answer();
        assert_eq!(head.body(), b"");
        for name in ["content-encoding", "etag", "vary", "content-type"] {
            assert_eq!(head.header(name), got.header(name), "{name}");
        }
        assert_eq!(coding(&head), Some("br"));
        let length = head.header("content-length");
        assert!(length.is_none() || length == got.header("content-length"), "{length:?}");
    }
}

#[test]
fn events_arrive_when_they_are_sent() {
    for accepted in ["br", "zstd", "gzip"] {
        let gate = Gate::default();
        let waits = gate.clone();
        let origin = Origin::scripted(move |call| {
            call.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                  Transfer-Encoding: chunked\r\n\r\n",
            );
            call.send(&chunk(b"data: one\n\n"));
            waits.pass();
            call.send(&[&chunk(b"data: two\n\n")[..], b"0\r\n\r\n"].concat());
        });
        let proxy = Setup::of(&[&origin]).start();
        let mut client = proxy.connect();
        client.send(request("GET", "/", &[&format!("Accept-Encoding: {accepted}")]));
        let head = client.answer_head();
        assert_eq!(head.header("content-encoding"), Some(accepted));
        let mut coded = Vec::new();
        while decode(accepted, &coded).0 != b"data: one\n\n" {
            coded.extend(chunk_of(&mut client));
        }
        gate.open();
        loop {
            let data = chunk_of(&mut client);
            if data.is_empty() {
                break;
            }
            coded.extend(data);
        }
        assert_eq!(decode(accepted, &coded), (b"data: one\n\ndata: two\n\n".to_vec(), true));
    }
}

/// The next chunk; empty at the end.
fn chunk_of(client: &mut crate::support::Client) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.read_exactly(1));
    }
    let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
    let data = client.read_exactly(size);
    client.read_exactly(2);
    data
}

#[test]
fn a_body_that_breaks_off_has_no_end_in_its_coding_either() {
    for fields in [&[HTML] as &[&str], &[HTML, FRESH]] {
        for accepted in ["br", "zstd", "gzip"] {
            let (gate, fields) = (Gate::default(), fields.join("\r\n"));
            let waits = gate.clone();
            let origin = Origin::scripted(move |call| {
                let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\nTransfer-Encoding: chunked");
                call.send(format!("{head}\r\n\r\n").as_bytes());
                call.send(&chunk(&text(20_000)));
                waits.pass();
                call.close();
            });
            let proxy = Setup::of(&[&origin]).pool_lines("retry = false").start();
            let mut client = proxy.connect();
            client.send(request("GET", "/", &[&format!("Accept-Encoding: {accepted}")]));
            assert_eq!(client.answer_head().header("content-encoding"), Some(accepted));
            let mut coded = Vec::new();
            while decode(accepted, &coded).0.len() < 20_000 {
                coded.extend(chunk_of(&mut client));
            }
            gate.open();
            assert_eq!(client.rest(), b"", "neither the coding nor the chunks have an end");
            assert!(!decode(accepted, &coded).1);
            assert_eq!(proxy.metric("headwater_cache_objects"), 0.0);
        }
    }
}

#[test]
fn trailers_come_behind_a_coded_body() {
    let origin = Origin::scripted(|call| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: X-Sum\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        call.send(head.as_bytes());
        call.send(&[&chunk(&text(5000))[..], b"0\r\nX-Sum: 5\r\n\r\n"].concat());
    });
    let proxy = Setup::of(&[&origin]).start();
    let answer = proxy.get("/", &[ALL, "TE: trailers"]);
    assert_eq!(coding(&answer), Some("br"));
    assert!(plain(&answer) == text(5000));
    assert_eq!(answer.message.trailers.to_ascii_lowercase().trim(), "x-sum: 5");
}

#[test]
fn a_route_s_own_answer_and_a_folder_are_coded_as_well() {
    let folder = crate::support::Folder::new();
    folder.write("site/a.css", text(5000));
    let body = String::from_utf8(text(2000)).unwrap().replace('\n', " ");
    let proxy = Setup::empty()
        .text(&format!(
            "[pool.site]\nfiles = \"site\"\n[[route]]\npool = \"site\"\n\
             [[route]]\npaths = [\"/own\"]\nrespond = {{ body = \"{body}\" }}\n"
        ))
        .start_in(folder);
    let own = proxy.get("/own", &[ALL]);
    assert_eq!(coding(&own), Some("br"));
    assert_eq!(plain(&own), body.as_bytes());
    for accepted in ["br", "gzip", "zstd"] {
        let file = proxy.get("/a.css", &[&format!("Accept-Encoding: {accepted}")]);
        assert_eq!(coding(&file), Some(accepted));
        assert_eq!(plain(&file), text(5000));
        let tag = format!("If-None-Match: {}", file.header("etag").unwrap());
        let fields = [&*format!("Accept-Encoding: {accepted}"), &tag];
        assert_eq!(proxy.get("/a.css", &fields).status, 304);
    }
}

#[test]
fn what_varies_by_something_else_is_kept_apart_and_coded() {
    let origin = Origin::answering(|request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        let body = [language.as_bytes(), &text(5000)].concat();
        answer(200, &[HTML, FRESH, "Vary: Accept-Language"], body)
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        for language in ["en", "de"] {
            for accepted in ["br", "gzip", "identity"] {
                let fields = [
                    &*format!("Accept-Language: {language}"),
                    &format!("Accept-Encoding: {accepted}"),
                ];
                let answer = client.get("/", &fields);
                assert!(plain(&answer).starts_with(language.as_bytes()));
                assert_eq!(coding(&answer), Some(accepted).filter(|it| *it != "identity"));
                assert_eq!(answer.header("vary"), Some("Accept-Language, Accept-Encoding"));
            }
        }
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn an_error_of_the_origin_is_coded_and_its_answer_without_body_is_not() {
    let origin = Origin::answering(|request| match request.target() {
        "/empty" => b"HTTP/1.1 204 No Content\r\nContent-Type: text/html\r\n\r\n".to_vec(),
        "/ok" => ok(text(2000)),
        _ => answer(500, &[HTML], text(2000)),
    });
    let proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    let error = client.get("/", &[ALL]);
    assert_eq!((error.status, coding(&error)), (500, Some("br")));
    let empty = client.get("/empty", &[ALL]);
    assert_eq!((empty.status, coding(&empty), empty.header("vary")), (204, None, None));
    let untyped = client.get("/ok", &[ALL]);
    assert_eq!((coding(&untyped), untyped.header("vary")), (None, None));
}
