//! The frames of an HTTP/2 connection on their way to h2.
//!
//! h2 ends the whole connection over many a header list that is an error of its stream (RFC 9113
//! §8.1.1), resets other streams without a word to its user, and has no timer for a header block
//! that never ends. So whole header blocks pass here. One that is sound goes on as it came. In the
//! place of one that is not h2 gets a request that says what is wrong ([`Rule::marker`]), or what
//! makes it reset the stream. Then the tables of both decoders differ, and all further blocks of
//! the connection are written anew.
//!
//! What is an error of the connection is left to h2.

mod hpack;
mod huffman;
mod rules;
mod substitute;

use std::cell::RefCell;

use hpack::Decoder;
use rules::List;
use substitute::{Fields, frame, frames, marker, reset, rewritten};
use tokio::io::ReadBuf;

use crate::proxy::malformed::Rule;

/// Length of the client's connection preface, in bytes.
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// The largest payload that we take (RFC 9113 §4.2), in bytes.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// Frames that one header block may come in.
const FRAMES_OF_BLOCK_MAX: usize = 32;
/// A list that is larger than the limit by this factor has no end that is waited for.
const ABUSE_FACTOR: usize = 4;

const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

#[derive(Debug)]
pub(crate) struct FrameFilter {
    /// The largest header list of a request, in bytes as RFC 9113 §6.5.2 counts them.
    list_bytes_max: usize,
    preface_left: usize,
    /// Bytes of the current frame, which passes, that are to come.
    payload_left: usize,
    /// The beginning of a frame or a header block that is looked at when all of it has come.
    held: Vec<u8>,
    /// For h2, before anything else is read, from `ready_at` on.
    ready: Vec<u8>,
    ready_at: usize,
    mode: Mode,
    decoder: Decoder,
    /// The last stream that was opened.
    last_stream: u32,
    /// The client has made room for answers since that was asked last.
    has_made_room: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Sound blocks pass as they came.
    Checking,
    /// h2's table is no longer the client's.
    Rewriting,
    /// The connection is at its end, which h2 tells the client.
    Ending,
}

/// What becomes of bytes behind those that pass.
enum Step {
    /// There are none.
    End,
    /// More have to come first.
    Hold,
    /// So many of them are replaced.
    Replace(usize, Vec<u8>),
}

/// A frame of which at least the header has come.
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
        Some(Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & !(1 << 31),
        })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Room to work in, which all connections of a worker share.
#[derive(Default)]
struct Scratch {
    text: Vec<u8>,
    /// A block that came in more than one frame.
    block: Vec<u8>,
    fields: Fields,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl FrameFilter {
    pub(crate) fn new(list_bytes_max: usize) -> Self {
        Self {
            list_bytes_max,
            preface_left: PREFACE_BYTES,
            payload_left: 0,
            held: Vec::new(),
            ready: Vec::new(),
            ready_at: 0,
            mode: Mode::Checking,
            decoder: Decoder::default(),
            last_stream: 0,
            has_made_room: false,
        }
    }

    /// Whether a preface or a header block has begun that is not complete.
    pub(crate) fn is_in_head(&self) -> bool {
        self.preface_left > 0 || self.held.get(3) == Some(&HEADERS)
    }

    /// Whether a frame of ours could be put between those of the client.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.preface_left == 0
            && self.payload_left == 0
            && self.held.is_empty()
            && self.ready.is_empty()
    }

    /// Whether the client has made room for answers, as a reader does, since the last call.
    pub(crate) fn take_room_made(&mut self) -> bool {
        std::mem::take(&mut self.has_made_room)
    }

    /// A GOAWAY that tells which streams have been served.
    pub(crate) fn goodbye(&self) -> Vec<u8> {
        let payload = [self.last_stream.to_be_bytes(), [0; 4]].concat();
        frame(GOAWAY, 0, 0, &payload)
    }

    /// Drops what is ready: h2 reads no more.
    pub(crate) fn forget_ready(&mut self) {
        (self.ready, self.ready_at) = (Vec::new(), 0);
    }

    /// Hands out what stands in the place of other bytes; whether there was any.
    pub(crate) fn read_ready(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.ready[self.ready_at..];
        if rest.is_empty() {
            return false;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.ready_at += count;
        if self.ready_at == self.ready.len() {
            (self.ready, self.ready_at) = (Vec::new(), 0);
        }
        true
    }

    /// Takes the next bytes of the connection; how many of them pass as they are. The others are
    /// kept, or something in their place is ready.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        if !self.held.is_empty() {
            // Exactly, or nearly: there may be many connections with unfinished heads.
            self.held.reserve_exact(bytes.len().max(self.held.len() / 8));
            self.held.extend_from_slice(bytes);
            let held = std::mem::take(&mut self.held);
            self.held = self.work(held, 0);
            return 0;
        }
        match self.scan(bytes) {
            (passed, Step::End) => passed,
            (passed, Step::Hold) => {
                self.held = bytes[passed..].to_vec();
                passed
            }
            (passed, Step::Replace(count, with)) => {
                self.ready.extend_from_slice(&with);
                let rest = bytes[passed + count..].to_vec();
                self.held = self.work(rest, 0);
                passed
            }
        }
    }

    /// Makes ready what passes of `bytes`, and returns what is to be held of them.
    fn work(&mut self, mut bytes: Vec<u8>, mut at: usize) -> Vec<u8> {
        loop {
            let (passed, step) = self.scan(&bytes[at..]);
            self.ready.extend_from_slice(&bytes[at..at + passed]);
            at += passed;
            match step {
                Step::End => return Vec::new(),
                Step::Hold if at == 0 => return bytes,
                Step::Hold => return bytes.split_off(at),
                Step::Replace(count, with) => {
                    self.ready.extend_from_slice(&with);
                    at += count;
                }
            }
        }
    }

    /// How many bytes pass, and what becomes of those behind them.
    fn scan(&mut self, bytes: &[u8]) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if rest.is_empty() || self.mode == Mode::Ending {
                return (bytes.len(), Step::End);
            }
            let left =
                if self.preface_left > 0 { &mut self.preface_left } else { &mut self.payload_left };
            if *left > 0 {
                let skip = rest.len().min(*left);
                *left -= skip;
                at += skip;
                continue;
            }
            let Some(head) = Head::read(rest) else { return (at, Step::Hold) };
            self.has_made_room |= head.kind == WINDOW_UPDATE;
            match head.kind {
                HEADERS => match self.block(head, rest) {
                    Block::Incomplete => return (at, Step::Hold),
                    Block::Passes(count) => at += count,
                    Block::Becomes(count, with) => return (at, Step::Replace(count, with)),
                    Block::Ends => {
                        let was_rewriting = self.mode == Mode::Rewriting;
                        self.mode = Mode::Ending;
                        if was_rewriting {
                            // For h2 it might be sound.
                            let stream = self.last_stream | 1;
                            let with = frame(HEADERS, END_HEADERS, stream, &[0x80]);
                            return (at, Step::Replace(rest.len(), with));
                        }
                    }
                },
                WINDOW_UPDATE
                    if head.length == 4 && (1..=self.last_stream).contains(&head.stream) =>
                {
                    let Some(increment) = rest.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 4)
                    else {
                        return (at, Step::Hold);
                    };
                    if matches!(increment, [0 | 0x80, 0, 0, 0]) {
                        // An error of the stream (RFC 9113 §6.9).
                        let count = FRAME_HEADER_BYTES + 4;
                        return (at, Step::Replace(count, reset(head.stream)));
                    }
                    at += FRAME_HEADER_BYTES + 4;
                }
                _ => {
                    self.payload_left = head.length;
                    at += FRAME_HEADER_BYTES;
                }
            }
        }
    }

    /// Judges the header block that `bytes` begin with.
    fn block(&mut self, head: Head, bytes: &[u8]) -> Block {
        let bytes_max = ABUSE_FACTOR * self.list_bytes_max + PAYLOAD_BYTES_MAX;
        if head.stream.is_multiple_of(2) || bytes.len() > bytes_max {
            return Block::Ends;
        }
        let end = match extent(head, bytes) {
            Extent::Incomplete => return Block::Incomplete,
            Extent::Broken => return Block::Ends,
            Extent::Whole(end) => end,
        };
        let payload = &bytes[FRAME_HEADER_BYTES..][..head.length];
        let Some((first, depends)) = fragment(head, payload) else { return Block::Ends };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut whole = std::mem::take(&mut scratch.block);
            let mut rest = &bytes[FRAME_HEADER_BYTES + head.length..end];
            let block = if rest.is_empty() {
                first
            } else {
                whole.clear();
                whole.extend_from_slice(first);
                while let Some(next) = Head::read(rest) {
                    whole.extend_from_slice(&rest[FRAME_HEADER_BYTES..][..next.length]);
                    rest = &rest[FRAME_HEADER_BYTES + next.length..];
                }
                &whole
            };
            let block = self.judge(head, block, depends, end, scratch);
            scratch.block = whole;
            block
        })
    }

    /// Judges a block that is whole and is `bytes` long with its frames. `depends`: on itself.
    fn judge(
        &mut self,
        head: Head,
        block: &[u8],
        depends: bool,
        bytes: usize,
        scratch: &mut Scratch,
    ) -> Block {
        let Scratch { text, fields, .. } = scratch;
        fields.clear();
        let (mut list, bytes_max) = (List::default(), self.list_bytes_max);
        let decoded = self.decoder.decode(block, text, |name, value, facts| {
            list.add(name, value, facts);
            if !list.is_larger_than(bytes_max) {
                fields.push(name, value, facts);
            }
        });
        if decoded.is_err() {
            return Block::Ends;
        }
        let is_new = head.stream > self.last_stream;
        self.last_stream = self.last_stream.max(head.stream);
        let broken = match is_new {
            true => list.broken_as_head(bytes_max, !head.has(END_STREAM)),
            false => list.broken_as_trailers(bytes_max),
        };
        let broken = broken.or(depends.then_some(Rule::OwnDependency));
        let flags = head.flags & END_STREAM;
        match (broken, self.mode) {
            (None, Mode::Rewriting) => {
                Block::Becomes(bytes, frames(flags, head.stream, &rewritten(fields)))
            }
            (None, _) => Block::Passes(bytes),
            (Some(rule), _) => {
                self.mode = Mode::Rewriting;
                Block::Becomes(
                    bytes,
                    match is_new {
                        true => frames(flags, head.stream, &marker(rule, fields, bytes_max)),
                        // An answer may be on its way.
                        false => reset(head.stream),
                    },
                )
            }
        }
    }
}

/// What a header block is.
enum Block {
    Incomplete,
    /// So many bytes pass as they are.
    Passes(usize),
    /// So many bytes become others.
    Becomes(usize, Vec<u8>),
    /// The connection ends with it.
    Ends,
}

/// How far a header block goes.
enum Extent {
    Incomplete,
    /// Its bytes.
    Whole(usize),
    /// It is interrupted, or in more or larger frames than anybody needs.
    Broken,
}

fn extent(head: Head, bytes: &[u8]) -> Extent {
    let (mut frame, mut end) = (head, 0);
    for _ in 0..FRAMES_OF_BLOCK_MAX {
        if frame.length > PAYLOAD_BYTES_MAX {
            return Extent::Broken;
        }
        end += FRAME_HEADER_BYTES + frame.length;
        if bytes.len() < end {
            return Extent::Incomplete;
        }
        if frame.has(END_HEADERS) {
            return Extent::Whole(end);
        }
        let Some(next) = Head::read(&bytes[end..]) else { return Extent::Incomplete };
        if next.kind != CONTINUATION || next.stream != head.stream {
            return Extent::Broken;
        }
        frame = next;
    }
    Extent::Broken
}

/// The part of a HEADERS frame that is of its block, and whether the stream depends on itself.
fn fragment(head: Head, payload: &[u8]) -> Option<(&[u8], bool)> {
    let (padding, mut rest) = match head.has(PADDED) {
        true => payload.split_first().map(|(padding, rest)| (usize::from(*padding), rest))?,
        false => (0, payload),
    };
    let mut depends = false;
    if head.has(HAS_PRIORITY) {
        let (on, more) = rest.split_first_chunk::<4>()?;
        depends = u32::from_be_bytes(*on) & !(1 << 31) == head.stream;
        rest = more.split_first()?.1;
    }
    Some((rest.get(..rest.len().checked_sub(padding)?)?, depends))
}

#[cfg(test)]
mod tests;
