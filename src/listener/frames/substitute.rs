//! What h2 gets in the place of header blocks and frames that it is not to see.

use super::rules::{self, Facts, Sort};
use super::{
    CONTINUATION, END_HEADERS, FRAME_HEADER_BYTES, HEADERS, PAYLOAD_BYTES_MAX, PRIORITY, hpack,
};
use crate::proxy::malformed::Rule;

/// Bytes of a target that is not valid, as the log shows it.
const SHOWN_PATH_BYTES: usize = 1024;
/// The longest method that the log shows.
const SHOWN_METHOD_BYTES: usize = 32;

/// The fields of a list.
#[derive(Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    /// The lengths of names and values in them, and what is known of each field.
    ends: Vec<(usize, usize, Facts)>,
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn push(&mut self, name: &[u8], value: &[u8], facts: Facts) {
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.ends.push((name.len(), value.len(), facts));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Facts)> {
        let mut rest = &self.bytes[..];
        self.ends.iter().map(move |(name, value, facts)| {
            let (field, more) = rest.split_at(name + value);
            rest = more;
            let (name, value) = field.split_at(*name);
            (name, value, *facts)
        })
    }

    pub(super) fn first(&self, sort: Sort) -> Option<(&[u8], Facts)> {
        let mut known = self.iter().filter(|(.., facts)| facts.sort == sort);
        known.next().map(|(_, value, facts)| (value, facts))
    }
}

/// The same fields in a block that no table has a part in.
pub(super) fn rewritten(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::with_capacity(fields.bytes.len() + 4 * fields.ends.len());
    for (name, value, _) in fields.iter() {
        hpack::push_literal(&mut block, name, value);
    }
    block
}

/// A request that stands for one that breaks a rule, with as much of that as is sound.
pub(super) fn marker(rule: Rule, fields: &Fields, bytes_max: usize) -> Vec<u8> {
    let method = match fields.first(Sort::Method) {
        Some((method, Facts { breaks: None, .. })) if method.len() <= SHOWN_METHOD_BYTES => {
            std::str::from_utf8(method).unwrap_or("-")
        }
        _ => "-",
    };
    let scheme = match fields.first(Sort::Scheme) {
        Some((b"http", _)) => "http",
        _ => "https",
    };
    let shown = SHOWN_PATH_BYTES.min(bytes_max / 8);
    let path = match fields.first(Sort::Path) {
        Some((path, Facts { breaks: None, .. })) if path.len() <= shown => path.to_vec(),
        Some((path, _)) => shown_path(&path[..path.len().min(shown)]),
        None => b"/".to_vec(),
    };
    let protocol = rule.marker(method);
    let authority = fields
        .first(Sort::Authority)
        .filter(|(authority, facts)| facts.breaks.is_none() && authority.len() <= shown);
    let mut block = Vec::new();
    let mut size = 0;
    let mut push = |name: &[u8], value: &[u8]| {
        let with = size + name.len() + value.len() + rules::FIELD_BYTES;
        if with < bytes_max {
            size = with;
            hpack::push_literal(&mut block, name, value);
        }
    };
    push(b":method", b"CONNECT");
    push(b":protocol", protocol.as_bytes());
    push(b":scheme", scheme.as_bytes());
    push(b":path", &path);
    if let Some((authority, _)) = authority {
        push(b":authority", authority);
    }
    for (name, value, facts) in fields.iter() {
        if facts.sort == Sort::Regular && facts.breaks.is_none() {
            push(name, value);
        }
    }
    block
}

/// A target for the log, whatever it was.
fn shown_path(path: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(path.len() + 1);
    if path.first() != Some(&b'/') {
        shown.push(b'/');
    }
    for byte in path {
        match byte {
            b'"'
            | b'#'
            | b'<'
            | b'>'
            | b'\\'
            | b'^'
            | b'`'
            | b'{'
            | b'|'
            | b'}'
            | ..=0x20
            | 0x7f.. => {
                shown.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
            _ => shown.push(*byte),
        }
    }
    shown
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block in as many frames as it takes.
pub(super) fn frames(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(PAYLOAD_BYTES_MAX).peekable();
    let mut kind = HEADERS;
    let mut flags = flags;
    let mut bytes = Vec::with_capacity(block.len() + 4 * FRAME_HEADER_BYTES);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend_from_slice(&frame(kind, flags, stream, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    if bytes.is_empty() {
        return frame(HEADERS, flags | END_HEADERS, stream, &[]);
    }
    bytes
}

/// A frame that makes h2 reset a stream: a dependency on itself is an error of a stream (RFC 7540
/// §5.3.1) without any consequence for the connection.
pub(super) fn reset(stream: u32) -> Vec<u8> {
    let [a, b, c, d] = stream.to_be_bytes();
    frame(PRIORITY, 0, stream, &[a, b, c, d, 0])
}
