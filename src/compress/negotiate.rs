//! `Accept-Encoding` (RFC 9110 §12.5.3): which coding a client gets, and what an origin is asked
//! for on its behalf. Pure, and without an allocation: it runs for every hit that may be coded.

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};

use super::Coding;

/// A weight in thousandths.
type Quality = u16;

const QUALITY_MAX: Quality = 1000;

/// How much a client wants each coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// By [`Coding::index`].
    codings: [Quality; Coding::ALL.len()],
    /// The plain form; 0 also when nothing is said of it. It is sent all the same where nothing
    /// else will do: a 406 helps nobody.
    identity: Quality,
}

impl Accepted {
    /// Without the field every coding is acceptable to a strict reader of the RFC; only the plain
    /// form is to us, since clients that do not send it rarely decode anything.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut named = [None; Coding::ALL.len()];
        let (mut identity, mut others) = (None, None);
        for line in headers.get_all(ACCEPT_ENCODING) {
            for member in line.as_bytes().split(|byte| *byte == b',') {
                let (name, quality) = member_of(member);
                let place = match coding(name) {
                    Some(coding) => &mut named[coding.index()],
                    None if name.eq_ignore_ascii_case(b"identity") => &mut identity,
                    None if name == b"*" => &mut others,
                    None => continue,
                };
                // Said twice, the refusal counts.
                *place = Some(place.map_or(quality, |before: Quality| before.min(quality)));
            }
        }
        let quality = |named: Option<Quality>| named.or(others).unwrap_or(0);
        Self { codings: named.map(quality), identity: quality(identity) }
    }

    /// Whether the client can do with `coding` at all.
    pub fn takes(&self, coding: Coding) -> bool {
        self.quality(coding) > 0
    }

    /// The coding to use; `None` is the plain form.
    pub fn best(&self) -> Option<Coding> {
        let mut best: Option<Coding> = None;
        for coding in Coding::ALL {
            let quality = self.quality(coding);
            if quality > best.map_or(0, |best| self.quality(best)) {
                best = Some(coding);
            }
        }
        best.filter(|best| self.quality(*best) >= self.identity)
    }

    /// The codings to use if they are there, the best first; the plain form is what remains.
    pub fn preferred(&self) -> impl Iterator<Item = Coding> {
        let mut codings = Coding::ALL;
        // Stable, so equal weights leave our own order.
        codings.sort_by_key(|&coding| std::cmp::Reverse(self.quality(coding)));
        codings
            .into_iter()
            .filter(|coding| self.takes(*coding) && self.quality(*coding) >= self.identity)
    }

    fn quality(&self, coding: Coding) -> Quality {
        self.codings[coding.index()]
    }
}

/// The `Accept-Encoding` that an origin gets in place of a client's: of `br, gzip` what the client
/// takes and does not like less than the plain form, the better first, in one spelling of each
/// order, so that a response that varies by it has few variants. `None` where the client says
/// nothing: then neither do we. zstd is not asked for: it is made here.
pub fn normal_accept_encoding(headers: &HeaderMap) -> Option<HeaderValue> {
    if !headers.contains_key(ACCEPT_ENCODING) {
        return None;
    }
    let accepted = Accepted::of(headers);
    let quality = |coding| accepted.quality(coding);
    let is_wanted = |coding| accepted.takes(coding) && quality(coding) >= accepted.identity;
    Some(HeaderValue::from_static(match (is_wanted(Coding::Brotli), is_wanted(Coding::Gzip)) {
        (true, true) if quality(Coding::Gzip) > quality(Coding::Brotli) => "gzip, br;q=0.5",
        (true, true) => "br, gzip",
        (true, false) => "br",
        (false, true) => "gzip",
        // An absent field would say that any coding will do.
        (false, false) => "identity",
    }))
}

/// RFC 9110 §8.4.1.3: `x-gzip` is another name of gzip.
fn coding(name: &[u8]) -> Option<Coding> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("x-gzip") {
        return Some(Coding::Gzip);
    }
    Coding::ALL.into_iter().find(|coding| is(coding.as_str()))
}

/// The name and the weight of a member.
fn member_of(member: &[u8]) -> (&[u8], Quality) {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().unwrap_or_default();
    (name, parts.find_map(weight).unwrap_or(QUALITY_MAX))
}

/// The weight in a parameter; `None` for a parameter of another name. A weight that breaks the
/// grammar counts as a refusal: the plain form is right for every client.
fn weight(parameter: &[u8]) -> Option<Quality> {
    let at = parameter.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&parameter[..at], &parameter[at + 1..]);
    name.trim_ascii()
        .eq_ignore_ascii_case(b"q")
        .then(|| parse_weight(value.trim_ascii()).unwrap_or(0))
}

/// RFC 9110 §12.4.2: from 0 to 1 with at most three decimals.
fn parse_weight(text: &[u8]) -> Option<Quality> {
    let (whole, decimals) = match text {
        [whole, b'.', decimals @ ..] => (whole, decimals),
        [whole] => (whole, &[][..]),
        _ => return None,
    };
    if decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = decimals.iter().chain(b"000").take(3);
    let thousandths = digits.fold(0, |sum, digit| sum * 10 + Quality::from(digit - b'0'));
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(QUALITY_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Coding::{Brotli, Gzip, Zstd};
    use super::*;

    fn asking(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (ACCEPT_ENCODING, HeaderValue::from_static(line))).collect()
    }

    fn best(line: &'static str) -> Option<Coding> {
        let accepted = Accepted::of(&asking(&[line]));
        assert_eq!(accepted.best(), accepted.preferred().next(), "{line}");
        accepted.best()
    }

    #[test]
    fn equal_weights_leave_our_own_order() {
        assert_eq!(best("gzip, deflate, zstd, br"), Some(Brotli));
        assert_eq!(best("gzip, zstd"), Some(Zstd));
        assert_eq!(best("gzip;q=0.5, br;q=0.5"), Some(Brotli));
        let all: Vec<_> = Accepted::of(&asking(&["gzip, zstd, br"])).preferred().collect();
        assert_eq!(all, [Brotli, Zstd, Gzip]);
    }

    #[test]
    fn a_higher_weight_comes_first() {
        assert_eq!(best("br;q=0.4, gzip;q=0.5"), Some(Gzip));
        assert_eq!(best("br;q=0.999, gzip;q=1.000"), Some(Gzip));
        assert_eq!(best("br;q=0.1, zstd;q=0.2, gzip;q=0.15"), Some(Zstd));
    }

    #[test]
    fn a_weight_of_zero_refuses() {
        assert_eq!(best("br;q=0, gzip"), Some(Gzip));
        assert_eq!(best("br;q=0.000, gzip;Q=0.0"), None);
        assert_eq!(best("gzip, x-gzip;q=0"), None);
    }

    #[test]
    fn a_weight_that_breaks_the_grammar_refuses() {
        for line in ["br;q=2", "br;q=", "br;q=1.001", "br;q=0.1234", "br;q=-1", "br;q=0.x"] {
            assert_eq!(best(line), None, "{line}");
        }
        assert_eq!(best("br;q=1."), Some(Brotli));
        assert_eq!(best("br;level=5"), Some(Brotli));
    }

    #[test]
    fn without_the_field_or_with_an_empty_one_the_plain_form_is_wanted() {
        assert_eq!(Accepted::of(&HeaderMap::new()).best(), None);
        for line in ["", " , ", "deflate", "identity", "brotli"] {
            assert_eq!(best(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_star_stands_for_what_is_not_named() {
        assert_eq!(best("*"), Some(Brotli));
        assert_eq!(best("br;q=0, *"), Some(Zstd));
        assert_eq!(best("gzip, *;q=0"), Some(Gzip));
        assert_eq!(best("gzip;q=0.5, *"), Some(Brotli));
        assert_eq!(best("*;q=0"), None);
    }

    #[test]
    fn the_plain_form_wins_when_it_weighs_more() {
        assert_eq!(best("identity, br;q=0.5"), None);
        assert_eq!(best("identity;q=0.6, br;q=0.5, gzip;q=0.7"), Some(Gzip));
        assert_eq!(best("identity;q=0.5, gzip;q=0.5"), Some(Gzip));
        assert_eq!(best("identity;q=0, gzip;q=0.001"), Some(Gzip));
    }

    #[test]
    fn names_have_no_case_and_x_gzip_is_gzip() {
        assert_eq!(best("BR"), Some(Brotli));
        assert_eq!(best("x-gzip ; q=0.3"), Some(Gzip));
        assert_eq!(best("Identity;q=1, X-GZIP;q=0.3"), None);
    }

    #[test]
    fn several_lines_are_one_list() {
        assert_eq!(Accepted::of(&asking(&["gzip", "br"])).best(), Some(Brotli));
    }

    #[test]
    fn an_origin_is_asked_in_one_of_five_ways_or_not_at_all() {
        let normal = |lines: &[&'static str]| normal_accept_encoding(&asking(lines));
        for (line, expected) in [
            ("gzip, deflate, br, zstd", "br, gzip"),
            ("BR;q=0.1 ,x-gzip;q=0.1", "br, gzip"),
            ("BR;q=0.1 ,x-gzip", "gzip, br;q=0.5"),
            ("br;q=0.1, identity", "identity"),
            ("*", "br, gzip"),
            ("gzip", "gzip"),
            ("br, gzip;q=0", "br"),
            ("zstd", "identity"),
            ("", "identity"),
        ] {
            assert_eq!(
                normal(&[line]).as_ref().map(HeaderValue::as_bytes),
                Some(expected.as_bytes())
            );
        }
        assert_eq!(normal(&[]), None);
    }
}
