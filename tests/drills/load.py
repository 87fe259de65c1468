"""Load generators and the reading of their reports: our own clients, wrk and h2load."""

import collections
import json
import os
import re
import subprocess

from .harness import Failed

WRK_SCRIPT = """\
local pause = tonumber(os.getenv("PAUSE_MS"))
function delay() return pause end
"""


class Clients:
    """`drills.clients` as a process."""

    def __init__(self, stage, **options):
        self.process = stage.python("clients", json.dumps(options), stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True)

    def finish(self, within=60):
        """Lets the requests under way end; the tally."""
        try:
            out, _ = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            raise Failed("the clients do not end") from None
        if self.process.returncode != 0:
            raise Failed(f"the clients ended with {self.process.returncode}")
        return json.loads(out)


def add_up(tallies):
    """One tally of many."""
    total, notes = collections.Counter(), []
    for tally in tallies:
        notes += tally.pop("notes")
        total.update(tally)
    total = collections.defaultdict(int, total)
    return total, notes


class Steady:
    """`drills.steady` as a process."""

    def __init__(self, stage, port, rate, seconds, path="/", **options):
        options = {"port": port, "rate": rate, "seconds": seconds, "path": path, **options}
        self.rate, self.path, self.within = rate, path, seconds + 40
        self.process = stage.python("steady", json.dumps(options), stdout=subprocess.PIPE,
                                    text=True)

    def finish(self):
        """What became of each request: due, status, seconds, Retry-After."""
        out = self.process.communicate(timeout=self.within)[0]
        if self.process.returncode != 0:
            raise Failed(f"the steady load ended with {self.process.returncode}")
        report = json.loads(out)
        self.begin = report["begin"]
        return report["seen"]


class Mix:
    """GET and POST over HTTP/1.1 and HTTP/2 at once, each request with a path of its own."""

    def __init__(self, stage, h1, h2, rate, seconds):
        self.loads = [
            Steady(stage, port, rate, seconds, f"/{protocol}/{method}", method=method,
                   numbered=True, h2=protocol == "h2")
            for protocol, port in (("h1", h1), ("h2", h2)) for method in ("GET", "POST")]

    def finish(self):
        """Of each request: when it was due by the clock of all processes, path, status, seconds."""
        return sorted(
            (load.begin + due, f"{load.path}/{round(due * load.rate)}", status, took)
            for load in self.loads for due, status, took, _ in load.finish())


def quantile(requests, share):
    """Of the time that requests of a mix took, in milliseconds."""
    times = sorted(took for _, _, _, took in requests)
    return times[int(share * (len(times) - 1))] * 1e3


class Wrk:
    """wrk over plain HTTP/1.1. It counts errors of sockets and statuses from 400 on."""

    def __init__(self, stage, port, seconds, connections=8, pause_ms=5, path="/"):
        script = stage.write("pause.lua", WRK_SCRIPT)
        self.process = stage.spawn(
            "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script,
            f"http://127.0.0.1:{port}{path}", stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PAUSE_MS": str(pause_ms)})

    def finish(self):
        """Requests, and what failed of them."""
        out = self.process.communicate(timeout=90)[0]
        requests = re.search(r"(\d+) requests in", out)
        if not requests:
            raise Failed(f"wrk: {out}")
        failed = sum(
            int(number)
            for line in re.findall(r"(?:Socket errors|Non-2xx or 3xx responses):.*", out)
            for number in re.findall(r"(\d+)(?=,|$)", line))
        return int(requests[1]), failed


class H2load:
    """h2load over TLS."""

    def __init__(self, stage, port, seconds, connections=4, streams=8, rps=100, path="/"):
        self.process = stage.spawn(
            "h2load", f"-D{seconds}", f"-c{connections}", f"-m{streams}", f"--rps={rps}",
            f"https://127.0.0.1:{port}{path}", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def finish(self):
        """Requests, and what failed of them."""
        out = self.process.communicate(timeout=90)[0]
        counts = dict(
            (name, int(number)) for number, name in re.findall(
                r"(\d+) (total|started|done|succeeded|failed|errored|timeout|[2345]xx)", out))
        if "2xx" not in counts or "Application protocol: h2" not in out:
            raise Failed(f"h2load: {out}")
        failed = counts["failed"] + sum(counts[bad] for bad in ("3xx", "4xx", "5xx"))
        return counts["succeeded"], failed
