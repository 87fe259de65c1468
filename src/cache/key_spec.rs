//! What the key of a route's responses consists of.
//!
//! Host, path and query first, as far as the query counts; then, for a route that has any, its own
//! conditions, the scheme, header fields and cookies. Purges know the URL only, so that part comes
//! first, and what was stored with further parts is found by a tag of its URL.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::key::{self, KeyBuffer, KeyHasher, KeyRef};
use super::tags::Tag;
use super::vary::{self, VARIED_BYTES_MAX};
use crate::config::model::{KeyRules, NamePattern, QueryKey};
use crate::cookie;

/// Begins what follows a URL in a key; no key of a variant has a part of this length there.
const FURTHER: &[u8] = b"further";
/// Kinds of tags of the cache's own.
const URL_TAG: u8 = b'u';

/// A request as keys see it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// In normal form.
    pub host: &'a str,
    /// Where it is not the scheme's own.
    pub port: Option<u16>,
    /// In normal form.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub scheme: &'static str,
    /// The pool that was chosen for it, where keys want to know.
    pub pool: Option<&'a str>,
    /// As the client sent them.
    pub headers: &'a HeaderMap,
}

/// How keys of one route are made.
#[derive(Debug, Clone, Default)]
pub struct KeySpec {
    query: QuerySpec,
    /// What the route asks of a request beyond host and path; it makes the responses its own.
    conditions: Option<Box<str>>,
    scheme: bool,
    split: bool,
    headers: Box<[HeaderName]>,
    cookies: Box<[String]>,
}

/// Which form of a query counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuerySpec {
    key: QueryKey,
    sorted: bool,
}

impl KeySpec {
    pub fn new(rules: &KeyRules, conditions: Option<String>) -> Self {
        Self {
            query: QuerySpec { key: rules.query.clone(), sorted: rules.sort_query },
            conditions: conditions.map(String::into_boxed_str),
            scheme: rules.scheme,
            split: rules.split,
            headers: rules.headers.as_slice().into(),
            cookies: rules.cookies.as_slice().into(),
        }
    }

    /// Whether keys name the pool, which has to be chosen before they are made.
    pub fn names_pool(&self) -> bool {
        self.split
    }

    pub fn query(&self) -> &QuerySpec {
        &self.query
    }

    /// The key of a request; `None` where what it says in the fields that count is too long.
    pub fn primary<'a>(
        &self,
        asking: &Asking<'_>,
        buffer: &'a mut KeyBuffer,
        hasher: &KeyHasher,
    ) -> Option<KeyRef<'a>> {
        let query = self.query.form(asking.query);
        if !self.has_parts() && asking.port.is_none() {
            return Some(key::primary(asking.host, asking.path, query.as_deref(), buffer, hasher));
        }
        key::primary(asking.host, asking.path, query.as_deref(), buffer, hasher);
        buffer.part(FURTHER).optional(self.conditions.as_deref().map(str::as_bytes));
        let port = asking.port.map(u16::to_be_bytes);
        buffer.optional(port.as_ref().map(<[u8; 2]>::as_slice));
        if self.scheme {
            buffer.part(asking.scheme.as_bytes());
        }
        if self.split {
            buffer.optional(asking.pool.map(str::as_bytes));
        }
        let mut bytes = 0;
        for name in &self.headers {
            let value = vary::combined(asking.headers, name);
            bytes += value.as_ref().map_or(0, Vec::len);
            buffer.optional(value.as_deref());
        }
        for name in &self.cookies {
            let value = cookie::value(asking.headers, name);
            bytes += value.map_or(0, <[u8]>::len);
            buffer.optional(value);
        }
        (bytes <= VARIED_BYTES_MAX).then(|| buffer.key(hasher))
    }

    /// Whether there are parts that a purge of a URL does not know.
    fn has_parts(&self) -> bool {
        self.conditions.is_some()
            || self.scheme
            || self.split
            || !self.headers.is_empty()
            || !self.cookies.is_empty()
    }
}

impl QuerySpec {
    /// A query in the form that counts.
    pub fn form<'q>(&self, query: Option<&'q str>) -> Option<Cow<'q, str>> {
        let text = query?;
        let kept = |pair: &&str| {
            let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
            let is_named =
                |name: &str, names: &[NamePattern]| names.iter().any(|it| it.matches(name));
            match &self.key {
                QueryKey::All => true,
                QueryKey::None => false,
                QueryKey::Only(names) => {
                    is_named(name, names) || readings(pair).any(|name| is_named(&name, names))
                }
                QueryKey::Ignore(names) => !is_named(name, names) || pair.contains(';'),
            }
        };
        if self.key == QueryKey::All && !self.sorted {
            return Some(Cow::Borrowed(text));
        }
        let mut pairs: Vec<&str> = text.split('&').filter(kept).collect();
        if self.sorted {
            pairs.retain(|pair| !pair.is_empty());
            // By name, and stable: values of one name keep their order.
            pairs.sort_by_key(|pair| pair.split_once('=').map_or(*pair, |(name, _)| name));
        }
        let form = pairs.join("&");
        (!form.is_empty()).then_some(Cow::Owned(form))
    }
}

/// The names that applications read in a pair, beside the one that stands there: decoded, behind a
/// `;`, and as languages shorten them. A parameter that counts must count in all of its spellings,
/// or one of them would bring an answer under the key of another.
fn readings(pair: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let is_plain = !pair.bytes().any(|byte| matches!(byte, b'%' | b';' | b'+' | b'['));
    let parts = pair.split(';').filter(move |_| !is_plain);
    parts.map(|part| {
        let name = part.split_once('=').map_or(part, |(name, _)| name);
        let decoded = percent_decode_str(name).decode_utf8_lossy();
        let name = decoded.trim_start_matches(['+', ' ']);
        let end = name.find(['[', '\0']).unwrap_or(name.len());
        Cow::Owned(name[..end].to_owned())
    })
}

/// The tag of what is stored for a URL with further parts in its key; `None` where there are none.
pub(super) fn url_tag(key: KeyRef<'_>, hasher: &KeyHasher) -> Option<Tag> {
    let url =
        key.url().filter(|url| url.rest.get(4..).is_some_and(|it| it.starts_with(FURTHER)))?;
    Some(tag_of_url(url.host, url.path, url.query, hasher))
}

pub(super) fn tag_of_url(
    host: &[u8],
    path: &[u8],
    query: Option<&[u8]>,
    hasher: &KeyHasher,
) -> Tag {
    let mut buffer = KeyBuffer::default();
    buffer.part(host).part(path).optional(query);
    Tag::own(URL_TAG, buffer.bytes(), hasher)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::cache::key::Key;

    fn spec(change: impl FnOnce(&mut KeyRules)) -> KeySpec {
        let mut rules = KeyRules::default();
        change(&mut rules);
        KeySpec::new(&rules, None)
    }

    fn form(change: impl FnOnce(&mut KeyRules), query: &str) -> Option<String> {
        spec(change).query().form(Some(query)).map(Cow::into_owned)
    }

    fn names(names: &[&str]) -> Vec<NamePattern> {
        names
            .iter()
            .map(|name| match name.strip_suffix('*') {
                Some(prefix) => NamePattern::Prefix(prefix.to_owned()),
                None => NamePattern::Exact((*name).to_owned()),
            })
            .collect()
    }

    fn key(spec: &KeySpec, hasher: &KeyHasher, headers: &HeaderMap, scheme: &'static str) -> Key {
        let asking = Asking {
            host: "h",
            port: None,
            path: "/",
            query: Some("a=1"),
            scheme,
            pool: None,
            headers,
        };
        spec.primary(&asking, &mut KeyBuffer::default(), hasher).expect("short enough").to_owned()
    }

    #[test]
    fn a_parameter_that_counts_does_so_in_every_spelling() {
        let only = |query: &str| form(|it| it.query = QueryKey::Only(names(&["v", "id*"])), query);
        for pair in ["%76=2", "a;v=2", "a=1;v=2", "v[]=2", "+v=2", "%20v=2", "v%00x=2", "i%64x=2"] {
            let query = format!("v=1&{pair}&utm=3");
            assert_eq!(only(&query).as_deref(), Some(&*format!("v=1&{pair}")), "{pair}");
        }
        assert_eq!(only("a%76=1&b=v;c&x[v]=2"), None);
        let ignore = |query| form(|it| it.query = QueryKey::Ignore(names(&["utm*"])), query);
        assert_eq!(ignore("utm=1&a=1").as_deref(), Some("a=1"));
        assert_eq!(ignore("utm=1;a=2&%75tm=1").as_deref(), Some("utm=1;a=2&%75tm=1"));
    }

    #[test]
    fn a_port_that_is_not_the_schemes_own_is_part_of_the_key() {
        let (hasher, headers) = (KeyHasher::default(), HeaderMap::new());
        let key = |port| {
            let asking = Asking {
                host: "h",
                port,
                path: "/",
                query: None,
                scheme: "http",
                pool: None,
                headers: &headers,
            };
            KeySpec::new(&KeyRules { scheme: false, ..KeyRules::default() }, None)
                .primary(&asking, &mut KeyBuffer::default(), &hasher)
                .expect("short enough")
                .to_owned()
        };
        let (plain, one, other) = (key(None), key(Some(1337)), key(Some(8080)));
        assert!(plain != one && one != other);
        assert!(url_tag(plain.as_ref(), &hasher).is_none());
        assert!(url_tag(one.as_ref(), &hasher).is_some(), "a purge of the URL finds it");
    }

    #[test]
    fn parameters_count_as_the_rules_say() {
        let query = "b=2&utm_source=x&a=1&utm_medium=y&b=1";
        assert_eq!(form(|_| {}, query).as_deref(), Some(query));
        assert_eq!(form(|it| it.query = QueryKey::None, query), None);
        let only = |it: &mut KeyRules| it.query = QueryKey::Only(names(&["b"]));
        assert_eq!(form(only, query).as_deref(), Some("b=2&b=1"));
        let ignore = |it: &mut KeyRules| it.query = QueryKey::Ignore(names(&["utm_*"]));
        assert_eq!(form(ignore, query).as_deref(), Some("b=2&a=1&b=1"));
        assert_eq!(form(ignore, "utm_source=x"), None);
        assert_eq!(
            form(|it| it.sort_query = true, "b=2&a=1&b=1&&").as_deref(),
            Some("a=1&b=2&b=1")
        );
    }

    #[test]
    fn a_plain_key_is_host_path_and_query() {
        let hasher = KeyHasher::default();
        let none = HeaderMap::new();
        let plain = key(&spec(|it| it.scheme = false), &hasher, &none, "http");
        let mut buffer = KeyBuffer::default();
        assert_eq!(plain, key::primary("h", "/", Some("a=1"), &mut buffer, &hasher).to_owned());
        assert!(url_tag(plain.as_ref(), &hasher).is_none());
        let [http, https] = ["http", "https"].map(|it| key(&spec(|_| {}), &hasher, &none, it));
        assert!(http != https && url_tag(http.as_ref(), &hasher).is_some(), "as by default");
    }

    #[test]
    fn further_parts_tell_requests_apart_and_keep_the_tag_of_the_url() {
        let hasher = KeyHasher::default();
        let spec = spec(|it| {
            it.scheme = true;
            it.headers = vec![HeaderName::from_static("x-device")];
            it.cookies = vec!["lang".to_owned()];
        });
        let headers = |device: &'static str, cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-device", HeaderValue::from_static(device));
            headers.insert("cookie", HeaderValue::from_static(cookie));
            headers
        };
        let one = key(&spec, &hasher, &headers("a", "lang=de; other=1"), "http");
        assert_eq!(one, key(&spec, &hasher, &headers("a", "other=2; lang=de"), "http"));
        let none = HeaderMap::new();
        for other in [
            key(&spec, &hasher, &headers("a", "lang=de"), "https"),
            key(&spec, &hasher, &headers("b", "lang=de"), "http"),
            key(&spec, &hasher, &headers("a", "lang=en"), "http"),
            key(&spec, &hasher, &headers("a", "lang="), "http"),
            key(&spec, &hasher, &none, "http"),
        ] {
            assert_ne!(one, other);
            let expected = tag_of_url(b"h", b"/", Some(b"a=1"), &hasher);
            assert_eq!(url_tag(other.as_ref(), &hasher), Some(expected));
        }
    }

    #[test]
    fn what_a_route_asks_of_requests_makes_its_responses_its_own() {
        let hasher = KeyHasher::default();
        let none = HeaderMap::new();
        let rules = KeyRules::default();
        let with = |text: &str| KeySpec::new(&rules, Some(text.to_owned()));
        let plain = key(&KeySpec::new(&rules, None), &hasher, &none, "http");
        assert_ne!(key(&with("a"), &hasher, &none, "http"), plain);
        assert_ne!(
            key(&with("a"), &hasher, &none, "http"),
            key(&with("b"), &hasher, &none, "http")
        );
    }

    #[test]
    fn fields_that_are_too_long_make_no_key() {
        let hasher = KeyHasher::default();
        let spec = spec(|it| it.headers = vec![HeaderName::from_static("x")]);
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&"a".repeat(VARIED_BYTES_MAX + 1)).expect("a value");
        headers.insert("x", value);
        let asking = Asking {
            host: "h",
            path: "/",
            query: None,
            port: None,
            scheme: "http",
            pool: None,
            headers: &headers,
        };
        assert!(spec.primary(&asking, &mut KeyBuffer::default(), &hasher).is_none());
    }
}
