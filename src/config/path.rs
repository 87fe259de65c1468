//! The paths of routes: patterns, prefixes and their normal form.
//!
//! The normal form of a path has percent-encoded unreserved characters (RFC 3986 §2.3) decoded,
//! other percent-encodings in upper case and no dot segments; `//` and `%2F` stay. Requests are
//! matched in this form, so a pattern that could never match it is refused here, never bent.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::diagnostics::Invalid;
use super::model::PathPattern;
use super::pattern;

/// What a path cannot hold as it is, besides all that is not ASCII.
const NOT_IN_A_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'?').add(b'#').add(b'\\');

/// `/exact`, `/prefix/*` or `~regex`. The regex is searched anywhere in the normal path: `^` and
/// `$` anchor it.
pub(super) fn pattern(text: &str) -> Result<PathPattern, Invalid> {
    if let Some(regex) = text.strip_prefix('~') {
        return regex_pattern(regex);
    }
    let (prefix, path) = match text.strip_suffix("/*") {
        Some(path) => (true, path),
        None => (false, text),
    };
    if let Some((before, _)) = path.split_once('*') {
        let folder = before.trim_end_matches('/');
        return Err(Invalid::new(format!("{text:?}: `*` may only stand after the last slash"))
            .help(format!("write \"{folder}/*\" for all below, or a regex: \"~^{before}\"")));
    }
    Ok(match prefix {
        true if path.is_empty() => PathPattern::Prefix(String::new()),
        true => PathPattern::Prefix(normal(path)?),
        false => PathPattern::Exact(normal(path)?),
    })
}

fn regex_pattern(text: &str) -> Result<PathPattern, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("the regex is empty").help("write \"/*\" to match every path"));
    }
    pattern::regex(text, "the path").map(PathPattern::Regex)
}

/// A prefix to strip or add: normal form, with a slash first and none last.
pub(super) fn prefix(text: &str) -> Result<String, Invalid> {
    if text.contains('*') {
        return Err(Invalid::new(format!("{text:?} is a pattern, not a prefix"))
            .help(format!("write \"{}\"", text.replace("/*", "").replace('*', ""))));
    }
    let prefix = normal(text.trim_end_matches('/'));
    if text.starts_with('/') && text.bytes().all(|byte| byte == b'/') {
        return Err(Invalid::new(format!("{text:?} changes nothing")).help("leave it out"));
    }
    prefix
}

/// Whether some path matches the pattern and begins with the prefix, by whole segments.
pub(super) fn can_begin_with(pattern: &PathPattern, prefix: &str) -> bool {
    let below = |path: &str, base: &str| {
        path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match pattern {
        PathPattern::Exact(path) => below(path, prefix),
        PathPattern::Prefix(base) => below(base, prefix) || below(prefix, base),
        PathPattern::Regex(_) => true,
    }
}

/// The normal form of a path that the configuration gives.
pub(super) fn normal(path: &str) -> Result<String, Invalid> {
    if !path.starts_with('/') {
        return Err(Invalid::new(format!("the path {path:?} does not begin with a slash"))
            .help(format!("write \"/{}\"", path.trim_start_matches('/'))));
    }
    let mut text = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = digits else {
                    return Err(Invalid::new(format!("the path {path:?} has a bad `%`"))
                        .help("two hex digits follow a `%`; a `%` itself is \"%25\""));
                };
                push_encoded(&mut text, high << 4 | low);
            }
            b'!'..=b'~' if !matches!(byte, b'?' | b'#' | b'\\') => text.push(char::from(byte)),
            _ => {
                let encoded = utf8_percent_encode(path, NOT_IN_A_PATH);
                let what = format!("the path {path:?} has characters that no path has");
                return Err(Invalid::new(what)
                    .help(format!("percent-encode them, \"{encoded}\"; a query is not matched")));
            }
        }
    }
    if text.contains("%00") || text.contains("%5C") {
        return Err(Invalid::new(format!("the path {path:?} has a NUL or a backslash"))
            .help("requests with such paths are refused before they are routed"));
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(Invalid::new(format!("the path {path:?} has dot segments"))
            .help("they are removed from requests before they are routed: leave them out"));
    }
    Ok(text)
}

fn push_encoded(text: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
        text.push(char::from(byte));
        return;
    }
    text.push('%');
    text.push(char::from(HEX[usize::from(byte >> 4)]));
    text.push(char::from(HEX[usize::from(byte & 15)]));
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_exact_prefix_or_regex() {
        let exact = |text: &str| Ok(PathPattern::Exact(text.to_owned()));
        let prefix = |text: &str| Ok(PathPattern::Prefix(text.to_owned()));
        assert_eq!(pattern("/"), exact("/"));
        assert_eq!(pattern("/a/b/"), exact("/a/b/"));
        assert_eq!(pattern("/*"), prefix(""));
        assert_eq!(pattern("/a/*"), prefix("/a"));
        assert!(matches!(pattern("~^/[a-z]+$"), Ok(PathPattern::Regex(regex))
            if regex.as_str() == "^/[a-z]+$"));
    }

    #[test]
    fn a_pattern_is_put_in_normal_form() {
        for (text, expected) in [
            ("/%7euser", "/~user"),
            ("/%61%2fb", "/a%2Fb"),
            ("/a//b", "/a//b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a:b@c;d=e,f", "/a:b@c;d=e,f"),
        ] {
            assert_eq!(normal(text).unwrap(), expected);
        }
        for text in [
            "",
            "a",
            "/a?b",
            "/a#b",
            "/a b",
            "/é",
            "/a\\b",
            "/%5c",
            "/%00",
            "/%",
            "/%4",
            "/%+1",
            "/%zz",
            "/a/../b",
            "/./a",
            "/a/%2e%2E",
            "/a/.",
        ] {
            assert!(normal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_star_elsewhere_is_an_error_with_the_way_to_write_it() {
        let invalid = pattern("/a*").unwrap_err();
        assert_eq!(invalid.message, "\"/a*\": `*` may only stand after the last slash");
        assert_eq!(
            invalid.help.as_deref(),
            Some("write \"/a/*\" for all below, or a regex: \"~^/a\"")
        );
        for text in ["*", "/*/b", "/a/*/*", "/*.php", "a/*"] {
            assert!(pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn characters_that_need_it_are_shown_encoded() {
        let invalid = pattern("/café/*").unwrap_err();
        assert!(invalid.help.unwrap().contains("\"/caf%C3%A9\""));
    }

    #[test]
    fn a_regex_is_bounded_and_its_error_is_one_line() {
        let invalid = pattern("~(a").unwrap_err();
        assert_eq!(invalid.message, "the regex does not compile: unclosed group");
        let large = pattern("~(\\w{100}){100}").unwrap_err();
        assert!(large.message.contains("size limit"), "{}", large.message);
        assert!(pattern("~").is_err());
    }

    #[test]
    fn prefixes_have_no_closing_slash() {
        assert_eq!(prefix("/api/").as_deref(), Ok("/api"));
        assert_eq!(prefix("/api").as_deref(), Ok("/api"));
        for text in ["", "/", "//", "api", "/api/*", "/../a"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_fits_a_pattern_by_whole_segments() {
        for (text, fits) in [
            ("/api", true),
            ("/api/v1", true),
            ("/apix", false),
            ("/api/*", true),
            ("/*", true),
            ("/api/v1/*", true),
            ("/web/*", false),
            ("~x", true),
        ] {
            assert_eq!(can_begin_with(&pattern(text).unwrap(), "/api"), fits, "{text}");
        }
    }
}
