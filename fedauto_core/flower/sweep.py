"""`python sweep.py HOME` takes away what a deployment has made, once its input closes: the deployment has ended.

A process of its own, since one that is killed undoes nothing. It is no child of who has started it for long: whoever
ends that one, with all of its children, does not end this one.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

SPACES = Path("/var/run/netns")
"""Where `ip netns` has them."""
LIMIT_S = 10.0


def of_deployment(home: Path) -> list[psutil.Process]:
    """The processes whose FLWR_HOME is `home`, be their parents gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or belongs to somebody else
            found += [process] * (process.environ().get("FLWR_HOME") == str(home))
    return found


def sweep(home: Path) -> None:
    """End the processes of a deployment, and delete its namespaces, which are named after `home`, and `home`. What
    fails stops none of the others; it is the message of the SystemExit at the end."""
    until = time.monotonic() + LIMIT_S
    while (found := of_deployment(home)) and time.monotonic() < until:  # they may start others meanwhile
        for process in found:
            with suppress(psutil.Error):  # it has ended, or may not be killed, which is told below
                process.kill()
        time.sleep(0.1)
    left = [f"process {process.pid} still runs" for process in found]
    for space in SPACES.glob(f"{home.name}-*"):
        deleted = subprocess.run(["ip", "netns", "delete", space.name], stderr=subprocess.PIPE, text=True)
        left += [f"namespace {space.name}: {deleted.stderr.strip()}"] * (deleted.returncode != 0)
    try:
        shutil.rmtree(home)
    except OSError as error:
        left.append(str(error))
    if left:
        sys.exit("\n".join(left))


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    print("ready", flush=True)
    sys.stdin.read()
    sweep(Path(sys.argv[1]))
