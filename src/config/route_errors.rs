//! `route.errors`: pages of the operator in place of ours.

use super::diagnostics::{Diagnostic, Invalid};
use super::model::{ErrorPage, StatusSet};
use super::reader::{Entry, Table};
use super::units;

/// Pages of one route.
const PAGES_MAX: usize = 64;
const STATUSES: std::ops::RangeInclusive<u16> = 400..=599;

/// Single statuses before ranges, so that the first page that fits is the one that is meant.
pub(super) fn read(table: Table<'_>) -> Vec<ErrorPage> {
    let mut pages: Vec<ErrorPage> = Vec::new();
    let mut seen: Vec<(u16, u16)> = Vec::new();
    for Entry { key, key_span, value } in table.entries() {
        let file = value.file("\"maintenance.html\"");
        let range = units::statuses(key, &STATUSES).and_then(|range| {
            let is_range = |(low, high): &(u16, u16)| low < high;
            let overlaps = |other: &&(u16, u16)| {
                is_range(other) == is_range(&range) && other.0 <= range.1 && range.0 <= other.1
            };
            match seen.iter().find(overlaps) {
                Some((low, high)) => Err(Invalid::new(format!(
                    "{key} overlaps with {}",
                    units::show_statuses((*low, *high))
                ))
                .help("a status may be in one range, and have one page of its own")),
                None => Ok(range),
            }
        });
        match range {
            Ok(range) => {
                seen.push(range);
                pages.extend(file.map(|file| ErrorPage { statuses: StatusSet(vec![range]), file }));
            }
            Err(Invalid { message, help }) => {
                let mut diagnostic = Diagnostic::error(key_span, message);
                diagnostic.help = help;
                table.context.push(diagnostic);
            }
        }
    }
    if pages.len() > PAGES_MAX {
        let message = format!("there are more than {PAGES_MAX} pages");
        table.context.push(Diagnostic::error(table.span, message));
    }
    pages.sort_by_key(|page| page.statuses.0.iter().map(|(low, high)| high - low).max());
    pages
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;

    fn load(errors: &str) -> (String, Vec<String>) {
        let folder = Folder::new();
        for page in ["down.html", "gone.html"] {
            folder.write(page, page);
        }
        folder.write(
            "c.toml",
            &format!(
                "[listener.web]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {{}}\n\
                 errors = {errors}\n"
            ),
        );
        let loaded = folder.load("c.toml");
        let pages = loaded.draft.routes.iter().flat_map(|route| &route.errors);
        let pages = pages
            .map(|page| {
                let (low, high) = page.statuses.0[0];
                format!("{low}-{high} {}", String::from_utf8_lossy(&page.file.bytes))
            })
            .collect();
        (folder.shown(&loaded), pages)
    }

    #[test]
    fn a_page_of_one_status_comes_before_that_of_a_range() {
        let (shown, pages) =
            load("{ \"500-599\" = \"down.html\", 503 = \"gone.html\", 404 = \"gone.html\" }");
        assert_eq!(shown, "");
        assert_eq!(pages, ["404-404 gone.html", "503-503 gone.html", "500-599 down.html"]);
    }

    #[test]
    fn what_is_no_page_or_no_error_is_said() {
        for (errors, message) in [
            ("{ 502 = \"none.html\" }", "none.html: it does not exist"),
            ("{ 200 = \"down.html\" }", "\"200\" is no status or range"),
            ("{ 5xx = \"down.html\" }", "write \"503\" or \"500-599\""),
            (
                "{ \"500-510\" = \"down.html\", \"505-599\" = \"down.html\" }",
                "505-599 overlaps with 500-510",
            ),
            ("{ 502 = 1 }", "must be a path"),
            ("\"down.html\"", "must be a table"),
        ] {
            let (shown, _) = load(errors);
            assert!(shown.contains(message), "{errors}: {shown}");
        }
    }
}
