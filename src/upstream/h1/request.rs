//! The request as it is written: its head, and its body as fast as the endpoint takes it.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio::io::AsyncWrite;

use crate::error::Kind;
use crate::upstream::io::UpstreamIo;
use crate::upstream::nudge::Nudge;
use crate::upstream::upload::{Upload, UploadReader};

/// Says how long the endpoint has, in milliseconds.
pub(in crate::upstream) const TIMEOUT_NAME: &str = "x-request-timeout-ms";
/// Room that a connection keeps for its next head, in bytes.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    /// Path and query.
    pub uri: &'a Uri,
    /// Without those that frame the body, which are written as it needs them.
    pub headers: &'a HeaderMap,
    /// The protocol that the client asks to change to.
    pub upgrade: Option<&'a HeaderValue>,
    /// How long the endpoint has, where it is told, in milliseconds.
    pub timeout_millis: Option<u64>,
    /// For whoever waits for the answer.
    pub nudge: &'a Nudge,
}

/// Writes one request after the other.
#[derive(Debug, Default)]
pub(in crate::upstream) struct RequestWriter {
    /// A head, or the line before a chunk; then come `data` and `tail`.
    front: Vec<u8>,
    front_written: usize,
    data: Bytes,
    tail: &'static [u8],
    upload: Option<UploadReader>,
    is_chunked: bool,
    stage: Stage,
    /// Not a byte of the request has been written.
    pub(in crate::upstream) is_untouched: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Body,
    Flush,
    #[default]
    Done,
    /// The endpoint takes no more.
    GivenUp,
}

/// Why a request cannot be written to its end.
#[derive(Debug)]
pub(in crate::upstream) enum WriteError {
    /// The client's body ended early, or broke a limit.
    Upload(Kind),
    Io(io::Error),
}

impl RequestWriter {
    /// Begins with the next request; the one before is done.
    pub(in crate::upstream) fn begin(
        &mut self,
        head: &RequestHead<'_>,
        upload: Option<&Rc<Upload>>,
    ) {
        let length = upload.map(|upload| upload.length());
        self.front.clear();
        self.front.shrink_to(KEPT_BYTES_MAX);
        self.front_written = 0;
        write_head(head, length, &mut self.front);
        self.is_chunked = length == Some(None);
        self.upload = upload.map(UploadReader::new);
        self.stage = if upload.is_some() { Stage::Body } else { Stage::Flush };
        self.is_untouched = true;
    }

    pub(in crate::upstream) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Notes that the answer has begun.
    pub(in crate::upstream) fn answered(&self) {
        self.upload.iter().for_each(UploadReader::answered);
    }

    /// Writes no more. The connection cannot carry another request.
    pub(in crate::upstream) fn give_up(&mut self) {
        self.stage = Stage::GivenUp;
        self.upload = None;
        self.front.clear();
        self.front_written = 0;
        self.data = Bytes::new();
        self.tail = b"";
    }

    /// Writes as far as client and endpoint allow.
    pub(in crate::upstream) fn poll(
        &mut self,
        io: &mut UpstreamIo,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        loop {
            ready!(self.poll_write_out(io, cx)).map_err(WriteError::Io)?;
            match self.stage {
                Stage::Done | Stage::GivenUp => return Poll::Ready(Ok(())),
                Stage::Flush => {
                    ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(WriteError::Io)?;
                    self.stage = Stage::Done;
                    self.upload = None;
                }
                Stage::Body => match self.poll_next(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(kind)) => return Poll::Ready(Err(WriteError::Upload(kind))),
                    Poll::Pending => {
                        ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(WriteError::Io)?;
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    /// Fetches the next part of the body.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Kind>> {
        let Some(upload) = &mut self.upload else {
            self.stage = Stage::Flush;
            return Poll::Ready(Ok(()));
        };
        self.front.clear();
        self.front_written = 0;
        match ready!(upload.poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                // An empty chunk would end the body.
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    if self.is_chunked {
                        write_chunk_line(data.len(), &mut self.front);
                        self.tail = b"\r\n";
                    }
                    self.data = data;
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.end_body(Some(&trailers));
                    }
                }
            },
            Some(Err(error)) => return Poll::Ready(Err(error.kind())),
            None => self.end_body(None),
        }
        Poll::Ready(Ok(()))
    }

    fn end_body(&mut self, trailers: Option<&HeaderMap>) {
        if self.is_chunked {
            self.front.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.into_iter().flatten() {
                if may_be_trailer(name) {
                    write_field(name, value, &mut self.front);
                }
            }
            self.tail = b"\r\n";
        }
        self.stage = Stage::Flush;
    }

    fn poll_write_out(
        &mut self,
        io: &mut UpstreamIo,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let front = &self.front[self.front_written..];
            if front.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let slices = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(self.tail)];
            let written = match self.data.is_empty() && self.tail.is_empty() {
                true => ready!(Pin::new(&mut *io).poll_write(cx, front))?,
                false => ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_untouched = false;
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        let of_front = written.min(self.front.len() - self.front_written);
        self.front_written += of_front;
        written -= of_front;
        let of_data = written.min(self.data.len());
        self.data.advance(of_data);
        written -= of_data;
        self.tail = &self.tail[written.min(self.tail.len())..];
    }
}

/// `length` is that of the body: `None` where there is no body, `Some(None)` where it is unknown.
fn write_head(head: &RequestHead<'_>, length: Option<Option<u64>>, to: &mut Vec<u8>) {
    to.extend_from_slice(head.method.as_str().as_bytes());
    to.push(b' ');
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    to.extend_from_slice(target.as_bytes());
    to.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in head.headers {
        if !is_written_here(name) && (head.timeout_millis.is_none() || name != TIMEOUT_NAME) {
            write_field(name, value, to);
        }
    }
    if let Some(millis) = head.timeout_millis {
        write_number(TIMEOUT_NAME, millis, to);
    }
    if let Some(protocol) = head.upgrade {
        to.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        to.extend_from_slice(protocol.as_bytes());
        to.extend_from_slice(b"\r\n");
    }
    match length {
        Some(None) => to.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Some(length)) => write_number(CONTENT_LENGTH.as_str(), length, to),
        // RFC 9110 §8.6: without a body, a method that is about one still says so.
        None if matches!(*head.method, Method::POST | Method::PUT | Method::PATCH) => {
            write_number(CONTENT_LENGTH.as_str(), 0, to);
        }
        None => {}
    }
    to.extend_from_slice(b"\r\n");
}

fn is_written_here(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE].contains(name)
}

fn write_field(name: &HeaderName, value: &HeaderValue, to: &mut Vec<u8>) {
    to.extend_from_slice(name.as_str().as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value.as_bytes());
    to.extend_from_slice(b"\r\n");
}

#[expect(clippy::let_underscore_must_use, reason = "writing to a vector cannot fail")]
fn write_number(name: &str, number: u64, to: &mut Vec<u8>) {
    let _ = write!(to, "{name}: {number}\r\n");
}

#[expect(clippy::let_underscore_must_use, reason = "writing to a vector cannot fail")]
fn write_chunk_line(length: usize, to: &mut Vec<u8>) {
    let _ = write!(to, "{length:x}\r\n");
}

/// Fields that mean nothing, or harm, behind a body (RFC 9110 §6.5.1): framing, routing,
/// authentication, what is told about clients, and what decides how the content is read.
pub(super) fn may_be_trailer(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "authorization"
            | "cache-control"
            | "cdn-loop"
            | "cf-connecting-ip"
            | "client-cert"
            | "client-cert-chain"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "forwarded"
            | "host"
            | "keep-alive"
            | "max-forwards"
            | "pragma"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "true-client-ip"
            | "upgrade"
            | "via"
            | "x-real-ip"
            | "x-request-id"
    ) && !name.as_str().contains('_')
        && !name.as_str().starts_with("x-forwarded-")
        && !name.as_str().starts_with("if-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(method: Method, length: Option<Option<u64>>, upgrade: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("site.test"));
        headers.insert("content-length", HeaderValue::from_static("77"));
        headers.insert("transfer-encoding", HeaderValue::from_static("gzip"));
        let upgrade = upgrade.map(|name| HeaderValue::from_str(name).expect("a value"));
        let uri = Uri::from_static("/a?b");
        let mut text = Vec::new();
        let head = RequestHead {
            method: &method,
            uri: &uri,
            headers: &headers,
            upgrade: upgrade.as_ref(),
            timeout_millis: None,
            nudge: &Nudge::default(),
        };
        write_head(&head, length, &mut text);
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn an_endpoint_is_told_how_long_it_has_by_nobody_but_us() {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(TIMEOUT_NAME),
            HeaderValue::from_static("99"),
        )]);
        let written = |timeout_millis| {
            let (method, uri) = (Method::GET, Uri::from_static("/"));
            let mut text = Vec::new();
            let (headers, upgrade) = (&headers, None);
            let (method, uri, nudge) = (&method, &uri, &Nudge::default());
            let head = RequestHead { method, uri, headers, upgrade, timeout_millis, nudge };
            write_head(&head, None, &mut text);
            String::from_utf8(text).expect("text")
        };
        assert_eq!(written(Some(5)), "GET / HTTP/1.1\r\nx-request-timeout-ms: 5\r\n\r\n");
        assert_eq!(written(None), "GET / HTTP/1.1\r\nx-request-timeout-ms: 99\r\n\r\n");
    }

    #[test]
    fn the_body_decides_its_framing_whatever_the_fields_say() {
        for (method, length, framing) in [
            (Method::GET, None, ""),
            (Method::POST, None, "content-length: 0\r\n"),
            (Method::POST, Some(Some(5)), "content-length: 5\r\n"),
            (Method::POST, Some(None), "transfer-encoding: chunked\r\n"),
        ] {
            let expected = format!("{method} /a?b HTTP/1.1\r\nhost: site.test\r\n{framing}\r\n");
            assert_eq!(written(method, length, None), expected);
        }
    }

    #[test]
    fn a_wish_for_another_protocol_is_an_option_of_the_connection() {
        let text = written(Method::GET, None, Some("websocket"));
        assert!(text.ends_with("connection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{text}");
    }

    #[test]
    fn what_frames_or_routes_a_message_is_no_trailer() {
        for (name, may) in [("grpc-status", true), ("content-length", false), ("host", false)] {
            assert_eq!(may_be_trailer(&HeaderName::from_static(name)), may, "{name}");
        }
    }
}
