//! The executor of HTTP/2 streams, which gives up on the stream whose reader has stalled.
//!
//! A client that closes the window of one stream stops hyper from asking that stream's body for
//! more; no timer of the body would ever run. But every stream is a task, and a task that waits
//! though its body has just given a part waits for the reader. If that lasts for
//! `timeouts.write`, the task is dropped, which resets the stream and nothing else. Time in which
//! the connection as a whole waits for its reader does not count: then it is slow, and shared by
//! many streams, and [`super::socket`] sees whether it goes on.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Kind;
use crate::proxy::client::ClientConnection;
use crate::proxy::local::{Local, StreamEvent};
use crate::timer::LazyTimer;
use crate::upstream::AheadDriver;

/// Runs the streams of one worker's connections.
#[derive(Debug, Clone)]
pub(crate) struct StreamExecutor {
    pub(crate) local: Rc<Local>,
    pub(crate) connection: Rc<ClientConnection>,
    pub(crate) write_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        let task = StreamTask {
            stream: Some(Box::pin(stream)),
            ahead: AheadDriver::default(),
            local: self.local.clone(),
            connection: self.connection.clone(),
            write_timeout: self.write_timeout,
            blocked_since: None,
            timer: LazyTimer::default(),
        };
        self.local.tasks.spawn("http/2 stream", task);
    }
}

struct StreamTask<F> {
    /// `None` once it has been given up.
    stream: Option<Pin<Box<F>>>,
    ahead: AheadDriver,
    local: Rc<Local>,
    connection: Rc<ClientConnection>,
    write_timeout: Duration,
    /// Since when the reader has taken nothing.
    blocked_since: Option<Instant>,
    timer: LazyTimer,
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.local.take_stream_event();
        this.local.ahead.clear();
        let Some(stream) = &mut this.stream else { return Poll::Ready(()) };
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Err(why) = this.ahead.poll(&this.local.ahead, cx) {
            this.local.cut(why, || this.stream = None);
            return Poll::Ready(());
        }
        match this.local.take_stream_event() {
            Some(StreamEvent::Part) => this.blocked_since = Some(Instant::now()),
            Some(StreamEvent::Nothing) => this.blocked_since = None,
            // It was woken for something else.
            None => {}
        }
        let Some(since) = this.blocked_since else { return Poll::Pending };
        loop {
            let since = this.connection.write_blocked_at().map_or(since, |at| at.max(since));
            let (deadline, now) = (since + this.write_timeout, Instant::now());
            if this.timer.poll_until(deadline, now, cx).is_pending() {
                return Poll::Pending;
            }
            if this.connection.write_blocked_at().is_none_or(|at| at + this.write_timeout <= now) {
                this.local.cut(Kind::ReaderStalled, || this.stream = None);
                return Poll::Ready(());
            }
        }
    }
}
