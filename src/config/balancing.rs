//! How a pool spreads its requests, and what it makes of endpoints that fail: `balance`, `sticky`,
//! `outlier`, `retry`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::diagnostics::Invalid;
use super::listener::TIMEOUT;
use super::model::{Balance, HashOn, HedgeAfter, Outlier, Retry, Secret, StatusSet, Sticky};
use super::pool::IN_A_ROW;
use super::reader::Table;
use super::units;
use super::value::Value;

const ATTEMPTS: RangeInclusive<i64> = 1..=10;
const FAILED_STATUSES: RangeInclusive<u16> = 400..=599;
/// Zero is none.
pub(super) const SLOW_START: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(86_400);
const COOKIE_TTL: RangeInclusive<Duration> = Duration::ZERO..=units::DURATION_MAX;
const COOKIE_TTL_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// Of a shared secret, in bytes: what is shorter can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// Zero is off.
const SLOW_FACTOR: RangeInclusive<i64> = 0..=1000;
const SLOW_FACTOR_DEFAULT: u32 = 5;

/// `false` is off, `true` and absence are the defaults, a table changes some of them.
pub(super) fn switch<T>(
    table: &Table<'_>,
    key: &'static str,
    read: impl Fn(Table<'_>) -> T,
) -> Option<T> {
    let Some(value) = table.value(key) else {
        return Some(read(table.table(key)));
    };
    if value.is_table() {
        return value.table().map(read);
    }
    // A wrong value is reported, and the default stands in.
    value.boolean().unwrap_or(true).then(|| read(value.default_table()))
}

pub(super) fn balance(table: &Table<'_>) -> Balance {
    #[derive(Clone, Copy)]
    enum Policy {
        Ewma,
        RoundRobin,
        LeastRequests,
        Hash,
    }
    let policies = [
        ("ewma", Policy::Ewma),
        ("round_robin", Policy::RoundRobin),
        ("least_requests", Policy::LeastRequests),
        ("hash", Policy::Hash),
    ];
    let hash_on =
        table.read("hash_on", |value| value.parse("what is hashed", "\"client_ip\"", hash_on));
    let policy = table.read("balance", |value| value.one_of(&policies)).unwrap_or(Policy::Ewma);
    if !matches!(policy, Policy::Hash)
        && let Some(value) = table.value("hash_on")
    {
        let warning = value.warning("it has no effect without balance = \"hash\"");
        table.context.push(warning.help("write balance = \"hash\", or leave it out"));
    }
    match policy {
        Policy::Ewma => Balance::Ewma,
        Policy::RoundRobin => Balance::RoundRobin,
        Policy::LeastRequests => Balance::LeastRequests,
        Policy::Hash => Balance::Hash(hash_on.unwrap_or(HashOn::ClientIp)),
    }
}

fn hash_on(text: &str) -> Result<HashOn, Invalid> {
    const HELP: &str = "write \"client_ip\", \"path\", \"header:NAME\" or \"cookie:NAME\"";
    let unknown = || Invalid::new(format!("{text:?} is nothing to hash on")).help(HELP);
    match text.split_once(':') {
        None if text == "client_ip" => Ok(HashOn::ClientIp),
        None if text == "path" => Ok(HashOn::Path),
        Some(("header", name)) => HeaderName::try_from(name)
            .map(HashOn::Header)
            .map_err(|_| Invalid::new(format!("{name:?} is not the name of a header")).help(HELP)),
        Some(("cookie", name)) => cookie_name(name).map(HashOn::Cookie),
        _ => Err(unknown()),
    }
}

/// A token (RFC 6265 §4.1.1), which is what names of headers are, in any case.
fn cookie_name(text: &str) -> Result<Arc<str>, Invalid> {
    if HeaderName::try_from(text).is_ok() {
        return Ok(text.into());
    }
    Err(Invalid::new(format!("{text:?} is not the name of a cookie"))
        .help("write letters, digits, `-` and `_`"))
}

pub(super) fn sticky(table: Table<'_>) -> Option<Sticky> {
    let cookie = table.read("cookie", |value| value.parse("a name", "\"hw\"", cookie_name));
    let ttl = table.duration("ttl", COOKIE_TTL_DEFAULT, &COOKIE_TTL);
    let secret = table.read("secret_file", secret);
    table.finish();
    Some(Sticky { cookie: cookie.unwrap_or_else(|| "hw".into()), ttl, secret })
}

fn secret(value: &Value<'_>) -> Option<Secret> {
    let content = value.file("\"/run/secrets/sticky\"")?;
    let secret = std::str::from_utf8(&content.bytes).unwrap_or_default().trim();
    if secret.len() < SECRET_BYTES_MIN {
        value.invalid(
            Invalid::new(format!("the file holds no secret of {SECRET_BYTES_MIN} characters"))
                .help("put one line of text into it, such as 32 random hex digits"),
        );
        return None;
    }
    Some(Secret(secret.into()))
}

pub(super) fn outlier(table: Table<'_>) -> Outlier {
    let slow_factor = table.integer("slow_factor", SLOW_FACTOR_DEFAULT, &SLOW_FACTOR);
    let outlier = Outlier {
        failures: table.integer("failures", 5, &IN_A_ROW),
        eject_for: table.duration("eject_for", Duration::from_secs(30), &TIMEOUT),
        eject_max: table.percentage("eject_max", 0.5),
        slow_factor: Some(slow_factor).filter(|factor| *factor > 0),
    };
    table.finish();
    outlier
}

#[derive(Clone, Copy)]
enum Cause {
    Connect,
    Reset,
    Timeout,
    Statuses(u16, u16),
}

pub(super) fn retry(table: Table<'_>) -> Retry {
    let causes = table.read("on", |value| value.list("[\"connect\", \"503\"]", |item| cause(item)));
    let on =
        causes.unwrap_or_else(|| vec![Cause::Connect, Cause::Reset, Cause::Statuses(502, 504)]);
    let statuses = on.iter().filter_map(|cause| match cause {
        Cause::Statuses(low, high) => Some((*low, *high)),
        _ => None,
    });
    let retry = Retry {
        attempts: table.integer("attempts", 2, &ATTEMPTS),
        on_connect: on.iter().any(|cause| matches!(cause, Cause::Connect)),
        on_reset: on.iter().any(|cause| matches!(cause, Cause::Reset)),
        on_timeout: on.iter().any(|cause| matches!(cause, Cause::Timeout)),
        on_statuses: StatusSet(statuses.collect()),
        budget: table.percentage("budget", 0.2),
        hedge_after: table.read("hedge_after", hedge_after).unwrap_or(Some(HedgeAfter::Auto)),
    };
    table.finish();
    retry
}

fn cause(value: &Value<'_>) -> Option<Cause> {
    if value.is_string() {
        return value.parse("a cause", "\"connect\"", |text| match text {
            "connect" => Ok(Cause::Connect),
            "reset" => Ok(Cause::Reset),
            "timeout" => Ok(Cause::Timeout),
            _ => units::statuses(text, &FAILED_STATUSES)
                .map(|(low, high)| Cause::Statuses(low, high))
                .map_err(|_| {
                    Invalid::new(format!("{text:?} is no cause for a retry")).help(
                        "write \"connect\", \"reset\", \"timeout\" or a status from 400 to 599",
                    )
                }),
        });
    }
    value.status_range(&FAILED_STATUSES).map(|(low, high)| Cause::Statuses(low, high))
}

/// `auto`, a percentile of the pool's latency, a duration, or `off`.
fn hedge_after(value: &Value<'_>) -> Option<Option<HedgeAfter>> {
    if !value.is_string() {
        value.expected("a percentile or a duration", "\"p95\"");
        return None;
    }
    value.parse("a percentile or a duration", "\"p95\"", |text| {
        match text {
            "auto" => return Ok(Some(HedgeAfter::Auto)),
            "off" => return Ok(None),
            _ => {}
        }
        let Some(percentile) = text.strip_prefix('p') else {
            let after = units::duration(text).map_err(|invalid| {
                invalid.help("write \"auto\", \"off\", \"p95\", or a duration such as \"50ms\"")
            })?;
            if !TIMEOUT.contains(&after) {
                return Err(Invalid::new(format!("{text:?} is out of range"))
                    .help("it must be from 1ms to 1d"));
            }
            return Ok(Some(HedgeAfter::Fixed(after)));
        };
        match percentile.parse() {
            Ok(percentile @ 1..=99) => Ok(Some(HedgeAfter::Percentile(percentile))),
            _ => Err(Invalid::new(format!("{text:?} is not a percentile"))
                .help("write \"p95\", or another from p1 to p99")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::Pool;
    use super::super::testing::{Folder, config_of, diagnostics_of};
    use super::*;

    fn pool(lines: &str) -> Pool {
        let text = format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n{lines}");
        config_of(&text).pools.remove(0)
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n{lines}"))
    }

    #[test]
    fn a_hash_is_on_something_and_by_default_on_the_client() {
        assert_eq!(pool("").balance, Balance::Ewma);
        let on = |text: &str| match pool(&format!("balance = \"hash\"\n{text}")).balance {
            Balance::Hash(on) => on,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(on(""), HashOn::ClientIp);
        assert_eq!(on("hash_on = \"path\""), HashOn::Path);
        let tenant = HashOn::Header(HeaderName::from_static("x-tenant"));
        assert_eq!(on("hash_on = \"header:X-Tenant\""), tenant);
        assert_eq!(on("hash_on = \"cookie:Session\""), HashOn::Cookie("Session".into()));
        for (lines, message) in [
            ("balance = \"hash\"\nhash_on = \"url\"", "\"url\" is nothing to hash on"),
            ("balance = \"hash\"\nhash_on = \"header:a b\"", "is not the name of a header"),
            ("balance = \"hash\"\nhash_on = \"cookie:\"", "is not the name of a cookie"),
            ("hash_on = \"path\"", "warning: `pool.app.hash_on`: it has no effect without"),
            (
                "balance = \"random\"",
                "help: write `ewma`, `round_robin`, `least_requests` or `hash`",
            ),
        ] {
            let shown = said(lines);
            assert!(shown.contains(message), "{lines}: {shown}");
        }
    }

    #[test]
    fn a_sticky_cookie_has_a_name_a_lifetime_and_a_secret_that_is_not_shown() {
        let sticky = pool("sticky = {}").sticky.unwrap();
        assert_eq!((&*sticky.cookie, sticky.ttl.as_secs(), sticky.secret), ("hw", 3600, None));
        let folder = Folder::new();
        let file = folder.write("secret", " 0123456789abcdef \n");
        let sticky = pool(&format!("sticky = {{ cookie = \"app\", secret_file = {file:?} }}"));
        let secret = sticky.sticky.unwrap().secret.unwrap();
        assert_eq!(&*secret.0, "0123456789abcdef");
        let short = folder.write("short", "0123456789");
        for (sticky, message) in [
            (format!("{{ secret_file = {short:?} }}"), "the file holds no secret of 16 characters"),
            ("{ secret_file = \"nowhere\" }".to_owned(), "cannot read"),
            ("{ cookie = \"a=b\" }".to_owned(), "is not the name of a cookie"),
            ("true".to_owned(), "must be a table, not a boolean"),
        ] {
            let shown = said(&format!("sticky = {sticky}"));
            assert!(shown.contains(message), "{sticky}: {shown}");
        }
    }

    #[test]
    fn hedging_is_automatic_by_default_or_after_a_percentile_or_a_time_or_off() {
        let after = |text: &str| pool(text).retry.unwrap().hedge_after;
        assert_eq!(after(""), Some(HedgeAfter::Auto));
        assert_eq!(after("retry.hedge_after = \"auto\""), Some(HedgeAfter::Auto));
        assert_eq!(after("retry.hedge_after = \"off\""), None);
        assert_eq!(after("retry.hedge_after = \"p95\""), Some(HedgeAfter::Percentile(95)));
        let fixed = HedgeAfter::Fixed(Duration::from_millis(50));
        assert_eq!(after("retry.hedge_after = \"50ms\""), Some(fixed));
        for (value, message) in [
            ("\"p100\"", "\"p100\" is not a percentile"),
            ("\"soon\"", "help: write \"auto\", \"off\", \"p95\", or a duration"),
            ("\"0s\"", "it must be from 1ms to 1d"),
            ("95", "must be a percentile or a duration, not an integer"),
        ] {
            let shown = said(&format!("retry.hedge_after = {value}"));
            assert!(shown.contains(message), "{value}: {shown}");
        }
    }

    #[test]
    fn outlier_and_retry_can_be_off_or_changed() {
        let off = pool("outlier = false\nretry = false");
        assert_eq!((off.outlier, off.retry), (None, None));
        assert_eq!(pool("outlier = true\nretry = true"), pool(""));
        let changed = pool("outlier.failures = 2\nretry = { attempts = 3, on = [\"reset\", 503] }");
        assert_eq!(changed.outlier.as_ref().unwrap().failures, 2);
        assert_eq!(changed.outlier.unwrap().slow_factor, Some(5));
        assert_eq!(pool("outlier.slow_factor = 0").outlier.unwrap().slow_factor, None);
        let retry = changed.retry.unwrap();
        assert_eq!((retry.attempts, retry.on_connect, retry.on_reset), (3, false, true));
        assert_eq!(retry.on_statuses.0, [(503, 503)]);
        assert!(!retry.on_timeout && pool("retry.on = [\"timeout\"]").retry.unwrap().on_timeout);
        for (line, message) in [
            ("retry = 3", "`pool.app.retry` must be true or false, not an integer"),
            ("retry.attempts = 11", "it must be from 1 to 10"),
            ("retry.on = [\"timeouts\"]", "\"timeouts\" is no cause for a retry"),
            ("retry.on = [200]", "no status or range of statuses"),
            ("retry.budget = 0.2", "must be a percentage, not a decimal number"),
            ("outlier.eject_max = \"150%\"", "is not a percentage"),
            ("outlier.slow_factor = -1", "it must be from 0 to 1000"),
        ] {
            let shown = said(line);
            assert!(shown.contains(message), "{line}: {shown}");
        }
    }
}
