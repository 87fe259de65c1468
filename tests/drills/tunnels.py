"""Upgraded connections (WebSocket) live on through reloads, over TLS and without."""

import random
import socket
import ssl
import time

from .clients import is_open
from .harness import Failed, mib, wait_for
from .origins import python_origin

TUNNELS, RELOADS = 200, 10

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
           b"Upgrade: websocket\r\n\r\n")


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

    def echoes(self):
        """Whether a new message comes back."""
        message = random.randbytes(random.randint(1, 4096))
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


def run(stage, result):
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
    tunnels = [
        Tunnel(proxy.port(listener), listener == "secure")
        for listener in ("plain", "secure") for _ in range(TUNNELS // 2)
    ]
    messages, lost = 0, set()
    for version in range(2, RELOADS + 2):
        time.sleep(stage.length(5, 0.2))
        path.write_text(config(version))
        wait_for(f"generation {version}",
                 lambda: proxy.status()["generation"] == version, 5)
        for number, tunnel in enumerate(tunnels):
            if not tunnel.echoes():
                lost.add(number)
            messages += 1
    connections = int(proxy.metrics().sum("connections"))
    for tunnel in tunnels:
        tunnel.socket.close()
    wait_for("the connections to be let go",
             lambda: proxy.metrics().sum("connections") == 0, 5)
    resident = proxy.memory()
    code = proxy.stop()
    result.figure(f"{TUNNELS} tunnels through {RELOADS} reloads, {messages} messages echoed, "
                  f"{len(lost)} lost, {connections} connections by the metrics, "
                  f"RSS {mib(resident)}, exit code {code}")
    result.require(not lost, f"{len(lost)} tunnels were lost")
    result.require(connections == TUNNELS, f"{connections} connections instead of {TUNNELS}")
    result.require(code == 0, f"exit code {code}")
