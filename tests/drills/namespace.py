"""A network of its own for a drill, with a place in it where packets vanish."""

import functools
import os
import subprocess
import sys

# Set inside.
MARK = "HEADWATER_DRILL_NETWORK"
# As root in it where the user is not; `ip` needs that.
ENTER = ["unshare", "--net", "--map-root-user"]
# Of a network that is only for documentation (RFC 5737). What goes there leaves by a cable for a
# machine that its other end is not, so the kernel drops it there: no answer, no refusal, no error.
VANISHING = "192.0.2.7"
PREPARE = """\
ip link set lo up
ip link add near type veth peer name far
ip address add 192.0.2.1/24 dev near
ip link set near up
ip link set far up
ip neighbour add 192.0.2.7 lladdr 02:00:00:00:00:07 dev near
"""


def is_inside():
    return MARK in os.environ


@functools.cache
def is_possible():
    """Whether one can be made here, from outside."""
    if is_inside():
        return False
    try:
        probe = subprocess.run([*ENTER, "sh", "-ec", PREPARE], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return probe.returncode == 0


def run(command):
    """A command in a new one; whether it succeeded."""
    script = f'{PREPARE}exec "$@"'
    command = [*ENTER, "sh", "-ec", script, "sh", sys.executable, *map(str, command)]
    with subprocess.Popen(command, env={**os.environ, MARK: "1"}) as process:
        try:
            return process.wait() == 0
        finally:
            process.terminate()
