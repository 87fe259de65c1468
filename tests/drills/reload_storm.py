"""The configuration changes again and again under load: no request fails, no connection drops.

Routes, the pool, the certificate and a listener change in turn; every fifth change is a broken
file, which must be reported with its line and column and change nothing. The main file and the
certificate are links through `..data`, which is swapped as Kubernetes does it; the routes are a
file that is replaced or written in place.
"""

import itertools
import os
import socket
import ssl
import time
import urllib.request

from .harness import Failed, mib, wait_for
from .load import Clients, H2load, Wrk, add_up
from .origins import Nginx

BODY = "the same from everywhere\n"

MAIN = """\
include = ["routes.toml"]

[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.plain]
bind = "127.0.0.1:0"

[listener.secure]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site.crt", key = "site.key" }}]
{listener}
[pool.app]
endpoints = [{endpoints}]
balance = "{balance}"
{broken}
"""

ROUTES = """\
[[route]]
pool = "app"
cache = false

[[route]]
paths = ["/version"]
respond = {{ status = 200, body = "{version}" }}
{more}"""

# A line in place of `{broken}` and the column of the problem in it.
BROKEN = [
    ('balanse = "ewma"', 1),
    ("timeouts.connect = 5", 20),
    ("limits = {", None),
    ('retry.attempts = "many"', 18),
]


class Config:
    """The configuration's folder and the changes to it."""

    def __init__(self, stage, ports):
        self.stage, self.ports = stage, ports
        self.folder = stage.path("conf")
        self.folder.mkdir()
        self.generations = itertools.count()
        self.certificates = [stage.certificate(f"cert{n}") for n in range(2)]
        self.certificate = 0
        self.values = {
            "folder": stage.folder, "listener": "", "balance": "ewma", "broken": "",
            "endpoints": self.endpoints(ports)}
        self.write_routes(0)
        self.swap()
        for name in ("headwater.toml", "site.crt", "site.key"):
            (self.folder / name).symlink_to(f"..data/{name}")
        self.main = self.folder / "headwater.toml"

    @staticmethod
    def endpoints(ports):
        return ", ".join(f'"127.0.0.1:{port}"' for port in ports)

    def swap(self):
        """A new folder with the files, and `..data` leading to it in one step."""
        name = f"..{next(self.generations)}"
        folder = self.folder / name
        folder.mkdir()
        (folder / "headwater.toml").write_text(MAIN.format(**self.values))
        self.is_broken = bool(self.values["broken"])
        cert, key = self.certificates[self.certificate]
        (folder / "site.crt").write_bytes(cert.read_bytes())
        (folder / "site.key").write_bytes(key.read_bytes())
        link = self.folder / "..data_tmp"
        link.symlink_to(name)
        link.rename(self.folder / "..data")

    def write_routes(self, version, in_place=False, more=""):
        text = ROUTES.format(version=version, more=more)
        target = self.folder / "routes.toml"
        if in_place:
            target.write_text(text)
        else:
            scratch = self.folder / ".routes.toml.tmp"
            scratch.write_text(text)
            os.rename(scratch, target)

    def routes(self, n):
        more = "".join(
            f'\n[[route]]\npaths = ["/extra/{i}"]\nrespond = {{ status = 204 }}\n'
            for i in range(n % 7))
        if self.is_broken:
            self.swap()
        self.write_routes(n, in_place=n % 2 == 0, more=more)

    def pool(self, n):
        # One of them leaves for a while, and the others change places.
        ports = self.ports[n % 3:] + self.ports[: n % 3]
        self.values["endpoints"] = self.endpoints(ports[: 2 + n % 2])
        self.values["balance"] = ("round_robin", "least_requests", "ewma")[n % 3]
        self.swap()

    def listener(self, n):
        self.values["listener"] = "" if self.values["listener"] else (
            f'\n[listener.extra{n}]\nbind = "127.0.0.1:0"\n')
        self.swap()

    def change_certificate(self, _):
        self.certificate = 1 - self.certificate
        self.swap()

    def break_it(self, n):
        """Where the problem must be reported: a text, that has the column if it is known."""
        line, column = BROKEN[n // 5 % len(BROKEN)]
        text = MAIN.format(**{**self.values, "broken": line})
        number = text.splitlines().index(line) + 1
        self.values["broken"] = line
        self.swap()
        self.values["broken"] = ""
        return f"headwater.toml:{number}:{column}:" if column else f"headwater.toml:{number}"


def run(stage, result):
    stage.write("www/index.html", BODY)
    origins = [Nginx(stage, f"origin{n}", stage.path("www")) for n in range(3)]
    config = Config(stage, [origin.port for origin in origins])
    proxy = stage.headwater(config.main)
    plain, secure = proxy.port("plain"), proxy.port("secure")

    changes, seconds = stage.length((100, 60), (15, 9))
    own = [
        Clients(stage, protocol="h1", port=plain, connections=6, pause=0.005, body=BODY),
        Clients(stage, protocol="h1", tls=True, port=secure, connections=4, pause=0.005, body=BODY),
        Clients(stage, protocol="h2", tls=True, port=secure, connections=2, pause=0.003, body=BODY),
        # New connections all the time, with each certificate.
        Clients(stage, protocol="h1", tls=True, port=secure, connections=1, pause=0.02,
                per_connection=1, body=BODY),
    ]
    others = {"wrk": Wrk(stage, plain, seconds), "h2load": H2load(stage, secure, seconds)}
    broken, slowest = storm(proxy, config, changes, seconds, plain, secure)
    tally, notes = add_up(client.finish() for client in own)
    reports = {name: load.finish() for name, load in others.items()}

    metrics = proxy.metrics()
    reloads = [int(metrics.sum("config_reloads_total", result=kind))
               for kind in ("success", "failure")]
    # wrk leaves in the middle of its last requests: those are 499, and no answers.
    errors = int(metrics.sum("http_requests_total", code="(?!499)[45].*"))
    failed = sum(tally[bad] for bad in ("failed", "cut", "status", "wrong"))
    failed += sum(report[1] for report in reports.values())
    dropped = sum(tally[bad] for bad in ("closed", "told_to_close", "refused", "raced",
                                         "handshakes_failed"))
    result.figure(
        f"{changes} changes in {seconds} s, {reloads[0]} taken over, {broken} broken ones reported "
        f"(metric {reloads[1]}), slowest seen after {slowest:.2f} s; "
        f"{int(metrics.sum('http_requests_total'))} requests (own {tally['sent']}, "
        f"wrk {reports['wrk'][0]}, h2load {reports['h2load'][0]}), failed {failed}, "
        f"connections dropped {dropped}, RSS {mib(proxy.memory())}")
    result.require(failed == 0, f"{failed} requests failed: {notes} {reports}")
    result.require(dropped == 0, f"{dropped} connections were dropped: {dict(tally)} {notes}")
    result.require(errors == 0, f"{errors} answers of 4xx or 5xx by the metrics")
    result.require(reloads == [changes - broken, broken], f"reloads by the metrics: {reloads}")
    result.require(tally["sent"] > 100, "there was no load")


def storm(proxy, config, changes, seconds, plain, secure):
    """Makes the changes and waits until each shows: broken ones, and the longest wait."""
    begin, broken, slowest, generation = time.monotonic(), 0, 0, 1
    good = itertools.cycle((config.routes, config.pool, config.change_certificate, config.listener))
    for n in range(1, changes + 1):
        time.sleep(max(0, begin + n * seconds / (changes + 2) - time.monotonic()))
        changed = time.monotonic()
        if n % 5 == 0:
            place = config.break_it(n)
            broken += 1
            wait_for(f"a report of {place}, not {proxy.status()['last_reload']}",
                     lambda: is_refused(proxy.status(), place, broken, proxy), 5)
            if proxy.status()["generation"] != generation:
                raise Failed("a broken configuration changed the generation")
        else:
            change = next(good)
            change(n)
            generation += 1
            wait_for(f"change {n}, {change.__name__}: {proxy.status()}",
                     lambda: proxy.status()["generation"] == generation, 5)
            check(config, change, n, plain, secure)
        slowest = max(slowest, time.monotonic() - changed)
    time.sleep(max(0, begin + seconds - time.monotonic()))
    return broken, slowest


def is_refused(status, place, number, proxy):
    last = status["last_reload"]
    return (last and not last["ok"] and place in last["error"]
            and proxy.metrics().sum("config_reloads_total", result="failure") == number)


def check(config, change, n, plain, secure):
    """Whether what has changed is what clients get."""
    if change == config.routes:
        with urllib.request.urlopen(f"http://127.0.0.1:{plain}/version", timeout=5) as answer:
            if answer.read() != str(n).encode():
                raise Failed(f"change {n}: the old routes answer")
    elif change == config.change_certificate:
        pem = config.certificates[config.certificate][0].read_text()
        context = ssl.create_default_context(cadata=pem)
        with socket.create_connection(("127.0.0.1", secure), 5) as raw:
            try:
                context.wrap_socket(raw, server_hostname="localhost").close()
            except ssl.SSLError as error:
                raise Failed(f"change {n}: the old certificate is served: {error}") from None
