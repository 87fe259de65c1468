//! Our side of one stream of a shared connection, until both directions have come to their end.
//!
//! A stream that is given up before that would be reset, and an endpoint that gets many resets
//! protects itself by closing the connection, with everybody else's requests on it. So it goes to
//! its session, which [paces](super::resets) them.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::Response;

use super::resets::OfClient;
use super::session::{Place, Session};

/// One stream, and its place on the connection.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` once it was given up.
    halves: Option<Halves>,
    place: Option<Place>,
    session: Rc<Session>,
    /// Whose request it carries.
    client: Option<std::net::IpAddr>,
    id: u32,
}

#[derive(Debug)]
struct Halves {
    receive: Receive,
    send: SendStream<Bytes>,
    /// Our direction has its end, or the endpoint takes no more.
    is_sent: bool,
    /// The other has, or there is nothing to be had any more.
    is_received: bool,
}

#[derive(Debug)]
enum Receive {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Halves {
    fn is_over(&self) -> bool {
        self.is_sent && self.is_received
    }
}

impl Stream {
    pub(super) fn new(
        (response, send): (ResponseFuture, SendStream<Bytes>),
        is_sent: bool,
        place: Place,
        client: Option<std::net::IpAddr>,
    ) -> Self {
        let (session, id) = (place.session().clone(), response.stream_id().as_u32());
        let receive = Receive::Head(response);
        let halves = Some(Halves { receive, send, is_sent, is_received: false });
        Self { halves, place: Some(place), session, client, id }
    }

    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Whether the endpoint has said that it did not process it.
    pub(super) fn is_unprocessed(&self) -> bool {
        self.session.last_stream().is_some_and(|last| self.id > last)
    }

    /// The head of the answer. Not to be asked again once there was one, or an error.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, h2::Error>> {
        let Some(halves) = &mut self.halves else { return Poll::Pending };
        let Receive::Head(response) = &mut halves.receive else { return Poll::Pending };
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => {
                let (head, body) = response.into_parts();
                halves.is_received = body.is_end_stream();
                halves.receive = Receive::Body(body);
                Poll::Ready(Ok(Response::from_parts(head, ())))
            }
            Err(error) => {
                // Whatever ended it: there is nothing left to be reset.
                (halves.is_sent, halves.is_received) = (true, true);
                Poll::Ready(Err(error))
            }
        }
    }

    pub(super) fn body(&mut self) -> Option<&mut RecvStream> {
        match &mut self.halves.as_mut()?.receive {
            Receive::Head(_) => None,
            Receive::Body(body) => Some(body),
        }
    }

    pub(super) fn sender(&mut self) -> Option<&mut SendStream<Bytes>> {
        self.halves.as_mut().filter(|halves| !halves.is_sent).map(|halves| &mut halves.send)
    }

    /// Notes that our direction has its end.
    pub(super) fn set_sent(&mut self) {
        if let Some(halves) = &mut self.halves {
            halves.is_sent = true;
        }
    }

    /// Notes that the endpoint's direction has.
    pub(super) fn set_received(&mut self) {
        if let Some(halves) = &mut self.halves {
            halves.is_received = true;
        }
    }

    pub(super) fn is_received(&self) -> bool {
        self.halves.as_ref().is_none_or(|halves| halves.is_received)
    }

    /// Notes that the stream has ended by an error.
    pub(super) fn set_broken(&mut self) {
        self.set_sent();
        self.set_received();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (halves, place) = (self.halves.take(), self.place.take());
        if let (Some(halves), Some(place)) = (halves, place)
            && !halves.is_over()
        {
            let client = self.client.map(|ip| self.session.clients().given_up(ip));
            let stream = GivenUp { halves, _client: client, _place: place };
            self.session.give_up(stream);
        }
    }
}

/// A stream that nobody wants any more. Dropped before its end it is reset.
#[derive(Debug)]
pub(super) struct GivenUp {
    halves: Halves,
    _client: Option<OfClient>,
    /// Last, so that the stream has ended when its place is given back.
    _place: Place,
}

impl GivenUp {
    /// Reads over what still comes; ready when nothing has to be reset. The endpoint is given no
    /// room for more than it had.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let halves = &mut self.halves;
        if let Receive::Head(response) = &mut halves.receive {
            match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => halves.receive = Receive::Body(response.into_body()),
                Err(_) => return Poll::Ready(()),
            }
        }
        if let Receive::Body(body) = &mut halves.receive
            && !halves.is_received
        {
            while let Some(part) = ready!(body.poll_data(cx)) {
                if part.is_err() {
                    return Poll::Ready(());
                }
            }
            if ready!(body.poll_trailers(cx)).is_err() {
                return Poll::Ready(());
            }
            halves.is_received = true;
        }
        if halves.is_sent { Poll::Ready(()) } else { Poll::Pending }
    }
}
