//! Requests of a route that go to more than one pool: `split` and `mirror`.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::context::Referent;
use super::diagnostics::{Invalid, Span};
use super::model::{Mirror, Name, Share};
use super::reader::Table;
use super::units;
use super::value::Value;

/// Zero takes nothing, such as a version that is not there yet.
const WEIGHT: RangeInclusive<i64> = 0..=1000;

pub(super) fn split(value: &Value<'_>) -> Option<Vec<Share>> {
    const EXAMPLE: &str = "[{ pool = \"a\", weight = 90 }, { pool = \"b\", weight = 10 }]";
    let mut seen: HashMap<Name, Span> = HashMap::new();
    let shares = value.non_empty_list(EXAMPLE, |item| {
        let share = item.table().and_then(share)?;
        if let Some(first) = seen.insert(share.pool.clone(), item.span) {
            let twice = item.error(&format!("the pool {:?} is named twice", share.pool));
            let help = "give it a larger `weight` instead";
            item.context.push(twice.help(help).note(first, "first named here"));
            return None;
        }
        Some(share)
    })?;
    if shares.iter().all(|share| share.weight == 0) {
        if !shares.is_empty() {
            let invalid = Invalid::new("no share has a weight");
            value.invalid(invalid.help("give at least one of them a `weight` above 0"));
        }
        return None;
    }
    Some(shares)
}

fn share(table: Table<'_>) -> Option<Share> {
    let pool = table.required("pool", "\"app\"").and_then(|it| it.reference(Referent::Pool));
    let weight = table.required("weight", "10").and_then(|value| value.integer(&WEIGHT));
    table.finish();
    Some(Share { pool: pool?, weight: weight? })
}

pub(super) fn mirror(value: &Value<'_>) -> Option<Mirror> {
    let table = value.table()?;
    let pool = table.required("pool", "\"next\"").and_then(|it| it.reference(Referent::Pool));
    let share =
        table.read("share", |value| value.parse("a percentage", "\"10%\"", units::percentage));
    table.finish();
    Some(Mirror { pool: pool?, share: share.unwrap_or(1.0) })
}

#[cfg(test)]
mod tests {
    use super::super::model::Action;
    use super::super::testing::{config_of, diagnostics_of};

    const POOLS: &str = "[pool.a]\nendpoints = [\"a:1\"]\n[pool.b]\nendpoints = [\"b:1\"]\n";
    /// A use for the pool that there is anyway.
    const REST: &str = "[[route]]\npool = \"app\"\nhosts = [\"c\"]\n";

    fn said(route: &str) -> String {
        diagnostics_of(&format!("[[route]]\n{route}\n{POOLS}{REST}"))
    }

    #[test]
    fn a_split_has_pools_with_weights() {
        let text = format!(
            "{POOLS}[[route]]\n\
             split = [{{ pool = \"a\", weight = 90 }}, {{ pool = \"b\", weight = 0 }}]\n{REST}"
        );
        let Action::Split(shares) = &config_of(&text).routes[0].action else {
            unreachable!("a split was given")
        };
        let shares: Vec<_> = shares.iter().map(|it| (&*it.pool, it.weight)).collect();
        assert_eq!(shares, [("a", 90), ("b", 0)]);
        for (split, message) in [
            ("[]", "the list is empty"),
            ("\"a\"", "`route.split` must be a list, not a string"),
            ("[{ pool = \"a\" }]", "`route.split.weight` is missing"),
            ("[{ pool = \"a\", weight = 1001 }]", "it must be from 0 to 1000"),
            ("[{ pool = \"a\", weight = 0 }]", "no share has a weight"),
            ("[{ pool = \"c\", weight = 1 }]", "there is no pool \"c\""),
            (
                "[{ pool = \"a\", weight = 1 }, { pool = \"a\", weight = 1 }]",
                "the pool \"a\" is named twice",
            ),
        ] {
            let shown = said(&format!("split = {split}"));
            assert!(shown.contains(message), "{split}: {shown}");
        }
    }

    #[test]
    fn a_mirror_has_a_pool_and_a_share() {
        let mirror = |mirror: &str| {
            let text = format!("{POOLS}[[route]]\npool = \"a\"\nmirror = {mirror}\n{REST}");
            config_of(&text).routes.remove(0).mirror.unwrap()
        };
        let all = mirror("{ pool = \"b\" }");
        assert_eq!((&*all.pool, all.share), ("b", 1.0));
        assert_eq!(mirror("{ pool = \"b\", share = \"10%\" }").share, 0.1);
        let shown = said("pool = \"a\"\nmirror = { share = \"10%\" }");
        assert!(shown.contains("`route.mirror.pool` is missing"), "{shown}");
        let shown = said("respond = {}\nmirror = { pool = \"b\" }");
        assert!(shown.contains("`route.mirror`: it has no effect without a pool"), "{shown}");
    }
}
