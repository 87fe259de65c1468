//! What a purge means for the caches in front of us.

use http::Uri;

use super::purge::{ANY_QUERY, Order, host, path};
use crate::purge::Operation;

/// The same as our own cache is asked to purge. Our keys know no scheme, so a URL is both of its.
pub(super) fn operations(order: &Order) -> Result<Vec<Operation>, String> {
    if order.all {
        return Ok(vec![Operation::All]);
    }
    let mut operations = Vec::new();
    for url in &order.urls {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let host = host(uri.authority().map_or("", |authority| authority.as_str()))?;
        let path = path(uri.path())?;
        match uri.query() {
            Some(ANY_QUERY) => operations.push(Operation::Prefix(format!("{host}{path}"))),
            query => {
                let query = query.map(|query| format!("?{query}")).unwrap_or_default();
                operations.extend(
                    ["https", "http"]
                        .map(|scheme| Operation::Url(format!("{scheme}://{host}{path}{query}"))),
                );
            }
        }
    }
    operations.extend(order.tags.iter().map(|tag| Operation::Tag(tag.trim_ascii().to_owned())));
    for prefix in &order.prefixes {
        let (authority, rest) = prefix.split_at(prefix.find('/').unwrap_or(prefix.len()));
        let path = path(if rest.is_empty() { "/" } else { rest })?;
        operations.push(Operation::Prefix(format!("{}{path}", host(authority)?)));
    }
    for name in &order.hosts {
        operations.push(Operation::Host(host(name)?));
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_to_fronts_in_their_normal_form() {
        let order = Order {
            urls: vec!["http://A.test:80/%7ex?b".into(), "https://a.test/y?*".into()],
            tags: vec![" One ".into()],
            prefixes: vec!["A.test/z/../w/".into(), "b.test".into()],
            hosts: vec!["C.test".into()],
            ..Order::default()
        };
        let expected = [
            Operation::Url("https://a.test/~x?b".into()),
            Operation::Url("http://a.test/~x?b".into()),
            Operation::Prefix("a.test/y".into()),
            Operation::Tag("One".into()),
            Operation::Prefix("a.test/w/".into()),
            Operation::Prefix("b.test/".into()),
            Operation::Host("c.test".into()),
        ];
        assert_eq!(operations(&order).unwrap(), expected);
        let all = Order { all: true, ..order };
        assert_eq!(operations(&all).unwrap(), [Operation::All]);
    }
}
