"""gRPC by its own client and server through TLS: no call fails, and a pod that dies is UNAVAILABLE."""

import json
import subprocess
import sys
import time

from .harness import REPOSITORY, wait_for_port

# What the client and the server are made of, installed beside what cargo builds.
PACKAGE = "grpcio==1.85.3"
STREAMS = 16

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[listener.secure]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site.crt", key = "site.key" }}]

[pool.app]
endpoints = [{endpoints}]
protocol = "h2"

[[route]]
pool = "app"
"""


def python():
    """An interpreter that has the package."""
    folder = REPOSITORY / "target" / "drills" / PACKAGE.replace("==", "-")
    interpreter = folder / "bin" / "python3"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
        (folder / "installed").touch()
    return interpreter


class Pods:
    """Processes of the package's interpreter."""

    def __init__(self, stage):
        self.stage, self.interpreter = stage, python()
        self.ports = [stage.port() for _ in range(2)]
        self.processes = [self.run("grpc_pod", str(port)) for port in self.ports]
        for port in self.ports:
            wait_for_port(port, 20)

    def run(self, module, argument, **options):
        return self.stage.spawn(
            self.interpreter, "-m", f"drills.{module}", argument, cwd=REPOSITORY / "tests", **options)

    def load(self, proxy, **plan):
        """Clients, and their tally when they have ended."""
        plan |= {"port": proxy.port("secure"), "certificate": str(self.stage.path("site.crt"))}
        return self.run(
            "grpc_load", json.dumps(plan), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def kill(self, number):
        self.processes[number].kill()
        self.processes[number].wait()


def tally(load):
    return json.loads(load.communicate(timeout=60)[0].splitlines()[-1])


def run(stage, result):
    stage.certificate()
    pods = Pods(stage)
    endpoints = ", ".join(f'"127.0.0.1:{port}"' for port in pods.ports)
    config = CONFIG.format(folder=stage.folder, endpoints=endpoints)
    proxy = stage.headwater(stage.write("headwater.toml", config))

    seconds = stage.length(60, 6)
    load = pods.load(proxy, seconds=seconds)
    load.wait(seconds + 60)
    quiet = tally(load)
    done = {name: quiet.pop(name, 0) for name in ("unary", "streams", "messages")}
    connections = int(proxy.metrics().sum("upstream_connections"))

    load = pods.load(proxy, hold=STREAMS)
    load.stdout.readline()
    pods.kill(0)
    # So that every stream has been busy for a while since.
    time.sleep(1)
    after_kill = tally(load)
    pods.kill(1)
    load = pods.load(proxy, seconds=1, both=0)
    without = tally(load)

    result.figure(
        f"{done['unary']} calls and {done['messages']} messages of 200 bytes on {done['streams']} "
        f"streams in {seconds} s over {connections} connections to pods, otherwise "
        f"{quiet or 'nothing'}; one of two pods killed under {STREAMS} streams: {after_kill}; "
        f"both: {without}")
    result.require(min(done.values()) > 0, "nothing was streamed")
    result.require(not quiet, f"of calls with all pods: {quiet}")
    lost = after_kill.pop("lost")
    result.require(not lost, f"{lost} connections of clients were lost")
    result.require(set(after_kill) == {"OK", "UNAVAILABLE"}, f"ends of streams: {after_kill}")
    result.require(set(without) == {"UNAVAILABLE"}, f"without a pod: {without}")
    code = proxy.stop()
    result.require(code == 0, f"exit code {code}")
