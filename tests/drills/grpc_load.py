"""Clients of gRPC, as a process of their own. Needs grpcio.

    python3 -m drills.grpc_load '{"port": 8443, "certificate": "site.crt", "seconds": 60}'
    python3 -m drills.grpc_load '{"port": 8443, "certificate": "site.crt", "hold": 16}'

With `seconds` it calls and streams for so long, `unary` and `both` of each kind side by side, and
prints a tally as JSON. With `hold` it keeps that many streams busy, says `open` once all of them
have echoed, goes on until its standard input ends, and prints with which status each ended. A
connection that was lost, by GOAWAY or otherwise, is counted as `lost`.
"""

import collections
import itertools
import json
import os
import pathlib
import queue
import sys
import threading
import time

import grpc

MESSAGE_BYTES = 200
CALL_WITHIN = 20  # seconds
# Messages of a stream that are on their way at once.
AHEAD = 8


class Load:
    """Channels, and what became of what went over them."""

    def __init__(self, port, certificate, channels):
        self._lock = threading.Lock()
        self.counts = collections.Counter()
        credentials = grpc.ssl_channel_credentials(pathlib.Path(certificate).read_bytes())
        # Otherwise all channels of a process share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [
            grpc.secure_channel(f"localhost:{port}", credentials, options)
            for _ in range(channels)
        ]
        for channel in self.channels:
            grpc.channel_ready_future(channel).result(CALL_WITHIN)
            channel.subscribe(self._watch())

    def _watch(self):
        was_ready = False

        def changed(state):
            nonlocal was_ready
            is_ready = state is grpc.ChannelConnectivity.READY
            if was_ready and not is_ready:
                self.count("lost")
            was_ready = is_ready

        return changed

    def count(self, name):
        with self._lock:
            self.counts[name] += 1

    def unary(self, channel, until):
        call = channel.unary_unary("/drill.Echo/Unary")
        while time.monotonic() < until:
            message = os.urandom(MESSAGE_BYTES)
            try:
                is_same = call(message, timeout=CALL_WITHIN) == message
                self.count("unary" if is_same else "wrong")
            except grpc.RpcError as error:
                self.count(error.code().name)

    def both(self, channel, until):
        """One stream after another, for a few seconds each."""
        while (now := time.monotonic()) < until:
            self.stream(channel, lambda end=min(until, now + 5): time.monotonic() < end)

    def stream(self, channel, goes_on, echoed=lambda: None, pause=0):
        """A stream on which messages go both ways at once; its status."""
        sent, room = queue.SimpleQueue(), threading.Semaphore(AHEAD)

        def messages():
            while goes_on():
                room.acquire(timeout=CALL_WITHIN)
                message = os.urandom(MESSAGE_BYTES)
                sent.put(message)
                yield message
                time.sleep(pause)

        call = channel.stream_stream("/drill.Echo/Both")(messages(), wait_for_ready=True)
        try:
            for message in call:
                self.count("messages" if message == sent.get() else "wrong")
                room.release()
                echoed()
            if not sent.empty():
                self.count("wrong")
            self.count("streams")
            return "OK"
        except grpc.RpcError as error:
            self.count(error.code().name)
            return error.code().name


def load(port, certificate, seconds, unary=4, both=4):
    load = Load(port, certificate, 2)
    until = time.monotonic() + seconds
    channels = itertools.cycle(load.channels)
    threads = [
        threading.Thread(target=kind, args=(next(channels), until))
        for kind in [load.unary] * unary + [load.both] * both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(load.counts))


def hold(port, certificate, streams):
    load = Load(port, certificate, 2)
    ended, echoed = threading.Event(), [threading.Event() for _ in range(streams)]
    codes = []
    threads = [
        threading.Thread(target=lambda number=number: codes.append(load.stream(
            load.channels[number % 2], lambda: not ended.is_set(), echoed[number].set, 0.01)))
        for number in range(streams)
    ]
    for thread in threads:
        thread.start()
    for event in echoed:
        event.wait(CALL_WITHIN)
    print("open", flush=True)
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join(CALL_WITHIN)
    print(json.dumps({**collections.Counter(codes), "lost": load.counts["lost"]}))


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    held = plan.pop("hold", None)
    hold(**plan, streams=held) if held else load(**plan)
