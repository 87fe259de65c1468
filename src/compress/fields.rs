//! The fields of a response in a coding, and entity tags that tell its codings apart. Pure.
//!
//! Every coding of a representation needs a tag of its own (RFC 9110 §8.8.3.3), so `"x"` becomes
//! `"x-br"`. Bytes that are coded anew for each client are not the same each time: their tag is
//! made weak as well. A weak tag says nothing about bytes and stays as it is.

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE,
    RANGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Coding;

/// Digests of the plain form (RFC 9530, RFC 3230 and RFC 1864).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The bytes of a coded body.
#[derive(Debug, Clone, Copy)]
pub enum Bytes<'a> {
    /// Kept, and so the same for everybody.
    Kept(&'a KeptFields),
    /// Made while they are sent.
    Passing,
}

/// Values that describe a kept coding, made once for all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFields {
    length: HeaderValue,
    /// The tag of the plain form, and that of this one where it is another.
    tags: Option<(HeaderValue, HeaderValue)>,
}

impl KeptFields {
    /// Of `length` bytes, beside a plain form with this tag.
    pub fn new(plain: Option<HeaderValue>, coding: Coding, length: u64) -> Self {
        let coded = plain.as_ref().and_then(|etag| coded_tag(etag, coding));
        let tags = plain.zip(coded);
        Self { length: length.into(), tags }
    }

    /// In place of `etag`; a confirmation by the origin may have changed it since.
    fn tag(&self, etag: &HeaderValue, coding: Coding) -> Option<HeaderValue> {
        match &self.tags {
            Some((plain, coded)) if plain == etag => Some(coded.clone()),
            _ => coded_tag(etag, coding),
        }
    }
}

/// Makes the head of a plain response that of its coded form.
pub fn describe(headers: &mut HeaderMap, coding: Coding, bytes: Bytes<'_>) {
    headers.insert(CONTENT_ENCODING, coding.value());
    for name in DIGESTS {
        headers.remove(name);
    }
    match bytes {
        Bytes::Kept(kept) => {
            headers.insert(CONTENT_LENGTH, kept.length.clone());
        }
        Bytes::Passing => {
            headers.remove(CONTENT_LENGTH);
            headers.remove(ACCEPT_RANGES);
        }
    }
    let tag = headers.get(ETAG).and_then(|etag| match bytes {
        Bytes::Kept(kept) => kept.tag(etag, coding),
        Bytes::Passing => weak_coded_tag(etag, coding),
    });
    if let Some(tag) = tag {
        headers.insert(ETAG, tag);
    }
}

/// Notes that another client may get another coding, unless that is said already.
pub fn vary(headers: &mut HeaderMap) {
    const ACCEPT_ENCODING: &str = "Accept-Encoding";
    if !headers.contains_key(VARY) {
        headers.insert(VARY, HeaderValue::from_static(ACCEPT_ENCODING));
        return;
    }
    let mut members = headers
        .get_all(VARY)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    if members.any(|name| name == b"*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_bytes())) {
        return;
    }
    let mut line: Vec<u8> = Vec::new();
    for value in headers.get_all(VARY).iter().filter(|value| !value.is_empty()) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(ACCEPT_ENCODING.as_bytes());
    if let Ok(line) = HeaderValue::from_maybe_shared(::bytes::Bytes::from(line)) {
        headers.insert(VARY, line);
    }
}

/// The tag of a kept coding. `None` where that of the plain form stands for it too: a weak one, or
/// what is no tag at all.
fn coded_tag(etag: &HeaderValue, coding: Coding) -> Option<HeaderValue> {
    tag(b"", etag, coding)
}

fn weak_coded_tag(etag: &HeaderValue, coding: Coding) -> Option<HeaderValue> {
    tag(b"W/", etag, coding)
}

fn tag(prefix: &[u8], etag: &HeaderValue, coding: Coding) -> Option<HeaderValue> {
    let opaque = strong_opaque(etag.as_bytes())?;
    let text = [prefix, b"\"", opaque, b"-", coding.as_str().as_bytes(), b"\""].concat();
    HeaderValue::from_maybe_shared(::bytes::Bytes::from(text)).ok()
}

/// What is between the quotes of a strong tag, which an origin may have left out.
fn strong_opaque(tag: &[u8]) -> Option<&[u8]> {
    if let Some(quoted) = tag.strip_prefix(b"\"") {
        return quoted.strip_suffix(b"\"");
    }
    let is_opaque = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
    let is_bare = !tag.is_empty() && !tag.starts_with(b"W/") && tag.iter().all(is_opaque);
    is_bare.then_some(tag)
}

/// A tag that came without quotes, with them (RFC 9110 §8.8.3). `None` where it has them, or holds
/// what no tag may.
pub fn quoted(tag: &HeaderValue) -> Option<HeaderValue> {
    let bytes = tag.as_bytes();
    let (weak, inner) = match bytes.strip_prefix(b"W/") {
        Some(inner) => (b"W/".as_slice(), inner),
        None => (b"".as_slice(), bytes),
    };
    if inner.starts_with(b"\"") {
        return None;
    }
    let text = [weak, b"\"", strong_opaque(inner)?, b"\""].concat();
    HeaderValue::from_maybe_shared(::bytes::Bytes::from(text)).ok()
}

/// The inside of the plain form's tag, if `tag` may be that of one of its codings, weak or strong.
fn plain(tag: &[u8]) -> Option<(&[u8], Coding)> {
    let opaque = tag.strip_prefix(b"W/").unwrap_or(tag);
    let opaque = opaque.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Coding::ALL.into_iter().find_map(|coding| {
        let plain = opaque.strip_suffix(coding.as_str().as_bytes())?.strip_suffix(b"-")?;
        Some((plain, coding))
    })
}

/// Of which coding of the representation that is tagged `etag` this is the tag, weak or strong.
pub fn coding_of(tag: &[u8], etag: &[u8]) -> Option<Coding> {
    let etag = strong_opaque(etag)?;
    plain(tag).filter(|(plain, _)| *plain == etag).map(|(_, coding)| coding)
}

/// The tag in `If-None-Match` under which a client holds a coding of the representation that is
/// tagged `etag`, if the client still takes that coding.
pub fn held_tag(
    request: &HeaderMap,
    etag: &[u8],
    takes: impl Fn(Coding) -> bool,
) -> Option<HeaderValue> {
    let mut tags = request.get_all(IF_NONE_MATCH).iter().flat_map(|line| Tags(line.as_bytes()));
    let held = tags.find(|tag| coding_of(tag, etag).is_some_and(&takes))?;
    HeaderValue::from_bytes(held).ok()
}

/// Makes the conditions of a request understandable to an origin, which knows nothing of our tags.
/// An origin may use the like itself, so a tag is added, never replaced.
pub fn translate_conditions(headers: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MATCH] {
        if let Some(list) = with_plain_tags(headers, &name) {
            headers.insert(name, list);
        }
    }
    // A part of the plain form must not be put to parts of a coded one: the whole is asked for.
    if headers.get(IF_RANGE).is_some_and(|tag| plain(tag.as_bytes()).is_some()) {
        headers.remove(IF_RANGE);
        headers.remove(RANGE);
    }
}

/// All lines of a list of tags, and behind them the plain forms of those that are ours. `None`
/// where none is.
fn with_plain_tags(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut added: Vec<u8> = Vec::new();
    for line in headers.get_all(name) {
        for (plain, _) in Tags(line.as_bytes()).filter_map(plain) {
            added.extend_from_slice(b", \"");
            added.extend_from_slice(plain);
            added.push(b'"');
        }
    }
    if added.is_empty() {
        return None;
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let mut list = lines.join(b", ".as_slice());
    list.extend_from_slice(&added);
    HeaderValue::from_maybe_shared(::bytes::Bytes::from(list)).ok()
}

/// The members of a list of entity tags. A tag may hold commas, so quotes are minded; tags without
/// quotes, which some origins send, end at the next comma.
pub struct Tags<'a>(pub &'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let rest = &self.0[start..];
        let mut quoted = false;
        let end = rest
            .iter()
            .position(|byte| {
                quoted ^= *byte == b'"';
                !quoted && *byte == b','
            })
            .unwrap_or(rest.len());
        self.0 = &rest[end..];
        Some(rest[..end].trim_ascii_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn translated(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = headers(fields);
        translate_conditions(&mut map);
        map
    }

    #[test]
    fn a_coded_response_has_its_own_tag_length_and_no_digests() {
        let plain = headers(&[
            ("etag", "\"x\""),
            ("content-length", "5000"),
            ("accept-ranges", "bytes"),
            ("content-md5", "a"),
            ("digest", "b"),
            ("content-digest", "c"),
            ("repr-digest", "d"),
            ("x-other", "e"),
        ]);
        let mut kept = plain.clone();
        let fields = KeptFields::new(plain.get(ETAG).cloned(), Coding::Brotli, 70);
        describe(&mut kept, Coding::Brotli, Bytes::Kept(&fields));
        let expected = [
            ("etag", "\"x-br\""),
            ("content-length", "70"),
            ("accept-ranges", "bytes"),
            ("x-other", "e"),
            ("content-encoding", "br"),
        ];
        assert_eq!(kept, headers(&expected));
        let mut passing = plain;
        describe(&mut passing, Coding::Gzip, Bytes::Passing);
        let expected = [("etag", "W/\"x-gzip\""), ("x-other", "e"), ("content-encoding", "gzip")];
        assert_eq!(passing, headers(&expected));
    }

    #[test]
    fn a_kept_form_follows_the_tag_of_the_plain_one() {
        let kept = KeptFields::new(Some(HeaderValue::from_static("\"x\"")), Coding::Zstd, 5);
        for (etag, expected) in [("\"x\"", "\"x-zstd\""), ("\"y\"", "\"y-zstd\"")] {
            let mut fields = headers(&[("etag", etag)]);
            describe(&mut fields, Coding::Zstd, Bytes::Kept(&kept));
            assert_eq!(fields[ETAG], expected);
        }
    }

    #[test]
    fn a_weak_tag_stays_and_none_is_made_up() {
        let kept = KeptFields::new(Some(HeaderValue::from_static("W/\"x\"")), Coding::Zstd, 5);
        for bytes in [Bytes::Kept(&kept), Bytes::Passing] {
            let mut weak = headers(&[("etag", "W/\"x\"")]);
            describe(&mut weak, Coding::Zstd, bytes);
            assert_eq!(weak[ETAG], "W/\"x\"");
            let mut none = HeaderMap::new();
            describe(&mut none, Coding::Zstd, bytes);
            assert!(!none.contains_key(ETAG));
        }
    }

    #[test]
    fn a_tag_without_quotes_gets_them() {
        let mut bare = headers(&[("etag", "x")]);
        describe(&mut bare, Coding::Zstd, Bytes::Passing);
        assert_eq!(bare[ETAG], "W/\"x-zstd\"");
        assert_eq!(coding_of(b"\"x-zstd\"", b"x"), Some(Coding::Zstd));
        for (tag, expected) in [
            ("x", Some("\"x\"")),
            ("W/x", Some("W/\"x\"")),
            ("x/y-1", Some("\"x/y-1\"")),
            ("\"x\"", None),
            ("W/\"x\"", None),
            ("a b", None),
            ("a\"b", None),
            ("", None),
            ("W/", None),
        ] {
            let quoted = quoted(&HeaderValue::from_static(tag));
            assert_eq!(quoted, expected.map(HeaderValue::from_static), "{tag}");
        }
    }

    #[test]
    fn vary_is_said_once_beside_what_is_there() {
        let said = |lines: &[(&'static str, &'static str)]| {
            let mut map = headers(lines);
            vary(&mut map);
            map.get_all(VARY).iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(said(&[]), ["Accept-Encoding"]);
        assert_eq!(said(&[("vary", "")]), ["Accept-Encoding"]);
        assert_eq!(
            said(&[("vary", "Origin"), ("vary", "Cookie")]),
            ["Origin, Cookie, Accept-Encoding"]
        );
        assert_eq!(said(&[("vary", "origin, ACCEPT-encoding")]), ["origin, ACCEPT-encoding"]);
        assert_eq!(said(&[("vary", "*")]), ["*"]);
    }

    #[test]
    fn an_origin_is_given_its_own_tags_beside_ours() {
        for (list, expected) in [
            ("\"x-br\"", "\"x-br\", \"x\""),
            ("W/\"x-gzip\"", "W/\"x-gzip\", \"x\""),
            ("\"a\", \"b,-zstd\"", "\"a\", \"b,-zstd\", \"b,\""),
            ("\"a\", W/\"b\"", "\"a\", W/\"b\""),
            ("*", "*"),
            ("x-br", "x-br"),
            ("\"x-br", "\"x-br"),
            ("\"-br\"", "\"-br\", \"\""),
        ] {
            for name in ["if-none-match", "if-match"] {
                assert_eq!(translated(&[(name, list)])[name], expected);
            }
        }
        let two = translated(&[("if-none-match", "\"a\""), ("if-none-match", "\"b-br\"")]);
        assert_eq!(two, headers(&[("if-none-match", "\"a\", \"b-br\", \"b\"")]));
    }

    #[test]
    fn a_client_holds_a_coding_under_its_tag() {
        let etag = HeaderValue::from_static("\"x\"");
        let held = |list: &'static str, takes: fn(Coding) -> bool| {
            held_tag(&headers(&[("if-none-match", list)]), etag.as_bytes(), takes)
        };
        assert_eq!(held("\"a\", \"x-br\"", |_| true).unwrap(), "\"x-br\"");
        assert_eq!(held("W/\"x-gzip\"", |_| true).unwrap(), "W/\"x-gzip\"");
        assert_eq!(held("\"x-br\"", |coding| coding != Coding::Brotli), None);
        for list in ["\"x\"", "\"y-br\"", "\"x-deflate\"", "*", ""] {
            assert_eq!(held(list, |_| true), None, "{list}");
        }
        let weak = HeaderValue::from_static("W/\"x\"");
        assert_eq!(
            held_tag(&headers(&[("if-none-match", "\"x-br\"")]), weak.as_bytes(), |_| true),
            None
        );
    }

    #[test]
    fn a_range_of_a_coded_form_is_not_asked_of_the_origin() {
        let range = [("range", "bytes=5-"), ("if-range", "\"x-br\"")];
        assert!(translated(&range).is_empty());
        for tag in ["\"x\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            let range = [("range", "bytes=5-"), ("if-range", tag)];
            assert_eq!(translated(&range), headers(&range));
        }
    }
}
