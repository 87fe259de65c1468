//! What one load gathers: problems, files, and the keys and names that turned up.
//!
//! The readers of all sections share it by reference. A key that nobody asked for is judged only
//! at the end, when every section has said which keys it knows: only then can a misplaced key be
//! told from a misspelt one. After a syntax error nothing is reported as missing, and no more is
//! said about the lines that are broken: both would be echoes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostics::{self, Diagnostic, FileId, Sources, Span};
use super::files::Files;
use super::interpolate::Environment;
use super::suggest;

pub(super) struct Context<'a> {
    pub(super) env: Environment<'a>,
    pub(super) files: RefCell<Files>,
    pub(super) references: RefCell<Vec<Reference>>,
    sources: RefCell<Sources>,
    diagnostics: RefCell<Vec<Diagnostic>>,
    /// Lines with a syntax error.
    broken: RefCell<BTreeSet<(FileId, usize)>>,
    /// From which byte on a file is misread, because a bracket is never closed.
    misread: RefCell<Vec<(FileId, u32)>>,
    is_incomplete: Cell<bool>,
    /// The known keys of each kind of table.
    vocabulary: RefCell<BTreeMap<String, BTreeSet<&'static str>>>,
    unknown: RefCell<Vec<UnknownKey>>,
}

/// A name that must be defined somewhere.
pub(super) struct Reference {
    pub(super) to: Referent,
    pub(super) name: String,
    /// The key that names it, `route.pool`.
    pub(super) path: String,
    pub(super) span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Referent {
    Pool,
    Listener,
}

pub(super) struct UnknownKey {
    pub(super) key: String,
    pub(super) span: Span,
    /// The table as written, `listener.web`, and its kind, `listener.NAME`.
    pub(super) table: String,
    pub(super) kind: String,
}

impl<'a> Context<'a> {
    pub(super) fn new(env: Environment<'a>) -> Self {
        Self {
            env,
            files: RefCell::default(),
            references: RefCell::default(),
            sources: RefCell::default(),
            diagnostics: RefCell::default(),
            broken: RefCell::default(),
            misread: RefCell::default(),
            is_incomplete: Cell::new(false),
            vocabulary: RefCell::default(),
            unknown: RefCell::default(),
        }
    }

    pub(super) fn push(&self, diagnostic: Diagnostic) {
        if !diagnostic.span.is_some_and(|span| self.is_broken(span)) {
            self.diagnostics.borrow_mut().push(diagnostic);
        }
    }

    /// Whether a place was touched by a syntax error, so that what was read there may be made up.
    pub(super) fn is_broken(&self, span: Span) -> bool {
        let misread = self.misread.borrow();
        misread.iter().any(|(file, from)| *file == span.file && *from <= span.start)
            || self.broken.borrow().contains(&(span.file, self.line(span)))
    }

    /// Reports that something is not there, unless it may have been lost to a syntax error.
    pub(super) fn push_missing(&self, diagnostic: Diagnostic) {
        if !self.is_incomplete.get() {
            self.push(diagnostic);
        }
    }

    /// A file could not be read or parsed as a whole.
    pub(super) fn set_incomplete(&self) {
        self.is_incomplete.set(true);
    }

    /// Reports a syntax error. One per line is enough: more are echoes of the first.
    pub(super) fn push_syntax(&self, span: Span, message: String, help: &str) {
        self.set_incomplete();
        if self.broken.borrow_mut().insert((span.file, self.line(span))) {
            let diagnostic = Diagnostic::error(span, message).help(help);
            self.diagnostics.borrow_mut().push(diagnostic);
        }
    }

    /// From this byte on, nothing more is said about the file.
    pub(super) fn set_misread(&self, file: FileId, from: usize) {
        self.set_incomplete();
        let from = u32::try_from(from).unwrap_or(u32::MAX);
        self.misread.borrow_mut().push((file, from));
    }

    fn line(&self, span: Span) -> usize {
        self.sources.borrow().line(span).unwrap_or_default()
    }

    pub(super) fn add_source(&self, path: PathBuf, text: Arc<str>) -> Option<FileId> {
        self.sources.borrow_mut().add(path, text)
    }

    pub(super) fn path(&self, file: FileId) -> Option<PathBuf> {
        self.sources.borrow().path(file).map(Path::to_owned)
    }

    /// The folder of a configuration file: what relative paths in it are relative to.
    pub(super) fn folder(&self, file: FileId) -> PathBuf {
        let path = self.path(file).unwrap_or_default();
        path.parent().unwrap_or(Path::new("/")).to_owned()
    }

    pub(super) fn know(&self, kind: &str, key: &'static str) {
        let mut vocabulary = self.vocabulary.borrow_mut();
        match vocabulary.get_mut(kind) {
            Some(keys) => {
                keys.insert(key);
            }
            None => {
                vocabulary.insert(kind.to_owned(), BTreeSet::from([key]));
            }
        }
    }

    pub(super) fn push_unknown(&self, unknown: UnknownKey) {
        self.unknown.borrow_mut().push(unknown);
    }

    /// Everything that was found, sorted by place.
    pub(super) fn finish(self) -> (Vec<Diagnostic>, Sources, Files) {
        for unknown in self.unknown.take() {
            let help = self.help_for(&unknown);
            let table = shown_table(&unknown.table);
            let message = format!("unknown key `{}` in {table}", unknown.key);
            self.push(Diagnostic::error(unknown.span, message).help(help));
        }
        let mut diagnostics = self.diagnostics.into_inner();
        diagnostics::sort(&mut diagnostics);
        (diagnostics, self.sources.into_inner(), self.files.into_inner())
    }

    /// The nearest key, the table where the key belongs, or all that the table knows.
    fn help_for(&self, unknown: &UnknownKey) -> String {
        let vocabulary = self.vocabulary.borrow();
        let known = vocabulary.get(&unknown.kind);
        let known: Vec<&str> = known.into_iter().flatten().copied().collect();
        let near = suggest::nearest(&unknown.key, known.iter().copied());
        let elsewhere: Vec<String> = vocabulary
            .iter()
            .filter(|(_, keys)| keys.contains(unknown.key.as_str()))
            .map(|(kind, _)| shown_table(kind))
            .collect();
        match (near, elsewhere.as_slice()) {
            (Some(near), []) => format!("did you mean `{near}`?"),
            (Some(near), places) => format!(
                "did you mean `{near}`? (`{}` belongs to {})",
                unknown.key,
                places.join(", ")
            ),
            (None, []) => format!("the keys here are {}", known.join(", ")),
            (None, places) => format!("`{}` belongs to {}", unknown.key, places.join(", ")),
        }
    }
}

/// A table as its header would be written.
pub(super) fn shown_table(path: &str) -> String {
    match path {
        "" => "the top level".to_owned(),
        "route" => "[[route]]".to_owned(),
        path => format!("[{path}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{diagnostics, diagnostics_of};

    #[test]
    fn a_misspelt_key_gets_the_nearest_known_one() {
        let shown = diagnostics_of("[listener.web]\nbnd = \"127.0.0.1:0\"\nbind = \"[::1]:0\"");
        assert_eq!(
            shown,
            "c.toml:2:1: error: unknown key `bnd` in [listener.web]\n  help: did you mean `bind`?\n"
        );
    }

    #[test]
    fn a_misplaced_key_is_sent_to_its_table() {
        let shown = diagnostics_of("[admin]\nshutdown_delay = \"5s\"");
        assert!(shown.contains("help: `shutdown_delay` belongs to [process]\n"), "{shown}");
        let shown = diagnostics_of("[pool.app]\nendpoints = [\"a:1\"]\ntimeout = \"5s\"");
        assert!(shown.contains("did you mean `timeouts`? (`timeout` belongs to "), "{shown}");
        assert!(shown.contains("[[route]]"), "{shown}");
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        let shown = diagnostics_of("[process]\ncolour = \"red\"");
        assert!(
            shown.contains(
                "help: the keys here are buffer_memory, drain_timeout, resolvers, shutdown_delay, workers, zone\n"
            ),
            "{shown}"
        );
    }

    #[test]
    fn an_unknown_section_gets_the_nearest_section() {
        let shown = diagnostics_of("[pools.x]\nendpoints = []");
        assert!(
            shown.contains("c.toml:1:2: error: unknown key `pools` in the top level"),
            "{shown}"
        );
        assert!(shown.contains("did you mean `pool`?"), "{shown}");
    }

    #[test]
    fn after_a_syntax_error_nothing_is_called_missing_but_other_lines_are_still_checked() {
        let shown = diagnostics("[listener.web]\nbind = 127.0.0.1\nbnd = 1\n[pool.app\n");
        assert_eq!(shown.matches("error:").count(), 3, "{shown}");
        assert!(shown.contains("c.toml:3:1: error: unknown key `bnd`"), "{shown}");
        assert!(!shown.contains("missing"), "{shown}");
    }
}
