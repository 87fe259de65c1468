//! Header fields that the configuration sets, adds and removes.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue};

use super::diagnostics::{Diagnostic, Invalid, Span};
use super::model::{HeaderEdits, Template};
use super::reader::{Entry, Table};
use super::template;
use super::value::Value;

/// Fields that belong to one connection or frame the message (RFC 9110 §7.6.1, RFC 9112 §6):
/// they are the proxy's own business.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

pub(super) fn read(table: Table<'_>, side: Side) -> HeaderEdits {
    let edits = HeaderEdits {
        remove: table
            .read("remove", |value| {
                value.list("[\"x-powered-by\"]", |item| {
                    item.parse("the name of a header", "\"x-powered-by\"", |text| name(text, side))
                })
            })
            .unwrap_or_default(),
        set: fields(&table.table("set"), side, template_value),
        add: fields(&table.table("add"), side, template_value),
    };
    table.finish();
    edits
}

/// The fixed header fields of a response that is made here.
pub(super) fn fixed(table: &Table<'_>) -> Vec<(HeaderName, HeaderValue)> {
    fields(table, Side::Response, |value| {
        value.parse("a string", "\"text/plain\"", |text| {
            HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
                Invalid::new("a header value has no line breaks or control characters")
            })
        })
    })
}

fn template_value(value: &Value<'_>) -> Option<Template> {
    value.parse("a string", "\"on\"", template::header_value)
}

fn fields<T>(
    table: &Table<'_>,
    side: Side,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Vec<(HeaderName, T)> {
    let mut seen: HashMap<HeaderName, Span> = HashMap::new();
    let mut fields = Vec::new();
    for Entry { key, key_span, value } in table.entries() {
        let content = read(&value);
        let name = match name(key, side) {
            Ok(name) => name,
            Err(Invalid { message, help }) => {
                let mut diagnostic = Diagnostic::error(key_span, message);
                diagnostic.help = help;
                table.context.push(diagnostic);
                continue;
            }
        };
        // Keys differ in case, header names do not.
        if let Some(first) = seen.insert(name.clone(), key_span) {
            table.context.push(
                Diagnostic::error(key_span, format!("the header `{name}` is named twice"))
                    .help("header names do not differ by case")
                    .note(first, "first named here"),
            );
        }
        fields.extend(content.map(|content| (name, content)));
    }
    fields
}

pub(super) fn name(text: &str, side: Side) -> Result<HeaderName, Invalid> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        Invalid::new(format!("{text:?} is not the name of a header"))
            .help("write letters, digits and `-`")
    })?;
    if side == Side::Request && name == "host" {
        return Err(Invalid::new("the header `host` is not for edits")
            .help("write rewrite.host = \"name\" in the route"));
    }
    if FRAMING.contains(&name.as_str()) {
        return Err(Invalid::new(format!("the header `{name}` is not for edits"))
            .help("it belongs to the connection or frames the message; the proxy sets it"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics_of};

    fn route(lines: &str) -> String {
        format!("[[route]]\npool = \"app\"\n{lines}")
    }

    #[test]
    fn edits_set_add_and_remove() {
        let lines = "request_headers = { set = { X-A = \"{client_ip}\" }, remove = [\"Cookie\"] }\n\
                     response_headers.add = { vary = \"x\" }";
        let route = config_of(&route(lines)).routes.remove(0);
        assert_eq!(route.request_headers.set[0].0, "x-a");
        assert_eq!(route.request_headers.remove, ["cookie"]);
        assert_eq!(route.response_headers.add[0].1.as_literal(), Some("x"));
        assert!(route.response_headers.set.is_empty());
    }

    #[test]
    fn fields_of_the_connection_are_not_for_edits() {
        for (lines, message) in [
            ("request_headers.set = { Host = \"x\" }", "help: write rewrite.host = \"name\""),
            ("request_headers.remove = [\"Content-Length\"]", "`content-length` is not for edits"),
            ("response_headers.add = { transfer-encoding = \"x\" }", "is not for edits"),
            ("response_headers.set = { \"a b\" = \"x\" }", "\"a b\" is not the name of a header"),
            ("request_headers.set = { a = \"{clientip}\" }", "did you mean `{client_ip}`?"),
            ("request_headers.set = { a = \"x\\ny\" }", "has no line breaks"),
            ("request_headers.set = { a = 1 }", "must be a string, not an integer"),
            ("request_headers.set = [\"a\"]", "must be a table, not a list"),
            ("request_headers.sets = {}", "did you mean `set`?"),
        ] {
            let shown = diagnostics_of(&route(lines));
            assert!(shown.contains(message), "{lines}: {shown}");
        }
        let host = diagnostics_of(&route("response_headers.set = { host = \"x\" }"));
        assert_eq!(host, "");
    }

    #[test]
    fn a_header_in_two_cases_is_an_error() {
        let shown = diagnostics_of(&route("request_headers.set = { x-a = \"1\", X-A = \"2\" }"));
        assert_eq!(shown.matches("is named twice").count(), 1, "{shown}");
        assert!(shown.contains("note: first named here"), "{shown}");
    }
}
