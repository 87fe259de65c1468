//! Typed reading of one value of the tree.
//!
//! Each method says what it expects. What is there instead is reported at its place, with an
//! example of what would be right, and `None` is returned; nothing else can go wrong here.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::context::{Context, Reference, Referent};
use super::diagnostics::{self, Diagnostic, Invalid, Span};
use super::interpolate::interpolate;
use super::model::{FileContent, Name, StatusSet};
use super::reader::Table;
use super::suggest;
use super::syntax::span;
use super::units;

pub(super) struct Value<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) value: &'a DeValue<'a>,
    pub(super) span: Span,
    /// As written, `listener.web.bind`.
    pub(super) path: String,
    /// With the operator's names left out, `listener.NAME.bind`.
    pub(super) kind: String,
    /// Of a list, whose path it has.
    pub(super) is_item: bool,
}

impl<'a> Value<'a> {
    pub(super) fn error(&self, message: &str) -> Diagnostic {
        Diagnostic::error(self.span, format!("`{}`: {message}", self.path))
    }

    pub(super) fn warning(&self, message: &str) -> Diagnostic {
        Diagnostic::warning(self.span, format!("`{}`: {message}", self.path))
    }

    pub(super) fn invalid(&self, invalid: Invalid) {
        let mut diagnostic = self.error(&invalid.message);
        diagnostic.help = invalid.help;
        self.context.push(diagnostic);
    }

    /// Reports a value of the wrong type.
    pub(super) fn expected(&self, what: &str, example: &str) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let (item, example) = if self.is_item {
            ("an item of ", format!("[{example}]"))
        } else {
            ("", example.to_owned())
        };
        let message = format!("{item}`{}` must be {what}, not {found}", self.path);
        let key = self.path.rsplit('.').next().unwrap_or_default();
        let diagnostic = Diagnostic::error(self.span, message);
        self.context.push(diagnostic.help(format!("for example: {key} = {example}")));
    }

    /// The string with variables filled in, or `None` without a report when it is no string.
    fn filled(&self) -> Option<Result<String, Invalid>> {
        let DeValue::String(text) = self.value else {
            return None;
        };
        Some(interpolate(text, self.context.env))
    }

    pub(super) fn is_string(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    pub(super) fn string(&self, example: &str) -> Option<String> {
        self.parse("a string", example, |text| Ok(text.to_owned()))
    }

    /// A string that means something.
    pub(super) fn parse<T>(
        &self,
        what: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        let Some(text) = self.filled() else {
            self.expected(what, example);
            return None;
        };
        text.and_then(|text| parse(&text)).map_err(|invalid| self.invalid(invalid)).ok()
    }

    pub(super) fn duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        if let Some(number) = self.plain_integer() {
            self.expected("a duration with a unit", &format!("\"{number}s\""));
            return None;
        }
        let duration = self.parse("a duration", "\"5s\"", units::duration)?;
        self.within(duration, range, |bound| units::show_duration(*bound))
    }

    pub(super) fn size(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let size = match self.plain_integer() {
            Some(0) => 0,
            Some(number) => {
                self.expected("a size with a unit", &format!("\"{number}B\""));
                return None;
            }
            None => self.parse("a size", "\"64KiB\"", units::size)?,
        };
        self.within(size, range, |bound| units::show_size(*bound))
    }

    pub(super) fn rate(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let rate = self.parse("a rate", "\"500B/s\"", units::rate)?;
        self.within(rate, range, |bound| units::show_rate(*bound))
    }

    /// A whole number. A string counts as one when it comes from the environment: variables
    /// exist only in strings.
    pub(super) fn integer<T: TryFrom<i64>>(&self, range: &RangeInclusive<i64>) -> Option<T> {
        let number = match self.plain_integer() {
            Some(number) => number,
            None if self.has_variables() => self.parse("", "", |text| {
                let invalid = || Invalid::new(format!("{text:?} is not a whole number"));
                text.parse::<i64>().map_err(|_| invalid())
            })?,
            None => {
                self.expected("a whole number", &range.start().max(&1).to_string());
                return None;
            }
        };
        let number = self.within(number, range, i64::to_string)?;
        T::try_from(number).ok()
    }

    fn plain_integer(&self) -> Option<i64> {
        let DeValue::Integer(number) = self.value else {
            return None;
        };
        // Too large for 64 bits is outside of every range too.
        Some(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX))
    }

    fn has_variables(&self) -> bool {
        matches!(self.value, DeValue::String(text) if text.contains("${"))
    }

    /// A share from 0 to 1.
    pub(super) fn ratio(&self) -> Option<f64> {
        let number = match self.value {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            DeValue::String(_) if self.has_variables() => self.parse("", "", |text| {
                let invalid = || Invalid::new(format!("{text:?} is not a number"));
                text.parse::<f64>().map(Some).map_err(|_| invalid())
            })?,
            _ => {
                self.expected("a number from 0 to 1", "0.1");
                return None;
            }
        };
        let ratio = number.filter(|number| (0.0..=1.0).contains(number));
        if ratio.is_none() {
            self.invalid(Invalid::new("must be from 0 to 1").help("0.1 is one in ten"));
        }
        ratio
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(boolean) => Some(*boolean),
            DeValue::String(_) if self.has_variables() => self.parse("", "", |text| {
                let invalid = || Invalid::new(format!("{text:?} is neither true nor false"));
                text.parse::<bool>().map_err(|_| invalid())
            }),
            _ => {
                self.expected("true or false", "true");
                None
            }
        }
    }

    /// A plain boolean, where a value may also be something else.
    pub(super) fn is_boolean(&self) -> bool {
        matches!(self.value, DeValue::Boolean(_))
    }

    fn within<T: PartialOrd>(
        &self,
        value: T,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let (low, high) = (show(range.start()), show(range.end()));
        self.context.push(
            self.error(&format!("{} is out of range", show(&value)))
                .help(format!("it must be from {low} to {high}")),
        );
        None
    }

    /// One word of a closed set.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let example = format!("{:?}", known.first().copied().unwrap_or_default());
        self.parse("a string", &example, |text| {
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            found.ok_or_else(|| {
                Invalid::new(format!("{text:?} is not a value of this key"))
                    .help(format!("write {}", suggest::alternatives(&known)))
            })
        })
    }

    /// A list; items that are wrong are reported and left out.
    pub(super) fn list<T>(
        &self,
        example: &str,
        mut item: impl FnMut(&Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Array(items) = self.value else {
            self.expected("a list", example);
            return None;
        };
        let items = items.iter().map(|value| Self {
            context: self.context,
            value: value.get_ref(),
            span: span(self.span.file, value.span()),
            path: self.path.clone(),
            kind: self.kind.clone(),
            is_item: true,
        });
        Some(items.filter_map(|value| item(&value)).collect())
    }

    /// A list that must not be empty.
    pub(super) fn non_empty_list<T>(
        &self,
        example: &str,
        item: impl FnMut(&Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        if matches!(self.value, DeValue::Array(items) if items.is_empty()) {
            let key = self.path.rsplit('.').next().unwrap_or_default();
            let help = format!("leave it out, or give it a value: {key} = {example}");
            self.invalid(Invalid::new("the list is empty").help(help));
            return None;
        }
        self.list(example, item)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value else {
            self.expected("a table", "{ … }");
            return None;
        };
        Some(self.as_table(Some(entries)))
    }

    /// Reads a value that is no table as the table where everything has its default.
    pub(super) fn default_table(&self) -> Table<'a> {
        self.as_table(None)
    }

    fn as_table(&self, entries: Option<&'a DeTable<'a>>) -> Table<'a> {
        Table::new(self.context, entries, self.span, self.path.clone(), self.kind.clone())
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// A set of statuses: strings with ranges, or plain numbers.
    pub(super) fn statuses(&self, allowed: &RangeInclusive<u16>) -> Option<StatusSet> {
        let ranges =
            self.non_empty_list("[\"200-299\", \"304\"]", |item| item.status_range(allowed))?;
        Some(StatusSet(ranges))
    }

    pub(super) fn status_range(&self, allowed: &RangeInclusive<u16>) -> Option<(u16, u16)> {
        if let Some(code) = self.plain_integer() {
            let range = units::statuses(&code.to_string(), allowed);
            return range.map_err(|invalid| self.invalid(invalid)).ok();
        }
        let range = |text: &str| units::statuses(text, allowed);
        self.parse("a status or a range of them", "\"200-299\"", range)
    }

    /// The folder of the file that this value is written in.
    pub(super) fn folder(&self) -> PathBuf {
        self.context.folder(self.span.file)
    }

    /// A path, relative to the file that names it.
    pub(super) fn file_path(&self, example: &str) -> Option<PathBuf> {
        self.parse("a path", example, |text| {
            if text.is_empty() || text.contains('\0') {
                return Err(Invalid::new("the path is empty").help("name a file or a folder"));
            }
            Ok(self.folder().join(text))
        })
    }

    /// A file, read now.
    pub(super) fn file(&self, example: &str) -> Option<FileContent> {
        let path = self.file_path(example)?;
        let read = self.context.files.borrow_mut().read(&path);
        match read {
            Ok(bytes) => Some(FileContent { path, bytes }),
            Err(why) => {
                let file = diagnostics::shown(&path);
                self.invalid(
                    Invalid::new(format!("cannot read {file}: {why}"))
                        .help("a relative path is relative to the file that names it"),
                );
                None
            }
        }
    }

    /// The name of something that is defined elsewhere; whether it is, is checked at the end.
    pub(super) fn reference(&self, to: Referent) -> Option<Name> {
        let name = self.string("\"name\"")?;
        self.context.references.borrow_mut().push(Reference {
            to,
            name: name.clone(),
            path: self.path.clone(),
            span: self.span,
        });
        Some(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics_of};

    #[test]
    fn a_value_of_the_wrong_type_is_told_with_an_example() {
        for (text, message) in [
            ("[log]\nlevel = 1", "`log.level` must be a level, not an integer"),
            ("[log]\nlevel = 1", "help: for example: level = \"info\""),
            ("[log]\nlevel = 1979-05-27", "must be a level, not a date"),
            ("[log]\naccess = 1.5", "must be a table, not a decimal number"),
            ("[cache]\nmemory = { a = 1 }", "must be a size, not a table"),
        ] {
            let shown = diagnostics_of(text);
            assert!(shown.contains(message), "{shown}");
        }
    }

    #[test]
    fn integers_may_be_written_in_any_base_and_be_too_large() {
        let workers = |text: &str| format!("[process]\nworkers = {text}");
        assert_eq!(config_of(&workers("0x10")).process.workers, 16);
        assert_eq!(config_of(&workers("1_0")).process.workers, 10);
        let shown = diagnostics_of(&workers("99999999999999999999"));
        assert!(shown.contains("it must be from 1 to 1024"), "{shown}");
    }

    #[test]
    fn a_string_is_a_number_only_when_it_comes_from_the_environment() {
        let limit =
            |text: &str| format!("[listener.web]\nbind = \"127.0.0.1:0\"\nlimits.headers = {text}");
        assert_eq!(config_of(&limit("\"${N:-5}\"")).listeners[0].limits.headers_max, 5);
        let shown = diagnostics_of(&limit("\"5\""));
        assert!(shown.contains("must be a whole number, not a string"), "{shown}");
        let shown = diagnostics_of(&limit("\"${N:-five}\""));
        assert!(shown.contains("\"five\" is not a whole number"), "{shown}");
    }

    #[test]
    fn a_word_of_a_closed_set_gets_the_set() {
        let shown = diagnostics_of("[log]\nformat = \"xml\"");
        assert_eq!(
            shown,
            "c.toml:2:10: error: `log.format`: \"xml\" is not a value of this key\n  \
             help: write `text` or `json`\n"
        );
    }
}
