//! The keys of a pool that is a folder: `fallback` and `cache_control`.

use std::path::PathBuf;

use http::HeaderValue;

use super::diagnostics::{Diagnostic, Invalid};
use super::model::{FileCacheControl, FilePattern, FilesOrigin};
use super::path;
use super::reader::{Entry, Table};
use super::value::Value;

/// Patterns of one folder.
const PATTERNS_MAX: usize = 64;

/// The values of both keys, which are read before the source of the pool is known.
pub(super) struct Keys<'a> {
    fallback: Option<Value<'a>>,
    cache_control: Option<Value<'a>>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(table: &Table<'a>) -> Self {
        Self { fallback: table.value("fallback"), cache_control: table.value("cache_control") }
    }

    /// The folder, if `value` is one.
    pub(super) fn origin(self, value: &Value<'_>) -> Option<FilesOrigin> {
        let fallback = self.fallback;
        let fallback =
            fallback.and_then(|value| value.parse("a path", "\"/index.html\"", path::normal));
        let cache_control = self.cache_control.map(|value| cache_control(&value));
        let root = folder(value)?;
        Some(FilesOrigin { root, fallback, cache_control: cache_control.unwrap_or_default() })
    }

    /// Reports both where the pool is no folder.
    pub(super) fn refuse(self) {
        for value in [self.fallback, self.cache_control].into_iter().flatten() {
            let misplaced = value.error("it is only for pools of files");
            let help = "leave it out; the endpoints decide this themselves";
            value.context.push(misplaced.help(help));
        }
    }
}

fn folder(value: &Value<'_>) -> Option<PathBuf> {
    let root = value.file_path("\"../site\"")?;
    if root.is_dir() {
        return Some(root);
    }
    let shown = super::diagnostics::shown(&root);
    let what = if root.exists() { "is not a folder" } else { "does not exist" };
    value.invalid(
        Invalid::new(format!("{shown} {what}"))
            .help("name a folder; a relative path is relative to the file that names it"),
    );
    None
}

fn cache_control(value: &Value<'_>) -> FileCacheControl {
    let Some(table) = value.is_table().then(|| value.table()).flatten() else {
        let control = control(value).map(|control| (FilePattern::Any, control));
        return FileCacheControl(control.into_iter().collect());
    };
    let mut controls = Vec::new();
    for Entry { key, key_span, value } in table.entries() {
        let control = control(&value);
        match pattern(key) {
            Ok(pattern) => controls.extend(control.map(|control| (pattern, control))),
            Err(Invalid { message, help }) => {
                let mut diagnostic = Diagnostic::error(key_span, message);
                diagnostic.help = help;
                table.context.push(diagnostic);
            }
        }
    }
    if controls.len() > PATTERNS_MAX {
        let message = format!("there are more than {PATTERNS_MAX} patterns");
        table.context.push(Diagnostic::error(table.span, message));
    }
    controls.sort_by(|(one, _), (other, _)| {
        let rank = |pattern: &FilePattern| match pattern {
            FilePattern::Exact(text) => (0, std::cmp::Reverse(text.len())),
            FilePattern::Below(text) => (1, std::cmp::Reverse(text.len())),
            FilePattern::Ending(text) => (2, std::cmp::Reverse(text.len())),
            FilePattern::Any => (3, std::cmp::Reverse(0)),
        };
        rank(one).cmp(&rank(other)).then_with(|| one.cmp(other))
    });
    FileCacheControl(controls)
}

fn control(value: &Value<'_>) -> Option<HeaderValue> {
    value.parse("a value of Cache-Control", "\"max-age=60\"", |text| {
        HeaderValue::from_str(text).map_err(|_| {
            Invalid::new(format!("{text:?} is not the value of a header"))
                .help("write visible ASCII characters only")
        })
    })
}

fn pattern(text: &str) -> Result<FilePattern, Invalid> {
    let plain = |text: &str| !text.is_empty() && !text.contains('*');
    match text {
        "*" | "/*" => Ok(FilePattern::Any),
        _ => match (text.strip_prefix('*'), text.strip_suffix("/*")) {
            (Some(ending), None) if plain(ending) => Ok(FilePattern::Ending(ending.to_owned())),
            (None, Some(folder)) if folder.starts_with('/') && plain(folder) => {
                Ok(FilePattern::Below(format!("{folder}/")))
            }
            (None, None) if text.starts_with('/') && plain(text) => {
                Ok(FilePattern::Exact(text.to_owned()))
            }
            _ => Err(Invalid::new(format!("{text:?} is no pattern of files"))
                .help("write \"/assets/*\", \"*.html\", \"/index.html\" or \"*\"")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_files_folders_and_endings() {
        for (text, shown) in [
            ("*", "*"),
            ("/*", "*"),
            ("*.html", "*.html"),
            ("/assets/*", "/assets/*"),
            ("/a b.txt", "/a b.txt"),
        ] {
            assert_eq!(pattern(text).map(|it| it.to_string()).ok().as_deref(), Some(shown));
        }
        for text in ["", "index.html", "assets/*", "/a*", "/a/*.js", "**", "/a/*/*", "*a*"] {
            assert!(pattern(text).is_err(), "{text}");
        }
    }
}
