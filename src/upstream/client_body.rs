//! A request body as its client sends it, and whether there is one at all.
//!
//! HTTP/2 ends a request without a body by END_STREAM on its HEADERS, or by an empty DATA after
//! them; HTTP/1.1 by its head, or by a chunked body of no chunks. "May have a body" is not "has a
//! body": an origin that gets a chunked GET often refuses it, and no cache may answer one.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;

/// The longest wait for the first byte of a body that may not be there.
const BEGINNING_WAIT_MAX: Duration = Duration::from_secs(1);
/// Empty frames that are read over at the beginning of a body.
const EMPTY_FRAMES_MAX: usize = 16;

/// The body of a request.
#[derive(Debug)]
pub struct ClientBody {
    /// Read already, to see whether there is a body. Boxed, as it is rare and large.
    first: Option<Box<Result<Frame<Bytes>, hyper::Error>>>,
    rest: Incoming,
    is_empty: bool,
}

impl ClientBody {
    pub fn new(rest: Incoming) -> Self {
        let is_empty = rest.is_end_stream() || rest.size_hint().exact() == Some(0);
        Self { first: None, rest, is_empty }
    }

    /// Whether there is no body. `false` where it is not known yet.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Whether only its first part can tell if there is a body.
    pub fn is_uncertain(&self) -> bool {
        !self.is_empty && self.rest.size_hint().exact().is_none()
    }

    /// Waits, not for long, until it is known whether there is a body.
    pub async fn begin(&mut self) {
        for _ in 0..EMPTY_FRAMES_MAX {
            let next = poll_fn(|cx| Pin::new(&mut self.rest).poll_frame(cx));
            match timeout(BEGINNING_WAIT_MAX, next).await {
                // Its client waits for something, or is slow: what comes counts as a body.
                Err(_) => return,
                Ok(None) => {
                    self.is_empty = true;
                    return;
                }
                Ok(Some(first)) => {
                    let is_empty = first.as_ref().is_ok_and(|frame| match frame.data_ref() {
                        Some(data) => data.is_empty(),
                        // Trailers of nothing say nothing.
                        None => true,
                    });
                    let is_data = first.as_ref().is_ok_and(Frame::is_data);
                    if !is_empty {
                        self.first = Some(Box::new(first));
                        return;
                    }
                    if !is_data || self.rest.is_end_stream() {
                        self.is_empty = true;
                        return;
                    }
                }
            }
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.is_empty {
            return Poll::Ready(None);
        }
        match self.first.take() {
            Some(first) => Poll::Ready(Some(*first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty || (self.first.is_none() && self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match (self.is_empty, &self.first) {
            (true, _) => SizeHint::with_exact(0),
            (false, None) => self.rest.size_hint(),
            (false, Some(_)) => SizeHint::default(),
        }
    }
}
