//! The part of an answer from the cache that a request asks for (RFC 9110 §14).
//!
//! Of a stored body the part is cut out without copying it; of one that is still arriving it is
//! passed on as it comes, and what lies before it is passed over. Ranges of an answer that no
//! cache holds are its origin's to cut.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};

use super::deliver::Asked;
use crate::body::Body;
use crate::cache::{Head, date};
use crate::error::{Error, Kind};
use crate::range::{IfRange, Multipart, Piece, Ranges, Selection, Span};

/// Pieces of an arriving body that are passed over before other work of the worker has its turn.
const PASSED_OVER_MAX: usize = 256;

/// Fields about the content of the message, which is no longer that of the whole.
const OF_THE_CONTENT: [HeaderName; 2] =
    [HeaderName::from_static("content-digest"), HeaderName::from_static("content-md5")];

/// What of an answer is sent.
pub(super) enum Selected {
    /// All of it.
    Whole(Body),
    /// 206, with these fields in place of those of the whole.
    Part { fields: HeaderMap, body: Body },
    /// 416: none of the ranges begins within so many bytes.
    Nothing { bytes: u64 },
}

/// Selects what `asked` gets of an answer that is otherwise a 200, its other preconditions having
/// been judged (RFC 9110 §13.2.2). `fields` are those of the form in which it is sent; `whole`
/// stands at its beginning.
pub(super) fn select(asked: &Asked<'_>, head: &Head, fields: &HeaderMap, whole: Body) -> Selected {
    let Some((ranges, bytes)) = wanted(asked, head, fields, &whole) else {
        return Selected::Whole(whole);
    };
    let spans = match ranges.select(bytes) {
        Selection::Whole => return Selected::Whole(whole),
        Selection::Unsatisfiable => return Selected::Nothing { bytes },
        Selection::Spans(spans) => spans,
    };
    // What arrives can be read in one direction only.
    if matches!(whole, Body::Stream(_)) && !spans.is_sorted_by_key(|span| span.first) {
        return Selected::Whole(whole);
    }
    match part(fields, &spans, bytes) {
        Some((fields, pieces)) => Selected::Part { fields, body: cut(whole, pieces) },
        None => Selected::Whole(whole),
    }
}

/// The ranges that count, and the length of what they are ranges of.
fn wanted(
    asked: &Asked<'_>,
    head: &Head,
    fields: &HeaderMap,
    whole: &Body,
) -> Option<(Ranges, u64)> {
    if !asked.headers.contains_key(RANGE)
        || *asked.method != Method::GET
        || head.status != StatusCode::OK
        || fields
            .get(ACCEPT_RANGES)
            .is_some_and(|unit| unit.as_bytes().eq_ignore_ascii_case(b"none"))
    {
        return None;
    }
    let bytes = http_body::Body::size_hint(whole).exact()?;
    let ranges = Ranges::from_headers(asked.headers)?;
    IfRange::from_headers(asked.headers)
        .is_none_or(|condition| is_current(&condition, head, fields))
        .then_some((ranges, bytes))
}

/// Whether the client's part is one of this representation.
fn is_current(condition: &IfRange, head: &Head, fields: &HeaderMap) -> bool {
    let date = |name| date::parse(fields.get(name)?, SystemTime::now());
    // RFC 9110 §6.6.1: what came without a date was made when it came.
    let made = date(DATE).or_else(|| SystemTime::now().checked_sub(head.received.elapsed()));
    made.is_some_and(|made| condition.holds(fields.get(ETAG), date(LAST_MODIFIED), made))
}

/// The fields of the 206 (RFC 9110 §15.3.7) and the pieces of its body.
fn part(whole: &HeaderMap, spans: &[Span], bytes: u64) -> Option<(HeaderMap, Vec<Piece>)> {
    let mut fields = whole.clone();
    for name in OF_THE_CONTENT {
        fields.remove(name);
    }
    let pieces = if let [span] = spans {
        let content_range = HeaderValue::try_from(span.content_range(bytes)).ok()?;
        fields.insert(CONTENT_RANGE, content_range);
        vec![Piece::Span(*span)]
    } else {
        let content_type = whole.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let multipart = Multipart::new(spans, content_type, bytes);
        fields.insert(CONTENT_TYPE, HeaderValue::try_from(multipart.content_type).ok()?);
        multipart.pieces
    };
    let length: u64 = pieces.iter().map(Piece::bytes).sum();
    fields.insert(CONTENT_LENGTH, length.into());
    Some((fields, pieces))
}

/// The body that consists of these pieces.
fn cut(whole: Body, pieces: Vec<Piece>) -> Body {
    if let [Piece::Span(span)] = pieces.as_slice()
        && let Some(part) = whole.part(span.first, span.bytes())
    {
        return part;
    }
    let bytes_left = pieces.iter().map(Piece::bytes).sum();
    let pieces = pieces.into();
    if matches!(whole, Body::Stream(_)) {
        let unused = Bytes::new();
        Body::stream(Excerpt { whole, position: 0, unused, pieces, bytes_left })
    } else {
        Body::stream(Parts { whole, current: Body::Empty, pieces, bytes_left })
    }
}

/// Pieces of a stored body, in any order.
struct Parts {
    /// At its beginning; only parts of it are read.
    whole: Body,
    current: Body,
    pieces: VecDeque<Piece>,
    bytes_left: u64,
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = ready!(Pin::new(&mut this.current).poll_frame(cx)) {
                let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                this.bytes_left = this.bytes_left.saturating_sub(bytes as u64);
                return Poll::Ready(Some(frame));
            }
            this.current = match this.pieces.pop_front() {
                None => return Poll::Ready(None),
                Some(Piece::Text(text)) => text.into(),
                Some(Piece::Span(span)) => match this.whole.part(span.first, span.bytes()) {
                    Some(part) => part,
                    None => return Poll::Ready(Some(Err(Kind::Internal.into()))),
                },
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}

/// Pieces of an arriving body, in its order.
struct Excerpt {
    whole: Body,
    /// Of the first byte of `unused`, or of what arrives next.
    position: u64,
    unused: Bytes,
    pieces: VecDeque<Piece>,
    bytes_left: u64,
}

impl Excerpt {
    /// Takes what has arrived of the first piece, leaving out what lies before it.
    fn take(&mut self) -> Option<Bytes> {
        let taken = match self.pieces.front_mut()? {
            Piece::Text(text) => {
                let text = std::mem::take(text);
                self.pieces.pop_front();
                text
            }
            Piece::Span(span) => {
                let before = span.first.saturating_sub(self.position);
                let before = before.min(self.unused.len() as u64);
                self.position += before;
                self.unused.advance(before as usize);
                if self.unused.is_empty() {
                    return None;
                }
                let take = span.bytes().min(self.unused.len() as u64);
                self.position += take;
                if take == span.bytes() {
                    self.pieces.pop_front();
                } else {
                    span.first += take;
                }
                self.unused.split_to(take as usize)
            }
        };
        self.bytes_left = self.bytes_left.saturating_sub(taken.len() as u64);
        if self.pieces.is_empty() {
            // The rest is for others.
            self.whole = Body::Empty;
            self.unused = Bytes::new();
        }
        Some(taken)
    }
}

impl http_body::Body for Excerpt {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        for _ in 0..PASSED_OVER_MAX {
            if let Some(taken) = this.take() {
                return Poll::Ready(Some(Ok(Frame::data(taken))));
            }
            if this.pieces.is_empty() {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.whole).poll_frame(cx)) {
                Some(Ok(frame)) => this.unused = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // It was to be longer.
                None => return Poll::Ready(Some(Err(Kind::Truncated.into()))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::body::StoredBody;

    /// Gives its pieces one by one, and nothing of its length.
    struct Arriving(VecDeque<Result<Bytes, Kind>>);

    impl http_body::Body for Arriving {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            let next = self.0.pop_front();
            Poll::Ready(next.map(|piece| piece.map(Frame::data).map_err(Error::from)))
        }
    }

    fn arriving(pieces: &[&'static str], end: Option<Kind>) -> Body {
        let pieces = pieces.iter().map(|piece| Ok(Bytes::from(*piece)));
        Body::stream(Arriving(pieces.chain(end.map(Err)).collect()))
    }

    fn stored(pieces: &[&'static str]) -> Body {
        let pieces = pieces.iter().map(|piece| Bytes::from(*piece)).collect();
        Body::stored(&StoredBody::new(pieces, ()))
    }

    fn span(first: u64, last: u64) -> Piece {
        Piece::Span(Span { first, last })
    }

    fn text(text: &'static str) -> Piece {
        Piece::Text(Bytes::from(text))
    }

    async fn read(mut body: Body) -> (String, Option<Kind>) {
        let mut all = String::new();
        let mut announced = http_body::Body::size_hint(&body).exact().expect("is known");
        while let Some(frame) =
            poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await
        {
            match frame {
                Ok(frame) => {
                    let data = frame.into_data().expect("no trailers");
                    announced -= data.len() as u64;
                    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(announced));
                    all.push_str(std::str::from_utf8(&data).expect("is text"));
                }
                Err(error) => return (all, Some(error.kind())),
            }
        }
        assert!(http_body::Body::is_end_stream(&body));
        (all, None)
    }

    #[tokio::test]
    async fn a_span_is_the_same_whether_it_is_stored_or_arrives() {
        for pieces in [&["abcdefgh"][..], &["abc", "de", "fgh"], &["a", "", "bcdefg", "h"]] {
            for (first, last, expected) in [(0, 0, "a"), (2, 4, "cde"), (3, 7, "defgh")] {
                for whole in [stored(pieces), arriving(pieces, None)] {
                    let part = cut(whole, vec![span(first, last)]);
                    assert_eq!(read(part).await, (expected.to_owned(), None), "{pieces:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn spans_stand_between_their_texts() {
        let parts = || vec![text("<"), span(1, 2), text("|"), span(4, 7), text(">")];
        let pieces = &["abc", "de", "fgh"];
        for whole in [stored(pieces), arriving(pieces, None)] {
            assert_eq!(read(cut(whole, parts())).await, ("<bc|efgh>".to_owned(), None));
        }
        let backwards = vec![span(6, 7), text("|"), span(0, 3)];
        assert_eq!(read(cut(stored(pieces), backwards)).await, ("gh|abcd".to_owned(), None));
    }

    #[tokio::test]
    async fn a_break_before_the_end_of_a_span_breaks_it() {
        let broken = || arriving(&["abc", "de"], Some(Kind::Reset));
        let (text, error) = read(cut(broken(), vec![span(1, 6)])).await;
        assert_eq!((text.as_str(), error), ("bcde", Some(Kind::Reset)));
        let short = cut(arriving(&["abc"], None), vec![span(1, 6)]);
        assert_eq!(read(short).await, ("bc".to_owned(), Some(Kind::Truncated)));
        // What comes after it is not waited for.
        assert_eq!(read(cut(broken(), vec![span(1, 4)])).await, ("bcde".to_owned(), None));
    }

    #[tokio::test]
    async fn passing_over_many_pieces_lets_others_have_their_turn() {
        let pieces = vec!["x"; 3 * PASSED_OVER_MAX];
        let last = pieces.len() as u64 - 1;
        let mut part = cut(arriving(&pieces, None), vec![span(last, last)]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(http_body::Body::poll_frame(Pin::new(&mut part), &mut cx).is_pending());
        assert_eq!(read(part).await, ("x".to_owned(), None));
    }
}
