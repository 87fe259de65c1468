//! One request on a shared connection, and its answer. Dropped before its end, it is cancelled by
//! RST_STREAM.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::session::Place;
use crate::error::{Error, Kind};
use crate::timer::LazyTimer;
use crate::upstream::Deadlines;
use crate::upstream::connection::{BodyPart, SendError};
use crate::upstream::h1::{Malformed, RequestHead, TIMEOUT_NAME};
use crate::upstream::upload::{Upload, UploadReader};

/// A request whose head was answered.
#[derive(Debug)]
pub struct Exchange {
    body: RecvStream,
    upload: Uploading,
    place: Place,
    came: Instant,
    /// What is left of the body, where the endpoint said how long it is.
    bytes_left: Option<u64>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

/// The body of a request on its way.
#[derive(Debug)]
pub(super) struct Uploading {
    /// `None` once all is sent, or the endpoint takes no more.
    stream: Option<SendStream<Bytes>>,
    reader: Option<UploadReader>,
    data: Bytes,
}

/// An answer's head.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub exchange: Box<Exchange>,
}

/// What is asked on which terms.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeHead<'a> {
    pub request: RequestHead<'a>,
    pub is_secure: bool,
}

impl Exchange {
    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// What the endpoint did not process `is_unwritten`.
    pub async fn send(
        place: Place,
        head: ExchangeHead<'_>,
        upload: Option<&Rc<Upload>>,
        deadlines: &Deadlines,
        started: Instant,
        timer: &mut LazyTimer,
    ) -> Result<Answered, SendError> {
        let request = assemble(head, upload)
            .map_err(|error| SendError { source: Some(error.into()), ..failed(Kind::Internal) })?;
        let Some(mut sender) = place.sender() else { return Err(unprocessed(None)) };
        let sent = sender.send_request(request, upload.is_none());
        drop(sender);
        let (mut response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                place.retire();
                return Err(unprocessed(Some(error)));
            }
        };
        let mut uploading = Uploading {
            stream: upload.is_some().then_some(stream),
            reader: upload.map(UploadReader::new),
            data: Bytes::new(),
        };
        let answer =
            uploading.answer(&mut response, &place, upload, deadlines, started, timer).await?;
        Self::begin(answer, uploading, place)
    }

    /// An answer whose head has come.
    pub(super) fn begin(
        answer: http::Response<RecvStream>,
        upload: Uploading,
        place: Place,
    ) -> Result<Answered, SendError> {
        let (parts, body) = answer.into_parts();
        upload.reader.iter().for_each(UploadReader::answered);
        let came = Instant::now();
        place.heard(came);
        let bytes_left = length(&parts.headers)?;
        let state = if body.is_end_stream() { State::Ended } else { State::Data };
        let exchange = Self { body, upload, place, came, bytes_left, state };
        let exchange = Box::new(exchange);
        Ok(Answered { status: parts.status, headers: parts.headers, exchange })
    }

    /// When the head of the answer came.
    pub fn came(&self) -> Instant {
        self.came
    }

    /// When a part of the request was last sent, while there is more of it.
    pub(in crate::upstream) fn sent_at(&self) -> Option<Instant> {
        self.upload.reader.as_ref().map(UploadReader::progress)
    }

    pub fn is_at_end(&self) -> bool {
        self.state == State::Ended
    }

    pub(in crate::upstream) fn bytes_left(&self) -> Option<u64> {
        if self.is_at_end() { Some(0) } else { self.bytes_left }
    }

    /// The next part of the answer. What is left of the request is sent meanwhile.
    pub(in crate::upstream) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyPart, Error>>> {
        if let Poll::Ready(Err(kind)) = self.upload.poll(cx) {
            return Poll::Ready(Some(Err(kind.into())));
        }
        while self.state == State::Data {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever takes a part has room for it, and asks for the next when it is gone.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    if self.body.is_end_stream() {
                        self.state = State::Ended;
                    }
                    if data.is_empty() {
                        continue;
                    }
                    self.place.heard(Instant::now());
                    self.bytes_left =
                        self.bytes_left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(BodyPart::Data(data))));
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Error::caused(Kind::Truncated, error))));
                }
                None => self.state = State::Trailers,
            }
        }
        if self.state == State::Trailers {
            let trailers = ready!(self.body.poll_trailers(cx));
            self.state = State::Ended;
            return Poll::Ready(match trailers {
                Ok(Some(fields)) => Some(Ok(BodyPart::Trailers(fields))),
                Ok(None) => None,
                Err(error) => Some(Err(Error::caused(Kind::Truncated, error))),
            });
        }
        Poll::Ready(None)
    }
}

impl Uploading {
    pub(super) fn nothing() -> Self {
        Self { stream: None, reader: None, data: Bytes::new() }
    }

    /// Sends, and waits for the head of the answer.
    pub(super) async fn answer(
        &mut self,
        response: &mut ResponseFuture,
        place: &Place,
        upload: Option<&Rc<Upload>>,
        deadlines: &Deadlines,
        started: Instant,
        timer: &mut LazyTimer,
    ) -> Result<http::Response<RecvStream>, SendError> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(kind)) = self.poll(cx) {
                return Poll::Ready(Err(failed(kind)));
            }
            if let Poll::Ready(answer) = poll_head(response, place, cx) {
                return Poll::Ready(answer);
            }
            let turn_since = match upload {
                None => Some(started),
                Some(upload) => upload.endpoint_has_turn_since().map(|turn| turn.max(started)),
            };
            let first_byte = turn_since.map(|since| since + deadlines.first_byte);
            let Some(deadline) = [first_byte, deadlines.total].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let now = Instant::now();
            timer.poll_until(deadline, now, cx).map(|()| {
                let is_total = deadlines.total.is_some_and(|total| now >= total);
                if !is_total {
                    place.suspect(started);
                }
                Err(failed(if is_total { Kind::Deadline } else { Kind::FirstByteTimeout }))
            })
        })
        .await
    }

    /// Sends as far as client and endpoint allow; fails where the client does.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Kind>> {
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
            if !self.data.is_empty() {
                stream.reserve_capacity(self.data.len());
                while stream.capacity() == 0 {
                    match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        // It takes no more; its answer tells why.
                        Some(Err(_)) | None => {
                            self.give_up();
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
                let data = self.data.split_to(self.data.len().min(stream.capacity()));
                if stream.send_data(data, false).is_err() {
                    self.give_up();
                }
                continue;
            }
            let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(())) };
            let sent = match ready!(reader.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.data = data;
                        continue;
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(fields) => stream.send_trailers(fields),
                        Err(_) => continue,
                    },
                },
                Some(Err(error)) => {
                    stream.send_reset(Reason::CANCEL);
                    self.give_up();
                    return Poll::Ready(Err(error.kind()));
                }
                None => stream.send_data(Bytes::new(), true),
            };
            // Where that fails its answer tells why.
            drop(sent);
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.stream = None;
        self.reader = None;
        self.data = Bytes::new();
    }
}

/// The request as HTTP/2 has it (RFC 9113 §8.3.1).
pub(super) fn assemble(
    head: ExchangeHead<'_>,
    upload: Option<&Rc<Upload>>,
) -> Result<Request<()>, http::Error> {
    let mut headers = head.request.headers.clone();
    let host = headers.remove(HOST);
    let mut uri = Uri::builder()
        .scheme(if head.is_secure { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(match &host {
            Some(host) => Authority::try_from(host.as_bytes())?,
            None => Authority::from_static("localhost"),
        });
    if let Some(path) = head.request.uri.path_and_query() {
        uri = uri.path_and_query(path.clone());
    }
    if let Some(length) = upload.and_then(|upload| upload.length()) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    if let Some(millis) = head.request.timeout_millis {
        headers.insert(TIMEOUT_NAME, millis.into());
    }
    let mut request = Request::new(());
    *request.method_mut() = head.request.method.clone();
    *request.uri_mut() = uri.build()?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

fn poll_head(
    response: &mut ResponseFuture,
    place: &Place,
    cx: &mut Context<'_>,
) -> Poll<Result<http::Response<RecvStream>, SendError>> {
    match ready!(Pin::new(response).poll(cx)) {
        // RFC 9113 §8.6.
        Ok(answer) if answer.status().is_informational() => {
            Poll::Ready(Err(malformed("an informational answer that ends the stream")))
        }
        Ok(answer) => Poll::Ready(Ok(answer)),
        Err(error) => Poll::Ready(Err(why(error, place))),
    }
}

/// What a stream that ended before its answer says (RFC 9113 §6.8, §8.7).
fn why(error: h2::Error, place: &Place) -> SendError {
    if error.is_go_away() && error.is_remote() {
        place.retire();
        return unprocessed(Some(error));
    }
    if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        place.refused();
        return SendError { source: Some(error.into()), ..failed(Kind::Refused) };
    }
    let is_to_be_repeated = error.is_io() || (error.is_reset() && error.is_remote());
    let kind = match error.reason() {
        Some(Reason::HTTP_1_1_REQUIRED) => Kind::BadResponse,
        _ if is_to_be_repeated => Kind::Reset,
        _ => Kind::BadResponse,
    };
    SendError { source: Some(error.into()), ..failed(kind) }
}

pub(super) fn unprocessed(error: Option<h2::Error>) -> SendError {
    let source = error.map(Into::into);
    SendError { kind: Kind::Reset, is_unwritten: true, source }
}

pub(super) fn failed(kind: Kind) -> SendError {
    SendError { kind, is_unwritten: false, source: None }
}

/// The answer breaks the rule.
fn malformed(rule: &'static str) -> SendError {
    SendError { source: Some(Malformed::rule(rule).into()), ..failed(Kind::BadResponse) }
}

/// The length that a head announces, once and as a plain number.
fn length(headers: &HeaderMap) -> Result<Option<u64>, SendError> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let number = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    match (number(first), values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(malformed("Content-Length is not one number")),
    }
}
