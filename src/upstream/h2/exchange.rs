//! One request on a shared connection, and its answer. Dropped before its end, its [`Stream`] is
//! given up.

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::goaway::LastStream;
use super::session::Place;
use super::stream::Stream;
use crate::error::{Error, Kind};
use crate::timer::LazyTimer;
use crate::upstream::connection::{BodyPart, SendError};
use crate::upstream::h1::{Malformed, RequestHead, TIMEOUT_NAME};
use crate::upstream::upload::{Upload, UploadReader};
use crate::upstream::{Deadlines, Nudge};

/// A request whose head was answered.
#[derive(Debug)]
pub struct Exchange {
    stream: Stream,
    upload: Uploading,
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
    /// Whose request it is, where that is somebody's.
    pub client: Option<IpAddr>,
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
        let waits = (deadlines, head.request.nudge);
        let request = assemble(head, upload)
            .map_err(|error| SendError { source: Some(error.into()), ..failed(Kind::Internal) })?;
        let Some(mut sender) = place.sender() else { return Err(unprocessed(None)) };
        let sent = sender.send_request(request, upload.is_none());
        drop(sender);
        let halves = match sent {
            Ok(sent) => sent,
            Err(error) => {
                place.retire();
                return Err(unprocessed(Some(error)));
            }
        };
        let mut stream = Stream::new(halves, upload.is_none(), place, head.client);
        let reader = upload.map(UploadReader::new);
        let mut uploading = Uploading { reader, data: Bytes::new() };
        let answer = uploading.answer(&mut stream, upload, waits, started, timer).await?;
        Self::begin(answer, uploading, stream)
    }

    /// An answer whose head has come.
    pub(super) fn begin(
        answer: Response<()>,
        upload: Uploading,
        stream: Stream,
    ) -> Result<Answered, SendError> {
        let (parts, ()) = answer.into_parts();
        upload.reader.iter().for_each(UploadReader::answered);
        let came = Instant::now();
        stream.session().heard(came);
        let bytes_left = length(&parts.headers)?;
        let state = if stream.is_received() { State::Ended } else { State::Data };
        let exchange = Self { stream, upload, came, bytes_left, state };
        let exchange = Box::new(exchange);
        Ok(Answered { status: parts.status, headers: parts.headers, exchange })
    }

    /// What tells whether the endpoint has ended the connection on its own.
    pub fn last_stream(&self) -> LastStream {
        self.stream.session().goaway().clone()
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
        if let Poll::Ready(Err(kind)) = self.upload.poll(&mut self.stream, cx) {
            return Poll::Ready(Some(Err(kind.into())));
        }
        while self.state == State::Data {
            let Some(body) = self.stream.body() else { return Poll::Ready(None) };
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever takes a part has room for it, and asks for the next when it is gone.
                    let _ = body.flow_control().release_capacity(data.len());
                    if body.is_end_stream() {
                        self.end();
                    }
                    if data.is_empty() {
                        continue;
                    }
                    self.stream.session().heard(Instant::now());
                    self.bytes_left =
                        self.bytes_left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(BodyPart::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                None => self.state = State::Trailers,
            }
        }
        if self.state == State::Trailers {
            let Some(body) = self.stream.body() else { return Poll::Ready(None) };
            let trailers = ready!(body.poll_trailers(cx));
            self.end();
            return Poll::Ready(match trailers {
                Ok(Some(fields)) => Some(Ok(BodyPart::Trailers(fields))),
                Ok(None) => None,
                Err(error) => Some(Err(self.broken(error))),
            });
        }
        Poll::Ready(None)
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.stream.set_received();
    }

    fn broken(&mut self, error: h2::Error) -> Error {
        self.stream.set_broken();
        Error::caused(Kind::Truncated, error)
    }
}

impl Uploading {
    pub(super) fn nothing() -> Self {
        Self { reader: None, data: Bytes::new() }
    }

    /// Sends, and waits for the head of the answer.
    pub(super) async fn answer(
        &mut self,
        stream: &mut Stream,
        upload: Option<&Rc<Upload>>,
        (deadlines, nudge): (&Deadlines, &Nudge),
        started: Instant,
        timer: &mut LazyTimer,
    ) -> Result<Response<()>, SendError> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(kind)) = self.poll(stream, cx) {
                return Poll::Ready(Err(failed(kind)));
            }
            if let Poll::Ready(answer) = poll_head(stream, cx) {
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
            if let Some(at) = nudge.at(turn_since).filter(|at| *at < deadline) {
                ready!(timer.poll_until(at, now, cx));
                nudge.fire();
            }
            timer.poll_until(deadline, now, cx).map(|()| {
                let is_total = deadlines.total.is_some_and(|total| now >= total);
                if !is_total {
                    stream.session().suspect(started);
                }
                Err(failed(if is_total { Kind::Deadline } else { Kind::FirstByteTimeout }))
            })
        })
        .await
    }

    /// Sends as far as client and endpoint allow; fails where the client does.
    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Kind>> {
        loop {
            let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(())) };
            let Some(sender) = stream.sender() else { return Poll::Ready(Ok(())) };
            if !self.data.is_empty() {
                sender.reserve_capacity(self.data.len());
                while sender.capacity() == 0 {
                    match ready!(sender.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        // It takes no more; its answer tells why.
                        Some(Err(_)) | None => {
                            self.end(stream);
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
                let data = self.data.split_to(self.data.len().min(sender.capacity()));
                if sender.send_data(data, false).is_err() {
                    self.end(stream);
                }
                continue;
            }
            let sent = match ready!(reader.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.data = data;
                        continue;
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(fields) => sender.send_trailers(fields),
                        Err(_) => continue,
                    },
                },
                Some(Err(error)) => {
                    // There will be no end of it, and nobody may take it for whole.
                    self.reader = None;
                    return Poll::Ready(Err(error.kind()));
                }
                None => sender.send_data(Bytes::new(), true),
            };
            // Where that fails its answer tells why.
            drop(sent);
            self.end(stream);
        }
    }

    fn end(&mut self, stream: &mut Stream) {
        stream.set_sent();
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

fn poll_head(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<Response<()>, SendError>> {
    match ready!(stream.poll_head(cx)) {
        // RFC 9113 §8.6.
        Ok(answer) if answer.status().is_informational() => {
            Poll::Ready(Err(malformed("an informational answer that ends the stream")))
        }
        Ok(answer) => Poll::Ready(Ok(answer)),
        Err(error) => Poll::Ready(Err(why(error, stream))),
    }
}

/// What a stream that ended before its answer says (RFC 9113 §6.8, §8.7).
fn why(error: h2::Error, stream: &Stream) -> SendError {
    let session = stream.session();
    if stream.is_unprocessed() {
        session.retire();
        return unprocessed(Some(error));
    }
    let reason = error.reason();
    if error.is_reset() && error.is_remote() && reason == Some(Reason::REFUSED_STREAM) {
        session.refused();
        return SendError { source: Some(error.into()), ..failed(Kind::Refused) };
    }
    // The connection has ended as the endpoint announced: that is about no single request.
    let is_dismissed = !error.is_reset() && session.last_stream().is_some();
    let is_to_be_repeated =
        is_dismissed || error.is_io() || (error.is_reset() && error.is_remote());
    let kind = match reason {
        Some(Reason::HTTP_1_1_REQUIRED) => Kind::BadResponse,
        _ if is_to_be_repeated => Kind::Reset,
        _ => Kind::BadResponse,
    };
    SendError { source: Some(error.into()), is_dismissed, ..failed(kind) }
}

pub(super) fn unprocessed(error: Option<h2::Error>) -> SendError {
    let source = error.map(Into::into);
    SendError { source, is_unwritten: true, ..failed(Kind::Reset) }
}

pub(super) fn failed(kind: Kind) -> SendError {
    SendError { kind, is_unwritten: false, is_dismissed: false, source: None }
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
