//! Requests that come back: `CDN-Loop` (RFC 8586).

use crate::support::{Origin, Setup, cacheable, ok};

#[test]
fn what_is_forwarded_names_us_behind_those_before() {
    let origin = Origin::answering(|_| ok(""));
    let proxy = Setup::of(&[&origin]).text("[cache]\nname = \"edge-7\"\n").start();
    let before = "cloudflare; loops=1";
    proxy.get("/", &[&format!("CDN-Loop: {before}"), "CDN-Loop: other", "Connection: CDN-Loop"]);
    proxy.get("/", &[]);
    let named = |number| origin.request(number).header("cdn-loop").unwrap().to_owned();
    let own = named(1);
    assert!(own.starts_with("edge-7;i=") && !own.contains(','), "{own}");
    assert_eq!(named(0), format!("{before}, other, {own}"));
}

#[test]
fn a_request_that_has_passed_too_often_is_refused() {
    let origin = Origin::answering(|_| ok("through"));
    let proxy = Setup::of(&[&origin]).start();
    let passed = proxy.get("/", &["CDN-Loop: headwater, cloudflare", "CDN-Loop: headwater;i=1"]);
    assert_eq!(passed.text(), "through", "others may have our name");
    let refused = proxy.get("/", &["CDN-Loop: headwater, headwater", "CDN-Loop: Headwater;i=1"]);
    assert_eq!(refused.status, 508);
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert_eq!(proxy.access("508")["error"], "loop");
    assert_eq!(origin.count(), 1);
}

/// Were it to wait for the flight of the request that it is, neither would ever end.
#[test]
fn a_pool_that_leads_back_here_fails_at_once_be_the_answer_cacheable() {
    let origin = Origin::answering(|_| cacheable("body"));
    let proxy = Setup::of(&[&origin]).start();
    let own = proxy.address();
    proxy.reload(&Setup::of(&[&own]));
    assert_eq!(proxy.get("/", &[]).status, 508);
    let passes = "headwater_http_requests_total{listener=\"web\",route=\"app\",code=\"508\"}";
    proxy.wait_for_metric(passes, 4.0);
    assert_eq!(origin.count(), 0);
}
