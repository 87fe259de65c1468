//! `[acme]` as JSON.

use serde_json::{Map, Value, json};

use crate::config::model::Acme;

pub(super) fn describe(acme: &Acme) -> Value {
    let certificates: Map<_, _> = acme
        .certificates
        .iter()
        .map(|it| (it.name.to_string(), it.hosts.iter().map(|host| json!(&**host)).collect()))
        .collect();
    json!({
        "directory": &*acme.directory,
        "ca": acme.ca.as_ref().map(|file| file.path.display().to_string()),
        "contact": acme.contact.iter().map(|it| &**it).collect::<Vec<_>>(),
        "challenge": acme.challenge.as_str(),
        "folder": acme.folder.display().to_string(),
        "certificates": certificates,
    })
}
