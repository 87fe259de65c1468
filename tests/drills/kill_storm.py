"""Upstream processes are killed and started again under load, each in turn: no GET fails.

A response that is cut after its head was forwarded cannot be repeated, and is counted apart. The
bodies are small, so there should be none.
"""

import collections
import json
import time

from .harness import mib
from .load import Clients, H2load, Wrk, add_up
from .origins import Nginx

BODY = "a small body\n" * 20

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "access.log"
access.sample = 0

[listener.plain]
bind = "127.0.0.1:0"

[listener.secure]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site.crt", key = "site.key" }}]

[pool.app]
endpoints = [{endpoints}]

[[route]]
pool = "app"
cache = false
"""


def run(stage, result):
    stage.certificate()
    stage.write("www/index.html", BODY)
    origins = [Nginx(stage, f"origin{n}", stage.path("www")) for n in range(3)]
    endpoints = ", ".join(f'"127.0.0.1:{origin.port}"' for origin in origins)
    config = stage.write("headwater.toml", CONFIG.format(folder=stage.folder, endpoints=endpoints))
    proxy = stage.headwater(config)
    plain, secure = proxy.port("plain"), proxy.port("secure")

    seconds = stage.length(60, 8)
    own = [
        Clients(stage, protocol="h1", port=plain, connections=8, pause=0.005, body=BODY),
        Clients(stage, protocol="h2", tls=True, port=secure, connections=2, pause=0.002, body=BODY),
    ]
    others = {"wrk": Wrk(stage, plain, seconds), "h2load": H2load(stage, secure, seconds)}
    kills = storm(origins, seconds, *stage.length((5, 1), (2, 0.6)))
    tally, notes = add_up(client.finish() for client in own)
    reports = {name: load.finish() for name, load in others.items()}

    metrics, resident = proxy.metrics(), proxy.memory()
    proxy.stop()  # Writes the rest of the log.
    lines = stage.path("access.log").read_text().splitlines()
    logged = collections.Counter(json.loads(line).get("error") for line in lines)

    requests = int(metrics.sum("http_requests_total"))
    errors = int(metrics.sum("http_requests_total", code="5.*"))
    retries = int(metrics.sum("retries_total"))
    failed = tally["failed"] + tally["status"] + tally["wrong"] + tally["refused"]
    failed += tally["closed"] + tally["raced"] + sum(report[1] for report in reports.values())
    result.figure(f"{kills} kills in {seconds} s, {requests} requests "
                  f"(own {tally['sent']}, wrk {reports['wrk'][0]}, h2load {reports['h2load'][0]}), "
                  f"{retries} retries, failed {failed}, cut {tally['cut']}, 5xx {errors}, "
                  f"RSS {mib(resident)}")
    result.require(failed == 0, f"{failed} requests failed: {notes} {reports}, by the log {dict(logged)}")
    result.require(errors == 0, f"{errors} answers of 5xx by the metrics")
    result.require(tally["cut"] == 0, f"small responses were cut: {notes}, by the log {dict(logged)}")
    result.require(tally["sent"] > 100, "there was no load")
    result.require(retries > 0, "no kill met a request: nothing was shown")


def storm(origins, seconds, every, down):
    """Kills an origin each `every` seconds and starts it again `down` later; the number of kills."""
    begin, kills = time.monotonic(), 0
    while (at := (kills + 0.5) * every) + down < seconds:
        time.sleep(max(0, begin + at - time.monotonic()))
        origin = origins[kills % len(origins)]
        origin.kill()
        time.sleep(down)
        origin.start()
        kills += 1
    time.sleep(max(0, begin + seconds - time.monotonic()))
    return kills
