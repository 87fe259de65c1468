"""Load from clients that know the fate of every request, as a process of its own.

    python3 -m drills.clients '{"protocol": "h1", "port": 8080, "connections": 8}'

It runs until its standard input ends, or the server is gone if `until_gone` is set, and prints a
tally as JSON. wrk and h2load load harder, but tell neither a connection that was closed before a
request from one that was closed upon it, nor how far a response came.

What counts is a request whose first byte came while the server's side was open. Over loopback a
FIN arrives as it is sent, so a socket that is still established after the first write had no FIN
before it: a request on it must be answered. A request on any other is `raced`.
"""

import collections
import contextlib
import json
import selectors
import socket
import ssl
import struct
import sys
import threading
import time

ESTABLISHED = 1  # tcpi_state
ANSWER_WITHIN = 20  # seconds


def is_open(sock):
    """Whether the other side has not closed yet."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


class Tally:
    """What became of the requests of all connections."""

    COUNTS = ("connections", "sent", "ok", "status", "wrong", "cut", "failed", "raced", "closed",
              "told_to_close", "refused", "handshakes_failed")

    def __init__(self, name):
        self._lock = threading.Lock()
        self.counts = collections.Counter({name: 0 for name in self.COUNTS})
        self.notes = []
        self.name = name

    def add(self, name, note=None, number=1):
        with self._lock:
            self.counts[name] += number
            if note and len(self.notes) < 8:
                self.notes.append(f"{self.name}: {name}: {note}")

    def report(self):
        return {**self.counts, "notes": self.notes}


class Gone(Exception):
    """The server does not listen any more."""


class Client:
    """One connection after the other, until the end."""

    def __init__(self, options, tally, ended):
        self.port = options["port"]
        self.tls = options.get("tls", False)
        self.path = options.get("path", "/")
        self.body = options["body"].encode() if "body" in options else None
        # Reads only so many bytes each millisecond.
        self.sip = options.get("sip", 0)
        self.pause = options.get("pause", 0)
        self.streams = options.get("streams", 8)
        self.per_connection = options.get("per_connection", 0)
        self.until_gone = options.get("until_gone", False)
        self.tally = tally
        self.ended = ended

    def run(self):
        while not self.ended.is_set():
            try:
                sock = self.connect()
            except Gone:
                return
            if sock is None:
                time.sleep(0.02)
                continue
            with sock:
                self.converse(sock)

    def connect(self):
        """A connection, or none if it failed."""
        try:
            raw = self.open_socket()
        except (ConnectionRefusedError, ConnectionResetError) as error:
            if self.until_gone:
                raise Gone from None
            self.tally.add("refused", repr(error))
            return None
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tally.add("connections")
        if not self.tls:
            return raw
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(self.ALPN)
        try:
            return context.wrap_socket(raw, server_hostname="localhost")
        except OSError as error:
            raw.close()
            self.tally.add("handshakes_failed", repr(error))
            return None

    def open_socket(self):
        raw = socket.socket()
        raw.settimeout(ANSWER_WITHIN)
        if self.sip:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * self.sip)
        try:
            raw.connect(("127.0.0.1", self.port))
        except OSError:
            raw.close()
            raise
        return raw

    def check(self, status, body):
        if status != 200:
            self.tally.add("status", str(status))
        elif self.body is not None and body != self.body:
            self.tally.add("wrong", repr(body[:80]))
        else:
            self.tally.add("ok")


class Http1(Client):
    """Keep-alive, one request at a time."""

    ALPN = ["http/1.1"]

    def converse(self, sock):
        head = f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        number = 0
        while not self.ended.is_set():
            if not is_open(sock):
                self.tally.add("closed", "before a request")
                return
            counts, received = False, bytearray()
            try:
                sock.sendall(head)
                counts = is_open(sock)
                status, body, close = self.receive(sock, received)
            except (OSError, ValueError) as error:
                self.broken(counts, received, error)
                return
            self.tally.add("sent")
            self.check(status, body)
            number += 1
            if close:
                self.tally.add("told_to_close")
                return
            if number == self.per_connection:
                return
            if self.pause:
                time.sleep(self.pause)

    def broken(self, counts, received, error):
        if b"\r\n\r\n" in received:
            self.tally.add("cut", f"{error!r} after {len(received)} bytes")
        elif not counts and not received:
            self.tally.add("raced")
            return
        else:
            self.tally.add("failed", f"{error!r} after {len(received)} bytes")
        self.tally.add("sent")

    @staticmethod
    def receive(sock, received):
        """Status, body, and whether the connection ends."""

        def more():
            data = sock.recv(65536)
            if not data:
                raise ValueError("end of stream")
            received.extend(data)

        while (end := received.find(b"\r\n\r\n")) < 0:
            more()
        lines = bytes(received[:end]).decode("latin-1").split("\r\n")
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip().lower()
        start = end + 4
        if fields.get("transfer-encoding") == "chunked":
            # The bodies are small: good enough, and no parser is needed.
            while not received.endswith(b"0\r\n\r\n"):
                more()
            body, rest = b"", bytes(received[start:])
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2:]
        else:
            length = int(fields["content-length"])
            while len(received) < start + length:
                more()
            body = bytes(received[start:])
        return int(lines[0].split()[1]), body, "close" in fields.get("connection", "")


class Http2(Client):
    """As many streams at once as asked for.

    The header table has size 0 on both sides, so that neither HPACK's dynamic table nor Huffman's
    code is needed to read a status of 200: it is one byte, and anything else is a failure.
    """

    ALPN = ["h2"]
    DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
    END_STREAM, END_HEADERS, ACK = 1, 4, 1

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(
            ">I", stream) + payload

    def converse(self, sock):
        settings = struct.pack(">HIHI", 1, 0, 2, 0)  # HEADER_TABLE_SIZE, ENABLE_PUSH
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS, 0, 0, settings)
        self.open, self.next_stream, self.goaway, self.done = {}, 1, False, 0
        self.buffer = bytearray()
        try:
            sock.sendall(preface)
            while True:
                if not self.fill(sock) or (not self.open and self.over()):
                    return
                self.take(sock)
        except (OSError, ValueError) as error:
            self.broken(error)

    def over(self):
        return self.ended.is_set() or self.goaway or self.done == self.per_connection > 0

    def fill(self, sock):
        """Opens streams up to the limit; false if the connection had been closed."""
        while len(self.open) < self.streams and not self.over():
            if self.per_connection and self.done + len(self.open) >= self.per_connection:
                break
            if not is_open(sock):
                if not self.open:
                    self.tally.add("closed", "without GOAWAY")
                    return False
                break
            block = b"\x82\x86\x04" + bytes((len(self.path),)) + self.path.encode()
            block += b"\x01\x09localhost"
            stream, self.next_stream = self.next_stream, self.next_stream + 2
            self.open[stream] = [False, None, b""]  # counts, status, body
            sock.sendall(self.frame(
                self.HEADERS, self.END_STREAM | self.END_HEADERS, stream, block))
            self.open[stream][0] = is_open(sock)
            if self.pause:
                time.sleep(self.pause)
        return True

    def take(self, sock):
        """Reads what there is, and handles the frames that are complete."""
        data = sock.recv(self.sip or 65536)
        if not data:
            raise ValueError("end of stream")
        if self.sip:
            time.sleep(0.001)
        self.buffer += data
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags = self.buffer[3], self.buffer[4]
            stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
            payload = bytes(self.buffer[9: 9 + length])
            del self.buffer[: 9 + length]
            self.handle(sock, kind, flags, stream, payload)

    @staticmethod
    def tell(sock, frame):
        """Sends what no answer depends on: the other side may have closed, having said it all."""
        with contextlib.suppress(OSError):
            sock.sendall(frame)

    def handle(self, sock, kind, flags, stream, payload):
        if kind == self.SETTINGS and not flags & self.ACK:
            self.tell(sock, self.frame(self.SETTINGS, self.ACK, 0))
        elif kind == self.PING and not flags & self.ACK:
            self.tell(sock, self.frame(self.PING, self.ACK, 0, payload))
        elif kind == self.GOAWAY:
            if not self.goaway:
                self.tally.add("told_to_close")
            self.goaway = True
        elif kind == self.RST and stream in self.open:
            state = self.open.pop(stream)
            self.tally.add("sent")
            outcome = "failed" if state[1] is None else "cut"
            self.tally.add(outcome, f"reset of a stream, code {int.from_bytes(payload, 'big')}")
        elif kind in (self.HEADERS, self.DATA) and stream in self.open:
            state = self.open[stream]
            if kind == self.HEADERS and state[1] is None:
                block = payload.lstrip(bytes(range(0x20, 0x40)))  # table size updates
                state[1] = 200 if block[:1] == b"\x88" else block[:8].hex()
            elif kind == self.DATA:
                state[2] += payload
                if payload:
                    update = struct.pack(">I", len(payload))
                    self.tell(sock, self.frame(self.WINDOW, 0, 0, update))
                    self.tell(sock, self.frame(self.WINDOW, 0, stream, update))
            if flags & self.END_STREAM:
                del self.open[stream]
                self.done += 1
                self.tally.add("sent")
                self.check(state[1], state[2])

    def broken(self, error):
        for counts, status, _ in self.open.values():
            if status is not None:
                self.tally.add("cut", repr(error))
            elif counts:
                self.tally.add("failed", f"{error!r}, goaway {self.goaway}")
            else:
                self.tally.add("raced")
                continue
            self.tally.add("sent")
        if not self.open and not self.goaway:
            self.tally.add("closed", f"{error!r}, without GOAWAY")


def main():
    options = json.loads(sys.argv[1])
    name = f"{options['protocol']}{' TLS' if options.get('tls') else ''} {options.get('path', '/')}"
    tally, ended = Tally(name), threading.Event()
    kind = {"h1": Http1, "h2": Http2}[options["protocol"]]
    threads = [
        threading.Thread(target=kind(options, tally, ended).run, daemon=True)
        for _ in range(options.get("connections", 1))
    ]
    for thread in threads:
        thread.start()
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while any(thread.is_alive() for thread in threads) and not ended.is_set():
            if selector.select(0.1) and not sys.stdin.read(1):
                ended.set()
    for thread in threads:
        thread.join(ANSWER_WITHIN + 5)
        if thread.is_alive():
            tally.add("failed", "no answer at all")
    print(json.dumps(tally.report()))


if __name__ == "__main__":
    main()
