"""An open load: requests at their times, however the earlier ones go. A process of its own.

    python3 -m drills.steady '{"port": 8080, "rate": 200, "seconds": 5}'

Each request is a GET of `path` on a connection that is free, or on a new one. Prints as JSON when
it began, by the clock that all processes share, and what became of each request: when it was due
(seconds from then), its status (0: no answer), how long it took in seconds, and the value of
Retry-After.
"""

import asyncio
import json
import sys
import time

ANSWER_WITHIN = 20  # seconds


class Load:
    def __init__(self, options):
        self.port = options["port"]
        self.rate = options["rate"]
        self.seconds = options["seconds"]
        head = f"GET {options.get('path', '/')} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        self.head = head.encode()
        self.free = []
        self.seen = []

    async def run(self):
        begin, requests = time.monotonic(), []
        for number in range(int(self.rate * self.seconds)):
            due = number / self.rate
            await asyncio.sleep(max(0, begin + due - time.monotonic()))
            requests.append(asyncio.ensure_future(self.request(begin, due)))
        await asyncio.gather(*requests)
        return {"begin": begin, "seen": sorted(self.seen)}

    async def request(self, begin, due):
        status, retry_after = 0, None
        try:
            status, retry_after = await asyncio.wait_for(self.exchange(), ANSWER_WITHIN)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError):
            pass
        self.seen.append((due, status, time.monotonic() - begin - due, retry_after))

    async def exchange(self):
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection(
            "127.0.0.1", self.port)
        keep = False
        try:
            writer.write(self.head)
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


if __name__ == "__main__":
    json.dump(asyncio.run(Load(json.loads(sys.argv[1])).run()), sys.stdout)
