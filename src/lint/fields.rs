//! Lints of the fields of an answer, whether it was seen or the configuration makes it.

use std::time::SystemTime;

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, SET_COOKIE, VARY as VARY_FIELD};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::table::{CACHE_TAGS, SET_COOKIE as COOKIES, STALE_OFF, VARY};
use crate::cache::control::ResponseControl;
use crate::cache::policy;
use crate::cache::storable::{self, RequestFacts, ResponseFacts};
use crate::config::diagnostics::{Diagnostic, Span};
use crate::config::model::{Front, RouteCache};
use crate::front::cache::TagLimits;

const CLOUDFLARE_CACHE_CONTROL: HeaderName =
    HeaderName::from_static("cloudflare-cdn-cache-control");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
pub(super) const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// What to do about too many tags.
pub(super) const FEWER_TAGS: &str =
    "send fewer or shorter tags: a hash of the list, or one for the page";

/// The fields of an answer, and who sees them.
pub(super) struct Seen<'a> {
    pub(super) front: Front,
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// The configuration says so, whatever the fields say.
    pub(super) is_meant_to_be_stored: bool,
    /// What messages begin with.
    pub(super) subject: &'a str,
    /// Where the configuration says a field.
    pub(super) place: &'a dyn Fn(&HeaderName) -> Option<Span>,
    pub(super) now: SystemTime,
}

pub(super) fn lints(seen: &Seen<'_>) -> Vec<Diagnostic> {
    match seen.front {
        Front::Cloudflare => {
            let all = [stale_off(seen), cache_tags(seen), vary(seen), set_cookie(seen)];
            all.into_iter().flatten().collect()
        }
        Front::CloudFront => [cache_tags(seen), set_cookie(seen)].into_iter().flatten().collect(),
        Front::None | Front::Alb | Front::Gclb => Vec::new(),
    }
}

/// The field by which Cloudflare decides, and what it says; the first that is there. The older
/// `Surrogate-Control` decides without directives that matter here.
fn deciding(headers: &HeaderMap) -> Option<(HeaderName, ResponseControl)> {
    let fields = [CLOUDFLARE_CACHE_CONTROL, CDN_CACHE_CONTROL, SURROGATE_CONTROL, CACHE_CONTROL];
    let name = fields.into_iter().find(|name| headers.contains_key(name))?;
    if name == SURROGATE_CONTROL {
        return None;
    }
    let alone = HeaderMap::from_iter([(CACHE_CONTROL, policy::combined(headers, &name)?)]);
    Some((name, ResponseControl::of(&alone)))
}

/// Whether the fields keep an answer out of Cloudflare's cache.
pub(super) fn keeps_out(headers: &HeaderMap) -> bool {
    deciding(headers).is_some_and(|(_, control)| {
        let age = control.s_maxage.or(control.max_age);
        control.no_store
            || control.private.is_whole()
            || control.no_cache.is_whole()
            || age == Some(0)
    })
}

/// Whether a shared cache that minds no cookie keeps the answer for any time.
fn is_stored(seen: &Seen<'_>) -> bool {
    let mut headers = seen.headers.clone();
    headers.remove(SET_COOKIE);
    if let Some(own) = policy::combined(&headers, &CLOUDFLARE_CACHE_CONTROL) {
        headers.insert(CDN_CACHE_CONTROL, own);
    }
    let anybody = HeaderMap::new();
    let request = RequestFacts { method: &Method::GET, headers: &anybody };
    let response = ResponseFacts {
        status: seen.status,
        headers: &headers,
        own_control: None,
        received: seen.now,
    };
    storable::terms(request, response, &RouteCache::default())
        .is_ok_and(|terms| !terms.lifetime.is_zero() && !terms.revalidate_always)
}

fn may_be_stored(seen: &Seen<'_>) -> bool {
    !keeps_out(seen.headers) && (seen.is_meant_to_be_stored || is_stored(seen))
}

fn stale_off(seen: &Seen<'_>) -> Option<Diagnostic> {
    let (field, control) = deciding(seen.headers)?;
    let stale = control.stale_while_revalidate.filter(|seconds| *seconds > 0)?;
    let culprits = [
        ("s-maxage", control.s_maxage.is_some()),
        ("must-revalidate", control.must_revalidate),
        ("proxy-revalidate", control.proxy_revalidate),
        ("no-cache", control.no_cache.is_whole()),
    ];
    let culprits = culprits.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name);
    let culprits: Vec<_> = culprits.collect();
    if culprits.is_empty() {
        return None;
    }
    let names = culprits.join(" and ");
    let message = format!(
        "{}: in {field} {names} switches stale-while-revalidate off at Cloudflare",
        seen.subject
    );
    let ages = [control.s_maxage, control.max_age];
    let age = ages.into_iter().flatten().next().unwrap_or_default();
    let better = format!("max-age={age}, stale-while-revalidate={stale}");
    let help = if field == CLOUDFLARE_CACHE_CONTROL {
        format!("write {field}: {better}")
    } else {
        format!(
            "tell Cloudflare in a field of its own: {CLOUDFLARE_CACHE_CONTROL}: {better}, or in the \
             route front_cache = {{ ttl = \"{age}s\", stale_while_revalidate = \"{stale}s\" }}"
        )
    };
    Some(STALE_OFF.at((seen.place)(&field), message, help))
}

fn cache_tags(seen: &Seen<'_>) -> Option<Diagnostic> {
    let what = tags_too_many(seen.front, seen.headers)?;
    let message = format!("{}: Cache-Tag has {what}: it could not be purged by all", seen.subject);
    Some(CACHE_TAGS.at((seen.place)(&CACHE_TAG), message, FEWER_TAGS))
}

/// By what the tags of an answer are more than a front takes.
pub(super) fn tags_too_many(front: Front, headers: &HeaderMap) -> Option<String> {
    let limits = TagLimits::of(front);
    let bytes = policy::combined(headers, &CACHE_TAG)?.len();
    let tags = members(headers, &CACHE_TAG);
    let longest = tags.iter().map(String::len).max().unwrap_or_default();
    let who = front.title();
    if tags.len() > limits.tags_max {
        Some(format!("{} tags, and {who} takes {}", tags.len(), limits.tags_max))
    } else if longest > limits.tag_bytes_max {
        Some(format!("a tag of {longest} bytes, and {who} takes {}", limits.tag_bytes_max))
    } else if bytes > limits.bytes_max {
        Some(format!("{bytes} bytes of tags, and {who} takes {}", limits.bytes_max))
    } else {
        None
    }
}

fn vary(seen: &Seen<'_>) -> Option<Diagnostic> {
    let names = members(seen.headers, &VARY_FIELD);
    let names: Vec<_> =
        names.iter().filter(|name| !name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str())).collect();
    // What varies on anything is not stored.
    if names.is_empty() || names.iter().any(|name| *name == "*") || !may_be_stored(seen) {
        return None;
    }
    let names: Vec<_> = names.into_iter().map(String::as_str).collect();
    let message = format!(
        "{}: Cloudflare does not mind that it varies on {}: where it is stored, everybody gets \
         the same variant",
        seen.subject,
        names.join(", ")
    );
    let help = format!(
        "give the zone a cache rule for these fields, or send {CLOUDFLARE_CACHE_CONTROL}: no-store"
    );
    Some(VARY.at((seen.place)(&VARY_FIELD), message, help))
}

fn set_cookie(seen: &Seen<'_>) -> Option<Diagnostic> {
    if !seen.headers.contains_key(SET_COOKIE) || !may_be_stored(seen) {
        return None;
    }
    // `no-cache="set-cookie"`: it is stored without.
    let control = ResponseControl::of(seen.headers);
    if control.fields_to_omit().any(|name| *name == SET_COOKIE) {
        return None;
    }
    let message =
        format!("{}: it is cacheable and sets a cookie: {}", seen.subject, of_cookies(seen.front));
    let help = "set no cookie on it (response_headers.remove = [\"set-cookie\"]), or do not let \
                it be cached: Cache-Control: private";
    Some(COOKIES.at((seen.place)(&SET_COOKIE), message, help))
}

/// What becomes of cookies on answers that a front would cache.
pub(super) fn of_cookies(front: Front) -> &'static str {
    match front {
        Front::CloudFront => {
            "CloudFront takes it off, or gives it to everybody where it forwards cookies"
        }
        _ => "Cloudflare does not store the answer",
    }
}

/// The members of a list field.
fn members(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter();
    let parts = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let parts = parts.map(|part| String::from_utf8_lossy(part.trim_ascii()).into_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn told(front: Front, fields: &[(&'static str, &str)]) -> Vec<Diagnostic> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        lints(&Seen {
            front,
            status: StatusCode::OK,
            headers: &headers,
            is_meant_to_be_stored: false,
            subject: "the answer",
            place: &|_| None,
            now: SystemTime::now(),
        })
    }

    fn names(front: Front, fields: &[(&'static str, &str)]) -> Vec<&'static str> {
        told(front, fields).iter().filter_map(|it| it.lint).collect()
    }

    fn cloudflare(fields: &[(&'static str, &str)]) -> Vec<&'static str> {
        names(Front::Cloudflare, fields)
    }

    #[test]
    fn what_switches_stale_while_revalidate_off_is_told_with_what_would_not() {
        let found = told(
            Front::Cloudflare,
            &[("cache-control", "public, max-age=5, s-maxage=60, stale-while-revalidate=30")],
        );
        assert_eq!(
            (found[0].message.as_str(), found[0].help.as_deref()),
            (
                "the answer: in cache-control s-maxage switches stale-while-revalidate off at \
                 Cloudflare",
                Some(
                    "tell Cloudflare in a field of its own: cloudflare-cdn-cache-control: \
                     max-age=60, stale-while-revalidate=30, or in the route front_cache = \
                     { ttl = \"60s\", stale_while_revalidate = \"30s\" }"
                )
            )
        );
        for (fields, is_told) in [
            (vec![("cache-control", "max-age=5, stale-while-revalidate=9, must-revalidate")], true),
            (vec![("cdn-cache-control", "s-maxage=5, stale-while-revalidate=9")], true),
            (vec![("cache-control", "max-age=5, stale-while-revalidate=9")], false),
            (vec![("cache-control", "s-maxage=5, stale-while-revalidate=0")], false),
            (vec![("cache-control", "s-maxage=5")], false),
            (
                vec![
                    ("cache-control", "s-maxage=5, stale-while-revalidate=9"),
                    ("cloudflare-cdn-cache-control", "max-age=5, stale-while-revalidate=9"),
                ],
                false,
            ),
        ] {
            let expected: &[_] = if is_told { &["stale-while-revalidate"] } else { &[] };
            assert_eq!(cloudflare(&fields), expected, "{fields:?}");
            assert!(names(Front::CloudFront, &fields).is_empty());
            assert!(names(Front::None, &fields).is_empty());
        }
    }

    #[test]
    fn tags_are_held_to_what_the_front_takes() {
        let many = |count: usize| vec!["tag"; count].join(",");
        for (tags, at_cloudflare, at_cloudfront) in [
            (many(50), false, false),
            (many(51), false, true),
            (many(4096), false, true),
            (many(4097), true, true),
            ("x".repeat(256), false, false),
            ("x".repeat(257), false, true),
            ("x".repeat(1025), true, true),
        ] {
            let fields = [("cache-tag", tags.as_str())];
            let shown = (tags.len(), &tags[..10]);
            assert_eq!(!cloudflare(&fields).is_empty(), at_cloudflare, "{shown:?}");
            let cloudfront = names(Front::CloudFront, &fields);
            assert_eq!(!cloudfront.is_empty(), at_cloudfront, "{shown:?}");
        }
        let halves = many(2100);
        assert_eq!(cloudflare(&[("cache-tag", &halves), ("cache-tag", &halves)]), ["cache-tags"]);
    }

    #[test]
    fn variants_that_are_stored_are_told() {
        let kept = ("cache-control", "max-age=60");
        assert_eq!(cloudflare(&[kept, ("vary", "Accept-Encoding, Cookie")]), ["vary"]);
        assert_eq!(cloudflare(&[kept, ("vary", "accept-encoding"), ("vary", "origin")]), ["vary"]);
        for fields in [
            vec![kept, ("vary", "Accept-Encoding")],
            vec![kept, ("vary", "*")],
            vec![kept],
            vec![("vary", "cookie")],
            vec![("cache-control", "private, max-age=60"), ("vary", "cookie")],
            vec![("cache-control", "no-cache"), ("etag", "\"a\""), ("vary", "cookie")],
            vec![kept, ("cloudflare-cdn-cache-control", "no-store"), ("vary", "cookie")],
        ] {
            assert_eq!(cloudflare(&fields), [""; 0], "{fields:?}");
        }
        assert!(names(Front::CloudFront, &[kept, ("vary", "cookie")]).is_empty());
    }

    #[test]
    fn cookies_on_what_would_be_stored_are_told() {
        let (kept, cookie) = (("cache-control", "max-age=60"), ("set-cookie", "a=b"));
        for front in [Front::Cloudflare, Front::CloudFront] {
            assert_eq!(names(front, &[kept, cookie]), ["set-cookie"]);
            assert!(names(front, &[cookie]).is_empty());
            assert!(names(front, &[("cache-control", "private, max-age=9"), cookie]).is_empty());
            let without = ("cache-control", "max-age=9, no-cache=\"set-cookie\"");
            assert!(names(front, &[without, cookie]).is_empty());
        }
        assert!(names(Front::Alb, &[kept, cookie]).is_empty());
    }
}
