//! `multipart/byteranges` (RFC 9110 §14.6): several spans of one file in one body.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;

use super::body::Piece;
use super::range::Span;

/// The pieces of the body, and its media type.
pub(super) struct Multipart {
    pub(super) content_type: String,
    pub(super) pieces: Vec<Piece>,
}

impl Multipart {
    /// `content_type` and `size` are those of the whole file.
    pub(super) fn new(spans: &[Span], content_type: &str, size: u64) -> Self {
        // Must not occur in the content: 64 random bits, which nobody can write into a file ahead.
        let boundary = format!("{:016x}", RandomState::new().build_hasher().finish());
        let mut pieces = Vec::with_capacity(2 * spans.len() + 1);
        let mut separator = format!("--{boundary}\r\n");
        for span in spans {
            let content_range = span.content_range(size);
            let head = format!(
                "{separator}Content-Type: {content_type}\r\nContent-Range: {content_range}\r\n\r\n"
            );
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
        let multipart = Multipart::new(&spans, "text/plain", 10);
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
    fn no_two_bodies_share_a_boundary() {
        let spans = [Span { first: 0, last: 1 }];
        let content_type = || Multipart::new(&spans, "text/plain", 10).content_type;
        assert_ne!(content_type(), content_type());
    }
}
