//! What the tests of this module share: snapshots of a text, and a running API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Command, Context, bind, serve};
use crate::cache::Cache;
use crate::config;
use crate::config::model::{BindAddress, Name};
use crate::files::Reader;
use crate::lines::{Lines, Sink};
use crate::shutdown::{Shutdown, Tasks};
use crate::snapshot::{ConnectionLimit, Resources, Snapshot};
use crate::tls::generate::self_signed;

/// A folder of its own for one test, gone in the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("headwater-admin-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A folder with `site.crt` and `site.key`.
pub(super) fn certificates(name: &str) -> Folder {
    let made = self_signed(&[name], SystemTime::now()).unwrap();
    let folder = Folder::new();
    folder.write("site.crt", &made.cert);
    folder.write("site.key", &made.key);
    folder
}

/// The first snapshot of a configuration that consists of the text and whatever it lacks of: a
/// listener (`web`), a pool (`app`) and a route.
pub(super) fn snapshot(text: &str) -> Snapshot {
    let mut text = format!("{text}\n");
    for (mark, section) in [
        ("[listener.", "[listener.web]\nbind = \"127.0.0.1:0\"\n"),
        ("[pool.app", "[pool.app]\nendpoints = [\"10.0.0.1:80\"]\n"),
        ("[[route]]", "[[route]]\npool = \"app\"\n"),
    ] {
        if !text.contains(mark) {
            text.push_str(section);
        }
    }
    let folder = Folder::new();
    let loaded = config::load(&folder.write("c.toml", &text), &|_| None);
    let config = match loaded.into_config() {
        Ok(accepted) => Arc::new(accepted.config),
        Err(refused) => {
            unreachable!("{}", config::diagnostics::render(&refused.diagnostics, &refused.sources))
        }
    };
    let resources = Resources {
        cache: Cache::new(&config.cache, 1),
        under_way: Arc::default(),
        challenges: Arc::default(),
        files: Reader::start(1, 1).unwrap(),
        connections: ConnectionLimit::of_process(1000),
    };
    Snapshot::build(config, None, &resources).unwrap()
}

/// A running API on a free port of the loopback address.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) published: Arc<ArcSwap<Snapshot>>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) shutdown: Shutdown,
    pub(super) tasks: Tasks,
    pub(super) addresses: Arc<ArcSwap<Vec<(Name, BindAddress)>>>,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// Status line and fields.
    pub(super) head: String,
    pub(super) body: String,
}

impl Answered {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Runs a test on a runtime like that of the control plane.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(test);
}

impl Running {
    /// Starts the API with the snapshot of a configuration.
    pub(super) fn start(text: &str) -> Self {
        let published = Arc::new(ArcSwap::from_pointee(snapshot(text)));
        let shutdown = Shutdown::default();
        let (sender, commands) = mpsc::channel(1);
        let bound = BindAddress::Tcp(([127, 0, 0, 1], 8080).into());
        let addresses = Arc::new(ArcSwap::from_pointee(vec![("web".into(), bound)]));
        let context = Context {
            published: published.clone(),
            stop: shutdown.stop(),
            commands: sender,
            reloads: Arc::default(),
            purges: Arc::default(),
            certificates: Arc::default(),
            workers: 3,
            addresses: addresses.clone(),
            program_log: Lines::start("log", Sink::off(), 1).unwrap(),
            access_log: Lines::start("log", Sink::off(), 1).unwrap(),
            started: Instant::now(),
        };
        let socket = bind(&BindAddress::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let BindAddress::Tcp(address) = *socket.address() else {
            unreachable!("a TCP address was bound")
        };
        let tasks = Tasks::default();
        tasks.spawn("admin", serve(socket, Rc::new(context), tasks.clone()));
        Self { address, published, commands, shutdown, tasks, addresses }
    }

    /// Sends a request with these lines after the request line, and a body; reads to the end.
    pub(super) async fn ask(&self, target: &str, fields: &[&str], body: &str) -> Answered {
        let mut request = format!("{target} HTTP/1.1\r\nConnection: close\r\n");
        for field in fields {
            request.push_str(field);
            request.push_str("\r\n");
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answered { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Answered {
        self.ask(&format!("GET {path}"), &["Host: localhost"], "").await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Answered {
        let fields = ["Host: localhost", "Content-Type: application/json"];
        self.ask(&format!("POST {path}"), &fields, body).await
    }
}
