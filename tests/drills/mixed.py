"""Hits, misses, revalidations, ranges, compression, purges, invalidations and clients that leave, all
at once, under a checker that knows what each answer may be.

No body may be wrong, no answer older than its lifetime allows, and none older than a purge or an
unsafe request that was answered before it was asked for. At the end no fetch is left open, and
memory is where it was.
"""

import contextlib
import http.client
import json
import random
import re
import socket
import threading
import time
import zlib

from .harness import Failed, mib, wait_for, wait_for_port
from .versioned_origin import KINDS, body, kind, name, size, tag

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[cache]
memory = "12MiB"

[listener.web]
bind = "127.0.0.1:0"

[pool.app]
endpoints = ["127.0.0.1:{origin}"]

[[route]]
pool = "app"
compress = true
"""

OBJECTS = 400
CLIENTS = 6
VARIANTS = ("a", "b", "c")
# Ages are whole seconds, and a fetch may have begun a moment before.
SLACK_SECONDS = 1.5
MEMORY_GROWTH = 24 << 20
ETAG = re.compile(r'^(?:W/)?"(\d+)\.(\d+)\.([^"]*?)(?:-(?:gzip|br|zstd))?"$')


class Ledger:
    """Which versions there are of each object, since when, and which may not be seen any more."""

    def __init__(self):
        self.lock = threading.Lock()
        self.newest = [0] * OBJECTS
        self.floor = [0] * OBJECTS
        self.replaced = [{} for _ in range(OBJECTS)]

    def begin_change(self, number):
        with self.lock:
            self.newest[number] += 1

    def changed(self, number):
        """The origin has it; the version before is the past."""
        with self.lock:
            self.replaced[number][self.newest[number] - 1] = time.monotonic()
            return self.newest[number]

    def purged(self, versions):
        with self.lock:
            for number, version in versions.items():
                self.floor[number] = max(self.floor[number], version)

    def judge(self, number, version, floor, asked):
        """What is wrong with an answer to a request of that time; `floor` is that of then."""
        with self.lock:
            newest, replaced = self.newest[number], self.replaced[number].get(version)
        if version > newest:
            return f"version {version} does not exist yet"
        if version < floor:
            return f"version {version} was purged, {floor} is the least"
        lifetime = KINDS[kind(number)][1]
        if replaced and asked > replaced + lifetime + SLACK_SECONDS:
            return f"version {version} was replaced {asked - replaced:.1f} s before"
        return None


class Client(threading.Thread):
    """Asks for this and that, and judges the answers."""

    def __init__(self, port, ledger, end, seed):
        super().__init__(daemon=True)
        self.port, self.ledger, self.end = port, ledger, end
        self.random = random.Random(seed)
        self.asked, self.problems, self.seen = 0, [], {}
        self.connection = None

    def run(self):
        while time.monotonic() < self.end and len(self.problems) < 10:
            self.asked += 1
            # Few are asked for often.
            number = int(OBJECTS ** self.random.random()) - 1
            try:
                if self.random.random() < 0.05:
                    self.leave_early(number)
                else:
                    self.ask(number)
            except (OSError, http.client.HTTPException) as error:
                self.problems.append(f"/o/{number}: {error!r}")
                self.connection = None

    def leave_early(self, number):
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(f"GET /o/{number} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
            if self.random.random() < 0.5:
                connection.recv(100)

    def ask(self, number):
        fields, chance, method = {}, self.random.random(), "GET"
        variant = self.random.choice(VARIANTS)
        fields["X-Variant"] = variant
        if chance < 0.15:
            first = self.random.randrange(size(number))
            fields["Range"] = f"bytes={first}-{first + self.random.randrange(1, 5000)}"
        elif chance < 0.3 and (number, variant) in self.seen:
            fields["If-None-Match"] = self.seen[number, variant]
        elif chance < 0.4:
            method = "HEAD"
        elif chance < 0.6:
            fields["Accept-Encoding"] = "gzip"
        floor, asked = self.ledger.floor[number], time.monotonic()
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.connection.request(method, f"/o/{number}", headers=fields)
        answer = self.connection.getresponse()
        data = answer.read()
        problem = self.judge(number, variant, floor, asked, method, fields, answer, data)
        if problem:
            head = dict(answer.getheaders())
            self.problems.append(f"{method} /o/{number} {fields}: {answer.status}: {problem} {head}")

    def judge(self, number, variant, floor, asked, method, fields, answer, data):
        tagged = ETAG.match(answer.getheader("ETag", ""))
        if answer.status not in (200, 206, 304, 416) or not tagged:
            return None if answer.status == 416 else "neither a status nor a tag to expect"
        version = int(tagged[2])
        named = name(number, version, variant)
        if (int(tagged[1]), f"{tagged[1]}.{tagged[2]}.{tagged[3]}") != (number, named):
            return "the tag of another object"
        self.seen[number, variant] = answer.getheader("ETag")
        whole = body(named, number)
        if answer.status == 304:
            if fields.get("If-None-Match") != answer.getheader("ETag"):
                return "a 304 for another tag"
        elif answer.status == 206:
            first, last, total = map(int, re.findall(r"\d+", answer.getheader("Content-Range")))
            if total != len(whole) or data != whole[first:last + 1] or "Range" not in fields:
                return "a wrong part"
        elif method == "HEAD":
            length = answer.getheader("Content-Length")
            if data or (length and int(length) != len(whole)):
                return "a wrong length"
        else:
            if answer.getheader("Content-Encoding") == "gzip":
                data = zlib.decompress(data, 31)
            if data != whole:
                return f"a wrong body of {len(data)} bytes"
        return self.ledger.judge(number, version, floor, asked)


class Changer(threading.Thread):
    """Gives objects new versions, at the origin and then a purge, or through the proxy."""

    def __init__(self, proxy, port, origin, ledger, end):
        super().__init__(daemon=True)
        self.proxy, self.ledger, self.end = proxy, ledger, end
        self.ports = {"origin": origin, "proxy": port}
        self.random = random.Random(0)
        self.counts = {}
        self.error = None

    def run(self):
        try:
            while time.monotonic() < self.end:
                self.change()
                time.sleep(0.02)
        except (OSError, http.client.HTTPException, Failed) as error:
            self.error = error

    def count(self, kind_):
        self.counts[kind_] = self.counts.get(kind_, 0) + 1

    def post(self, to, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[to], timeout=30)
        with contextlib.closing(connection):
            self.ledger.begin_change(number)
            connection.request("POST", f"/o/{number}", b"", {"Content-Length": "0"})
            answer = connection.getresponse()
            version = int(answer.read())
            if self.ledger.changed(number) != version:
                raise Failed(f"/o/{number} has version {version}")
            return version

    def change(self):
        number, how = self.random.randrange(OBJECTS), self.random.random()
        if how < 0.3:
            self.count("replaced")
            self.post("origin", number)
        elif how < 0.5:
            self.count("invalidated")
            version = self.post("proxy", number)
            self.ledger.purged({number: version})
        elif how < 0.8:
            self.count("purged by URL")
            version = self.post("origin", number)
            self.purge({"urls": [f"http://127.0.0.1/o/{number}"]}, {number: version})
        elif how < 0.97:
            self.count("purged by tag")
            self.post("origin", number)
            present = {n: self.ledger.newest[n] for n in range(OBJECTS) if tag(n) == tag(number)}
            self.purge({"tags": [tag(number)]}, present)
        else:
            self.count("purged by prefix")
            self.post("origin", number)
            present = dict(enumerate(self.ledger.newest))
            self.purge({"prefixes": ["127.0.0.1/o/"]}, present)

    def purge(self, order, versions):
        status, answer = self.proxy.admin("POST", "/api/cache/purge", json.dumps(order))
        if status != 200:
            raise Failed(f"purge {order}: {status} {answer}")
        self.ledger.purged(versions)


def run(stage, result):
    origin = stage.port()
    stage.python("versioned_origin", str(origin))
    wait_for_port(origin)
    proxy = stage.headwater(stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, origin=origin)))
    port, seconds = proxy.port("web"), stage.length(600, 30)
    ledger, begin = Ledger(), time.monotonic()
    end = begin + seconds
    clients = [Client(port, ledger, end, seed) for seed in range(1, CLIENTS + 1)]
    changer = Changer(proxy, port, origin, ledger, end)
    for thread in [*clients, changer]:
        thread.start()
    resident, over = [], []
    while time.monotonic() < end:
        time.sleep(0.5)
        resident.append(proxy.memory())
        metrics = proxy.metrics()
        over += [metrics.sum("cache_bytes")] if metrics.sum("cache_bytes") > 12 << 20 else []
    for thread in [*clients, changer]:
        thread.join(40)
    for client in clients:
        if client.connection:
            client.connection.close()

    problems = [problem for client in clients for problem in client.problems]
    early, late = resident[len(resident) // 3], max(resident[-len(resident) // 3:])
    metrics = proxy.metrics()
    by = {status: int(metrics.sum("cache_requests_total", status=status)) for status in
          ("hit", "stale", "revalidated", "collapsed", "miss", "uncacheable")}
    changes = ", ".join(f"{count} {how}" for how, count in sorted(changer.counts.items()))
    result.figure(
        f"{sum(client.asked for client in clients)} requests ({by}); {changes}; "
        f"{len(problems)} wrong; resident {mib(early)} after a third, at most {mib(late)} in the last, "
        f"{int(metrics.sum('cache_evictions_total'))} evictions")
    result.require(not problems, f"wrong answers: {problems[:3]}")
    result.require(changer.error is None, f"the changes ended: {changer.error!r}")
    result.require(late - early <= MEMORY_GROWTH, f"memory grew by {mib(late - early)}")
    result.require(not over, f"cache_bytes went over its bound: {over[:3]}")
    result.require(all(by[status] > 50 for status in ("hit", "revalidated", "miss")),
                   f"not all was shown: {by}")

    def is_quiet():
        now = proxy.metrics()
        return now.sum("cache_fetches_in_flight") + now.sum("http_requests_in_flight") == 0

    wait_for("all fetches to be over", is_quiet, 10)
