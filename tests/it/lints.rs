//! What is doubtful about a configuration behind a front, where an operator sees it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::proxy::{run_to_end, run_with};
use crate::support::{Authority, Folder, Origin, Setup, answer};

const REST: &str = "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n[[route]]\npool = \"app\"\n";

/// The lints that `check` names, in the order in which it does. The embedded list of addresses may
/// be old by the time that this runs.
fn checked(config: &str) -> Vec<String> {
    let exit = run_with("check", config);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let lints = exit.stderr.lines().filter(|line| line.contains(": warning: "));
    let lints = lints.map(|line| {
        let (_, name) = line.rsplit_once('[').unwrap_or_else(|| panic!("{line}"));
        name.trim_end_matches(']').to_owned()
    });
    lints.filter(|name| name != "ranges-age").collect()
}

fn listener(lines: &str) -> String {
    format!("[listener.web]\nbind = \"0.0.0.0:8080\"\n{lines}\n{REST}")
}

/// The names of the lints of an explanation.
fn named(explanation: &Value) -> Vec<&str> {
    let lints = explanation["lints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = lints.iter().map(|lint| lint["lint"].as_str().unwrap());
    names.filter(|name| *name != "ranges-age").collect()
}

#[test]
fn one_word_is_enough_behind_a_front() {
    for lines in [
        "front = \"cloudflare\"",
        "front = \"cloudflare\"\nhttps_redirect = true",
        "front = \"gclb\"",
        "front = \"alb\"\ntrusted = [\"10.0.0.0/8\"]",
        "front = \"cloudfront\"\ntrusted = [\"192.0.2.0/24\"]",
        "",
    ] {
        assert_eq!(checked(&listener(lines)), [""; 0], "{lines}");
    }
}

#[test]
fn check_says_where_it_is_and_what_to_write_instead() {
    let exit = run_with("check", &listener("front = \"cloudflare\"\ntimeouts.idle = \"60s\""));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let expected = "headwater.toml:4:17: warning: listener.web: idle connections are closed after \
                    60 s, and Cloudflare keeps them 900 s: it would send requests into closed ones \
                    [idle-timeout]\n  help: leave it out: behind Cloudflare the default is 930 s\n";
    assert!(exit.stderr.contains(expected), "{}", exit.stderr);
}

#[test]
fn everything_is_said_at_once() {
    let config = "\
[listener.web]
bind = \"0.0.0.0:8080\"
front = \"cloudflare\"
timeouts.idle = \"60s\"
[listener.plain]
bind = \"0.0.0.0:8081\"
https_redirect = true
[pool.app]
endpoints = [\"10.0.0.1:80\"]
timeouts.first_byte = \"10m\"
sticky.cookie = \"hw\"
[[route]]
pool = \"app\"
cache = { ttl = \"1m\", key.headers = [\"x-device\"] }
response_headers.set.cache-control = \"s-maxage=60, stale-while-revalidate=60\"
[[route]]
paths = [\"/go/*\"]
listeners = [\"web\"]
redirect = { to = \"https://{host}{path}\" }
";
    assert_eq!(
        checked(config),
        [
            "idle-timeout",
            "redirect-loop",
            "deadline",
            "set-cookie",
            "vary",
            "stale-while-revalidate",
            "redirect-loop"
        ]
    );
}

#[test]
fn a_host_without_a_certificate_is_named_before_cloudflare_finds_out() {
    let folder = Folder::new();
    Authority::new().write(&folder, "site", &["example.com"]);
    let config = |hosts: &str| {
        format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\nfront = \"cloudflare\"\n\
             tls.certificates = [{{ cert = \"site.crt\", key = \"site.key\" }}]\n\
             [[route]]\nhosts = {hosts}\nrespond = {{}}\n"
        )
    };
    let check = |hosts: &str| {
        let path = folder.write("headwater.toml", config(hosts));
        run_to_end(&["check", "-c"], &path).stderr
    };
    let shown = check("[\"example.com\", \"www.example.com\"]");
    let place = "headwater.toml:6:9: warning: ";
    let message = "no certificate of listener.web is for www.example.com: Cloudflare answers 526";
    assert!(shown.contains(place) && shown.contains(message), "{shown}");
    assert!(!check("[\"example.com\"]").contains("answers 526"));
}

#[test]
fn each_lint_of_a_configuration_has_its_name() {
    let route = |lines: &str| format!("{}{lines}\n", listener("front = \"cloudflare\""));
    let tags: Vec<_> = (0..51).map(|number| format!("\"tag-{number}\"")).collect();
    let tags = format!("front_cache.tags = [{}]", tags.join(", "));
    for (config, lint) in [
        (listener("front = \"gclb\"\ntimeouts.idle = \"600s\""), "idle-timeout"),
        (route("").replace("[[route]]", "timeouts.first_byte = \"101s\"\n[[route]]"), "deadline"),
        (
            route(
                "response_headers.set.Cache-Control = \
                 \"max-age=9, stale-while-revalidate=60, must-revalidate\"",
            ),
            "stale-while-revalidate",
        ),
        (route("cache.key.cookies = [\"lang\"]"), "vary"),
        (route("cache.set_cookie = \"store\""), "set-cookie"),
        (
            route(&tags).replace("\"cloudflare\"", "\"cloudfront\"\ntrusted = [\"192.0.2.0/24\"]"),
            "cache-tags",
        ),
        (
            "[listener.web]\nbind = \"0.0.0.0:8080\"\nfront = \"cloudflare\"\n\
             [[route]]\nredirect.to = \"https://{host}{path}{query}\"\n"
                .to_owned(),
            "redirect-loop",
        ),
    ] {
        assert_eq!(checked(&config), [lint], "{config}");
    }
}

#[test]
fn an_expired_certificate_is_told_wherever_it_is_asked_about() {
    let config = "[listener.web]\nbind = \"127.0.0.1:0\"\nfront = \"cloudflare\"\n\
                  tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]\n\
                  [[route]]\nhosts = [\"example.com\"]\nrespond = {}\n";
    let folder = Folder::new();
    let authority = Authority::new();
    let path = folder.write("headwater.toml", config);
    authority.write(&folder, "site", &["example.com"]);
    let check = || run_to_end(&["check", "-c"], &path);
    assert!(!check().stderr.contains("[certificate]"));
    authority.expired(&["example.com"]).write(&folder, "site");
    let exit = check();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let line = exit.stderr.lines().find(|line| line.contains("[certificate]")).unwrap();
    assert!(line.contains("headwater.toml:4:21: warning: "), "{line}");
    assert!(line.contains("example.com expired on "), "{line}");
    let explain = |url| {
        let exit = run_to_end(&["explain", "--json", url, "-c"], &path);
        serde_json::from_str::<Value>(&exit.stdout).unwrap_or_else(|_| panic!("{exit:?}"))
    };
    assert_eq!(named(&explain("https://example.com/")), ["certificate"]);
}

#[test]
fn a_list_of_addresses_that_nobody_renews_is_told() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let folder = Folder::new();
    let list = folder.write("list.txt", "192.0.2.0/24\n");
    let config = listener("front = \"cloudfront\"\ntrusted_from = \"list.txt\"");
    let path = folder.write("headwater.toml", config);
    let written = |days: u32| {
        let time = SystemTime::now() - DAY * days;
        File::options().write(true).open(&list).unwrap().set_modified(time).unwrap();
        run_to_end(&["check", "-c"], &path)
    };
    assert!(!written(89).stderr.contains(": warning: "));
    let exit = written(91);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let expected = "headwater.toml:4:16: warning: listener.web: the addresses of CloudFront are 91 \
                    days old: ";
    assert!(exit.stderr.contains(expected), "{exit:?}");
    assert!(exit.stderr.contains("[ranges-age]\n  help: "), "{exit:?}");
    let exit = run_to_end(&["explain", "http://h/", "-c"], &path);
    assert!(exit.stdout.contains("CloudFront are 91 days old"), "{exit:?}");
}

#[test]
fn a_reload_logs_each_lint_once_for_a_change() {
    let setup = |idle: &str| {
        Setup::empty()
            .listener(&format!("front = \"cloudflare\"\ntimeouts.idle = \"{idle}\""))
            .text("[[route]]\nrespond = {}\n")
    };
    let proxy = setup("16m").start();
    let count = || proxy.log().iter().filter(|line| line.contains("idle-timeout")).count();
    assert_eq!(count(), 0);
    proxy.folder.write("headwater.toml", setup("60s").to_string());
    let answer = proxy.api_post("/api/reload", "").json();
    let idle =
        answer["warnings"].as_array().unwrap().iter().find(|it| it["lint"] == "idle-timeout");
    let idle = idle.unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(idle["severity"], "warning");
    assert!(idle["help"].as_str().unwrap().contains("930 s"), "{answer}");
    let line = proxy.wait_for_log("idle-timeout");
    assert!(line.contains("idle connections are closed after 60 s"), "{line}");
    assert_eq!(proxy.api_post("/api/reload", "").json()["changed"], false);
    proxy.folder.write("headwater.toml", setup("70s").to_string());
    proxy.api_post("/api/reload", "");
    proxy.wait_for_log("closed after 70 s");
    assert_eq!(count(), 2);
}

#[test]
fn explain_tells_what_concerns_the_request() {
    let folder = Folder::new();
    let config = "\
[listener.inner]
bind = \"127.0.0.1:0\"
[listener.web]
bind = \"127.0.0.1:0\"
front = \"cloudflare\"
timeouts.idle = \"60s\"
[pool.app]
endpoints = [\"127.0.0.1:1\"]
[pool.slow]
endpoints = [\"127.0.0.1:1\"]
timeouts.first_byte = \"10m\"
[[route]]
pool = \"app\"
[[route]]
paths = [\"/slow/*\"]
pool = \"slow\"
[[route]]
paths = [\"/told/*\"]
pool = \"app\"
response_headers.set.Cache-Control = \"s-maxage=60, stale-while-revalidate=60\"
";
    let path = folder.write("headwater.toml", config);
    let explain = |arguments: &[&str]| {
        let all = [&["explain"], arguments, &["-c"]].concat();
        let exit = run_to_end(&all, &path);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.stdout
    };
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&explain(&[&["--json"], arguments].concat())).unwrap()
    };
    let web = ["--listener", "web", "http://h/"];
    assert_eq!(named(&json(&web)), ["idle-timeout"]);
    assert_eq!(
        named(&json(&["--listener", "web", "http://h/slow/"])),
        ["idle-timeout", "deadline"]
    );
    assert_eq!(named(&json(&["--listener", "inner", "http://h/slow/"])), [""; 0]);
    let answers = [
        ("Cache-Control: max-age=60", "Vary: Cookie", "vary"),
        ("Cache-Control: max-age=60", "Set-Cookie: a=b", "set-cookie"),
        ("Cache-Control: s-maxage=60, stale-while-revalidate=60", "X: y", "stale-while-revalidate"),
    ];
    for (first, second, lint) in answers {
        let answer = ["--response-header", first, "--response-header", second];
        let with = |listener| json(&[&answer[..], &["--listener", listener, "http://h/"]].concat());
        assert_eq!(named(&with("web")), ["idle-timeout", lint]);
        assert_eq!(named(&with("inner")), [""; 0]);
    }
    let told = ["--listener", "web", "--response-header", "X: y", "http://h/told/"];
    assert_eq!(named(&json(&told)), ["idle-timeout", "stale-while-revalidate"]);
    let text = explain(&web);
    assert!(text.contains("warning   listener.web: idle connections"), "{text}");
    assert!(text.contains("headwater.toml:6:17\n"), "{text}");
    assert!(text.contains("          help: leave it out: behind Cloudflare"), "{text}");
}

#[test]
fn explain_of_a_running_proxy_looks_at_the_answer_that_is_stored() {
    let tags = format!("Cache-Tag: {}", vec!["a-tag-of-some-length"; 900].join(","));
    let origin = Origin::answering(move |request| {
        let control = "Cache-Control: s-maxage=60, stale-while-revalidate=60";
        match request.target() {
            "/tags" => answer(200, &["Cache-Control: max-age=60", &tags], "tagged"),
            "/told" => answer(200, &[control], "told"),
            _ => answer(200, &["Cache-Control: max-age=60"], "plain"),
        }
    });
    let proxy = Setup::of(&[&origin])
        .listener("front = \"cloudflare\"\ntrusted = [\"127.0.0.0/8\"]")
        .text(
            "[[route]]\npaths = [\"/edited\"]\npool = \"app\"\n\
             response_headers.set.Vary = \"X-Device\"",
        )
        .start();
    let explain = |path: &str| {
        let host = crate::support::HOST;
        proxy.api_get(&format!("/api/explain?url=http://{host}{path}")).json()
    };
    for (path, expected) in [
        ("/plain", &[][..]),
        ("/tags", &["cache-tags"][..]),
        ("/told", &["stale-while-revalidate"][..]),
        ("/edited", &["vary"][..]),
    ] {
        assert_eq!(named(&explain(path)), [""; 0], "{path}, before it is stored");
        assert_eq!(proxy.get(path, &[]).status, 200);
        let found = explain(path);
        assert_eq!(named(&found), expected, "{path}: {found}");
    }
    // Its place is where the route says the field.
    let edited = explain("/edited");
    let lints = edited["lints"].as_array().unwrap();
    let vary = lints.iter().find(|lint| lint["lint"] == "vary").unwrap();
    let text = std::fs::read_to_string(proxy.folder.join("headwater.toml")).unwrap();
    let line = text.lines().position(|line| line.contains("Vary")).unwrap() + 1;
    assert_eq!(vary["line"], line, "{edited}");
}
