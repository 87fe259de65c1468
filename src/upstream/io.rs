//! A byte stream to an endpoint, whatever it is made of.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_rustls::client::TlsStream;

use super::h2::StreamIo;
use crate::outbox;

/// A stream to an endpoint.
#[derive(Debug)]
pub struct UpstreamIo(Stream);

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(outbox::Stream),
    Unix(UnixStream),
    TcpTls(Box<TlsStream<outbox::Stream>>),
    UnixTls(Box<TlsStream<UnixStream>>),
    /// One stream of a connection that others share, once it is a tunnel.
    Shared(Box<StreamIo>),
}

impl UpstreamIo {
    pub(super) fn new(stream: Stream) -> Self {
        Self(stream)
    }

    pub(super) fn shared(stream: StreamIo) -> Self {
        Self(Stream::Shared(Box::new(stream)))
    }

    /// What was agreed on by ALPN, if this is TLS.
    pub(super) fn agreed(&self) -> Option<Option<&[u8]>> {
        match &self.0 {
            Stream::Tcp(_) | Stream::Unix(_) | Stream::Shared(_) => None,
            Stream::TcpTls(stream) => Some(stream.get_ref().1.alpn_protocol()),
            Stream::UnixTls(stream) => Some(stream.get_ref().1.alpn_protocol()),
        }
    }

    /// Whether the peer has sent nothing and not closed, by asking the kernel now: the readiness
    /// that the runtime knows of may be older than a FIN that has arrived.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match &self.0 {
            Stream::Tcp(stream) => stream.peek(),
            Stream::Unix(stream) => socket2::SockRef::from(stream).peek(&mut byte),
            Stream::TcpTls(stream) => stream.get_ref().0.peek(),
            Stream::UnixTls(stream) => socket2::SockRef::from(stream.get_ref().0).peek(&mut byte),
            // It has no socket of its own, and never rests.
            Stream::Shared(_) => return false,
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Calls the same method on whichever stream it is.
macro_rules! on_stream {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::TcpTls($stream) => $call,
            Stream::UnixTls($stream) => $call,
            Stream::Shared($stream) => $call,
        }
    };
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().0, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_stream!(&mut self.get_mut().0, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(&mut self.get_mut().0, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        on_stream!(&self.0, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().0, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().0, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
