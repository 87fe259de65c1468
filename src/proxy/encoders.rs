//! How many encoders a worker may have, by what they work for, and whose turn it is. Above that, or
//! when too many wait for their turn, bodies are sent as they are: memory stays bounded, and a crowd
//! does not wait for compression.

use std::cell::Cell;
use std::rc::Rc;

use crate::compress::turns::{Load, Ticket, Turns};

/// Responses that are coded while they are sent; each encoder has at most about 1.2 MiB.
const STREAMS_MAX: usize = 64;
/// Streams of events last long, and must not take every place.
const EVENT_STREAMS_MAX: usize = 32;
/// Renditions of stored bodies in the making; each encoder has at most about 4 MiB.
const RENDITIONS_MAX: usize = 8;

/// What an encoder works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Stream,
    Events,
    Rendition,
}

/// The encoders of one worker.
#[derive(Debug, Default)]
pub struct Encoders {
    streams: Cell<usize>,
    events: Cell<usize>,
    renditions: Cell<usize>,
    pub turns: Rc<Turns>,
}

/// The right to have an encoder, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    encoders: Rc<Encoders>,
    purpose: Purpose,
}

impl Encoders {
    pub(super) fn permit(self: &Rc<Self>, purpose: Purpose) -> Option<Permit> {
        let (count, max) = self.count(purpose);
        if count.get() >= max || self.turns.load() == Load::Overloaded {
            return None;
        }
        count.set(count.get() + 1);
        Some(Permit { encoders: self.clone(), purpose })
    }

    fn count(&self, purpose: Purpose) -> (&Cell<usize>, usize) {
        match purpose {
            Purpose::Stream => (&self.streams, STREAMS_MAX),
            Purpose::Events => (&self.events, EVENT_STREAMS_MAX),
            Purpose::Rendition => (&self.renditions, RENDITIONS_MAX),
        }
    }
}

impl Permit {
    /// A place among those that wait for their turn.
    pub(super) fn ticket(&self) -> Ticket {
        self.encoders.turns.ticket()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (count, _) = self.encoders.count(self.purpose);
        count.set(count.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_for_each_purpose_and_come_back() {
        let encoders = Rc::new(Encoders::default());
        let permits: Vec<_> =
            std::iter::from_fn(|| encoders.permit(Purpose::Events)).take(1000).collect();
        assert_eq!(permits.len(), EVENT_STREAMS_MAX);
        assert!(encoders.permit(Purpose::Stream).is_some());
        drop(permits);
        assert!(encoders.permit(Purpose::Events).is_some());
    }
}
