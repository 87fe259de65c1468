//! `${NAME}` and `${NAME:-default}` in strings, filled in from the environment.
//!
//! `$${` is a literal `${`; every other `$` stands for itself. As in a shell, the default also
//! stands in for an empty variable. Deliberately absent: nesting, and any other shell expansion.

use super::diagnostics::Invalid;

/// Where variables come from: the process environment, or a table in a test.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in `text`. An unset variable without a default is a problem, and so is a bad name.
pub(super) fn interpolate(text: &str, env: Environment<'_>) -> Result<String, Invalid> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &from[2..];
            continue;
        }
        filled.push_str(before);
        let Some((inside, after)) = from[2..].split_once('}') else {
            return Err(Invalid::new("`${` is never closed")
                .help("write \"${NAME}\", or \"$${\" for a literal \"${\""));
        };
        filled.push_str(&variable(inside, env)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn variable(inside: &str, env: Environment<'_>) -> Result<String, Invalid> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts_well || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Invalid::new(format!("{name:?} is not the name of an environment variable"))
            .help("write \"${NAME}\" or \"${NAME:-default}\", or \"$${\" for a literal \"${\""));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Invalid::new(format!("the environment variable {name} is not set"))
            .help(format!("set it, or give a default: \"${{{name}:-default}}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${PORT}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_once() {
        for (text, expected) in [
            ("plain $ and $$ and {x}", "plain $ and $$ and {x}"),
            ("10.0.0.1:${PORT}", "10.0.0.1:8080"),
            ("${PORT}${PORT}", "80808080"),
            ("${NONE:-a:-b}", "a:-b"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-full}", "full"),
            ("${TRICK}", "${PORT}"),
            ("$${PORT}", "${PORT}"),
            ("a$$${PORT}", "a$${PORT}"),
        ] {
            assert_eq!(interpolate(text, &env).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_variable_without_default_is_a_problem() {
        let problem = interpolate("${HOST}:80", &env).unwrap_err();
        assert_eq!(problem.message, "the environment variable HOST is not set");
        assert_eq!(problem.help.unwrap(), "set it, or give a default: \"${HOST:-default}\"");
    }

    #[test]
    fn a_bad_name_or_an_open_brace_is_a_problem() {
        for text in ["${}", "${1A}", "${A-B}", "${A", "x${A:-"] {
            assert!(interpolate(text, &env).is_err(), "{text}");
        }
    }
}
