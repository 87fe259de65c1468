//! A stream of a shared connection as bytes both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// Bytes of one write at most.
const WRITE_BYTES_MAX: usize = 16 << 10;

/// Dropped before both ends have come to theirs, its stream is given up.
#[derive(Debug)]
pub(in crate::upstream) struct StreamIo {
    stream: Stream,
    /// Received and not read yet.
    unread: Bytes,
}

impl StreamIo {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, unread: Bytes::new() }
    }

    fn failure(&mut self, error: h2::Error) -> io::Error {
        self.stream.set_broken();
        if error.is_io() {
            return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
        }
        io::Error::new(io::ErrorKind::ConnectionReset, error)
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
            let Some(body) = this.stream.body() else { return Poll::Ready(Ok(())) };
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(this.failure(error))),
                None => {
                    this.stream.set_received();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let count = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        // The endpoint may send as much as was taken. Fails where the stream has ended, which the
        // next read tells.
        if let Some(body) = this.stream.body() {
            let _ = body.flow_control().release_capacity(count);
        }
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
        let Some(sender) = this.stream.sender() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        sender.reserve_capacity(bytes.len().min(WRITE_BYTES_MAX));
        while sender.capacity() == 0 {
            match ready!(sender.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(this.failure(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(WRITE_BYTES_MAX).min(sender.capacity());
        let data = Bytes::copy_from_slice(&bytes[..count]);
        match sender.send_data(data, false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(error) => Poll::Ready(Err(this.failure(error))),
        }
    }

    /// What was written is on its way: the connection's own task lets it go.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(sender) = this.stream.sender() {
            let sent = sender.send_data(Bytes::new(), true);
            this.stream.set_sent();
            sent.map_err(|error| this.failure(error))?;
        }
        Poll::Ready(Ok(()))
    }
}
