"""An origin whose objects have versions, and bodies that tell which one they are of.

    python3 -m drills.versioned_origin PORT

| request | answers |
|---|---|
| `GET /o/ID` | the object in its present version |
| `POST /o/ID` | gives it a new version: the number of it |

What an object is told by its number: how it may be stored ([`KINDS`]), its size, whether its length
is announced, its tag.
"""

import asyncio
import collections
import contextlib
import sys

# Fields, and for how many seconds after it was replaced a version may still be seen.
KINDS = (
    ("Cache-Control: max-age=3600\r\n", 3600),
    ("Cache-Control: max-age=1\r\n", 1),
    ("Cache-Control: max-age=1, stale-while-revalidate=5\r\n", 6),
    ("Cache-Control: max-age=3600\r\nVary: X-Variant\r\n", 3600),
    ("Cache-Control: no-store\r\n", 0),
)
VARIES, UNSTORED = 3, 4
SIZES = (200, 1_500, 20_000, 150_000)
TAGS = 10


def kind(number):
    return number % len(KINDS)


def size(number):
    return SIZES[number // len(KINDS) % len(SIZES)]


def tag(number):
    return f"tag-{number % TAGS}"


def name(number, version, variant):
    """What the entity tag and the body begin with."""
    return f"{number}.{version}.{variant if kind(number) == VARIES else '-'}"


def body(named, number):
    line = f"{named};".encode()
    return (line * (size(number) // len(line) + 1))[:size(number)]


class Origin:
    def __init__(self):
        self.versions = collections.Counter()

    async def answer(self, method, path, fields, writer):
        number = int(path.rpartition("/")[2])
        if method == "POST":
            self.versions[number] += 1
            text = str(self.versions[number]).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            return
        named = name(number, self.versions[number], fields.get("x-variant", ""))
        head = (f'ETag: "{named}"\r\nContent-Type: text/plain\r\nCache-Tag: {tag(number)}\r\n'
                f"{KINDS[kind(number)][0]}")
        if fields.get("if-none-match") == f'"{named}"':
            writer.write(f"HTTP/1.1 304 Not Modified\r\n{head}\r\n".encode())
            return
        whole = body(named, number)
        if number % 2:
            writer.write(f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(whole)}\r\n\r\n".encode())
            writer.write(b"" if method == "HEAD" else whole)
        else:
            writer.write(f"HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for at in range(0, 0 if method == "HEAD" else len(whole), 16_000):
                piece = whole[at:at + 16_000]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(b"" if method == "HEAD" else b"0\r\n\r\n")
        await writer.drain()

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.strip().split("\r\n")
                fields = {name.lower(): value.strip()
                          for name, _, value in (line.partition(":") for line in lines)}
                await reader.readexactly(int(fields.get("content-length", 0)))
                await self.answer(*first.split()[:2], fields, writer)
        writer.close()


async def main():
    server = await asyncio.start_server(
        Origin().serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
