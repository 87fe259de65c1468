//! The body of a response on its way to a client, and nothing about where it came from.
//!
//! Cached and fixed bodies are plain variants, so that the hot path allocates nothing for them;
//! everything that arrives over time is one boxed stream. Errors are [`Error`]: a body that fails
//! breaks the message off, it never ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::error::Error;

/// A response body.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    Chunks(Chunks),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Error>>>),
}

/// A stored body, in the pieces in which it arrived, shared with its other readers.
pub struct Chunks {
    pieces: Arc<Pieces>,
    next: usize,
    /// Bytes of the next piece that are left out.
    skip: usize,
    bytes_left: u64,
}

/// A body that is kept. A copy is one of the reference.
#[derive(Clone)]
pub struct StoredBody(Stored);

#[derive(Clone)]
enum Stored {
    Empty,
    /// In one piece, which counts its own readers.
    Whole(Bytes),
    Pieces(Arc<Pieces>),
}

/// A body in the pieces in which it arrived.
struct Pieces {
    chunks: Box<[Bytes]>,
    bytes: u64,
}

/// A piece, and what must live as long as anybody holds it, such as a charge on memory.
struct Kept<T, K> {
    piece: T,
    _keep: K,
}

impl<T: AsRef<[u8]>, K> AsRef<[u8]> for Kept<T, K> {
    fn as_ref(&self) -> &[u8] {
        self.piece.as_ref()
    }
}

impl StoredBody {
    /// Of pieces that arrived one by one. `keep` is dropped after the last copy of the last piece,
    /// wherever that is: also in the write buffer of a slow client.
    pub fn new(chunks: Vec<Bytes>, keep: impl Send + Sync + 'static) -> Self {
        if chunks.is_empty() {
            return Self(Stored::Empty);
        }
        let keep = Arc::new(keep);
        let kept = |piece| Bytes::from_owner(Kept { piece, _keep: keep.clone() });
        let chunks: Box<[Bytes]> = chunks.into_iter().map(kept).collect();
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self(Stored::Pieces(Arc::new(Pieces { chunks, bytes })))
    }

    /// Of one piece.
    pub fn whole(body: Vec<u8>, keep: impl Send + Sync + 'static) -> Self {
        if body.is_empty() {
            return Self(Stored::Empty);
        }
        Self(Stored::Whole(Bytes::from_owner(Kept { piece: body, _keep: keep })))
    }

    /// Length of the whole body in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Stored::Empty => 0,
            Stored::Whole(whole) => whole.len() as u64,
            Stored::Pieces(pieces) => pieces.bytes,
        }
    }

    pub fn chunks(&self) -> &[Bytes] {
        match &self.0 {
            Stored::Empty => &[],
            Stored::Whole(whole) => std::slice::from_ref(whole),
            Stored::Pieces(pieces) => &pieces.chunks,
        }
    }
}

impl Body {
    pub fn stream(body: impl http_body::Body<Data = Bytes, Error = Error> + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }

    /// A reader of a stored body, at its beginning.
    pub fn stored(stored: &StoredBody) -> Self {
        match &stored.0 {
            Stored::Empty => Self::Empty,
            Stored::Whole(whole) => Self::Full(whole.clone()),
            Stored::Pieces(pieces) => Self::Chunks(Chunks {
                pieces: pieces.clone(),
                next: 0,
                skip: 0,
                bytes_left: pieces.bytes,
            }),
        }
    }

    /// A reader of `bytes` bytes from the one at `first` on, counted from where this one stands.
    /// Nothing is copied. `None` where they are not all at hand: the body is a stream, or shorter.
    pub fn part(&self, first: u64, bytes: u64) -> Option<Self> {
        match self {
            Self::Empty => (first == 0 && bytes == 0).then_some(Self::Empty),
            Self::Full(whole) => {
                let end = usize::try_from(first.checked_add(bytes)?).ok()?;
                let first = usize::try_from(first).ok()?;
                (end <= whole.len()).then(|| whole.slice(first..end).into())
            }
            Self::Chunks(whole) => whole.part(first, bytes).map(Self::Chunks),
            Self::Stream(_) => None,
        }
    }
}

impl Chunks {
    fn part(&self, first: u64, bytes: u64) -> Option<Self> {
        if first.checked_add(bytes)? > self.bytes_left {
            return None;
        }
        let (mut next, mut skip) = (self.next, first + self.skip as u64);
        while let Some(chunk) = self.pieces.chunks.get(next)
            && skip >= chunk.len() as u64
        {
            skip -= chunk.len() as u64;
            next += 1;
        }
        let skip = usize::try_from(skip).ok()?;
        Some(Self { pieces: self.pieces.clone(), next, skip, bytes_left: bytes })
    }

    fn take(&mut self) -> Option<Bytes> {
        if self.bytes_left == 0 {
            return None;
        }
        let chunk = self.pieces.chunks.get(self.next)?;
        let left = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
        let end = chunk.len().min(self.skip.saturating_add(left));
        let piece = chunk.slice(self.skip.min(end)..end);
        self.next += 1;
        self.skip = 0;
        self.bytes_left -= piece.len() as u64;
        Some(piece)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => {
                let Self::Full(bytes) = std::mem::take(&mut *self) else {
                    return Poll::Ready(None);
                };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Chunks(body) => Poll::Ready(body.take().map(|chunk| Ok(Frame::data(chunk)))),
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Chunks(body) => body.bytes_left == 0,
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Chunks(body) => SizeHint::with_exact(body.bytes_left),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

impl std::fmt::Debug for StoredBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredBody({} bytes)", self.bytes())
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Chunks(body) => write!(f, "Chunks({} bytes left)", body.bytes_left),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn read(mut body: Body) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) =
            poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await
        {
            if let Ok(data) = frame.expect("a stored body does not fail").into_data() {
                all.extend_from_slice(&data);
            }
        }
        all
    }

    #[tokio::test]
    async fn chunks_are_sent_in_order_and_their_length_is_known_ahead() {
        let stored = StoredBody::new(vec![Bytes::from("ab"), Bytes::from("cde")], ());
        let body = Body::stored(&stored);
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(5));
        assert_eq!(read(body).await, b"abcde");
    }

    #[tokio::test]
    async fn what_a_stored_body_keeps_lives_as_long_as_its_last_reader() {
        let kept = Arc::new(());
        let stored = StoredBody::new(vec![Bytes::from("ab"), Bytes::from("c")], kept.clone());
        let reader = Body::stored(&stored);
        drop(stored);
        assert_eq!(Arc::strong_count(&kept), 2);
        assert_eq!(read(reader).await, b"abc");
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[tokio::test]
    async fn an_empty_body_is_at_its_end_from_the_start() {
        assert!(http_body::Body::is_end_stream(&Body::from(String::new())));
        assert_eq!(read(Body::from("")).await, b"");
    }

    #[tokio::test]
    async fn every_part_of_a_stored_body_can_be_read_alone() {
        let whole = b"abcdefgh";
        for pieces in [&["abcdefgh"][..], &["abc", "de", "fgh"], &["a", "bcdefg", "h"]] {
            let pieces = pieces.iter().map(|piece| Bytes::from(*piece)).collect();
            let body = Body::stored(&StoredBody::new(pieces, ()));
            for first in 0..whole.len() {
                for end in first..=whole.len() {
                    let part = body.part(first as u64, (end - first) as u64).expect("is there");
                    let length = http_body::Body::size_hint(&part).exact();
                    assert_eq!(length, Some((end - first) as u64));
                    assert_eq!(http_body::Body::is_end_stream(&part), first == end);
                    assert_eq!(read(part).await, &whole[first..end], "{first}..{end}");
                }
            }
            assert!(body.part(1, 8).is_none() && body.part(u64::MAX, 1).is_none());
        }
    }

    #[tokio::test]
    async fn a_part_of_a_part_is_counted_from_its_beginning() {
        let pieces = vec![Bytes::from("abc"), Bytes::from("de"), Bytes::from("fgh")];
        let body = Body::stored(&StoredBody::new(pieces, ()));
        let part = body.part(2, 5).and_then(|part| part.part(1, 3)).expect("is there");
        assert_eq!(read(part).await, b"def");
    }
}
