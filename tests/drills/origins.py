"""Origins behind the proxy: nginx, and an HTTP server of our own with odd duties.

    python3 -m drills.origins PORT [drip]

With `drip` it answers everything, the head included, at one byte a second.

| path | answers |
|---|---|
| `/slow/MS/...` | after that many milliseconds |
| `/object/ID/SIZE` | that many bytes, cacheable for an hour |
| `/sink` | the length and the SHA-256 of the request's body, as JSON |
| `/echo` | 101, and from then on every byte that comes |
| others | `hello` |
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import sys

from .harness import wait_for_port

# As an ordinary user the default ones may not be writable.
NGINX_TEMP = """\
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
"""

NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    include /etc/nginx/mime.types;
    gzip on;
""" + NGINX_TEMP + """\
    server {{ listen 127.0.0.1:{port}; root {root}; {server} }}
}}
"""


class Nginx:
    """nginx in one process, so that SIGKILL leaves nothing of it."""

    def __init__(self, stage, name, root, server=""):
        self.stage, self.port = stage, stage.port()
        self.folder = stage.path(name)
        self.folder.mkdir()
        self.config = stage.write(
            f"{name}/nginx.conf",
            NGINX.format(folder=self.folder, port=self.port, root=root, server=server))
        self.start()

    def start(self):
        self.process = self.stage.spawn(
            "nginx", "-e", self.folder / "error.log", "-c", self.config)
        wait_for_port(self.port)

    def kill(self):
        self.process.kill()
        self.process.wait()


def python_origin(stage):
    """The port of a server of our own."""
    port = stage.port()
    stage.python("origins", str(port))
    wait_for_port(port)
    return port


async def read_body(reader, fields):
    """The parts of a body."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    left = int(fields.get("content-length", 0))
    while left:
        data = await reader.read(min(left, 1 << 20))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(data)
        yield data


async def answer(path, fields, reader, writer):
    """One request; false if the connection is no HTTP any more."""
    head, body, repeat = "", b"hello\n", 1
    parts = path.split("/")
    digest, length = hashlib.sha256(), 0
    async for data in read_body(reader, fields):
        digest.update(data)
        length += len(data)
    if parts[1] == "slow":
        await asyncio.sleep(int(parts[2]) / 1000)
    elif parts[1] == "object":
        size = int(parts[3])
        head = "Cache-Control: max-age=3600\r\n"
        body, repeat = bytes(1024), size // 1024
    elif parts[1] == "sink":
        body = json.dumps({"length": length, "sha256": digest.hexdigest()}).encode()
    elif parts[1] == "echo":
        key = fields.get("sec-websocket-key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                     b"Upgrade: websocket\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        return False
    writer.write(
        f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body) * repeat}\r\n\r\n".encode())
    while repeat:
        now = min(repeat, 64)
        writer.write(body * now)
        await writer.drain()
        repeat -= now
    return True


async def drip(reader, writer):
    """One byte a second, for as long as anybody reads."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(1000)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        for byte in answer:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)
    writer.close()


async def serve(reader, writer):
    try:
        while line := await reader.readline():
            path, fields = line.decode().split()[1], {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip()
            if not await answer(path, fields, reader, writer):
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    answering = drip if sys.argv[2:] == ["drip"] else serve
    server = await asyncio.start_server(answering, "127.0.0.1", int(sys.argv[1]), limit=1 << 20,
                                        backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
