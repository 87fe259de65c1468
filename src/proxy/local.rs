//! What the requests of one worker share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache as SwapCache};
use bytes::Bytes;
use http::HeaderValue;

use super::access_log::AccessLog;
use super::encoders::Encoders;
use super::hex;
use super::shortage::Shortage;
use crate::balance::Rng;
use crate::cache::key::KeyBuffer;
use crate::error::Kind;
use crate::memory::LocalMemory;
use crate::shutdown::{Stop, Tasks};
use crate::snapshot::Snapshot;
use crate::upstream::{AheadSlot, Connections, Reclaim};

/// A snapshot that is shared within a worker without touching the count that all workers share.
pub type SnapshotRef = Rc<Arc<Snapshot>>;

/// The state of one worker's requests.
#[derive(Debug)]
pub struct Local {
    published: RefCell<SwapCache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    current: RefCell<SnapshotRef>,
    pub connections: Rc<Connections>,
    pub reclaim: Reclaim,
    pub rng: Rng,
    pub log: AccessLog,
    /// Fetches and other work that outlives the request that began it.
    pub tasks: Tasks,
    /// What no stop waits for: it is bounded by its own deadlines, and ends with the worker.
    pub aside: Tasks,
    pub encoders: Rc<Encoders>,
    /// Of bodies that wait for those who read them.
    pub buffers: Rc<LocalMemory>,
    pub ahead: Rc<AheadSlot>,
    /// Where keys are built.
    pub key: RefCell<KeyBuffer>,
    pub variant_key: RefCell<KeyBuffer>,
    /// Fetches of whole objects under way that nobody waits for.
    pub background_fetches: Rc<Cell<usize>>,
    /// Fetches whose clients have all left.
    pub abandoned_fetches: Rc<Cell<usize>>,
    /// Of what connections need.
    pub shortage: Shortage,
    /// Copies of requests under way.
    pub copies: Rc<Cell<usize>>,
    pub stop: Stop,
    /// Why the answer that is given up next ends before its client has it.
    cut: Cell<Option<Kind>>,
    /// What the body of the HTTP/2 stream that is being polled did last.
    stream_event: Cell<Option<StreamEvent>>,
}

/// One of a bounded number of something, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Rc<Cell<usize>>);

impl Place {
    /// Takes one unless `max` are taken.
    pub(super) fn take(taken: &Rc<Cell<usize>>, max: usize) -> Option<Self> {
        if taken.get() >= max {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What a response body gave when it was asked for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEvent {
    /// A part: what follows waits for the reader.
    Part,
    /// Nothing yet: what follows waits for the origin.
    Nothing,
}

impl Local {
    pub fn new(
        published: Arc<ArcSwap<Snapshot>>,
        reclaim: Reclaim,
        log: AccessLog,
        tasks: Tasks,
        stop: Stop,
    ) -> Self {
        let current = Rc::new(published.load_full());
        let buffers = LocalMemory::new(buffer_bytes_max(&current));
        Self {
            published: RefCell::new(SwapCache::new(published)),
            current: RefCell::new(current),
            connections: Rc::default(),
            reclaim,
            rng: Rng::from_entropy(),
            log,
            tasks,
            aside: Tasks::default(),
            encoders: Rc::default(),
            buffers,
            ahead: Rc::default(),
            key: RefCell::default(),
            variant_key: RefCell::default(),
            background_fetches: Rc::default(),
            abandoned_fetches: Rc::default(),
            shortage: Shortage::default(),
            copies: Rc::default(),
            stop,
            cut: Cell::new(None),
            stream_event: Cell::new(None),
        }
    }

    /// The snapshot published last.
    pub fn snapshot(&self) -> SnapshotRef {
        let mut published = self.published.borrow_mut();
        let newest = published.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(newest, &current) {
            *current = Rc::new(newest.clone());
            self.buffers.set_bytes_max(buffer_bytes_max(newest));
        }
        current.clone()
    }

    /// A new request id: 32 hexadecimal digits.
    pub fn request_id(&self) -> HeaderValue {
        let mut text = [0; 32];
        for half in text.chunks_exact_mut(16) {
            hex::digits(half, self.rng.next());
        }
        // Digits are always a header value.
        HeaderValue::from_maybe_shared(Bytes::from_owner(text))
            .unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    /// Gives up what sends an answer, and says why.
    pub fn cut(&self, why: Kind, sender: impl FnOnce()) {
        self.cut.set(Some(why));
        sender();
        self.cut.set(None);
    }

    pub(super) fn take_cut(&self) -> Option<Kind> {
        self.cut.take()
    }

    pub fn note(&self, event: StreamEvent) {
        self.stream_event.set(Some(event));
    }

    pub fn take_stream_event(&self) -> Option<StreamEvent> {
        self.stream_event.take()
    }
}

/// The share of one worker in the memory for bodies that wait.
fn buffer_bytes_max(snapshot: &Snapshot) -> u64 {
    let process = &snapshot.config.process;
    process.buffer_bytes_max / process.workers.max(1) as u64
}
