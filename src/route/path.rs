//! The path normal form: one spelling for every path that means the same.
//!
//! Routing, the cache key, purges and the upstream all use it, so that no two of them can read one
//! request differently. Percent-encoded unreserved characters are decoded (RFC 3986 §6.2.2.2), hex
//! digits are upper case (§6.2.2.1), dot segments are removed (§5.2.4), also when written `%2e`.
//! Whatever can stand neither in a URI nor in a header value (controls, space, non-ASCII) is
//! percent-encoded, so a normal path is visible ASCII.
//!
//! `//` and `%2F` are kept: to many origins they mean something. Refused is what origins disagree
//! about and attackers use: NUL and backslash, raw or encoded, and a `%` without two hex digits.
//! Deliberately absent: queries, and `*` of `OPTIONS *`.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    NotAbsolute,
    BadPercent,
    Nul,
    Backslash,
}

impl PathError {
    /// The broken rule, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "the path does not begin with a slash",
            Self::BadPercent => "a percent sign in the path is not followed by two hex digits",
            Self::Nul => "the path contains NUL",
            Self::Backslash => "the path contains a backslash",
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error for PathError {}

/// The normal form of `raw`, the path of a URI without its query.
///
/// An empty path is `/` (RFC 9110 §4.2.3). Borrows when nothing changes, and is idempotent.
pub fn normalize(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plain(raw.as_bytes()) || is_normal(raw.as_bytes()) {
        return Ok(Cow::Borrowed(raw));
    }
    rewrite(raw).map(Cow::Owned)
}

/// Appends `%XX`.
pub(super) fn push_encoded(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 0xF)]);
}

/// Whether the path has nothing that needs a closer look, which is true of most requests: a third
/// of the cost of [`is_normal`], since without early exits this compiles to vector instructions.
fn is_plain(path: &[u8]) -> bool {
    let is_special = |byte: u8| !byte.is_ascii_graphic() | (byte == b'%') | (byte == b'\\');
    let Some((last, before)) = path.split_last() else { return true };
    let suspicious = before.iter().zip(&path[1..]).fold(false, |found, (byte, next)| {
        found | is_special(*byte) | ((*byte == b'/') & (*next == b'.'))
    });
    !(suspicious | is_special(*last))
}

/// Whether the path is in normal form already.
fn is_normal(path: &[u8]) -> bool {
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'/', [b'.'] | [b'.', b'.'] | [b'.', b'/', ..] | [b'.', b'.', b'/', ..]) => {
                return false;
            }
            (b'%', [high, low, tail @ ..]) if is_kept_escape(*high, *low) => tail,
            (b'%' | b'\\', _) => return false,
            (b'!'..=b'~', tail) => tail,
            _ => return false,
        };
    }
    true
}

/// Whether `%` with these digits stands in a normal path.
fn is_kept_escape(high: u8, low: u8) -> bool {
    !high.is_ascii_lowercase()
        && !low.is_ascii_lowercase()
        && hex_value(high, low)
            .is_some_and(|byte| byte != 0 && byte != b'\\' && !is_unreserved(byte))
}

fn rewrite(raw: &str) -> Result<String, PathError> {
    let mut normal = String::with_capacity(raw.len());
    // The first part is the nothing before the leading slash.
    let mut segments = raw.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let start = normal.len();
        normal.push('/');
        push_segment(&mut normal, segment)?;
        let kept = match &normal[start..] {
            "/." => start,
            "/.." => normal[..start].rfind('/').unwrap_or(0),
            _ => continue,
        };
        normal.truncate(kept);
        if segments.peek().is_none() {
            normal.push('/');
        }
    }
    Ok(normal)
}

fn push_segment(normal: &mut String, segment: &str) -> Result<(), PathError> {
    let mut bytes = segment.bytes();
    while let Some(first) = bytes.next() {
        let (byte, escaped) = match first {
            b'%' => {
                let digits = bytes.next().zip(bytes.next());
                let value = digits.and_then(|(high, low)| hex_value(high, low));
                (value.ok_or(PathError::BadPercent)?, true)
            }
            _ => (first, false),
        };
        match byte {
            0 => return Err(PathError::Nul),
            b'\\' => return Err(PathError::Backslash),
            _ if is_unreserved(byte) => normal.push(char::from(byte)),
            _ if escaped || !byte.is_ascii_graphic() => push_encoded(normal, byte),
            _ => normal.push(char::from(byte)),
        }
    }
    Ok(())
}

fn hex_value(high: u8, low: u8) -> Option<u8> {
    let high = char::from(high).to_digit(16)?;
    let low = char::from(low).to_digit(16)?;
    u8::try_from(high << 4 | low).ok()
}

/// RFC 3986 §2.3
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_normal_form(raw: &str, normal: &str) {
        assert_eq!(normalize(raw).as_deref(), Ok(normal), "of {raw:?}");
    }

    /// All strings of up to `length` of these parts, with a slash before them.
    fn every_path(parts: &[&str], length: u32, mut visit: impl FnMut(&str)) {
        let base = parts.len();
        for length in 0..=length {
            for number in 0..base.pow(length) {
                let digits = (0..length).map(|place| number / base.pow(place) % base);
                let path: String = digits.map(|digit| parts[digit]).collect();
                visit(&format!("/{path}"));
            }
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in [
            "/",
            "/index.html",
            "/a//b/",
            "/.well-known/acme-challenge/x",
            "/...",
            "/a/..b/.c./",
            "/%2F/%25/%C3%A9",
            "/@:!$&'()*+,;=~",
            "/\"{}|^`<>[]",
        ] {
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn an_empty_path_is_the_root() {
        assert_normal_form("", "/");
    }

    #[test]
    fn encoded_unreserved_characters_are_decoded() {
        assert_normal_form("/%61%5A%30%2d%2E%5F%7e", "/aZ0-._~");
    }

    #[test]
    fn encoded_reserved_characters_stay_encoded_in_upper_case() {
        assert_normal_form("/a%2fb%3fc%23d%25%2561", "/a%2Fb%3Fc%23d%25%2561");
    }

    #[test]
    fn decoding_happens_once() {
        assert_normal_form("/%252e%252e/a", "/%252e%252e/a");
    }

    #[test]
    fn dot_segments_are_removed_however_they_are_written() {
        assert_normal_form("/a/b/c/./../../g", "/a/g");
        assert_normal_form("/a/./b", "/a/b");
        assert_normal_form("/a/.", "/a/");
        assert_normal_form("/a/..", "/");
        assert_normal_form("/a/b/..", "/a/");
        assert_normal_form("/..", "/");
        assert_normal_form("/../../x", "/x");
        assert_normal_form("/a/%2e%2E/b", "/b");
        assert_normal_form("/a/.%2e", "/");
        assert_normal_form("/a/%2e", "/a/");
    }

    #[test]
    fn empty_segments_are_kept_and_count_as_segments() {
        assert_normal_form("//", "//");
        assert_normal_form("/a//../b", "/a/b");
        assert_normal_form("/a/..//b", "//b");
    }

    #[test]
    fn an_encoded_slash_makes_no_segment() {
        assert_normal_form("/a/..%2fb/./", "/a/..%2Fb/");
    }

    #[test]
    fn what_no_uri_may_hold_is_encoded() {
        assert_normal_form("/é", "/%C3%A9");
        assert_normal_form("/a b\r\n\t\u{7f}", "/a%20b%0D%0A%09%7F");
    }

    #[test]
    fn nul_and_backslash_are_refused_raw_and_encoded() {
        for path in ["/a\0", "/a%00", "/a/../%00"] {
            assert_eq!(normalize(path), Err(PathError::Nul), "{path:?}");
        }
        for path in ["/a\\b", "/a%5Cb", "/a%5cb", "/%5C/.."] {
            assert_eq!(normalize(path), Err(PathError::Backslash), "{path:?}");
        }
    }

    #[test]
    fn a_percent_sign_without_two_hex_digits_is_refused() {
        for path in ["/%", "/%4", "/%4/1", "/%zz", "/%%41", "/%+1", "/%é", "/a/%2/.."] {
            assert_eq!(normalize(path), Err(PathError::BadPercent), "{path:?}");
        }
    }

    #[test]
    fn a_relative_path_is_refused() {
        for path in ["a", "*", "../a", "%2Fa", "é"] {
            assert_eq!(normalize(path), Err(PathError::NotAbsolute), "{path:?}");
        }
    }

    #[test]
    fn the_normal_form_of_a_normal_form_is_itself_and_is_borrowed() {
        let parts = ["/", ".", "%2e", "%2f", "%", "a", "%41", "é", "2", "E", "\\", " "];
        every_path(&parts, 5, |path| {
            let Ok(normal) = normalize(path) else { return };
            assert!(
                matches!(normalize(&normal), Ok(Cow::Borrowed(same)) if *same == *normal),
                "{path:?} became {normal:?}"
            );
            assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
            assert!(normal.starts_with('/'), "{path:?}");
            assert!(!normal.split('/').any(|part| matches!(part, "." | "..")), "{path:?}");
        });
    }

    #[test]
    fn a_path_is_borrowed_exactly_when_it_is_normal() {
        every_path(&["/", ".", "%2E", "%2F", "%2f", "a", "~"], 5, |path| {
            let normal = normalize(path).unwrap();
            assert_eq!(matches!(normal, Cow::Borrowed(_)), *normal == *path, "{path:?}");
        });
    }
}
