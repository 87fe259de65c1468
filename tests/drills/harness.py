"""What every drill needs: a temporary folder, child processes, headwater itself, its metrics.

Children are ended by their process id, the youngest first, however the drill ends.
"""

import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Of the kernel's default range for outgoing connections, so that none of them can take the port of
# a server that is down for a moment.
BELOW_EPHEMERAL = range(12000, 32000)


class Failed(Exception):
    """What the drill was to show is not so."""


class Result:
    """The figures of a drill, and what it found wrong."""

    def __init__(self):
        self.figures = []
        self.problems = []

    def figure(self, text):
        self.figures.append(text)

    def require(self, condition, problem):
        if not condition:
            self.problems.append(problem)


class Stage:
    """The folder and the processes of one drill."""

    def __init__(self, binary, short):
        self.binary = binary
        self.short = short
        self._stack = contextlib.ExitStack()
        self._ports = set()

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="headwater-drill-"))
        # Servers that drop root must reach it and what is in it.
        os.umask(0o022)
        self.folder.chmod(0o755)
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def length(self, full, short):
        return short if self.short else full

    def path(self, name):
        return self.folder / name

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)
        return path

    def port(self):
        """A port that is free now and that no outgoing connection will take."""
        while True:
            port = random.choice(BELOW_EPHEMERAL)
            if port in self._ports:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self._ports.add(port)
            return port

    def spawn(self, *command, **options):
        """A child process, which the end of the drill ends."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.DEVNULL)
        process = subprocess.Popen([str(part) for part in command], **options)
        self._stack.callback(end, process)
        return process

    def python(self, module, *arguments, **options):
        """A module of this package as a process of its own."""
        command = [sys.executable, "-m", f"drills.{module}", *arguments]
        return self.spawn(*command, cwd=REPOSITORY / "tests", **options)

    def certificate(self, name="site"):
        """A self-signed certificate for localhost: the paths of it and its key."""
        cert, key = self.path(f"{name}.crt"), self.path(f"{name}.key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
            check=True, capture_output=True)
        return cert, key

    def headwater(self, config, **options):
        proxy = Headwater(self, config, **options)
        self._stack.callback(proxy.kill)
        return proxy


class Headwater:
    """A running proxy. Its admin API is on a unix socket, its listeners may be on port 0."""

    def __init__(self, stage, config, environment=None):
        self.socket = stage.path("admin.sock")
        self.log = stage.path("headwater.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(stage.binary), "run", "-c", str(config)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env={**os.environ, **(environment or {})})
        wait_for("headwater to be ready", self._ready, 10)

    @property
    def pid(self):
        return self.process.pid

    def _ready(self):
        if self.process.poll() is not None:
            raise Failed(f"headwater ended at once, {self.process.returncode}:\n{self.tail()}")
        try:
            return self.admin("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def admin(self, method, path, body=None):
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.socket))
            headers = {"Content-Type": "application/json"} if method == "POST" else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def status(self):
        return json.loads(self.admin("GET", "/api/status")[1])

    def port(self, listener):
        """Where a listener of one address really listens."""
        for entry in self.status()["listeners"]:
            if entry["name"] == listener:
                return int(entry["addresses"][0].rpartition(":")[2])
        raise Failed(f"no listener {listener}")

    def metrics(self):
        return Metrics(self.admin("GET", "/metrics")[1].decode())

    def memory(self, field="VmRSS"):
        """A memory figure of the process, in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M)[1]) * 1024

    def forget_peak(self):
        """Makes `VmHWM` begin anew."""
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def stop(self, within=30):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(within)

    def wait(self, within=30):
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise Failed(f"headwater still runs after {within} s:\n{self.tail()}") from None

    def kill(self):
        end(self.process)


class Metrics:
    """Prometheus' text format, as sums over labels."""

    LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.M)
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.samples = [
            (name, dict(self.LABEL.findall(labels)), float(value))
            for name, labels, value in self.LINE.findall(text)
        ]

    def sum(self, metric, **labels):
        """Over all series whose labels match the regular expressions."""
        return sum(
            value
            for name, has, value in self.samples
            if name == f"headwater_{metric}"
            and all(re.fullmatch(want, has.get(label, "")) for label, want in labels.items()))


class Sampler:
    """Calls a function again and again in a thread until the block ends."""

    def __init__(self, function, every=0.02):
        self._function, self._every = function, every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error = None

    def _run(self):
        while not self._end.is_set():
            try:
                self._function()
            except Exception as error:  # Shown by the drill: a thread of its own cannot fail it.
                self.error = error
                return
            self._end.wait(self._every)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._end.set()
        self._thread.join()
        if self.error and exc == (None, None, None):
            raise Failed(f"sampling failed: {self.error!r}")


def end(process):
    """Ends a child and takes its exit code, politely first."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(what, condition, within, every=0.01):
    """The first true value of `condition`."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"waited {within} s for {what}")
        time.sleep(every)


def wait_for_port(port, within=5):
    def open_():
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False

    wait_for(f"port {port}", open_, within)


def mib(size):
    return f"{size / 2**20:.0f} MiB"
