//! The sections of all files, put together.
//!
//! A single table (`[cache]`) and a name (`[pool.x]`) exist once over all files; a second one is
//! an error that shows both places. `[[route]]` appends, in the order of the files.

use std::collections::BTreeMap;

use super::context::Context;
use super::diagnostics::{Diagnostic, Invalid, Span};
use super::model::Name;
use super::reader::{Entry, Table};
use super::value::Value;

/// Bound on the names of listeners, pools and routes, in bytes: they are labels of metrics.
const NAME_BYTES_MAX: usize = 128;

pub(super) struct Sections<'a> {
    pub(super) process: Table<'a>,
    pub(super) admin: Table<'a>,
    pub(super) log: Table<'a>,
    pub(super) cache: Table<'a>,
    pub(super) purge: Table<'a>,
    /// `None` where there is no such table.
    pub(super) acme: Option<Table<'a>>,
    pub(super) listeners: Vec<Section<'a>>,
    pub(super) pools: Vec<Section<'a>>,
    pub(super) routes: Vec<Table<'a>>,
}

/// A table with a name of the operator's.
pub(super) struct Section<'a> {
    pub(super) name: Name,
    pub(super) span: Span,
    pub(super) table: Table<'a>,
}

/// Joins the top levels of the files, the main one first. `include` was followed before.
pub(super) fn join<'a>(context: &'a Context<'a>, roots: Vec<Table<'a>>) -> Sections<'a> {
    for (number, root) in roots.iter().enumerate() {
        if let (Some(include), true) = (root.value("include"), number > 0) {
            include.invalid(
                Invalid::new("an included file may not include others")
                    .help("name all files in the main file"),
            );
        }
    }
    let sections = Sections {
        process: single(context, &roots, "process"),
        admin: single(context, &roots, "admin"),
        log: single(context, &roots, "log"),
        cache: single(context, &roots, "cache"),
        purge: single(context, &roots, "purge"),
        acme: Some(single(context, &roots, "acme")).filter(Table::is_there),
        listeners: named(&roots, "listener"),
        pools: named(&roots, "pool"),
        routes: routes(&roots),
    };
    roots.into_iter().for_each(Table::finish);
    sections
}

fn single<'a>(context: &'a Context<'a>, roots: &[Table<'a>], key: &'static str) -> Table<'a> {
    let mut first: Option<Value<'a>> = None;
    for value in roots.iter().filter_map(|root| root.value(key)) {
        match &first {
            Some(first) => context.push(twice(&format!("[{key}]"), value.span, first.span)),
            None => first = Some(value),
        }
    }
    first.and_then(|value| value.table()).unwrap_or_else(|| Table::absent(context, key))
}

/// In the order of the names.
fn named<'a>(roots: &[Table<'a>], key: &'static str) -> Vec<Section<'a>> {
    let mut sections: BTreeMap<Name, Section<'a>> = BTreeMap::new();
    for root in roots {
        let names = root.read(key, Value::table);
        for Entry { key: name, key_span, value } in names.iter().flat_map(Table::entries) {
            if let Err(invalid) = check_name(name) {
                let mut diagnostic = Diagnostic::error(key_span, invalid.message);
                diagnostic.help = invalid.help;
                root.context.push(diagnostic);
            }
            let Some(table) = value.table() else { continue };
            let section = Section { name: name.into(), span: value.span, table };
            if let Some(first) = sections.get(name) {
                let what = format!("[{key}.{name}]");
                root.context.push(twice(&what, section.span, first.span));
            } else {
                sections.insert(section.name.clone(), section);
            }
        }
    }
    sections.into_values().collect()
}

fn routes<'a>(roots: &[Table<'a>]) -> Vec<Table<'a>> {
    let mut routes = Vec::new();
    for value in roots.iter().filter_map(|root| root.value("route")) {
        if value.is_list() {
            routes.extend(value.list("", Value::table).into_iter().flatten());
        } else {
            let table = Diagnostic::error(value.span, "routes are a list of tables");
            value.context.push(table.help("write [[route]] with two brackets for each route"));
        }
    }
    routes
}

pub(super) fn twice(what: &str, again: Span, first: Span) -> Diagnostic {
    Diagnostic::error(again, format!("{what} is defined twice"))
        .help("keep one of the two definitions, or join them")
        .note(first, "first defined here")
}

/// Names become labels, parts of URLs and columns of logs.
pub(super) fn check_name(name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Invalid::new(format!(
            "the name {name:?} must have 1 to {NAME_BYTES_MAX} bytes"
        ))
        .help("name it by letters, digits, `-` and `_`"));
    }
    if name.contains(|letter: char| letter.is_control() || letter.is_whitespace()) {
        return Err(Invalid::new(format!("the name {name:?} has white space in it"))
            .help("name it by letters, digits, `-` and `_`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, diagnostics_of};

    const REST: &str = "[listener.web]\nbind = \"127.0.0.1:0\"\n[[route]]\npool = \"app\"\n";

    #[test]
    fn files_are_joined_and_routes_appended_in_the_order_of_names() {
        let folder = Folder::new();
        folder.write("c.toml", &format!("include = [\"conf.d/*.toml\"]\n{REST}"));
        folder.write("conf.d/b.toml", "[[route]]\nhosts = [\"b\"]\npool = \"app\"\n");
        folder.write(
            "conf.d/a.toml",
            "[pool.app]\nendpoints = [\"a:1\"]\n[[route]]\nhosts = [\"a\"]\npool = \"app\"\n",
        );
        let loaded = folder.load("c.toml");
        assert_eq!(folder.shown(&loaded), "");
        let routes: Vec<_> =
            loaded.draft.routes.iter().map(|route| (&*route.name, route.hosts.len())).collect();
        assert_eq!(routes, [("route-1", 0), ("route-2", 1), ("route-3", 1)]);
        let watched: Vec<_> =
            loaded.files.iter().map(|path| path.strip_prefix(folder.path()).unwrap()).collect();
        let shown: Vec<_> = watched.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(shown, ["c.toml", "conf.d/a.toml", "conf.d/b.toml", "conf.d"]);
    }

    #[test]
    fn a_name_or_table_in_two_files_is_an_error_that_shows_both() {
        let folder = Folder::new();
        folder.write(
            "c.toml",
            &format!("include = [\"d.toml\"]\n[cache]\n[pool.app]\nendpoints = [\"a:1\"]\n{REST}"),
        );
        folder.write("d.toml", "[pool.app]\nendpoints = [\"b:1\"]\n[cache]\nmemory = \"1GiB\"\n");
        assert_eq!(
            folder.shown(&folder.load("c.toml")),
            "d.toml:1:1: error: [pool.app] is defined twice\n  \
             help: keep one of the two definitions, or join them\n  \
             c.toml:3:1: note: first defined here\n\
             d.toml:3:1: error: [cache] is defined twice\n  \
             help: keep one of the two definitions, or join them\n  \
             c.toml:2:1: note: first defined here\n"
        );
    }

    #[test]
    fn an_included_file_may_not_include() {
        let folder = Folder::new();
        folder.write("c.toml", &format!("include = [\"d.toml\"]\n{REST}"));
        folder.write("d.toml", "include = []\n[pool.app]\nendpoints = [\"a:1\"]\n");
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(
            shown.starts_with("d.toml:1:11: error: `include`: an included file may not"),
            "{shown}"
        );
    }

    #[test]
    fn a_route_as_a_plain_table_is_told_to_be_a_list() {
        let shown = diagnostics_of("[route]\npool = \"app\"");
        assert!(shown.contains("help: write [[route]] with two brackets"), "{shown}");
    }

    #[test]
    fn names_have_no_white_space() {
        let shown = diagnostics_of("[pool.\"a b\"]\nendpoints = [\"a:1\"]");
        assert!(shown.contains("c.toml:1:7: error: the name \"a b\" has white space"), "{shown}");
    }
}
