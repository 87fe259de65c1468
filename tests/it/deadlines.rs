//! Every deadline on every way that a request can take: a table of waits, of what the origin does
//! meanwhile, and of ways. All of its cases run at the same time.
//!
//! The wait that a case is about is short, and every other takes minutes: a case that ends with the
//! word of another wait, or too late, is one in which the short one does not hold. A folder on a disk
//! that hangs is in the tests of `proxy::deadlines` and `files`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::h2::{self, Session, Upload, request};
use crate::support::h2_origin::{self, H2Origin, Then};
use crate::support::{PATIENCE, Proxy, Setup, eventually};
use crate::tunnels_h2::accept_of;

/// The wait that a case is about.
const SHORT: Duration = Duration::from_secs(1);
/// Between two parts of what drips.
const DRIP: Duration = Duration::from_millis(50);
/// What is announced and never comes.
const LENGTH: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    FirstByte,
    Idle,
    /// `timeouts.total` of the pool.
    Total,
    /// `timeout` of the route.
    Route,
    /// `grpc-timeout` of the client.
    Call,
    Tunnel,
}

/// What the origin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// No head comes.
    Silent,
    /// The body stops.
    Stalls,
    /// The body comes in drops, without an end.
    Drips,
    /// The body comes as fast as it is taken, without an end.
    Flows,
}

/// The way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The route has no cache.
    CacheOff,
    /// The client forbids storing.
    NoStore,
    /// The answer may not be stored.
    NotStored,
    /// It is being stored.
    Stored,
    /// It is being stored, and this request reads what another one asked for.
    Joined,
    /// The request has credentials.
    Authorized,
    /// The origin sends the part that was asked for.
    Part,
    /// The part is cut out of what is being stored.
    Excerpt,
    /// What is stored must be confirmed.
    Revalidated,
    Head,
    /// The answer is coded while it passes.
    Coded,
    /// A request with a body.
    Upload,
    /// There is a second try.
    Hedged,
    /// A request for a tunnel that the endpoint does not answer.
    Opening,
    Tunnel,
    /// A call of gRPC.
    Call,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    H1,
    H2,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    wait: Wait,
    origin: Origin,
    way: Way,
}

const ANSWERS: [Way; 13] = [
    Way::CacheOff,
    Way::NoStore,
    Way::NotStored,
    Way::Stored,
    Way::Joined,
    Way::Authorized,
    Way::Part,
    Way::Excerpt,
    Way::Revalidated,
    Way::Head,
    Way::Coded,
    Way::Upload,
    Way::Hedged,
];

/// The table.
fn cases(client: Protocol, endpoint: Protocol) -> Vec<Case> {
    let waits: [(Wait, &[Origin]); 4] = [
        (Wait::FirstByte, &[Origin::Silent]),
        (Wait::Idle, &[Origin::Stalls]),
        (Wait::Total, &[Origin::Silent, Origin::Stalls, Origin::Drips, Origin::Flows]),
        (Wait::Route, &[Origin::Silent, Origin::Stalls, Origin::Drips, Origin::Flows]),
    ];
    let mut cases = Vec::new();
    for (wait, origins) in waits {
        for origin in origins {
            let is_possible = |way: &Way| match way {
                Way::Head => *origin == Origin::Silent,
                // What has no end has no length that a part could be told with.
                Way::Excerpt => matches!(origin, Origin::Silent | Origin::Stalls),
                // It costs what it costs to make and to read, so a few have to do.
                _ if *origin == Origin::Flows => {
                    matches!(way, Way::CacheOff | Way::NotStored | Way::Stored)
                }
                _ => true,
            };
            let ways = ANSWERS.into_iter().filter(is_possible);
            cases.extend(ways.map(|way| Case { wait, origin: *origin, way }));
        }
        if wait != Wait::Idle {
            cases.push(Case { wait, origin: Origin::Silent, way: Way::Opening });
        }
    }
    cases.push(Case { wait: Wait::Tunnel, origin: Origin::Stalls, way: Way::Tunnel });
    for origin in [Origin::Silent, Origin::Stalls, Origin::Drips] {
        cases.push(Case { wait: Wait::Call, origin, way: Way::Call });
    }
    if client == Protocol::H2 && endpoint == Protocol::H2 {
        // Silence belongs to a call, as to a tunnel.
        cases.push(Case { wait: Wait::Tunnel, origin: Origin::Stalls, way: Way::Call });
    }
    cases
}

impl Case {
    /// The word for it in the log.
    fn error(self) -> Option<&'static str> {
        match (self.wait, self.way) {
            (Wait::FirstByte, _) => Some("first_byte_timeout"),
            (Wait::Tunnel, Way::Tunnel) => None,
            (Wait::Idle | Wait::Tunnel, _) => Some("idle_timeout"),
            (Wait::Total | Wait::Route | Wait::Call, _) => Some("deadline"),
        }
    }

    /// Where its route is.
    fn host(self) -> String {
        let mode = match self.way {
            Way::CacheOff | Way::Call => "off",
            Way::Hedged => "hedged",
            _ => "cached",
        };
        format!("{:?}.{mode}.test", self.wait).to_lowercase()
    }

    /// What the origin is told, and what the log is searched for.
    fn path(self, number: usize) -> String {
        format!("/{number}/{:?}/{:?}/", self.origin, self.way).to_lowercase()
    }

    fn method(self) -> &'static str {
        match self.way {
            Way::Head => "HEAD",
            Way::Upload | Way::Call => "POST",
            _ => "GET",
        }
    }

    fn fields(self) -> Vec<(&'static str, String)> {
        let field = |name, value: &str| vec![(name, value.to_owned())];
        match self.way {
            Way::NoStore => field("cache-control", "no-store"),
            Way::Authorized => field("authorization", "Basic eA=="),
            Way::Part | Way::Excerpt => field("range", &format!("bytes=100-{}", LENGTH - 1)),
            Way::Coded => field("accept-encoding", "gzip"),
            Way::Call if self.wait == Wait::Call => vec![
                ("content-type", "application/grpc".to_owned()),
                ("grpc-timeout", format!("{}m", SHORT.as_millis())),
            ],
            Way::Call => field("content-type", "application/grpc"),
            _ => Vec::new(),
        }
    }

    /// What is sent behind the head.
    fn body(self) -> &'static [u8] {
        match self.way {
            Way::Upload => b"some text",
            Way::Call => &[0, 0, 0, 0, 0],
            _ => b"",
        }
    }
}

/// A route for each wait with and without a cache, and with a second try; all else is patient.
fn setup(endpoint: Protocol, address: &dyn std::fmt::Display) -> Setup {
    let mut text = String::new();
    for wait in [Wait::FirstByte, Wait::Idle, Wait::Total, Wait::Route, Wait::Call, Wait::Tunnel] {
        let key = match wait {
            Wait::FirstByte => "first_byte",
            Wait::Idle => "idle",
            Wait::Total => "total",
            Wait::Tunnel => "tunnel",
            Wait::Route | Wait::Call => "",
        };
        let wait = format!("{wait:?}").to_lowercase();
        let short = |it: &str| if it == key { "1s" } else { "10m" };
        for mode in ["off", "cached", "hedged"] {
            let hedge = match mode {
                "hedged" => {
                    "retry = { attempts = 2, on = [], hedge_after = \"50ms\", budget = \"100%\" }"
                }
                _ => "retry = false",
            };
            let endpoints = match mode {
                "hedged" => format!("[\"{address}\", \"localhost:{}\"]", port(address)),
                _ => format!("[\"{address}\"]"),
            };
            write!(
                text,
                "[pool.{wait}-{mode}]\nendpoints = {endpoints}\nprotocol = \"{endpoint:?}\"\n\
                 outlier = false\n{hedge}\ntimeouts = {{ first_byte = \"{}\", idle = \"{}\", \
                 tunnel = \"{}\"{} }}\n\
                 [[route]]\nname = \"{wait}-{mode}\"\nhosts = [\"{wait}.{mode}.test\"]\n\
                 pool = \"{wait}-{mode}\"\ncache = {}\n{}\n",
                // A head that came in time says nothing about the rest.
                if matches!(key, "idle" | "tunnel") { "1s" } else { short("first_byte") },
                short("idle"),
                short("tunnel"),
                if key == "total" { ", total = \"1s\"" } else { "" },
                mode == "cached",
                if wait == "route" { "timeout = \"1s\"" } else { "" },
            )
            .unwrap();
        }
    }
    let text = text.replace("\"H1\"", "\"h1\"").replace("\"H2\"", "\"h2\"");
    Setup::empty().listener("protocols = [\"h1\", \"h2\"]").text(&text)
}

fn port(address: &dyn std::fmt::Display) -> u16 {
    address.to_string().parse::<SocketAddr>().unwrap().port()
}

// The origins.

/// What is done for a request.
struct Script {
    origin: Origin,
    /// The head of the answer.
    head: Response<()>,
    /// There is something to be confirmed: it comes at once.
    is_quick: bool,
}

impl Script {
    fn of(path: &str, is_conditional: bool) -> Self {
        let words: Vec<_> = path.trim_matches('/').split('/').collect();
        let origin = match words[1] {
            "silent" => Origin::Silent,
            "stalls" => Origin::Stalls,
            "drips" => Origin::Drips,
            _ => Origin::Flows,
        };
        let way = words[2];
        let control = match way {
            "revalidated" => "max-age=0, must-revalidate",
            "stored" | "joined" | "excerpt" | "head" | "authorized" => "max-age=60",
            _ => "no-store",
        };
        let mut head = Response::builder()
            .status(if way == "part" { 206 } else { 200 })
            .header("cache-control", control)
            .header("etag", "\"1\"")
            .header("content-type", if way == "call" { "application/grpc" } else { "text/html" });
        if way == "part" {
            head = head.header("content-range", format!("bytes 100-{}/{LENGTH}", LENGTH - 1));
        }
        let is_quick = way == "revalidated" && !is_conditional;
        let length = if way == "part" { LENGTH - 100 } else { LENGTH };
        if is_quick {
            head = head.header("content-length", "3");
        } else if origin == Origin::Stalls && way != "call" {
            head = head.header("content-length", length.to_string());
        }
        Self { origin, head: head.body(()).unwrap(), is_quick }
    }
}

fn h1_origin() -> (SocketAddr, Runtime) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            Handle::current().spawn(serve_h1(stream));
        }
    });
    (address, runtime)
}

async fn serve_h1(mut stream: TcpStream) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let path = head.split(' ').nth(1)?.to_owned();
        let script = Script::of(&path, head.contains("\r\nif-none-match:"));
        if head.contains("\r\nupgrade:") && script.origin != Origin::Silent {
            let key = String::from_utf8_lossy(&read[..end]).into_owned();
            let key = key.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.to_owned())
            });
            let accept = accept_of(&key?);
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            return rest(stream).await;
        }
        if script.origin == Origin::Silent && !script.is_quick {
            return rest(stream).await;
        }
        let is_counted = script.head.headers().contains_key("content-length");
        let mut answer = format!("HTTP/1.1 {}\r\n", script.head.status());
        for (name, value) in script.head.headers() {
            write!(answer, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
        }
        if !is_counted {
            answer.push_str("transfer-encoding: chunked\r\n");
        }
        answer.push_str("\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        if script.is_quick {
            stream.write_all(b"old").await.ok()?;
            read.drain(..end);
            continue;
        }
        let part: &[u8] = if is_counted { b"part" } else { b"4\r\npart\r\n" };
        let block = [b"4000\r\n", [b'x'; 0x4000].as_slice(), b"\r\n"].concat();
        stream.write_all(part).await.ok()?;
        match script.origin {
            Origin::Silent | Origin::Stalls => return rest(stream).await,
            Origin::Drips => loop {
                sleep(DRIP).await;
                stream.write_all(part).await.ok()?;
            },
            Origin::Flows => loop {
                stream.write_all(&block).await.ok()?;
            },
        }
    }
}

/// Waits for the end of the connection.
async fn rest(mut stream: TcpStream) -> Option<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.ok()? > 0 {}
    None
}

fn h2_origin() -> H2Origin {
    H2Origin::tunnelling(|call| {
        Handle::current().spawn(serve_h2(call));
        Then::Continue
    })
}

async fn serve_h2(mut call: h2_origin::Call) -> Option<()> {
    let is_conditional = call.request.headers().contains_key("if-none-match");
    let script = Script::of(&call.path(), is_conditional);
    if script.is_quick {
        let mut stream = call.respond.send_response(script.head, false).ok()?;
        return stream.send_data(Bytes::from_static(b"old"), true).ok();
    }
    if script.origin == Origin::Silent {
        std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await.ok()?;
        return None;
    }
    let is_tunnel = call.request.extensions().get::<::h2::ext::Protocol>().is_some();
    let head = if is_tunnel { Response::new(()) } else { script.head };
    let mut stream = call.respond.send_response(head, false).ok()?;
    if !is_tunnel {
        stream.send_data(Bytes::from_static(b"part"), false).ok()?;
    }
    loop {
        match script.origin {
            Origin::Silent | Origin::Stalls => {
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok()?;
                return None;
            }
            Origin::Drips => {
                sleep(DRIP).await;
                stream.send_data(Bytes::from_static(b"part"), false).ok()?;
            }
            Origin::Flows => {
                stream.reserve_capacity(1 << 14);
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
                stream.send_data(Bytes::from(vec![b'x'; room]), false).ok()?;
            }
        }
    }
}

// The clients.

/// How a request ended for its client.
#[derive(Debug)]
struct Ended {
    after: Duration,
    status: u16,
    grpc_status: Option<String>,
}

async fn ask(client: Protocol, proxy: SocketAddr, case: Case, path: &str) -> Ended {
    let began = Instant::now();
    let (status, grpc_status) = match client {
        Protocol::H1 => (ask_h1(proxy, case, path).await, None),
        Protocol::H2 => ask_h2(proxy, case, path).await,
    };
    Ended { after: began.elapsed(), status, grpc_status }
}

async fn ask_h1(proxy: SocketAddr, case: Case, path: &str) -> u16 {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let mut head = format!("{} {path} HTTP/1.1\r\nhost: {}\r\n", case.method(), case.host());
    for (name, value) in case.fields() {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    match case.way {
        Way::Opening | Way::Tunnel => head.push_str(
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        _ => head.push_str("connection: close\r\n"),
    }
    if !case.body().is_empty() {
        write!(head, "content-length: {}\r\n", case.body().len()).unwrap();
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(case.body()).await.unwrap();
    let (mut first, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if first.len() < 12 {
            first.extend_from_slice(&buffer[..count]);
        }
        // What a request for a tunnel is answered with leaves the connection open.
        if case.way == Way::Opening {
            break;
        }
    }
    let line = String::from_utf8_lossy(&first).into_owned();
    line.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0)
}

async fn ask_h2(proxy: SocketAddr, case: Case, path: &str) -> (u16, Option<String>) {
    let mut session = Session::open_plain(proxy).await;
    let is_tunnel = matches!(case.way, Way::Opening | Way::Tunnel);
    let (sender, body) = Upload::channel();
    let mut asked = request(if is_tunnel { "CONNECT" } else { case.method() }, path, body);
    *asked.uri_mut() = format!("http://{}{path}", case.host()).parse().unwrap();
    for (name, value) in case.fields() {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    if is_tunnel {
        // The SETTINGS that offer tunnels are before the answer to any request.
        let _ = session.send(h2::get("/")).await;
        asked.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        asked.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        *asked.body_mut() = Upload::empty();
    } else if case.body().is_empty() {
        *asked.body_mut() = Upload::empty();
    } else {
        sender.send(Frame::data(Bytes::from_static(case.body()))).await.unwrap();
        drop(sender);
    }
    let response = session.send(asked).await.unwrap();
    let status = response.status().as_u16();
    let of = |fields: &HeaderMap| Some(fields.get("grpc-status")?.to_str().ok()?.to_owned());
    let mut grpc_status = of(response.headers());
    if case.way == Way::Tunnel {
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        let mut tunnel = hyper_util::rt::TokioIo::new(upgraded);
        let _ = tunnel.read_to_end(&mut Vec::new()).await;
        return (status, None);
    }
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(trailers) = frame.trailers_ref() {
            grpc_status = of(trailers).or(grpc_status);
        }
    }
    (status, grpc_status)
}

/// Runs a column of the table, and says what of it does not hold.
fn run(client: Protocol, endpoint: Protocol) {
    let (h1, h2) = (h1_origin(), h2_origin());
    let proxy = match endpoint {
        Protocol::H1 => setup(endpoint, &h1.0).start(),
        Protocol::H2 => setup(endpoint, &h2).start(),
    };
    let address = proxy.address();
    let cases = cases(client, endpoint);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = Arc::new(Mutex::new(BTreeMap::<usize, Vec<Ended>>::new()));
    runtime.block_on(async {
        let mut running = JoinSet::new();
        for (number, case) in cases.iter().copied().enumerate() {
            if case.way == Way::Revalidated {
                // What is to be confirmed.
                let path = case.path(number);
                ask_h1(address, Case { way: Way::Revalidated, ..case }, &path).await;
            }
            for _ in 0..if case.way == Way::Joined { 2 } else { 1 } {
                let ended = ended.clone();
                running.spawn(async move {
                    let path = case.path(number);
                    let how = ask(client, address, case, &path).await;
                    ended.lock().unwrap().entry(number).or_default().push(how);
                });
            }
        }
        let all = async { while running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(3 * PATIENCE, all).await;
        running.abort_all();
    });
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let ended = ended.lock().unwrap().remove(&number).unwrap_or_default();
        if ended.len() < if case.way == Way::Joined { 2 } else { 1 } {
            wrong.push(format!("{case:?}: goes on"));
            continue;
        }
        if let Err(why) = judge(*case, number, &ended, &proxy, client) {
            wrong.push(format!("{case:?}: {why}: {ended:?}"));
        }
    }
    let counts = (wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{counts:?} of {client:?} to {endpoint:?}:\n{}", wrong.join("\n"));
}

fn judge(
    case: Case,
    number: usize,
    ended: &[Ended],
    proxy: &Proxy,
    client: Protocol,
) -> Result<(), String> {
    let is_early = |it: &Ended| it.after + DRIP < SHORT;
    if case.way != Way::Joined && ended.iter().any(is_early) {
        return Err("ends early".to_owned());
    }
    let has_begun = case.origin != Origin::Silent;
    let status = match (case.way, client) {
        (Way::Tunnel, Protocol::H1) => 101,
        (Way::Call, Protocol::H2) => 200,
        (Way::Part | Way::Excerpt, _) if has_begun => 206,
        _ if has_begun => 200,
        _ => 504,
    };
    if ended.iter().any(|it| it.status != status) {
        return Err(format!("is not answered by {status}"));
    }
    // DEADLINE_EXCEEDED.
    let is_told = |it: &Ended| it.grpc_status.as_deref() == Some("4");
    if case.way == Way::Call && client == Protocol::H2 && !ended.iter().all(is_told) {
        return Err("its client is not told in its trailers".to_owned());
    }
    let lines = proxy.folder.join("access.log");
    let path = case.path(number);
    let logged = eventually(&format!("{path} in the log"), || {
        let text = std::fs::read_to_string(&lines).ok()?;
        let of_it: Vec<_> = text.lines().filter(|line| line.contains(&path)).collect();
        let expected = ended.len() + usize::from(case.way == Way::Revalidated);
        (of_it.len() >= expected).then(|| of_it.last().map(|line| (*line).to_owned()))
    });
    let logged: serde_json::Value = serde_json::from_str(&logged.unwrap()).unwrap();
    let error = logged["error"].as_str();
    if error != case.error() {
        return Err(format!("is logged as {error:?}"));
    }
    Ok(())
}

#[test]
fn a_copy_has_the_deadlines_of_its_own_pool_and_the_request_has_others() {
    let (h1, h2) = (h1_origin(), h2_origin());
    let quick = crate::support::Origin::answering(|_| crate::support::ok("quick"));
    let mut text = String::new();
    let waits = [
        ("first_byte", Origin::Silent),
        ("idle", Origin::Stalls),
        ("total", Origin::Silent),
        ("total", Origin::Stalls),
        ("total", Origin::Drips),
    ];
    let mut names = Vec::new();
    for (number, (wait, origin)) in waits.into_iter().enumerate() {
        for (protocol, address) in [("h1", h1.0.to_string()), ("h2", h2.to_string())] {
            let name = format!("{protocol}-{number}");
            let case = Case { wait: Wait::Total, origin, way: Way::CacheOff };
            write!(
                text,
                "[pool.{name}]\nendpoints = [\"{address}\"]\nprotocol = \"{protocol}\"\n\
                 timeouts.{wait} = \"1s\"\n[[route]]\nname = \"{name}\"\npool = \"app\"\n\
                 hosts = [\"{name}.test\"]\nmirror = {{ pool = \"{name}\" }}\ncache = false\n",
            )
            .unwrap();
            names.push((name, case.path(number)));
        }
    }
    let proxy = Setup::of(&[&quick]).text(&text).start();
    for (name, path) in &names {
        let mut client = proxy.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {name}.test\r\n\r\n"));
        assert_eq!(client.answer().text(), "quick");
    }
    for (name, _) in names {
        let series = "headwater_mirrored_requests_total";
        proxy.wait_for_metric(&format!("{series}{{route=\"{name}\",result=\"failed\"}}"), 1.0);
    }
}

#[test]
fn an_open_tunnel_has_no_deadline_but_its_own() {
    let h1 = h1_origin();
    let pool = "timeouts = { total = \"1s\", idle = \"900ms\", first_byte = \"900ms\" }";
    let proxy = Setup::of(&[&h1.0]).pool_lines(pool).route("timeout = \"1s\"").start();
    let case = |way| Case { wait: Wait::Total, origin: Origin::Stalls, way };
    let mut client = proxy.connect();
    let path = case(Way::Tunnel).path(0);
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ));
    assert!(client.answer_head().start_line().contains("101"));
    // Two that have the whole time, one after the other, are a clock.
    for number in 1..=2 {
        let path = Case { origin: Origin::Drips, ..case(Way::CacheOff) }.path(number);
        let mut other = proxy.connect();
        other.send(format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n\r\n"));
        assert!(!other.broken_answer("GET").is_complete);
    }
    let tunnels = |line: &str| line.contains(&path);
    let log = std::fs::read_to_string(proxy.folder.join("access.log")).unwrap();
    assert!(!log.lines().any(tunnels), "the tunnel has ended: {log}");
    drop(client);
    assert_eq!(proxy.access(&path)["status"], 101);
}

#[test]
fn every_deadline_holds_for_clients_of_http_1_and_endpoints_of_http_1() {
    run(Protocol::H1, Protocol::H1);
}

#[test]
fn every_deadline_holds_for_clients_of_http_1_and_endpoints_of_http_2() {
    run(Protocol::H1, Protocol::H2);
}

#[test]
fn every_deadline_holds_for_clients_of_http_2_and_endpoints_of_http_1() {
    run(Protocol::H2, Protocol::H1);
}

#[test]
fn every_deadline_holds_for_clients_of_http_2_and_endpoints_of_http_2() {
    run(Protocol::H2, Protocol::H2);
}
