"""All upstream processes are replaced one after the other under load, found by DNS: nothing fails.

As in an orchestrator's rollout the new one is announced as soon as it listens, though it is slow for
its first seconds, and the old one gets SIGTERM as its record goes: it closes its resting connections
at once and takes no more, while the last answer of DNS still names it.

A POST that was written to a connection as its upstream closed it cannot be repeated: nobody knows
whether it was read. Such ones are counted apart; there is hardly ever one.
"""

import collections
import json
import time

from .dns import Dns
from .load import Mix, quantile
from .pods import Pods

CONFIG = """\
[process]
resolvers = ["127.0.0.1:{dns}"]

[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "access.log"
access.sample = 0

[listener.h1]
bind = "127.0.0.1:0"

[listener.h2]
bind = "127.0.0.1:0"
protocols = ["h2"]

[pool.app]
dns = "app.test:{port}"
dns_loopback = true

[[route]]
pool = "app"
cache = false
"""

PODS = 6
RATE = 50  # of each of the four loads
SLOW = {"slow_ms": 100, "slow_seconds": 3}
# The 99th percentile meanwhile, as a multiple of that before.
SLOWER_MAX = 3


def run(stage, result):
    port, dns = stage.port(), Dns(ttl=1)
    pods = [Pods(stage, f"127.0.1.{n}", [port]) for n in range(1, PODS + 1)]
    ever = list(pods)
    dns.addresses("app.test", [pod.ip for pod in pods])
    proxy = stage.headwater(stage.write(
        "headwater.toml", CONFIG.format(folder=stage.folder, dns=dns.port, port=port)))
    # In the long form all are replaced twice.
    quiet, every, replaced = stage.length((12, 4, 2 * PODS), (3, 3, 4))
    seconds = quiet + replaced * every + SLOW["slow_seconds"]
    load = Mix(stage, proxy.port("h1"), proxy.port("h2"), RATE, seconds)
    time.sleep(quiet)
    begun = time.monotonic()
    for number in range(replaced):
        old = pods.pop(0)
        pods.append(Pods(stage, f"127.0.1.{PODS + 1 + number}", [port], **SLOW))
        ever.append(pods[-1])
        dns.addresses("app.test", [pod.ip for pod in pods])
        old.process.terminate()
        time.sleep(max(0, begun + (number + 1) * every - time.monotonic()))
    requests = load.finish()
    metrics = proxy.metrics()
    proxy.stop()  # Writes the rest of the log.

    before = [one for one in requests if one[0] < begun - 0.5]
    during = [one for one in requests if begun <= one[0]]
    p99, p99_before = quantile(during, 0.99), quantile(before, 0.99)
    failed = [(path, status) for _, path, status, _ in requests if status != 200]
    gets = [one for one in failed if "/GET/" in one[0]]
    read = {path for pod in ever for path in pod.seen.read_text().split()}
    errors = dict(
        (line["path"], line.get("error"))
        for line in map(json.loads, stage.path("access.log").read_text().splitlines()))
    # The endpoint reset the connection that it was written to.
    raced = [path for path, _ in failed if path in read or errors.get(path) == "reset"]
    unwritten = [one for one in failed if "/POST/" in one[0] and one[0] not in raced]
    why = collections.Counter(errors.values())
    ended = sum(pod.process.poll() == 0 for pod in ever)
    slow = sum(took > 0.09 for _, _, _, took in during)
    result.figure(
        f"{replaced} replaced in {replaced * every} s, {len(requests)} requests, p50/p99 "
        f"{quantile(before, 0.5):.0f}/{p99_before:.0f} ms quiet, {quantile(during, 0.5):.0f}/{p99:.0f} "
        f"ms meanwhile ({slow} above 90 ms), {int(metrics.sum('retries_total'))} retries, failed: "
        f"{len(gets)} GET, {len(unwritten)} POST not written, {len(failed) - len(gets) - len(unwritten)} "
        f"POST raced; {dns.queries} queries")
    result.require(not gets, f"GETs failed: {gets[:5]}, by the log {dict(why)}")
    result.require(not unwritten, f"POSTs failed unwritten: {unwritten[:5]}, by the log {dict(why)}")
    result.require(len(raced) <= replaced, f"{len(raced)} POSTs were cut off: {raced[:5]}")
    result.require(p99 <= SLOWER_MAX * p99_before, f"p99 of {p99:.0f} ms, {p99_before:.0f} ms before")
    result.require(len(requests) > RATE * seconds, "there was no load")
    result.require(ended == replaced, f"{ended} of {replaced} old processes have ended")
    named = {one[1]["endpoint"] for one in metrics.samples if "endpoint" in one[1]}
    wanted = {f"{pod.ip}:{port}" for pod in pods}
    result.require(named == wanted, f"metrics name {sorted(named)}, not {sorted(wanted)}")
