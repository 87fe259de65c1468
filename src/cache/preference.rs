//! Lists of preferences in one spelling (RFC 9110 §12.4.2, §12.5): `Accept`, `Accept-Charset`,
//! `Accept-Encoding` and `Accept-Language` mean the same in any order, case and spacing.

use http::HeaderName;
use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE};

/// Whether a field is a list of preferences.
pub(super) fn is_preference(name: &HeaderName) -> bool {
    [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name)
}

/// The list in the order of its weights, each member once and as short as it can be said. `None`
/// where something in it cannot be read: then only the same text means the same.
pub(super) fn normal<'a>(
    name: &HeaderName,
    members: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut read: Vec<Member> = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        read.push(Member::read(name, member)?);
    }
    // Weightier ones first; among equals the order means nothing.
    read.sort_unstable_by(|a, b| b.weight.cmp(&a.weight).then_with(|| a.text.cmp(&b.text)));
    read.dedup();
    let mut text = Vec::new();
    for member in read {
        text.extend_from_slice(&member.text);
        text.push(b';');
        text.extend_from_slice(&member.weight.to_be_bytes());
        text.push(b',');
    }
    Some(text)
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    text: Vec<u8>,
    /// In thousandths.
    weight: u16,
}

impl Member {
    fn read(name: &HeaderName, member: &[u8]) -> Option<Self> {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut text = parts.next().filter(|text| !text.is_empty())?.to_ascii_lowercase();
        if text.iter().any(|byte| byte.is_ascii_whitespace() || *byte == b'"') {
            return None;
        }
        let mut weight = 1000;
        let mut is_weighed = false;
        for part in parts {
            if is_weighed || part.contains(&b'"') {
                // Extensions behind the weight mean what they like, and a quoted text may hold
                // anything.
                return None;
            }
            match part {
                [b'q' | b'Q', b'=', value @ ..] => {
                    weight = thousandths(value)?;
                    is_weighed = true;
                }
                _ => {
                    text.push(b';');
                    text.extend_from_slice(part);
                }
            }
        }
        if *name == ACCEPT_ENCODING {
            // RFC 9110 §8.4.1.3.
            text = match text.as_slice() {
                b"x-gzip" => b"gzip".to_vec(),
                b"x-compress" => b"compress".to_vec(),
                _ => text,
            };
        }
        Some(Self { text, weight })
    }
}

/// A weight (RFC 9110 §12.4.2): at most three digits behind the point.
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, decimals) = match value {
        [whole, b'.', decimals @ ..] => (whole, decimals),
        [whole] => (whole, &[][..]),
        _ => return None,
    };
    if decimals.len() > 3 || !matches!(whole, b'0' | b'1') {
        return None;
    }
    let mut weight = u16::from(whole - b'0') * 1000;
    for (decimal, unit) in decimals.iter().zip([100, 10, 1]) {
        weight += unit * u16::from(decimal.is_ascii_digit().then(|| decimal - b'0')?);
    }
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: HeaderName, text: &str) -> Option<Vec<u8>> {
        normal(&name, text.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
    }

    #[test]
    fn order_case_and_spaces_of_languages_mean_nothing() {
        let expected = of(ACCEPT_LANGUAGE, "en, de");
        assert!(expected.is_some());
        for same in ["de, en", "eN,De", " en ,   de", "en;q=1, de;q=1.000", "en,de,en", ",en,,de"] {
            assert_eq!(of(ACCEPT_LANGUAGE, same), expected, "{same}");
        }
        for other in ["en", "en, de;q=0.9", "en, de-at", "en, fr"] {
            assert_ne!(of(ACCEPT_LANGUAGE, other), expected, "{other}");
        }
    }

    #[test]
    fn old_names_of_codings_are_the_new_ones() {
        assert_eq!(of(ACCEPT_ENCODING, "x-gzip, BR"), of(ACCEPT_ENCODING, "br,gzip"));
        assert_ne!(of(ACCEPT_ENCODING, "gzip;q=0"), of(ACCEPT_ENCODING, "gzip"));
    }

    #[test]
    fn parameters_of_a_media_type_stay() {
        let html = "text/html;level=1";
        let weighed = of(ACCEPT, "text/html;level=1;q=0.5");
        assert_eq!(of(ACCEPT, "Text/HTML ; level=1;q=0.50"), weighed);
        assert_ne!(of(ACCEPT, html), of(ACCEPT, "text/html"));
    }

    #[test]
    fn what_cannot_be_read_has_no_other_spelling() {
        for text in
            ["en;q=2", "en;q=0.1234", "en;q=", "en;q=a", "e n", "text/a;b=\"c\"", "a;q=1;b", ";q=1"]
        {
            assert_eq!(of(ACCEPT, text), None, "{text}");
        }
    }

    #[test]
    fn members_cannot_run_into_each_other() {
        assert_ne!(of(ACCEPT_LANGUAGE, "a, b"), of(ACCEPT_LANGUAGE, "ab"));
        assert_ne!(of(ACCEPT_LANGUAGE, "a;q=0.5, b"), of(ACCEPT_LANGUAGE, "a, b;q=0.5"));
    }
}
