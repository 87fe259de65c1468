"""An open load: requests at their times, however the earlier ones go. A process of its own.

    python3 -m drills.steady '{"port": 8080, "rate": 200, "seconds": 5}'

Each request is a GET of `path` on a connection that is free, or on a new one. With `method` it is
another one, with a small body; with `numbered` its number is the last segment of its path; with
`h2` all are streams of one connection, without TLS. Prints as JSON when it began, by the clock that
all processes share, and what became of each request: when it was due (seconds from then), its
status (0: no answer), how long it took in seconds, and the value of Retry-After.
"""

import asyncio
import json
import struct
import sys
import time

from .clients import Http2

ANSWER_WITHIN = 20  # seconds
BODY = b"a small body\n"


class Load:
    def __init__(self, options):
        self.port = options["port"]
        self.rate = options["rate"]
        self.seconds = options["seconds"]
        self.path = options.get("path", "/")
        self.method = options.get("method", "GET")
        self.numbered = options.get("numbered", False)
        self.body = b"" if self.method == "GET" else BODY
        self.free = []
        self.seen = []

    async def run(self):
        begin, requests = time.monotonic(), []
        for number in range(int(self.rate * self.seconds)):
            due = number / self.rate
            await asyncio.sleep(max(0, begin + due - time.monotonic()))
            requests.append(asyncio.ensure_future(self.request(begin, due, number)))
        await asyncio.gather(*requests)
        return {"begin": begin, "seen": sorted(self.seen)}

    async def request(self, begin, due, number):
        status, retry_after = 0, None
        path = f"{self.path}/{number}" if self.numbered else self.path
        try:
            status, retry_after = await asyncio.wait_for(self.exchange(path), ANSWER_WITHIN)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError):
            pass
        self.seen.append((due, status, time.monotonic() - begin - due, retry_after))

    async def exchange(self, path):
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection(
            "127.0.0.1", self.port)
        keep = False
        try:
            length = f"Content-Length: {len(self.body)}\r\n" if self.body else ""
            head = f"{self.method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n"
            writer.write(head.encode() + self.body)
            status = int((await reader.readline()).split()[1])
            fields = {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip().lower()
            await reader.readexactly(int(fields["content-length"]))
            keep = fields.get("connection") != "close"
            return status, fields.get("retry-after")
        finally:
            if keep:
                self.free.append((reader, writer))
            else:
                writer.close()


class H2Load(Load):
    """Of statuses only 200 is read, which is one byte without a header table; others are 1."""

    def __init__(self, options):
        super().__init__(options)
        self.session = None
        self.opening = asyncio.Lock()

    async def exchange(self, path):
        async with self.opening:
            if self.session is None or self.session.over:
                self.session = await Session.open(self.port)
        status = await self.session.exchange(self.method, path, self.body)
        return status, None


class Session:
    """One HTTP/2 connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.next_stream, self.over = 1, False
        self.streams = {}  # A future and the status, by number.

    @classmethod
    async def open(cls, port):
        session = cls(*await asyncio.open_connection("127.0.0.1", port))
        settings = struct.pack(">HIHI", 1, 0, 2, 0)  # HEADER_TABLE_SIZE, ENABLE_PUSH
        session.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        session.write(Http2.SETTINGS, 0, 0, settings)
        session.task = asyncio.ensure_future(session.read())
        return session

    def write(self, kind, flags, stream, payload=b""):
        self.writer.write(Http2.frame(kind, flags, stream, payload))

    async def exchange(self, method, path, body):
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        block = (b"\x82" if method == "GET" else b"\x83") + b"\x86\x04"
        block += bytes((len(path),)) + path.encode() + b"\x01\x09localhost"
        answered = asyncio.get_running_loop().create_future()
        self.streams[stream] = [answered, 1]
        end = 0 if body else Http2.END_STREAM
        self.write(Http2.HEADERS, end | Http2.END_HEADERS, stream, block)
        if body:
            self.write(Http2.DATA, Http2.END_STREAM, stream, body)
        return await answered

    async def read(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self.take(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.over = True
            for answered, _ in self.streams.values():
                if not answered.done():
                    answered.set_exception(ConnectionResetError("the connection ended"))

    def take(self, kind, flags, stream, payload):
        if kind == Http2.SETTINGS and not flags & Http2.ACK:
            self.write(Http2.SETTINGS, Http2.ACK, 0)
        elif kind == Http2.PING and not flags & Http2.ACK:
            self.write(Http2.PING, Http2.ACK, 0, payload)
        elif kind == Http2.GOAWAY:
            self.over = True
        elif kind == Http2.DATA and payload:
            self.write(Http2.WINDOW, 0, 0, struct.pack(">I", len(payload)))
        if stream not in self.streams:
            return
        state = self.streams[stream]
        if kind == Http2.HEADERS and payload.lstrip(bytes(range(0x20, 0x40)))[:1] == b"\x88":
            state[1] = 200
        if kind == Http2.RST or flags & Http2.END_STREAM and kind in (Http2.HEADERS, Http2.DATA):
            del self.streams[stream]
            if not state[0].done():
                state[0].set_result(0 if kind == Http2.RST else state[1])


async def main(options):
    kind = H2Load if options.get("h2") else Load
    return await kind(options).run()


if __name__ == "__main__":
    json.dump(asyncio.run(main(json.loads(sys.argv[1]))), sys.stdout)
