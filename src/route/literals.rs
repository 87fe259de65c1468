//! Text without which a regex cannot match.

use regex_syntax::hir::{Hir, HirKind};

/// Texts of which at least one stands in whatever matches.
pub(super) type Required = Vec<Vec<u8>>;

/// Texts of one requirement, at most: more tell little.
const TEXTS_MAX: usize = 32;

/// What a regex requires, all of it; nothing for one that may match without fixed text, as where
/// case does not matter.
pub(super) fn required(regex: &str) -> Vec<Required> {
    // What the configuration has read as a regex can be read again.
    regex_syntax::parse(regex).map_or_else(|_| Vec::new(), |hir| of(&hir))
}

fn of(hir: &Hir) -> Vec<Required> {
    match hir.kind() {
        HirKind::Literal(literal) => vec![vec![literal.0.to_vec()]],
        HirKind::Capture(capture) => of(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => of(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().flat_map(of).collect(),
        HirKind::Alternation(branches) => {
            let each = branches.iter().map(|branch| of(branch).into_iter().max_by_key(shortest));
            let Some(each) = each.collect::<Option<Vec<Required>>>() else { return Vec::new() };
            let texts: Required = each.into_iter().flatten().collect();
            if texts.len() > TEXTS_MAX { Vec::new() } else { vec![texts] }
        }
        _ => Vec::new(),
    }
}

/// The length of the shortest text, in bytes.
fn shortest(required: &Required) -> usize {
    required.iter().map(Vec::len).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(regex: &str) -> Vec<Vec<String>> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let texts = |required: Required| required.into_iter().map(text).collect();
        required(regex).into_iter().map(texts).collect()
    }

    #[test]
    fn what_every_match_holds_is_required() {
        assert_eq!(texts("^/r12/[0-9]+$"), [["/r12/"]]);
        assert_eq!(texts("^/users/[0-9]+/item-7$"), [["/users/"], ["/item-7"]]);
        assert_eq!(texts("/(abc|def)/x"), [vec!["/"], vec!["abc", "def"], vec!["/x"]]);
        assert_eq!(texts("/(ab)+c"), [["/"], ["ab"], ["c"]]);
        assert_eq!(texts("/a(bc)?d"), [["/a"], ["d"]]);
    }

    #[test]
    fn a_regex_that_may_match_without_text_requires_nothing() {
        for regex in [".*", "[0-9]+", "(abc)*", "(abc|[0-9])", "(?i)abc", "", "("] {
            assert!(required(regex).is_empty(), "{regex}");
        }
    }
}
