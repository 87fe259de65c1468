//! An explanation as lines for a terminal.

use std::fmt;

use super::answer::Judged;
use super::{ActionTaken, CacheTaken, Explanation, RouteTaken};
use crate::config::diagnostics::Report;

/// Begins a line with what it is about.
macro_rules! line {
    ($f:expr, $about:expr, $($text:tt)*) => {{
        write!($f, "{:<10}", $about)?;
        writeln!($f, $($text)*)
    }};
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line!(f, "request", "{} {}", self.method, self.url)?;
        if let Some(listener) = &self.listener {
            line!(f, "listener", "{listener}")?;
        }
        let Some(route) = &self.route else {
            match self.allow.as_slice() {
                [] => line!(f, "route", "none takes it: 404"),
                allow => {
                    line!(
                        f,
                        "route",
                        "none takes {}: 405, Allow: {}",
                        self.method,
                        allow.join(", ")
                    )
                }
            }?;
            return lints(f, &self.lints);
        };
        self::route(f, route)?;
        if let Some(action) = &self.action {
            self::action(f, action)?;
        }
        self.cache.as_ref().map_or(Ok(()), |cache| self::cache(f, cache))?;
        lints(f, &self.lints)
    }
}

fn lints(f: &mut fmt::Formatter<'_>, lints: &[Report]) -> fmt::Result {
    for Report { file, line, column, severity, message, help, lint } in lints {
        line!(f, severity.as_str(), "{message} [{}]", lint.unwrap_or_default())?;
        if let Some(file) = file {
            line!(f, "", "at {file}:{line}:{column}")?;
        }
        if let Some(help) = help {
            line!(f, "", "help: {help}")?;
        }
    }
    Ok(())
}

fn route(f: &mut fmt::Formatter<'_>, route: &RouteTaken) -> fmt::Result {
    line!(f, "route", "{} (host {}, path {})", route.name, route.host, route.path)?;
    if let Some(conditions) = &route.conditions {
        line!(f, "", "where {conditions}")?;
    }
    match route.beaten.as_slice() {
        [] => line!(f, "", "{}", route.reason),
        [next, ..] => line!(f, "", "before {next}, because {}", route.reason),
    }
}

fn action(f: &mut fmt::Formatter<'_>, action: &ActionTaken) -> fmt::Result {
    match action {
        ActionTaken::Forward { pool, host, path_and_query } => {
            line!(f, "upstream", "pool {pool}: {path_and_query}, Host: {host}")
        }
        ActionTaken::Redirect { status, location } => {
            line!(f, "answer", "{status} to {location}")
        }
        ActionTaken::Respond { status } => line!(f, "answer", "{status}, fixed"),
    }
}

fn cache(f: &mut fmt::Formatter<'_>, cache: &CacheTaken) -> fmt::Result {
    if let Some(why) = &cache.bypass {
        return line!(f, "cache", "not asked: {why}");
    }
    let parts: Vec<String> = cache
        .key
        .iter()
        .map(|part| part.as_ref().map_or_else(|| "-".to_owned(), |part| format!("{part:?}")))
        .collect();
    line!(f, "cache", "key {}", parts.join(" "))?;
    for note in &cache.notes {
        line!(f, "", "{note}")?;
    }
    for (about, judged) in [("ours", &cache.ours), ("in front", &cache.front)] {
        if let Some(judged) = judged {
            self::judged(f, about, judged)?;
        }
    }
    Ok(())
}

fn judged(f: &mut fmt::Formatter<'_>, about: &str, judged: &Judged) -> fmt::Result {
    let Some(lifetime) = judged.lifetime_seconds else {
        line!(f, about, "not stored, by {}: {}", judged.field, judged.reason)?;
        return notes(f, judged);
    };
    let age = judged.age_seconds.unwrap_or_default();
    line!(f, about, "stored for {lifetime} s by {}, {age} s old", judged.reason)?;
    line!(f, "", "{} decides", judged.field)?;
    for (what, seconds) in [
        ("while revalidating", judged.stale_while_revalidate_seconds),
        ("on errors", judged.stale_if_error_seconds),
    ] {
        if let Some(seconds) = seconds {
            line!(f, "", "then served stale {what} for {seconds} s")?;
        }
    }
    notes(f, judged)
}

fn notes(f: &mut fmt::Formatter<'_>, judged: &Judged) -> fmt::Result {
    judged.notes.iter().try_for_each(|note| line!(f, "", "{note}"))
}
