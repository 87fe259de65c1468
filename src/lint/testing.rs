//! What the tests of the lints share.

use std::time::Duration;

use crate::config::diagnostics::Diagnostic;
use crate::config::model::Front;
use crate::front::ranges;
use crate::snapshot::testing::of_text;

/// What is said of a configuration that is completed with a listener, a pool and a route where it
/// has none: each lint with the value that it points at.
pub(super) fn said(text: &str) -> Vec<(&'static str, String)> {
    said_in(text, &[], Duration::ZERO)
}

/// The same with files that the configuration names, and so long after the embedded list of
/// addresses was taken.
pub(super) fn said_in(
    text: &str,
    files: &[(&str, &str)],
    later: Duration,
) -> Vec<(&'static str, String)> {
    let text = completed(text);
    let snapshot = of_text(&text, files, None);
    let taken = ranges::built_in_taken(Front::Cloudflare).unwrap();
    let found = super::all(&snapshot, taken + later);
    found.iter().map(|it| (it.lint.unwrap(), pointed_at(&text, it))).collect()
}

pub(super) fn pointed_at(text: &str, diagnostic: &Diagnostic) -> String {
    let span = diagnostic.span.unwrap();
    text[span.start as usize..span.end as usize].to_owned()
}

pub(super) fn completed(text: &str) -> String {
    let mut text = format!("{text}\n");
    for (mark, section) in [
        ("[listener.", "[listener.web]\nbind = \"0.0.0.0:8080\"\nfront = \"cloudflare\"\n"),
        ("[pool.app", "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n"),
        ("pool = \"app\"", "[[route]]\nname = \"rest\"\npriority = -1\npool = \"app\"\n"),
    ] {
        if !text.contains(mark) {
            text.push_str(section);
        }
    }
    text
}
