//! Reads header blocks (RFC 7541), beside h2, which ends the whole connection over a field that it
//! does not like.
//!
//! Nothing is judged twice: the dynamic table keeps what is known of each field.

use std::collections::VecDeque;

use super::huffman;
use super::rules::{self, Facts};

/// The size of the dynamic table that we have announced (RFC 9113 §6.5.2), in bytes.
const TABLE_BYTES_MAX: usize = 4096;
/// Counted for each entry beside its bytes (RFC 7541 §4.1).
const ENTRY_BYTES: usize = 32;
/// Beyond this no number of a client's is meant seriously.
const NUMBER_MAX: usize = 1 << 28;

/// A block that cannot be decoded: the connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

impl From<huffman::NoCode> for Undecodable {
    fn from(_: huffman::NoCode) -> Self {
        Self
    }
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The newest last.
    entries: VecDeque<Entry>,
    /// Of the entries, in their order, behind those of some that are gone.
    bytes: Vec<u8>,
    size: usize,
    /// What the client has taken off the size that it may use.
    reduced: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
    facts: Facts,
}

impl Entry {
    fn size(self) -> usize {
        self.name + self.value + ENTRY_BYTES
    }
}

/// Bytes of names that the literals of one block may take from the table: three bytes of a block may
/// stand for kilobytes, which are copied and looked through.
const REFERRED_BYTES_MAX: usize = 1 << 20;

impl Decoder {
    /// Hands every field of a block to `field`. `text` is room to write in.
    pub(super) fn decode(
        &mut self,
        mut block: &[u8],
        text: &mut Vec<u8>,
        mut field: impl FnMut(&[u8], &[u8], Facts),
    ) -> Result<(), Undecodable> {
        let (mut is_first, mut referred) = (true, 0);
        while let Some(first) = block.first() {
            match first {
                0x80.. => {
                    let index = number(&mut block, 7)?;
                    self.indexed(index, &mut field)?;
                }
                0x20..0x40 if is_first => {
                    let size = number(&mut block, 5)?;
                    self.reduced = TABLE_BYTES_MAX.checked_sub(size).ok_or(Undecodable)?;
                    self.evict(0);
                    continue;
                }
                0x20..0x40 => return Err(Undecodable),
                _ => {
                    let is_kept = *first >= 0x40;
                    let index = number(&mut block, if is_kept { 6 } else { 4 })?;
                    text.clear();
                    match index {
                        0 => string(&mut block, text)?,
                        index => self.name(index, text)?,
                    }
                    let name = text.len();
                    if index != 0 {
                        referred += name;
                        if referred > REFERRED_BYTES_MAX {
                            return Err(Undecodable);
                        }
                    }
                    string(&mut block, text)?;
                    let (name, value) = text.split_at(name);
                    let facts = rules::facts(name, value);
                    field(name, value, facts);
                    if is_kept {
                        self.insert(name, value, facts);
                    }
                }
            }
            is_first = false;
        }
        Ok(())
    }

    fn indexed(
        &self,
        index: usize,
        field: &mut impl FnMut(&[u8], &[u8], Facts),
    ) -> Result<(), Undecodable> {
        if let Some((name, value)) = STATIC.get(index.wrapping_sub(1)) {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            field(name, value, rules::facts(name, value));
            return Ok(());
        }
        let entry = self.entry(index)?;
        let (name, value) =
            self.bytes[entry.start..][..entry.name + entry.value].split_at(entry.name);
        field(name, value, entry.facts);
        Ok(())
    }

    fn name(&self, index: usize, text: &mut Vec<u8>) -> Result<(), Undecodable> {
        if let Some((name, _)) = STATIC.get(index.wrapping_sub(1)) {
            text.extend_from_slice(name.as_bytes());
            return Ok(());
        }
        let entry = self.entry(index)?;
        text.extend_from_slice(&self.bytes[entry.start..][..entry.name]);
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<Entry, Undecodable> {
        let back = index.checked_sub(STATIC.len()).filter(|back| *back > 0).ok_or(Undecodable)?;
        let at = self.entries.len().checked_sub(back).ok_or(Undecodable)?;
        self.entries.get(at).copied().ok_or(Undecodable)
    }

    fn insert(&mut self, name: &[u8], value: &[u8], facts: Facts) {
        let size = name.len() + value.len() + ENTRY_BYTES;
        self.evict(size);
        if size > TABLE_BYTES_MAX - self.reduced {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_back(Entry { start, name: name.len(), value: value.len(), facts });
        self.size += size;
    }

    /// Makes room for `bytes` more.
    fn evict(&mut self, bytes: usize) {
        while self.size + bytes > TABLE_BYTES_MAX - self.reduced
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
        let gone = self.entries.front().map_or(self.bytes.len(), |oldest| oldest.start);
        if gone > TABLE_BYTES_MAX {
            self.bytes.drain(..gone);
            self.entries.iter_mut().for_each(|entry| entry.start -= gone);
        }
    }
}

/// Reads a number whose first byte has `bits` of it (RFC 7541 §5.1).
fn number(block: &mut &[u8], bits: u32) -> Result<usize, Undecodable> {
    let (first, mut rest) = block.split_first().ok_or(Undecodable)?;
    let mask = (1_usize << bits) - 1;
    let mut number = usize::from(*first) & mask;
    if number == mask {
        let mut shift = 0;
        loop {
            let (byte, more) = rest.split_first().ok_or(Undecodable)?;
            rest = more;
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if number > NUMBER_MAX || shift > 28 {
                return Err(Undecodable);
            }
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(number)
}

/// Appends a string (RFC 7541 §5.2).
fn string(block: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Undecodable> {
    let is_coded = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let length = number(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    match is_coded {
        true => huffman::decode(string, text)?,
        false => text.extend_from_slice(string),
    }
    Ok(())
}

/// Appends a field as a literal that enters no table, with nothing coded.
pub(super) fn push_literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for string in [name, value] {
        push_length(block, string.len());
        block.extend_from_slice(string);
    }
}

fn push_length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(0x7f) else { return block.push(length as u8) };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(0x80 | rest as u8);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// RFC 7541 appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Undecodable> {
        let mut fields = Vec::new();
        decoder.decode(block, &mut Vec::new(), |name, value, _| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            fields.push(format!("{}: {}", text(name), text(value)));
        })?;
        Ok(fields)
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        // RFC 7541 C.4: three requests with Huffman codes and one table.
        let mut decoder = Decoder::default();
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let head = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
        assert_eq!(fields(&mut decoder, &first).expect("a block"), head);
        let second = [0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        let known = fields(&mut decoder, &second).expect("a block");
        assert_eq!(known[3..], [":authority: www.example.com", "cache-control: no-cache"]);
        let third = [
            0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
            0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
        ];
        let known = fields(&mut decoder, &third).expect("a block");
        assert_eq!(known[3..], [":authority: www.example.com", "custom-key: custom-value"]);
        assert_eq!(decoder.size, 164);
    }

    #[test]
    fn the_table_forgets_the_oldest_and_never_grows_beyond_its_size() {
        let mut decoder = Decoder::default();
        for number in 0..2000 {
            let value = format!("{number:0>100}");
            let mut block = vec![0x40, 1, b'n', 100];
            block.extend_from_slice(value.as_bytes());
            block.push(0xbe);
            let known = fields(&mut decoder, &block).expect("a block");
            assert_eq!(known, [format!("n: {value}"), format!("n: {value}")]);
            assert!(decoder.size <= TABLE_BYTES_MAX && decoder.bytes.len() <= 3 * TABLE_BYTES_MAX);
        }
        let oldest = 0x80 | (61 + decoder.entries.len()) as u8;
        assert!(fields(&mut decoder, &[oldest]).is_ok());
        assert_eq!(fields(&mut decoder, &[oldest + 1]), Err(Undecodable));
        // One that has no room in it empties it.
        let mut large = vec![0x40, 1, b'n'];
        push_length(&mut large, 5000);
        large.resize(large.len() + 5000, b'x');
        assert_eq!(fields(&mut decoder, &large).expect("a block").len(), 1);
        assert_eq!(fields(&mut decoder, &[0xbe]), Err(Undecodable));
        // So does a size of nothing, which can be taken back.
        assert!(fields(&mut decoder, &[0x20, 0x40, 1, b'a', 1, b'b']).is_ok());
        assert!(decoder.entries.is_empty());
        assert!(fields(&mut decoder, &[0x3f, 0xe1, 0x1f, 0x40, 1, b'a', 1, b'b', 0xbe]).is_ok());
    }

    #[test]
    fn blocks_that_are_none_are_refused() {
        for block in [
            &[0x80][..],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0xff],
            &[0x40],
            &[0x40, 5, b'a'],
            &[0x40, 1, b'a'],
            &[0x82, 0x20],
            &[0x3f, 0xe2, 0x1f],
            &[0x41, 0x81, 0x00],
            &[0xbe],
        ] {
            assert_eq!(fields(&mut Decoder::default(), block), Err(Undecodable), "{block:x?}");
        }
    }

    #[test]
    fn a_literal_that_is_written_is_read_again() {
        for length in [0, 1, 126, 127, 128, 255, 20_000] {
            let (mut block, value) = (Vec::new(), "x".repeat(length));
            push_literal(&mut block, b"name", value.as_bytes());
            let known = fields(&mut Decoder::default(), &block).expect("a block");
            assert_eq!(known, [format!("name: {value}")]);
        }
    }
}
