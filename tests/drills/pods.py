"""Upstream processes as an orchestrator runs and ends them.

    python3 -m drills.pods '{"ip": "127.0.0.2", "ports": [8080], "seen": "pod.log"}'

Answers every request on every port after `service_ms`; in the first `slow_seconds` after
`slow_ms`. The path of each request is written to `seen` as soon as its head is there. SIGTERM ends
it as well-behaved servers end: it takes no more connections, closes those that rest at once, and
lets open requests end. Lines on standard input are commands, each answered with a line of JSON:

    listen PORT...   stop PORT...   report (requests and open connections by port)
"""

import asyncio
import json
import signal
import sys
import time

from .origins import read_body


class Pods:
    """The process, as the drill has it."""

    def __init__(self, stage, ip, ports, **options):
        self.ip = ip
        self.seen = stage.path(f"seen-{ip}.log")
        options = {"ip": ip, "ports": ports, "seen": str(self.seen), **options}
        self.process = stage.python("pods", json.dumps(options), stdin=-1, stdout=-1, text=True)
        self.tell("report")  # It listens by then.

    def tell(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def report(self):
        """Requests and open connections by port."""
        return {int(port): tuple(counts) for port, counts in self.tell("report").items()}


class Port:
    """One server and its connections."""

    def __init__(self, pod):
        self.pod = pod
        self.requests = 0
        self.resting = set()
        self.open = 0
        self.stopping = False

    async def serve(self, reader, writer):
        self.open += 1
        try:
            while not self.stopping:
                self.resting.add(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                self.resting.discard(writer)
                await self.answer(head.decode("latin-1"), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.resting.discard(writer)
            self.open -= 1
            writer.close()

    async def answer(self, head, reader, writer):
        self.requests += 1
        line, *fields = head.split("\r\n")
        path = line.split()[1]
        self.pod.note(path)
        fields = dict(map(str.strip, field.lower().split(":", 1)) for field in fields if field)
        async for _ in read_body(reader, fields):
            pass
        await asyncio.sleep(self.pod.service_time())
        body = f"{path}\n".encode()
        close = "Connection: close\r\n" if self.stopping else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{close}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    def stop(self):
        self.stopping = True
        self.server.close()
        for writer in list(self.resting):
            writer.close()


class Pod:
    def __init__(self, options):
        self.ip = options["ip"]
        self.service = options.get("service_ms", 20) / 1000
        self.slow = options.get("slow_ms", 0) / 1000
        self.slow_until = time.monotonic() + options.get("slow_seconds", 0)
        self.seen = open(options["seen"], "a", buffering=1)
        self.ports = {}

    def note(self, path):
        self.seen.write(path + "\n")

    def service_time(self):
        return self.slow if time.monotonic() < self.slow_until else self.service

    async def listen(self, number):
        port = self.ports[number] = Port(self)
        port.server = await asyncio.start_server(port.serve, self.ip, number, backlog=1024)

    async def obey(self):
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while words := (await reader.readline()).decode().split():
            for number in map(int, words[1:]):
                if words[0] == "listen":
                    await self.listen(number)
                else:
                    self.ports[number].stop()
            print(json.dumps(
                {number: (port.requests, port.open) for number, port in self.ports.items()}),
                flush=True)

    async def run(self, ports):
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        for number in ports:
            await self.listen(number)
        obeying = asyncio.ensure_future(self.obey())
        await ended.wait()
        obeying.cancel()
        for port in self.ports.values():
            port.stop()
        while any(port.open for port in self.ports.values()):
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    asyncio.run(Pod(options).run(options["ports"]))
