//! `multipart/byteranges` (RFC 9110 §14.6): several spans of one representation in one body.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;

use super::Span;

/// A part of a body.
#[derive(Debug)]
pub enum Piece {
    Text(Bytes),
    /// Of the representation.
    Span(Span),
}

/// The pieces of the body, and its media type.
#[derive(Debug)]
pub struct Multipart {
    pub content_type: String,
    pub pieces: Vec<Piece>,
}

impl Piece {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Span(span) => span.bytes(),
        }
    }
}

impl Multipart {
    /// `content_type`, where it has one, and `size` are those of the whole representation.
    pub fn new(spans: &[Span], content_type: Option<&[u8]>, size: u64) -> Self {
        // Must not occur in the content: 64 random bits, which nobody can write into it ahead.
        let boundary = format!("{:016x}", RandomState::new().build_hasher().finish());
        let mut pieces = Vec::with_capacity(2 * spans.len() + 1);
        let mut separator = format!("--{boundary}\r\n");
        for span in spans {
            let mut head = separator.into_bytes();
            if let Some(content_type) = content_type {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(content_type);
                head.extend_from_slice(b"\r\n");
            }
            let content_range = span.content_range(size);
            head.extend_from_slice(format!("Content-Range: {content_range}\r\n\r\n").as_bytes());
            pieces.push(Piece::Text(Bytes::from(head)));
            pieces.push(Piece::Span(*span));
            separator = format!("\r\n--{boundary}\r\n");
        }
        pieces.push(Piece::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        Self { content_type: format!("multipart/byteranges; boundary={boundary}"), pieces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_says_what_it_is_between_boundaries() {
        let spans = [Span { first: 0, last: 1 }, Span { first: 8, last: 9 }];
        let multipart = Multipart::new(&spans, Some(b"text/plain"), 10);
        let boundary = multipart.content_type.split_once("boundary=").expect("has one").1;
        let text: String = multipart
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => String::from_utf8_lossy(text).into_owned(),
                Piece::Span(span) => format!("<{}-{}>", span.first, span.last),
            })
            .collect();
        let expected = "--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n<0-1>\
             \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n<8-9>\
             \r\n--B--\r\n";
        assert_eq!(text.replace(boundary, "B"), expected);
    }

    #[test]
    fn what_has_no_type_is_given_none() {
        let spans = [Span { first: 0, last: 1 }, Span { first: 8, last: 9 }];
        let multipart = Multipart::new(&spans, None, 10);
        let Some(Piece::Text(head)) = multipart.pieces.first() else { unreachable!("a head") };
        assert!(head.ends_with(b"\r\nContent-Range: bytes 0-1/10\r\n\r\n"), "{head:?}");
        assert_eq!(head.windows(8).filter(|part| part == b"Content-").count(), 1);
    }

    #[test]
    fn no_two_bodies_share_a_boundary() {
        let spans = [Span { first: 0, last: 1 }];
        let content_type = || Multipart::new(&spans, Some(b"text/plain"), 10).content_type;
        assert_ne!(content_type(), content_type());
    }
}
