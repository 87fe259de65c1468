"""WebSockets live on through reloads: over HTTP/1.1 with TLS and without, and over HTTP/2."""

import random
import resource
import socket
import ssl
import time

from . import h2_tunnels
from .clients import is_open
from .harness import Failed, mib, wait_for
from .origins import python_origin

# Tunnels over HTTP/2 of one connection.
SHARE = 10

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.plain]
bind = "127.0.0.1:0"

[listener.secure]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site{certificate}.crt", key = "site{certificate}.key" }}]

[pool.{pool}]
endpoints = [{endpoints}]

[[route]]
pool = "{pool}"
paths = ["/echo"]

[[route]]
respond = {{ status = 200, body = "{version}" }}
"""

UPGRADE = (b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
           b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


class Tunnel:
    """A client's end of one."""

    def __init__(self, port, tls):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.sendall(UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                raise Failed(f"no upgrade, but {head}")
            head += byte
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"no upgrade, but {head}")

    def echoes(self, message):
        """Whether a message comes back."""
        try:
            self.socket.sendall(message)
            received = b""
            while len(received) < len(message):
                data = self.socket.recv(65536)
                if not data:
                    return False
                received += data
        except OSError:
            return False
        return received == message and is_open(self.socket)

    def close(self):
        self.socket.close()


def open_all(proxy, count):
    """Tunnels of all kinds: a tenth over HTTP/2, the others half with TLS and half without."""
    shared = count // 10
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    port = proxy.port("secure")
    connections = [h2_tunnels.Connection(port, context) for _ in range(shared // SHARE)]
    tunnels = [connection.tunnel() for connection in connections for _ in range(SHARE)]
    for listener in ("plain", "secure"):
        of_listener = proxy.port(listener)
        tunnels += [Tunnel(of_listener, listener == "secure")
                    for _ in range((count - shared) // 2)]
    return tunnels, count - shared + len(connections)


def run(stage, result):
    count, reloads = stage.length(2000, 400), stage.length(20, 6)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))
    for n in range(2):
        stage.certificate(f"site{n}")
    ports = [python_origin(stage) for _ in range(3)]

    def config(version):
        # In turn the pool's endpoints change, its name does, and the certificate does.
        kept = ports if version % 3 else ports[:1]
        return CONFIG.format(
            folder=stage.folder, version=version, certificate=version % 2,
            pool=f"app{version // 5}",
            endpoints=", ".join(f'"127.0.0.1:{port}"' for port in kept))

    path = stage.write("headwater.toml", config(1))
    proxy = stage.headwater(path)
    tunnels, expected = open_all(proxy, count)
    messages, lost = 0, set()
    for version in range(2, reloads + 2):
        time.sleep(stage.length(1, 0.2))
        path.write_text(config(version))
        wait_for(f"generation {version}",
                 lambda: proxy.status()["generation"] == version, 5)
        for number, tunnel in enumerate(tunnels):
            if not tunnel.echoes(random.randbytes(random.randint(1, 4096))):
                lost.add(number)
            messages += 1
    connections = int(proxy.metrics().sum("connections"))
    for tunnel in tunnels:
        tunnel.close()
    wait_for("the connections to be let go",
             lambda: proxy.metrics().sum("connections") == 0, 5)
    resident = proxy.memory()
    code = proxy.stop()
    result.figure(f"{count} tunnels through {reloads} reloads, {messages} messages echoed, "
                  f"{len(lost)} lost, {connections} connections by the metrics, "
                  f"RSS {mib(resident)}, exit code {code}")
    result.require(not lost, f"{len(lost)} tunnels were lost")
    result.require(connections == expected, f"{connections} connections instead of {expected}")
    result.require(code == 0, f"exit code {code}")
