//! Patterns of values, and the regexes of all patterns.

use regex::{Regex, RegexBuilder};

use super::diagnostics::Invalid;
use super::model::ValuePattern;

/// Bound on one compiled regex, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// `*` for any value, `~regex`, or the value itself.
pub(super) fn value(text: &str) -> Result<ValuePattern, Invalid> {
    match (text, text.strip_prefix('~')) {
        ("*", _) => Ok(ValuePattern::Present),
        (_, Some("")) => Err(Invalid::new("the regex is empty").help("write \"*\" for any value")),
        (_, Some(regex)) => self::regex(regex, "the value").map(ValuePattern::Regex),
        _ => Ok(ValuePattern::Exact(text.to_owned())),
    }
}

/// A regex that is searched anywhere in `what`.
pub(super) fn regex(text: &str, what: &str) -> Result<Regex, Invalid> {
    let compiled = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    compiled.map_err(|error| {
        // The message of a syntax error draws the regex; its last line is the reason.
        let text_of_error = error.to_string();
        let reason = text_of_error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        Invalid::new(format!("the regex does not compile: {reason}")).help(format!(
            "it is searched anywhere in {what}; `^` and `$` anchor it, and single quotes keep TOML \
             from reading its backslashes: '~^/\\d+$'"
        ))
    })
}
