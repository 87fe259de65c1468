//! A stream of a shared connection as bytes both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::Place;

/// Bytes of one write at most.
const WRITE_BYTES_MAX: usize = 16 << 10;

/// Dropped before both ends have come to theirs, it is cancelled by RST_STREAM.
#[derive(Debug)]
pub(in crate::upstream) struct StreamIo {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not read yet.
    unread: Bytes,
    is_shut: bool,
    /// Last, so that the stream has ended when its place is given back.
    _place: Place,
}

impl StreamIo {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, place: Place) -> Self {
        Self { send, receive, unread: Bytes::new(), is_shut: false, _place: place }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        // The endpoint may send as much as was taken. Fails where the stream has ended, which the
        // next read tells.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(bytes.len().min(WRITE_BYTES_MAX));
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(WRITE_BYTES_MAX).min(this.send.capacity());
        let data = Bytes::copy_from_slice(&bytes[..count]);
        this.send.send_data(data, false).map_err(failure)?;
        Poll::Ready(Ok(count))
    }

    /// What was written is on its way: the connection's own task lets it go.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            self.is_shut = true;
            self.send.send_data(Bytes::new(), true).map_err(failure)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn failure(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
