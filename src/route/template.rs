//! Text of a redirect or a header edit, with the request's values filled in.
//!
//! The result can always stand in a header value: the literals were checked with the configuration,
//! and whatever a client could bring in is percent-encoded unless it is visible ASCII.
//! Deliberately absent: whether a redirect stays on its site, which its literals decide.

use std::net::IpAddr;

use crate::config::model::{Template, TemplatePart, Variable};

use super::path::push_encoded;

/// What the variables of a template stand for in one request.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub client_ip: IpAddr,
    pub host: &'a str,
    pub request_id: &'a str,
    pub scheme: &'a str,
    /// In normal form, which is percent-encoded.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
}

/// The template's text for one request.
pub fn expand(template: &Template, values: &Values<'_>) -> String {
    let mut text = String::new();
    for part in &template.0 {
        match part {
            TemplatePart::Literal(literal) => text.push_str(literal),
            TemplatePart::Variable(variable) => push_variable(&mut text, *variable, values),
        }
    }
    text
}

fn push_variable(text: &mut String, variable: Variable, values: &Values<'_>) {
    match variable {
        Variable::ClientIp => text.push_str(&values.client_ip.to_string()),
        Variable::Host => push_visible(text, values.host),
        Variable::RequestId => push_visible(text, values.request_id),
        Variable::Scheme => push_visible(text, values.scheme),
        Variable::Path => push_visible(text, values.path),
        Variable::Query => {
            if let Some(query) = values.query {
                text.push('?');
                push_visible(text, query);
            }
        }
    }
}

fn push_visible(text: &mut String, value: &str) {
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        text.push_str(value);
        return;
    }
    for byte in value.bytes() {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            push_encoded(text, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use http::HeaderValue;

    use super::*;

    const VALUES: Values<'_> = Values {
        client_ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
        host: "example.com",
        request_id: "r-1",
        scheme: "https",
        path: "/a%20b",
        query: Some("x=1&y"),
    };

    fn template(parts: &[Variable]) -> Template {
        let bar = || TemplatePart::Literal("|".to_owned());
        Template(parts.iter().flat_map(|part| [TemplatePart::Variable(*part), bar()]).collect())
    }

    #[test]
    fn every_variable_has_its_value() {
        use Variable::{ClientIp, Host, Path, Query, RequestId, Scheme};
        let all = template(&[ClientIp, Host, RequestId, Scheme, Path, Query]);
        assert_eq!(expand(&all, &VALUES), "::1|example.com|r-1|https|/a%20b|?x=1&y|");
    }

    #[test]
    fn an_absent_query_is_nothing_and_an_empty_one_its_question_mark() {
        let query = template(&[Variable::Query]);
        assert_eq!(expand(&query, &Values { query: None, ..VALUES }), "|");
        assert_eq!(expand(&query, &Values { query: Some(""), ..VALUES }), "?|");
    }

    #[test]
    fn no_value_can_break_out_of_a_header() {
        let hostile = "a\r\nSet-Cookie: b\0\t\u{7f}é";
        let values = Values {
            host: hostile,
            request_id: hostile,
            scheme: hostile,
            path: hostile,
            query: Some(hostile),
            ..VALUES
        };
        use Variable::{Host, Path, Query, RequestId, Scheme};
        for variable in [Host, RequestId, Scheme, Path, Query] {
            let text = expand(&template(&[variable]), &values);
            assert!(text.ends_with("a%0D%0ASet-Cookie:%20b%00%09%7F%C3%A9|"), "{text}");
            assert!(HeaderValue::try_from(text).is_ok());
        }
    }

    #[test]
    fn a_template_without_variables_is_its_text() {
        let literal = Template(vec![TemplatePart::Literal("max-age=1".to_owned())]);
        assert_eq!(expand(&literal, &VALUES), "max-age=1");
        assert_eq!(expand(&Template(Vec::new()), &VALUES), "");
    }
}
