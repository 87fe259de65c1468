"""Idle TLS connections stay open, cost little, and all answer afterwards."""

import concurrent.futures
import resource
import socket
import ssl
import struct
import time

from .clients import Http1, Http2
from .harness import Failed

# Of each protocol. Cloudflare keeps thousands for a quarter of an hour, and by default we keep them half
# a minute longer; the drill wants yet another half.
CONNECTIONS, CONNECTIONS_SHORT = 5000, 1000
IDLE, IDLE_SHORT = 16 * 60, 3  # seconds
KIB_MAX = {"h1": 24, "h2": 36}
THREADS = 8

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.web]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site.crt", key = "site.key" }}]
front = "cloudflare"
timeouts.idle = "1000s"
trusted = ["127.0.0.1/32"]

[pool.app]
files = "{folder}/site"

[[route]]
pool = "app"
"""

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def context(name):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols([name])
    return made


# Each is dear to make.
CONTEXTS = {"h1": context("http/1.1"), "h2": context("h2")}


class Idle:
    """One connection, which asks now and then."""

    def __init__(self, port, protocol):
        raw = socket.create_connection(("127.0.0.1", port), 20)
        self.socket = CONTEXTS[protocol].wrap_socket(raw, server_hostname="localhost")
        self.protocol = protocol
        self.stream = 1
        if protocol == "h2":
            settings = struct.pack(">HIHI", 1, 0, 2, 0)  # HEADER_TABLE_SIZE, ENABLE_PUSH
            self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                + Http2.frame(Http2.SETTINGS, 0, 0, settings))

    def ask(self):
        """Whether a request is answered well."""
        try:
            return self.ask_h2() if self.protocol == "h2" else self.ask_h1()
        except (OSError, ValueError):
            return False

    def ask_h1(self):
        self.socket.sendall(REQUEST)
        status, body, _ = Http1.receive(self.socket, bytearray())
        return status == 200 and body == b"hello"

    def ask_h2(self):
        stream, self.stream = self.stream, self.stream + 2
        block = b"\x82\x87\x84\x01\x09localhost"
        flags = Http2.END_STREAM | Http2.END_HEADERS
        self.socket.sendall(Http2.frame(Http2.HEADERS, flags, stream, block))
        buffer, is_ok = bytearray(), False
        while True:
            while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3], "big"):
                data = self.socket.recv(65536)
                if not data:
                    return False
                buffer += data
            length = int.from_bytes(buffer[:3], "big")
            kind, flags = buffer[3], buffer[4]
            payload = bytes(buffer[9:9 + length])
            of = int.from_bytes(buffer[5:9], "big") & 0x7FFFFFFF
            del buffer[:9 + length]
            if kind == Http2.SETTINGS and not flags & Http2.ACK:
                self.socket.sendall(Http2.frame(Http2.SETTINGS, Http2.ACK, 0))
            elif kind == Http2.GOAWAY:
                return False
            elif of == stream and kind == Http2.HEADERS:
                is_ok = payload.lstrip(bytes(range(0x20, 0x40)))[:1] == b"\x88"
            if of == stream and flags & Http2.END_STREAM and kind in (Http2.DATA, Http2.HEADERS):
                return is_ok


def all_of(work, items):
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(work, items))


def opened(port, protocol, count):
    def open_one(_):
        connection = Idle(port, protocol)
        # At once: a connection that says nothing is closed after `timeouts.header`.
        if not connection.ask():
            raise Failed(f"a new {protocol} connection did not answer")
        return connection

    return all_of(open_one, range(count))


def settled(proxy):
    """The resident memory once it does not shrink any more."""
    memory = proxy.memory()
    while True:
        time.sleep(1)
        before, memory = memory, proxy.memory()
        if memory >= before - (64 << 10):
            return memory


def run(stage, result):
    count = stage.length(CONNECTIONS, CONNECTIONS_SHORT)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    stage.certificate()
    stage.write("site/index.html", "hello")
    proxy = stage.headwater(stage.write("headwater.toml", CONFIG.format(folder=stage.folder)))
    port = proxy.port("web")
    # What is allocated once and kept is no cost of a connection.
    for protocol in KIB_MAX:
        for connection in opened(port, protocol, 100):
            connection.socket.close()
    connections, costs = [], {}
    for protocol in KIB_MAX:
        before = settled(proxy)
        connections += opened(port, protocol, count)
        costs[protocol] = (settled(proxy) - before) / count / 1024
    time.sleep(stage.length(IDLE, IDLE_SHORT))
    answered = sum(all_of(Idle.ask, connections))
    costs_shown = ", ".join(f"{cost:.1f} KiB {protocol}" for protocol, cost in costs.items())
    result.figure(f"{count} connections of each protocol, {costs_shown} resident each; after "
                  f"{stage.length(IDLE, IDLE_SHORT)} s idle {answered} of {2 * count} answer")
    for protocol, cost in costs.items():
        result.require(cost <= KIB_MAX[protocol],
                       f"{cost:.1f} KiB for each {protocol} connection")
    result.require(answered == 2 * count, f"{2 * count - answered} connections were lost")
    for connection in connections:
        connection.socket.close()
