//! What may be put into a coding: by its status, its fields, its length and its type. Pure.

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use crate::fields::Named;

/// Shorter bodies gain nothing that a client would notice, in bytes.
pub const BODY_BYTES_MIN: u64 = 1 << 10;

/// Types beside `text/*` and those that end with one of [`SUFFIXES`].
const TYPES: [&str; 29] = [
    "application/ecmascript",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/json-seq",
    "application/ndjson",
    "application/rtf",
    "application/sql",
    "application/toml",
    "application/vnd.apple.mpegurl",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-font-opentype",
    "application/x-font-truetype",
    "application/x-font-ttf",
    "application/x-javascript",
    "application/x-json",
    "application/x-mpegurl",
    "application/x-ndjson",
    "application/x-yaml",
    "application/xml",
    "application/yaml",
    "font/collection",
    "font/otf",
    "font/sfnt",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
];

/// Structured syntaxes (RFC 6839) that are text, such as that of `image/svg+xml`.
const SUFFIXES: [&str; 3] = ["+json", "+xml", "+yaml"];

/// Whether a response with this head may be sent in a coding to whoever takes one. `length` is that
/// of its body, where it is known.
pub fn may_code(status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> bool {
    has_body(status)
        && length.is_none_or(|length| length >= BODY_BYTES_MIN)
        && is_compressible(headers)
        // What the origin has coded stays as it is (RFC 9110 §8.4), and so do parts.
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && !forbids_transforming(headers)
}

/// `no-transform`, of a request (RFC 9111 §5.2.1.6) or of a response (§5.2.2.6).
pub fn forbids_transforming(headers: &HeaderMap) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Whether events are sent one by one over a long time.
pub fn is_event_stream(headers: &impl Named) -> bool {
    media_type(headers).is_some_and(|name| name.eq_ignore_ascii_case(b"text/event-stream"))
}

fn has_body(status: StatusCode) -> bool {
    !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        )
}

fn is_compressible(headers: &HeaderMap) -> bool {
    let Some(name) = media_type(headers) else { return false };
    let begins = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let ends = |suffix: &str| {
        let at = name.len().checked_sub(suffix.len());
        at.and_then(|at| name.get(at..))
            .is_some_and(|it| it.eq_ignore_ascii_case(suffix.as_bytes()))
    };
    begins("text/")
        || SUFFIXES.into_iter().any(ends)
        || TYPES.into_iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The media type without its parameters.
fn media_type(headers: &impl Named) -> Option<&[u8]> {
    let value = headers.text(&CONTENT_TYPE)?;
    value.split(|byte| *byte == b';').next().map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn of_type(name: &'static str) -> bool {
        may_code(StatusCode::OK, &headers(&[(CONTENT_TYPE, name)]), None)
    }

    #[test]
    fn text_may_be_coded_whatever_it_is_called() {
        for name in [
            "text/html",
            "Text/CSS; charset=utf-8",
            "text/event-stream",
            "application/JSON",
            "application/ld+json ; profile=x",
            "image/svg+xml",
            "application/wasm",
            "font/ttf",
            "application/grpc-web+json",
        ] {
            assert!(of_type(name), "{name}");
        }
    }

    #[test]
    fn what_is_compressed_already_or_unknown_stays_as_it_is() {
        for name in [
            "image/png",
            "font/woff2",
            "font/woff",
            "video/mp4",
            "application/zip",
            "application/octet-stream",
            "application/grpc",
            "application/grpc+proto",
            "multipart/byteranges",
            "textual/html",
            "+json2",
            "",
        ] {
            assert!(!of_type(name), "{name}");
        }
        assert!(!may_code(StatusCode::OK, &HeaderMap::new(), None));
    }

    #[test]
    fn short_bodies_parts_and_what_is_coded_stay_as_they_are() {
        let html = (CONTENT_TYPE, "text/html");
        let plain = headers(std::slice::from_ref(&html));
        assert!(may_code(StatusCode::OK, &plain, Some(1024)));
        assert!(may_code(StatusCode::NOT_FOUND, &plain, None));
        assert!(!may_code(StatusCode::OK, &plain, Some(1023)));
        for status in [204, 205, 206, 304] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(!may_code(status, &plain, None), "{status}");
        }
        for (name, value) in [
            (CONTENT_ENCODING, "gzip"),
            (CONTENT_ENCODING, "identity"),
            (CONTENT_RANGE, "bytes 0-1/5"),
            (CACHE_CONTROL, "max-age=5, No-Transform"),
        ] {
            let headers = headers(&[html.clone(), (name.clone(), value)]);
            assert!(!may_code(StatusCode::OK, &headers, Some(5000)), "{name}: {value}");
        }
    }
}
