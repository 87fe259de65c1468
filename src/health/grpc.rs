//! A probe by the gRPC health checking protocol: `grpc.health.v1.Health/Check`.
//!
//! Its two messages have one field each, which is read and written here by hand: a request is a
//! service's name, an answer is a number.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::converse::converse;
use super::http::add_fields;
use super::probe::Target;
use crate::config::model::{ProbeFields, Protocol};
use crate::upstream::UpstreamIo;

const PATH: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
/// The flag and the length before a message.
const PREFIX_BYTES: usize = 5;
/// The longest answer, in bytes; a right one has seven.
const ANSWER_BYTES_MAX: usize = 1024;
/// `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// What came back.
struct Answer {
    status: StatusCode,
    /// `grpc-status` of the trailers, or of the head of an answer that is all head.
    code: Option<HeaderValue>,
    message: Bytes,
}

/// Asks once; fails with the reason in words.
pub(super) async fn check(
    io: UpstreamIo,
    target: &Target,
    (service, fields): (&str, &ProbeFields),
    timeout: Duration,
) -> Result<(), String> {
    let mut request = Request::new(Full::new(message(service)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = target.uri(PATH).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    add_fields(headers, fields);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Ok(timeout) = HeaderValue::try_from(format!("{}m", timeout.as_millis())) {
        headers.insert("grpc-timeout", timeout);
    }
    verdict(&converse(io, Protocol::H2, request, read).await?)
}

/// `HealthCheckRequest { service = 1 }` with its prefix.
fn message(service: &str) -> Bytes {
    // The name is short enough for a length of two bytes at most.
    let mut content = BytesMut::new();
    if !service.is_empty() {
        content.put_u8(1 << 3 | 2);
        let length = service.len();
        if length > 0x7F {
            content.put_u8((length & 0x7F | 0x80) as u8);
        }
        content.put_u8(if length > 0x7F { (length >> 7) as u8 } else { length as u8 });
        content.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + content.len());
    message.put_u8(0);
    message.put_u32(content.len() as u32);
    message.put_slice(&content);
    message.freeze()
}

async fn read(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, mut body) = response.into_parts();
    let code = |fields: &HeaderMap| fields.get("grpc-status").cloned();
    let mut answer =
        Answer { status: head.status, code: code(&head.headers), message: Bytes::new() };
    let mut message = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        match frame.into_data() {
            Ok(data) => {
                message.extend_from_slice(&data);
                if message.len() > ANSWER_BYTES_MAX {
                    break;
                }
            }
            Err(frame) => answer.code = frame.trailers_ref().and_then(code).or(answer.code),
        }
    }
    answer.message = message.freeze();
    Ok(answer)
}

fn verdict(answer: &Answer) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("status {}", answer.status.as_u16()));
    }
    match answer.code.as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(b"5") => return Err("gRPC status 5: it does not know the service".to_owned()),
        Some(b"12") => return Err("gRPC status 12: it does not speak the protocol".to_owned()),
        Some(code) => return Err(format!("gRPC status {}", String::from_utf8_lossy(code))),
        None => return Err("the answer has no gRPC status".to_owned()),
    }
    match serving_status(&answer.message) {
        Some(SERVING) => Ok(()),
        Some(_) => Err("it says that it is not serving".to_owned()),
        None => Err("the answer is not a health status".to_owned()),
    }
}

/// The status in a `HealthCheckResponse { status = 1 }` with its prefix. A field that is absent is
/// zero, as every default.
fn serving_status(message: &[u8]) -> Option<u64> {
    let (prefix, content) = message.split_at_checked(PREFIX_BYTES)?;
    let [0, a, b, c, d] = *prefix else { return None };
    if content.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return None;
    }
    let mut rest = content;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => varint(&mut rest)?,
            1 => skip(&mut rest, 8)?,
            2 => {
                let length = varint(&mut rest)?;
                skip(&mut rest, usize::try_from(length).ok()?)?
            }
            5 => skip(&mut rest, 4)?,
            _ => return None,
        };
        if tag == 1 << 3 {
            status = value;
        }
    }
    Some(status)
}

/// A field of another kind counts nothing.
fn skip(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    *rest = rest.get(bytes..)?;
    Some(0)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: Option<&'static str>, message: &'static [u8]) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            code: code.map(HeaderValue::from_static),
            message: Bytes::from_static(message),
        }
    }

    #[test]
    fn a_request_is_the_name_of_a_service() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        let long = message(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0A, 0xC8, 0x01]);
        assert_eq!(long.len(), 208);
    }

    #[test]
    fn only_serving_is_healthy() {
        let said = |status, code, message| verdict(&answer(status, code, message));
        assert_eq!(said(200, Some("0"), b"\0\0\0\0\x02\x08\x01"), Ok(()));
        // A field that is not known is passed over.
        assert_eq!(said(200, Some("0"), b"\0\0\0\0\x05\x12\x01x\x08\x01"), Ok(()));
        for (status, code, message, reason) in [
            (503, None, &b""[..], "status 503"),
            (200, None, b"\0\0\0\0\x02\x08\x01", "the answer has no gRPC status"),
            (200, Some("5"), b"", "gRPC status 5: it does not know the service"),
            (200, Some("12"), b"", "gRPC status 12: it does not speak the protocol"),
            (200, Some("14"), b"", "gRPC status 14"),
            (200, Some("0"), b"\0\0\0\0\x02\x08\x02", "it says that it is not serving"),
            (200, Some("0"), b"\0\0\0\0\0", "it says that it is not serving"),
            (200, Some("0"), b"", "the answer is not a health status"),
            (200, Some("0"), b"\x01\0\0\0\x02\x08\x01", "the answer is not a health status"),
            (200, Some("0"), b"\0\0\0\0\x03\x08\x01", "the answer is not a health status"),
            (200, Some("0"), b"\0\0\0\0\x02\x08\x80", "the answer is not a health status"),
            (200, Some("0"), b"\0\0\0\0\x02\x0B\x01", "the answer is not a health status"),
            (200, Some("0"), b"\0\0\0\0\x02\x12\x7F", "the answer is not a health status"),
        ] {
            assert_eq!(said(status, code, message), Err(reason.to_owned()));
        }
    }
}
