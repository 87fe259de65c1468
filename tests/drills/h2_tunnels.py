"""A client of WebSockets over HTTP/2 (RFC 8441): tunnels that share a connection.

Nothing is compressed in what it sends, and of what it gets only the status is looked at.
"""

import socket
import struct

from .harness import Failed

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ENABLE_CONNECT_PROTOCOL = 8
STATUS_200 = 0x88


def literal(name, value):
    """A field of a head, spelled out (RFC 7541 §6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"".join(literal(name, value) for name, value in [
    (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"https"),
    (b":authority", b"localhost"), (b":path", b"/echo"), (b"sec-websocket-version", b"13")])


class Connection:
    """One connection, and what has come for its streams."""

    def __init__(self, port, context):
        plain = socket.create_connection(("127.0.0.1", port), 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        if self.socket.selected_alpn_protocol() != "h2":
            raise Failed("no HTTP/2 by ALPN")
        self.unread, self.received, self.opened, self.next = b"", {}, set(), 1
        self.offers_tunnels = False
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, 0, 0)
        while not self.offers_tunnels:
            self.read()

    def send(self, kind, flags, stream, payload=b""):
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self.socket.sendall(head + payload)

    def take(self, length):
        while len(self.unread) < length:
            data = self.socket.recv(65536)
            if not data:
                raise Failed("the connection was closed")
            self.unread += data
        taken, self.unread = self.unread[:length], self.unread[length:]
        return taken

    def read(self):
        """The next frame."""
        head = self.take(9)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = self.take(length)
        if kind == DATA:
            if flags & END_STREAM:
                raise Failed(f"stream {stream} was ended")
            self.received[stream] += payload
            if payload:
                room = struct.pack(">I", length)
                self.send(WINDOW_UPDATE, 0, 0, room)
                self.send(WINDOW_UPDATE, 0, stream, room)
        elif kind == HEADERS:
            if payload[0] != STATUS_200 or flags & END_STREAM:
                raise Failed(f"no tunnel, but {payload!r}")
            self.opened.add(stream)
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, length, 6):
                name, value = struct.unpack(">HI", payload[at:at + 6])
                if name == ENABLE_CONNECT_PROTOCOL:
                    self.offers_tunnels = value == 1
            self.send(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self.send(PING, ACK, 0, payload)
        elif kind in (RESET, GOAWAY):
            raise Failed(f"frame {kind} for stream {stream}: {payload!r}")

    def tunnel(self):
        """Opens one."""
        stream, self.next = self.next, self.next + 2
        self.received[stream] = b""
        self.send(HEADERS, END_HEADERS, stream, HEAD)
        while stream not in self.opened:
            self.read()
        return Tunnel(self, stream)


class Tunnel:
    """A stream that is one."""

    def __init__(self, connection, stream):
        self.connection, self.stream = connection, stream

    def echoes(self, message):
        """Whether a message comes back."""
        received = self.connection.received
        try:
            self.connection.send(DATA, 0, self.stream, message)
            while len(received[self.stream]) < len(message):
                self.connection.read()
        except (OSError, Failed):
            return False
        came, received[self.stream] = received[self.stream], b""
        return came == message

    def close(self):
        self.connection.socket.close()
