//! Text with places to fill in: header values, redirect targets, access log lines.
//!
//! `{name}` is a place, `{{` and `}}` are braces. An unknown name is a problem that lists the
//! known ones. Deliberately absent: filling in, which is the work of whoever sends or logs.

use http::HeaderValue;

use super::diagnostics::Invalid;
use super::model::{AccessField, AccessFormat, AccessPart, Template, TemplatePart, Variable};
use super::suggest;

const HEADER_VARIABLES: [(&str, Variable); 5] = [
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("request_id", Variable::RequestId),
    ("scheme", Variable::Scheme),
    ("path", Variable::Path),
];

const REDIRECT_VARIABLES: [(&str, Variable); 6] = [
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("request_id", Variable::RequestId),
    ("scheme", Variable::Scheme),
    ("path", Variable::Path),
    ("query", Variable::Query),
];

enum Piece<V> {
    Literal(String),
    Place(V),
}

/// The value of a header of a request or response.
pub(super) fn header_value(text: &str) -> Result<Template, Invalid> {
    let template = template(text, &HEADER_VARIABLES)?;
    for part in &template.0 {
        if let TemplatePart::Literal(literal) = part
            && HeaderValue::from_bytes(literal.as_bytes()).is_err()
        {
            return Err(Invalid::new("a header value has no line breaks or control characters"));
        }
    }
    Ok(template)
}

/// The target of a redirect. It must begin with a scheme or a path of our own choosing: what the
/// client sent may not decide which site it is sent to (`//evil.example` is a path too).
pub(super) fn location(text: &str) -> Result<Template, Invalid> {
    const HELP: &str = "begin with \"https://example.com\", \"{scheme}://{host}\" or \"/path\"";
    let template = template(text, &REDIRECT_VARIABLES)?;
    let literals = template.0.iter().filter_map(|part| match part {
        TemplatePart::Literal(literal) => Some(literal),
        TemplatePart::Variable(_) => None,
    });
    if literals.flat_map(|literal| literal.bytes()).any(|byte| !byte.is_ascii_graphic()) {
        return Err(Invalid::new("a redirect target has only visible ASCII characters")
            .help("percent-encode the others: a space is \"%20\""));
    }
    if is_ours(&template.0) {
        Ok(template)
    } else {
        Err(Invalid::new(format!("{text:?} is not a redirect target")).help(HELP))
    }
}

fn is_ours(parts: &[TemplatePart]) -> bool {
    use TemplatePart::{Literal, Variable as Place};
    // What follows `http://`: a host that is written out, or the one that was asked for.
    let host_follows = |rest: &str, next: Option<&TemplatePart>| {
        rest.starts_with(|first: char| first != '/')
            || rest.is_empty() && next == Some(&Place(Variable::Host))
    };
    match parts {
        [Place(Variable::Scheme), Literal(text), rest @ ..] => {
            text.strip_prefix("://").is_some_and(|host| host_follows(host, rest.first()))
        }
        [Literal(text), rest @ ..] => match text.split_once("://") {
            Some(("http" | "https", host)) => host_follows(host, rest.first()),
            _ if text == "/" => rest.is_empty(),
            _ => text.starts_with('/') && !text.starts_with("//"),
        },
        _ => false,
    }
}

/// `json`, `combined` or a template of access log fields.
pub(super) fn access_format(text: &str) -> Result<AccessFormat, Invalid> {
    match text {
        "json" => return Ok(AccessFormat::Json),
        "combined" => return Ok(AccessFormat::Combined),
        _ => {}
    }
    if text.contains(|letter: char| letter.is_control() && letter != '\t') {
        return Err(Invalid::new("a line of the access log has no line breaks of its own"));
    }
    let pieces = pieces(text, &AccessField::NAMES)?;
    if !pieces.iter().any(|piece| matches!(piece, Piece::Place(_))) {
        return Err(Invalid::new(format!("{text:?} is not a format of the access log")).help(
            "write \"json\", \"combined\" or a template: \"{client_ip} {status} {duration_ms}\"",
        ));
    }
    let parts = pieces.into_iter().map(|piece| match piece {
        Piece::Literal(literal) => AccessPart::Literal(literal),
        Piece::Place(field) => AccessPart::Field(field),
    });
    Ok(AccessFormat::Template(parts.collect()))
}

fn template(text: &str, variables: &[(&str, Variable)]) -> Result<Template, Invalid> {
    let parts = pieces(text, variables)?.into_iter().map(|piece| match piece {
        Piece::Literal(literal) => TemplatePart::Literal(literal),
        Piece::Place(variable) => TemplatePart::Variable(variable),
    });
    Ok(Template(parts.collect()))
}

/// Literals are never empty and never adjacent.
fn pieces<V: Copy>(text: &str, names: &[(&str, V)]) -> Result<Vec<Piece<V>>, Invalid> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            literal.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let inside = from.strip_prefix('{').and_then(|from| from.split_once('}'));
        let Some((name, after)) = inside else {
            return Err(Invalid::new("a brace stands alone")
                .help("write \"{name}\" for a variable, \"{{\" and \"}}\" for braces"));
        };
        let place = names.iter().find(|(known, _)| *known == name).map(|(_, place)| *place);
        let place = place.ok_or_else(|| unknown(name, names))?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Place(place));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

fn unknown<V>(name: &str, names: &[(&str, V)]) -> Invalid {
    let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let listed = format!("the variables here are {{{}}}", known.join("}, {"));
    Invalid::new(format!("unknown variable `{{{name}}}`")).help(
        match suggest::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{{{near}}}`? {listed}"),
            None => listed,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_braces_are_read() {
        let template = header_value("a{{b}}-{client_ip}{host}!").unwrap();
        assert_eq!(
            template.0,
            [
                TemplatePart::Literal("a{b}-".to_owned()),
                TemplatePart::Variable(Variable::ClientIp),
                TemplatePart::Variable(Variable::Host),
                TemplatePart::Literal("!".to_owned()),
            ]
        );
        assert_eq!(header_value("").unwrap().as_literal(), Some(""));
        assert_eq!(header_value("größe").unwrap().as_literal(), Some("größe"));
        for text in ["{", "}", "{host", "host}", "{}", "{nope}", "a\nb", "{query}"] {
            assert!(header_value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_variable_gets_the_list_and_the_nearest() {
        let invalid = header_value("{uri}").unwrap_err();
        assert_eq!(invalid.message, "unknown variable `{uri}`");
        let listed = "the variables here are {client_ip}, {host}, {request_id}, {scheme}, {path}";
        assert_eq!(invalid.help.as_deref(), Some(listed));
        let help = header_value("{hots}").unwrap_err().help.unwrap();
        assert!(help.starts_with("did you mean `{host}`?"), "{help}");
    }

    #[test]
    fn a_redirect_target_cannot_be_chosen_by_the_client() {
        for text in [
            "https://example.com{path}{query}",
            "https://{host}{path}",
            "{scheme}://www.example.com/",
            "/",
            "/new{path}",
            "/search?q=%20",
        ] {
            assert!(location(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "{path}",
            "/{path}",
            "//evil",
            "//{host}",
            "example.com",
            "{host}/x",
            "ftp://x/",
            "/a b",
            "/é",
            "https://",
            "https:///x",
            "{scheme}{path}",
            "https://{path}",
            "{scheme}://{path}",
        ] {
            assert!(location(text).is_err(), "{text}");
        }
    }

    #[test]
    fn access_formats_are_words_or_templates() {
        assert_eq!(access_format("json"), Ok(AccessFormat::Json));
        assert_eq!(access_format("combined"), Ok(AccessFormat::Combined));
        assert_eq!(
            access_format("{status} {route}"),
            Ok(AccessFormat::Template(vec![
                AccessPart::Field(AccessField::Status),
                AccessPart::Literal(" ".to_owned()),
                AccessPart::Field(AccessField::Route),
            ]))
        );
        for text in ["", "jsn", "{nope}", "{status}\n"] {
            assert!(access_format(text).is_err(), "{text}");
        }
    }
}
