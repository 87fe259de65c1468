//! What a front needs of us to be at ease: entity tags that it keeps, heads that it takes,
//! connections that stay, and redirects that know its visitor's scheme.

use crate::support::h2::{self, Session};
use crate::support::{HOST, Origin, Proxy, Setup, answer, ok};

const HTML: &str = "Content-Type: text/html";
const FRESH: &str = "Cache-Control: max-age=60";
const CLOUDFLARE: &str = "front = \"cloudflare\"\ntrusted = [\"127.0.0.0/8\"]";

/// A page with this tag, from the cache and not.
fn tagged(tag: &'static str, listener: &str) -> (Origin, Proxy) {
    let field = format!("ETag: {tag}");
    let origin = Origin::answering(move |request| {
        let control = if request.target() == "/private" { "Cache-Control: private" } else { FRESH };
        answer(200, &[HTML, control, &field], "page ".repeat(1000))
    });
    let proxy = Setup::of(&[&origin]).listener(listener).start();
    (origin, proxy)
}

#[test]
fn an_entity_tag_without_quotes_gets_them_for_a_front_and_still_tells_what_is_held() {
    let (origin, proxy) = tagged("v1", CLOUDFLARE);
    let tag = |path: &str, field: &str| {
        let answer = proxy.get(path, &[field]);
        (answer.status, answer.header("etag").map(str::to_owned))
    };
    let told = |status, tag: &str| (status, Some(tag.to_owned()));
    assert_eq!(tag("/private", "X: y"), told(200, "\"v1\""));
    for _ in 0..2 {
        assert_eq!(tag("/", "X: y"), told(200, "\"v1\""));
    }
    // Cloudflare makes it weak where it changes the body.
    for held in ["\"v1\"", "W/\"v1\"", "\"v0\", W/\"v1\"", "v1"] {
        assert_eq!(tag("/", &format!("If-None-Match: {held}")), told(304, "\"v1\""), "{held}");
    }
    assert_eq!(tag("/", "If-None-Match: \"v2\"").0, 200);
    assert_eq!(origin.count(), 2);
}

#[test]
fn every_coding_has_a_strong_tag_of_its_own_whatever_quotes_the_origin_writes() {
    for tag in ["v1", "\"v1\""] {
        let (origin, proxy) = tagged(tag, CLOUDFLARE);
        proxy.get("/", &[]);
        for coding in ["br", "gzip"] {
            let accepts = format!("Accept-Encoding: {coding}");
            let expected = format!("\"v1-{coding}\"");
            let coded = proxy.get("/", &[&accepts]);
            assert_eq!(coded.header("content-encoding"), Some(coding), "{tag}");
            assert_eq!(coded.header("etag"), Some(&*expected), "{tag}");
            for held in [expected.clone(), format!("W/{expected}")] {
                let answer = proxy.get("/", &[&accepts, &format!("If-None-Match: {held}")]);
                assert_eq!(answer.status, 304, "{tag} {held}");
            }
        }
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn without_a_front_the_tag_of_an_answer_is_the_origin_s() {
    let (_origin, proxy) = tagged("v1", "");
    assert_eq!(proxy.get("/private", &[]).header("etag"), Some("v1"));
}

/// Answers `/N` with N fields of a KiB each.
fn wordy() -> Origin {
    Origin::answering(|request| {
        let count: usize = request.target().trim_start_matches('/').parse().unwrap();
        let field = format!("X-Long: {}", "x".repeat(1024));
        answer(200, &vec![&*field; count], "body")
    })
}

#[test]
fn a_head_that_the_front_would_refuse_is_refused_here_and_counted() {
    let origin = wordy();
    let oversized = |proxy: &Proxy, result: &str| {
        let labels = format!("{{route=\"app\",result=\"{result}\"}}");
        proxy.metric(&format!("headwater_front_oversized_total{labels}"))
    };
    // What is added here counts as well.
    let added = format!("response_headers.set.x-added = \"{}\"", "y".repeat(8 << 10));
    for (listener, cases) in [
        (CLOUDFLARE, [(20, 200), (100, 200), (120, 502)]),
        ("front = \"alb\"\ntrusted = [\"127.0.0.0/8\"]", [(20, 200), (30, 502), (120, 502)]),
        ("", [(20, 200), (100, 200), (120, 200)]),
    ] {
        let proxy = Setup::of(&[&origin]).listener(listener).route(&added).start();
        for (count, status) in cases {
            let answer = proxy.get(&format!("/{count}"), &[]);
            assert_eq!(answer.status, status, "{listener} {count}");
            if status == 502 {
                assert_eq!(answer.header("x-long"), None);
                assert_eq!(answer.header("cache-control"), Some("no-store"));
                let logged = proxy.access(&format!("\"path\":\"/{count}\""));
                assert_eq!(logged["error"], "answer_too_large_for_front");
            }
        }
        let refused = cases.iter().filter(|(_, status)| *status == 502).count();
        assert_eq!(oversized(&proxy, "refused"), refused as f64, "{listener}");
        let sent = if listener == CLOUDFLARE { 1.0 } else { 0.0 };
        assert_eq!(oversized(&proxy, "sent"), sent, "{listener}");
    }
}

/// Neither a number of requests nor a reload ends them; there is no age.
#[test]
fn connections_of_a_front_are_never_too_old() {
    const REQUESTS: usize = 1500;
    let origin = Origin::answering(|_| ok(""));
    let setup = || {
        Setup::of(&[&origin])
            .listener(CLOUDFLARE)
            .listener("protocols = [\"h2\", \"h1\"]")
            .route("cache = false")
    };
    let proxy = setup().start();
    let mut client = proxy.connect();
    h2::run(async {
        let mut session = Session::open_plain(proxy.address()).await;
        for number in 0..REQUESTS {
            if number == REQUESTS / 2 {
                let more = format!("[[route]]\nhosts = [\"{HOST}.other\"]\nrespond = {{}}\n");
                proxy.reload(&setup().text(&more));
            }
            assert_eq!(session.get("/").await.head.status(), 200, "{number}");
            assert!(!client.get("/", &[]).closes(), "{number}");
        }
    });
    assert_eq!(proxy.metric("headwater_connections_accepted_total{listener=\"web\"}"), 2.0);
}

/// In mode Flexible Cloudflare comes by http for visitors of https.
#[test]
fn redirects_look_at_the_scheme_of_the_visitor() {
    let origin = Origin::answering(|_| ok("body"));
    let start = |trusted: &str, lines: &str| {
        Setup::of(&[&origin])
            .listener(&format!("front = \"cloudflare\"\ntrusted = [\"{trusted}\"]\n{lines}"))
            .text("[[route]]\npaths = [\"/go\"]\nredirect = { to = \"{scheme}://other.test/\" }\n")
            .start()
    };
    let [http, https] = ["http", "https"].map(|scheme| {
        [format!("X-Forwarded-Proto: {scheme}"), format!("CF-Visitor: {{\"scheme\":\"{scheme}\"}}")]
    });
    let ask = |proxy: &Proxy, path: &str, fields: &[String; 2]| {
        let answer = proxy.get(path, &[&fields[0], &fields[1]]);
        (answer.status, answer.header("location").map(str::to_owned))
    };
    let to_https = (308, Some(format!("https://{HOST}/")));
    let proxy = start("127.0.0.0/8", "https_redirect = true");
    assert_eq!(ask(&proxy, "/", &https).0, 200);
    assert_eq!(ask(&proxy, "/", &http), to_https);
    // Who is not the front is not believed.
    let proxy = start("192.0.2.0/24", "https_redirect = true");
    assert_eq!(ask(&proxy, "/", &https), to_https);

    let proxy = start("127.0.0.0/8", "");
    for (fields, expected) in [(&https, "https://other.test/"), (&http, "http://other.test/")] {
        assert_eq!(ask(&proxy, "/go", fields).1.as_deref(), Some(expected));
    }
    let proxy = start("192.0.2.0/24", "");
    assert_eq!(ask(&proxy, "/go", &https).1.as_deref(), Some("http://other.test/"));
}
