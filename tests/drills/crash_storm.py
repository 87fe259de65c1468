"""All endpoints die at once and come back: quick 503s meanwhile, no storm of retries, and full
service soon after.

Once with active checks and once without, where only requests can find out who is back; in full form
for every time of 1 to 8 s that they are down.
"""

import collections
import json
import time

from .harness import Sampler
from .load import Steady
from .origins import Nginx

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "{log}"

[listener.web]
bind = "127.0.0.1:0"

[pool.app]
endpoints = [{endpoints}]
limits = {{ queue = {queue} }}
{health}

[[route]]
pool = "app"
cache = false
"""

QUEUE = 32
RATE = 300
# Seconds that they are down, in full and in short form.
DOWN, DOWN_SHORT = range(1, 9), (4,)
# Seconds after their return until nothing fails any more: checks repeat every second.
BACK_WITHIN = {"none": 0.3, "health": 3}


def run(stage, result):
    stage.write("www/index.html", "up\n")
    origins = [Nginx(stage, f"origin{n}", stage.path("www")) for n in range(4)]
    for down in stage.length(DOWN, DOWN_SHORT):
        storm(stage, result, origins, "none", "", down)
        storm(stage, result, origins, "health", 'health.path = "/"', down)


def storm(stage, result, origins, checks, health, down):
    name, back_within = f"{checks} {down} s", BACK_WITHIN[checks]
    log = stage.path(f"access-{checks}-{down}.log")
    config = stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, log=log, queue=QUEUE, health=health,
        endpoints=", ".join(f'"127.0.0.1:{origin.port}"' for origin in origins)))
    proxy = stage.headwater(config)
    before, after = stage.length(2, 1), 4
    load = Steady(stage, proxy.port("web"), RATE, before + down + after)
    lengths = [0]
    with Sampler(lambda: lengths.append(int(proxy.metrics().sum("queue_length")))):
        begin = time.monotonic()
        time.sleep(before)
        died = time.monotonic() - begin
        for origin in origins:
            origin.kill()
        time.sleep(begin + before + down - time.monotonic())
        for origin in origins:
            origin.start()
        returned = time.monotonic() - begin
        seen = load.finish()
    queued = max(lengths)
    proxy.stop()  # Writes the rest of the log.

    # By the clock of this process.
    seen = [(due + load.begin - begin, status, took, retry_after) for due, status, took, retry_after in seen]
    failed = [at for at, status, _, _ in seen if status != 200]
    until = max(failed, default=0) - returned
    during = [one for one in seen if died + 0.5 < one[0] < returned]
    statuses = collections.Counter(status for _, status, _, _ in during)
    bare = [one for one in seen if one[1] == 503 and not one[3]]
    slowest = max((took for _, _, took, _ in during), default=0)
    attempts = sum(json.loads(line)["attempts"] for line in log.read_text().splitlines())
    result.figure(
        f"{name}: {len(seen)} requests, {len(failed)} failed, all well {max(until, 0):.2f} s after "
        f"the return; meanwhile {dict(statuses)}, slowest {slowest * 1e3:.0f} ms, "
        f"{attempts / len(seen):.2f} attempts per request, queue up to {queued}")
    result.require(until <= back_within, f"{name}: still failing {until:.1f} s after the return")
    result.require(not bare, f"{name}: {len(bare)} answers of 503 without Retry-After")
    result.require(statuses[503] > 0.9 * len(during), f"{name}: not 503 at once: {statuses}")
    result.require(not any(one[1] == 0 for one in seen), f"{name}: requests without an answer")
    result.require(attempts <= 1.2 * len(seen), f"{name}: {attempts} attempts for {len(seen)}")
    result.require(queued <= QUEUE, f"{name}: {queued} in a queue for {QUEUE}")
    # What was under way when they died may fail.
    early = [at for at in failed if at < died - 0.2]
    result.require(not early, f"{name}: {len(early)} failed before anything was wrong")
