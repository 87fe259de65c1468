//! `[purge]` as JSON.

use serde_json::{Map, Value, json};

use super::HIDDEN;
use crate::config::model::{FrontPurgeMode, Purge};
use crate::config::purge::{PLANS, TAGS};

pub(super) fn describe(purge: &Purge) -> Value {
    let mut fronts = Map::new();
    if let Some(it) = &purge.cloudflare {
        let plan = PLANS.iter().find(|(_, plan)| *plan == it.plan).map(|(name, _)| *name);
        let mode = match it.mode {
            FrontPurgeMode::Purge => "purge",
            FrontPurgeMode::Invalidate => "invalidate",
        };
        let shown = json!({
            "zone": &*it.zone, "token": HIDDEN, "api": &*it.api, "mode": mode, "plan": plan,
        });
        fronts.insert("cloudflare".to_owned(), shown);
    }
    if let Some(it) = &purge.cloudfront {
        let tags = TAGS.iter().find(|(_, tags)| *tags == it.tags).map(|(name, _)| *name);
        let shown = json!({
            "distribution": &*it.distribution, "credentials": HIDDEN, "api": &*it.api, "tags": tags,
        });
        fronts.insert("cloudfront".to_owned(), shown);
    }
    Value::Object(fronts)
}
