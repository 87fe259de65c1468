//! The rules of this cache beside those of an independent implementation, http-cache-semantics, on
//! generated messages.
//!
//! Only where the two mean the same. Not compared are: directives that stand twice, several lines
//! of one field, `Set-Cookie`, the apparent age by `Date`, dates in other formats than the
//! preferred one, names of fields in `private` and `no-cache`, `proxy-revalidate`, `immutable` and
//! `must-understand`, all of which that crate does not have or reads in its own way.

use std::time::{Duration, Instant, SystemTime};

use http::header::{AGE, AUTHORIZATION, CACHE_CONTROL, DATE, ETAG, EXPIRES, LAST_MODIFIED, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::conditional;
use super::control::RequestControl;
use super::entry::{Entry, Head};
use super::freshness::{self, LifetimeSource};
use super::key::{KeyBuffer, KeyHasher};
use super::reuse::{Reuse, StaleReason, reuse};
use super::storable::{RequestFacts, ResponseFacts, Terms, terms};
use super::testing::head;
use super::vary::VaryFields;
use crate::body::StoredBody;
use crate::config::model::RouteCache;
use crate::memory::Memory;

type Fields = Vec<(HeaderName, String)>;

/// A moment with whole seconds, as dates have.
fn arrival() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn date(offset: i64) -> String {
    let seconds = 1_700_000_000_i64 + offset;
    httpdate::fmt_http_date(
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap()),
    )
}

fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn request(fields: &Fields) -> Request<()> {
    let mut request = Request::get("http://example.com/").body(()).unwrap();
    *request.headers_mut() = map(fields);
    request
}

fn response(status: StatusCode, fields: &Fields) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = map(fields);
    response
}

/// A response to `asked` as both know it.
struct Both {
    ours: Option<(Terms, Head)>,
    theirs: CachePolicy,
    arrived: Instant,
}

impl Both {
    fn new(asked: &Fields, status: StatusCode, fields: &Fields) -> Self {
        let headers = map(fields);
        let route = RouteCache { heuristic: true, ..RouteCache::default() };
        let facts =
            ResponseFacts { status, headers: &headers, own_control: None, received: arrival() };
        let asked_headers = map(asked);
        let asker = RequestFacts { method: &Method::GET, headers: &asked_headers };
        let arrived = Instant::now();
        let ours = terms(asker, facts, &route).ok().map(|terms| {
            let initial_age = freshness::initial_age(&headers, arrival(), Duration::ZERO);
            let stored = Head {
                status,
                fields: (&headers).into(),
                terms: terms.clone(),
                initial_age,
                received: arrived,
                ..head(0)
            };
            (terms, stored)
        });
        let theirs = CachePolicy::new_options(
            &request(asked),
            &response(status, fields),
            arrival(),
            CacheOptions::default(),
        );
        Self { ours, theirs, arrived }
    }

    fn entry(&self) -> Option<Entry> {
        let (_, head) = self.ours.clone()?;
        let body = StoredBody::new(Vec::new(), ());
        Some(Entry::new(head, body, Memory::new(1 << 20).charge(0).unwrap()))
    }
}

/// A directive with a number that may be quoted, or be none.
fn timed(name: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0..200_u32).prop_map(move |seconds| format!("{name}={seconds}")),
        2 => (0..200_u32).prop_map(move |seconds| format!("{name}=\"{seconds}\"")),
        1 => select(vec!["", "-5", "3.5", "x", "0x10"]).prop_map(move |odd| format!("{name}={odd}")),
    ]
}

fn directives() -> impl Strategy<Value = Vec<String>> {
    let plain = ["public", "private", "no-store", "no-cache", "must-revalidate", "no-transform"];
    let unknown = ["foo", "bar=baz", "max-agee=5"];
    (
        proptest::option::weighted(0.6, timed("max-age")),
        proptest::option::weighted(0.2, timed("s-maxage")),
        subsequence([plain.as_slice(), unknown.as_slice()].concat(), 0..3),
    )
        .prop_flat_map(|(max_age, s_maxage, others)| {
            let mut all: Vec<String> = others.into_iter().map(str::to_owned).collect();
            all.extend(max_age.into_iter().chain(s_maxage));
            Just(all).prop_shuffle()
        })
}

/// Directives in one or two lines, with odd spaces and empty members.
fn cache_control() -> impl Strategy<Value = Fields> {
    let comma = select(vec![",", ", ", " , ", ",,", ",\t"]);
    (directives(), comma, any::<prop::sample::Index>()).prop_map(|(all, comma, at)| {
        if all.is_empty() {
            return Vec::new();
        }
        let (first, second) = all.split_at(at.index(all.len()));
        let lines = [first, second].into_iter().filter(|line| !line.is_empty());
        lines.map(|line| (CACHE_CONTROL, line.join(comma))).collect()
    })
}

fn expires() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (-100..300_i64).prop_map(date),
        1 => select(vec!["0", "-1", "", "tomorrow"]).prop_map(str::to_owned),
    ]
}

/// The fields of a response that decide how long it is fresh.
fn freshness_fields() -> impl Strategy<Value = Fields> {
    (
        cache_control(),
        proptest::option::of(expires()),
        proptest::option::weighted(0.3, (0..864_000_i64).prop_map(|ago| date(-ago))),
        proptest::option::weighted(
            0.4,
            prop_oneof![4 => (0..150_u32).prop_map(|age| age.to_string()), 1 => Just("x".to_owned())],
        ),
        any::<bool>(),
    )
        .prop_map(|(mut fields, expires, modified, age, has_date)| {
            fields.extend(expires.map(|value| (EXPIRES, value)));
            fields.extend(modified.map(|value| (LAST_MODIFIED, value)));
            fields.extend(age.map(|value| (AGE, value)));
            fields.extend(has_date.then(|| (DATE, date(0))));
            fields
        })
}

fn status() -> impl Strategy<Value = StatusCode> {
    select(vec![200_u16, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501])
        .prop_map(|code| StatusCode::from_u16(code).unwrap())
}

fn asked() -> impl Strategy<Value = Fields> {
    any::<prop::sample::Index>().prop_map(|index| {
        let is_authorized = index.index(4) == 0;
        is_authorized.then(|| (AUTHORIZATION, "Basic x".to_owned())).into_iter().collect()
    })
}

fn has(fields: &Fields, directive: &str) -> bool {
    fields.iter().any(|(name, value)| *name == CACHE_CONTROL && value.contains(directive))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    #[test]
    fn a_response_is_fresh_for_as_long(
        asked in asked(), status in status(), fields in freshness_fields(), after in 0..400_u64,
    ) {
        let both = Both::new(&asked, status, &fields);
        let ours = both.ours.as_ref().map_or(Duration::ZERO, |(terms, head)| {
            if terms.revalidate_always {
                return Duration::ZERO;
            }
            // Guesses have fractions of a second.
            Duration::from_secs(terms.lifetime.as_secs()).saturating_sub(head.initial_age)
        });
        prop_assert_eq!(ours, both.theirs.time_to_live(arrival()));
        if both.ours.is_some() {
            prop_assert!(both.theirs.is_storable());
        }
        // Half a second between the seconds at which either may decide.
        let after = Duration::from_millis(after * 1000 + 500);
        let is_fresh =
            both.ours.as_ref().is_some_and(|(_, head)| head.is_fresh(both.arrived + after));
        let is_guess =
            both.ours.as_ref().is_some_and(|(terms, _)| terms.source == LifetimeSource::Heuristic);
        prop_assert!(is_guess || is_fresh != both.theirs.is_stale(arrival() + after));
    }

    #[test]
    fn what_a_client_demands_is_weighed_alike(
        fields in freshness_fields(),
        demands in subsequence(vec!["max-age=60", "min-fresh=30", "max-stale=45", "no-cache"], 0..3),
        after in 0..400_u64,
    ) {
        // That crate serves stale what s-maxage and no-cache forbid to.
        if has(&fields, "s-maxage") || has(&fields, "no-cache") {
            return Ok(());
        }
        let both = Both::new(&Vec::new(), StatusCode::OK, &fields);
        let Some(entry) = both.entry() else { return Ok(()) };
        let demands: Fields = if demands.is_empty() {
            Vec::new()
        } else {
            vec![(CACHE_CONTROL, demands.join(", "))]
        };
        let after = Duration::from_millis(after * 1000 + 500);
        let answer = reuse(&entry, &RequestControl::of(&map(&demands)), both.arrived + after);
        let ours = matches!(answer, Reuse::Fresh | Reuse::Stale(StaleReason::MaxStale));
        let theirs = both.theirs.before_request(&request(&demands), arrival() + after);
        prop_assert_eq!(ours, matches!(theirs, BeforeRequest::Fresh(_)), "{:?}", answer);
    }

    #[test]
    fn vary_selects_alike(
        names in subsequence(vec!["X-A", "x-b", "USER-AGENT", "x-absent"], 0..=4),
        separator in select(vec![",", ", ", " ,"]),
        stored in proptest::collection::vec(proptest::option::of(select(vec!["", "1", "2"])), 3),
        presented in proptest::collection::vec(proptest::option::of(select(vec!["", "1", "2"])), 3),
    ) {
        let fields = |values: &[Option<&str>]| -> Fields {
            let names = ["x-a", "x-b", "user-agent"].map(HeaderName::from_static);
            let pairs = names.into_iter().zip(values);
            pairs.filter_map(|(name, value)| Some((name, (*value)?.to_owned()))).collect()
        };
        let (stored, presented) = (fields(&stored), fields(&presented));
        let mut response_fields: Fields = vec![(CACHE_CONTROL, "max-age=60".to_owned())];
        if !names.is_empty() {
            response_fields.push((VARY, names.join(separator)));
        }
        let both = Both::new(&stored, StatusCode::OK, &response_fields);
        let hasher = KeyHasher::default();
        let ours = VaryFields::of(&map(&response_fields)).is_none_or(|vary| {
            let key = |request: &Fields| {
                let mut buffer = KeyBuffer::default();
                buffer.part(b"example.com");
                vary.variant_key_owned(buffer.key(&hasher), &map(request), &hasher)
            };
            key(&stored) == key(&presented)
        });
        let theirs = both.theirs.before_request(&request(&presented), arrival());
        prop_assert_eq!(ours, matches!(theirs, BeforeRequest::Fresh(_)));
    }

    #[test]
    fn a_confirmation_is_merged_alike(
        tags in (select(vec!["\"a\"", "W/\"a\""]), select(vec!["\"a\"", "W/\"a\"", "\"b\"", "W/\"b\""])),
        by_date in any::<bool>(),
        is_other_date in any::<bool>(),
        update in subsequence(
            vec!["x-a", "x-new", "cache-control", "content-length", "content-encoding", "content-type"],
            0..=6,
        ),
    ) {
        let (then, now) = if by_date {
            let now = if is_other_date { date(-5) } else { date(-9) };
            ((LAST_MODIFIED, date(-9)), (LAST_MODIFIED, now))
        } else {
            ((ETAG, tags.0.to_owned()), (ETAG, tags.1.to_owned()))
        };
        let mut stored: Fields =
            ["x-a", "x-b", "content-length", "content-encoding", "content-type"]
                .map(|name| (HeaderName::from_static(name), "then".to_owned()))
                .into();
        stored.push((CACHE_CONTROL, "max-age=60".to_owned()));
        stored.push(then);
        let mut fields: Fields =
            update.iter().map(|name| (HeaderName::from_static(name), "now".to_owned())).collect();
        fields.push(now);
        let both = Both::new(&Vec::new(), StatusCode::OK, &stored);
        let entry = both.entry().unwrap();
        let confirmed = conditional::confirms(&map(&fields), &map(&stored));
        let theirs = both.theirs.after_response(
            &request(&Vec::new()),
            &response(StatusCode::NOT_MODIFIED, &fields),
            arrival(),
        );
        let AfterResponse::NotModified(_, theirs) = theirs else {
            prop_assert!(!confirmed);
            return Ok(());
        };
        prop_assert!(confirmed);
        let ours = entry.head.freshened(&map(&fields), false);
        // That crate adds no field that was not there, and takes over the strength of the tag.
        for (name, value) in &ours {
            if *name == "x-new" {
                prop_assert_eq!(value, "now");
            } else if *name != ETAG {
                prop_assert_eq!(Some(value), theirs.headers.get(name), "{}", name);
            }
        }
    }
}
