//! Writes of one worker, put off until every connection that was ready has had its turn.
//!
//! A write to a socket wakes the process at its other end, and waking one that sleeps is the most
//! expensive part of a small write, far more on a virtual machine. Written one after the other
//! instead of one every few microseconds, the messages of one round find it awake. Nothing waits
//! for more to come: the round ends when the tasks that are ready now have run, which on a worker
//! with one ready connection is at once.
//!
//! What is put off counts as written, as it would in the kernel's buffer; an error shows at the
//! next call. Large writes are not put off.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of one connection that are put off at most.
const PUT_OFF_BYTES_MAX: usize = 16 << 10;
/// Room that a connection keeps for its next write, in bytes.
const KEPT_BYTES_MAX: usize = 4 << 10;

thread_local! {
    static OUTBOX: Outbox = Outbox::default();
}

/// The connections of this thread with something to write.
#[derive(Debug, Clone, Default)]
struct Outbox(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    connections: Vec<Rc<RefCell<Inner>>>,
    /// `None` on threads that put nothing off.
    flusher: Option<Waker>,
}

/// Writes what was put off on this thread, round after round.
pub async fn run() {
    let outbox = OUTBOX.with(Outbox::clone);
    let _end = End(outbox.clone());
    poll_fn(|cx| {
        outbox.flush();
        let flusher = &mut outbox.0.borrow_mut().flusher;
        if !flusher.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *flusher = Some(cx.waker().clone());
        }
        Poll::<()>::Pending
    })
    .await;
}

/// From here on nothing is put off.
struct End(Outbox);

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.borrow_mut().flusher = None;
        self.0.flush();
    }
}

impl Outbox {
    fn flush(&self) {
        let mut connections = std::mem::take(&mut self.0.borrow_mut().connections);
        for connection in connections.drain(..) {
            connection.borrow_mut().write_put_off();
        }
        // The list keeps its room for the next round.
        let waiting = &mut self.0.borrow_mut().connections;
        if waiting.is_empty() {
            *waiting = connections;
        }
    }

    /// Whether the connection has a place in this round now.
    fn add(&self, connection: &Rc<RefCell<Inner>>) -> bool {
        let mut waiting = self.0.borrow_mut();
        let Some(flusher) = &waiting.flusher else { return false };
        if waiting.connections.is_empty() {
            flusher.wake_by_ref();
        }
        waiting.connections.push(connection.clone());
        true
    }
}

/// A TCP connection whose small writes are put off to the end of the round.
#[derive(Debug)]
pub struct Stream {
    inner: Rc<RefCell<Inner>>,
    outbox: Outbox,
}

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    /// Put off and not yet written.
    bytes: Vec<u8>,
    /// It has its place in the round.
    is_waiting: bool,
    /// Of a write that was put off.
    error: Option<io::Error>,
    /// The task of the connection.
    task: Option<Waker>,
}

impl Inner {
    /// The end of the round.
    fn write_put_off(&mut self) {
        self.is_waiting = false;
        let result = match self.stream.try_write(&self.bytes) {
            Ok(written) if written == self.bytes.len() => {
                self.bytes.clear();
                self.bytes.shrink_to(KEPT_BYTES_MAX);
                return;
            }
            Ok(written) => {
                self.bytes.drain(..written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.bytes.clear();
            self.error = Some(error);
        }
        // The connection goes on with it, under its own deadlines.
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Writes what was put off now.
    fn poll_put_off(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes))?;
            self.bytes.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether bytes wait for the peer, not only for the end of the round.
    fn is_blocked(&self) -> bool {
        !self.is_waiting && !self.bytes.is_empty()
    }
}

impl Stream {
    pub fn new(stream: TcpStream) -> Self {
        let inner = Inner { stream, bytes: Vec::new(), is_waiting: false, error: None, task: None };
        Self { inner: Rc::new(RefCell::new(inner)), outbox: OUTBOX.with(Outbox::clone) }
    }

    /// Looks for input without taking it, by asking the kernel.
    pub fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        socket2::SockRef::from(&self.inner.borrow().stream).peek(&mut byte)
    }

    /// How the connection has failed, if it has and nobody was told.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let mut inner = self.inner.borrow_mut();
        match inner.error.take() {
            Some(error) => Ok(Some(error)),
            None => inner.stream.take_error(),
        }
    }

    /// Puts bytes off. False if they must be written now.
    fn put_off(&self, bufs: &[IoSlice<'_>], cx: &Context<'_>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if inner.error.is_some()
            || inner.is_blocked()
            || inner.bytes.len() + length > PUT_OFF_BYTES_MAX
        {
            return false;
        }
        if !inner.is_waiting {
            if !self.outbox.add(&self.inner) {
                return false;
            }
            inner.is_waiting = true;
        }
        for buf in bufs {
            inner.bytes.extend_from_slice(buf);
        }
        if !inner.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            inner.task = Some(cx.waker().clone());
        }
        true
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        // Who waits for the peer may have nothing more to write, and would never let go what the
        // peer had no room for at the end of the round.
        if inner.is_blocked()
            && let Poll::Ready(Err(error)) = inner.poll_put_off(cx)
        {
            inner.bytes.clear();
            inner.error = Some(error);
        }
        Pin::new(&mut inner.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.put_off(bufs, cx) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_put_off(cx))?;
        Pin::new(&mut inner.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_waiting && inner.error.is_none() {
            return Poll::Ready(Ok(()));
        }
        inner.poll_put_off(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_put_off(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::shutdown::Tasks;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::new(near.expect("connected")), far.expect("accepted").0)
    }

    async fn with_rounds(test: impl Future<Output = ()>) {
        let tasks = Tasks::default();
        tokio::task::LocalSet::new()
            .run_until(async {
                tasks.spawn("outbox", run());
                tokio::task::yield_now().await;
                timeout(Duration::from_secs(20), test).await.expect("in time");
            })
            .await;
    }

    #[tokio::test]
    async fn small_writes_of_one_round_go_out_together_at_its_end() {
        with_rounds(async {
            let (mut near, far) = pair().await;
            near.write_all(b"one ").await.expect("put off");
            near.write_all(b"two").await.expect("put off");
            near.flush().await.expect("put off");
            let mut buffer = [0; 16];
            assert!(far.try_read(&mut buffer).is_err());
            far.readable().await.expect("open");
            let read = far.try_read(&mut buffer).expect("bytes");
            assert_eq!(&buffer[..read], b"one two");
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_put_off_is_written_though_the_stream_is_dropped() {
        with_rounds(async {
            let (mut near, mut far) = pair().await;
            near.write_all(b"last words").await.expect("put off");
            drop(near);
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("the end");
            assert_eq!(all, b"last words");
        })
        .await;
    }

    #[tokio::test]
    async fn order_is_kept_past_a_peer_that_does_not_read() {
        with_rounds(async {
            let (mut near, mut far) = pair().await;
            let numbers: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
            let write = async {
                for piece in numbers.chunks(7001) {
                    near.write_all(piece).await.expect("it reads in the end");
                }
                near.shutdown().await.expect("it reads in the end");
            };
            let read = async {
                tokio::task::yield_now().await;
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.expect("the end");
                all
            };
            let ((), all) = tokio::join!(write, read);
            assert!(all == numbers);
        })
        .await;
    }

    #[tokio::test]
    async fn what_the_peer_had_no_room_for_goes_on_while_its_answer_is_waited_for() {
        with_rounds(async {
            let (mut near, mut far) = pair().await;
            let mut written = 0;
            while !near.inner.borrow().is_blocked() {
                near.write_all(&[b'x'; 10_000]).await.expect("put off");
                near.flush().await.expect("put off");
                written += 10_000;
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            let answer = async { near.read_u8().await.expect("an answer") };
            let peer = async {
                far.read_exact(&mut vec![0; written]).await.expect("all of it");
                far.write_u8(7).await.expect("open");
            };
            assert_eq!(tokio::join!(answer, peer).0, 7);
        })
        .await;
    }

    #[tokio::test]
    async fn without_rounds_nothing_is_put_off() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"now").await.expect("written");
        let mut buffer = [0; 3];
        far.read_exact(&mut buffer).await.expect("bytes");
        assert_eq!(&buffer, b"now");
    }
}
