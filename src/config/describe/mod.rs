//! A configuration as JSON, for `GET /api/config`.
//!
//! It has the shape and the units of the configuration file, with every default filled in. Secrets
//! are left out: tokens, keys, certificates (their paths stand for them) and the values of header
//! fields that usually carry credentials, which often come from the environment.

mod acme;
mod cache;
mod conditions;
mod health;
mod purge;

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::model::{
    AccessField, AccessFormat, AccessLog, AccessPart, AccessTarget, Action, Balance,
    CertificateFiles, ClientAuth, ClientAuthMode, ClientIpHeader, Config, ErrorPage,
    FileCacheControl, FileContent, FilePattern, HashOn, HeaderEdits, HedgeAfter, HostPattern,
    Listener, LogFormat, Name, PathPattern, Pool, PoolSource, Protocol, Protocols, ProxyProtocol,
    RangesSource, Retry, Rewrite, Route, StatusSet, Template, TemplatePart, TlsVersion,
    UpstreamTls, Variable,
};
use super::units::{show_duration, show_percentage, show_rate, show_size, show_statuses};

pub use conditions::add as add_conditions;

const HIDDEN: &str = "(hidden)";
/// Parts of header names whose values are credentials.
const CREDENTIALS: [&str; 6] = ["auth", "token", "secret", "key", "cookie", "password"];

pub fn describe_config(config: &Config) -> Value {
    let admin = config.admin.as_ref().map_or_else(
        || json!({ "bind": "off" }),
        |admin| {
            json!({
                "bind": admin.bind.to_string(),
                "token": admin.token.as_ref().map(|_| HIDDEN),
                "ready_requires": names(&admin.ready_requires),
            })
        },
    );
    let listeners = config.listeners.iter().map(|it| (it.name.to_string(), listener(it)));
    let pools = config.pools.iter().map(|it| (it.name.to_string(), pool(it)));
    json!({
        "process": {
            "workers": config.process.workers,
            "drain_timeout": show_duration(config.process.drain_timeout),
            "shutdown_delay": show_duration(config.process.shutdown_delay),
            "buffer_memory": show_size(config.process.buffer_bytes_max),
            "zone": config.process.zone.as_deref(),
            "resolvers": config.process.resolvers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "admin": admin,
        "log": {
            "level": config.log.level,
            "format": match config.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            "access": access_log(&config.log.access),
        },
        "cache": {
            "memory": show_size(config.cache.memory_bytes_max),
            "object_max": show_size(config.cache.object_bytes_max),
            "variants_max": config.cache.variants_max,
            "status_key": config.cache.status_key,
            "name": &*config.cache.name,
        },
        "purge": purge::describe(&config.purge),
        "acme": config.acme.as_ref().map(acme::describe),
        "listener": listeners.collect::<Map<_, _>>(),
        "pool": pools.collect::<Map<_, _>>(),
        "route": config.routes.iter().map(route).collect::<Vec<_>>(),
    })
}

fn access_log(log: &AccessLog) -> Value {
    let to = match &log.to {
        AccessTarget::Stdout => "stdout".to_owned(),
        AccessTarget::Stderr => "stderr".to_owned(),
        AccessTarget::Off => "off".to_owned(),
        AccessTarget::File(path) => path.display().to_string(),
    };
    let format = match &log.format {
        AccessFormat::Json => "json".to_owned(),
        AccessFormat::Combined => "combined".to_owned(),
        AccessFormat::Template(parts) => parts
            .iter()
            .map(|part| match part {
                AccessPart::Literal(text) => escaped(text),
                AccessPart::Field(field) => format!("{{{}}}", field_name(*field)),
            })
            .collect(),
    };
    json!({ "to": to, "format": format, "sample": log.sample })
}

fn field_name(field: AccessField) -> &'static str {
    AccessField::NAMES.iter().find(|(_, known)| *known == field).map_or("", |(name, _)| name)
}

fn listener(listener: &Listener) -> Value {
    let bind: Vec<_> = listener.bind.iter().map(|bind| bind.value.to_string()).collect();
    let tls = listener.tls.as_ref().map(|tls| {
        json!({
            "certificates": tls.certificates.iter().map(certificate).collect::<Vec<_>>(),
            "directory": tls.directory.as_ref().map(|folder| folder.path.display().to_string()),
            "self_signed": tls.self_signed.as_ref().map(|made| &made.names),
            "ticket_keys": tls.ticket_keys.as_ref().map(|_| HIDDEN),
            "client_auth": tls.client_auth.iter().map(client_auth).collect::<Vec<_>>(),
            "min_version": match tls.min_version {
                TlsVersion::V1_2 => "1.2",
                TlsVersion::V1_3 => "1.3",
            },
        })
    });
    let Protocols { h1, h2 } = listener.protocols;
    let protocols = [("h2", h2), ("h1", h1)].into_iter().filter(|(_, on)| *on);
    let timeouts = &listener.timeouts;
    let limits = &listener.limits;
    json!({
        "bind": bind,
        "tls": tls,
        "protocols": protocols.map(|(name, _)| name).collect::<Vec<_>>(),
        "trusted": listener.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "front": listener.front.as_str(),
        "trusted_from": listener.trusted_from.as_ref().map(RangesSource::shown),
        "trusted_refresh": listener
            .trusted_from
            .as_ref()
            .and_then(|from| from.url())
            .map(|url| show_duration(url.refresh)),
        "front_required": listener.front_required.is_some(),
        "front_exempt": listener.front_required.iter().flatten().map(ToString::to_string).collect::<Vec<_>>(),
        "client_ip_header": listener.client_ip_header.as_ref().map(|header| match header {
            ClientIpHeader::ForwardedFor | ClientIpHeader::SecondForwardedFor => "x-forwarded-for",
            ClientIpHeader::Single(name) => name.as_str(),
        }),
        "proxy_protocol": listener.proxy_protocol,
        "https_redirect": listener.https_redirect.map_or(json!(false), |port| json!(port)),
        "hsts": listener.hsts.map(|hsts| show_duration(hsts.max_age)),
        "hsts_subdomains": listener.hsts.is_some_and(|hsts| hsts.subdomains),
        "timeouts": {
            "handshake": show_duration(timeouts.handshake),
            "header": show_duration(timeouts.header),
            "body": show_duration(timeouts.body),
            "body_rate": show_rate(timeouts.body_rate),
            "body_grace": show_duration(timeouts.body_grace),
            "write": show_duration(timeouts.write),
            "idle": show_duration(timeouts.idle),
        },
        "limits": {
            "connections": limits.connections_max,
            "handshakes": limits.handshakes_max,
            "header_bytes": show_size(limits.header_bytes_max as u64),
            "headers": limits.headers_max,
            "uri_bytes": show_size(limits.uri_bytes_max as u64),
            "streams": limits.streams_max,
        },
    })
}

fn client_auth(auth: &ClientAuth) -> Value {
    let path = |file: &FileContent| file.path.display().to_string();
    json!({
        "mode": match (auth.mode, &auth.ca) {
            (ClientAuthMode::Request, _) => "request",
            (ClientAuthMode::Require, Some(_)) => "require",
            (ClientAuthMode::Require, None) => "cloudflare",
        },
        "ca": auth.ca.as_ref().map(path),
        "crl": auth.crl.iter().map(path).collect::<Vec<_>>(),
        "hosts": auth.hosts.iter().map(HostPattern::to_string).collect::<Vec<_>>(),
    })
}

fn certificate(files: &CertificateFiles) -> Value {
    json!({ "cert": files.cert.path.display().to_string(), "key": HIDDEN })
}

fn cache_control(control: &FileCacheControl) -> Value {
    match &*control.0 {
        [] => Value::Null,
        [(FilePattern::Any, value)] => json!(shown_value(value)),
        patterns => patterns
            .iter()
            .map(|(pattern, value)| (pattern.to_string(), json!(shown_value(value))))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn pool(pool: &Pool) -> Value {
    let mut described = match &pool.source {
        PoolSource::Files(files) => {
            return json!({
                "files": files.root.display().to_string(),
                "fallback": files.fallback,
                "cache_control": cache_control(&files.cache_control),
            });
        }
        PoolSource::Endpoints(endpoints) => {
            let endpoints = endpoints.iter().map(|endpoint| {
                json!({
                    "address": endpoint.address.to_string(),
                    "weight": endpoint.weight,
                    "backup": endpoint.backup,
                    "zone": endpoint.zone.as_deref(),
                })
            });
            json!({ "endpoints": endpoints.collect::<Vec<_>>() })
        }
        PoolSource::Dns(name) => json!({ "dns": name.to_string() }),
    };
    described["protocol"] = json!(match pool.protocol {
        Protocol::H1 => "h1",
        Protocol::H2 => "h2",
    });
    described["dns_loopback"] = json!(pool.dns.loopback);
    described["dns_ttl"] = json!({
        "min": show_duration(pool.dns.ttl_min),
        "max": show_duration(pool.dns.ttl_max),
    });
    described["tls"] = json!(pool.tls.as_ref().map(upstream_tls));
    described["proxy_protocol"] = json!(pool.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => "v1",
        ProxyProtocol::V2 => "v2",
    }));
    described["balance"] = json!(match pool.balance {
        Balance::Ewma => "ewma",
        Balance::RoundRobin => "round_robin",
        Balance::LeastRequests => "least_requests",
        Balance::Hash(_) => "hash",
    });
    if let Balance::Hash(on) = &pool.balance {
        described["hash_on"] = json!(match on {
            HashOn::ClientIp => "client_ip".to_owned(),
            HashOn::Path => "path".to_owned(),
            HashOn::Header(name) => format!("header:{name}"),
            HashOn::Cookie(name) => format!("cookie:{name}"),
        });
    }
    described["sticky"] = json!(pool.sticky.as_ref().map(|sticky| {
        json!({
            "cookie": &*sticky.cookie,
            "ttl": show_duration(sticky.ttl),
            "secret": sticky.secret.as_ref().map(|_| HIDDEN),
        })
    }));
    described["slow_start"] = json!(show_duration(pool.slow_start));
    described["panic_below"] = json!(show_percentage(pool.panic_below));
    described["health"] = json!(pool.health.as_ref().map(health::health));
    described["outlier"] = pool.outlier.as_ref().map_or(json!(false), |outlier| {
        json!({
            "failures": outlier.failures,
            "eject_for": show_duration(outlier.eject_for),
            "eject_max": show_percentage(outlier.eject_max),
            "slow_factor": outlier.slow_factor.unwrap_or_default(),
        })
    });
    described["limits"] = json!({
        "connections": pool.limits.connections_max,
        "requests": pool.limits.requests_max,
        "tunnels": pool.limits.tunnels_max,
        "idle": pool.limits.idle_max,
        "queue": pool.limits.queue_max,
        "queue_timeout": show_duration(pool.limits.queue_timeout),
        "client_share": show_percentage(pool.limits.client_share),
    });
    described["buffer"] = json!({
        "request": show_size(pool.buffer.request_bytes_max as u64),
        "response": show_size(pool.buffer.response_bytes_max as u64),
    });
    described["retry"] = pool.retry.as_ref().map_or(json!(false), retry);
    described["timeouts"] = json!({
        "connect": show_duration(pool.timeouts.connect),
        "first_byte": show_duration(pool.timeouts.first_byte),
        "idle": show_duration(pool.timeouts.idle),
        "total": optional_duration(pool.timeouts.total),
        "tunnel": show_duration(pool.timeouts.tunnel),
        "announce": pool.timeouts.announce,
    });
    described["keepalive"] = json!(show_duration(pool.keepalive));
    described
}

fn upstream_tls(tls: &UpstreamTls) -> Value {
    json!({
        "sni": tls.sni,
        "ca": tls.ca.as_ref().map(|ca| ca.path.display().to_string()),
        "verify": tls.verify,
        "identity": tls.identity.as_ref().map(certificate),
    })
}

fn retry(retry: &Retry) -> Value {
    let words =
        [("connect", retry.on_connect), ("reset", retry.on_reset), ("timeout", retry.on_timeout)];
    let words = words.into_iter().filter(|(_, on)| *on).map(|(word, _)| word.to_owned());
    let on: Vec<_> = words.chain(statuses(&retry.on_statuses)).collect();
    let budget = show_percentage(retry.budget);
    let hedge_after = match retry.hedge_after {
        None => "off".to_owned(),
        Some(HedgeAfter::Auto) => "auto".to_owned(),
        Some(HedgeAfter::Percentile(percentile)) => format!("p{percentile}"),
        Some(HedgeAfter::Fixed(after)) => show_duration(after),
    };
    json!({ "attempts": retry.attempts, "on": on, "budget": budget, "hedge_after": hedge_after })
}

fn route(route: &Route) -> Value {
    let mut described = json!({
        "name": &*route.name,
        "hosts": route.hosts.iter().map(HostPattern::to_string).collect::<Vec<_>>(),
        "paths": route.paths.iter().map(PathPattern::to_string).collect::<Vec<_>>(),
        "listeners": names(&route.listeners),
        "priority": route.priority,
        "rewrite": rewrite(&route.rewrite),
        "request_headers": edits(&route.request_headers),
        "response_headers": edits(&route.response_headers),
        "allow": route.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "deny": route.deny.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "errors": route.errors.iter().flat_map(error_page).collect::<Map<_, _>>(),
        "timeout": optional_duration(route.timeout),
        "body_max": show_size(route.body_bytes_max),
        "buffer": route.buffer,
        "mirror": route.mirror.as_ref().map(|mirror| {
            json!({ "pool": &*mirror.pool, "share": show_percentage(mirror.share) })
        }),
        "compress": route.compress,
        "websocket": route.websocket,
        "cache": route.cache.as_deref().map_or(json!(false), cache::route_cache),
        "front_cache": route.front_cache.as_ref().map(cache::front_cache),
    });
    add_conditions(&route.conditions, &mut described);
    let (key, action) = match &route.action {
        Action::Pool(name) => ("pool", json!(&**name)),
        Action::Split(shares) => {
            let shares = shares.iter().map(|it| json!({ "pool": &*it.pool, "weight": it.weight }));
            ("split", json!(shares.collect::<Vec<_>>()))
        }
        Action::Redirect(redirect) => (
            "redirect",
            json!({ "to": template(&redirect.to), "status": redirect.status.as_u16() }),
        ),
        Action::Respond(respond) => {
            let headers =
                respond.headers.iter().map(|(name, value)| field(name, shown_value(value)));
            (
                "respond",
                json!({
                    "status": respond.status.as_u16(),
                    "body_bytes": respond.body.len(),
                    "headers": headers.collect::<Map<_, _>>(),
                }),
            )
        }
    };
    described[key] = action;
    described
}

fn error_page(page: &ErrorPage) -> Vec<(String, Value)> {
    let file = page.file.path.display().to_string();
    statuses(&page.statuses).into_iter().map(|statuses| (statuses, json!(file))).collect()
}

fn rewrite(rewrite: &Rewrite) -> Value {
    json!({
        "strip_prefix": rewrite.strip_prefix,
        "add_prefix": rewrite.add_prefix,
        "host": rewrite.host.as_ref().map(shown_value),
    })
}

fn edits(edits: &HeaderEdits) -> Value {
    let fields = |fields: &[(HeaderName, Template)]| {
        let fields = fields.iter().map(|(name, value)| field(name, template(value)));
        fields.collect::<Map<_, _>>()
    };
    json!({
        "set": fields(&edits.set),
        "add": fields(&edits.add),
        "remove": edits.remove.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
    })
}

fn field(name: &HeaderName, value: String) -> (String, Value) {
    let is_secret = CREDENTIALS.iter().any(|part| name.as_str().contains(part));
    (name.to_string(), json!(if is_secret { HIDDEN } else { &value }))
}

fn template(template: &Template) -> String {
    let parts = template.0.iter().map(|part| match part {
        TemplatePart::Literal(text) => escaped(text),
        TemplatePart::Variable(variable) => format!(
            "{{{}}}",
            match variable {
                Variable::ClientIp => "client_ip",
                Variable::Host => "host",
                Variable::RequestId => "request_id",
                Variable::Scheme => "scheme",
                Variable::Path => "path",
                Variable::Query => "query",
            }
        ),
    });
    parts.collect()
}

fn escaped(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

fn statuses(set: &StatusSet) -> Vec<String> {
    set.0.iter().copied().map(show_statuses).collect()
}

fn names(names: &[Name]) -> Vec<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

fn optional_duration(duration: Option<Duration>) -> Option<String> {
    duration.map(show_duration)
}

fn shown_value(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, config_of};
    use super::*;

    #[test]
    fn the_description_speaks_the_language_of_the_file() {
        let described = describe_config(&config_of(
            "[log]\naccess.format = \"{status} {{x}}\"\n\
             [pool.app]\nendpoints = [\"a:1\"]\nhealth.path = \"/up\"\nretry = false\n\
             [[route]]\nhosts = [\"*.a.com\"]\npaths = [\"/a/*\"]\nmethods = [\"GET\"]\nquery.v = \"~2\"\npool = \"app\"\ncache.ttl = \"90s\"\n\
             [[route]]\nredirect = { to = \"/x{path}\" }\n",
        ));
        assert_eq!(described["process"]["drain_timeout"], "25s");
        assert_eq!(described["cache"]["memory"], "256MiB");
        assert_eq!(described["log"]["access"]["format"], "{status} {{x}}");
        assert_eq!(described["listener"]["web"]["protocols"], json!(["h1"]));
        assert_eq!(described["pool"]["app"]["health"]["expect"], json!(["200-299"]));
        assert_eq!(described["pool"]["app"]["retry"], json!(false));
        assert_eq!(described["pool"]["app"]["outlier"]["eject_max"], "50%");
        assert_eq!(described["route"][0]["hosts"], json!(["*.a.com"]));
        assert_eq!(described["route"][0]["paths"], json!(["/a/*"]));
        assert_eq!(described["route"][0]["methods"], json!(["GET"]));
        assert_eq!(described["route"][0]["query"], json!({ "v": "~2" }));
        assert_eq!(described["route"][0]["cache"]["ttl"], "90s");
        assert_eq!(described["route"][1]["redirect"]["to"], "/x{path}");
        assert_eq!(described["route"][1]["redirect"]["status"], 308);
    }

    #[test]
    fn secrets_are_left_out() {
        let folder = Folder::new();
        let pem = folder.write("a.pem", "s3cret");
        let text = format!(
            "[admin]\ntoken_file = {pem:?}\n\
             [listener.web]\nbind = \"127.0.0.1:0\"\n\
             tls.certificates = [{{ cert = {pem:?}, key = {pem:?} }}]\n\
             [[route]]\npool = \"app\"\n\
             request_headers.set = {{ authorization = \"s3cret\", x-api-key = \"s3cret\", x-b = \"b\" }}\n\
             headers = {{ x-token = \"s3cret\" }}\ncookies = {{ a = \"s3cret\" }}\n\
             [[route]]\nhosts = [\"a\"]\nrespond.headers = {{ set-cookie = \"s3cret\" }}\n"
        );
        let config = config_of(&text);
        assert_eq!(&*config.admin.as_ref().unwrap().token.as_ref().unwrap().0, "s3cret");
        let described = describe_config(&config);
        let shown = described.to_string();
        assert!(!shown.contains("s3cret"), "{shown}");
        assert_eq!(described["route"][0]["request_headers"]["set"]["x-b"], "b");
        assert_eq!(
            described["listener"]["web"]["tls"]["certificates"][0]["cert"],
            pem.display().to_string()
        );
    }
}
