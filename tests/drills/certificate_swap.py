"""Certificates change, and lie half written, while hundreds of handshakes run in each second."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time

from .harness import Failed, wait_for

# Handshakes in each second, over all threads.
RATE = 500
THREADS = 8
SWAPS, SWAPS_SHORT = 20, 3
HALF_WRITTEN, HALF_WRITTEN_SHORT = 5, 2  # seconds
HOST = "localhost"

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[listener.web]
bind = "127.0.0.1:0"
tls.directory = "certs"

[[route]]
respond = {{ status = 200, body = "hello" }}
"""


class Shaker:
    """Full handshakes at a steady rate, each judged by the certificate that it saw."""

    def __init__(self, port, folder):
        self.port = port
        self.context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
        self.end = threading.Event()
        self.lock = threading.Lock()
        self.done, self.seen, self.failures = 0, set(), []

    def shake(self):
        """One handshake: the serial number of the certificate."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as raw:
            with self.context.wrap_socket(raw, server_hostname=HOST) as tls:
                return tls.getpeercert()["serialNumber"]

    def run(self):
        due = time.monotonic()
        while not self.end.is_set():
            try:
                serial, failure = self.shake(), None
            except OSError as error:  # That of TLS is one, too.
                serial, failure = None, repr(error)
            with self.lock:
                self.done += 1
                if failure:
                    self.failures.append(failure)
                else:
                    self.seen.add(serial)
            due = max(due + THREADS / RATE, time.monotonic() - 1)
            self.end.wait(max(0, due - time.monotonic()))


def shake_until_told(port, folder):
    """Handshakes until standard input ends; then what became of them, as JSON."""
    shaker, began = Shaker(port, folder), time.monotonic()
    threads = [threading.Thread(target=shaker.run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    shaker.end.set()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    print(json.dumps({"done": shaker.done, "seconds": seconds, "seen": len(shaker.seen),
                      "failed": len(shaker.failures), "failures": shaker.failures[:3]}))


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Issuer:
    """An authority that writes pairs for the host."""

    KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

    def __init__(self, stage):
        self.stage = stage
        self.ca, self.ca_key = stage.path("ca.pem"), stage.path("ca.key")
        openssl("req", "-x509", *self.KEY, "-days", "9", "-subj", "/CN=Drill",
                "-addext", "keyUsage=critical,keyCertSign", "-keyout", self.ca_key, "-out", self.ca)
        self.extensions = stage.write("leaf.cnf", f"subjectAltName=DNS:{HOST}\n")
        self.count = 0

    def pair(self):
        """A new pair: the paths of its certificate and its key."""
        self.count += 1
        cert, key, request = (self.stage.path(f"{self.count}.{end}") for end in ("crt", "key", "csr"))
        openssl("req", *self.KEY, "-subj", f"/CN={HOST}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key,
                "-set_serial", self.count, "-days", "9", "-extfile", self.extensions, "-out", cert)
        return cert, key


def served(shaker, serial):
    """Waits until new connections see the certificate of this number."""
    wait_for(f"certificate {serial} to be served", lambda: int(shaker.shake(), 16) == serial, 10)


def run(stage, result):
    issuer = Issuer(stage)
    folder = stage.path("certs")
    folder.mkdir()

    def place(pair):
        for path, name in zip(pair, ("site.crt", "site.key")):
            os.replace(path, folder / name)

    place(issuer.pair())
    proxy = stage.headwater(stage.write("headwater.toml", CONFIG.format(folder=stage.folder)))
    shaker = Shaker(proxy.port("web"), stage.folder)
    load = stage.python("certificate_swap", str(shaker.port), str(stage.folder),
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    swaps = stage.length(SWAPS, SWAPS_SHORT)
    for _ in range(swaps):
        place(issuer.pair())
        served(shaker, issuer.count)
    # The new certificate without its key, then cut off, then whole.
    before, (cert, key) = issuer.count, issuer.pair()
    half = stage.length(HALF_WRITTEN, HALF_WRITTEN_SHORT)
    whole = cert.read_bytes()
    os.replace(cert, folder / "site.crt")
    time.sleep(half / 2)
    (folder / "site.crt").write_bytes(whole[:len(whole) // 2])
    time.sleep(half / 2)
    problems = proxy.metrics().sum("tls_certificate_problems")
    result.require(problems == 1, f"{problems:.0f} problems are told of a half-written pair")
    result.require(int(shaker.shake(), 16) == before, "a half-written pair is served")
    (folder / "site.crt").write_bytes(whole)
    os.replace(key, folder / "site.key")
    served(shaker, issuer.count)
    told, _ = load.communicate(timeout=30)
    tally = json.loads(told or "{}")
    if not tally:
        raise Failed("the load told nothing")
    failures = proxy.metrics().sum("tls_handshake_failures_total")
    rate = tally["done"] / tally["seconds"]
    result.figure(f"{swaps} swaps and {half} s of a half-written pair under {rate:.0f} handshakes/s: "
                  f"{tally['done']} made, {tally['seen']} certificates seen, {tally['failed']} failed")
    result.require(tally["failed"] == 0, f"handshakes failed: {tally['failures']}")
    result.require(failures == 0, f"the metrics tell of {failures:.0f} failures")
    result.require(rate >= RATE * 0.9 or stage.short, f"only {rate:.0f} handshakes/s")
    result.require(tally["seen"] >= swaps, f"only {tally['seen']} certificates were seen")


if __name__ == "__main__":
    shake_until_told(int(sys.argv[1]), sys.argv[2])
