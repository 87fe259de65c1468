//! The answers that are ours: the only place where an error becomes a status.

use http::header::{
    ACCEPT, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::error::Kind;
use crate::range::Span;
use crate::snapshot::ErrorPages;

/// How long a client should wait when there is no capacity, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// The status that tells a client of an error.
pub(super) fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::BadRequest(_) | Kind::ClientGone | Kind::ReaderStalled => StatusCode::BAD_REQUEST,
        Kind::UriTooLong => StatusCode::URI_TOO_LONG,
        Kind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::BodyTimeout | Kind::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
        Kind::Misdirected | Kind::UnprovenClient => StatusCode::MISDIRECTED_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NoRoute => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        // RFC 9220 §3.
        Kind::NoTunnel => StatusCode::NOT_IMPLEMENTED,
        Kind::Connect
        | Kind::ConnectTimeout
        | Kind::Reset
        | Kind::BadResponse
        | Kind::AnswerTooLargeForFront
        | Kind::Truncated
        | Kind::TunnelUnsupported => StatusCode::BAD_GATEWAY,
        Kind::FirstByteTimeout | Kind::IdleTimeout | Kind::Deadline | Kind::NotCached => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Kind::TooManyAbandoned => StatusCode::TOO_MANY_REQUESTS,
        Kind::Loop => StatusCode::LOOP_DETECTED,
        Kind::Refused
        | Kind::NoEndpoint
        | Kind::QueueFull
        | Kind::QueueTimeout
        | Kind::ClientShare
        | Kind::TunnelLimit => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether the connection cannot be used for another request after this error.
pub(super) fn ends_connection(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::BadRequest(_)
            | Kind::UriTooLong
            | Kind::HeadTooLarge
            | Kind::BodyTooLarge
            | Kind::BodyTimeout
            | Kind::BodyTooSlow
            | Kind::ClientGone
    )
}

/// The page for an error: the status, what it means, and the request id to ask about; or the
/// operator's own.
pub(super) fn error(
    kind: Kind,
    request: &HeaderMap,
    request_id: &HeaderValue,
    pages: Option<&ErrorPages>,
) -> Response<Body> {
    let status = status_of(kind);
    let mut response = page(status, explanation(kind), request, request_id, pages);
    let headers = response.headers_mut();
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    if kind == Kind::MethodNotAllowed {
        headers.insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    response
}

/// A page for a status without a body, such as a folder's 404.
pub(super) fn page(
    status: StatusCode,
    text: &str,
    request: &HeaderMap,
    request_id: &HeaderValue,
    pages: Option<&ErrorPages>,
) -> Response<Body> {
    let wants_json = wants_json(request);
    // Who asks for JSON can do nothing with a page, but for one in JSON.
    let own = pages.and_then(|pages| pages.of(status)).filter(|own| !wants_json || own.is_json);
    let (content_type, body) = match own {
        Some(own) => (own.content_type.clone(), Body::from(own.body.clone())),
        None => our_page(status, text, wants_json, request_id),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn our_page(
    status: StatusCode,
    text: &str,
    as_json: bool,
    request_id: &HeaderValue,
) -> (HeaderValue, Body) {
    let id = request_id.to_str().unwrap_or("-");
    let title = status.canonical_reason().unwrap_or("Error");
    let (content_type, body) = if as_json {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": title,
            "status": status.as_u16(),
            "detail": text,
            "request_id": id,
        });
        ("application/problem+json", problem.to_string())
    } else {
        let code = status.as_u16();
        let id = escape(id);
        let body = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{code} {title}</title>\
             <h1>{code} {title}</h1><p>{text}</p><p><small>Request {id}</small></p></html>\n"
        );
        ("text/html; charset=utf-8", body)
    };
    (HeaderValue::from_static(content_type), Body::from(body))
}

/// The answer where none of the ranges that were asked for begins within a stored response of
/// `bytes` bytes (RFC 9110 §15.5.17).
pub(super) fn unsatisfiable(
    bytes: u64,
    request: &HeaderMap,
    request_id: &HeaderValue,
    pages: Option<&ErrorPages>,
) -> Response<Body> {
    let text = "None of these ranges is within the content.";
    let mut response = page(StatusCode::RANGE_NOT_SATISFIABLE, text, request, request_id, pages);
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(content_range) = HeaderValue::try_from(Span::unsatisfied(bytes)) {
        headers.insert(CONTENT_RANGE, content_range);
    }
    response
}

/// A redirect to `location`.
pub(super) fn redirect(status: StatusCode, location: &str) -> Option<Response<Body>> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(location).ok()?);
    Some(response)
}

/// What a client may know about an error.
pub(super) fn explanation(kind: Kind) -> &'static str {
    match kind {
        Kind::BadRequest(rule) => rule,
        Kind::UriTooLong => "The address is too long.",
        Kind::HeadTooLarge => "The request head is too large.",
        Kind::BodyTooLarge => "The request body is too large.",
        Kind::BodyTimeout | Kind::BodyTooSlow => "The request body did not arrive in time.",
        Kind::ClientGone | Kind::ReaderStalled => "The request was broken off.",
        Kind::Misdirected => "This connection is for another site.",
        Kind::UnprovenClient => "This site asks for a certificate, on a connection of its own.",
        Kind::Forbidden => "Access is not allowed from here.",
        Kind::NoRoute => "There is nothing here.",
        Kind::MethodNotAllowed => "This method is not allowed here.",
        Kind::NotCached => "The answer is not in the cache.",
        Kind::NoTunnel => "No connection of this kind can be had here.",
        Kind::Connect | Kind::ConnectTimeout => "The service could not be reached.",
        Kind::Reset | Kind::Truncated => "The service broke its answer off.",
        Kind::AnswerTooLargeForFront => "The head of the service's answer is too large.",
        Kind::BadResponse => "The service gave an answer that could not be understood.",
        Kind::FirstByteTimeout | Kind::IdleTimeout | Kind::Deadline => {
            "The service did not answer in time."
        }
        Kind::NoEndpoint => "The service is not available at the moment.",
        Kind::Refused
        | Kind::QueueFull
        | Kind::QueueTimeout
        | Kind::ClientShare
        | Kind::TunnelLimit => "The service is busy at the moment.",
        Kind::TooManyAbandoned => "Too many requests before this one were given up.",
        Kind::Loop => "The request goes in circles.",
        Kind::TunnelUnsupported => "The service takes no connections of this kind.",
        Kind::Exhausted => "Too much is going on here at the moment.",
        Kind::Internal => "Something went wrong here.",
    }
}

/// Whether the client asks for JSON and not, with the same or more weight, for a page.
fn wants_json(request: &HeaderMap) -> bool {
    let Some(accept) = request.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let place = |wanted: fn(&str) -> bool| accept.split(',').position(|part| wanted(part.trim()));
    let json = place(|part| {
        part.starts_with("application/json") || part.starts_with("application/problem+json")
    });
    let html = place(|part| part.starts_with("text/html"));
    match (json, html) {
        (Some(json), Some(html)) => json < html,
        (json, _) => json.is_some(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &'static str) -> HeaderMap {
        [(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect()
    }

    fn content_type(accept: &'static str) -> HeaderValue {
        let response =
            error(Kind::NoRoute, &accepting(accept), &HeaderValue::from_static("id"), None);
        response.headers()[CONTENT_TYPE].clone()
    }

    #[test]
    fn clients_that_ask_for_json_get_a_problem_and_browsers_a_page() {
        assert_eq!(content_type("application/json"), "application/problem+json");
        assert_eq!(content_type("*/*"), "text/html; charset=utf-8");
        assert_eq!(
            content_type("text/html,application/xhtml+xml,application/json;q=0.9"),
            "text/html; charset=utf-8"
        );
    }

    #[test]
    fn errors_are_never_stored_and_lack_of_capacity_says_when_to_come_back() {
        let id = HeaderValue::from_static("id");
        let response = error(Kind::NoEndpoint, &HeaderMap::new(), &id, None);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_request_id_cannot_inject_markup() {
        let id = HeaderValue::from_static("<script>");
        let response = error(Kind::NoRoute, &HeaderMap::new(), &id, None);
        let Body::Full(body) = response.into_body() else { unreachable!("a page has a body") };
        assert!(!body.windows(7).any(|window| window == b"<script"));
    }
}
