"""Many clients ask for one object that nobody has: one fetch, shared while it arrives.

500 connected clients on a cold object of 2 MiB that the origin sends at 10 MB/s, then 2,000, then
500 on one that may not be shared, which must all reach the origin at once.
"""

import contextlib
import http.client
import json
import resource
import selectors
import socket
import time
import zlib

from .harness import Failed, mib, wait_for_port
from .paced_origin import BODY_BYTES, PRIVATE_BYTES, body

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.web]
bind = "127.0.0.1:0"

[pool.app]
endpoints = ["127.0.0.1:{origin}"]
limits = {{ connections = 10000, requests = 10000, queue = 10000 }}

[[route]]
pool = "app"
"""

FIRST_BYTE_MS = 150
# Resident memory beside twice the object.
MEMORY_BASE, MEMORY_PER_CONNECTION = 64 << 20, 32 << 10
WAIT_SECONDS = 60


class Client:
    """A connection that asks for one thing."""

    def __init__(self, address):
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self.head, self.status = b"", 0
        self.first_byte = None
        self.length, self.checksum = 0, 0

    def ask(self, path):
        self.socket.send(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path.encode())

    def read(self, bytes_max):
        """Takes some of the answer. The first byte of its body is noted."""
        data = self.socket.recv(bytes_max)
        if not data:
            raise Failed(f"broken off after {self.length} bytes")
        if not self.status:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head.split()[1])
        if data:
            self.first_byte = self.first_byte or time.monotonic()
            self.length += len(data)
            self.checksum = zlib.crc32(data, self.checksum)


def drain(clients, is_done, bytes_max):
    """Reads until it is done with each of the clients."""
    deadline = time.monotonic() + WAIT_SECONDS
    with selectors.DefaultSelector() as selector:
        waiting = {client for client in clients if not is_done(client)}
        for client in waiting:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while waiting:
            for key, _ in selector.select(1):
                client = key.data
                client.read(bytes_max)
                if is_done(client):
                    waiting.discard(client)
                    selector.unregister(client.socket)
            if time.monotonic() > deadline:
                raise Failed(f"{len(waiting)} clients have no whole answer in {WAIT_SECONDS} s")


def stampede(proxy, path, count, size):
    """All ask at once. The clients, and what memory the process grew by."""
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", proxy.port("web"))
        clients = [Client(address) for _ in range(count)]
        for client in clients:
            stack.callback(client.socket.close)
        before = proxy.memory()
        proxy.forget_peak()
        for client in clients:
            client.ask(path)
        # First of all who has a first byte, so that this process does not delay what it measures:
        # what comes after it waits in the sockets.
        drain(clients, lambda client: client.first_byte, 512)
        drain(clients, lambda client: client.length >= size, 256 << 10)
        grown = proxy.memory("VmHWM") - before
    return clients, grown


def wrong(clients, size):
    expected = (200, size, zlib.crc32(body(size)))
    return [c for c in clients if (c.status, c.length, c.checksum) != expected]


def stats(origin):
    connection = http.client.HTTPConnection("127.0.0.1", origin, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/stats")
        return json.loads(connection.getresponse().read())


def run(stage, result):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    origin = stage.port()
    stage.python("paced_origin", str(origin))
    wait_for_port(origin)
    proxy = stage.headwater(stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, origin=origin)))

    for count in (500, stage.length(2000, 1000)):
        path = f"/shared/{count}"
        clients, grown = stampede(proxy, path, count, BODY_BYTES)
        seen = stats(origin)
        first = seen["first_bytes"][path]
        latest = max(client.first_byte for client in clients) - first
        bound = 2 * BODY_BYTES + MEMORY_BASE + count * MEMORY_PER_CONNECTION
        result.figure(f"{count} clients: {seen['requests'][path]} fetch, the last first byte "
                      f"{latest * 1e3:.0f} ms after the origin's, memory +{mib(grown)}")
        result.require(seen["requests"][path] == 1, f"{seen['requests'][path]} fetches of {path}")
        result.require(not wrong(clients, BODY_BYTES), f"{path}: wrong answers")
        result.require(grown <= bound, f"{path}: memory grew by {mib(grown)}, over {mib(bound)}")
        if count == 500:
            result.require(latest <= FIRST_BYTE_MS / 1e3, f"a first byte came after {latest:.3f} s")

    begin = time.monotonic()
    clients, _ = stampede(proxy, "/private/x", 500, PRIVATE_BYTES)
    took, seen = time.monotonic() - begin, stats(origin)
    result.figure(f"500 that may not share: {seen['requests']['/private/x']} fetches, "
                  f"{seen['open_max']} at once, {took:.1f} s")
    result.require(not wrong(clients, PRIVATE_BYTES), "private: wrong answers")
    result.require(seen["requests"]["/private/x"] == 500, "a private answer was shared")
    result.require(seen["open_max"] >= 450, f"only {seen['open_max']} fetches were open at once")
    fetches = proxy.metrics().sum("cache_fetches_in_flight")
    result.require(fetches == 0, f"{fetches:.0f} fetches are still open")
