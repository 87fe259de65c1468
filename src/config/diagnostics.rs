//! Problems of a configuration, each with its place.
//!
//! A [`Diagnostic`] is a value: it is collected, never thrown, so that one load reports everything
//! that is wrong in all files. It is shown as text for people ([`render`]) or as a [`Report`] for
//! the admin API. Deliberately absent: colours and source excerpts; `file:line:col` is what
//! editors and terminals make clickable.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

/// Bound on the files of one configuration.
const FILES_MAX: u16 = 1024;

/// A file of the configuration, by its number in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u16);

/// A half-open range of bytes in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

/// The files that were read, for showing places.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    text: Arc<str>,
    /// The byte at which each line begins.
    line_starts: Vec<usize>,
}

/// A place as people name it; line and column count from 1, columns count characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Relative to the current folder when below it.
    pub file: String,
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but probably not as meant.
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// `None`: the problem is outside of what any file says.
    pub span: Option<Span>,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that take part, each with what it is.
    pub related: Vec<(Span, String)>,
    /// The lint that says it, by which it is found in the docs.
    pub lint: Option<&'static str>,
}

/// One diagnostic for machines; without a place, `file` is absent and the numbers are 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub line: usize,
    pub column: usize,
    pub severity: Severity,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lint: Option<&'static str>,
}

/// What is wrong with one value, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Invalid {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Diagnostic {
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, Some(span), message.into())
    }

    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, Some(span), message.into())
    }

    /// An error that has no place in any file.
    pub fn placeless(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, None, message.into())
    }

    fn new(severity: Severity, span: Option<Span>, message: String) -> Self {
        Self { severity, span, message, help: None, related: Vec::new(), lint: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn note(mut self, span: Span, what: impl Into<String>) -> Self {
        self.related.push((span, what.into()));
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// `file:line:col: error: message`, with the lint in brackets, then indented help and related places; ends with a newline.
    pub fn render(&self, sources: &Sources) -> String {
        let mut text = String::new();
        if let Some(place) = self.span.and_then(|span| sources.locate(span)) {
            let _ = write!(text, "{}:{}:{}: ", place.file, place.line, place.column);
        }
        let _ = write!(text, "{}: {}", self.severity.as_str(), self.message);
        if let Some(lint) = self.lint {
            let _ = write!(text, " [{lint}]");
        }
        text.push('\n');
        if let Some(help) = &self.help {
            let _ = writeln!(text, "  help: {help}");
        }
        for (span, what) in &self.related {
            if let Some(place) = sources.locate(*span) {
                let Location { file, line, column } = place;
                let _ = writeln!(text, "  {file}:{line}:{column}: note: {what}");
            }
        }
        text
    }

    pub fn report(&self, sources: &Sources) -> Report {
        let place = self.span.and_then(|span| sources.locate(span));
        let (line, column) = place.as_ref().map_or((0, 0), |place| (place.line, place.column));
        Report {
            file: place.map(|place| place.file),
            line,
            column,
            severity: self.severity,
            message: self.message.clone(),
            help: self.help.clone(),
            lint: self.lint,
        }
    }
}

/// All diagnostics as text, in the order given.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    diagnostics.iter().map(|diagnostic| diagnostic.render(sources)).collect()
}

/// By file and place, those without a place first.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span, diagnostic.severity));
}

impl Sources {
    /// `None` when there are more files than a configuration may have.
    pub fn add(&mut self, path: PathBuf, text: Arc<str>) -> Option<FileId> {
        let number = u16::try_from(self.files.len()).ok()?;
        if number >= FILES_MAX {
            return None;
        }
        let line_starts = line_starts(&text);
        self.files.push(Source { path, text, line_starts });
        Some(FileId(number))
    }

    fn file(&self, file: FileId) -> Option<&Source> {
        self.files.get(usize::from(file.0))
    }

    pub fn path(&self, file: FileId) -> Option<&Path> {
        self.file(file).map(|source| source.path.as_path())
    }

    /// The line, from 1, where a span begins.
    pub fn line(&self, span: Span) -> Option<usize> {
        self.file(span.file).map(|source| line(&source.line_starts, span.start as usize))
    }

    /// Where a span begins. `None` when it is of no file here.
    pub fn locate(&self, span: Span) -> Option<Location> {
        let Source { path, text, line_starts } = self.file(span.file)?;
        let (line, column) = position(text, line_starts, span.start as usize);
        Some(Location { file: shown(path), line, column })
    }
}

/// Line and column, from 1, of the end of a text.
pub(super) fn end(text: &str) -> (usize, usize) {
    position(text, &line_starts(text), text.len())
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

fn line(line_starts: &[usize], byte: usize) -> usize {
    line_starts.partition_point(|start| *start <= byte).max(1)
}

fn position(text: &str, line_starts: &[usize], byte: usize) -> (usize, usize) {
    let byte = byte.min(text.len());
    let line = line(line_starts, byte);
    let before = text.get(line_starts[line - 1]..byte).unwrap_or_default();
    // A byte order mark is invisible in editors and takes no column.
    (line, before.trim_start_matches('\u{feff}').chars().count() + 1)
}

/// A path as the user would write it.
pub(super) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_file(path: &str, text: &str) -> Sources {
        let mut sources = Sources::default();
        assert_eq!(sources.add(PathBuf::from(path), text.into()), Some(FileId(0)));
        sources
    }

    fn span(start: u32) -> Span {
        Span { file: FileId(0), start, end: start + 1 }
    }

    #[test]
    fn a_diagnostic_is_shown_with_place_help_and_notes() {
        let sources = one_file("/etc/hw.toml", "a = 1\nb = 2\n");
        let diagnostic = Diagnostic::error(span(6), "`b` is wrong")
            .help("leave it out")
            .note(span(0), "`a` is here");
        assert_eq!(
            diagnostic.render(&sources),
            "/etc/hw.toml:2:1: error: `b` is wrong\n  help: leave it out\n  \
             /etc/hw.toml:1:1: note: `a` is here\n"
        );
    }

    #[test]
    fn a_diagnostic_without_a_place_has_no_location() {
        let diagnostic = Diagnostic::placeless("no file");
        assert_eq!(diagnostic.render(&Sources::default()), "error: no file\n");
        let json = serde_json::to_string(&diagnostic.report(&Sources::default())).unwrap();
        assert_eq!(json, r#"{"line":0,"column":0,"severity":"error","message":"no file"}"#);
    }

    #[test]
    fn the_machine_form_names_every_part() {
        let sources = one_file("/etc/hw.toml", "a = 1\n");
        let json = serde_json::to_value(Diagnostic::warning(span(4), "odd").report(&sources));
        assert_eq!(
            json.unwrap(),
            serde_json::json!({
                "file": "/etc/hw.toml", "line": 1, "column": 5, "severity": "warning", "message": "odd"
            })
        );
    }

    #[test]
    fn columns_count_characters_and_ignore_a_byte_order_mark() {
        for (text, byte, expected) in [
            ("", 0, (1, 1)),
            ("é = ü", 5, (1, 5)),
            ("\u{feff}a = 1", 3, (1, 1)),
            ("a\nb\n", 1, (1, 2)),
            ("a\nb\n", 2, (2, 1)),
            ("a\nb\n", 99, (3, 1)),
            ("a\r\nbc", 4, (2, 2)),
        ] {
            assert_eq!(position(text, &line_starts(text), byte), expected, "{text:?} {byte}");
        }
        assert_eq!(end("a\nbc"), (2, 3));
    }

    #[test]
    fn a_file_below_the_current_folder_is_shown_relative_to_it() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(shown(&here.join("conf/a.toml")), "conf/a.toml");
        assert_eq!(shown(Path::new("/nowhere/a.toml")), "/nowhere/a.toml");
    }

    #[test]
    fn diagnostics_are_sorted_by_file_and_place() {
        let second = Span { file: FileId(1), start: 0, end: 0 };
        let mut all = vec![
            Diagnostic::error(second, "d"),
            Diagnostic::warning(span(9), "c"),
            Diagnostic::error(span(3), "b"),
            Diagnostic::placeless("a"),
        ];
        sort(&mut all);
        let order: String = all.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        assert_eq!(order, "abcd");
    }
}
