//! Typed reading of a table: asks for keys by name, reports what is wrong, and goes on.
//!
//! A [`Table`] gives out a [`Value`] for each key it is asked for and remembers the name;
//! [`Table::finish`] reports the keys that nobody asked for. A value that is wrong is reported at
//! its place and read as if it were absent, so a default takes its place in the draft. A table
//! that is absent reads as an empty one: defaults are written once, where the key is read.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::context::{Context, UnknownKey, shown_table};
use super::diagnostics::{Diagnostic, FileId, Span};
use super::model::SectionPlaces;
use super::suggest;
use super::syntax::span;
use super::units;
use super::value::Value;

pub(super) struct Table<'a> {
    pub(super) context: &'a Context<'a>,
    /// `None`: the table is absent.
    entries: Option<&'a DeTable<'a>>,
    /// Where it begins; of an absent table, where the one around it begins.
    pub(super) span: Span,
    /// As written, `listener.web.timeouts`.
    pub(super) path: String,
    /// With the operator's names left out, `listener.NAME.timeouts`.
    kind: String,
    asked: RefCell<Vec<&'static str>>,
}

/// An entry of a table whose keys are the operator's.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_span: Span,
    pub(super) value: Value<'a>,
}

impl<'a> Table<'a> {
    /// The top level of one file.
    pub(super) fn root(context: &'a Context<'a>, file: FileId, tree: &'a DeTable<'a>) -> Self {
        let span = Span { file, start: 0, end: 0 };
        Self::new(context, Some(tree), span, String::new(), String::new())
    }

    /// A table that is in no file.
    pub(super) fn absent(context: &'a Context<'a>, path: &str) -> Self {
        let span = Span { file: FileId(0), start: 0, end: 0 };
        Self::new(context, None, span, path.to_owned(), path.to_owned())
    }

    pub(super) fn new(
        context: &'a Context<'a>,
        entries: Option<&'a DeTable<'a>>,
        span: Span,
        path: String,
        kind: String,
    ) -> Self {
        Self { context, entries, span, path, kind, asked: RefCell::default() }
    }

    pub(super) fn value(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        self.context.know(&self.kind, key);
        let value = self.entries?.get(key)?;
        Some(Value {
            context: self.context,
            value: value.get_ref(),
            span: span(self.span.file, value.span()),
            path: join(&self.path, key),
            kind: join(&self.kind, key),
            is_item: false,
        })
    }

    /// A key that must be there; `example` is shown when it is not.
    pub(super) fn required(&self, key: &'static str, example: &str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            let message = format!("`{}` is missing", join(&self.path, key));
            let diagnostic = Diagnostic::error(self.span, message);
            self.context.push_missing(diagnostic.help(format!("for example: {key} = {example}")));
        }
        value
    }

    /// Exactly one of several keys. With more, the first of them counts.
    pub(super) fn exactly_one(
        &self,
        keys: &[&'static str],
        help: &str,
    ) -> Option<(&'static str, Value<'a>)> {
        let found = keys.iter().filter_map(|key| Some((*key, self.value(key)?)));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(_, value)| value.span.start);
        let mut found = found.into_iter();
        let Some((first, value)) = found.next() else {
            let message =
                format!("{} has none of {}", shown_table(&self.path), suggest::alternatives(keys));
            self.context.push_missing(Diagnostic::error(self.span, message).help(help));
            return None;
        };
        for (_, second) in found {
            let message = format!("`{}` and `{first}` exclude each other", second.path);
            let note = format!("`{first}` is here");
            let diagnostic = Diagnostic::error(second.span, message).help(help);
            self.context.push(diagnostic.note(value.span, note));
        }
        Some((first, value))
    }

    pub(super) fn read<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.value(key).and_then(|value| read(&value))
    }

    pub(super) fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        self.read(key, |value| value.duration(range)).unwrap_or(default)
    }

    pub(super) fn size(&self, key: &'static str, default: u64, range: &RangeInclusive<u64>) -> u64 {
        self.read(key, |value| value.size(range)).unwrap_or(default)
    }

    pub(super) fn rate(&self, key: &'static str, default: u64, range: &RangeInclusive<u64>) -> u64 {
        self.read(key, |value| value.rate(range)).unwrap_or(default)
    }

    pub(super) fn integer<T: TryFrom<i64>>(
        &self,
        key: &'static str,
        default: T,
        range: &RangeInclusive<i64>,
    ) -> T {
        self.read(key, |value| value.integer(range)).unwrap_or(default)
    }

    pub(super) fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.read(key, Value::boolean).unwrap_or(default)
    }

    pub(super) fn percentage(&self, key: &'static str, default: f64) -> f64 {
        let percentage =
            |value: &Value<'a>| value.parse("a percentage", "\"20%\"", units::percentage);
        self.read(key, percentage).unwrap_or(default)
    }

    /// A table in this one; an empty one when it is absent.
    pub(super) fn table(&self, key: &'static str) -> Self {
        self.read(key, Value::table).unwrap_or_else(|| {
            Self::new(self.context, None, self.span, join(&self.path, key), join(&self.kind, key))
        })
    }

    /// Whether it is written at all.
    pub(super) fn is_there(&self) -> bool {
        self.entries.is_some()
    }

    /// All entries of a table whose keys are the operator's, in the order of the keys.
    pub(super) fn entries(&self) -> Vec<Entry<'a>> {
        let kind = join(&self.kind, "NAME");
        let entries = self.entries.into_iter().flat_map(DeTable::iter);
        let entries = entries.map(|(key, value)| Entry {
            key: key.get_ref(),
            key_span: span(self.span.file, key.span()),
            value: Value {
                context: self.context,
                value: value.get_ref(),
                span: span(self.span.file, value.span()),
                path: join(&self.path, key.get_ref()),
                kind: kind.clone(),
                is_item: false,
            },
        });
        entries.collect()
    }

    /// Where everything in it is written.
    pub(super) fn places(&self) -> SectionPlaces {
        let mut keys = Vec::new();
        if let Some(entries) = self.entries {
            push_places(self.span.file, "", entries, &mut keys);
        }
        keys.sort_unstable();
        SectionPlaces { span: self.span, keys }
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.entries.into_iter().flatten() {
            if !asked.contains(&key.get_ref().as_ref()) {
                self.context.push_unknown(UnknownKey {
                    key: key.get_ref().to_string(),
                    span: span(self.span.file, key.span()),
                    table: self.path.clone(),
                    kind: self.kind.clone(),
                });
            }
        }
    }
}

fn push_places(file: FileId, path: &str, table: &DeTable<'_>, keys: &mut Vec<(Box<str>, Span)>) {
    for (key, value) in table {
        let path = join(path, &key.get_ref().to_ascii_lowercase());
        if let DeValue::Table(inner) = value.get_ref() {
            push_places(file, &path, inner, keys);
        }
        keys.push((path.into(), span(file, value.span())));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::super::diagnostics::render;
    use super::super::syntax::parse;
    use super::*;

    /// Reads a text as one file and returns what was said about it.
    fn said(text: &str, read: impl for<'a> FnOnce(Table<'a>)) -> String {
        let env = |_: &str| None;
        let context = Context::new(&env);
        let file = context.add_source("/c.toml".into(), text.into()).unwrap();
        {
            let tree = parse(&context, file, text);
            read(Table::root(&context, file, &tree));
        }
        let (diagnostics, sources, _) = context.finish();
        render(&diagnostics, &sources)
    }

    #[test]
    fn a_wrong_value_is_reported_and_the_default_stands_in() {
        let shown = said("wait = 5\nsize = true\nshare = \"x\"\n", |table| {
            let range = Duration::ZERO..=Duration::from_secs(9);
            assert_eq!(table.duration("wait", Duration::from_secs(1), &range).as_secs(), 1);
            assert_eq!(table.size("size", 7, &(0..=9)), 7);
            assert_eq!(table.percentage("share", 0.5), 0.5);
            assert_eq!(table.integer::<u32>("absent", 3, &(0..=9)), 3);
            table.finish();
        });
        assert_eq!(
            shown,
            "/c.toml:1:8: error: `wait` must be a duration with a unit, not an integer\n  \
             help: for example: wait = \"5s\"\n\
             /c.toml:2:8: error: `size` must be a size, not a boolean\n  \
             help: for example: size = \"64KiB\"\n\
             /c.toml:3:9: error: `share`: \"x\" is not a percentage from 0% to 100%\n  \
             help: write \"20%\"\n"
        );
    }

    #[test]
    fn dotted_keys_and_inline_tables_are_tables() {
        for text in ["a.b.c = true", "a = { b = { c = true } }", "[a.b]\nc = true"] {
            let shown = said(text, |table| {
                let (a, b) = (table.table("a"), table.table("a").table("b"));
                assert!(b.boolean("c", false));
                assert_eq!(b.path, "a.b");
                b.finish();
                a.finish();
                table.finish();
            });
            // The outer table did not ask for `b` in this reading.
            assert!(shown.contains("unknown key `b` in [a]"), "{shown}");
        }
    }

    #[test]
    fn an_absent_table_reads_as_its_defaults() {
        let shown = said("", |table| {
            let limits = table.table("limits");
            assert_eq!(limits.integer::<u32>("queue", 4, &(1..=9)), 4);
            assert!(limits.entries().is_empty());
            limits.finish();
            table.finish();
        });
        assert_eq!(shown, "");
    }

    #[test]
    fn of_keys_that_exclude_each_other_the_first_counts() {
        let shown = said("b = 1\na = 2\n", |table| {
            let (key, _) = table.exactly_one(&["a", "b"], "take one").unwrap();
            assert_eq!(key, "b");
            table.finish();
        });
        assert!(shown.starts_with("/c.toml:2:5: error: `a` and `b` exclude each other\n"));
    }

    #[test]
    fn entries_come_with_their_keys_and_places() {
        let shown = said("\"x y\" = 1\nb = 2\n", |table| {
            let entries = table.entries();
            let keys: Vec<_> =
                entries.iter().map(|entry| (entry.key, entry.key_span.start)).collect();
            assert_eq!(keys, [("b", 10), ("x y", 0)]);
        });
        assert_eq!(shown, "");
    }
}
