//! A body that is put into a coding while it is sent.
//!
//! What has come is never held back: when the source has no more for the moment, the encoder is
//! flushed, so an event reaches its reader when it was sent. The source is read no faster than the
//! result is taken. A source that breaks off leaves the coding without its end, and its trailers
//! follow the end. Each piece of work waits for its [turn](crate::compress::turns), in which all
//! else that the worker has to do comes between.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::encoders::Permit;
use crate::body::Body;
use crate::compress::Coding;
use crate::compress::encode::{Encoder, PIECE_BYTES};
use crate::compress::turns::{TURN_MAX, Ticket};
use crate::error::{Error, Kind};

#[derive(Debug)]
pub(super) struct CodedBody {
    source: Body,
    coding: Coding,
    state: State,
    /// What the source gave and the encoder has not taken yet.
    input: Bytes,
    /// The source has ended, and what follows the coding.
    end: Option<Option<Frame<Bytes>>>,
    ticket: Ticket,
    _permit: Permit,
}

#[derive(Debug)]
enum State {
    /// Nothing has come; an encoder is not worth its memory yet.
    Waiting,
    Encoding {
        encoder: Encoder,
        /// The encoder may hold something back.
        is_dirty: bool,
    },
    /// The coding has its end; what follows it.
    Ended(Option<Frame<Bytes>>),
}

type Part = Option<Result<Frame<Bytes>, Error>>;

impl CodedBody {
    pub(super) fn new(source: Body, coding: Coding, permit: Permit) -> Self {
        let (state, ticket) = (State::Waiting, permit.ticket());
        Self { source, coding, state, input: Bytes::new(), end: None, ticket, _permit: permit }
    }

    fn encoder(&mut self) -> io::Result<&mut Encoder> {
        if matches!(self.state, State::Waiting) {
            let encoder = Encoder::new(self.coding, self.ticket.effort())?;
            self.state = State::Encoding { encoder, is_dirty: false };
        }
        match &mut self.state {
            State::Encoding { encoder, is_dirty } => {
                *is_dirty = true;
                Ok(encoder)
            }
            State::Waiting | State::Ended(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Encodes as much of the input as one turn takes.
    fn encode(&mut self) -> io::Result<Vec<u8>> {
        let mut coded = Vec::new();
        let begun = Instant::now();
        loop {
            let piece = self.input.split_to(self.input.len().min(PIECE_BYTES));
            let more = self.encoder()?.write(&piece)?;
            if coded.is_empty() {
                coded = more;
            } else {
                coded.extend_from_slice(&more);
            }
            if self.input.is_empty() || begun.elapsed() >= TURN_MAX {
                return Ok(coded);
            }
        }
    }

    /// What the encoder holds back.
    fn flush(&mut self) -> io::Result<Vec<u8>> {
        match &mut self.state {
            State::Encoding { encoder, is_dirty } if *is_dirty => {
                *is_dirty = false;
                encoder.flush()
            }
            _ => Ok(Vec::new()),
        }
    }

    fn is_dirty(&self) -> bool {
        matches!(self.state, State::Encoding { is_dirty: true, .. })
    }

    /// Ends the coding, be it that of nothing; `next` follows it.
    fn end(&mut self, next: Option<Frame<Bytes>>) -> io::Result<Vec<u8>> {
        self.encoder()?;
        match std::mem::replace(&mut self.state, State::Ended(next)) {
            State::Encoding { encoder, .. } => encoder.finish(),
            State::Waiting | State::Ended(_) => Ok(Vec::new()),
        }
    }

    fn part(&mut self, result: io::Result<Vec<u8>>) -> Option<Part> {
        match result {
            Ok(coded) if coded.is_empty() => None,
            Ok(coded) => Some(Some(Ok(Frame::data(coded.into())))),
            Err(error) => Some(self.broken(Error::caused(Kind::Internal, error))),
        }
    }

    /// Without an end: a decoder must see that something is missing.
    fn broken(&mut self, error: Error) -> Part {
        self.state = State::Ended(None);
        self.input = Bytes::new();
        Some(Err(error))
    }
}

impl http_body::Body for CodedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        loop {
            if let State::Ended(next) = &mut this.state {
                return Poll::Ready(next.take().map(Ok));
            }
            if this.input.is_empty() && this.end.is_none() {
                match Pin::new(&mut this.source).poll_frame(cx) {
                    Poll::Ready(None) => this.end = Some(None),
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) if data.is_empty() => continue,
                        Ok(data) => this.input = data,
                        Err(trailers) => this.end = Some(Some(trailers)),
                    },
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(this.broken(error)),
                    Poll::Pending if this.is_dirty() => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            ready!(this.ticket.poll(cx));
            let result = match this.end.take() {
                _ if !this.input.is_empty() => this.encode(),
                Some(next) => this.end(next),
                // Nothing more is there for the moment.
                None => this.flush(),
            };
            this.ticket.end();
            if let Some(part) = this.part(result) {
                return Poll::Ready(part);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended(None))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::rc::Rc;
    use std::task::Waker;

    use http::{HeaderMap, HeaderValue};

    use super::super::encoders::{Encoders, Purpose};
    use super::*;
    use crate::compress::encode::tests::decode;

    /// Gives what it is told to, and `Pending` in between.
    #[derive(Debug)]
    struct Script(VecDeque<Poll<Part>>);

    impl http_body::Body for Script {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Part> {
            self.0.pop_front().unwrap_or(Poll::Ready(None))
        }
    }

    fn data(bytes: &[u8]) -> Poll<Part> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(bytes)))))
    }

    fn coded(coding: Coding, script: Vec<Poll<Part>>) -> CodedBody {
        let permit = Rc::new(Encoders::default()).permit(Purpose::Stream).expect("a place");
        CodedBody::new(Body::stream(Script(script.into())), coding, permit)
    }

    fn next(body: &mut CodedBody) -> Poll<Part> {
        http_body::Body::poll_frame(Pin::new(body), &mut Context::from_waker(Waker::noop()))
    }

    /// All data to the end.
    fn read(body: &mut CodedBody) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match next(body) {
                Poll::Pending => {}
                Poll::Ready(None) => return all,
                Poll::Ready(Some(part)) => {
                    all.extend_from_slice(part.expect("no error").data_ref().expect("data"));
                }
            }
        }
    }

    #[test]
    fn what_has_come_is_sent_when_nothing_more_is_there() {
        for coding in Coding::ALL {
            let script = vec![data(b"one\n"), Poll::Pending, Poll::Pending, data(b"two\n")];
            let mut body = coded(coding, script);
            let mut sent = Vec::new();
            while let Poll::Ready(Some(Ok(frame))) = next(&mut body) {
                sent.extend_from_slice(frame.data_ref().expect("data"));
            }
            assert!(!sent.is_empty(), "{coding:?}");
            let rest = read(&mut body);
            sent.extend(rest);
            assert_eq!(decode(coding, &sent).expect("decodes"), b"one\ntwo\n");
            assert!(http_body::Body::is_end_stream(&body));
        }
    }

    #[tokio::test]
    async fn a_long_part_is_encoded_by_turns() {
        let long = b"abcdefgh".repeat(128 << 10);
        let encoders = Rc::new(Encoders::default());
        let permit = encoders.permit(Purpose::Stream).expect("a place");
        let body = Body::stream(Script([data(&long)].into()));
        let mut body = CodedBody::new(body, Coding::Gzip, permit);
        let (mut sent, mut turns) = (Vec::new(), 0);
        let all = async {
            loop {
                let part = std::future::poll_fn(|cx| {
                    let part = http_body::Body::poll_frame(Pin::new(&mut body), cx);
                    turns += usize::from(part.is_pending());
                    part
                });
                let Some(part) = part.await else { break };
                sent.extend_from_slice(part.expect("no error").data_ref().expect("data"));
            }
        };
        tokio::select! {
            biased;
            () = encoders.turns.pace() => unreachable!("it never ends"),
            () = all => {}
        }
        assert!(turns > 2, "{turns}");
        assert!(decode(Coding::Gzip, &sent).expect("decodes") == long);
    }

    #[test]
    fn a_body_that_breaks_off_has_no_end_and_nothing_is_a_whole_coding() {
        for coding in Coding::ALL {
            let error = Poll::Ready(Some(Err(Kind::Truncated.into())));
            let mut body = coded(coding, vec![data(&[b'x'; 5000]), Poll::Pending, error]);
            let mut sent = Vec::new();
            let error = loop {
                match next(&mut body) {
                    Poll::Ready(Some(Ok(frame))) => {
                        sent.extend_from_slice(frame.data_ref().expect("data"))
                    }
                    Poll::Ready(Some(Err(error))) => break error,
                    Poll::Ready(None) => unreachable!("it breaks off"),
                    Poll::Pending => {}
                }
            };
            assert_eq!(error.kind(), Kind::Truncated);
            assert!(decode(coding, &sent).is_err(), "{coding:?}");
            assert!(matches!(next(&mut body), Poll::Ready(None)));

            let nothing = read(&mut coded(coding, Vec::new()));
            assert_eq!(decode(coding, &nothing).expect("decodes"), b"");
        }
    }

    #[test]
    fn trailers_follow_the_end() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("5"));
        let last = Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        let mut body = coded(Coding::Zstd, vec![data(b"body"), last]);
        let mut sent = Vec::new();
        let found = loop {
            let Poll::Ready(Some(Ok(frame))) = next(&mut body) else {
                unreachable!("all is there")
            };
            match frame.into_data() {
                Ok(data) => sent.extend_from_slice(&data),
                Err(frame) => break frame.into_trailers().expect("trailers"),
            }
        };
        assert_eq!(found, trailers);
        assert_eq!(decode(Coding::Zstd, &sent).expect("decodes"), b"body");
    }
}
