//! A DNS server that says what the test wants, over UDP and TCP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::eventually;

/// Of all records, in seconds. The proxy's floor is what counts.
const TTL: u32 = 0;

/// Stops when dropped.
pub struct Dns {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    udp: UdpSocket,
}

#[derive(Default)]
struct State {
    zone: HashMap<(String, RecordType), Said>,
    queries: HashMap<(String, RecordType), usize>,
    over_tcp: usize,
    truncates: bool,
    stopping: bool,
}

/// What is said of a name.
#[derive(Clone)]
pub enum Said {
    Records(Vec<RData>),
    /// The name exists, but has no such records.
    Nothing,
    NoSuchName,
    /// The server has failed.
    Failure,
    Silence,
}

impl Dns {
    pub fn start() -> Self {
        // One port for both protocols.
        let (udp, tcp) = eventually("a port for both protocols", || {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
            Some((udp, tcp))
        });
        let dns = Self { address: udp.local_addr().unwrap(), state: Arc::default(), udp };
        let (socket, state) = (dns.udp.try_clone().unwrap(), dns.state.clone());
        thread::spawn(move || serve_udp(&socket, &state));
        let state = dns.state.clone();
        thread::spawn(move || serve_tcp(&tcp, &state));
        dns
    }

    /// The line for `[process]`.
    pub fn line(&self) -> String {
        format!("resolvers = [\"{}\"]", self.address)
    }

    /// A and AAAA records; there are none of the other family.
    pub fn say(&self, name: &str, addresses: &[&str]) {
        let of = |kind| {
            let records =
                addresses.iter().map(|it| RData::from(it.parse::<std::net::IpAddr>().unwrap()));
            let records: Vec<_> = records.filter(|it| it.record_type() == kind).collect();
            if records.is_empty() { Said::Nothing } else { Said::Records(records) }
        };
        for kind in [RecordType::A, RecordType::AAAA] {
            self.say_of(name, kind, of(kind));
        }
    }

    /// SRV records: priority, weight, port, target.
    pub fn say_services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let records = services.iter().map(|(priority, weight, port, target)| {
            RData::SRV(SRV::new(*priority, *weight, *port, Name::from_ascii(target).unwrap()))
        });
        self.say_of(name, RecordType::SRV, Said::Records(records.collect()));
    }

    pub fn say_of(&self, name: &str, kind: RecordType, said: Said) {
        self.state.lock().unwrap().zone.insert((name.to_owned(), kind), said);
    }

    /// The same of all kinds.
    pub fn say_of_all(&self, name: &str, said: &Said) {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
            self.say_of(name, kind, said.clone());
        }
    }

    /// From now on every answer over UDP is cut before its first record.
    pub fn truncate(&self) {
        self.state.lock().unwrap().truncates = true;
    }

    pub fn over_tcp(&self) -> usize {
        self.state.lock().unwrap().over_tcp
    }

    /// How often records of this kind were asked for.
    pub fn queries(&self, name: &str, kind: RecordType) -> usize {
        let key = (name.to_owned(), kind);
        self.state.lock().unwrap().queries.get(&key).copied().unwrap_or_default()
    }

    /// Waits until they are asked for so many times more.
    pub fn wait_for_queries(&self, name: &str, kind: RecordType, more: usize) {
        let before = self.queries(name, kind);
        eventually(&format!("queries for {name}"), || {
            (self.queries(name, kind) >= before + more).then_some(())
        });
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.state.lock().unwrap().stopping = true;
        // Both threads look at the flag with the next that comes.
        let _ = self.udp.send_to(&[], self.address);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve_udp(socket: &UdpSocket, state: &Mutex<State>) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if state.lock().unwrap().stopping {
            return;
        }
        if let Some(answer) = answer(&buffer[..length], state, false) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &Arc<Mutex<State>>) {
    while let Ok((mut stream, _)) = listener.accept() {
        if state.lock().unwrap().stopping {
            return;
        }
        let state = state.clone();
        thread::spawn(move || {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut query).is_err() {
                    break;
                }
                state.lock().unwrap().over_tcp += 1;
                let Some(answer) = answer(&query, &state, true) else { continue };
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// The answer to one query; `None` is silence.
fn answer(query: &[u8], state: &Mutex<State>, is_tcp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_lowercase().to_ascii();
    let key = (name.trim_end_matches('.').to_owned(), question.query_type());
    let mut state = state.lock().unwrap();
    *state.queries.entry(key.clone()).or_default() += 1;
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.add_query(question.clone());
    match state.zone.get(&key).cloned().unwrap_or(Said::NoSuchName) {
        Said::Silence => return None,
        Said::Nothing => {}
        Said::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
        Said::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Said::Records(_) if state.truncates && !is_tcp => answer.metadata.truncation = true,
        Said::Records(records) => {
            let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
            answer.add_answers(records.into_iter().map(record));
        }
    }
    Some(answer.to_vec().unwrap())
}
