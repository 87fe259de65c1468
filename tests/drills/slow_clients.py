"""Clients that send and read slowly, beside others: none of those is refused or waits for them.

The slow ones come from 127.0.0.2, so that they are another client to the proxy.
"""

import contextlib
import json
import socket
import struct
import threading
import time

from .harness import Sampler
from .load import Steady
from .origins import Nginx, python_origin

CONFIG = """\
[process]
workers = 1

[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "{folder}/access.log"

[listener.plain]
bind = "127.0.0.1:0"

[listener.h2]
bind = "127.0.0.1:0"
protocols = ["h2"]

[pool.up]
endpoints = ["127.0.0.1:{up}"]
limits.connections = 500

[pool.down]
endpoints = ["127.0.0.1:{down}"]
limits.connections = 500

[[route]]
pool = "up"
cache = false

[[route]]
paths = ["/down/*"]
pool = "down"
cache = false
"""

SLOW = "127.0.0.2"
RATE = 200
# Beyond the quiet p99, in seconds: what one machine that drives all of them adds.
SLACK = 0.05


def run(stage, result):
    stage.write("www/down/index.html", "small\n")
    stage.write("www/down/medium", b"x" * (48 << 10))
    stage.write("www/down/large", b"x" * (1 << 20))
    up, down = python_origin(stage), Nginx(stage, "down", stage.path("www"))
    config = stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, up=up, down=down.port))
    proxy = stage.headwater(config)
    h1, h2 = proxy.port("plain"), proxy.port("h2")
    uploads, seconds = stage.length(1100, 600), stage.length(8, 3)

    def others(path):
        seen = Steady(stage, h1, RATE, seconds, path).finish()
        times = sorted(took for _, _, took, _ in seen)
        return times[int(len(times) * 0.99)], sum(status != 200 for _, status, _, _ in seen)

    quiet = 0
    for path in ("/", "/down/"):
        p99, refused = others(path)
        quiet = max(quiet, p99)
        result.require(refused == 0, "requests failed though nobody else was there")
    for name, path, hold in (
        ("uploads with a length", "/",
         lambda: uploading(h1, uploads, b"Content-Length: 2000", b"")),
        ("uploads in chunks", "/",
         lambda: uploading(h1, uploads, b"Transfer-Encoding: chunked", b"")),
        ("long uploads", "/",
         lambda: uploading(h1, uploads, b"Content-Length: 1000000", b"x" * 80_000)),
        ("readers of 48 KiB", "/down/", lambda: reading(h2, b"/down/medium")),
        ("readers of 1 MiB", "/down/", lambda: reading(h2, b"/down/large")),
    ):
        with hold():
            p99, refused = others(path)
        result.figure(f"{name}: p99 of others {p99 * 1000:.1f} ms (quiet {quiet * 1000:.1f} ms), "
                      f"refused {refused}")
        result.require(refused == 0, f"{name}: {refused} requests of others were refused")
        result.require(p99 <= 2 * quiet + SLACK, f"{name}: others waited")
    lines = [json.loads(line) for line in stage.path("access.log").read_text().splitlines()]
    called_in = [line for line in lines if line.get("error") == "client_share"]
    result.figure(f"called in {len(called_in)} requests")
    result.require(all(line["client_ip"] == SLOW for line in called_in), "of others")
    result.require(proxy.stop() == 0, "the proxy did not stop well")


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port), 10, source_address=(SLOW, 0))
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def uploading(port, count, framing, beginning):
    """Clients that send 20 bytes of a body twice a second."""
    drip = b"14\r\n" + b"a=1&" * 5 + b"\r\n" if b"chunked" in framing else b"a=1&" * 5
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(connect(port))
            send(sock, b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + beginning)
            socks.append(sock)
        with Sampler(lambda: [send(sock, drip) for sock in socks], every=0.5):
            time.sleep(1)
            yield


def send(sock, data):
    # A proxy that has had enough, or takes no more for the moment, is none of its business.
    with contextlib.suppress(OSError):
        sock.send(data)


@contextlib.contextmanager
def reading(port, path):
    """Five connections of HTTP/2 with 250 streams each, none of which takes a byte of a body."""
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            sock = stack.enter_context(connect(port))
            sock.setblocking(True)
            no_window = frame(4, 0, 0, struct.pack(">HI", 4, 0))
            block = b"\x82\x86" + literal(b":path", path) + literal(b":authority", b"x")
            streams = b"".join(frame(1, 5, 2 * number + 1, block) for number in range(250))
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_window + streams)
            threading.Thread(target=drain, args=(sock,), daemon=True).start()
        time.sleep(1)
        yield


def drain(sock):
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) \
        + payload


def literal(name, value):
    """A header field without indexing (RFC 7541 §6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
