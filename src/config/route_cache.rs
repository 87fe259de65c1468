//! `route.cache`: what a route asks of the cache.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;

use super::diagnostics::{Diagnostic, Invalid};
use super::edits;
use super::model::{
    Bypass, ClientDirectives, FetchWait, KeyRules, MinUses, NamePattern, QueryKey, RouteCache,
    SetCookie,
};
use super::reader::{Entry, Table};
use super::units;
use super::value::Value;

const FRESHNESS: RangeInclusive<Duration> = Duration::ZERO..=units::DURATION_MAX;
const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const MIN_USES: RangeInclusive<i64> = 1..=255;
/// The longest tag, in bytes, as CDNs have it.
const TAG_BYTES_MAX: usize = 1024;
/// Tags that a route may give to all its responses.
const TAGS_MAX: usize = 64;
/// Parts that a route may add to keys, and names that it may look for, of one kind.
const NAMES_MAX: usize = 64;

/// `true` obeys the origin, `false` is off, a table says more.
pub(super) fn read(table: &Table<'_>) -> Option<RouteCache> {
    let Some(value) = table.value("cache") else {
        return Some(rules(table.table("cache")));
    };
    if value.is_table() {
        return value.table().map(rules);
    }
    value.boolean().unwrap_or(true).then(|| rules(value.default_table()))
}

fn rules(table: Table<'_>) -> RouteCache {
    let freshness = |key| table.read(key, |value| value.duration(&FRESHNESS));
    let directives = [("ignore", ClientDirectives::Ignore), ("obey", ClientDirectives::Obey)];
    let cookies =
        [("bypass", SetCookie::Bypass), ("strip", SetCookie::Strip), ("store", SetCookie::Store)];
    let rules = RouteCache {
        ttl: freshness("ttl"),
        ttl_force: freshness("ttl_force"),
        status_ttl: status_ttl(&table.table("status_ttl")),
        heuristic: table.boolean("heuristic", false),
        stale_while_revalidate: freshness("stale_while_revalidate"),
        stale_if_error: freshness("stale_if_error"),
        client_directives: table
            .read("client_directives", |value| value.one_of(&directives))
            .unwrap_or_default(),
        key: key(table.table("key")),
        bypass: bypass(table.table("bypass")),
        set_cookie: table.read("set_cookie", |value| value.one_of(&cookies)).unwrap_or_default(),
        forward: table.read("forward", headers).unwrap_or_default(),
        tags: table.read("tags", tags).unwrap_or_default(),
        min_uses: MinUses(table.integer("min_uses", 1, &MIN_USES)),
        wait: table.read("wait", wait).unwrap_or_default(),
    };
    table.finish();
    rules
}

/// `"auto"` or a time.
fn wait(value: &Value<'_>) -> Option<FetchWait> {
    if !value.is_string() {
        value.expected("\"auto\" or a duration", "\"500ms\"");
        return None;
    }
    value.parse("\"auto\" or a duration", "\"500ms\"", |text| {
        if text == "auto" {
            return Ok(FetchWait::Auto);
        }
        let wait = units::duration(text)
            .map_err(|invalid| invalid.help("write \"auto\", or a duration such as \"500ms\""))?;
        if !WAIT.contains(&wait) {
            return Err(
                Invalid::new(format!("{text:?} is out of range")).help("it must be from 0s to 1m")
            );
        }
        Ok(FetchWait::Fixed(wait))
    })
}

/// In the order of the codes.
fn status_ttl(table: &Table<'_>) -> Vec<(u16, Duration)> {
    let mut ttls = Vec::new();
    for Entry { key, key_span, value } in table.entries() {
        let ttl = value.duration(&FRESHNESS);
        match status(key) {
            Ok(code) => ttls.extend(ttl.map(|ttl| (code, ttl))),
            Err(Invalid { message, help }) => {
                let mut diagnostic = Diagnostic::error(key_span, message);
                diagnostic.help = help;
                table.context.push(diagnostic);
            }
        }
    }
    ttls.sort_unstable();
    ttls
}

fn status(text: &str) -> Result<u16, Invalid> {
    let code = text.parse().ok().filter(|code| (200..=599).contains(code));
    match code {
        Some(206 | 304 | 412 | 416) => {
            Err(Invalid::new(format!("a response with status {text} is for one request only"))
                .help("it is never stored; leave it out"))
        }
        Some(200 | 203 | 204 | 300 | 301 | 308) => {
            Err(Invalid::new(format!("status {text} is one that `ttl` is for"))
                .help("write ttl = \"…\" instead"))
        }
        Some(code) => Ok(code),
        None => Err(Invalid::new(format!("{text:?} is not a status from 200 to 599"))
            .help("for example: status_ttl = { 404 = \"10s\" }")),
    }
}

fn key(table: Table<'_>) -> KeyRules {
    let rules = KeyRules {
        query: table.read("query", query).unwrap_or_default(),
        sort_query: table.boolean("sort_query", false),
        headers: table.read("headers", headers).unwrap_or_default(),
        cookies: table
            .read("cookies", |value| {
                bounded(value, "[\"lang\"]", |item| {
                    item.parse("the name of a cookie", "\"lang\"", |text| {
                        cookie_name(text).map(str::to_owned)
                    })
                })
            })
            .unwrap_or_default(),
        scheme: table.boolean("scheme", true),
        split: table.boolean("split", false),
    };
    table.finish();
    rules
}

fn query(value: &Value<'_>) -> Option<QueryKey> {
    const HELP: &str = "write \"none\", { only = [\"v\"] } or { ignore = [\"utm_*\"] }";
    if !value.is_table() {
        return value
            .one_of(&[("none", false), ("all", true)])
            .map(|all| if all { QueryKey::All } else { QueryKey::None });
    }
    let table = value.table()?;
    let (key, value) = table.exactly_one(&["only", "ignore"], HELP)?;
    let names = bounded(&value, "[\"v\"]", |item| {
        item.parse("the name of a parameter", "\"v\"", parameter_pattern)
    });
    table.finish();
    Some(if key == "only" { QueryKey::Only(names?) } else { QueryKey::Ignore(names?) })
}

fn bypass(table: Table<'_>) -> Bypass {
    let cookies = table.read("cookies", |value| {
        bounded(value, "[\"session\"]", |item| {
            item.parse("the name of a cookie", "\"session\"", |text| {
                let name = text.strip_suffix('*').unwrap_or(text);
                cookie_name(name).map(|_| pattern(text))
            })
        })
    });
    let bypass = Bypass {
        cookies: cookies.unwrap_or_default(),
        headers: table.read("headers", headers).unwrap_or_default(),
    };
    table.finish();
    bypass
}

fn headers(value: &Value<'_>) -> Option<Vec<HeaderName>> {
    bounded(value, "[\"x-device\"]", |item| {
        item.parse("the name of a header", "\"x-device\"", |text| {
            edits::name(text, edits::Side::Response)
        })
    })
}

pub(super) fn tags(value: &Value<'_>) -> Option<Vec<String>> {
    let tags = value.list("[\"shop\"]", |item| item.parse("a tag", "\"shop\"", tag))?;
    at_most(value, tags, TAGS_MAX)
}

/// A tag of the cache, in the case in which tags are compared.
fn tag(text: &str) -> Result<String, Invalid> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    if text.is_empty() || text.len() > TAG_BYTES_MAX || !text.bytes().all(is_plain) {
        return Err(Invalid::new(format!("{text:?} is not a tag")).help(format!(
            "a tag has 1 to {TAG_BYTES_MAX} visible ASCII characters, no space and no comma"
        )));
    }
    Ok(text.to_ascii_lowercase())
}

fn bounded<T>(
    value: &Value<'_>,
    example: &str,
    item: impl FnMut(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    at_most(value, value.list(example, item)?, NAMES_MAX)
}

fn at_most<T>(value: &Value<'_>, items: Vec<T>, max: usize) -> Option<Vec<T>> {
    if items.len() > max {
        value.invalid(Invalid::new(format!("it has more than {max} items")));
        return None;
    }
    Some(items)
}

pub(super) fn cookie_name(text: &str) -> Result<&str, Invalid> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"=;,\"*".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_plain) {
        return Err(Invalid::new(format!("{text:?} is not the name of a cookie")));
    }
    Ok(text)
}

/// The name of a parameter as it stands in a query.
fn parameter_pattern(text: &str) -> Result<NamePattern, Invalid> {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"=&?#*".contains(&byte);
    if text.is_empty() || !name.bytes().all(is_plain) {
        return Err(Invalid::new(format!("{text:?} is not the name of a parameter"))
            .help("as it stands in a query, percent-encoded; a `*` may stand at its end"));
    }
    Ok(pattern(text))
}

fn pattern(text: &str) -> NamePattern {
    match text.strip_suffix('*') {
        Some(prefix) => NamePattern::Prefix(prefix.to_owned()),
        None => NamePattern::Exact(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn cache(lines: &str) -> Option<RouteCache> {
        let cache =
            config_of(&format!("[[route]]\npool = \"app\"\n{lines}")).routes.remove(0).cache;
        cache.map(|rules| (*rules).clone())
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[[route]]\npool = \"app\"\n{lines}"))
    }

    #[test]
    fn the_cache_of_a_route_is_off_on_or_a_table() {
        assert_eq!(cache("cache = false"), None);
        assert_eq!(cache("cache = true"), Some(RouteCache::default()));
        assert_eq!(cache("cache.ttl = \"0s\"").unwrap().ttl, Some(Duration::ZERO));
        let rules = cache("cache = { stale_while_revalidate = \"1m\", stale_if_error = \"1d\" }");
        let rules = rules.unwrap();
        assert_eq!(rules.stale_while_revalidate, Some(Duration::from_secs(60)));
        assert_eq!(rules.stale_if_error, Some(Duration::from_secs(86400)));
        assert_eq!(rules.client_directives, ClientDirectives::Ignore);
        let obeys = cache("cache.client_directives = \"obey\"").unwrap();
        assert_eq!(obeys.client_directives, ClientDirectives::Obey);
        let shown = said("cache.client_directives = \"mind\"");
        assert!(shown.contains("help: write `ignore` or `obey`"), "{shown}");
        let shown = said("cache.colour = \"red\"");
        assert!(shown.contains("the keys here are bypass, client_directives, "), "{shown}");
        assert!(said("cache = \"yes\"").contains("must be true or false, not a string"));
    }

    #[test]
    fn lifetimes_of_other_codes_are_given_by_code() {
        let rules =
            cache("cache = { ttl_force = \"1h\", status_ttl = { 503 = \"1s\", 404 = \"10s\" } }");
        let rules = rules.unwrap();
        assert_eq!(rules.ttl_force, Some(Duration::from_secs(3600)));
        let expected = [(404, Duration::from_secs(10)), (503, Duration::from_secs(1))];
        assert_eq!(rules.status_ttl, expected);
        for (ttl, message) in [
            ("206 = \"1s\"", "is for one request only"),
            ("200 = \"1s\"", "help: write ttl = "),
            ("4xx = \"1s\"", "is not a status from 200 to 599"),
            ("404 = 5", "must be a duration with a unit"),
        ] {
            let shown = said(&format!("cache.status_ttl = {{ {ttl} }}"));
            assert!(shown.contains(message), "{ttl}: {shown}");
        }
    }

    #[test]
    fn keys_take_parts_of_the_query_and_further_parts() {
        assert!(cache("").unwrap().key.is_plain());
        let rules = cache(
            "cache.key = { query = { ignore = [\"utm_*\", \"ref\"] }, sort_query = true, \
             headers = [\"X-Device\"], cookies = [\"lang\"], scheme = true }",
        );
        let key = rules.unwrap().key;
        let ignored =
            vec![NamePattern::Prefix("utm_".to_owned()), NamePattern::Exact("ref".to_owned())];
        assert_eq!(key.query, QueryKey::Ignore(ignored));
        assert!(key.sort_query && key.scheme && key.has_parts());
        assert_eq!((key.headers[0].as_str(), key.cookies[0].as_str()), ("x-device", "lang"));
        assert_eq!(cache("cache.key.query = \"none\"").unwrap().key.query, QueryKey::None);
        for (key, message) in [
            ("query = \"some\"", "help: write `none` or `all`"),
            ("query = {}", "has none of `only` or `ignore`"),
            ("query = { only = [\"a&b\"] }", "is not the name of a parameter"),
            ("headers = [\"a b\"]", "is not the name of a header"),
            ("headers = [\"Connection\"]", "`connection` is not for edits"),
            ("cookies = [\"a=b\"]", "is not the name of a cookie"),
        ] {
            let shown = said(&format!("cache.key.{key}"));
            assert!(shown.contains(message), "{key}: {shown}");
        }
    }

    #[test]
    fn bypasses_cookies_tags_and_uses_are_read() {
        let rules = cache(
            "cache = { bypass = { cookies = [\"wordpress_logged_in*\"], headers = [\"Authorization\"] }, \
             set_cookie = \"strip\", tags = [\"Shop\"], min_uses = 2 }",
        )
        .unwrap();
        assert!(rules.bypass.cookies[0].matches("wordpress_logged_in_1"));
        assert!(!rules.bypass.cookies[0].matches("wordpress"));
        assert_eq!(rules.bypass.headers[0], "authorization");
        assert_eq!(rules.set_cookie, SetCookie::Strip);
        assert_eq!((rules.tags, rules.min_uses), (vec!["shop".to_owned()], MinUses(2)));
        let wait = |line| cache(line).unwrap().wait;
        assert_eq!(wait("cache.wait = \"auto\""), FetchWait::Auto);
        assert_eq!(wait("cache.wait = \"0s\""), FetchWait::Fixed(Duration::ZERO));
        for (line, message) in [
            ("tags = [\"a b\"]", "is not a tag"),
            ("tags = [\"\"]", "is not a tag"),
            ("min_uses = 0", "it must be from 1 to 255"),
            ("wait = \"2m\"", "it must be from 0s to 1m"),
            ("wait = \"long\"", "write \"auto\", or a duration"),
            ("wait = 5", "must be \"auto\" or a duration, not an integer"),
            ("set_cookie = \"keep\"", "help: write `bypass`, `strip` or `store`"),
        ] {
            let shown = said(&format!("cache.{line}"));
            assert!(shown.contains(message), "{line}: {shown}");
        }
    }
}
