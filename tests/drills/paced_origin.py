"""An origin that sends large bodies at a pace, and tells what it was asked.

    python3 -m drills.paced_origin PORT

| path | answers |
|---|---|
| `/shared/ID` | 2 MiB at 10 MB/s, cacheable for an hour |
| `/private/ID` | 64 KiB after 100 ms, not to be stored |
| `/stats` | requests by path, the most that were open at once, and when the first byte of a body was \
written, in seconds of the monotonic clock |
"""

import asyncio
import collections
import contextlib
import json
import sys
import time

BODY_BYTES = 2 << 20
BYTES_PER_SECOND = 10_000_000
PIECE_BYTES = 20_000
PRIVATE_BYTES = 64 << 10
PRIVATE_DELAY = 0.1


def body(size):
    """Bytes that tell where they stand."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8))


class Origin:
    def __init__(self):
        self.bodies = {size: body(size) for size in (BODY_BYTES, PRIVATE_BYTES)}
        self.requests = collections.Counter()
        self.first_bytes = {}
        self.open, self.open_max = 0, 0

    async def shared(self, path, writer):
        whole = self.bodies[BODY_BYTES]
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(whole))
        begin = time.monotonic()
        self.first_bytes.setdefault(path, begin)
        for at in range(0, len(whole), PIECE_BYTES):
            writer.write(whole[at:at + PIECE_BYTES])
            await writer.drain()
            await asyncio.sleep(begin + (at + PIECE_BYTES) / BYTES_PER_SECOND - time.monotonic())

    async def private(self, writer):
        await asyncio.sleep(PRIVATE_DELAY)
        whole = self.bodies[PRIVATE_BYTES]
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: %d\r\n\r\n"
                     % len(whole))
        writer.write(whole)
        await writer.drain()

    async def answer(self, path, writer):
        if path == "/stats":
            stats = json.dumps({"requests": self.requests, "open_max": self.open_max,
                                "first_bytes": self.first_bytes}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(stats), stats))
            return
        self.requests[path] += 1
        self.open += 1
        self.open_max = max(self.open_max, self.open)
        try:
            if path.startswith("/shared/"):
                await self.shared(path, writer)
            else:
                await self.private(writer)
        finally:
            self.open -= 1

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.answer(head.split()[1].decode(), writer)
        writer.close()


async def main():
    server = await asyncio.start_server(
        Origin().serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
