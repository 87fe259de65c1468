//! The rules of ARCHITECTURE.md that can be read off the source: modules import from lower rows
//! only, and no file is too long.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Lines of a file before its tests.
const LINES_MAX: usize = 500;

/// The rows of the table in ARCHITECTURE.md, by module.
fn rows() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().skip_while(|line| *line != "## Direction") {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, row, modules, _] = cells[..] else { continue };
        let Ok(row) = row.parse() else { continue };
        for module in modules.split_whitespace() {
            rows.insert(module.trim_matches('`').to_owned(), row);
        }
    }
    rows
}

/// Every source file with its module, the first part of its path.
fn sources() -> Vec<(String, PathBuf)> {
    let root = Path::new(ROOT).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
                let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs");
                sources.push((module.to_owned(), path));
            }
        }
    }
    sources.sort();
    sources
}

/// The part of a file before its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let is_end = |line: &&str| *line != "#[cfg(test)]";
    text.lines().take_while(is_end).fold(String::new(), |code, line| code + line + "\n")
}

/// The modules of this crate that some code names, without those in comments.
fn imports(code: &str) -> Vec<String> {
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n");
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut first = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut first)),
                    _ if depth == 0 => first.push(character),
                    _ => {}
                }
            }
            found.push(first);
        } else {
            found.push(rest.to_owned());
        }
    }
    let name = |path: String| -> String {
        path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    // Names of types are no modules; there are none at the root of this crate.
    let mut names: Vec<_> = found.into_iter().map(name).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    names
}

fn shown(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap().display().to_string()
}

#[test]
fn every_module_has_a_row() {
    let rows = rows();
    for (module, path) in sources() {
        assert!(module == "lib" || rows.contains_key(&module), "{} has no row", shown(&path));
    }
    assert!(rows.len() > 20, "the table was not read: {rows:?}");
}

#[test]
fn imports_go_to_lower_rows_only() {
    let rows = rows();
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        let Some(row) = rows.get(&module) else { continue };
        for import in imports(&code(&path)) {
            let lower = rows.get(&import).is_some_and(|other| other < row);
            if import != module && !lower {
                wrong.push(format!("{} imports {import}", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let long = sources().into_iter().filter_map(|(_, path)| {
        let lines = code(&path).lines().count();
        (lines > LINES_MAX).then(|| format!("{} has {lines} lines before its tests", shown(&path)))
    });
    let long: Vec<_> = long.collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn imports_are_read_in_every_form() {
    let code = "use crate::a::B;\nuse crate::{c, d::{e, f}, g::H};\n// crate::x\n\
                fn f() { crate::i::j(); }\n";
    assert_eq!(imports(code), ["a", "c", "d", "g", "i"]);
}

#[test]
fn every_test_that_the_rules_of_the_cache_name_is_there() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/cache.md")).unwrap();
    let (_, table) = text.split_once("## Rules and tests").unwrap();
    let named: Vec<_> =
        table.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::")).collect();
    assert!(named.len() > 100, "{}", named.len());
    let folders = ["tests/it", "src/cache", "src/range", "src/compress"];
    for (module, test) in named {
        let is_there = folders.iter().any(|folder| {
            let path = Path::new(ROOT).join(folder).join(format!("{module}.rs"));
            fs::read_to_string(path).is_ok_and(|code| code.contains(&format!("fn {test}()")))
        });
        assert!(is_there, "{module}::{test} is named in docs/cache.md");
    }
}
