//! The path that the upstream sees.
//!
//! Prefixes are whole segments: `/api` is no prefix of `/apix`. The result is in normal form when
//! the path is. Deliberately absent: the Host of a [`Rewrite`], which is a header.

use std::borrow::Cow;

use crate::config::model::Rewrite;

/// Takes the prefix off where the path has it, then puts the other one before the path.
pub fn apply<'a>(rewrite: &Rewrite, path: &'a str) -> Cow<'a, str> {
    let stripped = match &rewrite.strip_prefix {
        Some(prefix) => strip(path, prefix),
        None => path,
    };
    match &rewrite.add_prefix {
        Some(prefix) => Cow::Owned([prefix.as_str(), stripped].concat()),
        None => Cow::Borrowed(stripped),
    }
}

fn strip<'a>(path: &'a str, prefix: &str) -> &'a str {
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(strip: Option<&str>, add: Option<&str>, path: &str) -> String {
        let owned = |prefix: Option<&str>| prefix.map(str::to_owned);
        let rewrite = Rewrite { strip_prefix: owned(strip), add_prefix: owned(add), host: None };
        apply(&rewrite, path).into_owned()
    }

    #[test]
    fn without_prefixes_the_path_is_borrowed() {
        assert!(matches!(apply(&Rewrite::default(), "/a"), Cow::Borrowed("/a")));
    }

    #[test]
    fn a_prefix_is_stripped_by_whole_segments() {
        assert_eq!(rewritten(Some("/api"), None, "/api/x"), "/x");
        assert_eq!(rewritten(Some("/api"), None, "/api"), "/");
        assert_eq!(rewritten(Some("/api"), None, "/api/"), "/");
        assert_eq!(rewritten(Some("/api"), None, "/api//x"), "//x");
        assert_eq!(rewritten(Some("/api"), None, "/apix"), "/apix");
        assert_eq!(rewritten(Some("/api"), None, "/"), "/");
        assert_eq!(rewritten(Some("/api"), None, "/x/api/"), "/x/api/");
    }

    #[test]
    fn a_prefix_is_put_before_whatever_the_path_is() {
        assert_eq!(rewritten(None, Some("/v2"), "/x"), "/v2/x");
        assert_eq!(rewritten(None, Some("/v2"), "/"), "/v2/");
    }

    #[test]
    fn stripping_comes_before_adding() {
        assert_eq!(rewritten(Some("/api"), Some("/v2"), "/api/x"), "/v2/x");
        assert_eq!(rewritten(Some("/api"), Some("/v2"), "/api"), "/v2/");
        assert_eq!(rewritten(Some("/api"), Some("/v2"), "/apix"), "/v2/apix");
    }
}
