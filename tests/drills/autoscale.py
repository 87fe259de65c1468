"""From 2 endpoints to 40 and down to 3 within ten seconds, found by SRV records, under load: nothing
fails, and the new ones get their share.

What is to go is taken out of DNS first and ends two seconds later, as orchestrators have it with a
grace period: by then no request goes there any more, and no connection rests.
"""

import time

from .dns import Dns
from .harness import wait_for
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
dns = "srv:_http._tcp.app.test"
dns_loopback = true
balance = "round_robin"
slow_start = "2s"

[[route]]
pool = "app"
cache = false
"""

NAME = "_http._tcp.app.test"
FEW, MANY, LEFT = 2, 40, 3
RATE = 75  # of each of the four loads
# After a change: one lifetime of the answer and its jitter, a lookup, and the workers' look round.
NOTICED_WITHIN = 2.5
# From the new endpoints on until shares are counted.
STARTED = 4
SHARE_TOLERANCE = 0.2


def run(stage, result):
    dns = Dns(ttl=1)
    dns.addresses("node.test", ["127.0.0.1"])
    ports = [stage.port() for _ in range(MANY)]
    pods = Pods(stage, "127.0.0.1", ports[:FEW])

    def announce(ports):
        dns.services(NAME, [(10, 5, port, "node.test") for port in ports])

    announce(ports[:FEW])
    proxy = stage.headwater(stage.write(
        "headwater.toml", CONFIG.format(folder=stage.folder, dns=dns.port)))
    counted, rounds = stage.length((3, 6), (2, 1))
    seconds = rounds * (1 + STARTED + 1.5 + counted + NOTICED_WITHIN + 1)
    load = Mix(stage, proxy.port("h1"), proxy.port("h2"), RATE, seconds)
    shares, lingering = [], 0
    for _ in range(rounds):
        time.sleep(1)
        pods.tell("listen", *ports[FEW:])
        announce(ports)
        wait_for("all endpoints", lambda: endpoints(proxy) == MANY, NOTICED_WITHIN)
        time.sleep(STARTED)
        before = pods.report()
        time.sleep(counted)
        after = pods.report()
        shares += [after[port][0] - before[port][0] for port in ports]
        announce(ports[:LEFT])
        wait_for("the rest", lambda: endpoints(proxy) == LEFT, NOTICED_WITHIN)
        time.sleep(1.2)
        lingering += sum(pods.report()[port][1] for port in ports[LEFT:])
        pods.tell("stop", *ports[LEFT:])
        if FEW < LEFT and rounds > 1:
            announce(ports[:FEW])
            wait_for("the first ones", lambda: endpoints(proxy) == FEW, NOTICED_WITHIN)
            pods.tell("stop", *ports[FEW:LEFT])
    requests = load.finish()
    metrics = proxy.metrics()
    proxy.stop()

    failed = [(path, status) for _, path, status, _ in requests if status != 200]
    equal = sum(shares) / len(shares)
    least, most = min(shares) / equal, max(shares) / equal
    result.figure(
        f"{FEW} to {MANY} to {LEFT} endpoints, {rounds} times, {len(requests)} requests, {len(failed)} "
        f"failed, p50/p99 {quantile(requests, 0.5):.0f}/{quantile(requests, 0.99):.0f} ms, shares "
        f"{STARTED} s after from {least:.0%} to {most:.0%} of equal, "
        f"{int(metrics.sum('retries_total'))} retries, {lingering} connections left behind")
    result.require(not failed, f"requests failed: {failed[:5]}")
    result.require(least >= 1 - SHARE_TOLERANCE and most <= 1 + SHARE_TOLERANCE,
                   f"shares from {least:.2f} to {most:.2f}: {sorted(shares)}")
    result.require(lingering == 0, f"{lingering} connections rest at endpoints that have left")
    result.require(len(requests) > RATE * seconds, "there was no load")


def endpoints(proxy):
    return len([1 for name, *_ in proxy.metrics().samples if name == "headwater_endpoint_healthy"])
