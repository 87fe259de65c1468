//! What a request that changes something makes out of date (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, Method, Response, Uri};

use super::deliver::Asked;
use super::target::Target;
use crate::body::Body;
use crate::route::{host, path};
use crate::snapshot::Snapshot;

/// Takes what is stored for the target away, and for the `Location` and `Content-Location` of the
/// same origin, once an unsafe request has not failed.
pub(super) fn after(snapshot: &Snapshot, asked: &Asked<'_>, response: &Response<Body>) {
    let status = response.status();
    if is_safe(asked.method) || !(status.is_success() || status.is_redirection()) {
        return;
    }
    let Target { host, path, query, .. } = asked.target;
    snapshot.cache.invalidate(&snapshot.url_target(host, path, *query));
    for name in [LOCATION, CONTENT_LOCATION] {
        if let Some((path, query)) = same_origin(asked.target, response.headers(), &name)
            && (path != *asked.target.path || query.as_deref() != asked.target.query)
        {
            snapshot.cache.invalidate(&snapshot.url_target(host, &path, query.as_deref()));
        }
    }
}

/// Methods that change nothing by their definition, of those in the IANA registry. What is not
/// known may change anything.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
        || matches!(method.as_str(), "PROPFIND" | "REPORT" | "SEARCH" | "QUERY")
}

/// Path, in normal form, and query of a reference to the origin of the request.
fn same_origin(
    target: &Target<'_>,
    headers: &HeaderMap,
    name: &HeaderName,
) -> Option<(String, Option<String>)> {
    let reference: Uri = resolved(target, headers.get(name)?.to_str().ok()?)?.parse().ok()?;
    if let Some(authority) = reference.authority()
        && !authority.as_str().eq_ignore_ascii_case(&target.authority)
    {
        let named = host::normalize(authority.as_str()).ok()?;
        // A scheme's own port may be left out.
        let is_default = matches!(authority.port_u16(), Some(80 | 443));
        if named.name != target.host || !is_default || target.port.is_some() {
            return None;
        }
    }
    let path = path::normalize(reference.path()).ok()?.into_owned();
    Some((path, reference.query().map(str::to_owned)))
}

/// A reference that begins with a scheme or a path (RFC 3986 §5.2).
fn resolved(target: &Target<'_>, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let has_scheme = reference.split(['/', '?']).next().is_some_and(|part| part.contains(':'));
    Some(if reference.is_empty() {
        match target.query {
            Some(query) => format!("{}?{query}", target.path),
            None => target.path.to_string(),
        }
    } else if reference.starts_with("//") {
        format!("http:{reference}")
    } else if has_scheme || reference.starts_with('/') {
        reference.to_owned()
    } else if reference.starts_with('?') {
        format!("{}{reference}", target.path)
    } else {
        let (folder, _) = target.path.rsplit_once('/')?;
        format!("{folder}/{reference}")
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use http::HeaderValue;

    use super::*;

    fn found(reference: &'static str) -> Option<String> {
        let target = Target {
            authority: Cow::Borrowed("a.test:8080"),
            host: Cow::Borrowed("a.test"),
            port: Some(8080),
            path: Cow::Borrowed("/x/y"),
            query: Some("q=1"),
        };
        let headers = [(LOCATION, HeaderValue::from_static(reference))].into_iter().collect();
        let (path, query) = same_origin(&target, &headers, &LOCATION)?;
        Some(query.map_or(path.clone(), |query| format!("{path}?{query}")))
    }

    #[test]
    fn references_are_resolved_against_the_target() {
        for (reference, expected) in [
            ("/b?c=1", Some("/b?c=1")),
            ("z", Some("/x/z")),
            ("../z", Some("/z")),
            ("?r=2", Some("/x/y?r=2")),
            ("", Some("/x/y?q=1")),
            ("#part", Some("/x/y?q=1")),
            ("/%61", Some("/a")),
            ("http://a.test:8080/b", Some("/b")),
            ("https://A.test:8080/b", Some("/b")),
            ("//a.test:8080/b", Some("/b")),
            ("http://a.test/b", None),
            ("http://b.test:8080/b", None),
            ("//b.test/b", None),
            ("/%zz", None),
        ] {
            assert_eq!(found(reference).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn what_is_not_known_to_be_safe_is_not() {
        for (method, safe) in
            [("GET", true), ("SEARCH", true), ("POST", false), ("M-SEARCH", false)]
        {
            assert_eq!(is_safe(&Method::from_bytes(method.as_bytes()).unwrap()), safe, "{method}");
        }
    }
}
