//! Active checks, as JSON.

use serde_json::{Map, Value, json};

use super::{field, shown_value, statuses};
use crate::config::model::{Health, HttpProbe, Probe, ProbeFields};
use crate::config::units::show_duration;

pub(super) fn health(health: &Health) -> Value {
    let mut described = match &health.probe {
        Probe::Tcp => json!({ "tcp": true }),
        Probe::Http(HttpProbe { method, path, fields, expect, body_contains }) => {
            let mut described = self::fields(fields);
            described["method"] = json!(method.as_str());
            described["path"] = json!(path.as_str());
            described["expect"] = json!(statuses(expect));
            described["body_contains"] = json!(body_contains);
            described
        }
        Probe::Grpc { service, fields } => {
            let mut described = self::fields(fields);
            described["grpc"] = json!(service);
            described
        }
    };
    described["port"] = json!(health.port);
    described["interval"] = json!(show_duration(health.interval));
    described["timeout"] = json!(show_duration(health.timeout));
    described["healthy_after"] = json!(health.healthy_after);
    described["unhealthy_after"] = json!(health.unhealthy_after);
    described
}

fn fields(fields: &ProbeFields) -> Value {
    let headers = fields.headers.iter().map(|(name, value)| field(name, shown_value(value)));
    json!({
        "host": fields.host.as_ref().map(shown_value),
        "headers": headers.collect::<Map<_, _>>(),
    })
}
