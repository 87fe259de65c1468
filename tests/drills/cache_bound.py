"""Storing ten times the cache's bound: what it holds stays below the bound, and so does memory.

Objects of 1 KiB to 8 MiB, as many bytes of each order of size. Some readers are slow, so that
objects are removed while they are still being sent.
"""

import http.client
import itertools
import random
import threading
import time

from .harness import Sampler, mib
from .origins import python_origin

BOUND = 64 << 20
ABOVE_BOUND = 128 << 20
OBJECT_MIN, OBJECT_MAX = 1 << 10, 8 << 20

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[cache]
memory = "{bound}B"

[listener.web]
bind = "127.0.0.1:0"

[pool.app]
endpoints = [{endpoints}]

[[route]]
pool = "app"
"""


class Objects:
    """What is asked for: new objects mostly, known ones at times."""

    def __init__(self, total):
        self.random = random.Random(1)
        self.lock = threading.Lock()
        self.left = total
        self.ids = itertools.count()
        self.known = []

    def next(self):
        """A path and its size, or none when everything has been asked for."""
        with self.lock:
            if self.left <= 0:
                return None
            if self.known and self.random.random() < 0.2:
                return self.random.choice(self.known[-200:])
            # Whole KiB; the exponent is even, so that there are as many small ones as large ones.
            size = int(OBJECT_MIN * (OBJECT_MAX / OBJECT_MIN) ** self.random.random()) >> 10 << 10
            self.left -= size
            entry = (f"/object/{next(self.ids)}/{size}", size)
            self.known.append(entry)
            return entry


def run(stage, result):
    origins = [python_origin(stage) for _ in range(2)]
    endpoints = ", ".join(f'"127.0.0.1:{port}"' for port in origins)
    proxy = stage.headwater(stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, bound=BOUND, endpoints=endpoints)))
    port = proxy.port("web")
    objects = Objects(10 * BOUND)
    cached, resident, wrong = [], [], []

    def sample():
        cached.append(proxy.metrics().sum("cache_bytes"))
        resident.append(proxy.memory())

    def client(slow):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while entry := objects.next():
            path, size = entry
            connection.request("GET", path)
            answer = connection.getresponse()
            length = 0
            while data := answer.read(64 << 10):
                length += len(data)
                if slow:
                    time.sleep(0.005)
            if answer.status != 200 or length != size:
                wrong.append(f"{path}: {answer.status}, {length} bytes")

    with Sampler(sample):
        threads = [threading.Thread(target=client, args=(n < 3,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sample()

    metrics = proxy.metrics()
    hits = int(metrics.sum("cache_requests_total", status="hit"))
    asked = sum(size for _, size in objects.known)
    result.figure(
        f"{len(objects.known)} objects, {mib(asked)} through a cache of {mib(BOUND)}; cache_bytes "
        f"at most {mib(max(cached))} ({int(max(cached))} of {BOUND}) in {len(cached)} samples, RSS "
        f"at most {mib(max(resident))}, peak {mib(proxy.memory('VmHWM'))}; {hits} hits, "
        f"{int(metrics.sum('cache_evictions_total'))} evictions, "
        f"{int(metrics.sum('cache_objects'))} objects at the end")
    result.require(not wrong, f"{len(wrong)} answers were wrong: {wrong[:3]}")
    result.require(max(cached) <= BOUND, f"cache_bytes reached {max(cached)}, of {BOUND}")
    peak = proxy.memory("VmHWM")
    result.require(peak <= BOUND + ABOVE_BOUND, f"resident memory reached {mib(peak)}")
    result.require(metrics.sum("cache_bytes_max") == BOUND, "cache_bytes_max is not the bound")
    result.require(max(cached) > BOUND / 2, "the cache was never half full: nothing was shown")
    result.require(hits > 0, "there were no hits: nothing was stored")
