//! `Accept-Encoding` (RFC 9110 §12.5.3): which of the codings that a folder may hold ready a
//! client prefers. Pure. Compressing on the way is deliberately absent.

use http::{HeaderMap, header};

/// A content coding in which a file may lie beside its plain form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Gzip,
}

/// A weight in thousandths.
type Quality = u16;

const QUALITY_MAX: Quality = 1000;

/// How much a client wants each coding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    brotli: Quality,
    gzip: Quality,
    /// The plain form; 0 also when nothing is said of it.
    identity: Quality,
}

impl Coding {
    /// In the order of our preference.
    pub(super) const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// The value of `Content-Encoding`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The last extension of a file in this coding.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gz",
        }
    }
}

impl Accepted {
    /// Without the field every coding is acceptable to a strict reader of the RFC; only the plain
    /// form is to us, since clients that do not send it rarely decode anything.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let (mut brotli, mut gzip, mut identity, mut others) = (None, None, None, None);
        let fields = headers.get_all(header::ACCEPT_ENCODING).iter();
        for member in fields.filter_map(|field| field.to_str().ok()).flat_map(|f| f.split(',')) {
            let mut parts = member.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(weight).unwrap_or(QUALITY_MAX);
            match coding.as_str() {
                "br" => brotli = Some(quality),
                "gzip" | "x-gzip" => gzip = Some(quality),
                "identity" => identity = Some(quality),
                "*" => others = Some(quality),
                _ => {}
            }
        }
        let quality = |named: Option<Quality>| named.or(others).unwrap_or(0);
        Self { brotli: quality(brotli), gzip: quality(gzip), identity: quality(identity) }
    }

    /// The codings to use if they are there, the best first; the plain form is what remains.
    pub(super) fn preferred(&self) -> impl Iterator<Item = Coding> {
        let mut codings = Coding::ALL;
        // Stable, so equal weights leave our own order.
        codings.sort_by_key(|&coding| std::cmp::Reverse(self.quality(coding)));
        codings.into_iter().filter(|&coding| {
            let quality = self.quality(coding);
            quality > 0 && quality >= self.identity
        })
    }

    fn quality(&self, coding: Coding) -> Quality {
        match coding {
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        }
    }
}

/// The weight in a parameter; `None` for a parameter of another name. A weight that breaks the
/// grammar counts as a refusal: the plain form is right for every client.
fn weight(parameter: &str) -> Option<Quality> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then(|| parse_weight(value.trim()).unwrap_or(0))
}

/// RFC 9110 §12.4.2: from 0 to 1 with at most three decimals.
fn parse_weight(text: &str) -> Option<Quality> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = decimals
        .bytes()
        .chain([b'0'; 3])
        .take(3)
        .fold(0, |sum, digit| sum * 10 + Quality::from(digit - b'0'));
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(QUALITY_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::Coding::{Brotli, Gzip};
    use super::*;

    fn preferred(field: &'static str) -> Vec<Coding> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(field));
        Accepted::from_headers(&headers).preferred().collect()
    }

    #[test]
    fn brotli_comes_first_when_the_weights_are_equal() {
        assert_eq!(preferred("gzip, deflate, br, zstd"), [Brotli, Gzip]);
        assert_eq!(preferred("gzip;q=0.5, br;q=0.5"), [Brotli, Gzip]);
    }

    #[test]
    fn a_higher_weight_comes_first() {
        assert_eq!(preferred("br;q=0.4, gzip;q=0.5"), [Gzip, Brotli]);
        assert_eq!(preferred("br;q=0.999, gzip;q=1.000"), [Gzip, Brotli]);
    }

    #[test]
    fn a_weight_of_zero_refuses() {
        assert_eq!(preferred("br;q=0, gzip"), [Gzip]);
        assert_eq!(preferred("br;q=0.000, gzip;Q=0.0"), []);
    }

    #[test]
    fn a_weight_that_breaks_the_grammar_refuses() {
        for field in ["br;q=2", "br;q=", "br;q=1.001", "br;q=0.1234", "br;q=-1", "br;q=0.x"] {
            assert_eq!(preferred(field), [], "{field}");
        }
    }

    #[test]
    fn without_the_field_nothing_but_the_plain_form_is_wanted() {
        assert_eq!(Accepted::from_headers(&HeaderMap::new()).preferred().count(), 0);
        assert_eq!(preferred(""), []);
    }

    #[test]
    fn a_star_stands_for_what_is_not_named() {
        assert_eq!(preferred("*"), [Brotli, Gzip]);
        assert_eq!(preferred("br;q=0, *"), [Gzip]);
        assert_eq!(preferred("gzip, *;q=0"), [Gzip]);
    }

    #[test]
    fn the_plain_form_wins_when_it_weighs_more() {
        assert_eq!(preferred("identity, br;q=0.5"), []);
        assert_eq!(preferred("identity;q=0.6, br;q=0.5, gzip;q=0.7"), [Gzip]);
        assert_eq!(preferred("identity;q=0, gzip"), [Gzip]);
    }

    #[test]
    fn names_have_no_case_and_x_gzip_is_gzip() {
        assert_eq!(preferred("BR"), [Brotli]);
        assert_eq!(preferred("x-gzip ; q=0.3"), [Gzip]);
    }

    #[test]
    fn several_fields_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(
            Accepted::from_headers(&headers).preferred().collect::<Vec<_>>(),
            [Brotli, Gzip]
        );
    }
}
