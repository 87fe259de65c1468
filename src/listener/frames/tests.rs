//! What h2 reads of the bytes that a client sends, whatever pieces those come in.

use tokio::io::ReadBuf;

use super::rules;
use super::substitute::{Fields, marker};
use super::*;

const SETTINGS: u8 = 0x4;
const LIST_BYTES_MAX: usize = 2000;

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::push_literal(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a.test")];

fn get(stream: u32) -> Vec<u8> {
    frames(END_STREAM, stream, &block(GET))
}

fn opened() -> Vec<u8> {
    [vec![b'P'; PREFACE_BYTES], frame(SETTINGS, 0, 0, &[0; 12])].concat()
}

/// What h2 reads, with pieces of every size.
fn passed(bytes: &[u8]) -> (Vec<u8>, bool) {
    let results: Vec<(Vec<u8>, bool)> = (1..=bytes.len())
        .map(|size| {
            let mut filter = FrameFilter::new(LIST_BYTES_MAX);
            let mut read = Vec::new();
            for piece in bytes.chunks(size) {
                let count = filter.feed(piece);
                read.extend_from_slice(&piece[..count]);
                let mut room = [0; 7];
                loop {
                    let mut buf = ReadBuf::new(&mut room);
                    if !filter.read_ready(&mut buf) {
                        break;
                    }
                    read.extend_from_slice(buf.filled());
                }
            }
            (read, filter.is_in_head())
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "it depends on the pieces");
    results[0].clone()
}

#[test]
fn a_connection_is_in_a_head_until_its_preface_has_come() {
    assert!(passed(&[b'P'; PREFACE_BYTES - 1]).1);
    assert!(!passed(&[b'P'; PREFACE_BYTES]).1);
}

#[test]
fn a_header_block_lasts_until_the_end_of_the_frame_that_ends_it() {
    let whole = block(GET);
    let (first, rest) = whole.split_at(10);
    let open = [opened(), frame(HEADERS, 0, 1, first)].concat();
    assert_eq!(passed(&open), (opened(), true));
    let continued = [open, frame(CONTINUATION, 0, 1, rest)].concat();
    assert_eq!(passed(&continued), (opened(), true));
    let ended = [continued, frame(CONTINUATION, END_HEADERS, 1, &[]), frame(0, 0, 1, b"data")];
    let ended = ended.concat();
    assert_eq!(passed(&ended), (ended.clone(), false));
    let partial = [opened(), get(1)].concat();
    assert!(passed(&partial[..partial.len() - 1]).1);
    assert_eq!(passed(&partial), (partial.clone(), false));
}

#[test]
fn room_is_made_by_window_updates_only() {
    let mut filter = FrameFilter::new(LIST_BYTES_MAX);
    filter.feed(&[b'P'; PREFACE_BYTES]);
    assert!(filter.is_between_frames());
    filter.feed(&frame(0x6, 0, 0, &[0; 8]));
    assert!(!filter.take_room_made());
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    filter.feed(&update[..10]);
    assert!(!filter.is_between_frames());
    filter.feed(&update[10..]);
    assert!(filter.is_between_frames());
    assert!(filter.take_room_made());
    assert!(!filter.take_room_made());
}

#[test]
fn what_is_sound_passes_as_it_came() {
    let padded = [&[3][..], &[0, 0, 0, 0, 16], &block(GET), &[0; 3]].concat();
    let all = [
        opened(),
        get(1),
        frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 3, &padded),
        frame(0, 0, 3, &[7; 300]),
        frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 9]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&[("x-sum", "1")])),
        frame(0x20, 0, 5, &[1; 40]),
    ]
    .concat();
    assert_eq!(passed(&all), (all.clone(), false));
}

#[test]
fn a_request_that_breaks_a_rule_becomes_one_that_says_so_and_the_others_stay_the_same() {
    let upper = [GET, &[("X-Upper", "a"), ("x-kept", "b")]].concat();
    // Both enter the table; the second request refers to them.
    let mut indexed = block(GET);
    indexed.extend_from_slice(b"\x40\x07X-Upper\x01a\x40\x06x-kept\x01b");
    let mut second = block(GET);
    second.push(0xbe);
    let mut third = block(GET);
    third.push(0xbf);
    let all = [
        opened(),
        frames(END_STREAM, 1, &indexed),
        frames(0, 3, &second),
        frame(0, END_STREAM, 3, b"data"),
        frames(END_STREAM, 5, &third),
    ]
    .concat();
    let malformed = |stream| {
        let fields: &[_] = match stream {
            1 => &upper,
            _ => GET,
        };
        let mut known = Fields::default();
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            known.push(name, value, rules::facts(name, value));
        }
        frames(END_STREAM, stream, &marker(Rule::FieldName, &known, LIST_BYTES_MAX))
    };
    let expected = [
        opened(),
        malformed(1),
        frames(0, 3, &block(&[GET, &[("x-kept", "b")]].concat())),
        frame(0, END_STREAM, 3, b"data"),
        malformed(5),
    ]
    .concat();
    assert_eq!(passed(&all), (expected, false));
}

#[test]
fn trailers_that_break_a_rule_and_windows_that_do_not_grow_reset_their_stream() {
    let all = [
        opened(),
        frames(0, 1, &block(GET)),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/")])),
        frame(WINDOW_UPDATE, 0, 1, &[0; 4]),
        get(3),
    ]
    .concat();
    let expected = [opened(), frames(0, 1, &block(GET)), reset(1), reset(1), get(3)].concat();
    assert_eq!(passed(&all), (expected, false));
}

#[test]
fn errors_of_the_connection_are_left_to_h2() {
    for bad in [
        frame(HEADERS, END_HEADERS, 2, &block(GET)),
        frame(HEADERS, END_HEADERS, 1, &[0x80]),
        frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82]),
        [frame(HEADERS, 0, 1, &[0x82]), frame(0, 0, 1, b"data")].concat(),
        [frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 3, &[0x82])].concat(),
        [&frame(HEADERS, 0, 1, &[])[..], &frame(CONTINUATION, 0, 1, &[]).repeat(40)].concat(),
    ] {
        let all = [opened(), bad, get(3)].concat();
        assert_eq!(passed(&all), (all.clone(), false));
    }
    // After a block that was written anew h2 might see nothing wrong.
    let bad = frames(END_STREAM, 1, &block(&[("x", "y")]));
    let all = [opened(), bad, frame(HEADERS, END_HEADERS, 3, &[0xbe])].concat();
    let (read, _) = passed(&all);
    assert!(read.ends_with(&frame(HEADERS, END_HEADERS, 1, &[0x80])));
}

#[test]
fn a_list_beyond_the_limit_is_not_kept() {
    let large = "x".repeat(LIST_BYTES_MAX);
    let all = [opened(), frames(END_STREAM, 1, &block(&[GET, &[("x", &large)]].concat()))];
    let (read, _) = passed(&all.concat());
    assert!(read.len() < opened().len() + 300, "{}", read.len());
}
