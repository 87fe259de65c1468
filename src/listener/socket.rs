//! One accepted socket, which gives up on a reader that has stalled.
//!
//! hyper has no timeout for writes. This wrapper sits below TLS, where every byte that the peer
//! accepts is seen: a write that makes no progress for `timeouts.write` fails the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::outbox;
use crate::timer::LazyTimer;

#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    write_timeout: Duration,
    /// Since when a write has waited.
    blocked_since: Option<Instant>,
    timer: LazyTimer,
    /// Read already, to be read again.
    early: Vec<u8>,
}

#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(outbox::Stream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn new(stream: Stream, write_timeout: Duration) -> Self {
        Self {
            stream,
            write_timeout,
            blocked_since: None,
            timer: LazyTimer::default(),
            early: Vec::new(),
        }
    }

    /// Puts back what was read last, to be read again.
    pub(crate) fn unread(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.early);
        self.early = bytes;
    }

    /// Whether bytes wait for a peer that does not take them.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// Reads what the kernel holds right now, without trusting readiness seen earlier.
    pub(crate) fn has_input(&self) -> bool {
        if !self.early.is_empty() {
            return true;
        }
        let peeked = match &self.stream {
            Stream::Tcp(stream) => stream.peek(),
            Stream::Unix(stream) => {
                socket2::SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()])
            }
        };
        matches!(peeked, Ok(1))
    }

    /// Whether the connection has ended by an error. Tells it once.
    pub(crate) fn has_failed(&self) -> bool {
        let error = match &self.stream {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Unix(stream) => stream.take_error(),
        };
        !matches!(error, Ok(None))
    }

    /// Applies the write timeout to the outcome of a write or flush.
    fn guard<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.blocked_since = None;
            return outcome;
        }
        let now = Instant::now();
        let since = *self.blocked_since.get_or_insert(now);
        if self.timer.poll_until(since + self.write_timeout, now, cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader stalled")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let taken = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..taken]);
            this.early.drain(..taken);
            if this.early.is_empty() {
                this.early = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.guard(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        this.guard(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.guard(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was put off goes out first.
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        this.guard(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_ends_the_connection_after_the_timeout() {
        let (near, _far) = UnixStream::pair().expect("a socket pair");
        let mut socket = Socket::new(Stream::Unix(near), Duration::from_secs(30));
        let start = Instant::now();
        let error = loop {
            if let Err(error) = socket.write_all(&[0; 65536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn what_was_read_can_be_put_back_more_than_once() {
        let (near, mut far) = UnixStream::pair().expect("a socket pair");
        let mut socket = Socket::new(Stream::Unix(near), Duration::from_secs(30));
        far.write_all(b"abcdef").await.expect("room");
        let mut bytes = vec![0; 4];
        socket.read_exact(&mut bytes).await.expect("what was sent");
        socket.unread(bytes);
        let mut bytes = vec![0; 2];
        socket.read_exact(&mut bytes).await.expect("what was put back");
        socket.unread(bytes);
        let mut all = [0; 6];
        socket.read_exact(&mut all).await.expect("all of it");
        assert_eq!(&all, b"abcdef");
    }

    #[tokio::test]
    async fn a_slow_reader_that_goes_on_is_served() {
        let (near, mut far) = UnixStream::pair().expect("a socket pair");
        let mut socket = Socket::new(Stream::Unix(near), Duration::from_secs(30));
        let sent = 1 << 20;
        let write = async {
            socket.write_all(&vec![7; sent]).await.expect("the reader goes on");
            drop(socket);
        };
        let read = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("everything arrives");
            all.len()
        };
        let ((), received) = tokio::join!(write, read);
        assert_eq!(received, sent);
    }
}
