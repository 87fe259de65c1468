//! A client that sends the bytes it is told to, plain or through TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls::{SupportedProtocolVersion, version};

use super::certificates::Pair;
use super::message::{Answer, Framing, Incoming, Message, framing};
use super::{Authority, HOST, PATIENCE};

/// One connection.
#[derive(Debug)]
pub struct Client {
    incoming: Incoming<Transport>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// How a client speaks TLS. Sessions are remembered among clones.
#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: String,
}

impl Tls {
    /// Trusts `authority`, asks for [`HOST`] and speaks HTTP/1.1 over TLS 1.3.
    pub fn new(authority: &Authority) -> Self {
        Self::with(authority, &version::TLS13, &["http/1.1"])
    }

    pub fn with(
        authority: &Authority,
        version: &'static SupportedProtocolVersion,
        protocols: &[&str],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config), name: HOST.to_owned() }
    }

    /// Asks for another name.
    pub fn named(&self, name: &str) -> Self {
        Self { config: self.config.clone(), name: name.to_owned() }
    }

    /// Shows a certificate of its own, and remembers nothing of before.
    pub fn showing(&self, authority: &Authority, own: &Pair) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let provider = self.config.crypto_provider().clone();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own.der.clone()], key)
            .unwrap();
        config.alpn_protocols.clone_from(&self.config.alpn_protocols);
        Self { config: Arc::new(config), name: self.name.clone() }
    }

    /// Asks for no name.
    pub fn nameless(&self) -> Self {
        let mut config = (*self.config).clone();
        config.enable_sni = false;
        Self { config: Arc::new(config), name: self.name.clone() }
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self { incoming: Incoming::new(Transport::Plain(open(address))) }
    }

    /// Connects and finishes the handshake.
    pub fn tls(address: SocketAddr, tls: &Tls) -> Self {
        Self::try_tls(address, tls).unwrap()
    }

    pub fn try_tls(address: SocketAddr, tls: &Tls) -> io::Result<Self> {
        Self::try_tls_after(address, b"", tls)
    }

    /// Sends bytes before the handshake, as a proxy in front would.
    pub fn try_tls_after(address: SocketAddr, before: &[u8], tls: &Tls) -> io::Result<Self> {
        let name = ServerName::try_from(tls.name.clone()).unwrap();
        let session = ClientConnection::new(tls.config.clone(), name).unwrap();
        let mut socket = open(address);
        socket.write_all(before)?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { incoming: Incoming::new(Transport::Tls(Box::new(stream))) })
    }

    /// Sends its side of the handshake in TCP segments of `size` bytes.
    pub fn tls_in_segments(address: SocketAddr, tls: &Tls, size: usize) -> io::Result<Self> {
        let name = ServerName::try_from(tls.name.clone()).unwrap();
        let session = ClientConnection::new(tls.config.clone(), name).unwrap();
        let mut stream = StreamOwned::new(session, open(address));
        while stream.conn.is_handshaking() {
            let mut flight = Vec::new();
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut flight)?;
            }
            for segment in flight.chunks(size) {
                stream.sock.write_all(segment)?;
            }
            if stream.conn.is_handshaking() {
                stream.conn.read_tls(&mut stream.sock)?;
                stream.conn.process_new_packets().map_err(io::Error::other)?;
            }
        }
        Ok(Self { incoming: Incoming::new(Transport::Tls(Box::new(stream))) })
    }

    /// Begins a handshake and says no more.
    pub fn only_hello(address: SocketAddr, tls: &Tls) -> Self {
        let name = ServerName::try_from(tls.name.clone()).unwrap();
        let mut session = ClientConnection::new(tls.config.clone(), name).unwrap();
        let mut client = Self::connect(address);
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        client.send(hello);
        client
    }

    /// The end of a handshake that TLS 1.3 may fail only after the client's side of it is done: the
    /// first request tells.
    pub fn is_accepted(address: SocketAddr, tls: &Tls) -> bool {
        let Ok(mut client) = Self::try_tls(address, tls) else { return false };
        client.try_send(request("GET", "/", &[])).is_ok() && client.incoming.head().is_ok()
    }

    /// The TLS session.
    pub fn session(&self) -> &ClientConnection {
        match &self.incoming.stream {
            Transport::Tls(stream) => &stream.conn,
            Transport::Plain(_) => panic!("not a TLS connection"),
        }
    }

    /// The certificate of the other side.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.session().peer_certificates().unwrap()[0].clone()
    }

    fn socket(&self) -> &TcpStream {
        match &self.incoming.stream {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => &stream.sock,
        }
    }

    pub fn local_address(&self) -> SocketAddr {
        self.socket().local_addr().unwrap()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.incoming.stream.write_all(bytes.as_ref())?;
        self.incoming.stream.flush()
    }

    /// A GET for [`HOST`], with further field lines.
    pub fn get(&mut self, target: &str, fields: &[&str]) -> Answer {
        self.send(request("GET", target, fields));
        self.answer()
    }

    /// Asks with another method than GET or HEAD, and a body.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[&str], body: &str) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        let fields = [fields, &[&length]].concat();
        self.send(request(method, target, &fields));
        self.send(body);
        self.answer()
    }

    /// The next answer, complete.
    pub fn answer(&mut self) -> Answer {
        let answer = self.broken_answer("GET");
        assert!(answer.is_complete, "broken off: {answer:?}");
        answer
    }

    /// The next answer to a HEAD request.
    pub fn head_answer(&mut self) -> Answer {
        self.broken_answer("HEAD")
    }

    /// Asserts that the next answer breaks off, be it before its head was sent.
    pub fn assert_broken_off(&mut self) {
        if let Ok(true) = self.incoming.fill() {
            let answer = self.broken_answer("GET");
            assert!(!answer.is_complete, "{answer:?}");
        }
    }

    /// The next answer, however it ends.
    pub fn broken_answer(&mut self, method: &str) -> Answer {
        let head = self.incoming.head().unwrap_or_else(|error| {
            let unused = String::from_utf8_lossy(&self.incoming.unused);
            panic!("no answer: {error}, after {unused:?}")
        });
        let mut message = Message { head, ..Message::default() };
        let status = message.start_line().split(' ').nth(1).and_then(|it| it.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {message:?}"));
        let framing = match (method, status) {
            ("HEAD", _) | (_, 100..=199 | 204 | 304) => Framing::None,
            _ => framing(&message, Framing::Close),
        };
        let result = self.incoming.body(&mut message, framing);
        assert!(!result.as_ref().is_err_and(is_timeout), "the answer goes on: {message:?}");
        let is_complete = result.is_ok();
        if !is_complete {
            message.body.append(&mut self.incoming.unused);
        }
        Answer { status, message, is_complete }
    }

    /// The next head alone; its body stays unread.
    pub fn answer_head(&mut self) -> Message {
        Message { head: self.incoming.head().unwrap(), ..Message::default() }
    }

    /// Reads exactly this many bytes.
    pub fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut message = Message::default();
        self.incoming.body(&mut message, Framing::Length(bytes)).unwrap();
        message.body
    }

    /// Everything up to the end of the connection, which may be a reset.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut message = Message::default();
        if let Err(error) = self.incoming.body(&mut message, Framing::Close) {
            assert!(!is_timeout(&error), "the connection stays open");
        }
        message.body.append(&mut self.incoming.unused);
        message.body
    }

    /// Asserts that nothing more comes and the connection ends.
    pub fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "not closed: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Sends until nobody has taken a byte for a while; how many were taken.
    pub fn push(&mut self, bytes_max: usize, stall: Duration) -> usize {
        self.socket().set_write_timeout(Some(stall)).unwrap();
        let block = [b'x'; 64 << 10];
        let mut pushed = 0;
        while pushed < bytes_max {
            let block = &block[..block.len().min(bytes_max - pushed)];
            match self.incoming.stream.write(block) {
                Ok(0) | Err(_) => break,
                Ok(written) => pushed += written,
            }
        }
        self.socket().set_write_timeout(Some(PATIENCE)).unwrap();
        pushed
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.socket().shutdown(Shutdown::Write).unwrap();
    }
}

/// A request head for [`HOST`], with further field lines.
pub fn request(method: &str, target: &str, fields: &[&str]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n");
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
