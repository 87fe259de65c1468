//! Follows the frames of an HTTP/2 connection in its raw bytes.
//!
//! h2 has no timer for a header block that never ends. This scanner sees whether the connection
//! is inside one (RFC 9113 §6.2, §6.10). It reads nothing but frame headers.

/// Length of the client's connection preface, in bytes.
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;

const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

#[derive(Debug)]
pub(crate) struct FrameScanner {
    preface_left: usize,
    header: [u8; FRAME_HEADER_BYTES],
    /// Bytes of `header` that have come.
    header_len: usize,
    /// Bytes of the current frame's payload that are to come.
    payload_left: usize,
    /// A header block has begun and not ended.
    in_header_block: bool,
    /// The client has made room for answers since that was asked last.
    has_made_room: bool,
}

impl FrameScanner {
    pub(crate) fn new() -> Self {
        Self {
            preface_left: PREFACE_BYTES,
            header: [0; FRAME_HEADER_BYTES],
            header_len: 0,
            payload_left: 0,
            in_header_block: false,
            has_made_room: false,
        }
    }

    /// Whether a preface or a header block has begun that is not complete.
    pub(crate) fn is_in_head(&self) -> bool {
        self.preface_left > 0 || self.in_header_block
    }

    /// Whether a frame of ours could be put between those of the client.
    pub(crate) fn is_between_frames(&self) -> bool {
        !self.is_in_head() && self.payload_left == 0 && self.header_len == 0
    }

    /// Whether the client has made room for answers, as a reader does, since the last call.
    pub(crate) fn take_room_made(&mut self) -> bool {
        std::mem::take(&mut self.has_made_room)
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        let skip = self.preface_left.min(bytes.len());
        self.preface_left -= skip;
        bytes = &bytes[skip..];
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = self.payload_left.min(bytes.len());
                self.payload_left -= skip;
                bytes = &bytes[skip..];
                if self.payload_left == 0 {
                    self.end_frame();
                }
                continue;
            }
            let take = (FRAME_HEADER_BYTES - self.header_len).min(bytes.len());
            self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
            self.header_len += take;
            bytes = &bytes[take..];
            if self.header_len == FRAME_HEADER_BYTES {
                self.begin_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, ..] = self.header;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_header_block = true;
        }
        self.has_made_room |= kind == WINDOW_UPDATE;
        if self.payload_left == 0 {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        let (kind, flags) = (self.header[3], self.header[4]);
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.in_header_block = false;
        }
        self.header_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(bytes.len() + payload, 0);
        bytes
    }

    /// Feeds in pieces of every size.
    fn is_in_head(bytes: &[u8]) -> bool {
        let results: Vec<bool> = (1..=bytes.len())
            .map(|size| {
                let mut scanner = FrameScanner::new();
                bytes.chunks(size).for_each(|piece| scanner.feed(piece));
                scanner.is_in_head()
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
        results[0]
    }

    #[test]
    fn a_connection_is_in_a_head_until_its_preface_has_come() {
        assert!(is_in_head(&[b'P'; PREFACE_BYTES - 1]));
        assert!(!is_in_head(&[b'P'; PREFACE_BYTES]));
    }

    #[test]
    fn room_is_made_by_window_updates_only() {
        let mut scanner = FrameScanner::new();
        scanner.feed(&[b'P'; PREFACE_BYTES]);
        assert!(scanner.is_between_frames());
        scanner.feed(&frame(0x6, 0, 8));
        assert!(!scanner.take_room_made());
        let update = frame(WINDOW_UPDATE, 0, 4);
        scanner.feed(&update[..10]);
        assert!(!scanner.is_between_frames());
        scanner.feed(&update[10..]);
        assert!(scanner.is_between_frames());
        assert!(scanner.take_room_made());
        assert!(!scanner.take_room_made());
    }

    #[test]
    fn a_header_block_lasts_until_the_end_of_the_frame_that_ends_it() {
        let preface = vec![b'P'; PREFACE_BYTES];
        let settings = frame(0x4, 0, 12);
        let open = [preface.clone(), settings, frame(HEADERS, 0, 300)].concat();
        assert!(is_in_head(&open));
        let continued = [open.clone(), frame(CONTINUATION, 0, 5)].concat();
        assert!(is_in_head(&continued));
        let ended = [open, frame(CONTINUATION, END_HEADERS, 0), frame(0, 0, 9)].concat();
        assert!(!is_in_head(&ended));
        let partial = [preface, frame(HEADERS, END_HEADERS, 20)].concat();
        assert!(is_in_head(&partial[..partial.len() - 1]));
        assert!(!is_in_head(&partial));
    }
}
