//! The bytes of a file on their way out.
//!
//! Up to [`WHOLE_BYTES_MAX`] are read by the job that found the file. Beyond, a body is read chunk
//! by chunk as its client takes it, always one chunk ahead: a response holds at most the chunk
//! being sent and the one behind it. Deliberately absent: `sendfile`, which can feed neither TLS
//! nor HTTP/2 nor the cache.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::reader::Reader;
use super::version::Source;
use crate::body::Body;
use crate::error::Error;
use crate::range::{Piece, Span};

/// A body up to this size is read at once.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// One read of a longer body.
const CHUNK_BYTES_MAX: u64 = 128 * 1024;

/// A body as it leaves the thread that found the file.
pub(super) enum Content {
    Whole(Bytes),
    Later { source: Source, pieces: Vec<Piece>, bytes: u64 },
}

/// A body that is read while it is sent.
struct FileBody {
    reader: Arc<Reader>,
    source: Arc<Source>,
    pieces: VecDeque<Piece>,
    /// Not yet handed out.
    bytes_left: u64,
    ahead: Option<Chunk>,
}

enum Chunk {
    Read(Result<Bytes, Error>),
    Reading(Pin<Box<dyn Future<Output = Result<Bytes, Error>>>>),
}

impl Content {
    pub(super) const EMPTY: Self = Self::Whole(Bytes::new());

    /// Reads a small body, leaves a long one for later. `bytes` is the sum of the pieces. Blocks.
    pub(super) fn read(source: Source, pieces: Vec<Piece>, bytes: u64) -> Result<Self, Error> {
        if bytes > WHOLE_BYTES_MAX {
            return Ok(Self::Later { source, pieces, bytes });
        }
        let mut whole = Vec::with_capacity(bytes as usize);
        for piece in pieces {
            match piece {
                Piece::Text(text) => whole.extend_from_slice(&text),
                Piece::Span(span) => {
                    let start = whole.len();
                    whole.resize(start + span.bytes() as usize, 0);
                    source.read(&mut whole[start..], span.first)?;
                }
            }
        }
        Ok(Self::Whole(whole.into()))
    }

    pub(super) fn into_body(self, reader: &Arc<Reader>) -> Body {
        match self {
            Self::Whole(bytes) => bytes.into(),
            Self::Later { source, pieces, bytes } => Body::stream(FileBody {
                reader: Arc::clone(reader),
                source: Arc::new(source),
                pieces: pieces.into(),
                bytes_left: bytes,
                ahead: None,
            }),
        }
    }
}

impl FileBody {
    fn next_chunk(&mut self) -> Option<Chunk> {
        let span = match self.pieces.pop_front()? {
            Piece::Text(text) => return Some(Chunk::Read(Ok(text))),
            Piece::Span(span) => span,
        };
        let bytes = span.bytes().min(CHUNK_BYTES_MAX);
        if bytes < span.bytes() {
            self.pieces.push_front(Piece::Span(Span { first: span.first + bytes, ..span }));
        }
        let (reader, source) = (Arc::clone(&self.reader), Arc::clone(&self.source));
        let read = move || {
            let mut chunk = vec![0; bytes as usize];
            source.read(&mut chunk, span.first)?;
            Ok(chunk.into())
        };
        Some(Chunk::Reading(Box::pin(async move { reader.run(read).await? })))
    }
}

impl Chunk {
    fn poll(self, cx: &mut Context<'_>) -> Self {
        match self {
            Self::Read(result) => Self::Read(result),
            Self::Reading(mut read) => match read.as_mut().poll(cx) {
                Poll::Ready(result) => Self::Read(result),
                Poll::Pending => Self::Reading(read),
            },
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(chunk) = this.ahead.take().or_else(|| this.next_chunk()) else {
            return Poll::Ready(None);
        };
        match chunk.poll(cx) {
            reading @ Chunk::Reading(_) => {
                this.ahead = Some(reading);
                Poll::Pending
            }
            Chunk::Read(Ok(bytes)) => {
                this.bytes_left = this.bytes_left.saturating_sub(bytes.len() as u64);
                // Polled once, so that the read begins now and not when the client wants it.
                this.ahead = this.next_chunk().map(|next| next.poll(cx));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Chunk::Read(Err(error)) => {
                this.pieces.clear();
                Poll::Ready(Some(Err(error)))
            }
        }
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
    use std::fs::File;

    use http_body::Body as _;

    use super::super::testing::{TempDir, collect, next, pattern};
    use super::super::version::Version;
    use super::*;
    use crate::error::Kind;

    const CHUNK: usize = CHUNK_BYTES_MAX as usize;

    fn source(dir: &TempDir, content: &[u8]) -> Source {
        let file = File::open(dir.write("file", content)).expect("opens");
        let version = Version::of(&file.metadata().expect("is open"));
        Source::new(file, version)
    }

    fn whole(bytes: usize) -> Vec<Piece> {
        Span::whole(bytes as u64).map(Piece::Span).into_iter().collect()
    }

    fn long_body(dir: &TempDir, bytes: usize) -> FileBody {
        FileBody {
            reader: Reader::start(1, 4).expect("starts"),
            source: Arc::new(source(dir, &pattern(bytes))),
            pieces: whole(bytes).into(),
            bytes_left: bytes as u64,
            ahead: None,
        }
    }

    #[test]
    fn only_a_body_beyond_the_limit_is_left_for_later() {
        let dir = TempDir::new();
        let limit = WHOLE_BYTES_MAX as usize;
        for (bytes, is_whole) in [(0, true), (1, true), (limit, true), (limit + 1, false)] {
            let source = source(&dir, &pattern(bytes));
            let content = Content::read(source, whole(bytes), bytes as u64).expect("reads");
            match content {
                Content::Whole(read) => assert!(is_whole && read == pattern(bytes), "{bytes}"),
                Content::Later { .. } => assert!(!is_whole, "{bytes}"),
            }
        }
    }

    #[tokio::test]
    async fn a_long_body_is_the_file_with_its_length_known_ahead() {
        for bytes in [WHOLE_BYTES_MAX as usize + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let dir = TempDir::new();
            let content = Content::read(source(&dir, &pattern(bytes)), whole(bytes), bytes as u64);
            let reader = Reader::start(2, 4).expect("starts");
            let body = content.expect("opens").into_body(&reader);
            assert_eq!(body.size_hint().exact(), Some(bytes as u64));
            assert!(collect(body).await.expect("reads") == pattern(bytes), "{bytes}");
        }
    }

    #[tokio::test]
    async fn texts_and_spans_come_in_their_order_whether_short_or_long() {
        let dir = TempDir::new();
        let content = pattern(3 * CHUNK);
        let (first, second) =
            (Span { first: 5, last: 8 }, Span { first: 1, last: 2 * CHUNK as u64 });
        let reader = Reader::start(1, 4).expect("starts");
        for spans in [vec![first], vec![second], vec![first, second]] {
            let mut pieces = vec![Piece::Text(Bytes::from_static(b"<"))];
            let mut expected = b"<".to_vec();
            for span in spans {
                pieces.push(Piece::Span(span));
                expected.extend(&content[span.first as usize..=span.last as usize]);
                pieces.push(Piece::Text(Bytes::from_static(b">")));
                expected.push(b'>');
            }
            let bytes = pieces.iter().map(Piece::bytes).sum();
            assert_eq!(bytes, expected.len() as u64);
            let body = Content::read(source(&dir, &content), pieces, bytes).expect("reads");
            assert!(collect(body.into_body(&reader)).await.expect("reads") == expected);
        }
    }

    #[tokio::test]
    async fn one_chunk_is_read_ahead_and_no_more() {
        let dir = TempDir::new();
        let mut body = long_body(&dir, 5 * CHUNK);
        let first = next(&mut body).await.expect("has a chunk").expect("reads");
        assert_eq!(first.len(), CHUNK);
        assert_eq!(body.bytes_left, 4 * CHUNK_BYTES_MAX);
        assert!(body.ahead.is_some());
        let unread: u64 = body.pieces.iter().map(Piece::bytes).sum();
        assert_eq!(unread, 3 * CHUNK_BYTES_MAX);
    }

    #[tokio::test]
    async fn the_last_chunk_ends_the_body() {
        let dir = TempDir::new();
        let mut body = long_body(&dir, CHUNK + 1);
        assert!(next(&mut body).await.is_some_and(|chunk| chunk.is_ok()));
        assert!(!body.is_end_stream());
        assert!(next(&mut body).await.is_some_and(|chunk| chunk.is_ok_and(|last| last.len() == 1)));
        assert!(body.is_end_stream());
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn a_file_that_shrinks_breaks_the_body_off_instead_of_ending_it() {
        let dir = TempDir::new();
        let mut body = long_body(&dir, 5 * CHUNK);
        assert!(next(&mut body).await.is_some_and(|chunk| chunk.is_ok()));
        let file = File::options().write(true).open(dir.path().join("file")).expect("opens");
        file.set_len(10).expect("shrinks");
        let error = loop {
            match next(&mut body).await.expect("the body must not end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Truncated);
        assert!(!body.is_end_stream());
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_closes_its_file() {
        let dir = TempDir::new();
        let mut body = long_body(&dir, 5 * CHUNK);
        assert!(next(&mut body).await.is_some_and(|chunk| chunk.is_ok()));
        let (reader, source) = (Arc::clone(&body.reader), Arc::downgrade(&body.source));
        drop(body);
        assert!(reader.run(|| ()).await.is_ok(), "the only thread is done with what came before");
        assert!(source.upgrade().is_none());
    }
}
