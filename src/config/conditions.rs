//! What a route asks of a request: `methods`, `headers`, `query`, `cookies`.

use http::{HeaderName, Method};

use super::diagnostics::{Diagnostic, Invalid, Span};
use super::model::{RequestConditions, ValuePattern};
use super::pattern;
use super::reader::{Entry, Table};
use super::route_cache::cookie_name;
use super::value::Value;

/// Conditions of one kind that a route may have.
const CONDITIONS_MAX: usize = 32;

/// `None` when nothing is left of what was written: such a route must not take more in the draft.
pub(super) fn read(table: &Table<'_>) -> Option<RequestConditions> {
    let methods = match table.value("methods") {
        None => Some(Vec::new()),
        Some(value) => methods(&value),
    };
    let headers = fields(table, "headers", header_name);
    let query = fields(table, "query", |text| {
        if text.is_empty() {
            return Err(Invalid::new("the name of a parameter is empty"));
        }
        Ok(text.to_owned())
    });
    let cookies = fields(table, "cookies", |text| cookie_name(text).map(str::to_owned));
    Some(RequestConditions {
        methods: methods?,
        headers: headers?,
        query: query?,
        cookies: cookies?,
    })
}

fn methods(value: &Value<'_>) -> Option<Vec<Method>> {
    let mut methods: Vec<Method> = Vec::new();
    let read = value.non_empty_list("[\"GET\", \"HEAD\"]", |item| {
        let method = item.parse("a method", "\"GET\"", method)?;
        if methods.contains(&method) {
            let warning = item.warning(&format!("it names {method} twice"));
            item.context.push(warning.help("leave the second one out"));
        } else {
            methods.push(method);
        }
        Some(())
    });
    read?;
    methods.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    Some(methods).filter(|methods| !methods.is_empty())
}

fn method(text: &str) -> Result<Method, Invalid> {
    let upper = text.to_ascii_uppercase();
    let known = Method::from_bytes(upper.as_bytes()).map_err(|_| {
        Invalid::new(format!("{text:?} is not a method")).help("write \"GET\" or \"POST\"")
    })?;
    if matches!(known, Method::CONNECT | Method::TRACE) {
        return Err(Invalid::new(format!("requests with {known} reach no route"))
            .help("they are answered with 405 before routes are asked; leave it out"));
    }
    // Methods are case-sensitive: `get` would be another one.
    if upper != text {
        return Err(Invalid::new(format!("{text:?} is not a method that clients use"))
            .help(format!("methods are case-sensitive: write \"{upper}\"")));
    }
    Ok(known)
}

/// The conditions of one kind, by name.
fn fields<N: AsRef<str>>(
    table: &Table<'_>,
    key: &'static str,
    name: impl Fn(&str) -> Result<N, Invalid>,
) -> Option<Vec<(N, ValuePattern)>> {
    let Some(value) = table.value(key) else { return Some(Vec::new()) };
    let entries = value.table()?.entries();
    let written = entries.len();
    if written > CONDITIONS_MAX {
        value.invalid(Invalid::new(format!("there are {written}, more than {CONDITIONS_MAX}")));
        return None;
    }
    let mut read: Vec<_> = entries.into_iter().filter_map(|entry| field(entry, &name)).collect();
    read.sort_by(|(a, _, _), (b, _, _)| a.as_ref().cmp(b.as_ref()));
    for twins in read.windows(2).filter(|it| it[0].0.as_ref() == it[1].0.as_ref()) {
        let message = format!("`{}`: `{}` is named twice", value.path, twins[0].0.as_ref());
        table.context.push(
            Diagnostic::error(twins[1].2, message)
                .help("names of headers do not differ by case")
                .note(twins[0].2, "first named here"),
        );
    }
    let read: Vec<_> = read.into_iter().map(|(name, pattern, _)| (name, pattern)).collect();
    Some(read).filter(|read| read.len() == written)
}

fn field<N>(
    Entry { key, key_span, value }: Entry<'_>,
    name: impl Fn(&str) -> Result<N, Invalid>,
) -> Option<(N, ValuePattern, Span)> {
    let pattern = value.parse("a string", "\"1\"", pattern::value);
    match name(key) {
        Ok(name) => pattern.map(|pattern| (name, pattern, key_span)),
        Err(Invalid { message, help }) => {
            let mut diagnostic = Diagnostic::error(key_span, message);
            diagnostic.help = help;
            value.context.push(diagnostic);
            None
        }
    }
}

fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        Invalid::new(format!("{text:?} is not the name of a header"))
            .help("write letters, digits and `-`")
    })?;
    if name == "host" {
        return Err(Invalid::new("the header `host` is no condition")
            .help("write hosts = [\"name\"] in the route"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn conditions(lines: &str) -> RequestConditions {
        let text = format!("[[route]]\npool = \"app\"\n{lines}");
        config_of(&text).routes.remove(0).conditions
    }

    fn exact(text: &str) -> ValuePattern {
        ValuePattern::Exact(text.to_owned())
    }

    #[test]
    fn conditions_are_sorted_by_name() {
        let read = conditions(
            "methods = [\"POST\", \"GET\"]\nheaders = { X-Canary = \"1\", \"accept\" = \"~json\" }\n\
             query = { v = \"*\", \"a b\" = \"\" }\ncookies.beta = \"on\"",
        );
        assert_eq!(read.methods, [Method::GET, Method::POST]);
        assert_eq!(read.headers[0].0, "accept");
        assert!(matches!(&read.headers[0].1, ValuePattern::Regex(it) if it.as_str() == "json"));
        assert_eq!(read.headers[1], ("x-canary".parse().unwrap(), exact("1")));
        let query = [("a b".to_owned(), exact("")), ("v".to_owned(), ValuePattern::Present)];
        assert_eq!(read.query, query);
        assert_eq!(read.cookies, [("beta".to_owned(), exact("on"))]);
        assert_eq!(read.count(), 6);
        assert!(conditions("").is_empty());
        assert!(conditions("headers = {}").is_empty());
    }

    #[test]
    fn what_could_never_match_is_an_error() {
        for (line, message) in [
            ("methods = []", "`route.methods`: the list is empty"),
            ("methods = \"GET\"", "`route.methods` must be a list, not a string"),
            ("methods = [\"get\"]", "methods are case-sensitive: write \"GET\""),
            ("methods = [\"G T\"]", "\"G T\" is not a method"),
            ("methods = [\"TRACE\"]", "requests with TRACE reach no route"),
            ("methods = [\"GET\", \"GET\"]", "warning: `route.methods`: it names GET twice"),
            ("headers = { host = \"a\" }", "help: write hosts = [\"name\"] in the route"),
            ("headers = { \"a b\" = \"1\" }", "\"a b\" is not the name of a header"),
            ("headers = { x = 1 }", "`route.headers.x` must be a string, not an integer"),
            ("headers = { x = \"~(\" }", "the regex does not compile"),
            ("headers = { x = \"~\" }", "the regex is empty"),
            ("headers = { x = \"1\", X = \"2\" }", "`route.headers`: `x` is named twice"),
            ("headers = [\"x\"]", "`route.headers` must be a table, not a list"),
            ("query = { \"\" = \"1\" }", "the name of a parameter is empty"),
            ("cookies = { \"a=b\" = \"1\" }", "\"a=b\" is not the name of a cookie"),
        ] {
            let shown = diagnostics_of(&format!("[[route]]\npool = \"app\"\n{line}"));
            assert!(shown.contains(message), "{line}: {shown}");
        }
        let many: Vec<_> = (0..33).map(|number| format!("a{number} = \"*\"")).collect();
        let text = format!("[[route]]\npool = \"app\"\nquery = {{ {} }}", many.join(", "));
        assert!(diagnostics_of(&text).contains("there are 33, more than 32"));
    }
}
