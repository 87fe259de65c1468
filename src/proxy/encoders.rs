//! How many encoders a worker may have at work, by what they work for. Above that, bodies are sent
//! as they are: memory stays bounded, and a crowd does not wait for compression.

use std::cell::Cell;
use std::rc::Rc;

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
        if count.get() >= max {
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
