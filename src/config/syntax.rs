//! From the text of one file to a tree of tables with places.
//!
//! The parser recovers, so all syntax errors of a file are seen at once. Deliberately absent:
//! serde. It stops at the first wrong value; [`super::reader`] walks the tree instead.

use toml::de::{DeTable, DeValue};

use super::context::Context;
use super::diagnostics::{Diagnostic, FileId, Span};

/// Bound on the syntax errors shown of one file: with more it is hardly meant to be TOML.
const SYNTAX_ERRORS_MAX: usize = 100;

/// Parses what can be parsed and reports the rest.
pub(super) fn parse<'t>(context: &Context<'_>, file: FileId, text: &'t str) -> DeTable<'t> {
    let (tree, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    // Everything after a bracket that is never closed is misread.
    let is_open = |error: &toml::de::Error| {
        let message = error.message();
        message.starts_with("unclosed array") || message.starts_with("unclosed inline table")
    };
    if errors.iter().any(is_open) {
        errors.truncate(1);
        let at = errors.iter().find_map(toml::de::Error::span).unwrap_or_default().start;
        context.set_misread(file, opened(tree.get_ref(), at).unwrap_or(at));
    }
    let rest = errors.split_off(errors.len().min(SYNTAX_ERRORS_MAX));
    if let Some(error) = rest.first() {
        let from = error.span().unwrap_or_default().start;
        context.set_misread(file, from);
    }
    for error in errors {
        let range = error.span().unwrap_or_default();
        let span = span(file, range.clone());
        if error.message() == "duplicate key" {
            context.push(twice(text, span, text.get(range).unwrap_or_default()));
        } else {
            let message = format!("not valid TOML: {}", error.message());
            context.push_syntax(span, message, help_for(error.message()));
        }
    }
    tree.into_inner()
}

/// Where the list or inline table begins that a byte is in.
fn opened(tree: &DeTable<'_>, at: usize) -> Option<usize> {
    tree.iter().find_map(|(_, value)| {
        let span = value.span();
        // The span of a table with a header is its header.
        if span.contains(&at) || span.end == at {
            return Some(span.start);
        }
        match value.get_ref() {
            DeValue::Table(table) => opened(table, at),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(table) => opened(table, at),
                _ => None,
            }),
            _ => None,
        }
    })
}

pub(super) fn span(file: FileId, range: std::ops::Range<usize>) -> Span {
    let number = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
    Span { file, start: number(range.start), end: number(range.end) }
}

fn help_for(message: &str) -> &'static str {
    if message.starts_with("string values must be quoted") {
        "put the value in quotes: \"5s\""
    } else if message.starts_with("unclosed table") {
        "write the header of a table as [name] on a line of its own"
    } else if message.contains("escape") {
        "write a backslash as \"\\\\\", or use single quotes, where nothing is escaped"
    } else {
        "write key = value, with strings in quotes, below a [table]"
    }
}

/// A key or table that is defined again. The parser does not say where it was before, so the
/// nearest earlier line that defines the same is looked up.
fn twice(text: &str, span: Span, key: &str) -> Diagnostic {
    let key = key.trim_matches(['"', '\'']);
    let diagnostic = Diagnostic::error(span, format!("`{key}` is defined twice"))
        .help("keep one of the two definitions, or join them");
    let at = (span.start as usize).min(text.len());
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let again = defined(text[line_start..].lines().next().unwrap_or_default());
    let mut end = line_start;
    for line in text[..line_start].lines().rev() {
        end = text[..end].trim_end_matches(['\r', '\n']).len();
        let start = end.saturating_sub(line.len());
        if defined(line) == again {
            let indent = line.len() - line.trim_start().len();
            let first = self::span(span.file, start + indent..end);
            return diagnostic.note(first, "first defined here");
        }
        end = start;
    }
    diagnostic
}

/// What a line defines: its header, or its key.
fn defined(line: &str) -> &str {
    let line = line.trim();
    match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(header, _)| header.trim()),
        None => line.split_once('=').map_or(line, |(key, _)| key.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{diagnostics, diagnostics_of};

    #[test]
    fn all_syntax_errors_are_reported_at_once() {
        let shown = diagnostics("[process]\ndrain_timeout = 5s\nworkers = \n[log\n");
        assert_eq!(
            shown,
            "c.toml:2:17: error: not valid TOML: string values must be quoted, expected literal \
             string\n  help: put the value in quotes: \"5s\"\n\
             c.toml:3:11: error: not valid TOML: string values must be quoted, expected literal \
             string\n  help: put the value in quotes: \"5s\"\n\
             c.toml:4:5: error: not valid TOML: unclosed table, expected `]`\n  \
             help: write the header of a table as [name] on a line of its own\n"
        );
    }

    #[test]
    fn a_list_that_is_never_closed_is_one_error() {
        let text = "[listener.web]\nbnd = 1\nbind = [\"a\"\n\n[pool.x]\nendpoints = [\"b:1\"]\n";
        let shown = diagnostics(text);
        assert_eq!(shown.matches("error:").count(), 2, "{shown}");
        assert!(shown.contains("c.toml:2:1: error: unknown key `bnd`"), "{shown}");
        assert!(shown.contains("c.toml:5:1: error: not valid TOML: missing comma"), "{shown}");
    }

    #[test]
    fn a_file_of_another_kind_has_a_bounded_number_of_errors() {
        let shown = diagnostics(&"<html>\n".repeat(5_000));
        assert!((50..=100).contains(&shown.matches("error:").count()), "{shown}");
    }

    #[test]
    fn a_key_or_table_defined_twice_shows_both_places() {
        let shown = diagnostics_of(
            "[pool.app]\nendpoints = [\"a:1\"]\n\n# more\n  [pool.app] # again\nretry = false\nretry = true\n",
        );
        assert_eq!(
            shown,
            "c.toml:5:9: error: `app` is defined twice\n  \
             help: keep one of the two definitions, or join them\n  \
             c.toml:1:1: note: first defined here\n\
             c.toml:7:1: error: `retry` is defined twice\n  \
             help: keep one of the two definitions, or join them\n  \
             c.toml:6:1: note: first defined here\n"
        );
    }
}
