"""An endpoint that drips a byte a second and one whose SYNs are dropped, among good ones: the
clients of the others notice nothing.

Both share a pool with four good endpoints, which also have a pool of their own, for comparison.
The drill has a network of its own, a part of which drops all packets. Where none can be made, a
listen backlog that is full drops the SYNs.
"""

import contextlib
import socket

from . import namespace
from .harness import wait_for_port
from .load import Steady
from .origins import python_origin

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.web]
bind = "127.0.0.1:0"

[pool.good]
endpoints = [{good}]

[pool.mixed]
endpoints = [{good}, "127.0.0.1:{drip}", "{hole}"]
timeouts.first_byte = "2s"

[[route]]
paths = ["/slow/*"]
pool = "good"
cache = false

[[route]]
paths = ["/slow/5/mixed"]
pool = "mixed"
cache = false
"""

OWN_NETWORK = True
RATE = 150


def run(stage, result):
    good = ", ".join(f'"127.0.0.1:{python_origin(stage)}"' for _ in range(4))
    drip = stage.port()
    stage.python("origins", str(drip), "drip")
    wait_for_port(drip)
    with black_hole() as hole:
        config = stage.write("headwater.toml", CONFIG.format(
            folder=stage.folder, good=good, drip=drip, hole=hole))
        proxy = stage.headwater(config)
        port, seconds = proxy.port("web"), stage.length(40, 8)
        alone = quantiles(Steady(stage, port, RATE, stage.length(20, 4), "/slow/5/x").finish())
        both = [Steady(stage, port, RATE, seconds, f"/slow/5/{kind}") for kind in ("x", "mixed")]
        beside, mixed = (load.finish() for load in both)
        metrics = proxy.metrics()

    beside_good = quantiles(beside)
    touched = [one for one in mixed if one[1] != 200 or one[2] > 0.5]
    share = len(touched) / len(mixed)
    result.figure(
        f"black hole {hole}; good alone p50/p99 {alone}, beside the bad {beside_good}, {len(mixed)} requests to all "
        f"six: p50/p99 {quantiles(mixed)}, {len(touched)} met a bad one ({share:.2%}), "
        f"{int(metrics.sum('retries_total'))} retries")
    failed = [one for one in beside if one[1] != 200]
    result.require(not failed, f"{len(failed)} requests to the good pool failed")
    result.require(beside_good[1] <= alone[1] + 40, "the good pool got slower")
    result.require(share <= 0.02, f"{share:.1%} of the requests to all met a bad one: {touched[:5]}")
    late = [one for one in touched if one[0] > seconds / 2]
    result.require(len(late) <= 0.005 * len(mixed), f"{len(late)} of them late: {late[:5]}")


def quantiles(seen):
    """Median and 99th percentile in milliseconds."""
    times = sorted(took for _, _, took, _ in seen)
    return tuple(round(times[int(share * (len(times) - 1))] * 1e3) for share in (0.5, 0.99))


@contextlib.contextmanager
def black_hole():
    """The address of an endpoint that takes no connections and refuses none."""
    if namespace.is_inside():
        yield f"{namespace.VANISHING}:80"
        return
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
