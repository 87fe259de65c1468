//! `route.cache` as JSON.

use http::HeaderName;
use serde_json::{Map, Value, json};

use super::optional_duration;
use crate::config::model::{
    ClientDirectives, FetchWait, FrontCache, KeyRules, NamePattern, QueryKey, RouteCache, SetCookie,
};
use crate::config::units::show_duration;

pub(super) fn route_cache(cache: &RouteCache) -> Value {
    let status_ttl = cache.status_ttl.iter();
    let status_ttl = status_ttl.map(|(code, ttl)| (code.to_string(), json!(show_duration(*ttl))));
    json!({
        "ttl": optional_duration(cache.ttl),
        "ttl_force": optional_duration(cache.ttl_force),
        "status_ttl": status_ttl.collect::<Map<_, _>>(),
        "heuristic": cache.heuristic,
        "stale_while_revalidate": optional_duration(cache.stale_while_revalidate),
        "stale_if_error": optional_duration(cache.stale_if_error),
        "client_directives": match cache.client_directives {
            ClientDirectives::Ignore => "ignore",
            ClientDirectives::Obey => "obey",
        },
        "key": key(&cache.key),
        "forward": headers(&cache.forward),
        "bypass": {
            "cookies": patterns(&cache.bypass.cookies),
            "headers": headers(&cache.bypass.headers),
        },
        "set_cookie": match cache.set_cookie {
            SetCookie::Bypass => "bypass",
            SetCookie::Strip => "strip",
            SetCookie::Store => "store",
        },
        "tags": cache.tags,
        "min_uses": cache.min_uses.0,
        "wait": match cache.wait {
            FetchWait::Auto => "auto".to_owned(),
            FetchWait::Fixed(wait) => show_duration(wait),
        },
    })
}

pub(super) fn front_cache(front: &FrontCache) -> Value {
    json!({
        "ttl": optional_duration(front.ttl),
        "stale_while_revalidate": optional_duration(front.stale_while_revalidate),
        "stale_if_error": optional_duration(front.stale_if_error),
        "tags": front.tags,
    })
}

fn key(key: &KeyRules) -> Value {
    let query = match &key.query {
        QueryKey::All => json!("all"),
        QueryKey::None => json!("none"),
        QueryKey::Only(names) => json!({ "only": patterns(names) }),
        QueryKey::Ignore(names) => json!({ "ignore": patterns(names) }),
    };
    json!({
        "query": query,
        "sort_query": key.sort_query,
        "headers": headers(&key.headers),
        "cookies": key.cookies,
        "scheme": key.scheme,
        "split": key.split,
    })
}

fn headers(names: &[HeaderName]) -> Vec<&str> {
    names.iter().map(HeaderName::as_str).collect()
}

fn patterns(patterns: &[NamePattern]) -> Vec<String> {
    patterns.iter().map(NamePattern::to_string).collect()
}
