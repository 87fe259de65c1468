"""SIGTERM under load: no request fails, idle clients hold nothing, exit 0."""

import collections
import contextlib
import signal
import socket
import ssl
import time

from .clients import Http1, Http2, is_open
from .harness import Failed
from .load import Clients, add_up
from .origins import Nginx, python_origin

BODY = "fast\n"

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.plain]
bind = "127.0.0.1:0"

[listener.secure]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site.crt", key = "site.key" }}]

[pool.fast]
endpoints = ["127.0.0.1:{fast}"]

[pool.slow]
endpoints = ["127.0.0.1:{slow}"]

[[route]]
pool = "fast"
cache = false

[[route]]
paths = ["/slow/*", "/object/*"]
pool = "slow"
cache = false
"""

# What an idle connection of HTTP/1.1 may still be used for, with room to spare.
IDLE_FOR = 1.0
# Idle clients of HTTP/2 that never answer a PING, and how long a stop may take with them.
DEAF = 3
LONGEST = 8.0


def run(stage, result):
    stage.certificate()
    stage.write("www/index.html", BODY)
    fast, slow = Nginx(stage, "origin", stage.path("www")), python_origin(stage)
    config = stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, fast=fast.port, slow=slow))
    total, notes, times, codes = collections.Counter(), [], [], []
    stops = stage.length(20, 5)
    for _ in range(stops):
        tally, more, code, seconds = stop_once(stage, config)
        total.update(tally)
        notes += more
        times.append(seconds)
        codes.append(code)

    failed = total["failed"] + total["cut"] + total["status"] + total["wrong"]
    result.figure(
        f"{stops} stops, {total['sent']} requests, failed {failed}; told to close "
        f"{total['told_to_close']}, raced with a close {total['raced']}, handshakes cut "
        f"{total['handshakes_failed']}; longest stop {max(times):.1f} s, exit codes {set(codes)}")
    result.require(failed == 0, f"{failed} requests failed: {dict(collections.Counter(notes))}")
    result.require(set(codes) == {0}, f"exit codes {codes}")
    result.require(total["sent"] > 100 * stops, "there was no load")
    result.require(total["raced"] == 0, "connections were closed under requests")
    result.require(max(times) <= LONGEST, "idle clients held a stop")


def stop_once(stage, config):
    """Starts, loads and stops a proxy: the tally, notes, exit code and seconds that it took."""
    proxy = stage.headwater(config)
    plain, secure = proxy.port("plain"), proxy.port("secure")
    common = {"until_gone": True, "pause": 0.001}
    fast = {**common, "body": BODY}
    slow = {**common, "path": "/slow/150/", "body": "hello\n"}
    sipped = {**common, "path": f"/object/0/{256 << 10}", "sip": 4096}
    clients = [
        Clients(stage, protocol="h1", port=plain, connections=8, **fast),
        # A connection for each request: some are always on their way into the accept queue.
        Clients(stage, protocol="h1", port=plain, connections=4, per_connection=1, **fast),
        Clients(stage, protocol="h1", tls=True, port=secure, connections=4, **fast),
        Clients(stage, protocol="h2", tls=True, port=secure, connections=3, **fast),
        Clients(stage, protocol="h1", port=plain, connections=8, **slow),
        Clients(stage, protocol="h2", tls=True, port=secure, connections=2, **slow),
        # Answers that are still on their way when the proxy has nothing left to do for them.
        Clients(stage, protocol="h2", tls=True, port=secure, connections=2, streams=2, **sipped),
        Clients(stage, protocol="h1", port=plain, connections=2, **sipped),
    ]
    time.sleep(0.6)
    with contextlib.ExitStack() as stack:
        idle = stack.enter_context(socket.create_connection(("127.0.0.1", plain), 10))
        ask(idle)
        for _ in range(DEAF):
            stack.enter_context(deaf(secure))
        begin = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        time.sleep(IDLE_FOR)
        last = ask(idle)
        code = proxy.wait()
        seconds = time.monotonic() - begin
    tally, notes = add_up(client.finish() for client in clients)
    if not last:
        notes.append("an idle connection was not told to close")
        tally["failed"] += 1
    return tally, notes, code, seconds


def deaf(port):
    """A connection of HTTP/2 that has said hello, and says nothing more whatever it is told."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(Http2.ALPN)
    raw = socket.create_connection(("127.0.0.1", port), 10)
    sock = context.wrap_socket(raw, server_hostname="localhost")
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Http2.frame(Http2.SETTINGS, 0, 0))
    return sock


def ask(sock):
    """One request on a connection that must be open; whether the answer says that it ends."""
    if not is_open(sock):
        raise Failed("an idle connection was closed at once")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        status, _, close = Http1.receive(sock, bytearray())
    except (OSError, ValueError) as error:
        raise Failed(f"a request on an idle connection: {error!r}") from None
    if status != 200:
        raise Failed(f"a request on an idle connection: {status}")
    return close
