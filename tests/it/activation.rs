//! Sockets that the process inherits: bound by systemd, and kept by it while one process follows
//! another.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::support::{Client, Folder, HOST, Proxy, Setup, eventually};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

fn lent(address: &str) -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn start(setup: &Setup, socket: &TcpListener) -> Proxy {
    let folder = Folder::new();
    folder.write("headwater.toml", setup.to_string());
    Proxy::start_with_socket(folder, socket.try_clone().unwrap().into())
}

fn setup(address: SocketAddr) -> Setup {
    Setup::empty().process("workers = 2").listener(&format!("bind = \"{address}\"")).text(HELLO)
}

#[test]
fn an_inherited_socket_is_accepted_from_by_all_workers() {
    let (socket, address) = lent("127.0.0.1:0");
    let proxy = start(&setup(address), &socket);
    proxy.wait_for_log("inherited=true");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/", &[]).text(), "hello");
    }
}

#[test]
fn a_restart_refuses_nobody() {
    let (socket, address) = lent("127.0.0.1:0");
    let mut first = start(&setup(address), &socket);
    let mut idle = Client::connect(address);
    assert_eq!(idle.get("/", &[]).text(), "hello");
    first.terminate();
    let mut between: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::connect(address);
            client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            client
        })
        .collect();
    assert_eq!(first.exit_code(), 0);
    let mut late = Client::connect(address);
    let second = start(&setup(address), &socket);
    for client in &mut between {
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!(late.get("/", &[]).text(), "hello");
    drop(second);
}

#[test]
fn addresses_that_no_inherited_socket_is_for_are_bound_as_ever() {
    let (socket, address) = lent("127.0.0.1:0");
    let more = "[listener.more]\nbind = \"127.0.0.1:0\"";
    let proxy = start(&setup(address).text(more), &socket);
    assert_eq!(proxy.get("/", &[]).text(), "hello");
    assert_eq!(Client::connect(proxy.address_of("more")).get("/", &[]).text(), "hello");
}

#[test]
fn a_socket_on_all_addresses_of_both_families_is_for_both() {
    // The standard library leaves IPV6_V6ONLY as the system has it: off.
    let (socket, address) = lent("[::]:0");
    let port = address.port();
    let both = format!("bind = [\"0.0.0.0:{port}\", \"[::]:{port}\"]");
    let proxy = start(&Setup::empty().listener(&both).text(HELLO), &socket);
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{port}").parse().unwrap();
        assert_eq!(Client::connect(address).get("/", &[]).text(), "hello");
    }
    assert_eq!(proxy.access("\"127.0.0.1\"")["client_ip"], "127.0.0.1");
}

#[test]
fn an_inherited_socket_without_a_listener_is_told() {
    let (socket, address) = lent("127.0.0.1:0");
    let proxy = start(&Setup::empty().text(HELLO), &socket);
    let line = proxy.wait_for_log("inherited socket");
    assert!(line.contains(&address.to_string()), "{line}");
}

#[test]
fn the_file_of_an_inherited_socket_is_left_alone() {
    let folder = Folder::new();
    let path = folder.join("web.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let bind = format!("bind = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    folder.write("headwater.toml", Setup::empty().listener(&bind).text(HELLO).to_string());
    let mut proxy = Proxy::start_with_socket(folder, OwnedFd::from(socket.try_clone().unwrap()));
    let outer = Setup::of(&[&format!("unix:{}", path.display())]).start();
    assert_eq!(outer.get("/", &[]).text(), "hello");
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
    assert!(path.exists());
}

#[test]
fn a_reload_lets_go_of_an_inherited_socket_and_takes_it_up_again() {
    let (socket, address) = lent("127.0.0.1:0");
    let proxy = start(&setup(address), &socket);
    proxy.reload(&Setup::empty().process("workers = 2").text(HELLO));
    let mut waiting = Client::connect(address);
    waiting.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    proxy.reload(&setup(address));
    assert_eq!(waiting.answer().text(), "hello");
    eventually("its address", || proxy.address().eq(&address).then_some(()));
}
