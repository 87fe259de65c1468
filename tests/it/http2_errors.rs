//! Requests of HTTP/2 that are malformed: errors of their streams (RFC 9113 §8.1.1), which others
//! on the same connection do not notice. In raw frames, because no client sends such.

use crate::support::{Client, HOST, Origin, Proxy, Setup, ok};

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

struct Connection(Client);

impl Connection {
    fn open(proxy: &Proxy) -> Self {
        let mut client = proxy.connect();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut connection = Self(client);
        // No dynamic table, so that answers can be read, and room for all of them.
        connection.send(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        connection.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
        connection
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.send([&head, payload].concat());
    }

    fn ask(&mut self, stream: u32, fields: &[(&[u8], &[u8])]) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields));
    }

    fn read(&mut self) -> Frame {
        let head = self.0.read_exactly(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.0.read_exactly(length as usize);
        Frame { kind: head[3], flags: head[4], stream, payload }
    }

    /// The status of the answer on a stream, if there is one, and the code of its reset.
    fn outcome(&mut self, stream: u32) -> (Option<u16>, Option<Vec<u8>>) {
        let mut status = None;
        loop {
            let frame = self.read();
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS => status = Some(status_of(&frame.payload)),
                RST_STREAM => return (status, Some(frame.payload)),
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return (status, None);
            }
        }
    }

    /// Asserts that others are served as ever.
    fn assert_serves(&mut self, stream: u32) {
        self.ask(stream, &get("/fine"));
        assert_eq!(self.outcome(stream), (Some(200), None));
    }
}

/// The first field of an answer is its status: indexed, or a literal of three digits.
fn status_of(block: &[u8]) -> u16 {
    let block = &block[block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap()..];
    match block[0] {
        0x88 => 200,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => {
            let huffman = block[1] & 0x80 != 0;
            let digits = &block[2..2 + usize::from(block[1] & 0x7f)];
            if huffman { digits_of(digits) } else { text(digits).parse().unwrap() }
        }
    }
}

/// Digits of the Huffman code: 0 to 2 have five bits, the others six.
fn digits_of(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut number) = (&bits[..], 0);
    for _ in 0..3 {
        let short = u16::from_str_radix(&rest[..5], 2).unwrap();
        let (digit, length) = match short {
            0..=2 => (short, 5),
            _ => (u16::from_str_radix(&rest[..6], 2).unwrap() - 0x19 + 3, 6),
        };
        number = 10 * number + digit;
        rest = &rest[length..];
    }
    number
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        length @ 0..127 => block.push(length as u8),
        length => {
            let mut rest = length - 127;
            block.push(127);
            while rest >= 128 {
                block.push(128 | rest as u8);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    }
    block.extend_from_slice(bytes);
}

/// Literals that enter the dynamic table.
fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x40);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn get(path: &str) -> [(&[u8], &[u8]); 4] {
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", HOST.as_bytes()),
        (b":path", path.as_bytes()),
    ]
}

fn start() -> (Proxy, Origin) {
    let origin = Origin::answering(|_| ok("fine"));
    let setup = Setup::of(&[&origin])
        .listener("protocols = [\"h2\"]\nlimits.header_bytes = \"4KiB\"")
        .route("cache = false");
    (setup.start(), origin)
}

fn replaced<'a>(
    index: usize,
    field: (&'a [u8], &'a [u8]),
    path: &'a str,
) -> Vec<(&'a [u8], &'a [u8])> {
    let mut fields = get(path).to_vec();
    fields[index] = field;
    fields
}

fn with<'a>(field: (&'a [u8], &'a [u8]), path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    [&get(path)[..], &[field]].concat()
}

#[test]
fn a_malformed_request_is_400_on_its_stream_and_one_line_of_the_log() {
    let (proxy, origin) = start();
    let mut connection = Connection::open(&proxy);
    let long = vec![b'a'; 200];
    let cases: Vec<Vec<(&[u8], &[u8])>> = vec![
        with((b"X-Upper", b"a"), "/upper"),
        with((b"", b"a"), "/empty-name"),
        with((b"a b", b"a"), "/space"),
        with((b"x\xff", b"a"), "/name-bytes"),
        with((b"x", b"a\r\nb: c"), "/lines"),
        with((b"x", b"\0"), "/nul"),
        with((b"connection", b"close"), "/connection"),
        with((b"transfer-encoding", b"chunked"), "/encoding"),
        with((b"te", b"gzip"), "/te"),
        with((b":path", b"/other"), "/twice"),
        with((b":unknown", b""), "/unknown"),
        with((b":status", b"200"), "/status"),
        with((b":protocol", b"websocket"), "/protocol"),
        with((b"content-length", b"5"), "/no-body"),
        with((b"content-length", b"five"), "/no-number"),
        [&[(&b"x"[..], &b"y"[..])], &get("/late")[..]].concat(),
        replaced(0, (b":method", b"G T"), "/method"),
        replaced(0, (b":method", b""), "/no-method"),
        replaced(0, (b":method", b"\xff"), "/method-bytes"),
        replaced(1, (b":scheme", b""), "/scheme"),
        replaced(1, (b":scheme", b"\xff\xfe"), "/scheme-bytes"),
        replaced(2, (b":authority", b"a b"), "/authority"),
        replaced(2, (b":authority", b"\xff"), "/authority-bytes"),
        replaced(3, (b":path", b"/\xff\xfe-bytes"), ""),
        replaced(3, (b":path", b"/with space"), ""),
        replaced(3, (b":path", b"no-slash"), ""),
        replaced(3, (b":path", b""), ""),
        replaced(3, (b":authority", HOST.as_bytes()), ""),
        get("/missing-method")[1..].to_vec(),
        get("/missing-path")[..3].to_vec(),
        vec![(b":method", b"CONNECT"), (b":authority", b"a.test:1"), (b"content-length", b"1")],
        with((&long, b"\x01"), "/long-name"),
    ];
    let count = cases.len();
    let mut stream = 1;
    for fields in cases {
        connection.ask(stream, &fields);
        let shown: Vec<_> = fields.iter().map(|(n, v)| (text(n), text(v))).collect();
        let outcome = connection.outcome(stream);
        assert_eq!(outcome, (Some(400), Some(PROTOCOL_ERROR.to_vec())), "{shown:?}");
        connection.assert_serves(stream + 2);
        stream += 4;
    }
    assert_eq!(origin.count(), count);
    for (path, method) in
        [("/upper", "GET"), ("/method", "-"), ("/%FF%FE-bytes", "GET"), ("/no-slash", "GET")]
    {
        let line = proxy.access(&format!("\"{path}\""));
        assert_eq!((&line["status"], &line["error"]), (&400.into(), &"bad_request".into()));
        assert_eq!(line["method"], method, "{path}");
        assert_eq!(line["client_ip"], "127.0.0.1", "{path}");
    }
}

#[test]
fn a_header_list_beyond_the_limit_is_431_whatever_its_size_and_the_connection_goes_on() {
    let (proxy, _origin) = start();
    let mut connection = Connection::open(&proxy);
    for (stream, size) in [(1, 5000), (5, 15_000)] {
        let value = vec![b'x'; size];
        connection.ask(stream, &with((b"x-large", &value), "/large"));
        assert_eq!(connection.outcome(stream).0, Some(431), "{size}");
        connection.assert_serves(stream + 2);
    }
    // Few bytes that stand for many: 8 KiB of references to an entry of 3 KB.
    let mut bomb = block(&with((b"x-large", &vec![b'x'; 3000]), "/bomb"));
    bomb.resize(bomb.len() + 8192, 0xbe);
    connection.send(HEADERS, END_STREAM | END_HEADERS, 9, &bomb);
    assert_eq!(connection.outcome(9).0, Some(431));
    connection.assert_serves(11);
    assert_eq!(proxy.access("\"/bomb\"")["error"], "head_too_large");
}

#[test]
fn malformed_trailers_reset_their_stream_and_no_other() {
    let (proxy, _origin) = start();
    let mut connection = Connection::open(&proxy);
    let mut stream = 1;
    for trailer in
        [(&b":path"[..], &b"/"[..]), (b"X-Upper", b"a"), (b"x", b"\0"), (b"connection", b"close")]
    {
        connection.send(HEADERS, END_HEADERS, stream, &block(&get("/upload")));
        connection.send(DATA, 0, stream, b"data");
        connection.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[trailer]));
        assert_eq!(connection.outcome(stream).1, Some(PROTOCOL_ERROR.to_vec()), "{trailer:?}");
        connection.assert_serves(stream + 2);
        stream += 4;
    }
}

#[test]
fn a_body_of_another_length_than_announced_resets_its_stream_and_no_other() {
    let (proxy, _origin) = start();
    let mut connection = Connection::open(&proxy);
    for (stream, data) in [(1, &b"abc"[..]), (5, b"abcdefg")] {
        let fields = with((b"content-length", b"5"), "/length");
        connection.send(HEADERS, END_HEADERS, stream, &block(&fields));
        connection.send(DATA, END_STREAM, stream, data);
        assert_eq!(connection.outcome(stream).1, Some(PROTOCOL_ERROR.to_vec()));
        connection.assert_serves(stream + 2);
    }
}

#[test]
fn many_malformed_requests_are_no_reason_to_end_the_connection() {
    let (proxy, _origin) = start();
    let mut connection = Connection::open(&proxy);
    for number in 0..1500 {
        let stream = 2 * number + 1;
        connection.ask(stream, &with((b"X-Upper", b"a"), "/many"));
        assert_eq!(connection.outcome(stream).0, Some(400));
    }
    connection.assert_serves(3001);
}

#[test]
fn many_resets_for_what_clients_send_are_no_reason_either() {
    let (proxy, _origin) = start();
    let mut connection = Connection::open(&proxy);
    for number in 0..1500 {
        let stream = 2 * number + 1;
        let fields = with((b"content-length", b"1"), "/many");
        connection.send(HEADERS, END_HEADERS, stream, &block(&fields));
        connection.send(DATA, END_STREAM, stream, b"");
        assert!(connection.outcome(stream).1.is_some());
    }
    connection.assert_serves(3001);
}

#[test]
fn a_window_that_grows_by_nothing_is_an_error_of_its_stream() {
    let (proxy, _origin) = start();
    let mut connection = Connection::open(&proxy);
    connection.send(HEADERS, END_HEADERS, 1, &block(&get("/upload")));
    connection.send(WINDOW_UPDATE, 0, 1, &[0; 4]);
    assert_eq!(connection.outcome(1).1, Some(PROTOCOL_ERROR.to_vec()));
    connection.assert_serves(3);
}

#[test]
fn what_is_wrong_with_the_connection_ends_it() {
    let (proxy, _origin) = start();
    let cases: [&dyn Fn(&mut Connection); 4] = [
        &|it| it.send(HEADERS, END_HEADERS | END_STREAM, 2, &block(&get("/"))),
        &|it| it.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        &|it| {
            it.send(HEADERS, 0, 1, &[0x82]);
            it.send(DATA, 0, 1, b"");
        },
        &|it| {
            it.ask(1, &with((b"X-Upper", b"a"), "/"));
            it.send(HEADERS, END_HEADERS | END_STREAM, 3, &[0xff, 0xff, 0xff, 0x0f]);
        },
    ];
    for case in cases {
        let mut connection = Connection::open(&proxy);
        case(&mut connection);
        while connection.read().kind != GOAWAY {}
    }
    // A flood of pieces of a block.
    let mut connection = Connection::open(&proxy);
    connection.send(HEADERS, 0, 1, &[0x82]);
    for _ in 0..40 {
        connection.send(CONTINUATION, 0, 1, &[]);
    }
    while connection.read().kind != GOAWAY {}
}
