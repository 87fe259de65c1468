//! Whether two regexes may match one text.

/// The only proof tried against it is that all matches of one begin otherwise than all matches of
/// the other.
pub(super) fn may_overlap(a: &str, b: &str) -> bool {
    match (literal_start(a), literal_start(b)) {
        (Some(a), Some(b)) => a.starts_with(b) || b.starts_with(a),
        _ => true,
    }
}

/// Text with which every match begins, as far as it can be read off without parsing. Flags are
/// expected in the text only, where their parenthesis ends the reading.
fn literal_start(regex: &str) -> Option<&str> {
    let text = regex.strip_prefix('^').filter(|text| !text.contains('|'))?;
    let end = text.find(|c| r"\.+*?()[]{}^$".contains(c)).unwrap_or(text.len());
    let (literal, rest) = text.split_at(end);
    if rest.starts_with(['*', '?', '{']) {
        // The last character may be absent.
        let last = literal.chars().next_back()?;
        return literal.strip_suffix(last);
    }
    Some(literal)
}
