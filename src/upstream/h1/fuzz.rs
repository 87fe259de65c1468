//! What must hold for every answer of an endpoint, for the fuzzer.

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use super::{BodyReader, HeadReader, Malformed, Part};

/// An answer as it was read, and how much of the input it left.
#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
    is_complete: bool,
    left: usize,
}

/// Reads an answer in one piece and in two; it must be the same, or refused both times.
pub fn response(data: &[u8]) {
    let [flags, cut, input @ ..] = data else { return };
    let to_head = flags & 1 == 1;
    let cut = usize::from(*cut).min(input.len());
    let whole = read(input, input.len(), to_head);
    let pieces = read(input, cut, to_head);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(_), Err(_)) => {}
        _ => panic!("{whole:?} in one piece, {pieces:?} in two"),
    }
}

fn read(input: &[u8], cut: usize, to_head: bool) -> Result<Option<Answer>, Malformed> {
    let mut received = BytesMut::from(&input[..cut]);
    let mut rest = Some(&input[cut..]);
    let mut reader = HeadReader::default();
    let head = loop {
        match (reader.read(&mut received, to_head)?, rest.take()) {
            (Some(head), later) => {
                rest = later;
                break head;
            }
            (None, Some(later)) => received.extend_from_slice(later),
            (None, None) => return Ok(None),
        }
    };
    let mut body = BodyReader::new(head.framing);
    let mut answer = Answer {
        status: head.status,
        fields: head.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
        is_complete: false,
        left: 0,
    };
    loop {
        match body.read(&mut received)? {
            Part::Data(data) => answer.body.extend_from_slice(&data),
            Part::Trailers(trailers) => answer.trailers = trailers,
            Part::End => break,
            Part::More => match rest.take() {
                Some(later) => received.extend_from_slice(later),
                None => break,
            },
        }
    }
    answer.is_complete = body.close();
    answer.left = received.len() + rest.map_or(0, <[u8]>::len);
    Ok(Some(answer))
}
