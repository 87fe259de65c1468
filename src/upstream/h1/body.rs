//! The body of an answer: its parts, in whatever way it is framed (RFC 9112 §6.3).

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::Malformed;
use super::chunked::ChunkReader;

/// What ends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Framing {
    /// So many bytes; none where there is no body.
    Length(u64),
    Chunked,
    /// The end of the connection.
    Close,
}

/// Reads one body.
#[derive(Debug)]
pub(in crate::upstream) enum BodyReader {
    /// Bytes that are to come.
    Length(u64),
    Chunked(ChunkReader),
    Close,
    /// Of one that ended with its connection.
    Closed,
}

/// What was at the front of what has been received.
#[derive(Debug, PartialEq)]
pub(in crate::upstream) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// Nothing complete: more must be received.
    More,
}

impl BodyReader {
    pub(in crate::upstream) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkReader::default()),
            Framing::Close => Self::Close,
        }
    }

    /// Whether the last byte has been read.
    pub(in crate::upstream) fn is_at_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_at_end(),
            Self::Close => false,
            Self::Closed => true,
        }
    }

    /// Bytes that are to come, where that is known.
    pub(in crate::upstream) fn bytes_left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Closed => Some(0),
            Self::Chunked(_) | Self::Close => None,
        }
    }

    /// Takes the next part off the front of `received`.
    pub(in crate::upstream) fn read(&mut self, received: &mut BytesMut) -> Result<Part, Malformed> {
        match self {
            Self::Length(0) | Self::Closed => Ok(Part::End),
            _ if received.is_empty() => Ok(Part::More),
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(received.len());
                *left -= taken as u64;
                Ok(Part::Data(received.split_to(taken).freeze()))
            }
            Self::Close => Ok(Part::Data(received.split().freeze())),
            Self::Chunked(chunks) => chunks.read(received),
        }
    }

    /// The endpoint has ended the connection. Whether the body is complete.
    pub(in crate::upstream) fn close(&mut self) -> bool {
        if matches!(self, Self::Close) {
            *self = Self::Closed;
        }
        self.is_at_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_known_length_leaves_what_follows_it() {
        let mut received = BytesMut::from("abcdeHTTP/1.1");
        let mut body = BodyReader::new(Framing::Length(5));
        assert_eq!(body.read(&mut received), Ok(Part::Data(Bytes::from("abcde"))));
        assert!(body.is_at_end());
        assert_eq!(body.read(&mut received), Ok(Part::End));
        assert_eq!(&received[..], b"HTTP/1.1");
    }

    #[test]
    fn only_a_body_without_framing_is_completed_by_the_end_of_the_connection() {
        assert!(BodyReader::new(Framing::Close).close());
        assert!(!BodyReader::new(Framing::Length(1)).close());
        assert!(!BodyReader::new(Framing::Chunked).close());
    }
}
