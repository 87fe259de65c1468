//! What a GOAWAY says that h2 keeps to itself: which was the last request that the endpoint may have
//! begun with (RFC 9113 §6.8).
//!
//! h2 tells all requests that end with the connection of the GOAWAY before it. Those behind the
//! last stream that it names were not processed and go again whatever they are; of the others
//! nobody knows. This wrapper reads nothing but frame headers, and what a GOAWAY names.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::io::UpstreamIo;

const FRAME_HEADER_BYTES: usize = 9;
const GOAWAY: u8 = 0x7;
/// Of the payload of a GOAWAY: the identifier of a stream.
const LAST_STREAM_BYTES: usize = 4;

/// The last stream that a GOAWAY has named on a connection, once one has come.
#[derive(Debug, Clone, Default)]
pub struct LastStream(Rc<Cell<Option<u32>>>);

impl LastStream {
    pub fn get(&self) -> Option<u32> {
        self.0.get()
    }

    /// A later GOAWAY may name an earlier stream, and no later one.
    fn note(&self, id: u32) {
        self.0.set(Some(self.0.get().map_or(id, |before| before.min(id))));
    }
}

/// The stream of a connection, watched for GOAWAY.
#[derive(Debug)]
pub(super) struct Watched {
    io: UpstreamIo,
    frames: Frames,
}

impl Watched {
    pub(super) fn new(io: UpstreamIo, last: LastStream) -> Self {
        Self { io, frames: Frames { last, begun: [0; BEGUN_BYTES], begun_len: 0, skip: 0 } }
    }
}

const BEGUN_BYTES: usize = FRAME_HEADER_BYTES + LAST_STREAM_BYTES;

/// Where in its frames the connection is.
#[derive(Debug)]
struct Frames {
    last: LastStream,
    /// The header of the current frame, and of a GOAWAY what follows it.
    begun: [u8; BEGUN_BYTES],
    begun_len: usize,
    /// Bytes of the current frame that are of no interest.
    skip: usize,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let missing = self.wanted() - self.begun_len;
            let taken = missing.min(bytes.len());
            let (now, rest) = bytes.split_at(taken);
            self.begun[self.begun_len..self.begun_len + taken].copy_from_slice(now);
            self.begun_len += taken;
            bytes = rest;
            if self.begun_len > 0 && self.begun_len == self.wanted() {
                self.complete();
            }
        }
    }

    /// How much of a frame is looked at, as far as that is known.
    fn wanted(&self) -> usize {
        let is_goaway = self.begun_len >= FRAME_HEADER_BYTES
            && self.begun[3] == GOAWAY
            && self.length() >= LAST_STREAM_BYTES;
        if is_goaway { BEGUN_BYTES } else { FRAME_HEADER_BYTES }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.begun;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn complete(&mut self) {
        let looked_at = self.begun_len - FRAME_HEADER_BYTES;
        if looked_at > 0 {
            let [.., a, b, c, d] = self.begun;
            // The first bit is reserved.
            self.last.note(u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff);
        }
        self.skip = self.length() - looked_at;
        self.begun_len = 0;
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.frames.feed(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("is short").to_be_bytes();
        let head = [length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
        [head.as_slice(), payload].concat()
    }

    fn goaway(id: u32, text: &str) -> Vec<u8> {
        frame(GOAWAY, &[&id.to_be_bytes(), [0, 0, 0, 11].as_slice(), text.as_bytes()].concat())
    }

    fn last_of(bytes: &[u8], at_once: usize) -> Option<u32> {
        let last = LastStream::default();
        let mut frames =
            Frames { last: last.clone(), begun: [0; BEGUN_BYTES], begun_len: 0, skip: 0 };
        bytes.chunks(at_once).for_each(|part| frames.feed(part));
        last.get()
    }

    #[test]
    fn the_last_stream_is_found_among_other_frames_however_they_are_cut() {
        let data = frame(0, &[GOAWAY; 300]);
        let bytes =
            [data.clone(), frame(4, &[]), goaway(1 << 31 | 7, "calm"), data.clone()].concat();
        for at_once in 1..bytes.len() + 1 {
            assert_eq!(last_of(&bytes, at_once), Some(7), "{at_once}");
            assert_eq!(last_of(&data, at_once), None, "{at_once}");
        }
    }

    #[test]
    fn a_second_goaway_names_no_later_stream() {
        let graceful = goaway(0x7fff_ffff, "");
        assert_eq!(last_of(&[graceful.clone(), goaway(9, "")].concat(), 64), Some(9));
        assert_eq!(last_of(&[goaway(9, ""), graceful].concat(), 64), Some(9));
        assert_eq!(last_of(&[frame(GOAWAY, &[0, 0]), goaway(3, "")].concat(), 5), Some(3));
    }
}
