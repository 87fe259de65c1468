//! A folder as an origin.

use std::os::unix::fs::symlink;

use crate::support::{Answer, Folder, HOST, Proxy, Setup};

/// A proxy in front of a folder `site`; `lines` for its pool.
fn site(files: &[(&str, &str)], lines: &str) -> Proxy {
    let folder = Folder::new();
    for (name, content) in files {
        folder.write(&format!("site/{name}"), content);
    }
    let text = format!(
        "[pool.site]\nfiles = \"site\"\n{lines}\n[[route]]\nname = \"site\"\npool = \"site\""
    );
    Setup::empty().text(&text).start_in(folder)
}

fn status(proxy: &Proxy, target: &str, fields: &[&str]) -> u16 {
    proxy.get(target, fields).status
}

fn part(answer: &Answer) -> (u16, Option<&str>, String) {
    (answer.status, answer.header("content-range"), answer.text())
}

#[test]
fn a_file_is_served_with_its_type_and_validators() {
    let proxy = site(&[("style.css", "a { }"), ("data.json", "{}"), ("a b.txt", "space")], "");
    let answer = proxy.get("/style.css", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "a { }"));
    assert!(answer.header("content-type").unwrap().starts_with("text/css"));
    assert_eq!(answer.header("content-length"), Some("5"));
    assert!(answer.header("last-modified").is_some());
    assert_eq!(proxy.get("/data.json", &[]).header("content-type"), Some("application/json"));
    assert_eq!(proxy.get("/a%20b.txt", &[]).text(), "space");
}

fn assert_conditional(proxy: &Proxy) {
    let answer = proxy.get("/a.txt", &[]);
    let etag = answer.header("etag").unwrap();
    let unchanged = proxy.get("/a.txt", &[&format!("If-None-Match: {etag}")]);
    assert_eq!((unchanged.status, unchanged.body().len()), (304, 0));
    assert_eq!(unchanged.header("etag"), Some(etag));
    let modified = answer.header("last-modified").unwrap();
    assert_eq!(status(proxy, "/a.txt", &[&format!("If-Modified-Since: {modified}")]), 304);
    assert_eq!(status(proxy, "/a.txt", &["If-None-Match: \"other\""]), 200);
}

#[test]
fn a_file_that_has_not_changed_is_304_when_it_is_cached_and_when_nothing_is() {
    assert_conditional(&site(&[("a.txt", "a")], "cache_control = \"max-age=60\""));
    let route = "\n[[route]]\nhosts = [\"site.test\"]\npool = \"site\"\ncache = false";
    assert_conditional(&site(&[("a.txt", "a")], route));
}

#[test]
fn a_file_that_has_not_changed_is_304() {
    assert_conditional(&site(&[("a.txt", "a")], ""));
}

#[test]
fn head_has_the_length_and_other_methods_are_405() {
    let proxy = site(&[("a.txt", "text")], "");
    let mut client = proxy.connect();
    client.send(format!("HEAD /a.txt HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let head = client.head_answer();
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    let refused = client.ask("POST", "/a.txt", &[], "x");
    assert_eq!(refused.status, 405);
    assert!(refused.header("allow").unwrap().contains("GET"));
}

#[test]
fn ranges_are_served() {
    let proxy = site(&[("ten.txt", "0123456789")], "");
    let get = |range: &str| proxy.get("/ten.txt", &[&format!("Range: {range}")]);
    assert_eq!(get("bytes=2-4").header("content-length"), Some("3"));
    for (range, content_range, body) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
        ("bytes=5-100", "bytes 5-9/10", "56789"),
    ] {
        assert_eq!(part(&get(range)), (206, Some(content_range), body.to_owned()), "{range}");
    }
    let beyond = get("bytes=10-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    assert_eq!(get("bytes=x").status, 200);
    let several = get("bytes=0-0,9-9");
    assert_eq!(several.status, 206);
    assert!(several.header("content-type").unwrap().starts_with("multipart/byteranges"));
    assert_eq!(proxy.get("/ten.txt", &[]).header("accept-ranges"), Some("bytes"));
}

#[test]
fn a_range_of_an_older_version_is_the_whole_of_the_new_one() {
    let proxy = site(&[("ten.txt", "0123456789")], "");
    let etag = proxy.get("/ten.txt", &[]).header("etag").unwrap().to_owned();
    let range = "Range: bytes=0-0";
    assert_eq!(status(&proxy, "/ten.txt", &[range, &format!("If-Range: {etag}")]), 206);
    assert_eq!(status(&proxy, "/ten.txt", &[range, "If-Range: \"other\""]), 200);
}

#[test]
fn a_folder_is_its_index_and_has_a_slash() {
    let proxy = site(&[("index.html", "root"), ("sub/index.html", "sub"), ("bare/x.txt", "x")], "");
    assert_eq!(proxy.get("/", &[]).text(), "root");
    assert_eq!(proxy.get("/sub/", &[]).text(), "sub");
    let redirect = proxy.get("/sub?a=b", &[]);
    assert!([301, 308].contains(&redirect.status), "{redirect:?}");
    assert_eq!(redirect.header("location"), Some("./sub/?a=b"));
    assert_eq!(status(&proxy, "/bare/", &[]), 404, "nothing is listed");
}

#[test]
fn what_is_hidden_or_outside_is_404() {
    let proxy = site(&[("a.txt", "a"), (".env", "secret"), (".git/config", "secret")], "");
    proxy.folder.write("outside.txt", "secret");
    symlink("../outside.txt", proxy.folder.join("site/link.txt")).unwrap();
    for target in [
        "/.env",
        "/.git/config",
        "/%2eenv",
        "/nothing.txt",
        "/../outside.txt",
        "/..%2Foutside.txt",
        "/%2e%2e/outside.txt",
        "/a.txt/",
        "/a.txt/b",
        "/sub//a.txt",
        "/%2Fetc%2Fpasswd",
    ] {
        let answer = proxy.get(target, &[]);
        assert_eq!(answer.status, 404, "{target}: {}", answer.text());
        assert!(answer.header("x-request-id").is_some());
    }
    assert!(!proxy.get("/link.txt", &[]).text().contains("secret"), "links lead outside");
}

#[test]
fn a_file_that_is_not_there_may_have_a_stand_in() {
    let proxy = site(
        &[("index.html", "app"), ("real.txt", "real")],
        "fallback = \"/index.html\"\ncache_control = \"max-age=60\"",
    );
    let page = ["Accept: text/html,*/*;q=0.8"];
    for _ in 0..2 {
        let answer = proxy.get("/some/view", &page);
        assert_eq!((answer.status, answer.text().as_str()), (200, "app"));
        assert!(answer.header("content-type").unwrap().starts_with("text/html"));
        let call = proxy.get("/some/view", &["Accept: application/json"]);
        assert_eq!(call.status, 404, "no page for a call, stored or not");
        assert_eq!(proxy.get("/assets/gone.js", &page).status, 404);
    }
    let real = proxy.get("/real.txt", &[]);
    assert_eq!((real.text().as_str(), real.header("cache-control")), ("real", Some("max-age=60")));
}

#[test]
fn compressed_siblings_are_chosen_by_what_the_client_takes() {
    let proxy = site(
        &[("a.js", "plain"), ("a.js.br", "brotli"), ("a.js.gz", "gzip"), ("b.js", "plain")],
        "",
    );
    for (accepted, body, encoding) in [
        ("br, gzip", "brotli", Some("br")),
        ("gzip", "gzip", Some("gzip")),
        ("br;q=0, gzip;q=0.5", "gzip", Some("gzip")),
        ("br;q=0.1, gzip", "gzip", Some("gzip")),
        ("br;q=0.1, identity", "plain", None),
        ("identity", "plain", None),
        ("br;q=0", "plain", None),
    ] {
        let answer = proxy.get("/a.js", &[&format!("Accept-Encoding: {accepted}")]);
        assert_eq!(answer.text(), body, "{accepted}");
        assert_eq!(answer.header("content-encoding"), encoding, "{accepted}");
        assert_eq!(
            answer.header("vary").map(str::to_lowercase).as_deref(),
            Some("accept-encoding")
        );
        assert!(answer.header("content-type").unwrap().contains("javascript"), "{accepted}");
    }
    assert_eq!(proxy.get("/a.js", &[]).text(), "plain");
    assert_eq!(proxy.get("/b.js", &["Accept-Encoding: br"]).text(), "plain");
}

#[test]
fn a_large_file_arrives_whole() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    folder.write("site/large.bin", &content);
    let text = "[pool.site]\nfiles = \"site\"\n[[route]]\npool = \"site\"";
    let proxy = Setup::empty().text(text).start_in(folder);
    assert!(proxy.get("/large.bin", &[]).body() == content, "it has changed");
}

#[test]
fn files_are_cached_by_what_is_said_of_them() {
    let proxy = site(&[("a.txt", "a")], "cache_control = \"max-age=60\"");
    proxy.get("/a.txt", &[]);
    let hit = proxy.get("/a.txt", &[]);
    assert!(hit.header("cache-status").unwrap().starts_with("headwater; hit"), "{hit:?}");
    proxy.folder.write("site/a.txt", "b");
    proxy.purge(&format!("{{\"urls\":[\"http://{HOST}/a.txt\"]}}"));
    assert_eq!(proxy.get("/a.txt", &[]).text(), "b");
}

#[test]
fn files_have_the_cache_control_of_their_names() {
    let proxy = site(
        &[("index.html", "app"), ("assets/app.js", "code"), ("robots.txt", "all")],
        "fallback = \"/index.html\"\ncache_control = { \"/assets/*\" = \"max-age=9, immutable\", \
         \"*.html\" = \"no-cache\" }",
    );
    let page = ["Accept: text/html"];
    for (path, control) in [
        ("/", Some("no-cache")),
        ("/some/view", Some("no-cache")),
        ("/assets/app.js", Some("max-age=9, immutable")),
        ("/robots.txt", None),
    ] {
        let answer = proxy.get(path, &page);
        assert_eq!((answer.status, answer.header("cache-control")), (200, control), "{path}");
    }
}

#[test]
fn a_deployment_is_seen_though_its_files_have_one_time_and_one_length() {
    let folder = Folder::new();
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(315_532_800);
    for version in ["1", "2"] {
        let path = folder.write(&format!("rel/{version}/app.js"), format!("version={version}"));
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(epoch).unwrap();
    }
    let root = folder.path().to_owned();
    let deploy = |version: &str| {
        symlink(format!("rel/{version}"), root.join("next")).unwrap();
        std::fs::rename(root.join("next"), root.join("site")).unwrap();
    };
    deploy("1");
    let text = "[pool.site]\nfiles = \"site\"\ncache_control = \"no-cache\"\n[[route]]\n\
                pool = \"site\"\n";
    let proxy = Setup::empty().text(text).start_in(folder);
    let first = proxy.get("/app.js", &[]);
    assert_eq!(first.text(), "version=1");
    let held = format!("If-None-Match: {}", first.header("etag").unwrap());
    assert_eq!(proxy.get("/app.js", &[&held]).status, 304);
    deploy("2");
    assert_eq!(first.header("last-modified"), None, "it would be the same for both");
    let since = "If-Modified-Since: Tue, 01 Jan 1980 00:00:00 GMT".to_owned();
    for fields in [&[][..], &[held.as_str()], &[since.as_str()]] {
        assert_eq!(proxy.get("/app.js", fields).text(), "version=2", "{fields:?}");
    }
    deploy("1");
    assert_eq!(proxy.get("/app.js", &[]).text(), "version=1", "taken back");
}
