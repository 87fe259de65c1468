//! A client's byte stream as hyper reads and writes it, with the timeouts and limits that hyper
//! does not have.
//!
//! Above TLS, where heads can be seen: what a read waits for decides how long it may wait. A head
//! that is late or too large is answered here, because no request comes of it. Stalled readers
//! are noticed below TLS, in [`super::socket`].

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::FrameFilter;
use super::goodbye::{GOODBYE, GOODBYE_ANSWER, Goodbye, Parting};
use super::head::{HeadLimits, HeadScanner, Unacceptable, Waiting};
use super::transport::Transport;
use crate::proxy::ClientEnd;
use crate::proxy::client::{ClientConnection, Protocol};
use crate::snapshot::stats::ParseError;
use crate::timer::LazyTimer;

/// How long an idle HTTP/1.1 connection stays open for one more request while we drain, and how
/// long the head of a request may still take then.
pub(super) const DRAIN_IDLE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct ClientIo {
    transport: Transport,
    connection: Rc<ClientConnection>,
    scanner: Scanner,
    timer: LazyTimer,
    /// When the first byte of the current head came.
    head_since: Option<Instant>,
    /// When the last byte came.
    read_at: Instant,
    state: State,
    /// Once an HTTP/2 connection has said goodbye.
    goodbye: Option<Box<Goodbye>>,
}

#[derive(Debug)]
enum Scanner {
    H1(HeadScanner),
    H2(Box<FrameFilter>),
    /// After an upgrade.
    None,
}

#[derive(Debug)]
enum State {
    Open,
    /// Nothing more is read; this is written as soon as hyper has nothing to write.
    Refusing {
        answer: &'static [u8],
        written: usize,
    },
    /// hyper is told that the client has closed.
    Closed,
    /// The same, after nothing had come for too long: no answer is on its way.
    Expired,
    /// hyper is told that the connection broke off: the body that is under way is not to be trusted.
    Broken,
}

/// Why no further byte is waited for.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    /// A head that began is late: 408.
    Head,
    /// Nothing came: no answer is owed.
    Silent,
}

const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\ncache-control: no-store\r\n\r\n";
const URI_TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\ncache-control: no-store\r\n\r\n";
const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ncache-control: no-store\r\n\r\n";

impl ClientIo {
    pub(crate) fn new(transport: Transport, connection: Rc<ClientConnection>) -> Self {
        let limits = &connection.listener.spec.limits;
        let scanner = match connection.protocol {
            Protocol::H1 => Scanner::H1(HeadScanner::new(HeadLimits {
                uri_bytes_max: limits.uri_bytes_max,
                header_bytes_max: limits.header_bytes_max,
                headers_max: limits.headers_max,
            })),
            Protocol::H2 => Scanner::H2(Box::new(FrameFilter::new(limits.header_bytes_max))),
        };
        Self {
            transport,
            scanner,
            timer: LazyTimer::default(),
            head_since: None,
            read_at: connection.opened,
            state: State::Open,
            goodbye: None,
            connection,
        }
    }

    /// From now on bytes pass without a look and without a deadline.
    pub(crate) fn into_tunnel(mut self) -> Self {
        self.scanner = Scanner::None;
        self.head_since = None;
        self.state = State::Open;
        self
    }

    /// Whether the client may have sent something that was not read: closing now would reset the
    /// connection and could destroy the answer on its way.
    pub(crate) fn may_have_unread_input(&self) -> bool {
        if self.connection.gives_way() {
            return false;
        }
        let between_messages = match &self.scanner {
            Scanner::H1(scanner) => scanner.waiting() == Waiting::Message,
            Scanner::H2(_) | Scanner::None => true,
        };
        !between_messages
            || !matches!(self.state, State::Open | State::Expired)
            || self.transport.socket().has_input()
    }

    /// Looks at bytes that were read; how many of them, from the first, hyper may see now.
    fn scan(&mut self, bytes: &[u8], now: Instant) -> Result<usize, Unacceptable> {
        self.read_at = now;
        self.connection.set_read_at(now);
        match &mut self.scanner {
            Scanner::H1(scanner) => {
                let result = scanner.feed(bytes);
                self.connection.set_violation(scanner.violation());
                self.head_since = match scanner.waiting() {
                    Waiting::Head => self.head_since.or(Some(now)),
                    _ => None,
                };
                result.map(|()| bytes.len())
            }
            Scanner::H2(filter) => {
                let passed = filter.feed(bytes);
                self.head_since = match filter.is_in_head() {
                    true => self.head_since.or(Some(now)),
                    false => None,
                };
                if let Some(goodbye) = &mut self.goodbye
                    && filter.take_room_made()
                {
                    goodbye.taken_at = now;
                }
                Ok(passed)
            }
            Scanner::None => Ok(bytes.len()),
        }
    }

    /// Whether the connection ends now because others need its place. An answer goes out first.
    fn gives_way(&self) -> bool {
        self.connection.gives_way() && !self.transport.socket().is_write_blocked()
    }

    /// Says goodbye to a client of HTTP/2 whose connection is idle, if that takes no time.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let Scanner::H2(filter) = &self.scanner else { return };
        let _ = Pin::new(&mut self.transport).poll_write(cx, &filter.goodbye());
        let _ = Pin::new(&mut self.transport).poll_flush(cx);
    }

    /// How long the next byte may take, and what its absence means.
    fn deadline(&self) -> Option<(Instant, Expiry)> {
        let timeouts = &self.connection.listener.spec.timeouts;
        if self.gives_way() {
            return Some((self.read_at, Expiry::Silent));
        }
        let draining = self.connection.draining_since();
        if let Some(since) = self.head_since {
            let late = since + timeouts.header;
            let drained = draining.map(|draining| draining.max(since) + DRAIN_IDLE);
            return Some((drained.map_or(late, |drained| drained.min(late)), Expiry::Head));
        }
        match &self.scanner {
            Scanner::H1(scanner) => match scanner.waiting() {
                _ if self.connection.is_active() => return None,
                // What is left of a body that nobody reads any more.
                Waiting::Body => return Some((self.read_at + timeouts.body, Expiry::Silent)),
                Waiting::Message | Waiting::Head | Waiting::Opaque => {}
            },
            Scanner::H2(_) if self.connection.is_active() => return None,
            Scanner::H2(_) => {}
            Scanner::None => return None,
        }
        let idle = match self.connection.requests() {
            0 => self.connection.opened + timeouts.header,
            _ => self.connection.idle_since() + timeouts.idle,
        };
        let left = match self.connection.protocol {
            Protocol::H1 => draining.map(|since| since + DRAIN_IDLE),
            Protocol::H2 => match &self.goodbye {
                Some(goodbye) if goodbye.is_answered => {
                    return Some((goodbye.end(), Expiry::Silent));
                }
                _ => self.connection.leaving_since().map(|since| {
                    let patience = if self.is_between_frames() { GOODBYE } else { DRAIN_IDLE };
                    // From the last request on, whether it came before or after.
                    since.max(self.connection.idle_since()) + patience
                }),
            },
        };
        Some((left.map_or(idle, |left| left.min(idle)), Expiry::Silent))
    }

    fn is_between_frames(&self) -> bool {
        matches!(&self.scanner, Scanner::H2(filter) if filter.is_between_frames())
    }

    /// One step towards the end of an HTTP/2 connection that is silent: h2 says goodbye; if the client does not
    /// answer that, h2 is told that it has, and ends once what it holds is written; if the client
    /// does not take that either, h2 is told that the client has closed.
    fn part(&mut self, buf: &mut ReadBuf<'_>) -> Parting {
        if self.connection.leaving_since().is_none() {
            // Its driver says goodbye, and asks again.
            self.connection.expire();
            return Parting::Begun;
        }
        let now = Instant::now();
        let is_between = self.is_between_frames();
        let goodbye = self.goodbye.get_or_insert_with(|| Box::new(Goodbye::begin(now)));
        let has_place = buf.remaining() >= GOODBYE_ANSWER.len();
        if goodbye.is_answered || !is_between || !has_place {
            return Parting::Over;
        }
        goodbye.is_answered = true;
        goodbye.taken_at = now;
        buf.put_slice(&GOODBYE_ANSWER);
        Parting::Answered
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Expiry> {
        let Some((deadline, expiry)) = self.deadline() else {
            if matches!(self.scanner, Scanner::H1(_)) {
                // hyper does not ask again when the request under way has ended.
                self.timer.keep_armed(self.connection.listener.spec.timeouts.idle, cx);
            }
            return Poll::Pending;
        };
        let now = Instant::now();
        ready!(self.timer.poll_until(deadline, now, cx));
        if matches!(expiry, Expiry::Silent) && self.transport.socket().has_input() {
            // A request has just come; the runtime will tell.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(expiry)
    }

    /// Reads and drops what an HTTP/2 client still sends: window updates and acknowledgements, for
    /// as long as it reads our last answers. Closing before would make the kernel reset the
    /// connection and destroy what is on its way.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(goodbye) = &mut self.goodbye else { return Poll::Ready(()) };
        let Some(since) = goodbye.lingering_since else { return Poll::Ready(()) };
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.transport).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let Scanner::H2(filter) = &mut self.scanner else { continue };
                    filter.feed(buffer.filled());
                    filter.forget_ready();
                    // Whatever else it sends, as PINGs, does not say that it reads.
                    if filter.take_room_made() {
                        goodbye.taken_at = Instant::now();
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let total = since + self.connection.listener.spec.timeouts.write;
        let deadline = total.min(goodbye.end());
        self.timer.poll_until(deadline, Instant::now(), cx)
    }

    fn note_blocked(&mut self, is_blocked: bool) {
        if is_blocked {
            self.connection.set_write_blocked_at(Instant::now());
        }
        if let Some(goodbye) = &mut self.goodbye {
            if goodbye.is_blocked && !is_blocked {
                goodbye.taken_at = Instant::now();
            }
            goodbye.is_blocked = is_blocked;
        }
    }

    /// Takes nothing more in after something unacceptable; how many bytes of the last read come
    /// before it.
    fn stop_reading(&mut self, why: Unacceptable) -> usize {
        match why {
            Unacceptable::Uri => self.refuse(URI_TOO_LONG, ParseError::UriTooLong),
            Unacceptable::Head => self.refuse(HEAD_TOO_LARGE, ParseError::HeadTooLarge),
            Unacceptable::Chunk => {
                // The request whose body this is fails, and answers for it.
                self.connection.count_parse_error(ParseError::Malformed);
                self.state = State::Broken;
            }
        }
        match &self.scanner {
            Scanner::H1(scanner) => scanner.sound(),
            Scanner::H2(_) | Scanner::None => 0,
        }
    }

    fn refuse(&mut self, answer: &'static [u8], error: ParseError) {
        self.connection.count_parse_error(error);
        self.connection.set_refusing();
        self.state = match self.connection.protocol {
            Protocol::H1 => State::Refusing { answer, written: 0 },
            Protocol::H2 => State::Closed,
        };
    }

    /// Writes a refusal once all answers before it are out.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Refusing { answer, mut written } = self.state else { return Poll::Ready(()) };
        if self.connection.is_active() || self.transport.socket().is_write_blocked() {
            // hyper asks again when its own answer is through.
            return Poll::Pending;
        }
        while written < answer.len() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, &answer[written..])) {
                Ok(more) if more > 0 => {
                    written += more;
                    self.state = State::Refusing { answer, written };
                }
                _ => break,
            }
        }
        let _ = ready!(Pin::new(&mut self.transport).poll_flush(cx));
        self.state = State::Closed;
        Poll::Ready(())
    }
}

impl ClientEnd for ClientIo {
    fn is_gone(&mut self, _: &mut Context<'_>) -> bool {
        self.transport.socket().has_failed()
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.state {
                State::Closed | State::Expired => return Poll::Ready(Ok(())),
                State::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                State::Refusing { .. } => ready!(this.poll_refusal(cx)),
                State::Open => {
                    if let Scanner::H2(filter) = &mut this.scanner
                        && filter.read_ready(buf)
                    {
                        return Poll::Ready(Ok(()));
                    }
                    let before = buf.filled().len();
                    match Pin::new(&mut this.transport).poll_read(cx, buf) {
                        Poll::Ready(Ok(())) => {
                            let Some(bytes) = buf.filled().get(before..) else {
                                return Poll::Ready(Ok(()));
                            };
                            if bytes.is_empty() {
                                return Poll::Ready(Ok(()));
                            }
                            let sound = match this.scan(bytes, Instant::now()) {
                                Ok(sound) => sound,
                                // What came before it is none the worse.
                                Err(why) => this.stop_reading(why),
                            };
                            buf.set_filled(before + sound);
                            if sound > 0 {
                                return Poll::Ready(Ok(()));
                            }
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => match ready!(this.poll_deadline(cx)) {
                            Expiry::Head => this.refuse(TIMEOUT, ParseError::HeadTimeout),
                            Expiry::Silent if this.gives_way() => {
                                this.say_goodbye(cx);
                                this.state = State::Expired;
                            }
                            Expiry::Silent if this.connection.protocol == Protocol::H2 => {
                                match this.part(buf) {
                                    Parting::Begun => return Poll::Pending,
                                    Parting::Answered => return Poll::Ready(Ok(())),
                                    Parting::Over => this.state = State::Expired,
                                }
                            }
                            Expiry::Silent => this.state = State::Expired,
                        },
                    }
                }
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.transport).poll_write(cx, buf);
        this.note_blocked(outcome.is_pending());
        outcome
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.transport).poll_write_vectored(cx, bufs);
        this.note_blocked(outcome.is_pending());
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.transport).poll_flush(cx);
        this.note_blocked(outcome.is_pending());
        outcome
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.goodbye.as_ref().is_none_or(|goodbye| goodbye.lingering_since.is_none()) {
            ready!(Pin::new(&mut this.transport).poll_shutdown(cx))?;
            if this.connection.protocol == Protocol::H1 || matches!(this.state, State::Expired) {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let goodbye = this.goodbye.get_or_insert_with(|| Box::new(Goodbye::begin(now)));
            goodbye.lingering_since = Some(now);
            goodbye.taken_at = now;
        }
        this.poll_linger(cx).map(Ok)
    }
}
