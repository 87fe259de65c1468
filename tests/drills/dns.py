"""A small DNS server: A and SRV records with short lifetimes, over UDP and TCP."""

import contextlib
import socket
import struct
import threading

A, AAAA, SRV = 1, 28, 33
NO_SUCH_NAME = 3
# More does not fit into the packets that the resolver announces to take.
UDP_BYTES_MAX = 1232


class Dns:
    """Answers from a thread until the process ends. Names that are not set do not exist."""

    def __init__(self, ttl=1):
        self.ttl = ttl
        self.queries = 0
        self._zone = {}
        while True:
            self._udp, self._tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
            self._udp.bind(("127.0.0.1", 0))
            self.port = self._udp.getsockname()[1]
            with contextlib.suppress(OSError):
                self._tcp.bind(("127.0.0.1", self.port))
                break
        self._tcp.listen()
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def addresses(self, name, ips):
        self._zone[name] = {A: [socket.inet_aton(ip) for ip in ips]}

    def services(self, name, services):
        """Of each priority, weight, port and target."""
        self._zone[name] = {SRV: [
            struct.pack(">HHH", *numbers) + encoded(target) for *numbers, target in services]}

    def _serve_udp(self):
        while True:
            query, peer = self._udp.recvfrom(4096)
            answer = self._answer(query)
            if len(answer) > UDP_BYTES_MAX:
                # Cut, with the flag that says so.
                question = answer[12: 12 + len(query_name(query)[1]) + 4]
                answer = answer[:2] + bytes((answer[2] | 2, answer[3]))
                answer += struct.pack(">HHHH", 1, 0, 0, 0) + question
            self._udp.sendto(answer, peer)

    def _serve_tcp(self):
        while True:
            connection, _ = self._tcp.accept()
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection):
        with connection, connection.makefile("rb") as stream:
            while len(length := stream.read(2)) == 2:
                answer = self._answer(stream.read(int.from_bytes(length, "big")))
                connection.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, query):
        self.queries += 1
        name, raw = query_name(query)
        question = raw + query[12 + len(raw): 16 + len(raw)]
        kind = int.from_bytes(question[-4:-2], "big")
        known = self._zone.get(name)
        records = (known or {}).get(kind, [])
        code = NO_SUCH_NAME if known is None else 0
        answer = query[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(records), 0, 0) + question
        for data in records:
            # A pointer to the name of the question.
            answer += struct.pack(">HHHIH", 0xC00C, kind, 1, self.ttl, len(data)) + data
        return answer


def query_name(query):
    """The name of the question, in lower case and as it stands there."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1: at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), query[12: at + 1]


def encoded(name):
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
