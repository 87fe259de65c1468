//! The proxy: the real binary, with a configuration of its own.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::message::Answer;
use super::{Client, Folder, PATIENCE, eventually};

/// A kernel on the same machine takes a connection at once, or not at all.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(200);

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

/// A configuration that grows from what a test needs: a listener called `web`, a pool called
/// `app`, one route. What is not said has the default.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    process: String,
    log: String,
    listener: String,
    route: String,
    pool: Option<(Vec<String>, String)>,
    rest: String,
}

impl Setup {
    /// A route to a pool of these endpoints.
    pub fn of(endpoints: &[&dyn fmt::Display]) -> Self {
        Self::default().pool(endpoints, "")
    }

    /// Without a pool and a route.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Lines for `[process]`; otherwise there is one worker.
    pub fn process(mut self, lines: &str) -> Self {
        self.process.push_str(lines);
        self.process.push('\n');
        self
    }

    /// Lines for `[log]`, beside `access.to`, which is a file.
    pub fn log(mut self, lines: &str) -> Self {
        self.log.push_str(lines);
        self.log.push('\n');
        self
    }

    /// Lines for `[listener.web]`.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener.push_str(lines);
        self.listener.push('\n');
        self
    }

    /// The endpoints and further lines of `[pool.app]`.
    pub fn pool(mut self, endpoints: &[&dyn fmt::Display], lines: &str) -> Self {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        let before = self.pool.take().map(|(_, lines)| lines).unwrap_or_default();
        self.pool = Some((endpoints, format!("{before}{lines}\n")));
        self
    }

    /// Lines for `[pool.app]`, which has its endpoints.
    pub fn pool_lines(mut self, lines: &str) -> Self {
        if let Some((_, before)) = &mut self.pool {
            before.push_str(lines);
            before.push('\n');
        }
        self
    }

    /// Lines for the route to the pool.
    pub fn route(mut self, lines: &str) -> Self {
        self.route.push_str(lines);
        self.route.push('\n');
        self
    }

    /// Any further text.
    pub fn text(mut self, text: &str) -> Self {
        self.rest.push_str(text);
        self.rest.push('\n');
        self
    }

    pub fn start(&self) -> Proxy {
        self.start_in(Folder::new())
    }

    /// Starts with files that are there already.
    pub fn start_in(&self, folder: Folder) -> Proxy {
        folder.write("headwater.toml", self.to_string());
        Proxy::start(folder)
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut process = self.process.clone();
        if !process.contains("workers") {
            process.push_str("workers = 1\n");
        }
        let mut log = self.log.clone();
        if !log.contains("access.to") {
            log.push_str("access.to = \"access.log\"\n");
        }
        let mut listener = self.listener.clone();
        if !listener.contains("bind") {
            listener.push_str("bind = \"127.0.0.1:0\"\n");
        }
        write!(f, "[process]\n{process}\n[log]\n{log}\n[listener.web]\n{listener}\n")?;
        if !self.rest.contains("[admin]") {
            f.write_str("[admin]\nbind = \"127.0.0.1:0\"\n\n")?;
        }
        if let Some((endpoints, lines)) = &self.pool {
            write!(f, "[pool.app]\nendpoints = {endpoints:?}\n{lines}\n")?;
            write!(f, "[[route]]\nname = \"app\"\npool = \"app\"\n{}\n", self.route)?;
        }
        f.write_str(&self.rest)
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    pub folder: Folder,
    child: Child,
    log: Arc<Lines>,
    out: Arc<Lines>,
    admin: Option<SocketAddr>,
}

/// How a process ended that ran to its end.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Proxy {
    /// Starts with `headwater.toml` of the folder, and waits until it accepts.
    pub fn start(folder: Folder) -> Self {
        let run = command(&["run", "-c"], &folder.join("headwater.toml"));
        Self::start_by(run, folder)
    }

    /// The same with listening sockets that it inherits, as of systemd.
    pub fn start_with_socket(folder: Folder, socket: OwnedFd) -> Self {
        let mut run = Command::new("sh");
        run.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 0</dev/null", "sh", BINARY]);
        run.args(["run", "-c"]).arg(folder.join("headwater.toml"));
        run.env_remove("RUST_LOG").current_dir(std::env::temp_dir()).stdin(socket);
        Self::start_by(run, folder)
    }

    /// Starts by a command of its own, and waits until it accepts.
    pub fn start_by(mut run: Command, folder: Folder) -> Self {
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        let out = Lines::of(child.stdout.take().unwrap());
        let mut proxy = Self { folder, child, log, out, admin: None };
        // Listeners come last.
        proxy.wait_for_log("listening listener=");
        let lines = proxy.log();
        proxy.admin = lines.iter().find_map(|line| {
            let (_, address) = line.split_once("admin API listening address=")?;
            address.parse().ok()
        });
        proxy
    }

    /// Where the listener `web` accepts.
    pub fn address(&self) -> SocketAddr {
        self.address_of("web")
    }

    pub fn address_of(&self, listener: &str) -> SocketAddr {
        let prefix = format!("listening listener={listener} address=");
        eventually(&format!("listener {listener}"), || {
            let lines = self.log();
            let address =
                |line: &String| line.split_once(&prefix)?.1.split_whitespace().next()?.parse().ok();
            lines.iter().rev().find_map(address)
        })
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin API on TCP")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection to the listener `web`.
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The answer to one GET on a connection of its own.
    pub fn get(&self, target: &str, fields: &[&str]) -> Answer {
        self.connect().get(target, fields)
    }

    // What it says.

    /// Lines of the program log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    /// The first line of the program log that holds `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait(text)
    }

    /// The first line on standard output that holds `text`.
    pub fn wait_for_output(&self, text: &str) -> String {
        self.out.wait(text)
    }

    /// The first line of the access log that holds `text`.
    pub fn wait_for_access(&self, text: &str) -> String {
        self.wait_for_line("access.log", text)
    }

    /// The same as JSON.
    pub fn access(&self, text: &str) -> Value {
        serde_json::from_str(&self.wait_for_access(text)).unwrap()
    }

    /// The first line of a file of the folder that holds `text`.
    pub fn wait_for_line(&self, file: &str, text: &str) -> String {
        let path = self.folder.join(file);
        eventually(&format!("{text:?} in {file}"), || {
            let content = fs::read_to_string(&path).ok()?;
            let (complete, _) = content.rsplit_once('\n')?;
            complete.lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    // The admin API.

    pub fn api_get(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.admin());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        client.answer()
    }

    pub fn api_post(&self, path: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.admin());
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer()
    }

    /// Says of an endpoint of the pool `app` how it is to be treated.
    pub fn set_by_hand(&self, address: &dyn fmt::Display, state: &str) {
        let mut client = Client::connect(self.admin());
        let body = format!("{{\"state\":\"{state}\"}}");
        client.send(format!(
            "PUT /api/pools/app/endpoints/{address} HTTP/1.1\r\nHost: localhost\r\n\
             Connection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The value of a series, such as `headwater_connections{listener="web"}`; 0 where there is
    /// none.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.api_get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub fn wait_for_metric(&self, series: &str, value: f64) {
        let mut last = 0.0;
        eventually(&format!("{series} to be {value}"), || {
            last = self.metric(series);
            (last == value).then_some(())
        });
    }

    /// The pool `app`, as `/api/pools` describes it.
    pub fn pool(&self) -> Value {
        let pools = self.api_get("/api/pools").json();
        let pool = pools["pools"].as_array().unwrap().iter().find(|pool| pool["name"] == "app");
        pool.unwrap().clone()
    }

    /// Waits until these are the endpoints of the pool `app`, in the order of their addresses.
    pub fn wait_for_endpoints(&self, addresses: &[&dyn fmt::Display]) {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        eventually(&format!("{addresses:?} to be the endpoints"), || {
            let pool = self.pool();
            let endpoints = pool["endpoints"].as_array().unwrap().iter();
            let found: Vec<_> = endpoints.map(|it| it["address"].as_str().unwrap()).collect();
            (found == addresses).then_some(())
        });
    }

    /// How an endpoint of the pool `app` stands.
    pub fn endpoint(&self, address: &dyn fmt::Display) -> Value {
        let pool = self.pool();
        let endpoints = pool["endpoints"].as_array().unwrap();
        let address = address.to_string();
        endpoints.iter().find(|it| it["address"] == address.as_str()).unwrap().clone()
    }

    /// Waits until an endpoint of the pool `app` is in `state`.
    pub fn wait_for_state(&self, address: &dyn fmt::Display, state: &str) {
        eventually(&format!("{address} to be {state}"), || {
            (self.endpoint(address)["state"] == state).then_some(())
        });
    }

    /// Removes from the cache; how many variants it were.
    pub fn purge(&self, body: &str) -> u64 {
        let answer = self.api_post("/api/cache/purge", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["purged"].as_u64().unwrap()
    }

    // Reloads.

    /// The generation of the configuration that runs.
    pub fn generation(&self) -> u64 {
        self.api_get("/api/status").json()["generation"].as_u64().unwrap()
    }

    /// Writes another configuration and asks for it; the answer.
    pub fn try_reload(&self, setup: &Setup) -> Answer {
        self.folder.write("headwater.toml", setup.to_string());
        self.api_post("/api/reload", "")
    }

    /// Writes another configuration and takes it.
    pub fn reload(&self, setup: &Setup) {
        let answer = self.try_reload(setup);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    // Its end.

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn terminate(&self) {
        self.signal(Signal::Term);
    }

    /// Waits for the end; the exit code.
    pub fn exit_code(&mut self) -> i32 {
        let child = &mut self.child;
        let status = eventually("the process to end", || child.try_wait().unwrap());
        status.code().expect("not ended by a signal")
    }

    /// Waits until an address takes no connections any more, be it without an answer.
    pub fn wait_for_refusal(&self, address: SocketAddr) {
        eventually(&format!("{address} to be closed"), || {
            TcpStream::connect_timeout(&address, REFUSAL_PATIENCE).err()
        });
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            // Where a test failed, what the proxy said is the first thing to look at.
            for line in self.log.all() {
                eprintln!("| {line}");
            }
        }
    }
}

/// A command of the binary, with the configuration as its last argument.
pub fn command(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg(config).stdin(Stdio::null()).env_remove("RUST_LOG");
    // Relative paths are relative to the file, whatever the working folder.
    command.current_dir(std::env::temp_dir());
    command
}

/// Runs a command of the binary, with the configuration as its last argument, to its end.
pub fn run_to_end(arguments: &[&str], config: &Path) -> Exit {
    let child = command(arguments, config).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Killed(child.unwrap());
    let stdout = Lines::of(child.0.stdout.take().unwrap());
    let stderr = Lines::of(child.0.stderr.take().unwrap());
    let status = eventually("the command to end", || child.0.try_wait().unwrap());
    Exit { code: status.code(), stdout: stdout.to_end(), stderr: stderr.to_end() }
}

/// Writes a configuration and runs `command` with it.
pub fn run_with(command: &str, config: &str) -> Exit {
    let folder = Folder::new();
    let path: PathBuf = folder.write("headwater.toml", config);
    run_to_end(&[command, "-c"], &path)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process writes, line by line.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn of(from: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let writer = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                writer.state.lock().unwrap().0.push(line);
                writer.changed.notify_all();
            }
            writer.state.lock().unwrap().1 = true;
            writer.changed.notify_all();
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.state.lock().unwrap().0.clone()
    }

    fn to_end(&self) -> String {
        let state = self.state.lock().unwrap();
        let (state, _) =
            self.changed.wait_timeout_while(state, PATIENCE, |(_, ended)| !*ended).unwrap();
        state.0.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }

    /// The first line that holds `text`.
    fn wait(&self, text: &str) -> String {
        let found = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let state = self.state.lock().unwrap();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |(lines, ended)| found(lines).is_none() && !*ended)
            .unwrap();
        let line = found(&state.0);
        drop(state);
        line.unwrap_or_else(|| panic!("{text:?} was never said"))
    }
}
