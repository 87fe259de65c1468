//! Which field of a response says how it is cached (RFC 9213), and what it says.
//!
//! Our own `Headwater-Cache-Control` comes first, then `CDN-Cache-Control`, then the older
//! `Surrogate-Control`, then `Cache-Control` with `Expires`. The first that is valid and not empty
//! decides alone; the others might as well not be there.

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::control::{ResponseControl, next_member};

/// For this cache alone; never sent on.
pub const HEADWATER_CACHE_CONTROL: HeaderName = HeaderName::from_static("headwater-cache-control");
/// For all caches of the kind; sent on to those in front.
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// What `Surrogate-Control` calls us in the parameter of a directive.
const SURROGATE_NAME: &str = "headwater";

/// The field that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyField {
    Headwater,
    Cdn,
    Surrogate,
    #[default]
    CacheControl,
}

impl PolicyField {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Headwater => "Headwater-Cache-Control (RFC 9213)",
            Self::Cdn => "CDN-Cache-Control (RFC 9213)",
            Self::Surrogate => "Surrogate-Control",
            Self::CacheControl => "Cache-Control",
        }
    }

    /// Whether it is for some caches only: then `Cache-Control` and `Expires` do not count
    /// (RFC 9213 §2.1).
    pub fn is_targeted(self) -> bool {
        self != Self::CacheControl
    }
}

/// How a response may be cached, by the field that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub field: PolicyField,
    pub control: ResponseControl,
    /// Targeted fields that were passed over because they could not be read.
    pub unreadable: Vec<PolicyField>,
}

impl Policy {
    /// The policy of a response with these fields. `own` is what `Headwater-Cache-Control` said,
    /// which is not among the fields of a stored response.
    pub fn of(headers: &HeaderMap, own: Option<&HeaderValue>) -> Self {
        let mut unreadable = Vec::new();
        let own = own.cloned().or_else(|| combined(headers, &HEADWATER_CACHE_CONTROL));
        let candidates = [
            (PolicyField::Headwater, own),
            (PolicyField::Cdn, combined(headers, &CDN_CACHE_CONTROL)),
        ];
        for (field, value) in candidates {
            let Some(value) = value else { continue };
            match dictionary(&value) {
                Some(control) if control.present => return Self { field, control, unreadable },
                Some(_) => {}
                None => unreadable.push(field),
            }
        }
        if let Some(control) = surrogate(headers) {
            return Self { field: PolicyField::Surrogate, control, unreadable };
        }
        let control = ResponseControl::of(headers);
        Self { field: PolicyField::CacheControl, control, unreadable }
    }
}

/// All lines of a field in one.
pub fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let mut rest = lines.peekable();
    if rest.peek().is_none() {
        return Some(first.clone());
    }
    let mut all = first.as_bytes().to_vec();
    for line in rest {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}

/// The directives of a targeted field, which is a dictionary of structured fields. `None` for what
/// is none.
fn dictionary(value: &HeaderValue) -> Option<ResponseControl> {
    let members: Dictionary = Parser::new(value.as_bytes()).parse().ok()?;
    let mut control = ResponseControl::default();
    for (name, member) in &members {
        let name = name.as_str();
        // What has another type than its directive takes is malformed, and an argument without
        // text is so for all of them.
        let wrong = Some(String::new());
        let takes_names = matches!(name, "no-cache" | "private");
        let argument = match member {
            ListEntry::InnerList(_) => wrong,
            ListEntry::Item(item) => match &item.bare_item {
                BareItem::Boolean(true) => None,
                BareItem::Boolean(false) => continue,
                BareItem::Integer(number) if !takes_names => Some(number.to_string()),
                BareItem::String(text) if takes_names => Some(text.as_str().to_owned()),
                _ => wrong,
            },
        };
        control.take(name, argument.as_deref());
    }
    Some(control)
}

/// The directives of `Surrogate-Control` (Edge Architecture Specification 1.0 §2.2) that say how
/// long a response is kept; `None` where none does. Directives for others are passed over.
fn surrogate(headers: &HeaderMap) -> Option<ResponseControl> {
    let value = combined(headers, &SURROGATE_CONTROL)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let mut control = ResponseControl::default();
    let mut rest: &str = &text;
    while let Some((member, tail)) = next_member(rest) {
        rest = tail;
        let (directive, target) = match member.split_once(';') {
            Some((directive, target)) => (directive, Some(target.trim())),
            None => (member, None),
        };
        if target.is_some_and(|target| !target.eq_ignore_ascii_case(SURROGATE_NAME)) {
            continue;
        }
        let (name, argument) = match directive.trim().split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (directive.trim(), None),
        };
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            // The second age is how long it may be stale meanwhile.
            "max-age" => match argument.and_then(|argument| argument.split_once('+')) {
                Some((fresh, stale)) => {
                    control.take("max-age", Some(fresh));
                    control.take("stale-while-revalidate", Some(stale));
                }
                None => control.take(&name, argument),
            },
            "no-store" | "stale-while-revalidate" | "stale-if-error" => {
                control.take(&name, argument);
            }
            _ => {}
        }
    }
    (control.no_store || control.max_age.is_some()).then_some(control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(fields: &[(&'static str, &'static str)]) -> Policy {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Policy::of(&headers, None)
    }

    #[test]
    fn the_most_targeted_field_decides_alone() {
        let all = [
            ("cache-control", "no-store"),
            ("surrogate-control", "max-age=1"),
            ("cdn-cache-control", "max-age=2"),
            ("headwater-cache-control", "max-age=3"),
        ];
        for (count, field, age) in [
            (1, PolicyField::CacheControl, None),
            (2, PolicyField::Surrogate, Some(1)),
            (3, PolicyField::Cdn, Some(2)),
            (4, PolicyField::Headwater, Some(3)),
        ] {
            let policy = policy(&all[..count]);
            assert_eq!((policy.field, policy.control.max_age), (field, age));
            assert_eq!(policy.control.no_store, count == 1);
        }
    }

    #[test]
    fn a_field_that_is_no_dictionary_or_is_empty_might_as_well_not_be_there() {
        for (value, unreadable) in [
            ("max-age=5, &&&", true),
            ("MaX-aGe=5", true),
            ("max-age =5", true),
            ("max-age=5,", true),
            ("", false),
            ("  ", false),
        ] {
            let policy = policy(&[("cdn-cache-control", value), ("cache-control", "max-age=9")]);
            assert_eq!(policy.field, PolicyField::CacheControl, "{value}");
            assert_eq!(policy.control.max_age, Some(9), "{value}");
            assert_eq!(policy.unreadable.is_empty(), !unreadable, "{value}");
        }
    }

    #[test]
    fn directives_of_a_targeted_field_are_structured_items() {
        let control = policy(&[(
            "cdn-cache-control",
            "max-age=5;x=1, no-cache=\"a, b\", must-revalidate, ext=(1 2), public=?0",
        )])
        .control;
        assert_eq!(control.max_age, Some(5));
        assert_eq!(control.fields_to_omit().count(), 2);
        assert!(control.must_revalidate && !control.public);
        for wrong in ["max-age=\"5\"", "max-age=5.0", "max-age=-5", "max-age=(5)", "max-age=a"] {
            let policy = policy(&[("cdn-cache-control", wrong)]);
            assert_eq!(policy.control.max_age, Some(0), "{wrong}");
            assert_eq!(policy.control.malformed.len(), 1, "{wrong}");
        }
        let large = policy(&[("cdn-cache-control", "max-age=99999999999")]);
        assert_eq!(large.control.max_age, Some(1 << 31));
        let whole = policy(&[("cdn-cache-control", "private=(a), max-age=5")]).control;
        assert!(whole.private.is_whole());
    }

    #[test]
    fn lines_of_a_targeted_field_are_one_dictionary() {
        let policy =
            policy(&[("cdn-cache-control", "max-age=5"), ("cdn-cache-control", "no-store")]);
        assert!(policy.control.no_store);
        assert_eq!(policy.control.max_age, Some(5));
    }

    #[test]
    fn what_was_said_to_us_alone_is_remembered_apart() {
        let headers: HeaderMap =
            [(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
                .into_iter()
                .collect();
        let own = HeaderValue::from_static("max-age=7");
        let policy = Policy::of(&headers, Some(&own));
        assert_eq!((policy.field, policy.control.max_age), (PolicyField::Headwater, Some(7)));
    }

    #[test]
    fn surrogate_control_counts_where_it_says_how_long() {
        for (value, age, stale) in [
            ("max-age=60", Some(60), None),
            ("MaX-aGe=60, content=\"ESI/1.0\"", Some(60), None),
            ("max-age=60+30", Some(60), Some(30)),
            ("max-age=60;headwater", Some(60), None),
            ("max-age=60, stale-while-revalidate=5", Some(60), Some(5)),
            ("max-age =60", None, None),
            ("max-age=60;not-for-you", None, None),
            ("content=\"ESI/1.0\"", None, None),
        ] {
            let policy = policy(&[("surrogate-control", value), ("cache-control", "private")]);
            let control = &policy.control;
            assert_eq!((control.max_age, control.stale_while_revalidate), (age, stale), "{value}");
            assert_eq!(policy.field.is_targeted(), age.is_some(), "{value}");
        }
        assert!(policy(&[("surrogate-control", "no-store")]).control.no_store);
    }
}
