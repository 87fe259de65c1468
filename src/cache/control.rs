//! `Cache-Control` of responses and requests (RFC 9111 §5.2), read once into a compact form.
//!
//! One rule for what is malformed: the conservative reading. An age that is no number counts as
//! zero, of several values the smallest counts, a directive that takes no argument counts even
//! with one, and unknown directives are ignored.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};

/// RFC 9111 §1.2.2: what is greater than any age that matters.
const SECONDS_MAX: u64 = 1 << 31;

/// The directives of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseControl {
    /// Whether there was a directive at all.
    pub present: bool,
    pub no_store: bool,
    pub no_cache: Qualified,
    pub private: Qualified,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    pub immutable: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// A directive that may name the fields that it is limited to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Qualified {
    #[default]
    Absent,
    /// Without names: it means the whole response.
    Whole,
    Fields(Vec<HeaderName>),
}

/// The directives of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// `Some(None)`: any staleness.
    pub max_stale: Option<Option<u64>>,
}

impl ResponseControl {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for_each_directive(headers, |name, argument| {
            control.present = true;
            control.take(name, argument);
        });
        control
    }

    fn take(&mut self, name: &str, argument: Option<&str>) {
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache.take(argument),
            "private" => self.private.take(argument),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "no-transform" => self.no_transform = true,
            "immutable" => self.immutable = true,
            "max-age" => take_seconds(&mut self.max_age, argument),
            "s-maxage" => take_seconds(&mut self.s_maxage, argument),
            "stale-while-revalidate" => take_seconds(&mut self.stale_while_revalidate, argument),
            "stale-if-error" => take_seconds(&mut self.stale_if_error, argument),
            _ => {}
        }
    }
}

impl Qualified {
    fn take(&mut self, argument: Option<&str>) {
        let Some(argument) = argument else {
            *self = Self::Whole;
            return;
        };
        let names: Option<Vec<_>> = argument
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect();
        match (names, &mut *self) {
            (_, Self::Whole) => {}
            // Names that cannot be read might be any.
            (None, _) => *self = Self::Whole,
            (Some(names), _) if names.is_empty() => *self = Self::Whole,
            (Some(names), Self::Absent) => *self = Self::Fields(names),
            (Some(mut names), Self::Fields(known)) => known.append(&mut names),
        }
    }

    pub fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

impl RequestControl {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            // RFC 9111 §5.4: Pragma counts only where there is no Cache-Control.
            control.no_cache = headers.get_all(PRAGMA).iter().any(|value| {
                let value = value.as_bytes();
                value
                    .split(|byte| *byte == b',')
                    .any(|part| part.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
            });
            return control;
        }
        for_each_directive(headers, |name, argument| match name {
            "no-store" => control.no_store = true,
            "no-cache" => control.no_cache = true,
            "only-if-cached" => control.only_if_cached = true,
            "max-age" => take_seconds(&mut control.max_age, argument),
            "min-fresh" => {
                // The conservative reading of several is the largest.
                let seconds = argument.map_or(SECONDS_MAX, seconds_or(SECONDS_MAX));
                control.min_fresh = control.min_fresh.max(Some(seconds));
            }
            "max-stale" => {
                let limit = argument.map(seconds_or(0));
                control.max_stale = Some(match (control.max_stale.flatten(), limit) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                });
            }
            _ => {}
        });
        control
    }
}

fn take_seconds(slot: &mut Option<u64>, argument: Option<&str>) {
    let seconds = argument.map_or(0, seconds_or(0));
    *slot = Some(slot.map_or(seconds, |known| known.min(seconds)));
}

/// Reads delta-seconds (RFC 9111 §1.2.2), saturating; `default` for what is none.
fn seconds_or(default: u64) -> impl Fn(&str) -> u64 {
    move |text| {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return default;
        }
        text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX)
    }
}

/// Calls `visit` with each directive's name in lower case and its argument, unquoted.
fn for_each_directive(headers: &HeaderMap, mut visit: impl FnMut(&str, Option<&str>)) {
    for value in headers.get_all(CACHE_CONTROL) {
        // Bytes outside ASCII can stand only in quoted strings, where nothing here looks.
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut rest: &str = &text;
        while let Some((directive, tail)) = next_member(rest) {
            rest = tail;
            let (name, argument) = match directive.split_once('=') {
                Some((name, argument)) => (name.trim(), Some(argument.trim())),
                None => (directive.trim(), None),
            };
            if name.is_empty() {
                continue;
            }
            let name = name.to_ascii_lowercase();
            match argument.and_then(|text| text.strip_prefix('"')) {
                Some(quoted) => visit(&name, Some(&unquote(quoted))),
                None => visit(&name, argument),
            }
        }
    }
}

/// Splits the next member off a comma-separated list, minding quoted strings.
fn next_member(list: &str) -> Option<(&str, &str)> {
    if list.is_empty() {
        return None;
    }
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Some((&list[..at], &list[at + 1..])),
            _ => {}
        }
    }
    Some((list, ""))
}

/// The content of a quoted string up to its end, or to the end of the text where it has none.
fn unquote(text: &str) -> String {
    let mut content = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => {
                content.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => break,
            _ => content.push(c),
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (CACHE_CONTROL, HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    fn response(values: &[&str]) -> ResponseControl {
        ResponseControl::of(&headers(values))
    }

    #[test]
    fn directives_are_read_in_any_case_from_several_lines_with_odd_spaces() {
        let control = response(&["Public ,MAX-AGE = 60,", " , s-maxage=\"120\""]);
        assert!(control.public);
        assert_eq!(control.max_age, Some(60));
        assert_eq!(control.s_maxage, Some(120));
    }

    #[test]
    fn what_is_no_number_counts_as_zero_and_of_several_the_smallest_counts() {
        for (value, age) in [
            ("max-age=abc", 0),
            ("max-age=-5", 0),
            ("max-age=1.5", 0),
            ("max-age", 0),
            ("max-age=60, max-age=30", 30),
            ("max-age=99999999999999999999999", SECONDS_MAX),
            ("max-age=007", 7),
        ] {
            assert_eq!(response(&[value]).max_age, Some(age), "{value}");
        }
    }

    #[test]
    fn field_names_limit_private_and_no_cache_unless_they_cannot_be_read() {
        let control = response(&["private=\"set-cookie, x-a\", no-cache=\"\""]);
        let names = ["set-cookie", "x-a"].map(HeaderName::from_static).to_vec();
        assert_eq!(control.private, Qualified::Fields(names));
        assert!(control.no_cache.is_whole());
        assert!(response(&["private=\"a b\""]).private.is_whole());
        assert!(response(&["private=\"a\", private"]).private.is_whole());
    }

    #[test]
    fn a_comma_inside_quotes_does_not_end_a_directive() {
        let control = response(&["ext=\"no-store, private\", max-age=5"]);
        assert!(!control.no_store);
        assert_eq!(control.private, Qualified::Absent);
        assert_eq!(control.max_age, Some(5));
    }

    #[test]
    fn an_unterminated_quote_swallows_only_what_follows() {
        let control = response(&["max-age=5, ext=\"no-store"]);
        assert_eq!(control.max_age, Some(5));
        assert!(!control.no_store);
    }

    #[test]
    fn pragma_counts_in_requests_without_cache_control() {
        let mut only_pragma = HeaderMap::new();
        only_pragma.insert(PRAGMA, HeaderValue::from_static("No-Cache"));
        assert!(RequestControl::of(&only_pragma).no_cache);
        only_pragma.insert(CACHE_CONTROL, HeaderValue::from_static("max-stale"));
        let control = RequestControl::of(&only_pragma);
        assert!(!control.no_cache);
        assert_eq!(control.max_stale, Some(None));
    }
}
