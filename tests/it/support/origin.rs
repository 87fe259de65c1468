//! An origin that follows a script, down to the byte.
//!
//! Each connection has a thread. It reads a head, notes it, and gives it to the script as a
//! [`Call`], which answers as well or as badly as the test wants.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::message::{Framing, Incoming, Request, framing};
use super::{PATIENCE, eventually};

type Script = dyn Fn(&mut Call) + Send + Sync;

/// Stops when dropped.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Log {
    requests: Vec<Request>,
    connections: usize,
    closed: usize,
    /// Of the open connections, by their number.
    streams: BTreeMap<usize, TcpStream>,
}

/// One request, and the connection it came on.
pub struct Call {
    pub request: Request,
    /// Of all requests that this origin got, from 0.
    pub number: usize,
    incoming: Incoming<TcpStream>,
    shared: Arc<Shared>,
    is_body_read: bool,
    ends: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Origin {
    /// Follows `script` for every request.
    pub fn scripted(script: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        Self::serving(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// Reads each request in full and answers with the bytes that `answer` makes.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |call| {
            if !call.body() {
                return;
            }
            let bytes = answer(&call.request);
            call.send(&bytes);
        })
    }

    /// As many as there are addresses, on one port.
    pub fn on_one_port<const N: usize>(
        ips: [&str; N],
        script: impl Fn(&mut Call) + Send + Sync + Clone + 'static,
    ) -> [Self; N] {
        let listeners = eventually("a port that is free everywhere", || {
            let port = TcpListener::bind((ips[0], 0)).unwrap().local_addr().unwrap().port();
            let bind = |ip: &&str| TcpListener::bind((*ip, port)).ok();
            ips.iter().map(bind).collect::<Option<Vec<_>>>()
        });
        let mut listeners = listeners.into_iter();
        ips.map(|_| Self::serving(listeners.next().unwrap(), script.clone()))
    }

    fn serving(listener: TcpListener, script: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let (accepting, script) = (shared.clone(), Arc::new(script) as Arc<Script>);
        thread::spawn(move || accept(&listener, &accepting, &script));
        Self { address, shared }
    }

    /// Waits for the first `count` requests.
    pub fn requests(&self, count: usize) -> Vec<Request> {
        let log = self.shared.wait("requests", |log| log.requests.len() >= count);
        log.requests.clone()
    }

    /// The request with this number, which is waited for.
    pub fn request(&self, number: usize) -> Request {
        self.requests(number + 1).swap_remove(number)
    }

    /// The requests so far.
    pub fn count(&self) -> usize {
        self.shared.log().requests.len()
    }

    /// The requests so far, but for those of health checks.
    pub fn count_of(&self, target: &str) -> usize {
        self.shared.log().requests.iter().filter(|request| request.target() == target).count()
    }

    /// The connections so far.
    pub fn connections(&self) -> usize {
        self.shared.log().connections
    }

    /// Waits until this many connections have come.
    pub fn wait_for_connections(&self, count: usize) {
        drop(self.shared.wait("connections", |log| log.connections >= count));
    }

    /// Waits until this many connections have ended.
    pub fn wait_for_closed(&self, count: usize) {
        drop(self.shared.wait("ended connections", |log| log.closed >= count));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for stream in self.shared.log().streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // The thread that accepts looks at the flag with its next connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    fn note(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log());
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, seen: impl Fn(&Log) -> bool) -> MutexGuard<'_, Log> {
        let (log, result) =
            self.changed.wait_timeout_while(self.log(), PATIENCE, |log| !seen(log)).unwrap();
        let (requests, connections, closed) = (log.requests.len(), log.connections, log.closed);
        if result.timed_out() {
            drop(log);
            panic!(
                "the origin waited in vain for {what}: \
                 {requests} requests on {connections} connections, {closed} of them ended"
            );
        }
        log
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<Script>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let _ = stream.set_nodelay(true);
        let mut number = 0;
        shared.note(|log| {
            number = log.connections;
            log.connections += 1;
            log.streams.extend(stream.try_clone().map(|stream| (number, stream)));
        });
        let (shared, script) = (shared.clone(), script.clone());
        thread::spawn(move || {
            let incoming = serve(stream, &shared, &*script);
            // The kernel closes with the last descriptor.
            shared.log().streams.remove(&number);
            drop(incoming);
            shared.note(|log| log.closed += 1);
        });
    }
}

fn serve(stream: TcpStream, shared: &Arc<Shared>, script: &Script) -> Incoming<TcpStream> {
    let mut incoming = Incoming::new(stream);
    while let Ok(head) = incoming.head() {
        let request = Request { head, ..Request::default() };
        let mut number = 0;
        shared.note(|log| {
            number = log.requests.len();
            log.requests.push(request.clone());
        });
        let mut call = Call {
            request,
            number,
            incoming,
            shared: shared.clone(),
            is_body_read: false,
            ends: false,
        };
        script(&mut call);
        if !call.ends {
            call.body();
        }
        incoming = call.incoming;
        if call.ends {
            break;
        }
    }
    incoming
}

impl Call {
    /// Takes its time, as a slow application does.
    pub fn takes(&self, time: Duration) {
        let (_never, waits) = mpsc::sync_channel::<()>(1);
        assert!(waits.recv_timeout(time).is_err());
    }

    /// Where the connection was accepted.
    pub fn local(&self) -> SocketAddr {
        self.incoming.stream.local_addr().unwrap()
    }

    /// Reads the body into the request, once; whether it is complete. A body that breaks off ends
    /// the connection.
    pub fn body(&mut self) -> bool {
        if self.is_body_read {
            return true;
        }
        self.is_body_read = true;
        let framing = framing(&self.request, Framing::None);
        let is_complete = self.incoming.body(&mut self.request, framing).is_ok();
        self.ends |= !is_complete;
        let request = self.request.clone();
        self.shared.note(|log| log.requests[self.number] = request);
        is_complete
    }

    /// Reads at least this many bytes of whatever comes.
    pub fn read(&mut self, bytes: usize) -> Vec<u8> {
        while self.incoming.unused.len() < bytes {
            if !matches!(self.incoming.fill(), Ok(true)) {
                break;
            }
        }
        std::mem::take(&mut self.incoming.unused)
    }

    /// Sends bytes; the connection ends when nobody takes them any more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.incoming.stream.write_all(bytes).is_ok();
        self.ends |= !sent;
        sent
    }

    /// Sends until nobody has taken a byte for a while; how many were taken.
    pub fn push(&mut self, bytes_max: usize, stall: Duration) -> usize {
        self.incoming.stream.set_write_timeout(Some(stall)).unwrap();
        let block = [b'x'; 64 << 10];
        let mut pushed = 0;
        while pushed < bytes_max {
            match self.incoming.stream.write(&block[..block.len().min(bytes_max - pushed)]) {
                Ok(0) | Err(_) => break,
                Ok(written) => pushed += written,
            }
        }
        self.incoming.stream.set_write_timeout(None).unwrap();
        pushed
    }

    /// Ends the connection after this call.
    pub fn close(&mut self) {
        self.ends = true;
        let _ = self.incoming.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset.
    pub fn reset(&mut self) {
        self.ends = true;
        let socket = SockRef::from(&self.incoming.stream);
        let _ = socket.set_linger(Some(Duration::ZERO));
    }

    /// Waits for the other side to end the connection.
    pub fn wait_for_end(&mut self) {
        self.ends = true;
        while matches!(self.incoming.fill(), Ok(true)) {
            self.incoming.unused.clear();
        }
    }
}

/// An address that refuses connections, and is nobody else's meanwhile.
#[derive(Debug)]
pub struct Refusing {
    pub address: SocketAddr,
    socket: Socket,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { address, socket }
    }

    /// From now on an origin.
    pub fn listen(self, script: impl Fn(&mut Call) + Send + Sync + 'static) -> Origin {
        self.socket.listen(128).unwrap();
        Origin::serving(self.socket.into(), script)
    }

    /// From now on an address whose backlog is full: it neither accepts nor refuses.
    pub fn stall(self) -> Stalled {
        self.socket.listen(0).unwrap();
        let stream = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&self.address.into());
            socket
        };
        let waiting = (0..4).map(|_| stream()).collect();
        Stalled { address: self.address, _socket: self.socket, _waiting: waiting }
    }
}

impl fmt::Display for Refusing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// An address that lets connections hang.
#[derive(Debug)]
pub struct Stalled {
    pub address: SocketAddr,
    _socket: Socket,
    _waiting: Vec<Socket>,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// A gate that requests wait at until the test opens it.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        let guard = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(guard, PATIENCE, |open| !*open).unwrap();
        assert!(!waited.1.timed_out(), "the gate was never opened");
    }
}
