//! The sections that exist once: `[process]`, `[admin]`, `[log]` and `[cache]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::address;
use super::context::Referent;
use super::diagnostics::{Diagnostic, Invalid, Span};
use super::dns;
use super::host;
use super::model::{
    AccessFormat, AccessLog, AccessTarget, Admin, BindAddress, Cache, Located, Log, LogFormat,
    Name, Process, Secret,
};
use super::pool;
use super::reader::Table;
use super::suggest;
use super::template;
use super::units;
use super::value::Value;

const WORKERS: RangeInclusive<i64> = 1..=1024;
const BUFFER_BYTES: RangeInclusive<u64> = 0..=1 << 40;
const BUFFER_BYTES_DEFAULT: u64 = 128 << 20;
/// Zero means at once.
const DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const MEMORY_BYTES: RangeInclusive<u64> = 64 << 10..=16 << 40;
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
const VARIANTS: RangeInclusive<i64> = 1..=1024;
const VARIANTS_DEFAULT: usize = 16;
const OBJECT_BYTES_DEFAULT: u64 = 32 << 20;
/// A larger object would push too much else out.
const OBJECTS_PER_MEMORY_MIN: u64 = 4;

const ADMIN_BIND_DEFAULT: BindAddress =
    BindAddress::Tcp(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901));

pub(super) fn process(table: Table<'_>) -> Process {
    let process = Process {
        workers: table.read("workers", workers).unwrap_or_else(host::cpus),
        drain_timeout: table.duration("drain_timeout", Duration::from_secs(25), &DELAY),
        shutdown_delay: table.duration("shutdown_delay", Duration::ZERO, &DELAY),
        buffer_bytes_max: table.size("buffer_memory", BUFFER_BYTES_DEFAULT, &BUFFER_BYTES),
        zone: table.read("zone", pool::zone).flatten(),
        resolvers: table.read("resolvers", dns::resolvers).unwrap_or_default(),
    };
    table.finish();
    process
}

/// `"auto"` reads as absent.
fn workers(value: &Value<'_>) -> Option<usize> {
    if !value.is_string() {
        return value.integer(&WORKERS);
    }
    value.parse("a number of threads", "\"auto\"", |text| match text.parse::<i64>() {
        _ if text == "auto" => Ok(None),
        Ok(workers) if WORKERS.contains(&workers) => Ok(usize::try_from(workers).ok()),
        _ => Err(Invalid::new(format!("{text:?} is not a number of threads"))
            .help("write \"auto\" or a number from 1 to 1024")),
    })?
}

/// The admin API, and where its address is written, if it is.
pub(super) fn admin(table: Table<'_>) -> (Option<Admin>, Option<Span>) {
    let span = table.value("bind").map(|value| value.span);
    // The outer `None` means that the key is absent or wrong, the inner one that it is "off".
    let bind = table.read("bind", |value| {
        value.parse("an address", "\"127.0.0.1:9901\"", |text| match text {
            "off" => Ok(None),
            _ => address::bind(text, &value.folder()).map(Some).map_err(|invalid| {
                invalid.help("write \"127.0.0.1:9901\", \"unix:/run/headwater.sock\" or \"off\"")
            }),
        })
    });
    let has_token = table.value("token_file").is_some();
    let token = table.read("token_file", token);
    let ready_requires: Vec<Name> = table
        .read("ready_requires", |value| {
            value.list("[\"app\"]", |pool| pool.reference(Referent::Pool))
        })
        .unwrap_or_default();
    if let (Some(Some(BindAddress::Tcp(address))), Some(span)) = (&bind, span)
        && !address.ip().to_canonical().is_loopback()
        && !has_token
    {
        let message = format!("the admin API at {address} would be open to everybody");
        table.context.push(
            Diagnostic::error(span, message)
                .help("name a token_file, or bind to a loopback address or a unix socket"),
        );
    }
    table.finish();
    let admin = bind.unwrap_or(Some(ADMIN_BIND_DEFAULT));
    (admin.map(|bind| Admin { bind, token, ready_requires }), span)
}

pub(super) fn token(value: &Value<'_>) -> Option<Secret> {
    let content = value.file("\"/run/secrets/admin-token\"")?;
    let token = std::str::from_utf8(&content.bytes).unwrap_or_default().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        value.invalid(
            Invalid::new("the file holds no token")
                .help("put one line of visible ASCII characters into it, such as 32 hex digits"),
        );
        return None;
    }
    Some(Secret(token.into()))
}

pub(super) fn log(table: Table<'_>) -> Log {
    let access = table.table("access");
    let log = Log {
        level: table.read("level", level).unwrap_or_else(|| "info".to_owned()),
        format: table
            .read("format", |value| {
                value.one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)])
            })
            .unwrap_or(LogFormat::Text),
        access: AccessLog {
            to: access.read("to", access_target).unwrap_or(AccessTarget::Stdout),
            format: access
                .read("format", |value| {
                    value.parse("a format", "\"json\"", template::access_format)
                })
                .unwrap_or(AccessFormat::Json),
            sample: access.read("sample", Value::ratio).unwrap_or(1.0),
        },
    };
    access.finish();
    table.finish();
    log
}

fn level(value: &Value<'_>) -> Option<String> {
    value.parse("a level", "\"info\"", |text| {
        text.split(',').try_for_each(|directive| check_directive(directive.trim()))?;
        Ok(text.to_owned())
    })
}

/// One directive of `tracing_subscriber::EnvFilter`: a level, `target`, or `target=level`.
/// Fields of spans are left out. A bare word would be taken as a target there and show nothing
/// but it; here it is a misspelt level, unless it is this program or a path of modules.
fn check_directive(directive: &str) -> Result<(), Invalid> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    const HELP: &str = "write error, warn, info, debug, trace or off, or a filter: \
                        \"info,headwater::health=debug\"";
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    let (target, level) = match directive.split_once('=') {
        Some((target, level)) => (Some(target), Some(level)),
        None if is_level(directive) => (None, Some(directive)),
        None => (Some(directive), None),
    };
    let is_path = target.is_none_or(|target| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
        !target.is_empty() && target.bytes().all(allowed)
    });
    let is_meant = target
        .is_none_or(|target| level.is_some() || target == "headwater" || target.contains("::"));
    if is_path && is_meant && level.is_none_or(is_level) {
        return Ok(());
    }
    let word = level.or(target).unwrap_or_default();
    let help = match suggest::nearest(word, LEVELS) {
        Some(near) if !is_level(word) => format!("did you mean `{near}`?"),
        _ => HELP.to_owned(),
    };
    Err(Invalid::new(format!("{directive:?} is neither a level nor a filter")).help(help))
}

fn access_target(value: &Value<'_>) -> Option<AccessTarget> {
    const WORDS: [&str; 3] = ["stdout", "stderr", "off"];
    let text = value.string("\"stdout\"")?;
    match text.as_str() {
        "stdout" => return Some(AccessTarget::Stdout),
        "stderr" => return Some(AccessTarget::Stderr),
        "off" => return Some(AccessTarget::Off),
        _ => {}
    }
    let near = suggest::nearest(&text, WORDS).filter(|_| !text.contains(['/', '.']));
    if let Some(near) = near {
        let invalid = Invalid::new(format!("{text:?} is no target of the access log"));
        value.invalid(
            invalid.help(format!("did you mean `{near}`? A file is written \"./{text}\"")),
        );
        return None;
    }
    let path = value.file_path("\"stdout\"")?;
    if path.is_dir() || !path.parent().is_some_and(Path::is_dir) {
        value.invalid(
            Invalid::new(format!("no file can be written at {text:?}"))
                .help("name a file in a folder that exists"),
        );
        return None;
    }
    Some(AccessTarget::File(path))
}

pub(super) fn cache(table: Table<'_>) -> Cache {
    let memory_bytes_max = table.read("memory", memory).unwrap_or(MEMORY_BYTES_DEFAULT);
    let largest = memory_bytes_max / OBJECTS_PER_MEMORY_MIN;
    let object = table.read("object_max", |value| {
        let bytes = value.size(&(1..=*MEMORY_BYTES.end()))?;
        Some(Located { value: bytes, span: value.span })
    });
    if let Some(object) = object.as_ref().filter(|object| object.value > largest) {
        let (object_size, largest) = (units::show_size(object.value), units::show_size(largest));
        let message =
            format!("`cache.object_max`: {object_size} is more than a quarter of the memory");
        let help = format!("write at most \"{largest}\", or give `cache.memory` more");
        table.context.push(Diagnostic::error(object.span, message).help(help));
    }
    let object_bytes_max = object.map_or(OBJECT_BYTES_DEFAULT, |object| object.value).min(largest);
    let name = table.read("name", |value| value.parse("a name", "\"headwater\"", token_name));
    let variants_max = table.integer("variants_max", VARIANTS_DEFAULT, &VARIANTS);
    let status_key = table.boolean("status_key", false);
    table.finish();
    let name = name.unwrap_or_else(|| "headwater".into());
    Cache { memory_bytes_max, object_bytes_max, variants_max, status_key, name }
}

/// A size, or a share of what this process may use.
fn memory(value: &Value<'_>) -> Option<u64> {
    if !value.is_string() {
        return value.size(&MEMORY_BYTES);
    }
    value.parse("a size", "\"256MiB\"", |text| {
        let bytes = if text.ends_with('%') {
            share_of_memory(units::percentage(text)?)?
        } else {
            units::size(text)?
        };
        if MEMORY_BYTES.contains(&bytes) {
            return Ok(bytes);
        }
        let [shown, low, high] =
            [bytes, *MEMORY_BYTES.start(), *MEMORY_BYTES.end()].map(units::show_size);
        Err(Invalid::new(format!("{shown} is out of range"))
            .help(format!("it must be from {low} to {high}")))
    })
}

fn share_of_memory(share: f64) -> Result<u64, Invalid> {
    let limit = host::memory_bytes_max().ok_or_else(|| {
        Invalid::new("the memory limit of this machine cannot be read")
            .help("write a size such as \"256MiB\"")
    })?;
    // A float is exact below 2^53 bytes, and the fraction of a byte does not matter.
    Ok((limit as f64 * share) as u64)
}

/// A token both of structured fields (RFC 9651 §3.3.4) and of `Via` (RFC 9110 §7.6.3).
fn token_name(text: &str) -> Result<Arc<str>, Invalid> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let starts_well = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*');
    if starts_well && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(Invalid::new(format!("{text:?} is not a token"))
        .help("begin with a letter, go on with letters, digits, `-`, `_` and `.`"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, config_of, diagnostics_of};
    use super::*;

    #[test]
    fn workers_are_auto_or_a_number() {
        assert_eq!(config_of("[process]\nworkers = 3").process.workers, 3);
        assert_eq!(config_of("[process]\nworkers = \"3\"").process.workers, 3);
        assert_eq!(config_of("[process]\nworkers = \"auto\"").process.workers, host::cpus());
        for (value, message) in [
            ("0", "`process.workers`: 0 is out of range\n  help: it must be from 1 to 1024\n"),
            ("\"many\"", "\"many\" is not a number of threads"),
            ("true", "`process.workers` must be a whole number, not a boolean"),
        ] {
            let shown = diagnostics_of(&format!("[process]\nworkers = {value}"));
            assert!(shown.contains(message), "{shown}");
        }
    }

    #[test]
    fn an_admin_api_that_others_can_reach_needs_a_token() {
        let shown = diagnostics_of("[admin]\nbind = \"0.0.0.0:9901\"");
        assert_eq!(
            shown,
            "c.toml:2:8: error: the admin API at 0.0.0.0:9901 would be open to everybody\n  \
             help: name a token_file, or bind to a loopback address or a unix socket\n"
        );
        for bind in ["127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:admin.sock"] {
            assert!(config_of(&format!("[admin]\nbind = {bind:?}")).admin.is_some());
        }
        assert_eq!(config_of("[admin]\nbind = \"off\"").admin, None);
    }

    #[test]
    fn the_token_is_trimmed_and_may_not_be_empty() {
        let folder = Folder::new();
        let text = "[admin]\nbind = \"0.0.0.0:9901\"\ntoken_file = \"t\"\n\
                    [listener.a]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
        folder.write("c.toml", text);
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(shown.contains("c.toml:3:14: error: `admin.token_file`: cannot read"), "{shown}");
        assert!(!shown.contains("open to everybody"), "{shown}");
        folder.write("t", " \n");
        assert!(folder.shown(&folder.load("c.toml")).contains("the file holds no token"));
        folder.write("t", " s3cret\n");
        let loaded = folder.load("c.toml");
        let token = loaded.draft.admin.unwrap().token.unwrap();
        assert_eq!(&*token.0, "s3cret");
    }

    #[test]
    fn log_levels_are_checked_by_directive() {
        for level in
            ["info", "WARN", "off", "info,headwater::health=debug", "headwater", "hyper=error"]
        {
            assert_eq!(config_of(&format!("[log]\nlevel = {level:?}")).log.level, level);
        }
        let shown = diagnostics_of("[log]\nlevel = \"inf\"");
        assert!(shown.contains("help: did you mean `info`?"), "{shown}");
        for level in ["", "info,", "headwater=loud", "=info", "a b=info", "headwater[x]=info"] {
            let shown = diagnostics_of(&format!("[log]\nlevel = {level:?}"));
            assert!(shown.contains("is neither a level nor a filter"), "{level}: {shown}");
        }
    }

    #[test]
    fn the_access_log_goes_to_a_stream_a_file_or_nowhere() {
        let to = |to: &str| config_of(&format!("[log]\naccess.to = {to:?}")).log.access.to;
        assert_eq!(to("stderr"), AccessTarget::Stderr);
        assert_eq!(to("off"), AccessTarget::Off);
        assert!(matches!(to("access.log"), AccessTarget::File(path) if path.is_absolute()));
        let shown = diagnostics_of("[log]\naccess.to = \"stdot\"");
        assert!(shown.contains("did you mean `stdout`?"), "{shown}");
        let shown = diagnostics_of("[log]\naccess.to = \"/nowhere/access.log\"");
        assert!(shown.contains("a folder that exists"), "{shown}");
    }

    #[test]
    fn the_sample_is_a_share() {
        let sample = |text: &str| format!("[log]\naccess.sample = {text}");
        assert_eq!(config_of(&sample("0.25")).log.access.sample, 0.25);
        assert_eq!(config_of(&sample("0")).log.access.sample, 0.0);
        for text in ["1.5", "-1", "nan"] {
            let shown = diagnostics_of(&sample(text));
            assert!(shown.contains("must be from 0 to 1"), "{shown}");
        }
        assert!(diagnostics_of(&sample("\"10%\"")).contains("must be a number from 0 to 1"));
    }

    #[test]
    fn an_object_is_at_most_a_quarter_of_the_memory() {
        let cache = config_of("[cache]\nmemory = \"8MiB\"").cache;
        assert_eq!((cache.memory_bytes_max, cache.object_bytes_max), (8 << 20, 2 << 20));
        let shown = diagnostics_of("[cache]\nmemory = \"8MiB\"\nobject_max = \"3MiB\"");
        assert_eq!(
            shown,
            "c.toml:3:14: error: `cache.object_max`: 3MiB is more than a quarter of the memory\n  \
             help: write at most \"2MiB\", or give `cache.memory` more\n"
        );
    }

    #[test]
    fn memory_may_be_a_share_of_the_limit() {
        let bytes = config_of("[cache]\nmemory = \"25%\"").cache.memory_bytes_max;
        let limit = host::memory_bytes_max().unwrap();
        assert!(bytes <= limit / 4 && bytes > limit / 4 - 2, "{bytes} of {limit}");
        for text in ["\"0%\"", "\"101%\"", "\"0\"", "1024", "\"10XB\""] {
            let shown = diagnostics_of(&format!("[cache]\nmemory = {text}"));
            assert!(shown.contains("c.toml:2:10: error: `cache.memory`"), "{shown}");
        }
    }

    #[test]
    fn the_cache_name_is_a_token() {
        assert_eq!(&*config_of("[cache]\nname = \"edge-1.ams\"").cache.name, "edge-1.ams");
        for name in ["", "1edge", "a b", "a/b", "ä"] {
            let shown = diagnostics_of(&format!("[cache]\nname = {name:?}"));
            assert!(shown.contains("is not a token"), "{name}: {shown}");
        }
    }
}
