//! What calls of gRPC have of their own: how long they may be silent, and how they are told of errors.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::respond;
use crate::body::Body;
use crate::error::Kind;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const MEDIA_TYPE: &[u8] = b"application/grpc";

/// Whether a request over HTTP/2 is a call: every one is a POST.
pub(super) fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::POST && is_typed(headers)
}

/// Whether a message is one of gRPC: `application/grpc`, or with a format behind it.
pub(super) fn is_typed(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    value.as_bytes().split_at_checked(MEDIA_TYPE.len()).is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(MEDIA_TYPE)
            && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// An error as a client of gRPC reads it: 200, and the status in the only head.
pub(super) fn error(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // To a cache it would be a success.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    say(status, text, headers);
    response
}

/// How a call ends whose answer has broken off.
pub(super) fn trailers(kind: Kind) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    say(respond::status_of(kind), respond::explanation(kind), &mut trailers);
    trailers
}

fn say(status: StatusCode, text: &str, headers: &mut HeaderMap) {
    headers.insert(GRPC_STATUS, HeaderValue::from(code_of(status)));
    // The texts are plain ASCII, which needs no encoding but for `%`.
    if let Ok(text) = HeaderValue::try_from(text.replace('%', "%25")) {
        headers.insert(GRPC_MESSAGE, text);
    }
}

/// As gRPC maps statuses of HTTP, but that a deadline is one.
fn code_of(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 => 14,
        504 => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(value: &'static str) -> HeaderMap {
        [(CONTENT_TYPE, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn calls_are_known_by_their_media_type() {
        for value in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"] {
            assert!(is_call(&Method::POST, &typed(value)), "{value}");
            assert!(!is_call(&Method::GET, &typed(value)), "{value}");
        }
        for value in ["application/grpc-web", "application/grpcx", "text/plain", ""] {
            assert!(!is_typed(&typed(value)), "{value}");
        }
        assert!(!is_typed(&HeaderMap::new()));
    }

    #[test]
    fn errors_are_trailers_only() {
        for (status, code) in [(502, "14"), (503, "14"), (504, "4"), (404, "12"), (413, "2")] {
            let response = error(StatusCode::from_u16(status).unwrap(), "It is 5 % off.");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[GRPC_STATUS], code);
            assert_eq!(response.headers()[GRPC_MESSAGE], "It is 5 %25 off.");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert!(matches!(response.body(), Body::Empty));
        }
    }
}
