//! The operator's edits of header fields.

use http::{HeaderMap, HeaderValue};

use super::template::{self, Values};
use crate::config::model::HeaderEdits;

/// Makes them: removals, then replacements, then additions.
pub fn edit<'a>(headers: &mut HeaderMap, edits: &HeaderEdits, values: impl FnOnce() -> Values<'a>) {
    if edits.is_empty() {
        return;
    }
    let values = &values();
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, template) in &edits.set {
        if let Ok(value) = HeaderValue::try_from(template::expand(template, values)) {
            headers.insert(name.clone(), value);
        }
    }
    for (name, template) in &edits.add {
        if let Ok(value) = HeaderValue::try_from(template::expand(template, values)) {
            headers.append(name.clone(), value);
        }
    }
}
