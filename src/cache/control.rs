//! `Cache-Control` of responses and requests (RFC 9111 §5.2), read once into a compact form.
//!
//! One rule for what is malformed: the conservative reading. An age that is no number counts as
//! zero, of several values the smallest counts, a directive that takes no argument counts even
//! with one, and unknown directives are ignored. What was malformed is noted, for whoever asks why.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};

/// RFC 9111 §1.2.2: what is greater than any age that matters.
const SECONDS_MAX: u64 = 1 << 31;
/// Malformed directives of one response that are noted.
const MALFORMED_MAX: usize = 8;

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
    /// Directives that could not be read as they stand.
    pub malformed: Vec<String>,
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
    /// Reads `Cache-Control`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for_each_directive(headers, |name, argument| control.take(name, argument));
        control
    }

    /// Takes a directive with its name in lower case and its argument without quotes.
    pub(super) fn take(&mut self, name: &str, argument: Option<&str>) {
        self.present = true;
        let is_well_formed = match name {
            "no-store" => set(&mut self.no_store),
            "no-cache" => self.no_cache.take(argument),
            "private" => self.private.take(argument),
            "public" => set(&mut self.public),
            "must-revalidate" => set(&mut self.must_revalidate),
            "proxy-revalidate" => set(&mut self.proxy_revalidate),
            "must-understand" => set(&mut self.must_understand),
            "no-transform" => set(&mut self.no_transform),
            "immutable" => set(&mut self.immutable),
            "max-age" => take_seconds(&mut self.max_age, argument),
            "s-maxage" => take_seconds(&mut self.s_maxage, argument),
            "stale-while-revalidate" => take_seconds(&mut self.stale_while_revalidate, argument),
            "stale-if-error" => take_seconds(&mut self.stale_if_error, argument),
            _ => true,
        };
        if !is_well_formed && self.malformed.len() < MALFORMED_MAX {
            self.malformed.push(match argument {
                Some(argument) => format!("{name}={argument}"),
                None => name.to_owned(),
            });
        }
    }

    /// The fields that may not be stored, or not be served from the store: what names of fields
    /// limit `private` and `no-cache` to (RFC 9111 §5.2.2.4, §5.2.2.7).
    pub fn fields_to_omit(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.private, &self.no_cache].into_iter().flat_map(|it| match it {
            Qualified::Fields(names) => names.as_slice(),
            Qualified::Absent | Qualified::Whole => &[],
        })
    }
}

fn set(flag: &mut bool) -> bool {
    *flag = true;
    true
}

impl Qualified {
    /// Takes one more occurrence; false if its names could not be read.
    fn take(&mut self, argument: Option<&str>) -> bool {
        let Some(argument) = argument else {
            *self = Self::Whole;
            return true;
        };
        let names: Option<Vec<_>> = argument
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect();
        let Some(mut names) = names.filter(|names| !names.is_empty()) else {
            // Names that cannot be read might be any.
            *self = Self::Whole;
            return false;
        };
        match self {
            Self::Whole => {}
            Self::Absent => *self = Self::Fields(names),
            Self::Fields(known) => known.append(&mut names),
        }
        true
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
            "max-age" => {
                take_seconds(&mut control.max_age, argument);
            }
            "min-fresh" => {
                // The conservative reading of several is the largest.
                let seconds = argument.and_then(seconds).unwrap_or(SECONDS_MAX);
                control.min_fresh = control.min_fresh.max(Some(seconds));
            }
            "max-stale" => {
                let limit = argument.map(|text| seconds(text).unwrap_or(0));
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

/// Takes one more age; false if it is no number.
fn take_seconds(slot: &mut Option<u64>, argument: Option<&str>) -> bool {
    let seconds = argument.and_then(seconds);
    let counted = seconds.unwrap_or(0);
    *slot = Some(slot.map_or(counted, |known| known.min(counted)));
    seconds.is_some()
}

/// Reads delta-seconds (RFC 9111 §1.2.2), saturating.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// Calls `visit` with each directive's name in lower case and its argument, unquoted. White space
/// beside the `=` is in no grammar: it stays with the argument, which it makes malformed.
fn for_each_directive(headers: &HeaderMap, mut visit: impl FnMut(&str, Option<&str>)) {
    for value in headers.get_all(CACHE_CONTROL) {
        // Bytes outside ASCII can stand only in quoted strings, where nothing here looks.
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut rest: &str = &text;
        while let Some((directive, tail)) = next_member(rest) {
            rest = tail;
            let directive = directive.trim();
            let (name, argument) = match directive.split_once('=') {
                Some((name, argument)) => (name, Some(argument)),
                None => (directive, None),
            };
            let known = name.trim_end().to_ascii_lowercase();
            if known.is_empty() {
                continue;
            }
            let argument = argument.map(|text| if known.len() < name.len() { " " } else { text });
            match argument.and_then(|text| text.strip_prefix('"')) {
                Some(quoted) => visit(&known, Some(&unquote(quoted))),
                None => visit(&known, argument),
            }
        }
    }
}

/// Splits the next member off a comma-separated list, minding quoted strings.
pub(super) fn next_member(list: &str) -> Option<(&str, &str)> {
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
        let control = response(&["Public ,MAX-AGE=60,", " , s-maxage=\"120\""]);
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
            ("max-age =60", 0),
            ("max-age= 60", 0),
            ("max-age='60'", 0),
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
        assert_eq!(control.fields_to_omit().count(), 2);
        assert!(response(&["private=\"a b\""]).private.is_whole());
        assert!(response(&["private=\"a\", private"]).private.is_whole());
    }

    #[test]
    fn what_is_malformed_is_noted() {
        let control = response(&["max-age=a, s-maxage=5, private=\"a b\", no-store=1, max-age"]);
        assert_eq!(control.malformed, ["max-age=a", "private=a b", "max-age"]);
        assert!(control.no_store);
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
