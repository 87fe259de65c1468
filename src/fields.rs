//! Header fields as they are kept for long.
//!
//! A [`HeaderMap`] costs 104 bytes a field and an index, and its values are often parts of the
//! buffer that they were read into, which they keep alive. What is stored is stored as [`Fields`]:
//! one allocation for all values, six bytes for each field, and nothing for the names that origins
//! commonly use. It becomes a map again for each answer.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES,
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AGE, ALLOW,
    ALT_SVC, CACHE_CONTROL, CACHE_STATUS, CDN_CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING,
    CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_SECURITY_POLICY_REPORT_ONLY, CONTENT_TYPE, DATE, ETAG, EXPIRES, LAST_MODIFIED, LINK,
    LOCATION, PRAGMA, REFERRER_POLICY, REFRESH, RETRY_AFTER, SERVER, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, VARY, VIA, WARNING, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    X_DNS_PREFETCH_CONTROL, X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What a field costs beside its text, in bytes.
pub const FIELD_BYTES: usize = size_of::<u32>() + size_of::<u16>();
/// What a field costs whose name is not a common one, in bytes.
const NAME_BYTES: usize = size_of::<HeaderName>() + 16;

/// Names of common response fields. Copies of them cost nothing, and no worker waits for another
/// that counts its copies.
static COMMON: [HeaderName; 75] = [
    ACCEPT,
    ACCEPT_CHARSET,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    ACCEPT_RANGES,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    AGE,
    ALLOW,
    ALT_SVC,
    CACHE_CONTROL,
    CACHE_STATUS,
    CDN_CACHE_CONTROL,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_LOCATION,
    CONTENT_RANGE,
    CONTENT_SECURITY_POLICY,
    CONTENT_SECURITY_POLICY_REPORT_ONLY,
    CONTENT_TYPE,
    DATE,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    LINK,
    LOCATION,
    PRAGMA,
    REFERRER_POLICY,
    REFRESH,
    RETRY_AFTER,
    SERVER,
    SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
    VARY,
    VIA,
    WARNING,
    WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
    X_DNS_PREFETCH_CONTROL,
    X_FRAME_OPTIONS,
    X_XSS_PROTECTION,
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("surrogate-control"),
    HeaderName::from_static("no-vary-search"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-embedder-policy"),
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("timing-allow-origin"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("x-powered-by"),
    HeaderName::from_static("x-robots-tag"),
    HeaderName::from_static("x-cache"),
    HeaderName::from_static("x-cache-hits"),
    HeaderName::from_static("x-served-by"),
    HeaderName::from_static("x-timer"),
    HeaderName::from_static("x-download-options"),
    HeaderName::from_static("x-permitted-cross-domain-policies"),
    HeaderName::from_static("x-ua-compatible"),
    HeaderName::from_static("x-runtime"),
    HeaderName::from_static("x-version"),
    HeaderName::from_static("accept-ch"),
    HeaderName::from_static("sourcemap"),
];

static COMMON_INDEX: LazyLock<HashMap<&HeaderName, u16>> =
    LazyLock::new(|| COMMON.iter().zip(0..).collect());

/// Fields in their order, those of one name together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// For each field where its value ends, four bytes, and its name, two bytes: the index of a
    /// common one, or of one of `names` behind them. Then the values, one after the other.
    kept: Box<[u8]>,
    count: u16,
    /// Names that are no common ones, which are rare.
    names: Option<Box<Names>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Names(Vec<HeaderName>);

/// Where a field is found by its name: the first of that name.
pub trait Named {
    fn text(&self, name: &HeaderName) -> Option<&[u8]>;

    fn value(&self, name: &HeaderName) -> Option<HeaderValue>;
}

impl Named for HeaderMap {
    fn text(&self, name: &HeaderName) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }

    fn value(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.get(name).cloned()
    }
}

impl Named for Fields {
    fn text(&self, name: &HeaderName) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, text)| text)
    }

    fn value(&self, name: &HeaderName) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.text(name)?).ok()
    }
}

impl Fields {
    /// Names and the text of values.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &[u8])> {
        let values = self.values();
        self.places().map(|(name, place)| (name, &values[place]))
    }

    /// Names, and where their values are in [`Self::values`].
    fn places(&self) -> impl Iterator<Item = (&HeaderName, Range<usize>)> {
        let (list, _) = self.kept.split_at(self.list_bytes());
        let mut begin = 0;
        list.as_chunks().0.iter().map(move |&[a, b, c, d, e, f]: &[u8; FIELD_BYTES]| {
            let place = begin..u32::from_le_bytes([a, b, c, d]) as usize;
            begin = place.end;
            (self.name(u16::from_le_bytes([e, f])), place)
        })
    }

    fn list_bytes(&self) -> usize {
        usize::from(self.count) * FIELD_BYTES
    }

    fn name(&self, index: u16) -> &HeaderName {
        let index = usize::from(index);
        COMMON.get(index).unwrap_or_else(|| &self.names()[index - COMMON.len()])
    }

    fn names(&self) -> &[HeaderName] {
        self.names.as_deref().map_or(&[], |names| &names.0)
    }

    /// The values, one after the other.
    pub fn values(&self) -> &[u8] {
        &self.kept[self.list_bytes()..]
    }

    /// A map of them, with room for `more` fields.
    pub fn to_map(&self, more: usize) -> HeaderMap {
        self.map_over(&Bytes::copy_from_slice(self.values()), more, |_| true)
    }

    /// A map of those whose names are wanted, with room for `more` fields. The values are parts of
    /// `text`, a copy that begins with [`Self::values`]: readers of one entry share no count.
    pub fn map_over(
        &self,
        text: &Bytes,
        more: usize,
        is_wanted: impl Fn(&HeaderName) -> bool,
    ) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(usize::from(self.count) + more);
        for (name, place) in self.places().filter(|(name, _)| is_wanted(name)) {
            // What was a value is one.
            if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(place)) {
                map.append(name, value);
            }
        }
        map
    }

    /// What they take, in bytes.
    pub fn bytes(&self) -> usize {
        let names: usize = self.names().iter().map(|name| NAME_BYTES + name.as_str().len()).sum();
        self.kept.len() + names
    }
}

impl From<&HeaderMap> for Fields {
    /// Copies the values. More than 65,535 fields or 4 GiB cannot come from a response.
    fn from(map: &HeaderMap) -> Self {
        let mut names: Vec<HeaderName> = Vec::new();
        let text: usize = map.values().map(HeaderValue::len).sum();
        let mut kept = Vec::with_capacity(map.len() * FIELD_BYTES + text);
        let mut end = 0_u32;
        for (name, value) in map {
            let index = COMMON_INDEX.get(name).copied().unwrap_or_else(|| {
                // Values of one name follow each other.
                if names.last() != Some(name) {
                    names.push(name.clone());
                }
                u16::try_from(COMMON.len() + names.len() - 1).unwrap_or(u16::MAX)
            });
            end += u32::try_from(value.len()).unwrap_or(0);
            kept.extend_from_slice(&end.to_le_bytes());
            kept.extend_from_slice(&index.to_le_bytes());
        }
        map.values().for_each(|value| kept.extend_from_slice(value.as_bytes()));
        let count = u16::try_from(map.len()).unwrap_or(u16::MAX);
        let names = (!names.is_empty()).then(|| Box::new(Names(names)));
        Self { kept: kept.into(), count, names }
    }
}

/// A copy that keeps no buffer alive.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, text)| (name, String::from_utf8_lossy(text)));
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(ETAG, HeaderValue::from_static("\"a\""));
        map.append(SET_COOKIE, HeaderValue::from_static("a=1"));
        map.insert("x-odd", HeaderValue::from_bytes(b"\xff\x80").unwrap());
        map.insert("x-empty", HeaderValue::from_static(""));
        map.append(SET_COOKIE, HeaderValue::from_static("b=2"));
        map.append("x-odd", HeaderValue::from_static("2"));
        map
    }

    #[test]
    fn a_map_comes_back_as_it_was() {
        let fields = Fields::from(&map());
        assert_eq!(fields.to_map(0), map());
        let empty = Fields::from(&HeaderMap::new());
        assert_eq!((empty.to_map(0).len(), empty.bytes()), (0, 0));
    }

    #[test]
    fn common_names_cost_nothing() {
        let mut map = map();
        let before = Fields::from(&map).bytes();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert_eq!(Fields::from(&map).bytes() - before, 9 + FIELD_BYTES);
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let fields = Fields::from(&map());
        assert_eq!(fields.text(&ETAG), Some(&b"\"a\""[..]));
        assert_eq!(fields.value(&SET_COOKIE), Some(HeaderValue::from_static("a=1")));
        assert_eq!(fields.value(&HeaderName::from_static("x-empty")).unwrap(), "");
        assert_eq!(fields.text(&CONTENT_TYPE), None);
    }

    #[test]
    fn only_what_is_wanted_gets_into_the_map() {
        let fields = Fields::from(&map());
        let fields =
            fields.map_over(&Bytes::copy_from_slice(fields.values()), 0, |it| *it == SET_COOKIE);
        assert_eq!((fields.keys_len(), fields.len()), (1, 2));
    }

    #[test]
    fn a_map_with_room_does_not_grow() {
        let mut map = Fields::from(&map()).to_map(3);
        let capacity = map.capacity();
        for name in ["a", "b", "c"] {
            map.insert(name, HeaderValue::from_static("x"));
        }
        assert_eq!(map.capacity(), capacity);
    }
}
